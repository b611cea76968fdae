//! Snapshots: create moves the VM's disks to new deltas; remove merges a delta into its parent unless somebody else has either open.

use crate::fault::{Fault, Res};
use crate::ops::{areas, hosts, space};
use crate::state::{Kind, Snapshot, State, Vm, now};
use crate::store::split_path;
use crate::tracking::Track;
use crate::value::{MoRef, Val};

/// Longest chain that ESXi allows.
const MAX_DEPTH: usize = 32;

fn io(e: &std::io::Error) -> Fault {
    Fault::new("SystemError", e.to_string()).with("reason", e.to_string())
}

pub(crate) fn create(s: &mut State, id: &str, name: &str, description: &str, quiesce: bool) -> Res<Val> {
    let vm = s.vm(id)?;
    if vm.template {
        return Err(Fault::new("NotSupported", "The operation is not supported on the object."));
    }
    for (dev, d) in vm.disks() {
        let shared = dev.controller.and_then(|c| vm.device(c)).is_some_and(|c| match &c.kind {
            Kind::Controller { sharing, .. } => !sharing.is_empty() && sharing != "noSharing",
            _ => false,
        });
        let rdm = s.store.files.get(&d.path).is_some_and(|f| f.backing == crate::inventory::BackingKind::RdmPhysical);
        if shared || d.sharing.as_deref() == Some("sharingMultiWriter") || rdm && d.snapshotted() {
            let inner =
                Fault::new("DeviceNotSupported", "Device is not supported").with("device", format!("disk {}", dev.key));
            return Err(Fault::new(
                "SnapshotIncompatibleDeviceInVm",
                "An error occurred while taking a snapshot: Device incompatible.",
            )
            .with("fault", inner.localized()));
        }
        if s.store.chain(&d.path).len() >= MAX_DEPTH {
            return Err(Fault::new("TooManySnapshotLevels", "Snapshot hierarchy is too deep."));
        }
    }
    let frozen = vm.devices.clone();
    let tops: Vec<(i32, String)> =
        vm.disks().filter(|(_, d)| d.snapshotted()).map(|(dev, d)| (dev.key, d.path.clone())).collect();
    let number = vm.next_snapshot;
    let (on, tools, parent) = (vm.on, vm.tools, vm.current.clone());
    // All or nothing: no delta is made before all have room.
    for (_, top) in &tops {
        let (path, _) = delta_name(s, id, top)?;
        space::check(s, &path, s.knobs.need_snapshot)?;
    }
    areas::stun(s, id)?;
    for (key, top) in tops {
        if let Some(f) = s.store.files.get_mut(&top) {
            f.change_id = f.track.as_ref().map(Track::id);
        }
        let path = new_delta(s, id, &top)?;
        set_path(s, id, key, &path)?;
    }
    let snap_id = format!("snapshot-{}", s.next());
    let vm = s.vm_mut(id)?;
    vm.snapshots.push(Snapshot {
        id: snap_id.clone(),
        number,
        name: name.into(),
        description: description.into(),
        created: now(),
        on,
        quiesced: quiesce && tools && on,
        parent,
        devices: frozen,
    });
    vm.next_snapshot += 1;
    vm.current = Some(snap_id.clone());
    vm.change_version = now();
    Ok(Val::Ref(MoRef::new("VirtualMachineSnapshot", snap_id)))
}

/// Makes a delta of the VM on top of `top`.
pub(crate) fn new_delta(s: &mut State, vm: &str, top: &str) -> Res<String> {
    let (path, dir) = delta_name(s, vm, top)?;
    let content = u32::try_from(s.next()).unwrap_or(1).wrapping_mul(2_654_435_761);
    s.store.create_delta(top, &path, &dir, content).map_err(|e| io(&e))?;
    Ok(path)
}

fn set_path(s: &mut State, vm: &str, key: i32, path: &str) -> Res<()> {
    for d in &mut s.vm_mut(vm)?.devices {
        if let (true, Kind::Disk(disk)) = (d.key == key, &mut d.kind) {
            disk.path = path.into();
        }
    }
    Ok(())
}

/// `[ds] a/b.vmdk` or `[ds] a/b-000003.vmdk` → the next free `[ds] a/b-00000N.vmdk`, and the datastore's folder.
fn delta_name(s: &State, vm: &str, top: &str) -> Res<(String, std::path::PathBuf)> {
    let (ds, rel) = split_path(top).ok_or_else(|| Fault::file_locked(top))?;
    // In the VM's working folder, when it has one of its own: `[ds] folder/`.
    let elsewhere = s.vm(vm)?.working_dir.as_deref().and_then(split_path);
    let file = rel.rsplit('/').next().unwrap_or(rel);
    let moved = elsewhere.map(|(_, folder)| format!("{folder}{file}"));
    let (ds, rel) = (elsewhere.map_or(ds, |(ds, _)| ds), moved.as_deref().unwrap_or(rel));
    let store = s.datastore(ds).ok_or_else(|| Fault::new("InvalidDatastore", ds).with("name", ds))?;
    if !store.accessible {
        let r = MoRef::new("Datastore", store.id.clone());
        return Err(Fault::new("InaccessibleDatastore", format!("Datastore '{ds}' is not accessible."))
            .with("datastore", r)
            .with("name", ds));
    }
    let stem = rel.strip_suffix(".vmdk").unwrap_or(rel);
    let plain = match stem.rsplit_once('-') {
        Some((head, n)) if n.len() == 6 && n.bytes().all(|b| b.is_ascii_digit()) => head,
        _ => stem,
    };
    let free = (1..1_000_000).map(|n| format!("[{ds}] {plain}-{n:06}.vmdk")).find(|p| !s.store.files.contains_key(p));
    free.map(|p| (p, store.dir.clone())).ok_or_else(|| Fault::new("TooManySnapshotLevels", "no free delta name"))
}

/// The snapshot, and with `children` all that stand on it, parents first.
pub(crate) fn subtree(vm: &Vm, id: &str, children: bool) -> Vec<String> {
    let mut all = vec![id.to_owned()];
    let mut i = 0;
    while children && i < all.len() {
        let next: Vec<String> =
            vm.snapshots.iter().filter(|x| x.parent.as_ref() == Some(&all[i])).map(|x| x.id.clone()).collect();
        all.extend(next);
        i += 1;
    }
    all
}

/// `snapshot: file` for each file of these snapshots that another VM has open for reading (nonpersistent) on behalf of
/// this user.
pub(crate) fn read_by(s: &State, snapshots: &[String], user: &str) -> Vec<String> {
    let mut read = Vec::new();
    for (vm, snapshot) in snapshots.iter().filter_map(|id| s.snapshot(id).ok()) {
        let others = s.vms.values().filter(|other| other.id != vm.id).flat_map(Vm::disks);
        let readers = others.filter(|(_, d)| d.nonpersistent() && d.by.as_deref() == Some(user));
        let open: Vec<String> = readers.flat_map(|(_, d)| s.store.chain(&d.path)).collect();
        let frozen =
            snapshot.devices.iter().filter_map(|d| if let Kind::Disk(k) = &d.kind { Some(&k.path) } else { None });
        read.extend(frozen.filter(|path| open.contains(path)).map(|path| format!("{}: {path}", snapshot.id)));
    }
    read
}

/// Takes a snapshot out of the tree. With `consolidate` its delta is merged; a file open elsewhere leaves the VM in need of consolidation.
pub(crate) fn remove(s: &mut State, id: &str, children: bool, consolidate: bool) -> Res<()> {
    let vm = s.snapshot(id)?.0.id.clone();
    let v = s.vm_mut(&vm)?;
    let gone = subtree(v, id, children);
    for g in gone.iter().rev() {
        let parent = v.snapshots.iter().find(|x| x.id == *g).and_then(|x| x.parent.clone());
        v.snapshots.retain(|x| x.id != *g);
        for x in &mut v.snapshots {
            if x.parent.as_ref() == Some(g) {
                x.parent = parent.clone();
            }
        }
        if v.current.as_ref() == Some(g) {
            v.current = parent;
        }
    }
    v.change_version = now();
    if consolidate { merge(s, &vm) } else { Ok(()) }
}

pub(crate) fn remove_all(s: &mut State, vm: &str) -> Res<()> {
    let v = s.vm_mut(vm)?;
    v.snapshots.clear();
    v.current = None;
    v.change_version = now();
    merge(s, vm)
}

/// The merge that belongs to a removal: one that is blocked leaves the VM in need of consolidation, and the removal is a
/// success all the same, unless the switch `set_removal_fails` says that it tells.
fn merge(s: &mut State, vm: &str) -> Res<()> {
    let host = s.vm(vm)?.host.clone();
    if hosts::conflicts(s, &host) && redundant(s, vm, None).is_some() {
        s.vm_mut(vm)?.consolidation_needed = true;
        return Ok(());
    }
    match consolidate(s, vm) {
        Err(_) if !s.knobs.removal_fails && s.vm(vm)?.consolidation_needed => Ok(()),
        done => done,
    }
}

/// Merges every link of the VM's chains that no snapshot needs. Err(FileLocked) when one could not be merged.
pub(crate) fn consolidate(s: &mut State, vm: &str) -> Res<()> {
    let mut blocked = None;
    while let Some((child, parent)) = redundant(s, vm, blocked.as_deref()) {
        let open = |p: &str| s.locked.contains(p) || !s.holders(p, vm).is_empty();
        if open(&child) || open(&parent) {
            blocked = Some(parent);
            break;
        }
        s.give_back(&child);
        s.store.merge_into_parent(&child).map_err(|e| io(&e))?;
        for v in s.vms.values_mut() {
            let frozen = v.snapshots.iter_mut().flat_map(|x| x.devices.iter_mut());
            for d in v.devices.iter_mut().chain(frozen) {
                if let Kind::Disk(disk) = &mut d.kind
                    && disk.path == child
                {
                    disk.path = parent.clone();
                }
            }
        }
    }
    let v = s.vm_mut(vm)?;
    v.change_version = now();
    v.consolidation_needed = blocked.is_some();
    match blocked {
        Some(path) => Err(s.locked_fault(&path)),
        None => Ok(()),
    }
}

/// A (child, parent) link of the VM whose parent is no snapshot's frozen file, nor what a linked clone stands on.
fn redundant(s: &State, vm: &str, skip: Option<&str>) -> Option<(String, String)> {
    let v = s.vms.get(vm)?;
    let needed = |path: &str| {
        s.vms
            .values()
            .flat_map(|v| v.snapshots.iter())
            .flat_map(|x| x.devices.iter())
            .any(|d| matches!(&d.kind, Kind::Disk(k) if k.path == path))
    };
    for (_, d) in v.disks().filter(|(_, d)| d.snapshotted()) {
        for pair in s.store.chain(&d.path).windows(2) {
            let base = s.store.files.get(&pair[0]).is_some_and(|file| file.clone);
            if !base && !needed(&pair[1]) && skip != Some(pair[1].as_str()) {
                return Some((pair[0].clone(), pair[1].clone()));
            }
        }
    }
    None
}
