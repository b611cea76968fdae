//! The folder of one nbdkit under the runtime folder: its socket and VDDK's configuration file. 0700, gone with its value;
//! what a killed agent leaves is swept at the next start.
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use uuid::Uuid;

const PREFIX: &str = "vddk-";
/// Bytes of a socket's path (unix(7), sun_path with its NUL).
const SOCKET_MOST: usize = 107;

#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
}

impl Place {
    pub(super) fn make(runtime_dir: &Path, tmp_dir: &Path, config: &str) -> io::Result<Self> {
        let folder = runtime_dir.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
        let place = Self { folder };
        if place.socket().as_os_str().len() > SOCKET_MOST {
            return Err(io::Error::other(format!("{} is too long for a socket", place.socket().display())));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(tmp_dir)?;
        DirBuilder::new().mode(0o700).create(&place.folder)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(place.config())?;
        file.write_all(config.as_bytes())?;
        Ok(place)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("vddk.conf")
    }

    /// A killed nbdkit leaves its socket, on which another can't listen.
    pub(super) fn clear_socket(&self) -> io::Result<()> {
        match fs::remove_file(self.socket()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %self.folder.display(), %error, "the folder of an nbdkit stays");
            }
            _ => {}
        }
    }
}

/// Removes the folders that an earlier run left. Only while no nbdkit of ours runs: before the port opens.
///
/// # Errors
/// Of the file system; a runtime folder that is not there holds nothing.
pub fn sweep(runtime_dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(runtime_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let ours =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(|id| Uuid::try_parse(id).is_ok());
        if ours && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_place_is_private_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::make(dir.path(), &dir.path().join("a/tmp"), "text").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&place.folder), mode(&place.config()), mode(&dir.path().join("a/tmp"))),
            (0o700, 0o600, 0o700)
        );
        fs::write(place.socket(), "").unwrap();
        place.clear_socket().unwrap();
        place.clear_socket().unwrap();
        let folder = place.folder.clone();
        drop(place);
        assert!(!folder.exists());
        let long = dir.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        assert!(Place::make(&long, dir.path(), "").is_err());
        assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_takes_our_folders_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::mem::forget(Place::make(dir.path(), dir.path(), "").unwrap());
        for other in ["vddk-", "vddk-notes", "other"] {
            fs::create_dir(dir.path().join(other)).unwrap();
        }
        sweep(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        sweep(&dir.path().join("none")).unwrap();
    }
}
