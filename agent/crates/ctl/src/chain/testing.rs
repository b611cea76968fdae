//! A chain of backups on disk for tests: images and manifests as `backup` would leave them.
use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use hotadd_api::manifest::{BaseRecord, Digest, DiskRecord, FORMAT, Manifest, Scope, SnapshotRecord};
use tempfile::TempDir;

use super::Stored;

pub(crate) const B: u64 = 64 << 10;
pub(crate) const CAPACITY: u64 = 32 * B + 512;
pub(crate) const KEY: i32 = 2000;

/// A folder of backups: `full`, `inc1`, `inc2`, …
#[derive(Debug)]
pub(crate) struct Backups {
    folder: TempDir,
    /// The disk as it is after the last backup.
    pub(crate) disk: Vec<u8>,
    last: Option<PathBuf>,
    count: u32,
}

impl Backups {
    /// A full backup in blocks of 256 KiB: four blocks of data, a hole, and the short block at the end.
    pub(crate) fn full() -> Self {
        let mut disk = vec![0; usize::try_from(CAPACITY).unwrap()];
        for (index, byte) in disk.iter_mut().enumerate().take(usize::try_from(16 * B).unwrap()) {
            *byte = u8::try_from(index % 251).unwrap() | 1;
        }
        *disk.last_mut().unwrap() = 9;
        let mut backups = Self { folder: tempfile::tempdir().unwrap(), disk, last: None, count: 0 };
        backups.store("full", 4 * B, Scope::Whole, &[(0, CAPACITY)]);
        backups
    }

    /// Changes these blocks of 64 KiB to this byte and backs up what changed.
    pub(crate) fn incremental(&mut self, changes: &[(u64, u8)]) -> PathBuf {
        for (block, byte) in changes {
            let at = usize::try_from(block * B).unwrap();
            let end = self.disk.len().min(at + usize::try_from(B).unwrap());
            self.disk[at..end].fill(*byte);
        }
        self.count += 1;
        let areas: Vec<_> = changes.iter().map(|(block, _)| (block * B, B.min(CAPACITY - block * B))).collect();
        self.store(&format!("inc{}", self.count), B, Scope::Changed, &areas)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn manifest(&self, name: &str) -> PathBuf {
        self.path(name).join("manifest.json")
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.path(name).join("web01.raw")
    }

    /// Writes a manifest anew after a change; nothing else follows.
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Manifest)) {
        let path = self.manifest(name);
        let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        write(&path, &manifest);
    }

    /// Lets an incremental name its base as that is now, so that only what else is wrong is found.
    pub(crate) fn relink(&self, name: &str, base: &str) {
        let id = Stored::open(&self.manifest(base)).unwrap().id();
        self.edit(name, |manifest| manifest.base.as_mut().unwrap().id = id);
    }

    pub(crate) fn flip(&self, name: &str, offset: u64) {
        let image = File::options().read(true).write(true).open(self.image(name)).unwrap();
        let mut byte = [0];
        image.read_exact_at(&mut byte, offset).unwrap();
        image.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
    }

    fn store(&mut self, name: &str, block: u64, scope: Scope, areas: &[(u64, u64)]) -> PathBuf {
        fs::create_dir(self.path(name)).unwrap();
        let image = File::create(self.image(name)).unwrap();
        image.set_len(CAPACITY).unwrap();
        let mut record = DiskRecord {
            file: "web01.raw".into(),
            device_key: KEY,
            label: "Hard disk 1".into(),
            uuid: "6000c29".into(),
            change_id: format!("52 aa/{}", self.count),
            capacity_bytes: CAPACITY,
            block_bytes: u32::try_from(block).unwrap(),
            scope,
            ..DiskRecord::default()
        };
        let mut base = None;
        if scope == Scope::Changed {
            record.base_change_id = format!("52 aa/{}", self.count - 1);
            let before = Stored::open(self.last.as_ref().unwrap()).unwrap();
            let folder = before.path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let job_id = before.manifest().unwrap().job_id;
            base = Some(BaseRecord { file: format!("../{folder}/manifest.json"), id: before.id(), job_id });
        }
        let mut due = 0;
        for &(start, length) in areas {
            if start > due {
                record.base.push((due, start - due));
            }
            for offset in (start..start + length).step_by(usize::try_from(block).unwrap()) {
                let end = CAPACITY.min(offset + block);
                let bytes = &self.disk[usize::try_from(offset).unwrap()..usize::try_from(end).unwrap()];
                if bytes.iter().all(|byte| *byte == 0) {
                    record.zero.push((offset, end - offset));
                } else {
                    record.data.push((offset, Digest::of(bytes)));
                    image.write_all_at(bytes, offset).unwrap();
                }
            }
            due = start + length;
        }
        if due < CAPACITY {
            record.base.push((due, CAPACITY - due));
        }
        record.root = record.compute_root();
        let manifest = Manifest {
            format: FORMAT.into(),
            created: "2026-01-01T00:00:00Z".into(),
            agent_version: "0".into(),
            client_version: "0".into(),
            job_id: format!("job-{name}"),
            vm_moref: "vm-42".into(),
            vm_name: "web01".into(),
            snapshot: SnapshotRecord { moref: "snapshot-1".into(), consistency: "crash".into(), fault: None },
            base,
            synthesized_from: None,
            vm_config: None,
            disks: vec![record],
        };
        write(&self.manifest(name), &manifest);
        self.last = Some(self.manifest(name));
        self.manifest(name)
    }
}

fn write(path: &Path, manifest: &Manifest) {
    fs::write(path, serde_json::to_vec(manifest).unwrap()).unwrap();
}
