//! Writes OVA archives: descriptor, manifest of hashes, signature, disks. Knows nothing of backups, of the appliance or of vSphere's API;
//! those say what the machine is. Sources: DMTF DSP0243 1.1 (OVF) and VMware's extensions of it.
//!
//! ```text
//! FILE.N.part: NAME.ovf (room)  NAME.mf (room)  [NAME.cert (room)]  NAME-disk1.vmdk …    streamed, hashed, sizes known at the end
//!              └───────────── filled in last ──────────────────┘                         synced, renamed to FILE
//! ```
//! Nothing is written twice: what comes first in the archive is known last, but its size is known before, so room is kept for it.
#![forbid(unsafe_code)]

mod archive;
mod descriptor;
mod disk;
mod package;
mod product;
mod sign;
mod xml;

use std::io;

pub use self::{
    archive::{Archive, Entry, Slot, entry_header},
    descriptor::{Adapter, Bus, Class, DiskFile, Machine, Place, descriptor},
    disk::DiskWriter,
    package::{Package, disk_name},
    product::{Product, Property, PropertyKind},
    sign::Signer,
};

/// Why an archive can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Input that can't be used: a file that exists, a disk that is no disk, a key that is none.
    #[error("{0}")]
    Refused(String),
    #[error("{path}: {error}")]
    Io { path: String, error: io::Error },
    /// A defect of the caller or of this crate.
    #[error("{0}")]
    Internal(String),
}
