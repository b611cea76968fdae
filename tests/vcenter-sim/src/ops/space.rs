//! Space on datastores: what a delta needs, how deltas grow. The figures are a test's; nothing here looks at the host's disk.

use crate::fault::{Fault, Res};
use crate::state::State;
use crate::store::split_path;

/// NoDiskSpace when the datastore of `path` has less than `need` bytes free.
pub(crate) fn check(s: &State, path: &str, need: u64) -> Res<()> {
    let name = split_path(path).map(|(ds, _)| ds).unwrap_or("");
    match s.datastore(name) {
        Some(d) if d.free < need => {
            Err(Fault::new("NoDiskSpace", format!("Insufficient disk space on datastore '{name}'."))
                .with("file", path)
                .with("datastore", name))
        }
        _ => Ok(()),
    }
}

/// The delta that a disk runs on grows by `bytes`; its datastore has that much less.
pub(crate) fn grow(s: &mut State, vm: &str, disk: Option<&str>, bytes: u64) -> Result<(String, u64, u64), String> {
    let id = s.find_vm(vm).ok_or("no such vm")?;
    let v = s.vm(&id).map_err(|f| f.text)?;
    let found = match disk {
        Some(d) => v.find_disk(d),
        None => v.disks().find(|(_, d)| d.snapshotted()),
    };
    let path = found.map(|(_, d)| d.path.clone()).ok_or("no such disk")?;
    let file = s.store.files.get_mut(&path).filter(|f| f.parent.is_some()).ok_or("the disk runs on no delta")?;
    file.grown += bytes;
    let size = file.size();
    let name = split_path(&path).map(|(ds, _)| ds.to_owned()).unwrap_or_default();
    let d = s.datastores.iter_mut().find(|d| d.name == name).ok_or("no such datastore")?;
    d.free = d.free.saturating_sub(bytes);
    Ok((path, size, d.free))
}
