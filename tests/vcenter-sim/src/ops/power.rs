//! Power on, power off, destroy.

use crate::Sim;
use crate::fault::{Fault, Res};
use crate::state::{State, now};

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
        let paths: Vec<String> = vm.disks().filter(|(_, d)| !d.nonpersistent()).map(|(_, d)| d.path.clone()).collect();
        for p in paths {
            // A running VM writes to its top file: it can't while that file is open anywhere else.
            if s.locked.contains(&p) || !s.holders(&p, id).is_empty() {
                return Err(s.locked_fault(&p));
            }
        }
    }
    let vm = s.vm_mut(id)?;
    vm.on = on;
    vm.change_version = now();
    Ok(())
}

/// Destroy deletes every attached disk, those hot-added from other VMs included (vSphere API 8.0, ManagedEntity.Destroy).
pub(crate) async fn destroy(sim: &Sim, id: &str) -> Res<()> {
    let keys: Vec<(i32, String)> = {
        let s = sim.lock();
        let vm = s.vm(id)?;
        if vm.on {
            let r = "poweredOff";
            return Err(Fault::new("InvalidPowerState", "The virtual machine is powered on.")
                .with("requestedState", r)
                .with("existingState", "poweredOn"));
        }
        vm.disks().map(|(dev, d)| (dev.key, d.path.clone())).collect()
    };
    for (key, _) in &keys {
        sim.backend.detach(id, *key).await.map_err(|e| Fault::vm_config(&e))?;
    }
    let mut s = sim.lock();
    for (_, top) in keys {
        for path in s.store.chain(&top) {
            s.store.delete(&path).map_err(|e| Fault::new("SystemError", e.to_string()))?;
        }
    }
    s.vms.remove(id);
    Ok(())
}
