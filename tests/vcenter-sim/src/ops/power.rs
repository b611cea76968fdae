//! Power on, power off, destroy, unregister, mark as template.

use crate::Sim;
use crate::fault::{Fault, Res};
use crate::ops::areas;
use crate::state::{Kind, Origin, State, now};
use crate::value::MoRef;

pub(crate) fn set(s: &mut State, id: &str, on: bool) -> Res<()> {
    let vm = s.vm(id)?;
    if vm.on == on {
        let state = if on { "poweredOn" } else { "poweredOff" };
        return Err(Fault::new(
            "InvalidPowerState",
            "The attempted operation cannot be performed in the current state.",
        )
        .with("requestedState", state)
        .with("existingState", state));
    }
    if on {
        if vm.template {
            return Err(Fault::new("NotSupported", "The operation is not supported on the object."));
        }
        if let Some((_, d)) = vm.disks().find(|(_, d)| !s.store.files.contains_key(&d.path)) {
            // Also with a disk of another VM that has vanished: a proxy with a stale disk does not start.
            return Err(
                Fault::new("FileNotFound", format!("File {} was not found", d.path)).with("file", d.path.as_str())
            );
        }
        let paths: Vec<String> = vm.disks().filter(|(_, d)| !d.nonpersistent()).map(|(_, d)| d.path.clone()).collect();
        for p in paths {
            // A running VM writes to its top file: it can't while that file is open anywhere else.
            if s.locked.contains(&p) || !s.holders(&p, id).is_empty() {
                return Err(s.locked_fault(&p));
            }
        }
    }
    if on {
        areas::stun(s, id)?;
    }
    let vm = s.vm_mut(id)?;
    vm.on = on;
    vm.change_version = now();
    Ok(())
}

/// Destroy deletes every attached disk, those hot-added from other VMs included (vSphere API 8.0, ManagedEntity.Destroy).
pub(crate) async fn destroy(sim: &Sim, id: &str) -> Res<()> {
    let (keys, tops) = {
        let s = sim.lock();
        let vm = s.vm(id)?;
        must_be_off(vm)?;
        let keys: Vec<i32> = vm.disks().map(|(dev, _)| dev.key).collect();
        let frozen = vm.snapshots.iter().flat_map(|x| x.devices.iter());
        let mut tops: Vec<(String, Origin)> = Vec::new();
        for d in vm.devices.iter().chain(frozen) {
            if let Kind::Disk(k) = &d.kind {
                tops.push((k.path.clone(), k.origin));
            }
        }
        (keys, tops)
    };
    for key in &keys {
        sim.backend.detach(id, *key).await.map_err(|e| Fault::vm_config(&e))?;
    }
    let mut s = sim.lock();
    for (top, origin) in tops {
        for path in s.store.chain(&top) {
            if !s.store.files.contains_key(&path) {
                continue;
            }
            if origin != Origin::Own {
                s.counters.foreign_destroyed.push(path.clone());
            }
            s.delete_file(&path)?;
        }
    }
    s.vms.remove(id);
    Ok(())
}

fn must_be_off(vm: &crate::state::Vm) -> Res<()> {
    if !vm.on {
        return Ok(());
    }
    Err(Fault::new("InvalidPowerState", "The virtual machine is powered on.")
        .with("requestedState", "poweredOff")
        .with("existingState", "poweredOn"))
}

/// UnregisterVM (the files stay) and MarkAsTemplate: no tasks, of a powered-off VM only.
pub(crate) fn at_once(s: &mut State, id: &str, unregister: bool) -> Res<()> {
    let vm = s.vm(id)?;
    if let Some(task) = &vm.busy {
        let text = "Another task is already in progress.";
        return Err(Fault::new("TaskInProgress", text).with("task", MoRef::new("Task", task.clone())));
    }
    must_be_off(vm)?;
    if unregister {
        s.vms.remove(id);
    } else {
        let vm = s.vm_mut(id)?;
        vm.template = true;
        vm.change_version = now();
    }
    Ok(())
}
