//! Commands that read or change the inventory.

use serde_json::{Value, json};

use super::command::text;
use crate::Sim;
use crate::inventory::{DatastoreSpec, VmSpec};
use crate::ops::{hosts, space};
use crate::state::{Device, Disabled, Disk, Kind, State, Vm, now};

pub(crate) fn run(sim: &Sim, v: &Value) -> Result<Value, String> {
    let mut guard = sim.lock();
    let s = &mut *guard;
    match text(v, "cmd")? {
        "state" => Ok(state(s)),
        "attached" => {
            let vm = find(s, v)?;
            let disks: Vec<Value> = vm.disks().map(|(dev, d)| disk(s, vm, dev, d)).collect();
            Ok(json!({"disks": disks}))
        }
        "snapshots" => Ok(json!({"snapshots": snapshots(find(s, v)?)})),
        "disk_file" => disk_file(s, v),
        "add_vm" => {
            let spec: VmSpec = serde_json::from_value(v["vm"].clone()).map_err(|e| e.to_string())?;
            if s.find_vm(&spec.name).is_some() {
                return Err("a VM of this name exists".into());
            }
            Ok(json!({"id": s.add_vm(&spec).map_err(|e| format!("{e:#}"))?}))
        }
        "add_datastore" => {
            let spec: DatastoreSpec = serde_json::from_value(v["datastore"].clone()).map_err(|e| e.to_string())?;
            s.add_datastore(&spec).map_err(|e| format!("{e:#}"))?;
            Ok(json!({}))
        }
        "remove_disk" => remove_disk(s, v),
        "datastore" => {
            let name = text(v, "name")?;
            let d = s.datastores.iter_mut().find(|d| d.name == name).ok_or("no such datastore")?;
            if let Some(on) = v["accessible"].as_bool() {
                d.accessible = on;
            }
            if let Some(mode) = v["access_mode"].as_str() {
                d.access_mode = mode.into();
            }
            if let Some(free) = v["free"].as_u64() {
                d.free = free;
            }
            Ok(json!({}))
        }
        "methods" => methods(s, v),
        "disable_method" => disable_method(s, v),
        "delta_growth" => {
            let disk = v["disk"].as_str();
            let (path, size, free) = space::grow(s, text(v, "vm")?, disk, v["bytes"].as_u64().ok_or("bytes missing")?)?;
            Ok(json!({"path": path, "size": size, "free": free}))
        }
        "delete_file" => {
            let path = text(v, "path")?;
            if !s.store.files.contains_key(path) {
                return Err("no such file".into());
            }
            s.delete_file(path).map_err(|f| f.text)?;
            Ok(json!({}))
        }
        "stray_file" => {
            let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
            let stray = (text(v, "path")?.to_owned(), v["size"].as_u64().ok_or("size missing")?);
            s.vm_mut(&id).map_err(|f| f.text)?.strays.push(stray);
            Ok(json!({}))
        }
        "consolidation" => {
            let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
            s.vm_mut(&id).map_err(|f| f.text)?.consolidation_needed = v["needed"].as_bool().ok_or("needed missing")?;
            Ok(json!({}))
        }
        "age_snapshot" => age_snapshot(s, v),
        _ => hosts::change(s, text(v, "name")?, v),
    }
}

/// Of one VM, or of all.
fn methods(s: &State, v: &Value) -> Result<Value, String> {
    let only = match v["vm"].as_str() {
        Some(name) => Some(s.find_vm(name).ok_or("no such vm")?),
        None => None,
    };
    let vms = s.vms.values().filter(|vm| only.as_ref().is_none_or(|id| *id == vm.id));
    let one =
        |vm: &Vm, d: &Disabled| json!({"vm": vm.name, "method": d.method, "source": d.source, "reason": d.reason});
    let all: Vec<Value> = vms.flat_map(|vm| vm.disabled.iter().map(move |d| one(vm, d))).collect();
    Ok(json!({"methods": all}))
}

/// As another product does it.
fn disable_method(s: &mut State, v: &Value) -> Result<Value, String> {
    let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
    let (method, source) =
        (text(v, "method")?.to_owned(), v["source"].as_str().unwrap_or("another product").to_owned());
    let vm = s.vm_mut(&id).map_err(|f| f.text)?;
    if v["on"].as_bool().unwrap_or(true) {
        vm.disabled.push(Disabled {
            method,
            source,
            user: String::new(),
            reason: "set by a test".into(),
            session: None,
        });
    } else {
        vm.disabled.retain(|d| d.method != method || d.source != source);
    }
    Ok(json!({}))
}

/// As if a snapshot had been taken so many hours ago.
fn age_snapshot(s: &mut State, v: &Value) -> Result<Value, String> {
    let (id, hours) = (text(v, "snapshot")?, v["hours"].as_i64().ok_or("hours missing")?);
    let vm = s.snapshot(id).map(|(vm, _)| vm.id.clone()).map_err(|f| f.text)?;
    let then =
        jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(hours)).map_err(|e| e.to_string())?;
    let snapshots = &mut s.vm_mut(&vm).map_err(|f| f.text)?.snapshots;
    snapshots.iter_mut().filter(|x| x.id == id).for_each(|x| x.created = format!("{then:.6}"));
    Ok(json!({}))
}

fn find<'a>(s: &'a State, v: &Value) -> Result<&'a Vm, String> {
    let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
    s.vm(&id).map_err(|f| f.text)
}

fn disk(s: &State, vm: &Vm, dev: &Device, d: &Disk) -> Value {
    let ctl = dev.controller.and_then(|c| vm.controller(c));
    let file = s.store.files.get(&d.path);
    json!({"key": dev.key, "path": d.path, "bus": ctl.map(|c| c.1), "controller": ctl.map(|c| format!("{:?}", c.0).to_lowercase()),
        "controller_key": dev.controller, "unit": dev.unit, "mode": d.mode, "origin": d.origin.text(), "uuid": file.map(|f| f.uuid.clone()),
        "capacity": file.map(|f| f.capacity), "chain": s.store.chain(&d.path)})
}

fn snapshots(vm: &Vm) -> Vec<Value> {
    vm.snapshots
        .iter()
        .map(|x| {
            json!({"id": x.id, "name": x.name, "description": x.description, "parent": x.parent, "quiesced": x.quiesced,
            "current": vm.current.as_ref() == Some(&x.id)})
        })
        .collect()
}

fn state(s: &State) -> Value {
    let vms: Vec<Value> = s
        .vms
        .values()
        .map(|vm| {
            let disks: Vec<Value> = vm.disks().map(|(dev, d)| disk(s, vm, dev, d)).collect();
            json!({"id": vm.id, "name": vm.name, "on": vm.on, "uuid": vm.uuid, "instance_uuid": vm.instance_uuid, "disks": disks,
                "snapshots": snapshots(vm), "consolidation_needed": vm.consolidation_needed, "busy": vm.busy})
        })
        .collect();
    let ds: Vec<Value> = s
        .datastores
        .iter()
        .map(|d| json!({"id": d.id, "name": d.name, "dir": d.dir, "accessible": d.accessible, "free": d.free}))
        .collect();
    json!({"api_version": s.api_text, "vms": vms, "datastores": ds, "sessions": s.sessions.len(), "tasks": s.tasks.len(),
        "under_way": s.under_way})
}

/// Host path of the raw file that a snapshot froze: the base of the disk's chain.
fn disk_file(s: &State, v: &Value) -> Result<Value, String> {
    let vm = find(s, v)?;
    let what = v["disk"]
        .as_str()
        .map(str::to_owned)
        .or_else(|| v["disk"].as_i64().map(|n| n.to_string()))
        .ok_or("disk missing")?;
    let (_, d) = vm.find_disk(&what).ok_or("no such disk")?;
    let chain = s.store.chain(&d.path);
    let base = chain.last().and_then(|p| s.store.files.get(p)).ok_or("file gone")?;
    Ok(json!({"file": base.host, "path": base.path, "depth": chain.len(), "capacity": base.capacity}))
}

/// As if an operator detached the disk behind everybody's back; the backend keeps showing it until `device_remove`.
fn remove_disk(s: &mut State, v: &Value) -> Result<Value, String> {
    let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
    let what = v["disk"]
        .as_str()
        .map(str::to_owned)
        .or_else(|| v["disk"].as_i64().map(|n| n.to_string()))
        .ok_or("disk missing")?;
    let vm = s.vm_mut(&id).map_err(|f| f.text)?;
    let key = vm.find_disk(&what).map(|(dev, _)| dev.key).ok_or("no such disk")?;
    vm.devices.retain(|d| !(d.key == key && matches!(d.kind, Kind::Disk(_))));
    vm.change_version = now();
    Ok(json!({"key": key}))
}
