//! What a writer writes into: the file of one disk, or nothing. No rule about what may be written lives here.
use std::{fs::File, io, os::unix::fs::FileExt as _};

#[derive(Debug)]
pub enum Image {
    File(File),
    /// What was believed is let go.
    Nowhere,
}

impl Image {
    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(data, offset),
            Self::Nowhere => Ok(()),
        }
    }

    /// Delayed allocation tells of a full file system only here.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::Nowhere => Ok(()),
        }
    }
}
