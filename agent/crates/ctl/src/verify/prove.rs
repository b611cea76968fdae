//! One image against its record: every byte that it must hold is read again.
//!
//! A hole is zero by definition of the file system, so SEEK_DATA may skip it; that is a speed-up and never a proof of
//! anything else: data is hashed, and a zero run that holds data is read and looked at. What a record leaves to its base
//! is not looked at.
use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use hotadd_api::manifest::{Content, Digest, DiskRecord, Extent};
use indicatif::ProgressBar;
use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

use crate::chain::compose::open_image;

/// How much of a zero run is read at once.
const CHUNK: usize = 1 << 20;

/// What was found out about one image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// Bytes hashed and equal, bytes zero as they should be, and bytes that are the base's to prove.
    pub data: u64,
    pub zero: u64,
    pub base: u64,
    /// Extents that differ, and what the first flaw was.
    pub bad: u64,
    pub first: Option<String>,
}

impl Proof {
    fn flaw(&mut self, what: impl FnOnce() -> String) {
        self.bad += 1;
        self.first.get_or_insert_with(what);
    }
}

/// Reads one image against its record. An image that can't be read is an image that is not proven.
#[must_use]
pub fn prove(path: &Path, disk: &DiskRecord, bar: &ProgressBar) -> Proof {
    let mut proof = Proof::default();
    if let Err(error) = walk(path, disk, bar, &mut proof) {
        proof.flaw(|| format!("can't be read: {error}"));
    }
    proof
}

fn walk(path: &Path, disk: &DiskRecord, bar: &ProgressBar, proof: &mut Proof) -> io::Result<()> {
    let image = open_image(path, disk.capacity_bytes)?;
    let mut block = vec![0; CHUNK.max(disk.block_bytes as usize)];
    for extent in disk.extents() {
        let (flaw, proven) = match extent.content {
            Content::Data(hash) => (hash_differs(&image, &extent, hash, &mut block)?, &mut proof.data),
            Content::Zero => (first_nonzero(&image, &extent, &mut block)?, &mut proof.zero),
            Content::Base => (None, &mut proof.base),
        };
        match flaw {
            Some(flaw) => proof.flaw(|| flaw),
            None => *proven += extent.length,
        }
        bar.inc(extent.length);
    }
    Ok(())
}

fn hash_differs(image: &File, extent: &Extent, hash: Digest, block: &mut [u8]) -> io::Result<Option<String>> {
    let length = usize::try_from(extent.length).map_err(io::Error::other)?;
    let block = block.get_mut(..length).ok_or_else(|| io::Error::other("block larger than the block size"))?;
    image.read_exact_at(block, extent.offset)?;
    let equal = Digest::of(block) == hash;
    Ok((!equal).then(|| format!("the block at byte {} has another hash", extent.offset)))
}

fn first_nonzero(image: &File, extent: &Extent, chunk: &mut [u8]) -> io::Result<Option<String>> {
    let end = extent.offset + extent.length;
    let mut at = extent.offset;
    while let Some(data) = next_data(image, at)?.filter(|&data| data < end) {
        let length = usize::try_from(end - data).unwrap_or(usize::MAX).min(chunk.len());
        let chunk = &mut chunk[..length];
        image.read_exact_at(chunk, data)?;
        if let Some(index) = chunk.iter().position(|&byte| byte != 0) {
            return Ok(Some(format!("byte {} is not zero", data + index as u64)));
        }
        at = data + length as u64;
    }
    Ok(None)
}

/// Where data begins at or after `at`; `None`: only a hole up to the end. Without SEEK_DATA everything is data.
fn next_data(image: &File, at: u64) -> io::Result<Option<u64>> {
    let Ok(offset) = i64::try_from(at) else { return Ok(Some(at)) };
    match lseek(image, offset, Whence::SeekData) {
        Ok(data) => Ok(u64::try_from(data).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(at)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use tempfile::TempDir;

    use super::*;

    const BLOCK: u32 = 64 << 10;
    const CAPACITY: u64 = 5 * BLOCK as u64 + 512;

    fn block(length: usize) -> Vec<u8> {
        (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    /// Data, zero ×3, data, and a short last block of data.
    fn image() -> (TempDir, DiskRecord) {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("a.raw")).unwrap();
        file.set_len(CAPACITY).unwrap();
        let full = block(BLOCK as usize);
        let short = block(512);
        let size = u64::from(BLOCK);
        file.write_all_at(&full, 0).unwrap();
        file.write_all_at(&full, 4 * size).unwrap();
        file.write_all_at(&short, 5 * size).unwrap();
        let hash = Digest::of;
        let mut disk = DiskRecord {
            file: "a.raw".into(),
            device_key: 2000,
            label: "Hard disk 1".into(),
            backing: "[ds] a/a.vmdk".into(),
            capacity_bytes: CAPACITY,
            block_bytes: BLOCK,
            transport: "hotadd".into(),
            engine: "preadv".into(),
            data: vec![(0, hash(&full)), (4 * size, hash(&full)), (5 * size, hash(&short))],
            zero: vec![(size, 3 * size)],
            ..DiskRecord::default()
        };
        disk.root = disk.compute_root();
        (folder, disk)
    }

    fn proof(folder: &TempDir, disk: &DiskRecord) -> Proof {
        prove(&folder.path().join(&disk.file), disk, &ProgressBar::hidden())
    }

    fn write(folder: &TempDir, offset: u64, byte: u8) {
        let file = OpenOptions::new().write(true).open(folder.path().join("a.raw")).unwrap();
        file.write_all_at(&[byte], offset).unwrap();
    }

    fn flaw(folder: &TempDir, disk: &DiskRecord) -> String {
        let proof = proof(folder, disk);
        assert_eq!(proof.bad, 1);
        proof.first.unwrap()
    }

    #[test]
    fn a_true_image_is_proven_byte_by_byte() {
        let (folder, disk) = image();
        let proof = proof(&folder, &disk);
        assert_eq!(
            proof,
            Proof { data: CAPACITY - 3 * u64::from(BLOCK), zero: 3 * u64::from(BLOCK), ..Proof::default() }
        );
    }

    #[test]
    fn one_flipped_byte_of_data_is_found() {
        for offset in [0, 4 * u64::from(BLOCK) + 77, CAPACITY - 1] {
            let (folder, disk) = image();
            write(&folder, offset, 0xff);
            assert!(flaw(&folder, &disk).contains("another hash"));
        }
    }

    #[test]
    fn one_byte_written_into_a_zero_run_is_found() {
        for offset in [u64::from(BLOCK), 2 * u64::from(BLOCK) + 5, 4 * u64::from(BLOCK) - 1] {
            let (folder, disk) = image();
            write(&folder, offset, 1);
            assert_eq!(flaw(&folder, &disk), format!("byte {offset} is not zero"));
        }
    }

    #[test]
    fn what_is_left_to_the_base_is_not_judged_here() {
        use hotadd_api::manifest::Scope;
        let (folder, mut disk) = image();
        let size = u64::from(BLOCK);
        (disk.scope, disk.zero, disk.base) = (Scope::Changed, vec![(size, size)], vec![(2 * size, 2 * size)]);
        write(&folder, 2 * size, 1);
        let found = proof(&folder, &disk);
        assert_eq!((found.bad, found.zero, found.base), (0, size, 2 * size));
        write(&folder, size, 1);
        assert_eq!(flaw(&folder, &disk), format!("byte {size} is not zero"));
    }

    #[test]
    fn written_zeros_are_as_good_as_a_hole() {
        let (folder, disk) = image();
        write(&folder, 2 * u64::from(BLOCK), 0);
        assert_eq!(proof(&folder, &disk).bad, 0);
    }

    #[test]
    fn a_shorter_or_longer_or_missing_image_is_found() {
        for size in [0, CAPACITY - 1, CAPACITY + 1] {
            let (folder, disk) = image();
            let file = OpenOptions::new().write(true).open(folder.path().join("a.raw")).unwrap();
            file.set_len(size).unwrap();
            assert!(flaw(&folder, &disk).contains("size"));
        }
        let (folder, disk) = image();
        std::fs::remove_file(folder.path().join("a.raw")).unwrap();
        assert!(flaw(&folder, &disk).contains("can't be read"));
    }
}
