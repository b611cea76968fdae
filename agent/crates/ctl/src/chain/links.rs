//! Whether a base is what an incremental was made on: the same VM and disks, and the very state that "changed" means
//! since. Pure rules over two manifests.
use hotadd_api::manifest::{BaseRecord, DiskRecord, Manifest, Scope};

/// # Errors
/// What does not fit.
pub(super) fn check(child: &Manifest, record: &BaseRecord, base: &Manifest) -> Result<(), String> {
    differ("job", &record.job_id, &base.job_id)?;
    differ("VM", &child.vm_moref, &base.vm_moref)?;
    for disk in child.disks.iter().filter(|disk| disk.scope == Scope::Changed) {
        let key = disk.device_key;
        let below = base.disk(key).ok_or_else(|| format!("it has no disk {key}"))?;
        link(disk, below).map_err(|why| format!("disk {key}: {why}"))?;
    }
    Ok(())
}

fn link(disk: &DiskRecord, below: &DiskRecord) -> Result<(), String> {
    differ("uuid", &disk.uuid, &below.uuid)?;
    differ("capacity", disk.capacity_bytes, below.capacity_bytes)?;
    if disk.base_change_id.is_empty() {
        return Err("the incremental does not say since which changeId".to_owned());
    }
    differ("changeId", &disk.base_change_id, &below.change_id)
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, wanted: T, found: T) -> Result<(), String> {
    if wanted == found { Ok(()) } else { Err(format!("{what} {wanted:?} was expected, {found:?} is there")) }
}
