//! Chains of deltas: many, large, or soon too large for their datastore.
use hotadd_vsphere::BackingPath;

use super::{age_minutes, age_text, bytes};
use crate::{
    args::Limits,
    codes,
    facts::{Disk, Estate, Vm},
    finding::{Finding, Severity},
};

/// vSphere supports 32 links: from here on the next snapshots fail.
const NEARLY_LONGEST: usize = 30;
/// A rate over a shorter time is noise.
const MEASURABLE_MINUTES: u64 = 10;
/// A datastore that is full within a day stops VMs before anybody looks again.
const URGENT_HOURS: u64 = 24;

pub(super) fn findings(estate: &Estate, limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    for vm in &estate.vms {
        for disk in vm.known_disks().filter(|disk| !disk.nonpersistent()) {
            findings.extend(finding(estate, vm, disk, limits));
        }
    }
    findings
}

fn finding(estate: &Estate, vm: &Vm, disk: &Disk, limits: &Limits) -> Option<Finding> {
    let deltas: Vec<&BackingPath> = disk.chain.iter().filter(|file| is_delta(file)).collect();
    let top = deltas.first()?;
    let total: u64 = deltas.iter().filter_map(|file| size(vm, file)).sum();
    let since = vm.known_snapshots().filter(|s| s.current).find_map(|s| s.taken);
    let hours = hours_until_full(estate, vm, top, age_minutes(estate, since));
    let many = deltas.len() > limits.deltas as usize;
    // The only delta of a linked clone is its disk, and may grow.
    let grows = vm.known_snapshots().next().is_some() || vm.consolidation_needed;
    let large = grows && disk.capacity > 0 && total >= disk.capacity / 2;
    let soon = hours.is_some_and(|hours| hours <= u64::from(limits.full_days) * 24);
    if !many && !large && !soon {
        return None;
    }
    let urgent = deltas.len() >= NEARLY_LONGEST || hours.is_some_and(|hours| hours <= URGENT_HOURS);
    let severity = if urgent { Severity::Critical } else { Severity::Warning };
    let risk = "a full datastore stops every VM that writes to it; long chains are slow, and at 32 links no backup can be taken";
    let mut finding = Finding::new(codes::CHAIN, severity, &vm.object, risk)
        .fact("disk", format!("{}, key {}", top.as_str(), disk.key))
        .fact("deltas", deltas.len().to_string())
        .fact("size of the deltas", format!("{} of a disk of {}", bytes(total), bytes(disk.capacity)));
    if let Some(hours) = hours {
        let store = top.datastore().unwrap_or_default();
        let free = estate.free.get(store).copied().unwrap_or_default();
        let age = age_text(estate, since);
        finding = finding.fact(
            "growth",
            format!(
                "{} in {age}; {store} has {} free: full in some {hours} h",
                bytes(size(vm, top).unwrap_or(0)),
                bytes(free)
            ),
        );
    }
    let finding = if vm.snapshots.as_ref().is_some_and(Vec::is_empty) {
        finding.fact("snapshots", "none: the VM needs consolidation").step("consolidate it (HA-DOC-004)")
    } else {
        finding.fact("snapshots", vm.known_snapshots().count().to_string())
    };
    Some(
        finding
            .step("remove snapshots that nobody needs, oldest first: the vSphere Client, this VM, Snapshots, Manage")
            .step("those of backup products (HA-DOC-002) by their product, after their disks are detached"),
    )
}

/// `name-000001.vmdk`: deltas of snapshots. A linked clone's own top is one as well, and its only one.
fn is_delta(file: &BackingPath) -> bool {
    let stem = file.file().and_then(|name| name.strip_suffix(".vmdk"));
    let number = stem.and_then(|stem| stem.rsplit_once('-')).map(|(_, number)| number);
    number.is_some_and(|number| number.len() == 6 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// What a delta's extent has grown to.
fn size(vm: &Vm, delta: &BackingPath) -> Option<u64> {
    let stem = delta.as_str().strip_suffix(".vmdk")?;
    let extent = |name: &str| {
        name.strip_prefix(stem).is_some_and(|rest| rest == "-delta.vmdk" || rest == "-sesparse.vmdk" || rest == ".vmdk")
    };
    let all = vm.files.as_ref()?.iter().filter(|file| extent(file.name.as_str()));
    all.map(|file| file.bytes).max()
}

/// At the rate of the newest delta since its snapshot.
fn hours_until_full(estate: &Estate, vm: &Vm, top: &BackingPath, age: Option<u64>) -> Option<u64> {
    let minutes = age.filter(|minutes| *minutes >= MEASURABLE_MINUTES)?;
    let (grown, free) = (size(vm, top)?, *estate.free.get(top.datastore()?)?);
    let minutes_left = u128::from(free) * u128::from(minutes) / u128::from(grown).max(1);
    u64::try_from(minutes_left / 60).ok()
}
