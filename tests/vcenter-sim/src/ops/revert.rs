//! Back to a snapshot: the VM gets the devices of then, on new deltas; what it ran on is deleted, later snapshots stay.
//! The power state stays too (VMware powers a VM off whose snapshot has no memory; no test needs that).

use crate::Sim;
use crate::fault::{Fault, Res};
use crate::ops::{reconfig, snapshot};
use crate::state::{Device, Kind, State, now};

fn disk_path(d: &Device) -> Option<&str> {
    match &d.kind {
        Kind::Disk(k) => Some(&k.path),
        _ => None,
    }
}

/// `snap` None is the current one.
pub(crate) async fn run(sim: &Sim, vm: &str, snap: Option<&str>) -> Res<()> {
    let (id, gone, back) = {
        let mut s = sim.lock();
        let v = s.vm(vm)?;
        let none = || Fault::new("NotFound", "The virtual machine has no current snapshot.");
        let id = snap.map(str::to_owned).or_else(|| v.current.clone()).ok_or_else(none)?;
        let now = v.devices.clone();
        let then = s.snapshot(&id)?.1.devices.clone();
        // A disk that takes part in snapshots stays the guest's disk; any other is the same one only with the same file.
        let same = |a: &Device, b: &Device| match (&a.kind, &b.kind) {
            (Kind::Disk(x), Kind::Disk(y)) => {
                a.key == b.key && (x.snapshotted() && y.snapshotted() || x.path == y.path)
            }
            _ => a.key == b.key,
        };
        let gone: Vec<i32> =
            now.iter().filter(|d| disk_path(d).is_some() && !then.iter().any(|t| same(d, t))).map(|d| d.key).collect();
        let added: Vec<i32> =
            then.iter().filter(|d| disk_path(d).is_some() && !now.iter().any(|n| same(d, n))).map(|d| d.key).collect();
        let back = reconfig::requests(&mut s, sim, vm, &then, &added)?;
        (id, gone, back)
    };
    for key in &gone {
        sim.backend.detach(vm, *key).await.map_err(|e| Fault::vm_config(&e))?;
    }
    for req in &back {
        reconfig::attach_now(sim, req).await.map_err(|e| Fault::vm_config(&e))?;
    }
    commit(&mut sim.lock(), vm, &id)
}

fn commit(s: &mut State, vm: &str, id: &str) -> Res<()> {
    let mut devices = s.snapshot(id)?.1.devices.clone();
    let before: Vec<String> = s.vm(vm)?.disks().filter(|(_, d)| d.snapshotted()).map(|(_, d)| d.path.clone()).collect();
    for d in &mut devices {
        if let Kind::Disk(k) = &mut d.kind
            && k.snapshotted()
        {
            k.path = snapshot::new_delta(s, vm, &k.path)?;
        }
    }
    let v = s.vm_mut(vm)?;
    v.devices = devices;
    v.current = Some(id.to_owned());
    v.consolidation_needed = false;
    v.change_version = now();
    for top in before {
        drop_unused(s, vm, &top)?;
    }
    Ok(())
}

/// Deletes the links from `top` down that neither a snapshot, nor this VM, nor another has in a chain.
fn drop_unused(s: &mut State, vm: &str, top: &str) -> Res<()> {
    for path in s.store.chain(top) {
        let in_chain = |d: &Device| disk_path(d).is_some_and(|p| s.store.chain(p).contains(&path));
        let used = s
            .vms
            .values()
            .any(|v| v.devices.iter().chain(v.snapshots.iter().flat_map(|x| x.devices.iter())).any(in_chain));
        if used || !s.holders(&path, vm).is_empty() {
            return Ok(());
        }
        s.delete_file(&path)?;
    }
    Ok(())
}
