//! How a job is told: tables and lines for people, JSON objects for programs, names of the contract's enums. No rule
//! about what is good or bad lives here.
use std::{collections::BTreeMap, path::Path, time::Duration};

use hotadd_api::{
    manifest::Manifest,
    status::cleanup_name,
    v1::{
        Consistency, DiskFacts, DiskOpened, DiskPlan, DiskProgress, DiskResult, JobResult, Phase, PhaseEvent,
        Preflight, Reason, SnapshotResult, Transport, Waiting,
    },
};
use serde_json::{Value, json};

use super::{areas::Areas, rate::Rate, stages::Shares};
use crate::{
    exit::Exit,
    output::{Output, bytes, micros, table},
    show::state_name,
};

pub(super) fn preflight(out: &Output, preflight: &Preflight) {
    out.event(|| {
        let disks: Vec<_> = preflight.disks.iter().map(plan_json).collect();
        json!({"event": "preflight", "vm_moref": preflight.vm_moref, "vm_name": preflight.vm_name,
            "power_state": preflight.power_state, "disks": disks})
    });
    out.line(&format!("{} ({}), {}", preflight.vm_name, preflight.vm_moref, preflight.power_state));
    let rows: Vec<_> = preflight.disks.iter().map(plan_row).collect();
    let head = ["disk", "key", "place", "datastore", "capacity", "transport"];
    table(&head, &rows).lines().for_each(|line| out.line(&format!("  {line}")));
}

fn plan_row(plan: &DiskPlan) -> Vec<String> {
    let facts = plan.disk.clone().unwrap_or_default();
    let reasons: Vec<_> = plan.reasons.iter().map(|r| format!("{} {}", r.code, r.message)).collect();
    let verdict = match plan.transport() {
        Transport::Unspecified => format!("refused: {}", reasons.join("; ")),
        transport if reasons.is_empty() => transport_name(transport).to_owned(),
        transport => format!("{} ({})", transport_name(transport), reasons.join("; ")),
    };
    let key = facts.device_key.to_string();
    vec![facts.label, key, facts.controller, facts.datastore, bytes(facts.capacity_bytes), verdict]
}

fn plan_json(plan: &DiskPlan) -> Value {
    json!({"disk": plan.disk.as_ref().map(facts_json), "transport": transport_name(plan.transport()),
        "reasons": reasons_json(&plan.reasons)})
}

pub(super) fn phase(out: &Output, event: &PhaseEvent) {
    let name = phase_name(event.phase());
    out.event(|| {
        json!({"event": "phase", "phase": name, "finished": event.finished, "duration_us": event.duration_us,
            "note": event.note})
    });
    let note = if event.note.is_empty() { String::new() } else { format!(": {}", event.note) };
    if event.finished {
        out.line(&format!("{name} took {}{note}", micros(event.duration_us)));
    } else {
        out.line(&format!("{name} …{note}"));
    }
}

pub(super) fn snapshot(out: &Output, snapshot: &SnapshotResult) {
    out.event(|| {
        json!({"event": "snapshot", "moref": snapshot.moref, "reached": reached_name(snapshot.reached()),
            "ours": snapshot.ours, "fault": snapshot.fault.as_ref().map(reason_json)})
    });
    out.line(&format!("snapshot {} is {}-consistent", snapshot.moref, reached_name(snapshot.reached())));
    if let Some(fault) = &snapshot.fault {
        out.warning(&format!("consistency is lower than wished: {}", reason_line(fault)));
    }
}

pub(super) fn opened(out: &Output, opened: &DiskOpened, facts: &DiskFacts, areas: &Areas, file: &str) {
    let (engine, scope) = (&opened.engine, areas.scope().name());
    let map = opened.map.clone().unwrap_or_default();
    out.event(|| {
        json!({"event": "opened", "disk": facts_json(facts), "engine": engine, "file": file, "scope": scope,
            "bytes_required": opened.bytes_required, "mapped_bytes": map.mapped_bytes,
            "sampled_blocks": map.sampled_blocks, "wider": map.wider.as_ref().map(reason_json)})
    });
    let (name, due) = (disk_name(facts), bytes(opened.bytes_required));
    out.line(&format!("{name} is open, read by {engine}: {due} to come ({scope})"));
    if let Some(wider) = &map.wider {
        out.warning(&format!("{name}: more is read than was asked for: {}", reason_line(wider)));
    }
}

/// While a disk is read.
pub(super) fn stages(out: &Output, going: &DiskProgress, shares: &Shares) {
    out.event(|| {
        json!({"event": "stages", "device_key": going.device_key, "bytes_read": going.bytes_read,
            "bytes_required": going.bytes_required, "depth": going.depth, "stages": shares.json()})
    });
}

/// Gives back the line that tells where its time went.
pub(super) fn disk_read(out: &Output, result: &DiskResult, shares: &Shares) -> Option<String> {
    out.event(|| json!({"event": "disk", "result": disk_json(result), "stages": shares.json()}));
    let name = result.disk.as_ref().map_or_else(|| "a disk".to_owned(), disk_name);
    if result.ok {
        let (sent, zero) = (bytes(result.bytes_sent), bytes(result.zero_bytes));
        out.line(&format!("{name} is read: {sent} received, {zero} zero"));
    } else {
        let reasons: Vec<_> = result.reasons.iter().map(reason_line).collect();
        out.warning(&format!("{name} failed: {}", reasons.join("; ")));
    }
    let bottleneck = shares.line().map(|line| format!("{name}: bottleneck: {line}"));
    bottleneck.iter().for_each(|line| out.line(line));
    bottleneck
}

/// One line for each refusal of an engine, however many disks met it.
fn warn_engines(out: &Output, disks: &[DiskResult]) {
    let mut refusals: BTreeMap<&str, usize> = BTreeMap::new();
    for refusal in disks.iter().flat_map(|disk| &disk.engine_refusals) {
        *refusals.entry(refusal).or_default() += 1;
    }
    for (refusal, count) in refusals {
        let disks = if count == 1 { "1 disk".to_owned() } else { format!("{count} disks") };
        out.warning(&format!("engine refused on {disks}: {refusal}"));
    }
}

pub(super) fn disks(out: &Output, disks: &[DiskResult]) {
    if !disks.is_empty() {
        out.result(&disk_table(disks));
    }
}

/// Times, engine and bytes of every disk.
pub(crate) fn disk_table(disks: &[DiskResult]) -> String {
    let head = [
        "disk",
        "attach",
        "discover",
        "first byte",
        "transfer",
        "detach",
        "engine",
        "read",
        "sent",
        "zero skipped",
        "state",
    ];
    table(&head, &disks.iter().map(disk_row).collect::<Vec<_>>())
}

fn disk_row(disk: &DiskResult) -> Vec<String> {
    let times = disk.timings.unwrap_or_default();
    let state = match disk.reasons.first() {
        _ if disk.ok => "ok".to_owned(),
        Some(reason) => reason.code.clone(),
        None => "failed".to_owned(),
    };
    vec![
        disk.disk.as_ref().map(|facts| facts.label.clone()).unwrap_or_default(),
        micros(times.attach_us),
        micros(times.discover_us),
        micros(times.first_byte_us),
        micros(times.transfer_us),
        micros(times.detach_us),
        disk.engine.clone(),
        bytes(disk.bytes_read),
        bytes(disk.bytes_sent),
        bytes(disk.zero_bytes),
        state,
    ]
}

/// The end of a backup, whose manifest is at `path`, or of one that was only read.
pub(super) fn end(
    out: &Output,
    result: &JobResult,
    manifest: &Manifest,
    path: Option<&Path>,
    (rate, bottlenecks): &(Rate, Vec<String>),
    (exit, took): (Exit, Duration),
) {
    let images: Vec<_> = path
        .and_then(Path::parent)
        .map_or_else(Vec::new, |folder| manifest.disks.iter().map(|disk| (disk, folder.join(&disk.file))).collect());
    warn_engines(out, &result.disks);
    out.event(|| {
        let files: Vec<_> = images
            .iter()
            .map(|(disk, file)| {
                json!({"device_key": disk.device_key, "file": file, "capacity_bytes": disk.capacity_bytes,
                "scope": disk.scope, "root": disk.root})
            })
            .collect();
        json!({"event": "result", "exit": exit.code(), "vm_name": result.vm_name, "job_id": result.job_id,
            "consistency": manifest.snapshot.consistency, "cleanup": cleanup_name(result.cleanup()),
            "manifest": path, "images": files, "seconds": took.as_secs_f64(), "read": rate.json()})
    });
    out.result("");
    disks(out, &result.disks);
    out.result(&format!("\nconsistency reached: {}", manifest.snapshot.consistency));
    for (_, file) in &images {
        out.result(&format!("image: {}", file.display()));
    }
    match path {
        Some(path) => out.result(&format!("manifest: {}", path.display())),
        None => out.result("every block was received and checked; nothing was kept (--discard)"),
    }
    out.result(&format!("read: {}", rate.line()));
    bottlenecks.iter().for_each(|line| out.result(&crate::output::clean(line)));
    out.result(&format!("clean-up: {}; took {:.1} s", cleanup_name(result.cleanup()), took.as_secs_f64()));
}

pub(crate) fn job_json(event: &str, job: &JobResult) -> Value {
    let snapshot = job.snapshot.as_ref().map(|s| {
        json!({"moref": s.moref, "reached": reached_name(s.reached()), "ours": s.ours,
            "fault": s.fault.as_ref().map(reason_json)})
    });
    json!({"event": event, "job_id": job.job_id, "request_id": job.request_id, "state": state_name(job.state()),
        "phase": phase_name(job.phase()), "vm_moref": job.vm_moref, "vm_name": job.vm_name, "snapshot": snapshot,
        "disks": job.disks.iter().map(disk_json).collect::<Vec<_>>(), "reasons": reasons_json(&job.reasons),
        "cleanup": cleanup_name(job.cleanup()), "started": job.started, "ended": job.ended,
        "acting_user": job.acting_user})
}

fn disk_json(disk: &DiskResult) -> Value {
    let times = disk.timings.unwrap_or_default();
    json!({"disk": disk.disk.as_ref().map(facts_json), "ok": disk.ok, "reasons": reasons_json(&disk.reasons),
        "engine": disk.engine, "engine_refusals": disk.engine_refusals, "bytes_read": disk.bytes_read,
        "bytes_sent": disk.bytes_sent, "zero_bytes": disk.zero_bytes, "transport": transport_name(disk.transport()),
        "attach_us": times.attach_us, "discover_us": times.discover_us, "first_byte_us": times.first_byte_us,
        "transfer_us": times.transfer_us, "detach_us": times.detach_us})
}

fn facts_json(facts: &DiskFacts) -> Value {
    json!({"device_key": facts.device_key, "label": facts.label, "backing": facts.backing,
        "capacity_bytes": facts.capacity_bytes, "uuid": facts.uuid, "change_id": facts.change_id,
        "datastore": facts.datastore, "controller": facts.controller})
}

fn reasons_json(reasons: &[Reason]) -> Vec<Value> {
    reasons.iter().map(reason_json).collect()
}

/// Told once: how long it takes nobody knows.
pub(super) fn waiting(out: &Output, waiting: &Waiting) {
    out.event(|| {
        json!({"event": "waiting", "reason": waiting.reason.as_ref().map(reason_json), "eta_seconds": waiting.eta_seconds})
    });
    let why = waiting.reason.as_ref().map(reason_line).unwrap_or_default();
    out.line(&format!("waiting: {why}"));
}

pub(crate) fn reason_json(reason: &Reason) -> Value {
    json!({"code": reason.code, "message": reason.message, "next_step": reason.next_step,
        "cleanup": cleanup_name(reason.cleanup())})
}

pub(crate) fn reason_line(reason: &Reason) -> String {
    format!("{} {}; next: {}", reason.code, reason.message, reason.next_step)
}

/// A disk as messages call it.
pub(super) fn disk_name(facts: &DiskFacts) -> String {
    format!("{} ({})", facts.label, facts.device_key)
}

pub(crate) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "begin",
        Phase::Preflight => "preflight",
        Phase::Snapshot => "snapshot",
        Phase::Attach => "attach",
        Phase::Read => "read",
        Phase::Detach => "detach",
        Phase::RemoveSnapshot => "remove snapshot",
        Phase::Done => "done",
    }
}

pub(crate) fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Unspecified => "none",
        Transport::Hotadd => "hotadd",
        Transport::Nbd => "nbd",
        Transport::Export => "export",
        Transport::San => "san",
    }
}

/// A level that was reached, as the manifest calls it.
pub(super) fn reached_name(level: Consistency) -> &'static str {
    match level {
        Consistency::RequiredApp | Consistency::PreferApp => "application",
        Consistency::Filesystem => "filesystem",
        Consistency::Crash | Consistency::Unspecified => "crash",
    }
}

/// A level that was asked, as the command line calls it.
pub(super) fn asked_name(level: Consistency) -> &'static str {
    match level {
        Consistency::RequiredApp => "required_app",
        Consistency::PreferApp => "prefer_app",
        Consistency::Filesystem => "filesystem",
        Consistency::Crash | Consistency::Unspecified => "crash",
    }
}
