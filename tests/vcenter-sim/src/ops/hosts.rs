//! A host that leaves service: the task of the entering phase, and what is refused on its VMs meanwhile.
//!
//! ```text
//! in service --entering:true--> entering (task runs, flag false) --in_maintenance:true--> in maintenance (task success)
//!     ^------------entering:false (task error RequestCanceled)-------'         '--in_maintenance:false--> in service
//! ```

use std::time::Instant;

use serde_json::Value;

use crate::export;
use crate::fault::{Fault, Res};
use crate::ops::events::{self, HostMoment};
use crate::ops::task;
use crate::render;
use crate::schema::SCHEMA;
use crate::state::{Host, State, TaskState, Vm, now};
use crate::value::MoRef;

/// Refuses a call on a VM whose host cannot or may not do it.
pub(crate) fn check(s: &State, vm: &Vm, method: &str) -> Res<()> {
    let Some(h) = s.host(&vm.host) else { return Ok(()) };
    if h.connection != "connected" {
        return Err(Fault::new(
            "HostNotConnected",
            "Unable to communicate with the remote host, since it is disconnected.",
        ));
    }
    let leaving = h.entering.is_some() || h.in_maintenance;
    match &h.block {
        Some(fault) if leaving && h.blocked.iter().any(|m| m == method || m == "*") => {
            let fields = serde_json::json!({"message": "The host is entering maintenance mode."});
            let mut f = task::cued_fault(fault, &fields, &vm.moref());
            if let (Some(t), "TaskInProgress") = (&h.entering, f.ty()) {
                f.obj.fields.retain(|(n, _)| *n != "task");
                f = f.with("task", MoRef::new("Task", t.clone()));
            }
            Err(f)
        }
        _ => Ok(()),
    }
}

/// Whether removing a snapshot on this host leaves its delta behind.
pub(crate) fn conflicts(s: &State, host: &str) -> bool {
    s.host(host).is_some_and(|h| h.conflict && h.entering.is_some())
}

/// The control command `host` (CONTROL.md).
pub(crate) fn change(s: &mut State, name: &str, v: &Value) -> Result<Value, String> {
    let id = s.hosts.iter().find(|h| h.name == name).map(|h| h.id.clone()).ok_or("no such host")?;
    let before = s.host(&id).map(|h| HostMoment::of(s, h)).ok_or("no such host")?;
    if let Some(on) = v["silent"].as_bool() {
        host_mut(s, &id, |h| h.silent = on);
    }
    if let Some(task) = v.get("cluster_task") {
        cluster_task(s, &id, task.as_str(), v["cluster_about"].as_str() == Some("host"))?;
    }
    if let Some(on) = v["entering"].as_bool() {
        let description = v["description"].as_str().unwrap_or("HostSystem.enterMaintenanceMode").to_owned();
        enter(s, &id, on, &description);
    }
    if let Some(on) = v["in_maintenance"].as_bool() {
        if on {
            end_task(s, &id, true);
        }
        host_mut(s, &id, |h| h.in_maintenance = on);
    }
    let word = |key: &str, allowed: &[&str]| match v[key].as_str() {
        Some(t) if !allowed.contains(&t) => Err(format!("{key}: one of {allowed:?}")),
        t => Ok(t.map(str::to_owned)),
    };
    let standby = word("standby", &["none", "entering", "in", "exiting"])?;
    let connection = word("connection", &["connected", "disconnected", "notResponding"])?;
    let block = match &v["block"] {
        Value::String(t) if !SCHEMA.is_a(t, "MethodFault") => return Err(format!("unknown fault '{t}'")),
        Value::String(t) => Some(Some(t.clone())),
        Value::Null if v.get("block").is_some() => Some(None),
        _ => None,
    };
    let blocked =
        v["block_methods"].as_array().map(|l| l.iter().filter_map(|m| m.as_str().map(str::to_owned)).collect());
    host_mut(s, &id, |h| {
        h.standby = standby.unwrap_or_else(|| std::mem::take(&mut h.standby));
        h.connection = connection.unwrap_or_else(|| std::mem::take(&mut h.connection));
        h.in_quarantine = v["quarantine"].as_bool().unwrap_or(h.in_quarantine);
        h.conflict = v["conflict"].as_bool().unwrap_or(h.conflict);
        h.block = block.unwrap_or_else(|| h.block.take());
        h.blocked = blocked.unwrap_or_else(|| std::mem::take(&mut h.blocked));
    });
    events::host_changed(s, &id, &before);
    let task = s.host(&id).and_then(|h| h.entering.clone());
    Ok(serde_json::json!({"id": id, "task": task}))
}

fn host_mut(s: &mut State, id: &str, f: impl FnOnce(&mut Host)) {
    if let Some(h) = s.hosts.iter_mut().find(|h| h.id == id) {
        f(h);
    }
}

fn enter(s: &mut State, id: &str, on: bool, description: &str) {
    if !on {
        return end_task(s, id, false);
    }
    let Some(name) = s.host(id).filter(|h| h.entering.is_none()).map(|h| h.name.clone()) else { return };
    let task = task::Open {
        name: "EnterMaintenanceMode_Task",
        description,
        entity: MoRef::new("HostSystem", id),
        entity_name: name,
        cancelable: true,
        user: "VSPHERE.LOCAL\\Administrator".into(),
    };
    let task = task::open(s, task);
    if let Some(t) = s.task_mut(&task) {
        t.state = TaskState::Running;
        t.started = Some(now());
        t.progress = Some(2);
    }
    host_mut(s, id, |h| h.entering = Some(task));
    export::host_leaves(s, id);
}

/// A running task in the list of the host's cluster, about the host or about the cluster; None ends it.
fn cluster_task(s: &mut State, id: &str, description: Option<&str>, about_host: bool) -> Result<(), String> {
    let h = s.host(id).ok_or("no such host")?;
    let (cluster, host, name) = (render::compute_ref(h), MoRef::new("HostSystem", id), h.name.clone());
    if cluster.ty != "ClusterComputeResource" {
        return Err("the host is in no cluster".into());
    }
    let mut before = None;
    host_mut(s, id, |h| before = h.cluster_task.take());
    end(s, before, true);
    let Some(description) = description else { return Ok(()) };
    let new = task::Open {
        name: "EnterMaintenanceMode_Task",
        description,
        entity: if about_host { host } else { cluster.clone() },
        entity_name: if about_host { name } else { cluster.id.clone() },
        cancelable: true,
        user: "VSPHERE.LOCAL\\Administrator".into(),
    };
    let task = task::open(s, new);
    if let Some(t) = s.task_mut(&task) {
        (t.state, t.started, t.listed) = (TaskState::Running, Some(now()), cluster);
    }
    host_mut(s, id, |h| h.cluster_task = Some(task));
    Ok(())
}

fn end_task(s: &mut State, id: &str, done: bool) {
    let mut task = None;
    host_mut(s, id, |h| task = h.entering.take());
    end(s, task, done);
}

fn end(s: &mut State, task: Option<String>, done: bool) {
    let Some(t) = task.and_then(|t| s.task_mut(&t)) else { return };
    t.completed = Some(now());
    t.ended = Some(Instant::now());
    if done {
        t.state = TaskState::Success;
    } else {
        t.state = TaskState::Error;
        t.cancelled = true;
        t.error = Some(Fault::new("RequestCanceled", "The task was canceled by a user."));
    }
}
