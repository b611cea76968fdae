//! The run on the VM that is given for it: one snapshot, taken, read, removed.
//!
//! ```text
//!  fit? ──no──▶ HA-SVY-001      refused as a whole ──▶ HA-SVY-002
//!   │yes                          ▲
//!   └─▶ owe ─▶ create ────────────┤ task failed, reply lost, or made ─▶ read (unless stopped) ─▶ undo ─┬─ proven ─▶ owe nothing ─▶ whole, early, or HA-SVY-002
//!                                                                                                      └─ not ───▶ HA-SVY-003, by name
//! ```
use std::{
    process,
    time::{Duration, Instant},
};

use hotadd_vsphere as vim;
use vim::{Error, MoRef, TaskInfo};

use crate::{
    args::Args,
    ask,
    codes::{self, Failure},
    document::{self as doc, Snapshot, Step},
    fit::{self, Target},
    gather::Site,
    redact,
    stop::Stop,
    undo::{self, Sure},
};

/// Longest wait for the snapshot's task; what comes later is waited for by the undoing.
const CREATE: Duration = Duration::from_secs(900);

/// How a run ended that left nothing and failed nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Whole,
    /// A signal came.
    Early,
}

/// The VM as it was before anything was done.
struct Before {
    name: String,
    on: bool,
    tops: Vec<(i32, String)>,
    files: Vec<doc::File>,
}

fn failed(why: impl std::fmt::Display) -> Failure {
    Failure::new(codes::FAILED, why.to_string())
}

pub(crate) async fn run(
    site: &mut Site<'_>,
    vm: &MoRef,
    args: &Args,
    stop: &Stop,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Ended, Failure> {
    let before = fit(site, vm, args).await?;
    let since = site.client.server_time().await.map_err(failed)?;
    if stop.asked() {
        return Ok(Ended::Early);
    }
    let name = format!("hotadd-survey-{}-{}", since.as_second(), process::id());
    tell(&format!("taking snapshot {name}"));
    stop.owe(Some(owed(&before.name, vm, &name)));
    let (made, sure) = create(site, vm, &name).await;
    if sure == Sure::Refused {
        stop.owe(None);
        return Err(failed(made.err().unwrap_or_default()));
    }
    let mut trouble = None;
    match &made {
        Ok(snapshot) if !stop.asked() => trouble = look(site, vm, snapshot, &before).await.err().map(|e| e.to_string()),
        Ok(_) => {}
        Err(why) => trouble = Some(why.clone()),
    }
    tell(&format!("removing snapshot {name}"));
    let gone = match undo::undo(site, vm, &name, sure, tell).await {
        Ok(()) => undo::as_before(site.client, vm, &before.tops).await,
        Err(why) => Err(("snapshot", why)),
    };
    if let Err((what, why)) = gone {
        site.document.left.push(what.to_owned());
        return Err(Failure::new(codes::LEFT, format!("{}: {why}", owed(&before.name, vm, &name))));
    }
    stop.owe(None);
    tell("nothing of the survey is left in vCenter");
    if trouble.is_none()
        && let (Ok(snapshot), false) = (&made, stop.asked())
    {
        trouble = afterwards(site, vm, snapshot, since, &before).await.err().map(|e| e.to_string());
    }
    match trouble {
        Some(why) => Err(failed(why)),
        None if stop.asked() => Ok(Ended::Early),
        None => Ok(Ended::Whole),
    }
}

/// What may be left, for a person.
fn owed(vm_name: &str, vm: &MoRef, snapshot: &str) -> String {
    format!("snapshot {snapshot} of {vm_name} ({})", vm.value)
}

/// Reads everything that the decision needs, anew.
async fn fit(site: &mut Site<'_>, vm: &MoRef, args: &Args) -> Result<Before, Failure> {
    let client = site.client;
    let unfit = |why: String| Failure::new(codes::UNFIT, why);
    let info = client.vm(vm).await.map_err(|e| unfit(e.to_string()))?;
    let busy = match client.tasks(&info.recent_tasks).await {
        Ok(tasks) if !info.missing.iter().any(|m| m.path == "recentTask") => {
            Some(tasks.iter().any(|task| !task.state.is_final()))
        }
        _ => None,
    };
    let granted = client.granted(vm, &fit::PRIVILEGES).await.ok();
    let lacking = granted.map(|granted| {
        fit::PRIVILEGES.iter().filter(|id| !granted.contains(**id)).map(|id| (*id).to_owned()).collect()
    });
    let target = Target::of(&info, busy, lacking);
    let against = fit::refusals(&target, args.sacrificial.as_deref().unwrap_or_default(), args.powered_on_ok);
    if !against.is_empty() {
        return Err(unfit(format!("{} ({}): {}", info.name, vm.value, against.join("; "))));
    }
    let layout = client.vm_layout(vm).await.map_err(|e| unfit(e.to_string()))?;
    Ok(Before { on: target.on == Some(true), tops: undo::tops(&info), files: site.files(&layout), name: info.name })
}

/// The snapshot, or why there is none that is known.
async fn create(site: &mut Site<'_>, vm: &MoRef, name: &str) -> (Result<MoRef, String>, Sure) {
    let spec = vim::SnapshotSpec {
        name: name.to_owned(),
        description: "Made by hotaddctl survey, which removes it. If it is still here and no survey runs, remove it."
            .to_owned(),
        quiesce: vim::Quiesce::No,
    };
    let began = Instant::now();
    let task = match site.client.create_snapshot(vm, &spec).await {
        Ok(task) => task,
        Err(e) => {
            // Other faults come from a host that may go on all the same.
            let denied = matches!(e.fault().map(|fault| &fault.kind), Some(vim::FaultKind::NoPermission { .. }));
            let sure = if denied { Sure::Refused } else { Sure::Unknown };
            site.step("create_snapshot", "CreateSnapshot_Task", began, None, e.fault());
            return (Err(e.to_string()), sure);
        }
    };
    match site.client.wait_task(&task, CREATE, None).await {
        Ok(info) => {
            site.step("create_snapshot", "CreateSnapshot_Task", began, Some(&info), info.error.as_ref());
            match (info.result, info.error) {
                (Some(vim::TaskResult::MoRef(snapshot)), None) => (Ok(snapshot), Sure::Seen),
                // A task that ended for want of an answer says nothing of the host.
                (_, Some(fault)) => (Err(fault.to_string()), Sure::Unknown),
                _ => (Err("the task named no snapshot".to_owned()), Sure::Unknown),
            }
        }
        Err(e) => (Err(e.to_string()), Sure::Unknown),
    }
}

/// What the snapshot and the VM show while it is there.
async fn look(site: &mut Site<'_>, vm: &MoRef, snapshot: &MoRef, before: &Before) -> Result<(), Error> {
    let devices = site.client.snapshot_devices(snapshot).await?;
    let disks: Vec<&vim::Disk> = devices.iter().filter_map(vim::Device::as_disk).collect();
    let mut told = Snapshot { frozen: disks.iter().map(|disk| site.disk(disk)).collect(), ..Snapshot::default() };
    let info = site.client.vm(vm).await?;
    told.live = info.disks().map(|disk| site.disk(disk)).collect();
    let layout = site.client.vm_layout(vm).await?;
    told.new_files = new(site.files(&layout), &before.files);
    site.document.snapshot = Some(told);
    let independent =
        |disk: &vim::Disk| disk.backing.disk_mode.as_deref().is_some_and(|mode| mode.starts_with("independent"));
    match disks.iter().find(|disk| !independent(disk)) {
        Some(disk) => ask::areas(site, vm, snapshot, disk.key, disk.capacity_bytes).await,
        None => Ok(()),
    }
}

fn new(now: Vec<doc::File>, before: &[doc::File]) -> Vec<doc::File> {
    now.into_iter().filter(|file| !before.contains(file)).collect()
}

/// What can be told once it is gone.
async fn afterwards(
    site: &mut Site<'_>,
    vm: &MoRef,
    snapshot: &MoRef,
    since: jiff::Timestamp,
    before: &Before,
) -> Result<(), Error> {
    ask::removal_again(site, snapshot).await?;
    let layout = site.client.vm_layout(vm).await?;
    let files_after = new(site.files(&layout), &before.files);
    let info = site.client.vm(vm).await?;
    if let Some(told) = &mut site.document.snapshot {
        (told.files_after, told.consolidation_needed_after) = (files_after, info.consolidation_needed);
    }
    match site.client.all_events(vm, since).await {
        Ok(events) => site.document.events = events.iter().map(|event| recorded(event, since)).collect(),
        Err(e) if *e.kind() == vim::ErrorKind::Unsupported => {}
        Err(e) => site.not_read("events of the VM", e)?,
    }
    let created = site.document.steps.iter().find(|step| step.step == "create_snapshot").and_then(|step| step.run_ms);
    let stuns = |event: &&doc::Event| event.kind.to_ascii_lowercase().contains("stun");
    site.document.stun = Some(doc::Stun {
        powered_on: before.on,
        events: site.document.events.iter().filter(stuns).cloned().collect(),
        at_most_ms: created.filter(|_| before.on),
    });
    Ok(())
}

fn recorded(event: &vim::EventInfo, since: jiff::Timestamp) -> doc::Event {
    doc::Event { kind: redact::event(&event.type_name), after_ms: between(since, event.created) }
}

fn between(from: jiff::Timestamp, to: jiff::Timestamp) -> u64 {
    u64::try_from(to.as_millisecond() - from.as_millisecond()).unwrap_or_default()
}

impl Site<'_> {
    pub(crate) fn step(
        &mut self,
        step: &str,
        call: &str,
        began: Instant,
        task: Option<&TaskInfo>,
        fault: Option<&vim::Fault>,
    ) {
        let times = |from: Option<jiff::Timestamp>, to: Option<jiff::Timestamp>| Some(between(from?, to?));
        let step = Step {
            step: step.to_owned(),
            ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            queue_ms: task.and_then(|task| times(task.queue_time, task.start_time)),
            run_ms: task.and_then(|task| times(task.start_time, task.complete_time)),
            fault: fault.map(|fault| self.fault(step, call, Some(fault))),
        };
        self.document.steps.push(step);
    }
}
