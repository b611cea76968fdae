//! The faults themselves: each is done where it happens in life, to a process, a connection, a file system, or in vCenter;
//! never by a switch in the agent. Undoing them all is in [`crate::heal`].
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hotadd_harness::scene::{PROXY, TARGET};
use serde_json::{Value, json};

use crate::{
    client::Controller,
    lab::{ACTOR, HOST, Lab},
    plan::{Act, Fault, Step, Timing},
    relay::Relay,
};

/// Calls that change something in vSphere.
const MUTATIONS: [&str; 6] = [
    "ReconfigVM_Task",
    "CreateSnapshot_Task",
    "CreateSnapshotEx_Task",
    "RemoveSnapshot_Task",
    "DisableMethods",
    "EnableMethods",
];
/// Faults that tasks of these methods end with in life.
const TASK_FAULTS: [&str; 5] = ["GenericVmConfigFault", "FileLocked", "SystemError", "InvalidState", "NoDiskSpace"];
const CALL_FAULTS: [&str; 5] = ["SystemError", "HostNotConnected", "TaskInProgress", "NoPermission", "RuntimeFault"];
/// Operators' calls that destroy what is attached, move it, or depend on it.
const OPERATOR: [&str; 7] =
    ["Destroy", "Unregister", "Relocate", "Clone", "CreateSnapshot", "RevertToCurrentSnapshot", "MarkAsTemplate"];
/// Those that want a VM that is off.
const COLD: [&str; 3] = ["Destroy", "Unregister", "MarkAsTemplate"];
/// What the agent's role may; one of them is taken away, the first never.
const ROLE: [&str; 8] = [
    "System.Read",
    "Global.DisableMethods",
    "Global.EnableMethods",
    "Sessions.TerminateSession",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.Config.AddExistingDisk",
    "VirtualMachine.Config.RemoveDisk",
];
/// Properties without which nothing can be proven.
const PROPERTIES: [&str; 3] = ["recentTask", "config.hardware.device", "snapshot"];
/// How long another program tries against a busy VM.
const ACTOR_PATIENCE: Duration = Duration::from_secs(5);

/// What an act found, for the round's notes.
#[derive(Debug, Default)]
pub struct Done {
    pub killed: bool,
    /// There was nothing to strike, or it was refused: as if the moment had not come.
    pub idle: bool,
    /// What a controller has not got by now can't be right any more.
    pub spoils: bool,
    pub note: String,
}

impl Done {
    fn note(note: impl Into<String>) -> Self {
        Self { note: note.into(), ..Self::default() }
    }

    fn idle(note: impl Into<String>) -> Self {
        Self { idle: true, ..Self::note(note) }
    }

    /// By somebody whose call was refused with this, if it is not null.
    fn unless(fault: &Value, note: String) -> Self {
        Self { idle: !fault.is_null(), ..Self::note(note) }
    }

    /// The end of a process that lived, or did not.
    fn end(lived: bool) -> Self {
        Self { killed: lived, idle: !lived, ..Self::default() }
    }
}

/// Does it. `client`: the round's controller; `relay`: the way it connected, if the round may cut it.
pub async fn perform(lab: &mut Lab, act: &Act, client: Option<&Controller>, relay: Option<&Relay>) -> Result<Done> {
    let (scale, v) = (lab.scale, act.variant);
    match act.fault {
        Fault::Kill => Ok(Done::end(lab.kill_agent()?)),
        Fault::Stop => Ok(Done::end(lab.stop_agent()?)),
        Fault::JournalFull => lab.fill_state().map(|()| Done::default()),
        Fault::JournalIo => Ok(Done { idle: !lab.break_state()?, ..Done::default() }),
        Fault::JournalTorn => {
            let killed = lab.kill_agent()?;
            let torn = lab.tear_journal()?;
            Ok(Done { killed, note: if torn { String::new() } else { "nothing fits".into() }, ..Done::default() })
        }
        Fault::LostReply => cue_next(lab, act, json!({"kind": "drop_reply"})).await,
        Fault::LateLand => {
            let ms = scale.millis(75.0) * (20 + v % 60) / 100;
            cue_next(lab, act, json!({"kind": "late_land", "ms": ms})).await
        }
        Fault::LateLandBeyond => {
            let ms = scale.millis(75.0) * (110 + v % 200) / 100;
            // Whether a real vCenter refuses such a call is not known: both are played.
            cue_next(lab, act, json!({"kind": "late_land", "ms": ms, "fenced": v.is_multiple_of(2) || !lab.sweeps}))
                .await
        }
        Fault::SlowTask => {
            let ms = lab.slow.map_or(300 + v % 900, |slow| u64::try_from(slow.as_millis()).unwrap_or(u64::MAX));
            cue_next(lab, act, json!({"kind": "delay_ms", "ms": ms})).await
        }
        Fault::TaskFails => {
            cue_next(lab, act, json!({"kind": "task_fault", "fault": of(&TASK_FAULTS, v), "count": 1 + v % 2})).await
        }
        Fault::CallFails => call_fault(lab, v).await,
        Fault::NoPermission => {
            let lost = of(&ROLE[1..], v);
            lab.guards_refused |= lost == "Global.DisableMethods";
            let mut kept: Vec<&str> = ROLE.iter().copied().filter(|p| *p != lost).collect();
            kept.push("Datastore.AllocateSpace");
            lab.call(json!({"cmd": "set_privileges", "privileges": kept})).await.map(|_| Done::default())
        }
        Fault::Unreadable => lab.deny(&[of(&PROPERTIES, v)]).await.map(|()| Done::default()),
        Fault::EndSessions => lab.call(json!({"cmd": "end_sessions"})).await.map(|_| Done::default()),
        Fault::Restart => {
            let down = scale.millis((v % 60) as f64);
            lab.call(json!({"cmd": "restart", "down_ms": down})).await.map(|_| Done::default())
        }
        Fault::VcDown => lab.call(json!({"cmd": "vc_down", "ms": scale.millis(60.0)})).await.map(|_| Done::default()),
        Fault::ForeignActor => foreign_actor(lab, v).await,
        Fault::SlotReused => slot_reused(lab, v).await,
        Fault::SecondHolder => second_holder(lab).await,
        Fault::SnapshotRemoved => snapshot_removed(lab).await,
        Fault::Reverted => reverted(lab, v).await,
        Fault::HaRestart => ha_restart(lab).await,
        Fault::Maintenance => maintenance(lab, v).await,
        Fault::ClientGone => {
            let client = client.context("no controller")?;
            let ended = client.has_ended();
            client.vanish();
            Ok(Done { idle: ended, ..Done::default() })
        }
        Fault::HalfOpen => {
            let ended = client.is_none_or(Controller::has_ended);
            relay.context("no relay")?.cut();
            Ok(Done { idle: ended, ..Done::default() })
        }
        Fault::OperatorTarget => operator(lab, of(&OPERATOR, v), TARGET).await,
        Fault::OperatorProxy => operator_proxy(lab, of(&OPERATOR, v)).await,
    }
}

fn of<'a>(all: &[&'a str], variant: u64) -> &'a str {
    let at = usize::try_from(variant % all.len().max(1) as u64).unwrap_or(0);
    all.get(at).copied().unwrap_or_default()
}

/// The next call of the act's step goes wrong; between two steps, the next that changes something.
async fn cue_next(lab: &mut Lab, act: &Act, spec: Value) -> Result<Done> {
    let methods: &[&str] = match (act.step, act.timing) {
        (Step::Snapshot, Timing::Before) => &MUTATIONS[1..3],
        (Step::AttachSubmit | Step::DetachSubmit, Timing::Before) => &MUTATIONS[..1],
        (Step::RemoveSnapshot, Timing::Before) => &MUTATIONS[3..4],
        _ => &MUTATIONS,
    };
    for method in methods {
        lab.control.fault(method, spec.clone()).await?;
    }
    Ok(Done::note(spec.to_string()))
}

async fn call_fault(lab: &mut Lab, v: u64) -> Result<Done> {
    let spec = match v % 8 {
        0 => json!({"kind": "http_500"}),
        1 => json!({"kind": "bad_xml"}),
        2 => json!({"kind": "drop_reply"}),
        3 => json!({"kind": "hang"}),
        _ => {
            // It may be the call that disables methods.
            lab.guards_refused = true;
            json!({"kind": "fault", "fault": of(&CALL_FAULTS, v / 8)})
        }
    };
    let mut spec = spec;
    spec["nth"] = json!(1 + (v / 64) % 6);
    lab.control.fault("*", spec.clone()).await?;
    Ok(Done::note(spec.to_string()))
}

/// Both disks come, one goes again: adding and removing beside our own work.
async fn foreign_actor(lab: &mut Lab, v: u64) -> Result<Done> {
    let mode = if v.is_multiple_of(2) { "independent_nonpersistent" } else { "independent_persistent" };
    let paths = actor_disks(lab).await?;
    let mut attached = Vec::new();
    for path in &paths {
        if attach_foreign(lab, path, mode).await? {
            attached.push(path);
        }
    }
    if let Some(first) = attached.first() {
        detach_foreign(lab, first).await?;
    }
    let note = format!("{} disks attached by another program, {mode}", attached.len());
    Ok(Done { idle: attached.is_empty(), ..Done::note(note) })
}

async fn actor_disks(lab: &mut Lab) -> Result<Vec<String>> {
    // A file of the target that it holds too is none of its own: on the proxy nobody could tell that from ours, and the agent
    // would wait for a person.
    let own = lab.control.attached(ACTOR).await?.into_iter().filter(|disk| disk.origin == "own");
    Ok(own.map(|disk| disk.path).collect())
}

/// As another program would: a busy VM is asked again. False: it was refused for another reason.
async fn attach_foreign(lab: &mut Lab, path: &str, mode: &str) -> Result<bool> {
    let before = crate::lab::names(&lab.control.attached(PROXY).await?);
    // Its own VM has the file too: writing to it takes force.
    let force = mode == "independent_persistent";
    let request = json!({"cmd": "attach_foreign", "vm": PROXY, "path": path, "mode": mode, "force": force});
    let fault = until_not_busy(lab, request).await?;
    let now = lab.control.attached(PROXY).await?;
    let mine: Vec<_> = now.into_iter().filter(|disk| disk.path == path).collect();
    lab.foreign.disks.extend(crate::lab::names(&mine).difference(&before).cloned());
    Ok(fault.is_null())
}

/// Takes another program's disk off again.
pub async fn detach_foreign(lab: &mut Lab, path: &str) -> Result<()> {
    let there = lab.control.attached(PROXY).await?.into_iter().filter(|disk| disk.path == path).collect::<Vec<_>>();
    let fault = until_not_busy(lab, json!({"cmd": "detach_foreign", "vm": PROXY, "path": path})).await?;
    if !fault.is_null() {
        bail!("another program can't detach its disk {path}: {fault}");
    }
    for disk in crate::lab::names(&there) {
        lab.foreign.disks.remove(&disk);
    }
    Ok(())
}

/// An operator whose call meets a busy VM tries again for a while.
pub async fn until_not_busy(lab: &mut Lab, request: Value) -> Result<Value> {
    let end = Instant::now() + ACTOR_PATIENCE;
    loop {
        let fault = lab.call(request.clone()).await?["fault"].take();
        if fault != "TaskInProgress" || Instant::now() >= end {
            return Ok(fault);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody takes our disk off and another disk comes into its slot, with a key that may be the same.
async fn slot_reused(lab: &mut Lab, v: u64) -> Result<Done> {
    let Some(ours) = lab.left_attached().await?.into_iter().next() else { return Ok(Done::idle("nothing attached")) };
    take_off(lab, &ours.path, ours.key).await?;
    let path = actor_disks(lab).await?.into_iter().next().context("the actor has no disk")?;
    let mode = if v.is_multiple_of(2) { "independent_nonpersistent" } else { "independent_persistent" };
    attach_foreign(lab, &path, mode).await?;
    Ok(Done::note(format!("{} replaced by {path}", ours.path)))
}

/// Behind our back, in vCenter and in the guest.
async fn take_off(lab: &mut Lab, path: &str, key: i32) -> Result<()> {
    // It may have been detached meanwhile.
    if lab.control.call(json!({"cmd": "remove_disk", "vm": PROXY, "disk": path})).await.is_err() {
        return Ok(());
    }
    // Those whose event was lost are there as well.
    lab.rescan().await?;
    for device in lab.control.devices().await? {
        let id = device["id"].as_str().unwrap_or_default().to_owned();
        if id.ends_with(&format!("-{key}")) {
            lab.control.call(json!({"cmd": "detach_raw", "id": id})).await.ok();
        }
    }
    Ok(())
}

async fn second_holder(lab: &mut Lab) -> Result<Done> {
    let disks = lab.control.attached(TARGET).await?;
    let disk = disks.first().context("the target has no disk")?;
    // The file that our snapshot froze, else the one below everything.
    let path = disk.chain.get(1).unwrap_or(&disk.path).clone();
    let fault = until_not_busy(lab, json!({"cmd": "attach_foreign", "vm": ACTOR, "path": path})).await?;
    if fault.is_null() {
        lab.foreign.held.push((ACTOR.into(), path.clone()));
    }
    Ok(Done::unless(&fault, format!("{ACTOR} holds {path}: {fault}")))
}

async fn snapshot_removed(lab: &mut Lab) -> Result<Done> {
    let Some(id) = lab.our_snapshots().await?.into_iter().next() else { return Ok(Done::idle("no snapshot of ours")) };
    let request = json!({"cmd": "operator", "call": "RemoveSnapshot", "vm": TARGET, "snapshot": id});
    let fault = until_not_busy(lab, request).await?;
    Ok(Done { spoils: true, ..Done::unless(&fault, format!("{id}: {fault}")) })
}

/// To our snapshot, which is still read rightly then, or to the foreign one below it.
async fn reverted(lab: &mut Lab, v: u64) -> Result<Done> {
    let theirs = lab.foreign.snapshots.first().cloned().filter(|_| v.is_multiple_of(2));
    let Some(id) = theirs else { return operator(lab, "RevertToCurrentSnapshot", TARGET).await };
    let spoils = !lab.our_snapshots().await?.is_empty();
    let request = json!({"cmd": "operator", "call": "RevertToSnapshot", "vm": TARGET, "snapshot": id});
    let fault = until_not_busy(lab, request).await?;
    Ok(Done { spoils, ..Done::unless(&fault, format!("to {id}: {fault}")) })
}

/// The proxy's guest is restarted by HA; a disk whose file vanished is no longer in its configuration.
async fn ha_restart(lab: &mut Lab) -> Result<Done> {
    let killed = lab.kill_agent()?;
    let ours = lab.left_attached().await?;
    if let Some(disk) = ours.first() {
        take_off(lab, &disk.path, disk.key).await?;
    }
    Ok(Done { killed, ..Done::note(format!("{} disks were attached", ours.len())) })
}

async fn maintenance(lab: &mut Lab, v: u64) -> Result<Done> {
    let block = of(&["", "InvalidState", "TaskInProgress", "MethodDisabled"], v);
    let block = if block.is_empty() { Value::Null } else { json!(block) };
    lab.call(json!({"cmd": "host", "name": HOST, "entering": true, "block": block})).await?;
    Ok(Done::note(format!("{HOST} enters, blocks with {block}")))
}

/// With nothing of ours on the proxy an operator may power it off and do as he likes, and there is nothing to see.
async fn operator_proxy(lab: &mut Lab, call: &str) -> Result<Done> {
    if lab.guards_refused {
        return Ok(Done::idle("the proxy may be unguarded: the agent warned and went on"));
    }
    match COLD.contains(&call) {
        true if lab.left_attached().await?.is_empty() => operator(lab, "Relocate", PROXY).await,
        true => cold_operator(lab, call).await,
        false => operator(lab, call, PROXY).await,
    }
}

async fn operator(lab: &mut Lab, call: &str, vm: &str) -> Result<Done> {
    let there = lab.control.attached(vm).await?.iter().any(|disk| disk.path.starts_with("[ds2] "));
    let request = json!({"cmd": "operator", "call": call, "vm": vm, "name": "an operator's copy",
        "datastore": if there { "ds1" } else { "ds2" }});
    let fault = until_not_busy(lab, request).await?;
    if call == "CreateSnapshot" && vm == TARGET {
        let theirs = lab.snapshots().await?.into_iter().filter(|(_, name)| name == "an operator's copy");
        lab.foreign.passing.extend(theirs.map(|(id, _)| id).collect::<Vec<_>>());
    }
    Ok(Done::note(format!("{call} on {vm}: {fault}")))
}

/// The proxy is powered off for it, which ends the agent.
async fn cold_operator(lab: &mut Lab, call: &str) -> Result<Done> {
    let killed = lab.kill_agent()?;
    let off = until_not_busy(lab, json!({"cmd": "operator", "call": "PowerOff", "vm": PROXY})).await?;
    let fault = until_not_busy(lab, json!({"cmd": "operator", "call": call, "vm": PROXY})).await?;
    let on = until_not_busy(lab, json!({"cmd": "operator", "call": "PowerOn", "vm": PROXY})).await;
    Ok(Done { killed, ..Done::note(format!("{call} on {PROXY}: {fault} (off {off}, on {on:?})")) })
}
