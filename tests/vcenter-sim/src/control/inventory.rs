//! Commands that read or change the inventory.

use serde_json::{Value, json};

use super::command::text;
use crate::Sim;
use crate::inventory::{DatastoreSpec, VmSpec};
use crate::state::{Device, Disk, Kind, State, Vm, now};

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
        _ => {
            let name = text(v, "name")?;
            let h = s.hosts.iter_mut().find(|h| h.name == name).ok_or("no such host")?;
            if let Some(on) = v["in_maintenance"].as_bool() {
                h.in_maintenance = on;
            }
            Ok(json!({}))
        }
    }
}

fn find<'a>(s: &'a State, v: &Value) -> Result<&'a Vm, String> {
    let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
    s.vm(&id).map_err(|f| f.text)
}

fn disk(s: &State, vm: &Vm, dev: &Device, d: &Disk) -> Value {
    let ctl = dev.controller.and_then(|c| vm.controller(c));
    let file = s.store.files.get(&d.path);
    json!({"key": dev.key, "path": d.path, "bus": ctl.map(|c| c.1), "controller": ctl.map(|c| format!("{:?}", c.0).to_lowercase()),
        "controller_key": dev.controller, "unit": dev.unit, "mode": d.mode, "uuid": file.map(|f| f.uuid.clone()),
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
        .map(|d| json!({"id": d.id, "name": d.name, "dir": d.dir, "accessible": d.accessible}))
        .collect();
    json!({"api_version": s.api_text, "vms": vms, "datastores": ds, "sessions": s.sessions.len(), "tasks": s.tasks.len()})
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
