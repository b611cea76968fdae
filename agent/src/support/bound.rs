//! How long things may take and how much is read of a file: the only way in which the bundle waits for the host.
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

/// One part. sysfs and udev answer in milliseconds; what takes longer hangs, and the next part is worth more.
pub(super) const PART: Duration = Duration::from_secs(20);
/// A few MiB to a disk that is slow, or a share.
pub(super) const WRITING: Duration = Duration::from_secs(60);

/// Does what may block on a thread of its own and waits so long for it. A thread that hangs is left behind; it ends with the process.
///
/// # Errors
/// Of the work, or that it did not end.
pub(super) async fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match timeout(patience, spawn_blocking(work)).await {
        Ok(Ok(got)) => got,
        Ok(Err(_)) => Err("this program met a bug".to_owned()),
        Err(_) => Err(format!("no end within {} s", patience.as_secs())),
    }
}

/// The first bytes of a file, if it is one: a pipe or a device at its place is not waited for.
///
/// # Errors
/// Of the file, or `InvalidInput` for what is none.
pub(super) fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file: File = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same as text; what is no UTF-8 is replaced.
///
/// # Errors
/// As [`bytes`].
pub(super) fn text(path: &Path, most: u64) -> io::Result<String> {
    bytes(path, most).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_left_behind() {
        let (end, never) = mpsc::channel::<()>();
        let why = within(Duration::from_millis(1), move || never.recv().map_err(|e| e.to_string())).await;
        assert!(why.unwrap_err().starts_with("no end within"));
        drop(end);
        assert_eq!(within(PART, || Ok(1)).await, Ok(1));
    }

    #[test]
    fn a_pipe_is_no_file_and_a_long_file_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, long) = (dir.path().join("pipe"), dir.path().join("long"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(bytes(&pipe, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(bytes(dir.path(), 10).is_err());
        std::fs::write(&long, "0123456789").unwrap();
        assert_eq!(text(&long, 4).unwrap(), "0123");
    }
}
