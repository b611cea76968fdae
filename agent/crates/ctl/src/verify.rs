//! `verify`: proves images against their manifest by reading every byte again. Knows no agent.
//!
//! A hole is zero by definition of the file system, so SEEK_DATA may skip it; that is a speed-up and never a proof of
//! anything else: data is hashed, and a zero run that holds data is read and looked at.
use std::{
    fs::File,
    io::{self, BufReader},
    os::unix::fs::FileExt as _,
    path::Path,
    time::Instant,
};

use hotadd_api::manifest::{DiskRecord, Extent, Manifest};
use indicatif::ProgressBar;
use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use serde_json::json;

use crate::{
    cli::VerifyArgs,
    error::Failure,
    exit::Exit,
    output::{Output, bytes, table},
    reasons,
};

/// How much of a zero run is read at once.
const CHUNK: usize = 1 << 20;

/// What was found out about one image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// Bytes hashed and equal, and bytes zero as they should be.
    pub data: u64,
    pub zero: u64,
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

/// # Errors
/// Exit 2 when the manifest can't be used, 8 when an image differs.
pub fn run(args: &VerifyArgs, out: &Output) -> Result<Exit, Failure> {
    let manifest = load(&args.manifest)?;
    let folder = args.manifest.parent().unwrap_or(Path::new("."));
    let mut rows = Vec::new();
    let mut first = None;
    for disk in &manifest.disks {
        let started = Instant::now();
        let bar = out.bar(&disk.label, disk.capacity_bytes);
        let proof = prove(&folder.join(&disk.file), disk, &bar);
        bar.finish_and_clear();
        out.event(|| {
            json!({"event": "verify_disk", "device_key": disk.device_key, "file": disk.file, "ok": proof.bad == 0,
                "capacity_bytes": disk.capacity_bytes, "data_bytes": proof.data, "zero_bytes": proof.zero,
                "bad_extents": proof.bad, "first_flaw": proof.first})
        });
        rows.push(vec![
            disk.file.clone(),
            bytes(disk.capacity_bytes),
            bytes(proof.data),
            bytes(proof.zero),
            format!("{:.2} s", started.elapsed().as_secs_f64()),
            proof.first.clone().map_or_else(|| "ok".to_owned(), |flaw| format!("{} bad: {flaw}", proof.bad)),
        ]);
        if let Some(flaw) = proof.first {
            first.get_or_insert(format!("{}: {flaw}", disk.file));
        }
    }
    out.result(&table(&["image", "capacity", "hashed", "zero", "time", "result"], &rows));
    if let Some(flaw) = first {
        return Err(Failure::new(Exit::VerifyFailed, reasons::MISMATCH, flaw));
    }
    out.event(|| json!({"event": "verified", "vm": manifest.vm_name, "disks": manifest.disks.len()}));
    out.result(&format!("{} of {}: every byte matches its manifest", disks(manifest.disks.len()), manifest.vm_name));
    Ok(Exit::Ok)
}

fn disks(count: usize) -> String {
    if count == 1 { "1 disk".to_owned() } else { format!("{count} disks") }
}

fn load(path: &Path) -> Result<Manifest, Failure> {
    let bad = |why: String| Failure::new(Exit::Usage, reasons::MANIFEST, format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    let manifest: Manifest = serde_json::from_reader(BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    manifest.check().map_err(|flaw| bad(flaw.to_string()))?;
    if manifest.disks.is_empty() {
        return Err(bad("names no disk, so it proves nothing".to_owned()));
    }
    Ok(manifest)
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
    // Asked before opening: opening a pipe would wait for its writer.
    let facts = std::fs::metadata(path)?;
    if !facts.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if facts.len() != disk.capacity_bytes {
        let (found, wanted) = (facts.len(), disk.capacity_bytes);
        proof.flaw(|| format!("size is {found} bytes instead of {wanted}"));
        return Ok(());
    }
    let image = File::open(path)?;
    let mut block = vec![0; CHUNK.max(disk.block_bytes as usize)];
    for extent in disk.extents() {
        let flaw = match extent.blake3 {
            Some(hash) => hash_differs(&image, &extent, hash, &mut block)?,
            None => first_nonzero(&image, &extent, &mut block)?,
        };
        match (flaw, extent.blake3) {
            (Some(flaw), _) => proof.flaw(|| flaw),
            (None, Some(_)) => proof.data += extent.length,
            (None, None) => proof.zero += extent.length,
        }
        bar.inc(extent.length);
    }
    Ok(())
}

fn hash_differs(image: &File, extent: &Extent<'_>, hash: &str, block: &mut [u8]) -> io::Result<Option<String>> {
    let length = usize::try_from(extent.length).map_err(io::Error::other)?;
    let block = block.get_mut(..length).ok_or_else(|| io::Error::other("block larger than the block size"))?;
    image.read_exact_at(block, extent.offset)?;
    let equal = blake3::hash(block).to_hex().eq_ignore_ascii_case(hash);
    Ok((!equal).then(|| format!("the block at byte {} has another hash", extent.offset)))
}

fn first_nonzero(image: &File, extent: &Extent<'_>, chunk: &mut [u8]) -> io::Result<Option<String>> {
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

    use hotadd_api::manifest::FORMAT;
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
        let hash = |data: &[u8]| blake3::hash(data).to_hex().to_string();
        let mut disk = DiskRecord {
            file: "a.raw".into(),
            device_key: 2000,
            label: "Hard disk 1".into(),
            backing: "[ds] a/a.vmdk".into(),
            uuid: String::new(),
            change_id: String::new(),
            capacity_bytes: CAPACITY,
            block_bytes: BLOCK,
            transport: "hotadd".into(),
            engine: "preadv".into(),
            parts: Vec::new(),
            data: vec![(0, hash(&full)), (4 * size, hash(&full)), (5 * size, hash(&short))],
            zero: vec![(size, 3 * size)],
            root: String::new(),
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
            Proof { data: CAPACITY - 3 * u64::from(BLOCK), zero: 3 * u64::from(BLOCK), bad: 0, first: None }
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

    #[test]
    fn a_manifest_that_was_touched_or_is_empty_is_bad_input() {
        let (folder, disk) = image();
        let path = folder.path().join("manifest.json");
        let mut manifest = Manifest {
            format: FORMAT.into(),
            created: "2026-01-01T00:00:00Z".into(),
            agent_version: "0".into(),
            job_id: "j".into(),
            vm_moref: "vm-1".into(),
            vm_name: "web01".into(),
            snapshot: hotadd_api::manifest::SnapshotRecord {
                moref: "snapshot-1".into(),
                consistency: "crash".into(),
                fault: None,
            },
            disks: vec![disk],
        };
        let store = |manifest: &Manifest| std::fs::write(&path, serde_json::to_vec(manifest).unwrap()).unwrap();
        let args = VerifyArgs { manifest: path.clone() };
        let quiet = Output::new(false, true);
        store(&manifest);
        assert_eq!(run(&args, &quiet), Ok(Exit::Ok));
        manifest.disks[0].data[0].1 = "0".repeat(64);
        store(&manifest);
        assert_eq!(run(&args, &quiet).unwrap_err().exit, Exit::Usage);
        manifest.disks.clear();
        store(&manifest);
        assert_eq!(run(&args, &quiet).unwrap_err().exit, Exit::Usage);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(run(&args, &quiet).unwrap_err().exit, Exit::Usage);
    }
}
