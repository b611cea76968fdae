//! What a block device (or a regular file standing in for one) is: size, logical block, read-only flag; and how it is
//! opened for backup: O_RDONLY | O_DIRECT, never anything that could write.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

/// Sector size that `/sys/block/*/size` and LBAs in messages use.
pub const SECTOR: u64 = 512;

mod ioctl {
    nix::ioctl_read!(get_size64, 0x12, 114, u64); // BLKGETSIZE64; the kernel declares size_t and writes 8 bytes
    nix::ioctl_read_bad!(get_sector_size, 0x1268, libc::c_int); // BLKSSZGET
    nix::ioctl_read_bad!(get_read_only, 0x125e, libc::c_int); // BLKROGET
}

/// An open source of blocks with the facts that reading needs.
#[derive(Debug)]
pub struct Device {
    file: File,
    size: u64,
    logical_block: u32,
    block_device: bool,
}

impl Device {
    /// Opens read-only and direct; a regular file on a file system without O_DIRECT is opened buffered.
    ///
    /// # Errors
    /// Of `open` and the ioctls, unchanged.
    pub fn open(path: &Path) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path);
        let file = match direct {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => OpenOptions::new().read(true).open(path)?,
            other => other?,
        };
        Self::from_file(file)
    }

    /// Takes over a file that somebody else opened.
    ///
    /// # Errors
    /// Of `fstat` and the ioctls, unchanged.
    pub fn from_file(file: File) -> io::Result<Self> {
        let meta = file.metadata()?;
        if !meta.file_type().is_block_device() {
            return Ok(Self { size: meta.len(), file, logical_block: 512, block_device: false });
        }
        let size = block_size64(&file)?;
        let mut sector: libc::c_int = 0;
        // SAFETY: the fd is open and BLKSSZGET writes one int.
        unsafe { ioctl::get_sector_size(file.as_raw_fd(), &raw mut sector) }?;
        let logical_block = u32::try_from(sector).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { file, size, logical_block, block_device: true })
    }

    /// Size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Unit of offsets and lengths in bytes.
    #[must_use]
    pub fn logical_block(&self) -> u32 {
        self.logical_block
    }

    /// Whether the kernel refuses writes to it (BLKROGET); a regular file is never read-only in this sense.
    ///
    /// # Errors
    /// Of the ioctl, unchanged.
    pub fn is_read_only(&self) -> io::Result<bool> {
        if !self.block_device {
            return Ok(false);
        }
        let mut flag: libc::c_int = 0;
        // SAFETY: the fd is open and BLKROGET writes one int.
        unsafe { ioctl::get_read_only(self.file.as_raw_fd(), &raw mut flag) }?;
        Ok(flag != 0)
    }

    /// Whether the device still is what was opened. A disk that was pulled keeps its descriptor, answers reads with a
    /// clean end of file and reports size 0 (measured on 5.10, 6.1 and 6.12).
    #[must_use]
    pub fn is_present(&self) -> bool {
        if self.block_device {
            block_size64(&self.file).is_ok_and(|size| size == self.size)
        } else {
            self.file.metadata().is_ok_and(|meta| meta.len() == self.size)
        }
    }

    /// Read commands that this device, or the disk that it is a part of, was sent since it appeared (kernel,
    /// Documentation/block/stat.rst: read I/Os); `None` for a file, or where the kernel does not tell.
    #[must_use]
    pub fn commands(&self) -> Option<u64> {
        if !self.block_device {
            return None;
        }
        let number = self.file.metadata().ok()?.rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        stat.split_whitespace().next()?.parse().ok()
    }

    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn block_size64(file: &File) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: the fd is open and BLKGETSIZE64 writes one u64.
    unsafe { ioctl::get_size64(file.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}
