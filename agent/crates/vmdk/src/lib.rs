//! Writes streamOptimized VMDK, the format in which an OVA carries its disks. Knows nothing of backups, files or vSphere;
//! the decoder of what ESXi sends lives in the agent. Source: VMware, *Virtual Disk Format 5.0*.
//!
//! ```text
//! header, descriptor │ grain … grain, table │ grain … grain, table │ … │ directory │ footer │ end of stream
//!                      one table for 512 grains of 64 KiB; a grain of zeros and a table without grains are left out
//! ```
#![forbid(unsafe_code)]

mod format;
mod writer;

use std::io;

pub use self::{
    format::{GRAIN, Head},
    writer::{Writer, Written},
};

/// Why a disk can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("a disk of {0} bytes: not a multiple of 512, or nothing")]
    Capacity(u64),
    #[error("{length} bytes at {offset}: not whole grains, not on the disk, or behind what was written")]
    Place { offset: u64, length: usize },
    /// Tables hold 32 bits of a sector number.
    #[error("the compressed disk would be larger than 2 TiB")]
    Large,
    #[error("{0}")]
    Io(#[from] io::Error),
}
