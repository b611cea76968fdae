//! What a writer writes into: the file of one disk, or nothing. No rule about what may be written lives here.
use std::{
    fs::File,
    io::{self, IoSlice},
};

use bytes::Buf as _;
use nix::{errno::Errno, sys::uio::pwritev};

use crate::connect::pieces::Pieces;

/// Of one system call (Linux UIO_MAXIOV).
const MOST_SLICES: usize = 1024;

#[derive(Debug)]
pub enum Image {
    File(File),
    /// What was believed is let go.
    Nowhere,
}

impl Image {
    pub(super) fn write(&self, content: Pieces, offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => write_all(file, content, offset),
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

fn write_all(file: &File, mut content: Pieces, mut offset: u64) -> io::Result<()> {
    while !content.is_empty() {
        let slices: Vec<_> = content.iter().take(MOST_SLICES).map(|piece| IoSlice::new(piece)).collect();
        let at = i64::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        match pwritev(file, &slices, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                content.advance(written);
                offset += written as u64;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
