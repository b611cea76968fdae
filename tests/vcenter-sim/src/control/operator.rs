//! What an operator does in the vSphere Client, and what another product does on the same VMs: the real calls, by a short way.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::command::text;
use crate::Sim;
use crate::fault::{Fault, Res};
use crate::inventory::DiskSpec;
use crate::ops::reconfig::Who;
use crate::ops::work::{self, By, Work};
use crate::state::{Kind, Origin, State, TaskState};
use crate::value::{MoRef, Val};
use crate::xml::{Node, escape};

/// A task that takes longer is a test's mistake.
const LONGEST: Duration = Duration::from_secs(100);

pub(crate) async fn run(sim: &Arc<Sim>, v: &Value) -> Result<Value, String> {
    let started = {
        let mut s = sim.lock();
        let vm = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
        let work = match text(v, "cmd")? {
            "operator" => work_of(&s, v)?,
            "attach_foreign" => attach(&mut s, &vm, v)?,
            _ => detach(&s, &vm, text(v, "path")?)?,
        };
        let run_ms = v["ms"].as_u64().unwrap_or(0);
        let by = By { user: "VSPHERE.LOCAL\\Operator".into(), admin: true, late: false, run_ms };
        work::submit(sim, &mut s, &vm, work, by, &[])
    };
    sim.touch();
    let mut done = outcome(sim, started, v["wait"].as_bool().unwrap_or(true)).await?;
    if v["cmd"] == "attach_foreign" && done["fault"].is_null() {
        let s = sim.lock();
        let vm = s.find_vm(text(v, "vm")?).and_then(|id| s.vms.get(&id)).ok_or("the VM is gone")?;
        let found = vm.disks().find(|(_, d)| d.origin == Origin::Actor && d.path == v["path"].as_str().unwrap_or(""));
        if let Some((dev, _)) = found {
            done["key"] = json!(dev.key);
            done["bus"] = json!(dev.controller.and_then(|c| vm.controller(c)).map(|c| c.1));
            done["unit"] = json!(dev.unit);
        }
    }
    Ok(done)
}

/// `{"fault": type or null, "message", "task", "result"}`.
async fn outcome(sim: &Sim, started: Res<Option<MoRef>>, wait: bool) -> Result<Value, String> {
    let refused = |f: &Fault| json!({"fault": f.ty(), "message": f.text});
    let task = match started {
        Err(f) => return Ok(refused(&f)),
        Ok(None) => return Ok(json!({"fault": null})),
        Ok(Some(task)) => task.id,
    };
    if !wait {
        return Ok(json!({"fault": null, "task": task}));
    }
    let ended = async {
        let mut changed = sim.changes();
        loop {
            match sim.lock().task(&task) {
                Err(_) => return Err("the task was forgotten".to_owned()),
                Ok(t) if matches!(t.state, TaskState::Success | TaskState::Error) => return Ok(t.clone()),
                Ok(_) => {}
            }
            changed.changed().await.map_err(|e| e.to_string())?;
        }
    };
    let t = tokio::time::timeout(LONGEST, ended).await.map_err(|_| "the task does not end".to_owned())??;
    let mut out = t.error.as_ref().map_or_else(|| json!({"fault": null}), refused);
    out["task"] = json!(task);
    if let Some(Val::Ref(r)) = t.result {
        out["result"] = json!(r.id);
    }
    Ok(out)
}

fn work_of(s: &State, v: &Value) -> Result<Work, String> {
    let word = |key: &str| v[key].as_str().map(str::to_owned);
    let host = match v["host"].as_str() {
        Some(name) => Some(s.hosts.iter().find(|h| h.name == name || h.id == name).ok_or("no such host")?.id.clone()),
        None => None,
    };
    let datastore = word("datastore");
    if datastore.as_deref().is_some_and(|d| s.datastore(d).is_none()) {
        return Err("no such datastore".into());
    }
    Ok(match text(v, "call")? {
        "Destroy" => Work::Destroy,
        "Unregister" => Work::Unregister,
        "MarkAsTemplate" => Work::MarkAsTemplate,
        "Relocate" => Work::Relocate { datastore, host },
        "Migrate" => Work::Migrate { host },
        "Clone" => Work::Clone {
            name: word("name").ok_or("name missing")?,
            datastore,
            same_uuid: v["same_uuid"].as_bool().unwrap_or(false),
        },
        "CreateSnapshot" => Work::CreateSnapshot {
            ex: false,
            name: word("name").unwrap_or_else(|| "operator".into()),
            text: word("description").unwrap_or_default(),
            quiesce: false,
        },
        "RemoveSnapshot" => Work::RemoveSnapshot {
            id: word("snapshot").ok_or("snapshot missing")?,
            children: v["children"].as_bool().unwrap_or(false),
            merge: v["consolidate"].as_bool().unwrap_or(true),
        },
        "RemoveAllSnapshots" => Work::RemoveAllSnapshots,
        "RevertToSnapshot" => Work::Revert { id: Some(word("snapshot").ok_or("snapshot missing")?) },
        "RevertToCurrentSnapshot" => Work::Revert { id: None },
        "Consolidate" => Work::Consolidate,
        "PowerOn" => Work::Power { on: true },
        "PowerOff" => Work::Power { on: false },
        other => return Err(format!("unknown call '{other}'")),
    })
}

/// Another program attaches a disk: the reconfigure that it would send, at a slot that is free now.
fn attach(s: &mut State, vm: &str, v: &Value) -> Result<Work, String> {
    let path = text(v, "path")?;
    if let Some(size) = v["size"].as_u64() {
        let spec = DiskSpec { capacity: Some(size), ..DiskSpec::default() };
        s.add_file(path, &spec).map_err(|e| format!("{e:#}"))?;
    }
    let machine = s.vm(vm).map_err(|f| f.text)?;
    let fits = |bus: u32| v["bus"].as_u64().is_none_or(|b| b == u64::from(bus));
    let mut controllers: Vec<_> = machine
        .devices
        .iter()
        .filter_map(|d| match d.kind {
            Kind::Controller { kind, bus, .. } if kind.is_scsi() && fits(bus) => Some((bus, d.key, kind)),
            _ => None,
        })
        .collect();
    controllers.sort_unstable_by_key(|c| c.0);
    let free = |ctl: i32, unit: i32| !machine.devices.iter().any(|d| d.controller == Some(ctl) && d.unit == Some(unit));
    let slot = match v["unit"].as_i64().and_then(|u| i32::try_from(u).ok()) {
        Some(unit) => controllers.first().map(|c| (c.1, unit)),
        None => controllers.iter().find_map(|(_, key, kind)| {
            (0..64).find(|u| machine.unit_ok(*kind, *u) && free(*key, *u)).map(|u| (*key, u))
        }),
    };
    let (ctl, unit) = slot.ok_or("no free slot")?;
    let mode = v["mode"].as_str().unwrap_or("independent_nonpersistent");
    let mut name = String::new();
    escape(path, &mut name);
    let spec = Node::parse(&format!(
        "<spec xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><deviceChange><operation>add</operation><device \
         xsi:type=\"VirtualDisk\"><key>-1</key><backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName>{name}</fileName>\
         <diskMode>{mode}</diskMode></backing><controllerKey>{ctl}</controllerKey><unitNumber>{unit}</unitNumber>\
         <capacityInKB>0</capacityInKB></device></deviceChange></spec>"
    ))?;
    let who = if v["force"].as_bool().unwrap_or(false) { Who::Forced } else { Who::Actor };
    Ok(Work::Reconfigure { spec, who })
}

fn detach(s: &State, vm: &str, path: &str) -> Result<Work, String> {
    let machine = s.vm(vm).map_err(|f| f.text)?;
    let found = machine.disks().find(|(_, d)| d.origin == Origin::Actor && d.path == path);
    let key = found.map(|(dev, _)| dev.key).ok_or("no such disk of another program")?;
    let spec = Node::parse(&format!(
        "<spec xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><deviceChange><operation>remove</operation><device \
         xsi:type=\"VirtualDisk\"><key>{key}</key><capacityInKB>0</capacityInKB></device></deviceChange></spec>"
    ))?;
    Ok(Work::Reconfigure { spec, who: Who::Actor })
}
