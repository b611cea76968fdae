//! pwritev, one write after the other.
use std::{
    fs::File,
    io::{self, IoSlice},
};

use nix::{errno::Errno, sys::uio::pwritev};

use super::{Piece, WriteError};

#[derive(Debug)]
pub(super) struct Plain {
    file: File,
    acknowledged: u64,
}

impl Plain {
    pub(super) fn new(file: File) -> Self {
        Self { file, acknowledged: 0 }
    }

    pub(super) fn write(&mut self, mut piece: Piece) -> Result<(), WriteError> {
        while !piece.chunks.is_empty() {
            let written = self.once(&piece).map_err(|source| WriteError::Write { offset: piece.offset, source })?;
            self.acknowledged += written as u64;
            piece.advance(written);
        }
        Ok(())
    }

    fn once(&self, piece: &Piece) -> io::Result<usize> {
        let at = i64::try_from(piece.offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let slices: Vec<_> = piece.chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        loop {
            match pwritev(&self.file, &slices, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => return Ok(written),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub(super) fn drain(&self) -> (&File, u64) {
        (&self.file, self.acknowledged)
    }
}
