//! The file of the bundle while it is made: new, for its owner only, and gone again unless it was finished.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// See the module.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    path: PathBuf,
    finished: bool,
}

impl NewFile {
    /// A name that is taken is refused, and so is a link of that name, wherever it leads (open(2), `O_EXCL`).
    ///
    /// # Errors
    /// When the name is taken, or can't be made.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file, path: path.to_owned(), finished: false })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Durable, and there to stay.
    ///
    /// # Errors
    /// Of the flush; then it is gone.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        self.finished = true;
        Ok(())
    }

    /// Whether the name still is this file: somebody may have moved it and put another there.
    fn is_there(&self) -> bool {
        let there = fs::symlink_metadata(&self.path).map(|of| (of.dev(), of.ino()));
        matches!((there, self.file.metadata()), (Ok(there), Ok(of)) if there == (of.dev(), of.ino()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished && self.is_there() {
            // Half a bundle is none; the error that brought us here is the one to tell.
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn no_file_is_overwritten_no_link_followed_and_nobody_else_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        NewFile::create(&at("a")).unwrap().finish().unwrap();
        assert_eq!(fs::metadata(at("a")).unwrap().permissions().mode() & 0o7777, 0o600);
        symlink(at("nowhere"), at("dangling")).unwrap();
        symlink(at("a"), at("link")).unwrap();
        for taken in ["a", "dangling", "link"] {
            assert_eq!(NewFile::create(&at(taken)).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{taken}");
        }
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn what_was_not_finished_goes_and_what_another_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        drop(NewFile::create(&path).unwrap());
        assert!(!path.exists());
        let mine = NewFile::create(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(mine);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
    }
}
