//! What a backup leaves on the VM that it backed up: snapshots, disabled methods, deltas without a snapshot, redo files.
use std::collections::BTreeSet;

use super::{age_text, attached::Held, maker, stale};
use crate::{
    args::Limits,
    codes,
    facts::{Estate, Snapshot, Vm},
    finding::{Finding, Severity},
    show::quoted,
};

fn is_held(held: &[Held], owner: usize) -> bool {
    held.iter().any(|h| h.owner == Some(owner))
}

/// Names of the VMs that have a disk of this one.
fn holders(estate: &Estate, held: &[Held], owner: usize) -> String {
    let all: BTreeSet<&str> =
        held.iter().filter(|h| h.owner == Some(owner)).map(|h| estate.vms[h.holder].object.name.as_str()).collect();
    all.into_iter().collect::<Vec<_>>().join(", ")
}

pub(super) fn snapshots(estate: &Estate, held: &[Held], limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, vm) in estate.vms.iter().enumerate() {
        for snapshot in vm.known_snapshots() {
            let Some(maker) = maker(snapshot) else { continue };
            findings.push(snapshot_finding(estate, held, limits, at, vm, snapshot, &maker));
        }
    }
    findings
}

fn snapshot_finding(
    estate: &Estate,
    held: &[Held],
    limits: &Limits,
    at: usize,
    vm: &Vm,
    snapshot: &Snapshot,
    maker: &str,
) -> Finding {
    let expired = snapshot.marker.as_ref().and_then(|m| m.expires).is_some_and(|expires| expires < estate.now);
    let old = expired || stale(estate, snapshot.taken, limits);
    let severity = if old { Severity::Warning } else { Severity::Info };
    let risk = if old {
        "every write of the VM goes to a delta that grows until the datastore is full, and then the VM stops"
    } else {
        "none if a backup runs now; else as for one that was left"
    };
    let mut finding = Finding::new(codes::SNAPSHOT, severity, &vm.object, risk)
        .fact("snapshot", format!("\"{}\" ({})", snapshot.name, snapshot.moref))
        .fact("named as by", maker)
        .fact("taken", format!("{} ago", age_text(estate, snapshot.taken)));
    if expired {
        finding = finding.fact("expired", "its agent needs it no more, by its own description");
    }
    if let Some(marker) = &snapshot.marker {
        let proxy = estate.vms.iter().find(|vm| vm.instance_uuid.as_deref() == Some(marker.proxy.as_str()));
        finding = match proxy {
            Some(proxy) => finding.fact("its proxy", format!("{} ({})", proxy.object.name, proxy.object.moref)).step(
                format!("start hotadd-agent on {}: it removes the snapshots that its journal names", proxy.object.name),
            ),
            None => finding.fact("its proxy", "no VM of this vCenter that can be seen"),
        };
    } else {
        finding = finding.step("make sure in its product that no job uses it; let the product remove it");
    }
    if is_held(held, at) {
        finding = finding
            .fact("attached elsewhere", format!("disks of this VM are attached to {}", holders(estate, held, at)))
            .step("first detach these disks (HA-DOC-001): a snapshot that is removed before leaves its delta behind");
    }
    finding.step(format!("then: govc snapshot.remove -vm {} {}", quoted(&vm.object.name), quoted(&snapshot.moref)))
}

/// Storage vMotion is what VDDK and hotadd-agent disable while they read. Other methods are disabled by the state of a VM too.
const METHOD: &str = "RelocateVM_Task";

pub(super) fn methods(estate: &Estate, held: &[Held], limits: &Limits) -> Vec<Finding> {
    if !estate.server.is_vcenter {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (at, vm) in estate.vms.iter().enumerate().filter(|(_, vm)| vm.disabled.iter().any(|m| m == METHOD)) {
        let young = vm.known_snapshots().any(|s| maker(s).is_some() && !stale(estate, s.taken, limits));
        let holds = held.iter().any(|h| h.holder == at);
        let in_use = young || is_held(held, at) || holds || vm.tasks.is_some_and(|tasks| tasks.running);
        let severity = if in_use { Severity::Info } else { Severity::Warning };
        let risk = if in_use {
            "none while a backup holds it"
        } else {
            "the VM can't be moved to another datastore, by nobody and not by Storage DRS, until its source enables it again"
        };
        findings.push(
            Finding::new(codes::METHODS, severity, &vm.object, risk)
                .fact("disabledMethod", vm.disabled.join(", "))
                .fact("who", "vCenter does not show who disabled it; a refused call names the source")
                .step("hotadd-agent's own: start the agent, which enables what its journal names")
                .step("another product's: run one more backup of this VM, which ends with enabling it")
                .step(format!(
                    "by hand, once no backup runs: govc object.method -enable -name {METHOD} -source SOURCE vm/{}; \
                     a source that does not fit enables nothing",
                    quoted(&vm.object.name)
                )),
        );
    }
    findings
}

pub(super) fn consolidation(estate: &Estate, held: &[Held]) -> Vec<Finding> {
    let needy = estate.vms.iter().enumerate().filter(|(_, vm)| vm.consolidation_needed);
    let one = |(at, vm): (usize, &Vm)| {
        let risk = "deltas without a snapshot grow unseen until the datastore is full";
        let finding = Finding::new(codes::CONSOLIDATION, Severity::Warning, &vm.object, risk)
            .fact("runtime.consolidationNeeded", "true");
        let finding = if is_held(held, at) {
            finding
                .fact("attached elsewhere", format!("disks of this VM are attached to {}", holders(estate, held, at)))
                .step("first detach these disks (HA-DOC-001): while they are attached it fails with a locked file")
        } else {
            finding
        };
        finding.step("in the vSphere Client: this VM, Snapshots, Consolidate; at a quiet hour, since it stuns the VM")
    };
    needy.map(one).collect()
}

/// Redo logs that vCenter counts to a VM while nobody has a disk attached nonpersistent on their file.
pub(super) fn redo(estate: &Estate) -> Vec<Finding> {
    let in_use: BTreeSet<String> = estate
        .vms
        .iter()
        .flat_map(Vm::known_disks)
        .filter(|disk| disk.nonpersistent())
        .map(|disk| stem(disk.file().as_str()).to_owned())
        .collect();
    // A VM that hides its disks may be the one that uses it.
    let all_shown = estate.vms.iter().all(|vm| vm.disks.is_some());
    let mut findings = Vec::new();
    for vm in &estate.vms {
        for file in vm.files.iter().flatten() {
            let Some((base, _)) = file.name.as_str().split_once("-REDO_") else { continue };
            if in_use.contains(stem(base)) {
                continue;
            }
            let severity = if all_shown { Severity::Warning } else { Severity::Info };
            let risk = "it holds space of the datastore; it is the trace of a disk that was not detached in order";
            findings.push(
                Finding::new(codes::REDO, severity, &vm.object, risk)
                    .fact("file", file.name.as_str())
                    .fact("size", super::bytes(file.bytes))
                    .fact("in use", if all_shown { "by no VM" } else { "by no VM whose disks are shown" })
                    .step("run doctor again when no backup runs; if it stays, nobody has its disk attached")
                    .step("then an administrator deletes this one file in the datastore browser; never the .vmdk beside it"),
            );
        }
    }
    findings
}

fn stem(path: &str) -> &str {
    path.strip_suffix(".vmdk").unwrap_or(path)
}
