//! Export leases: ExportSnapshot, the lease object, its timeout, what it blocks, and what goes wrong with it on cue.
//!
//! ```text
//! ExportSnapshot ─▶ initializing ─▶ ready ──Complete──▶ done
//!                        └────────────┴── Abort, timeout, host leaves, cue ──▶ error
//! ```
//! Source: vSphere API 8.0, HttpNfcLease. UNVERIFIED, as no text says them: the faults of what is blocked
//! (TaskInProgress), of an encrypted VM (NotSupported) and of calls on a lease that is over (InvalidState), and that an
//! aborted lease ends in `error`.

mod encode;
pub(crate) mod serve;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Sim;
use crate::fault::{Fault, Res};
use crate::inventory::{BackingKind, ControllerKind};
use crate::ops::task::{self, cued_fault};
use crate::ops::work::Work;
use crate::ops::{guard, hosts};
use crate::render::Ctx;
use crate::schema::SCHEMA;
use crate::soap::Reply;
use crate::state::{Kind, State, TaskState, Vm, now};
use crate::value::{MoRef, Obj, Val};
use crate::xml::Node;

/// What the next leases do; a lease keeps what was set when it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Cues {
    timeout_s: u64,
    ready_ms: u64,
    /// The lease ends with this instead of getting ready.
    error: Option<String>,
    /// A download breaks after so many bytes.
    disconnect_after: Option<u64>,
    /// The grain with this number, counted in the stream, is damaged.
    corrupt_grain: Option<u64>,
    /// This grain is left out, its tables are not.
    lose_grain: Option<u64>,
    bps: Option<u64>,
    /// URLs name `*` instead of a host.
    star: bool,
    /// Another host's thumbprint.
    thumbprint: Option<String>,
    /// Only the session that asked for the lease knows it.
    own_session: bool,
}

impl Default for Cues {
    fn default() -> Cues {
        Cues {
            timeout_s: 300,
            ready_ms: 0,
            error: None,
            disconnect_after: None,
            corrupt_grain: None,
            lose_grain: None,
            bps: None,
            star: false,
            thumbprint: None,
            own_session: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Initializing,
    Ready,
    Done,
    Error,
}

#[derive(Clone, Debug)]
struct File {
    /// Last part of the URL.
    name: String,
    key: String,
    /// The vmdk; None is the VM's nvram.
    path: Option<String>,
    capacity: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    id: String,
    vm: String,
    snapshot: String,
    phase: Phase,
    error: Option<Fault>,
    percent: i64,
    reports: u64,
    until: Instant,
    ticket: String,
    /// Cookie of the session that asked for it.
    owner: String,
    files: Vec<File>,
    task: String,
    cues: Cues,
    sent: u64,
}

impl Lease {
    fn over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Error)
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.cues.timeout_s)
    }
}

fn invalid_state() -> Fault {
    Fault::new("InvalidState", "The operation is not allowed in the current state.")
}

/// Whether an object is a lease that the caller's session may not know (UNVERIFIED: whether vCenter has that).
pub(crate) fn is_hidden(s: &State, object: &MoRef, ctx: &Ctx) -> bool {
    let lease = s.leases.get(&object.id).filter(|lease| object.ty == "HttpNfcLease" && lease.cues.own_session);
    lease.is_some_and(|lease| ctx.session.as_deref() != Some(lease.owner.as_str()))
}

/// The VM that a lease is of.
pub(crate) fn vm_of(s: &State, lease: &str) -> Option<MoRef> {
    s.leases.get(lease).map(|lease| MoRef::new("VirtualMachine", lease.vm.clone()))
}

/// The live lease of a VM.
fn live<'a>(s: &'a State, vm: &str) -> Option<&'a Lease> {
    s.leases.values().find(|l| l.vm == vm && !l.over())
}

fn busy(task: &str) -> Fault {
    Fault::new("TaskInProgress", "Another task is already in progress.").with("task", MoRef::new("Task", task))
}

/// Refuses what a lease blocks on its VM (vSphere API 8.0, HttpNfcLease: power-on, destroy, migration among others).
pub(crate) fn check(s: &State, vm: &Vm, work: &Work) -> Res<()> {
    let allowed = matches!(work, Work::Reconfigure { .. } | Work::CreateSnapshot { .. } | Work::Clone { .. });
    match live(s, &vm.id) {
        Some(lease) if !allowed => Err(busy(&lease.task)),
        _ => Ok(()),
    }
}

/// VirtualMachineSnapshot.ExportSnapshot.
pub(crate) fn begin(sim: &Arc<Sim>, s: &mut State, snapshot: &MoRef, ctx: &Ctx) -> Res<Reply> {
    let (vm, snap) = s.snapshot(&snapshot.id)?;
    guard::check(vm, "ExportSnapshot")?;
    hosts::check(s, vm, "ExportSnapshot")?;
    if let Some(task) = &vm.busy {
        return Err(busy(task));
    }
    if let Some(lease) = live(s, &vm.id) {
        return Err(busy(&lease.task));
    }
    let files = files(s, vm, snap);
    let key = |p: &str| s.store.files.get(p).is_some_and(|f| f.key_id.is_some());
    if vm.key_id.is_some() || files.iter().filter_map(|f| f.path.as_deref()).any(key) {
        return Err(Fault::new("NotSupported", "The operation is not supported on the object."));
    }
    let user = ctx.session.as_ref().and_then(|k| s.sessions.get(k)).map(|x| x.user.clone()).unwrap_or_default();
    let open = task::Open {
        name: "ExportSnapshot",
        description: "VirtualMachine.ExportVmLRO",
        entity: vm.moref(),
        entity_name: vm.name.clone(),
        cancelable: false,
        user,
    };
    let (vm, cues) = (vm.id.clone(), s.exports.clone());
    let task = task::open(s, open);
    if let Some(t) = s.task_mut(&task) {
        t.state = TaskState::Running;
        t.started = Some(now());
    }
    let ticket = uuid::Uuid::new_v4().simple().to_string();
    let id = format!("session[{}]{}", &ticket[..8], s.next());
    let lease = Lease {
        id: id.clone(),
        vm,
        snapshot: snapshot.id.clone(),
        phase: Phase::Initializing,
        error: None,
        percent: 0,
        reports: 0,
        until: Instant::now() + Duration::from_secs(cues.timeout_s) + Duration::from_millis(cues.ready_ms),
        ticket,
        owner: ctx.session.clone().unwrap_or_default(),
        files,
        task,
        cues,
        sent: 0,
    };
    s.leases.insert(id.clone(), lease);
    tokio::spawn(life(Arc::clone(sim), id.clone()));
    Ok(Reply::of("ref:HttpNfcLease", MoRef::new("HttpNfcLease", id)))
}

/// The disks of a snapshot, last one first: whoever goes by order is wrong.
fn files(s: &State, vm: &Vm, snap: &crate::state::Snapshot) -> Vec<File> {
    let controller = |key: i32| {
        snap.devices.iter().find(|d| d.key == key).and_then(|d| match d.kind {
            Kind::Controller { kind, bus, .. } => Some((controller_name(kind), bus)),
            Kind::Fixed { ty, bus, .. } => Some((ty, bus.unwrap_or(0))),
            _ => None,
        })
    };
    let mut out = vec![File { name: "disk-0.nvram".into(), key: format!("/{}/nvram", vm.id), path: None, capacity: 0 }];
    for d in snap.devices.iter().rev() {
        let Kind::Disk(disk) = &d.kind else { continue };
        let file = s.store.files.get(&disk.path);
        if !disk.snapshotted() || file.is_none_or(|f| f.backing == BackingKind::RdmPhysical) {
            continue;
        }
        let (name, bus) = d.controller.and_then(controller).unwrap_or(("VirtualController", 0));
        out.push(File {
            name: format!("disk-{}.vmdk", out.len()),
            key: format!("/{}/{name}{bus}:{}", vm.id, d.unit.unwrap_or(0)),
            path: Some(disk.path.clone()),
            capacity: file.map_or(0, |f| f.capacity),
        });
    }
    out
}

fn controller_name(kind: ControllerKind) -> &'static str {
    match kind {
        ControllerKind::Pvscsi => "ParaVirtualSCSIController",
        ControllerKind::Lsilogic => "VirtualLsiLogicController",
        ControllerKind::Lsisas => "VirtualLsiLogicSASController",
        ControllerKind::Buslogic => "VirtualBusLogicController",
        ControllerKind::Ide => "VirtualIDEController",
        ControllerKind::Sata => "VirtualAHCIController",
        ControllerKind::Nvme => "VirtualNVMEController",
    }
}

/// From the request to the end: ready after a while, over when nobody reports progress.
async fn life(sim: Arc<Sim>, id: String) {
    let wait = sim.lock().leases.get(&id).map_or(0, |l| l.cues.ready_ms);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    {
        let mut s = sim.lock();
        let Some(l) = s.leases.get_mut(&id).filter(|l| l.phase == Phase::Initializing) else { return };
        l.until = Instant::now() + l.timeout();
        match l.cues.error.clone() {
            None => l.phase = Phase::Ready,
            Some(name) => {
                let entity = MoRef::new("VirtualMachine", l.vm.clone());
                end(&mut s, &id, Some(cued_fault(&name, &Value::Null, &entity)));
            }
        }
    }
    sim.touch();
    let mut stop = sim.stopped();
    loop {
        let left = match sim.lock().leases.get(&id).filter(|l| !l.over()) {
            Some(l) => l.until.saturating_duration_since(Instant::now()),
            None => return,
        };
        if left.is_zero() {
            end(&mut sim.lock(), &id, Some(Fault::new("Timedout", "Operation timed out.")));
            sim.touch();
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            _ = stop.changed() => return,
        }
    }
}

/// Ends a lease: with success, or with a fault.
fn end(s: &mut State, id: &str, fault: Option<Fault>) {
    let Some(l) = s.leases.get_mut(id).filter(|l| !l.over()) else { return };
    l.phase = if fault.is_some() { Phase::Error } else { Phase::Done };
    l.error.clone_from(&fault);
    let task = l.task.clone();
    if let Some(t) = s.task_mut(&task) {
        t.completed = Some(now());
        t.ended = Some(Instant::now());
        t.state = if fault.is_some() { TaskState::Error } else { TaskState::Success };
        t.error = fault;
    }
}

/// A host that enters maintenance ends the leases of its VMs.
pub(crate) fn host_leaves(s: &mut State, host: &str) {
    let on = |l: &&Lease| s.vms.get(&l.vm).is_some_and(|v| v.host == host);
    let ids: Vec<String> = s.leases.values().filter(on).map(|l| l.id.clone()).collect();
    for id in ids {
        end(s, &id, Some(Fault::new("InvalidState", "The host is entering maintenance mode.")));
    }
}

/// Methods of HttpNfcLease.
pub(crate) fn call(s: &mut State, this: &MoRef, method: &str, body: &Node) -> Res<Reply> {
    let l = s.leases.get_mut(&this.id).ok_or_else(|| Fault::gone(this))?;
    match (method, l.phase) {
        (_, Phase::Done | Phase::Error) => return Err(invalid_state()),
        ("HttpNfcLeaseProgress", _) => {
            let percent = body.kid("percent").and_then(|p| p.text.trim().parse().ok()).unwrap_or(-1);
            if !(0..=100).contains(&percent) {
                return Err(Fault::argument("percent"));
            }
            l.percent = percent;
            l.reports += 1;
            l.until = Instant::now() + l.timeout();
        }
        ("HttpNfcLeaseComplete", Phase::Ready) => end(s, &this.id, None),
        ("HttpNfcLeaseComplete", _) => return Err(invalid_state()),
        _ => end(s, &this.id, Some(Fault::new("RequestCanceled", "The operation was canceled."))),
    }
    Ok(Reply::none())
}

/// A property of a lease.
pub(crate) fn top(s: &State, id: &str, name: &str, ctx: &Ctx) -> Option<Val> {
    let l = s.leases.get(id)?;
    Some(match name {
        "state" => Val::Str(
            match l.phase {
                Phase::Initializing => "initializing",
                Phase::Ready => "ready",
                Phase::Done => "done",
                Phase::Error => "error",
            }
            .into(),
        ),
        "initializeProgress" => Val::Int(if l.phase == Phase::Initializing { 50 } else { 100 }),
        "transferProgress" => Val::Int(l.percent),
        "mode" => Val::Str("pushOrGet".into()),
        "capabilities" => {
            Val::Obj(Obj::new("HttpNfcLeaseCapabilities").with("pullModeSupported", true).with("corsSupported", true))
        }
        "error" => Val::Obj(l.error.as_ref()?.localized()),
        "info" if l.phase == Phase::Ready => Val::Obj(info(s, l, ctx)),
        _ => return None,
    })
}

fn info(s: &State, l: &Lease, ctx: &Ctx) -> Obj {
    // The caller's own way to here: in a lab guest this machine has another address.
    let host = if l.cues.star { "*" } else { ctx.host.as_str() };
    let thumbprint = l.cues.thumbprint.as_deref().unwrap_or(&s.thumbprint);
    let one = |f: &File| {
        Obj::new("HttpNfcLeaseDeviceUrl")
            .with("key", f.key.as_str())
            .with("importKey", f.key.as_str())
            .with("url", format!("https://{host}/nfc/{}/{}", l.ticket, f.name))
            .with("sslThumbprint", thumbprint)
            .with("disk", f.path.is_some())
            .with("targetId", f.name.as_str())
    };
    Obj::new("HttpNfcLeaseInfo")
        .with("lease", MoRef::new("HttpNfcLease", l.id.clone()))
        .with("entity", MoRef::new("VirtualMachine", l.vm.clone()))
        .with("deviceUrl", l.files.iter().map(one).collect::<Vec<_>>())
        .with("totalDiskCapacityInKB", l.files.iter().map(|f| f.capacity / 1024).sum::<u64>())
        .with("leaseTimeout", l.cues.timeout_s)
}

/// The control commands `leases`, `export` and `end_lease` (CONTROL.md).
pub(crate) fn control(s: &mut State, v: &Value) -> Result<Value, String> {
    let known = |name: &str| {
        if SCHEMA.is_a(name, "MethodFault") { Ok(name.to_owned()) } else { Err(format!("unknown fault '{name}'")) }
    };
    match v["cmd"].as_str() {
        Some("leases") => {
            let one = |l: &Lease| {
                json!({"lease": l.id, "vm": l.vm, "snapshot": l.snapshot, "state": format!("{:?}", l.phase).to_lowercase(),
                    "fault": l.error.as_ref().map(Fault::ty), "percent": l.percent, "reports": l.reports, "sent": l.sent})
            };
            Ok(json!({"leases": s.leases.values().map(one).collect::<Vec<_>>()}))
        }
        Some("end_lease") => {
            let id = v["lease"].as_str().filter(|id| s.leases.contains_key(*id)).ok_or("no such lease")?.to_owned();
            let fault = known(v["fault"].as_str().unwrap_or("SystemError"))?;
            let entity = MoRef::new("HttpNfcLease", id.clone());
            end(s, &id, Some(cued_fault(&fault, &Value::Null, &entity)));
            Ok(json!({}))
        }
        _ => {
            let was = Cues::default();
            let text = |key: &str| v[key].as_str().map(str::to_owned);
            s.exports = Cues {
                timeout_s: v["timeout_s"].as_u64().unwrap_or(was.timeout_s),
                ready_ms: v["ready_ms"].as_u64().unwrap_or(was.ready_ms),
                error: text("error").map(|e| known(&e)).transpose()?,
                disconnect_after: v["disconnect_after"].as_u64(),
                corrupt_grain: v["corrupt_grain"].as_u64(),
                lose_grain: v["lose_grain"].as_u64(),
                bps: v["bps"].as_u64(),
                star: v["star"].as_bool().unwrap_or(false),
                thumbprint: text("thumbprint"),
                own_session: v["own_session"].as_bool().unwrap_or(false),
            };
            Ok(json!({}))
        }
    }
}
