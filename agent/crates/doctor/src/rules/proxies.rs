//! Proxies, and what makes a VM be taken for another: BIOS UUIDs, controllers, versions.
use std::collections::{BTreeMap, BTreeSet};

use super::attached::Held;
use crate::{
    codes,
    facts::{Estate, Vm},
    finding::{Finding, Severity},
};

/// Name of the product that our appliances tell.
const PRODUCT: &str = "hotadd-proxy";

/// VMs that are or were proxies: they have disks of others, a snapshot of an agent names them, or they say so.
fn proxies(estate: &Estate, held: &[Held]) -> BTreeSet<usize> {
    let makers: BTreeSet<&str> = estate
        .vms
        .iter()
        .flat_map(Vm::known_snapshots)
        .filter_map(|s| s.marker.as_ref().map(|marker| marker.proxy.as_str()))
        .collect();
    let named = |vm: &Vm| {
        vm.instance_uuid.as_deref().is_some_and(|uuid| makers.contains(uuid))
            || vm.product.as_ref().is_some_and(|(name, _)| name == PRODUCT)
    };
    let mut all: BTreeSet<usize> = held.iter().filter(|h| h.disk.nonpersistent()).map(|h| h.holder).collect();
    all.extend(estate.vms.iter().enumerate().filter(|(_, vm)| named(vm)).map(|(at, _)| at));
    all
}

pub(super) fn duplicates(estate: &Estate, held: &[Held]) -> Vec<Finding> {
    let proxies = proxies(estate, held);
    let mut by_uuid: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, vm) in estate.vms.iter().enumerate() {
        if let Some(uuid) = &vm.bios_uuid {
            by_uuid.entry(uuid.to_ascii_lowercase()).or_default().push(at);
        }
    }
    let mut findings = Vec::new();
    for (uuid, all) in by_uuid.into_iter().filter(|(_, all)| all.len() > 1) {
        let proxy = all.iter().copied().find(|at| proxies.contains(at));
        let severity = if proxy.is_some() { Severity::Critical } else { Severity::Warning };
        let risk = match proxy {
            Some(_) => "a proxy that finds itself by this UUID may attach disks to the other VM",
            None => "products that find VMs by this UUID back up, or restore over, the wrong one",
        };
        let names: Vec<String> = all
            .iter()
            .map(|at| format!("{} ({})", estate.vms[*at].object.name, estate.vms[*at].object.moref))
            .collect();
        let first = &estate.vms[proxy.unwrap_or(all[0])].object;
        findings.push(
            Finding::new(codes::DUPLICATE, severity, first, risk)
                .fact("BIOS UUID", uuid)
                .fact("VMs", names.join(", "))
                .step("power off the copy and give it a new UUID: govc vm.change -vm NAME -uuid NEW; backup products see a new VM then"),
        );
    }
    findings
}

pub(super) fn controllers(estate: &Estate, held: &[Held]) -> Vec<Finding> {
    let all = proxies(estate, held);
    all.into_iter().filter_map(|at| lost(&estate.vms[at])).collect()
}

/// Removing the last disk of a controller in the vSphere Client takes the controller along.
fn lost(vm: &Vm) -> Option<Finding> {
    vm.disks.as_ref()?;
    let buses: BTreeSet<i32> = vm.controllers.iter().filter(|c| c.scsi).map(|c| c.bus).collect();
    let last = buses.last().copied().unwrap_or(-1);
    let gaps: Vec<String> = (0..last).filter(|bus| !buses.contains(bus)).map(|bus| bus.to_string()).collect();
    let orphans: Vec<String> = vm
        .known_disks()
        .filter(|disk| disk.controller_key.is_some_and(|key| !vm.controllers.iter().any(|c| c.key == key)))
        .map(|disk| disk.key.to_string())
        .collect();
    if !buses.is_empty() && gaps.is_empty() && orphans.is_empty() {
        return None;
    }
    let risk = "fewer disks can be attached at once, or none: backups fall back to a slower way or fail";
    let shown: Vec<String> = buses.iter().map(ToString::to_string).collect();
    let mut finding = Finding::new(codes::CONTROLLER, Severity::Warning, &vm.object, risk)
        .fact("SCSI buses", if shown.is_empty() { "none".to_owned() } else { shown.join(", ") });
    if !gaps.is_empty() {
        finding = finding.fact("missing", format!("bus {}", gaps.join(", ")));
    }
    if !orphans.is_empty() {
        finding = finding.fact("disks without a controller", format!("keys {}", orphans.join(", ")));
    }
    Some(finding.step(
        "while no backup runs: the vSphere Client, this VM, Edit settings, add a VMware Paravirtual SCSI controller on the \
         missing bus, and a small disk of the VM's own on it, so that it stays",
    ))
}

pub(super) fn versions(estate: &Estate) -> Vec<Finding> {
    let ours = |vm: &&Vm| vm.product.as_ref().is_some_and(|(name, version)| name == PRODUCT && !version.is_empty());
    let all: Vec<&Vm> = estate.vms.iter().filter(ours).collect();
    let version = |vm: &Vm| vm.product.as_ref().map(|(_, version)| version.clone()).unwrap_or_default();
    let different: BTreeSet<String> = all.iter().map(|vm| version(vm)).collect();
    if different.len() < 2 {
        return Vec::new();
    }
    let told: Vec<String> =
        all.iter().map(|vm| format!("{} ({}): {}", vm.object.name, vm.object.moref, version(vm))).collect();
    let risk = "a job behaves as the proxy that takes it: errors that one version has mended come back";
    let finding = Finding::new(codes::VERSIONS, Severity::Info, &all[0].object, risk)
        .fact("appliances", told.join("; "))
        .fact("source", "the product that the appliance was deployed as; an agent that was upgraded in place tells its own: hotaddctl info");
    vec![finding.step("upgrade the older ones, while they are drained (hotaddctl drain)")]
}
