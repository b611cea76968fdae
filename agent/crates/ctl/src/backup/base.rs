//! The base of an incremental: its chain is read and held together before the agent is asked for anything, and what is
//! known of it goes into the request. Writes nothing: a base is never touched.
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use hotadd_api::{
    manifest::{BaseRecord, DiskRecord, Manifest, Scope},
    v1::DiskBase,
};

use crate::{
    chain::{Chain, ChainDisk, Stored, draw},
    error::Failure,
    exit::Exit,
    output::Output,
    reasons,
};

/// What an incremental builds on.
#[derive(Debug)]
pub(super) struct Base {
    record: BaseRecord,
    vm_moref: String,
    /// Disks that can be read as changed since the base.
    disks: BTreeMap<i32, DiskBase>,
}

impl Base {
    /// Reads the chain of `path` for a backup into `folder`, which exists.
    ///
    /// # Errors
    /// Exit 2.
    pub(super) fn load(
        path: &Path,
        folder: &Path,
        seed: u64,
        wants: impl Fn(i32) -> bool,
        out: &Output,
    ) -> Result<Self, Failure> {
        let chain = Chain::load(Stored::open(path)?, Exit::Usage)?;
        let unusable = |why: &str| Failure::new(Exit::Usage, reasons::FOLDER, format!("{} {why}", folder.display()));
        let folder = folder.canonicalize().map_err(|error| unusable(&error.to_string()))?;
        if chain.layers().iter().any(|layer| layer.path.parent() == Some(&folder)) {
            return Err(unusable("holds a backup that the new one would build on"));
        }
        let top = chain.top();
        let file = relative(&folder, &top.path);
        let file = file.to_str().ok_or_else(|| unusable("can't be named in a manifest: not UTF-8"))?.to_owned();
        let wanted: Vec<_> = chain.disks().filter(|disk| wants(disk.top().device_key)).collect();
        let share = draw::MOST_OF_DISK.min(draw::MOST_OF_REQUEST / wanted.len().max(1));
        let disks = wanted.iter().filter_map(|disk| disk_base(disk, seed, share, out)).collect();
        let record = BaseRecord { file, id: top.id, job_id: top.manifest.job_id.clone() };
        Ok(Self { record, vm_moref: top.manifest.vm_moref.clone(), disks })
    }

    pub(super) fn disks(&self) -> Vec<DiskBase> {
        self.disks.values().cloned().collect()
    }

    /// # Errors
    /// Exit 2: the VM is another one, or another registration of it.
    pub(super) fn check_vm(&self, moref: &str) -> Result<(), Failure> {
        if moref == self.vm_moref {
            return Ok(());
        }
        let what = format!("the base is of {}, the VM is {moref}", self.vm_moref);
        Err(Failure::new(Exit::Usage, reasons::CHAIN_MISFIT, what).cleanup(hotadd_api::v1::Cleanup::Unspecified))
    }

    /// Whether the agent may read this disk as changed since the base; what it says of the disk now.
    pub(super) fn allows(&self, key: i32, uuid: &str, capacity: u64) -> bool {
        self.disks.get(&key).is_some_and(|base| base.uuid == uuid && base.capacity_bytes == capacity)
    }

    /// Completes the record of a disk that builds on the base.
    pub(super) fn describe(&self, record: &mut DiskRecord) {
        if record.scope == Scope::Changed
            && let Some(base) = self.disks.get(&record.device_key)
        {
            record.base_change_id.clone_from(&base.change_id);
        }
    }

    /// Names the base, unless every disk stands alone.
    pub(super) fn name(&self, manifest: &mut Manifest) {
        if manifest.disks.iter().any(|disk| disk.scope == Scope::Changed) {
            manifest.base = Some(self.record.clone());
        }
    }
}

fn disk_base(disk: &ChainDisk<'_>, seed: u64, share: usize, out: &Output) -> Option<(i32, DiskBase)> {
    let top = disk.top();
    if top.change_id.is_empty() {
        let (label, key) = (&top.label, top.device_key);
        out.warning(&format!("{label} ({key}): its base has no changeId, so that it can't be read as changed since"));
        return None;
    }
    let base = DiskBase {
        device_key: top.device_key,
        change_id: top.change_id.clone(),
        uuid: top.uuid.clone(),
        capacity_bytes: top.capacity_bytes,
        known: draw::draw(disk, seed, share),
    };
    Some((top.device_key, base))
}

/// How `file` is called from `folder`; both are absolute and without links.
fn relative(folder: &Path, file: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (folder.components().collect(), file.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| Component::ParentDir);
    up.chain(to[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_called_from_where_the_new_backup_lies() {
        for (folder, file, expected) in [
            ("/b/mon", "/b/sun/manifest.json", "../sun/manifest.json"),
            ("/b", "/b/sun/manifest.json", "sun/manifest.json"),
            ("/b/sun/inc", "/b/sun/manifest.json", "../manifest.json"),
            ("/x/y", "/b/manifest.json", "../../b/manifest.json"),
        ] {
            assert_eq!(relative(Path::new(folder), Path::new(file)), Path::new(expected));
        }
    }
}
