//! The manifest that lies beside the images of one backup: which disks, which bytes, which hashes. Pure data and pure
//! checks; reading and writing files is the client's business.
//!
//! Coverage is explicit: the data blocks and the zero runs of a disk together must cover `[0, capacity)` exactly once.
use serde::{Deserialize, Serialize};

/// Value of [`Manifest::format`]; another number is another, incompatible format.
pub const FORMAT: &str = "hotadd-manifest/1";

/// One backup of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    /// RFC 3339.
    pub created: String,
    pub agent_version: String,
    pub job_id: String,
    pub vm_moref: String,
    pub vm_name: String,
    pub snapshot: SnapshotRecord,
    pub disks: Vec<DiskRecord>,
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

/// One disk image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// File name of the raw image, relative to the manifest.
    pub file: String,
    /// VirtualDevice.key on the target.
    pub device_key: i32,
    pub label: String,
    /// Datastore path of the backing that was read.
    pub backing: String,
    /// backing.uuid as 32 hex digits; empty if unknown.
    pub uuid: String,
    /// backing.changeId; empty without changed block tracking.
    pub change_id: String,
    pub capacity_bytes: u64,
    pub block_bytes: u32,
    /// Of several the last.
    pub transport: String,
    pub engine: String,
    /// Which way each range came, in order of offset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartRecord>,
    /// Blocks with content: offset in bytes (a multiple of `block_bytes`) and BLAKE3 as 64 hex digits.
    pub data: Vec<(u64, String)>,
    /// Runs of zero bytes: offset and length in bytes.
    pub zero: Vec<(u64, u64)>,
    /// BLAKE3 over the coverage in order of offset; see [`DiskRecord::compute_root`].
    pub root: String,
}

/// A range of a disk and the way that it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Bytes.
    pub offset: u64,
    pub length: u64,
    /// `hotadd` | `nbd`.
    pub transport: String,
    pub engine: String,
}

/// Why a manifest can't be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("format {0:?} is not {FORMAT:?}")]
    Format(String),
    #[error("disk {disk}: block size {block} is not a power of two between 64 KiB and 4 MiB")]
    BlockSize { disk: i32, block: u32 },
    #[error("disk {disk}: byte {offset} is covered twice or out of order")]
    Overlap { disk: i32, offset: u64 },
    #[error("disk {disk}: byte {offset} is not covered")]
    Gap { disk: i32, offset: u64 },
    #[error("disk {disk}: the hash of the block at {offset} is not 64 hex digits")]
    Hash { disk: i32, offset: u64 },
    #[error("disk {disk}: the data block at {offset} does not begin on a block")]
    Grid { disk: i32, offset: u64 },
    #[error("disk {disk}: root hash differs from its blocks")]
    Root { disk: i32 },
    #[error("disk {disk}: file name {file:?} leaves the folder of the manifest")]
    File { disk: i32, file: String },
}

/// A covered extent in order of offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent<'a> {
    pub offset: u64,
    pub length: u64,
    /// `None`: zero.
    pub blake3: Option<&'a str>,
}

impl Manifest {
    /// Checks everything that can be checked without the images.
    ///
    /// # Errors
    /// The first [`Flaw`] found.
    pub fn check(&self) -> Result<(), Flaw> {
        if self.format != FORMAT {
            return Err(Flaw::Format(self.format.clone()));
        }
        self.disks.iter().try_for_each(DiskRecord::check)
    }
}

impl DiskRecord {
    /// Data blocks and zero runs merged, in order of offset.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent<'_>> {
        let data = self.data.iter().map(|(offset, hash)| Extent {
            offset: *offset,
            length: self.capacity_bytes.saturating_sub(*offset).min(u64::from(self.block_bytes)),
            blake3: Some(hash),
        });
        let zero = self.zero.iter().map(|&(offset, length)| Extent { offset, length, blake3: None });
        let mut all: Vec<_> = data.chain(zero).collect();
        all.sort_by_key(|extent| extent.offset);
        all
    }

    /// BLAKE3 over, for each extent in order: offset and length as little-endian u64, then the block's hash as its 64
    /// hex digits, as text exactly as written here (zero runs: one byte 0). Adjacent zero runs must have been merged.
    #[must_use]
    pub fn compute_root(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for extent in self.extents() {
            hasher.update(&extent.offset.to_le_bytes());
            hasher.update(&extent.length.to_le_bytes());
            match extent.blake3 {
                Some(hash) => hasher.update(hash.as_bytes()),
                None => hasher.update(&[0]),
            };
        }
        hasher.finalize().to_hex().to_string()
    }

    /// # Errors
    /// The first [`Flaw`] of this disk.
    pub fn check(&self) -> Result<(), Flaw> {
        let disk = self.device_key;
        if !self.block_bytes.is_power_of_two()
            || !(crate::MIN_BLOCK_BYTES..=crate::MAX_BLOCK_BYTES).contains(&self.block_bytes)
        {
            return Err(Flaw::BlockSize { disk, block: self.block_bytes });
        }
        if self.file.is_empty() || self.file.contains(['/', '\0']) || self.file == ".." || self.file == "." {
            return Err(Flaw::File { disk, file: self.file.clone() });
        }
        let mut next = 0;
        for extent in self.extents() {
            if extent.blake3.is_some() && !extent.offset.is_multiple_of(u64::from(self.block_bytes)) {
                return Err(Flaw::Grid { disk, offset: extent.offset });
            }
            if extent.offset < next || extent.length == 0 {
                return Err(Flaw::Overlap { disk, offset: extent.offset });
            }
            if extent.offset > next {
                return Err(Flaw::Gap { disk, offset: next });
            }
            if extent.blake3.is_some_and(|hash| hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit())) {
                return Err(Flaw::Hash { disk, offset: extent.offset });
            }
            next = extent.offset.saturating_add(extent.length);
        }
        if next > self.capacity_bytes {
            return Err(Flaw::Overlap { disk, offset: self.capacity_bytes });
        }
        if next < self.capacity_bytes {
            return Err(Flaw::Gap { disk, offset: next });
        }
        if self.compute_root() != self.root {
            return Err(Flaw::Root { disk });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> DiskRecord {
        let hash = blake3::hash(b"x").to_hex().to_string();
        let mut disk = DiskRecord {
            file: "disk-2000.raw".into(),
            device_key: 2000,
            label: "Hard disk 1".into(),
            backing: "[ds] a/a.vmdk".into(),
            uuid: String::new(),
            change_id: String::new(),
            capacity_bytes: (5 << 20) + 512,
            block_bytes: 1 << 20,
            transport: "hotadd".into(),
            engine: "preadv".into(),
            parts: Vec::new(),
            data: vec![(0, hash.clone()), (5 << 20, hash)],
            zero: vec![(1 << 20, 4 << 20)],
            root: String::new(),
        };
        disk.root = disk.compute_root();
        disk
    }

    #[test]
    fn exact_coverage_passes() {
        assert_eq!(disk().check(), Ok(()));
    }

    #[test]
    fn a_gap_an_overlap_and_a_changed_hash_are_found() {
        let mut gap = disk();
        gap.zero = vec![(1 << 20, 3 << 20)];
        assert_eq!(gap.check(), Err(Flaw::Gap { disk: 2000, offset: 4 << 20 }));
        let mut twice = disk();
        twice.zero.push((2 << 20, 1 << 20));
        assert!(matches!(twice.check(), Err(Flaw::Overlap { .. })));
        let mut end = disk();
        end.data.pop();
        assert_eq!(end.check(), Err(Flaw::Gap { disk: 2000, offset: 5 << 20 }));
        let mut changed = disk();
        changed.data[0].1 = blake3::hash(b"y").to_hex().to_string();
        assert_eq!(changed.check(), Err(Flaw::Root { disk: 2000 }));
    }

    #[test]
    fn data_keeps_to_the_grid() {
        let mut off = disk();
        off.data[1].0 = (5 << 20) - 512;
        off.zero = vec![(1 << 20, (4 << 20) - 512)];
        assert_eq!(off.check(), Err(Flaw::Grid { disk: 2000, offset: (5 << 20) - 512 }));
    }

    #[test]
    fn hostile_fields_are_refused() {
        for file in ["", "../x", "a/b", "..", "."] {
            let bad = DiskRecord { file: file.into(), ..disk() };
            assert!(matches!(bad.check(), Err(Flaw::File { .. })), "{file}");
        }
        let block = DiskRecord { block_bytes: 3 << 20, ..disk() };
        assert!(matches!(block.check(), Err(Flaw::BlockSize { .. })));
        let beyond = DiskRecord { zero: vec![(1 << 20, u64::MAX)], ..disk() };
        assert!(beyond.check().is_err());
    }
}
