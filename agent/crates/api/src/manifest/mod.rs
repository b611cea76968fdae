//! The manifest that lies beside the images of one backup: which disks, which bytes, which hashes, and the backup that it
//! builds on. Pure data and pure checks; reading and writing files is the client's business.
//!
//! ```text
//! incremental ─ base {file, id = BLAKE3 of that file's bytes} ─▶ incremental ─ base ─▶ … ─▶ a backup without base
//!   a disk:  data │ zero │ base      every byte of [0, capacity) is in exactly one of the three
//! ```
mod disk;
mod flaw;
mod hash;
mod vm;

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};

pub use self::{
    disk::{Content, DiskRecord, Extent, PartRecord, Scope},
    flaw::Flaw,
    hash::Digest,
    vm::{AdapterRecord, ControllerKind, ControllerRecord, Firmware, Nvram, UnitRecord, VmConfig},
};

/// Value of [`Manifest::format`]; another number is another, incompatible format.
pub const FORMAT: &str = "hotadd-manifest/2";
/// Before there were bases: every disk stands alone. Still read, not written any more.
pub const FORMAT_1: &str = "hotadd-manifest/1";

/// One backup of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    /// RFC 3339.
    pub created: String,
    pub agent_version: String,
    /// Of the client that wrote this; empty in format 1.
    #[serde(default)]
    pub client_version: String,
    pub job_id: String,
    pub vm_moref: String,
    pub vm_name: String,
    pub snapshot: SnapshotRecord,
    /// The backup that holds what this one does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRecord>,
    /// This backup was composed from the chain under the manifest with this id, not read from a VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthesized_from: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_config: Option<VmConfig>,
    pub disks: Vec<DiskRecord>,
}

/// The manifest that an incremental builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Path relative to the folder of the manifest that names it.
    pub file: String,
    /// BLAKE3 of all bytes of that file.
    pub id: Digest,
    pub job_id: String,
}

/// Consistency that was asked and reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    pub moref: String,
    /// `application` | `filesystem` | `crash`.
    pub consistency: String,
    /// The fault that forced a lower level than asked, as `code: message`.
    pub fault: Option<String>,
}

impl Manifest {
    /// Checks everything that can be checked without the images and the base.
    ///
    /// # Errors
    /// The first [`Flaw`] found.
    pub fn check(&self) -> Result<(), Flaw> {
        let builds = |disk: &&DiskRecord| disk.scope == Scope::Changed;
        let alone = self.base.is_none() && self.disks.iter().all(|disk| disk.scope == Scope::Whole);
        if self.format != FORMAT && !(self.format == FORMAT_1 && alone) {
            return Err(Flaw::Format(self.format.clone()));
        }
        match (&self.base, self.disks.iter().find(builds)) {
            (None, Some(disk)) => return Err(Flaw::NoBase { disk: disk.device_key }),
            (Some(base), _)
                if base.file.is_empty() || base.file.contains('\0') || Path::new(&base.file).is_absolute() =>
            {
                return Err(Flaw::BasePath(base.file.clone()));
            }
            _ => {}
        }
        let (mut keys, mut files) = (BTreeSet::new(), BTreeSet::new());
        for disk in &self.disks {
            if !keys.insert(disk.device_key) || !files.insert(&disk.file) {
                return Err(Flaw::Twice { disk: disk.device_key, file: disk.file.clone() });
            }
            disk.check()?;
        }
        Ok(())
    }

    #[must_use]
    pub fn disk(&self, key: i32) -> Option<&DiskRecord> {
        self.disks.iter().find(|disk| disk.device_key == key)
    }
}

#[cfg(test)]
mod tests;
