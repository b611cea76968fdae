//! A VM moves: to another host (vMotion), or with its files to another datastore (Storage vMotion).

use std::collections::BTreeMap;
use std::path::Path;

use crate::fault::{Fault, Res};
use crate::ops::events;
use crate::state::{Device, Kind, State, Vm, now};
use crate::store::{host_file, split_path};
use crate::value::MoRef;

/// vMotion. Without a host: to any other that can take the VM.
pub(crate) fn migrate(s: &mut State, vm: &str, host: Option<&str>) -> Res<()> {
    let v = s.vm(vm)?;
    let target = match host {
        Some(h) => h.to_owned(),
        None => {
            let fits = |h: &&crate::state::Host| h.id != v.host && takes(s, v, &h.id).is_ok();
            let found = s.hosts.iter().find(fits);
            found.map(|h| h.id.clone()).ok_or_else(|| Fault::new("InvalidState", "No other host can take the VM."))?
        }
    };
    takes(s, v, &target)?;
    let (source, on) = (v.host.clone(), v.on);
    if on {
        events::vm_moves(s, "VmBeingHotMigratedEvent", vm, &target);
    }
    let v = s.vm_mut(vm)?;
    v.host = target;
    v.change_version = now();
    events::vm_moves(s, "VmMigratedEvent", vm, &source);
    Ok(())
}

/// A host takes a VM when it is in service and sees the VM's datastores.
fn takes(s: &State, vm: &Vm, host: &str) -> Res<()> {
    let h = s.host(host).ok_or_else(|| Fault::gone(&MoRef::new("HostSystem", host)))?;
    if h.connection != "connected" {
        return Err(Fault::new("HostNotConnected", "The destination host is not connected."));
    }
    if h.in_maintenance || h.entering.is_some() {
        return Err(Fault::new("InvalidState", "The operation is not allowed in the current state of the host."));
    }
    let stores = vm.disks().filter_map(|(_, d)| split_path(&d.path).map(|p| p.0.to_owned()));
    for ds in stores.chain([vm.datastore.clone()]) {
        if !s.host_sees(host, &ds) {
            return Err(
                Fault::new("InaccessibleDatastore", format!("Unable to access datastore '{ds}'.")).with("name", ds)
            );
        }
    }
    Ok(())
}

/// Storage vMotion: every file of the VM's chains, attached disks of others included, gets a path on `datastore`. A file that
/// another VM holds is copied, and what that VM holds stays behind.
pub(crate) fn relocate(s: &mut State, vm: &str, datastore: Option<&str>, host: Option<&str>) -> Res<()> {
    if let Some(ds) = datastore {
        let store = s.datastore(ds).ok_or_else(|| Fault::new("InvalidDatastore", ds).with("name", ds))?;
        let dir = store.dir.clone();
        let moved = plan(s, vm, ds)?;
        for (old, new) in &moved {
            move_file(s, vm, &moved, old, new, &dir)
                .map_err(|e| Fault::new("SystemError", e.to_string()).with("reason", e.to_string()))?;
        }
        let v = s.vm_mut(vm)?;
        v.datastore = ds.to_owned();
        v.working_dir = None;
        let frozen = v.snapshots.iter_mut().flat_map(|x| x.devices.iter_mut());
        for d in v.devices.iter_mut().chain(frozen) {
            if let Kind::Disk(k) = &mut d.kind
                && let Some(new) = moved.get(&k.path)
            {
                k.path = new.clone();
            }
        }
    }
    if let Some(h) = host {
        migrate(s, vm, Some(h))?;
    }
    s.vm_mut(vm)?.change_version = now();
    Ok(())
}

fn paths(s: &State, devices: &[Device]) -> Vec<String> {
    let tops = devices.iter().filter_map(|d| if let Kind::Disk(k) = &d.kind { Some(&k.path) } else { None });
    tops.flat_map(|p| s.store.chain(p)).collect()
}

/// Old path → new path, of all files that are not there yet.
fn plan(s: &State, vm: &str, ds: &str) -> Res<BTreeMap<String, String>> {
    let v = s.vm(vm)?;
    let mut all = paths(s, &v.devices);
    all.extend(v.snapshots.iter().flat_map(|x| paths(s, &x.devices)));
    let mut out = BTreeMap::new();
    for old in all {
        let Some((from, rel)) = split_path(&old) else { continue };
        if from == ds || out.contains_key(&old) || !s.store.files.contains_key(&old) {
            continue;
        }
        let stem = rel.strip_suffix(".vmdk").unwrap_or(rel);
        let names = std::iter::once(format!("[{ds}] {rel}")).chain((1..).map(|n| format!("[{ds}] {stem}_{n}.vmdk")));
        let taken = |p: &String| s.store.files.contains_key(p) || out.values().any(|x| x == p);
        if let Some(new) = names.into_iter().find(|p| !taken(p)) {
            out.insert(old, new);
        }
    }
    Ok(out)
}

fn move_file(
    s: &mut State,
    vm: &str,
    moved: &BTreeMap<String, String>,
    old: &str,
    new: &str,
    dir: &Path,
) -> std::io::Result<()> {
    let held = !s.holders(old, vm).is_empty();
    let Some(mut file) = s.store.files.get(old).cloned() else { return Ok(()) };
    let rel = split_path(new).map(|(_, rel)| rel.to_owned()).unwrap_or_default();
    let target = host_file(dir, &rel, if file.parent.is_some() { "delta" } else { "flat" });
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if held {
        std::fs::copy(&file.host, &target)?;
        file.borrowed = false;
        file.host = target;
    } else if !file.borrowed {
        if std::fs::rename(&file.host, &target).is_err() {
            std::fs::copy(&file.host, &target)?;
            std::fs::remove_file(&file.host)?;
        }
        file.host = target;
    }
    file.path = new.to_owned();
    file.parent = file.parent.map(|p| moved.get(&p).cloned().unwrap_or(p));
    if !held {
        s.store.files.remove(old);
    }
    s.store.files.insert(new.to_owned(), file);
    Ok(())
}
