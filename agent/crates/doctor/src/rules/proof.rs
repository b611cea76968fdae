//! What is provably a disk that hotadd-agent attached, told from vCenter alone. Pure, and the only maker of a [`Proof`].
//!
//! An attached disk carries no mark: slot decides key, every hot-add product attaches independent_nonpersistent, and linked clones
//! share UUID and size. What does tell it is the snapshot that it was taken from. A snapshot freezes the top file of each disk, and
//! from then on the VM writes to a new one: so each file is the frozen top of one snapshot only. If that snapshot is one that the
//! agent of this very proxy made (name and marker, with the instance UUID of the VM that has the disk), then whoever attached the
//! file read from a snapshot that only this agent knows of. All of it is needed; anything missing is doubt, and doubt is no proof.
use crate::{
    facts::{Disk, Estate, Vm},
    finding::Proof,
};

/// Why it is ours, or what stands against that.
pub(super) fn of(estate: &Estate, holder: &Vm, disk: &Disk) -> Result<Proof, String> {
    if disk.mode != "independent_nonpersistent" {
        return Err(format!("its mode is {}, not independent_nonpersistent", disk.mode));
    }
    let file = disk.file();
    if holder.is_home_of(&file) {
        return Err("it lies in the VM's own folder".into());
    }
    let mut found = Vec::new();
    for vm in estate.vms.iter().filter(|vm| vm.object.moref != holder.object.moref) {
        for snapshot in vm.known_snapshots() {
            for frozen in snapshot.frozen.iter().flatten().filter(|f| f.file == file && !f.independent) {
                found.push((vm, snapshot, frozen));
            }
        }
    }
    let [(owner, snapshot, frozen)] = &found[..] else {
        return Err(format!("{} snapshots name its file as frozen, not one", found.len()));
    };
    let Some(marker) = &snapshot.marker else {
        return Err(format!("the snapshot that froze its file, \"{}\", is not one of hotadd-agent", snapshot.name));
    };
    let me = holder.instance_uuid.as_deref().unwrap_or("unknown");
    if !marker.proxy.eq_ignore_ascii_case(me) {
        return Err(format!("the snapshot was made by the agent of {}, this VM is {me}", marker.proxy));
    }
    match (&disk.uuid, &frozen.uuid) {
        (Some(one), Some(other)) if one == other => {}
        (Some(one), Some(other)) => return Err(format!("its UUID is {one}, the snapshot's disk has {other}")),
        // A disk whose file is gone tells neither UUID nor size.
        _ if disk.capacity == 0 || frozen.capacity == 0 => {}
        _ => return Err("no UUID is told: a file of the same name may lie in another datacenter".into()),
    }
    if disk.capacity != frozen.capacity && disk.capacity != 0 && frozen.capacity != 0 {
        return Err(format!("it has {} bytes, the snapshot's disk {}", disk.capacity, frozen.capacity));
    }
    Ok(Proof {
        proxy: holder.object.moref.clone(),
        owner: owner.object.moref.clone(),
        snapshot: snapshot.moref.clone(),
        duty: marker.duty.clone(),
        disk_key: disk.key,
        file: file.as_str().to_owned(),
    })
}
