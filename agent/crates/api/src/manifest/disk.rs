//! One disk of a backup and its coverage: data blocks, zero runs and areas left to the base together cover
//! `[0, capacity)` exactly once.
use serde::{Deserialize, Serialize};

use super::{Digest, Flaw};

/// One disk image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// File name of the raw image, relative to the manifest. It has the disk's size; what is not data is a hole.
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
    /// What this image holds of the disk.
    #[serde(default)]
    pub scope: Scope,
    /// Why more was read than was asked for, as `code: message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wider: Option<String>,
    /// changeId of the base that "changed" means since; empty unless `scope` is `changed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base_change_id: String,
    /// Blocks that vSphere called unchanged or empty and that were read all the same, to test its map.
    #[serde(default)]
    pub sampled_blocks: u32,
    /// Which way each range came, in order of offset. Of a disk that was not read whole: what of the range was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartRecord>,
    /// Blocks with content: offset in bytes (a multiple of `block_bytes`) and BLAKE3 as 64 hex digits.
    pub data: Vec<(u64, Digest)>,
    /// Runs of zero bytes: offset and length in bytes.
    pub zero: Vec<(u64, u64)>,
    /// Areas that are not in this image and as in the base: offset and length in bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base: Vec<(u64, u64)>,
    /// BLAKE3 over the coverage in order of offset; see [`DiskRecord::compute_root`].
    pub root: Digest,
}

/// What an image holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every byte was read.
    #[default]
    Whole,
    /// What vSphere calls allocated was read; the rest is recorded as zero runs.
    Allocated,
    /// What vSphere calls changed since the base was read; the rest is in the base.
    Changed,
}

impl Scope {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Allocated => "allocated",
            Self::Changed => "changed",
        }
    }
}

/// A range of a disk and the way that it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Bytes.
    pub offset: u64,
    pub length: u64,
    /// `hotadd` | `nbd` | `export`.
    pub transport: String,
    pub engine: String,
}

/// A covered extent in order of offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
    pub content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In the image, with this hash.
    Data(Digest),
    Zero,
    /// As in the base.
    Base,
}

impl DiskRecord {
    /// Data blocks, zero runs and areas of the base merged, in order of offset.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        let data = self.data.iter().map(|(offset, hash)| Extent {
            offset: *offset,
            length: self.capacity_bytes.saturating_sub(*offset).min(u64::from(self.block_bytes)),
            content: Content::Data(*hash),
        });
        let run = |content| move |&(offset, length): &(u64, u64)| Extent { offset, length, content };
        let zero = self.zero.iter().map(run(Content::Zero));
        let base = self.base.iter().map(run(Content::Base));
        let mut all: Vec<_> = data.chain(zero).chain(base).collect();
        all.sort_by_key(|extent| extent.offset);
        all
    }

    /// BLAKE3 over, for each extent in order: offset and length as little-endian u64, then the block's hash as its 64
    /// lower-case hex digits (zero runs: one byte 0, areas of the base: one byte 1). Adjacent runs of one kind must have
    /// been merged.
    #[must_use]
    pub fn compute_root(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for extent in self.extents() {
            hasher.update(&extent.offset.to_le_bytes());
            hasher.update(&extent.length.to_le_bytes());
            match extent.content {
                Content::Data(hash) => hasher.update(hash.to_string().as_bytes()),
                Content::Zero => hasher.update(&[0]),
                Content::Base => hasher.update(&[1]),
            };
        }
        hasher.finalize().into()
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
        if let Some((offset, _)) = self.base.first().filter(|_| self.scope != Scope::Changed) {
            return Err(Flaw::Alone { disk, offset: *offset });
        }
        self.check_coverage()?;
        if self.compute_root() != self.root {
            return Err(Flaw::Root { disk });
        }
        Ok(())
    }

    fn check_coverage(&self) -> Result<(), Flaw> {
        let disk = self.device_key;
        let mut next = 0;
        for extent in self.extents() {
            let is_data = matches!(extent.content, Content::Data(_));
            if is_data && !extent.offset.is_multiple_of(u64::from(self.block_bytes)) {
                return Err(Flaw::Grid { disk, offset: extent.offset });
            }
            if extent.offset < next || extent.length == 0 {
                return Err(Flaw::Overlap { disk, offset: extent.offset });
            }
            if extent.offset > next {
                return Err(Flaw::Gap { disk, offset: next });
            }
            next = extent.offset.saturating_add(extent.length);
        }
        if next > self.capacity_bytes {
            return Err(Flaw::Overlap { disk, offset: self.capacity_bytes });
        }
        if next < self.capacity_bytes {
            return Err(Flaw::Gap { disk, offset: next });
        }
        Ok(())
    }
}
