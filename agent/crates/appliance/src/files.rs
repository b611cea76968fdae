//! Files and folders that outlive a power cut: whole or not at all. Knows nothing of what is in them.
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// What is not there need not be removed.
pub(crate) fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Its names are on the disk: those that came and those that went.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// A folder that only its owner enters, if it is not there yet.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    sync(path.parent().unwrap_or(Path::new("/")))
}

/// A file that is there whole or not at all, after a power cut too.
pub(crate) fn install(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".part");
    let new = PathBuf::from(new);
    fs::remove_file(&new).or_else(absent_is_fine)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync(folder)
}
