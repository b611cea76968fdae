//! Disks that are attached to a VM and belong to another, or to none.
//!
//! Not findings: disks that several VMs share on purpose, First Class Disks, what lies in the VM's own folder (also the redo logs
//! and deltas of linked clones, whose parents are others'), and a disk that was moved here for good and that nobody else lists.
use std::collections::{BTreeMap, BTreeSet};

use hotadd_vsphere::BackingPath;

use super::{age_text, proof, stale};
use crate::{
    args::Limits,
    codes,
    facts::{Disk, Estate, Snapshot, Vm},
    finding::{Finding, Proof, Severity},
    show::quoted,
};

/// A disk on a VM that is not its own; places in [`Estate::vms`].
#[derive(Debug, Clone)]
pub struct Held {
    pub holder: usize,
    pub disk: Disk,
    /// `None`: no VM lists it, and none has its folder.
    pub owner: Option<usize>,
}

/// All of them.
#[must_use]
pub fn all(estate: &Estate) -> Vec<Held> {
    let index = Index::of(estate);
    let mut held = Vec::new();
    for (holder, vm) in estate.vms.iter().enumerate() {
        for disk in vm.known_disks() {
            if let Some(owner) = index.foreign(estate, holder, disk) {
                held.push(Held { holder, disk: disk.clone(), owner });
            }
        }
    }
    held
}

/// VMs that have a disk of another, and VMs of whom another has a disk.
#[must_use]
pub fn involved(estate: &Estate) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let held = all(estate);
    (held.iter().map(|h| h.holder).collect(), held.iter().filter_map(|h| h.owner).collect())
}

/// Who lists a file, and who lives in a folder.
struct Index<'a> {
    /// By file: VMs that have it in a chain of a disk that is not attached nonpersistent.
    files: BTreeMap<&'a BackingPath, BTreeSet<usize>>,
    tops: BTreeMap<&'a BackingPath, BTreeSet<usize>>,
    folders: BTreeMap<&'a str, usize>,
}

impl<'a> Index<'a> {
    fn of(estate: &'a Estate) -> Self {
        let mut index = Self { files: BTreeMap::new(), tops: BTreeMap::new(), folders: BTreeMap::new() };
        for (at, vm) in estate.vms.iter().enumerate() {
            if let Some(home) = vm.home.as_deref() {
                index.folders.entry(home).or_insert(at);
            }
            for disk in vm.known_disks().filter(|disk| !disk.nonpersistent()) {
                for (link, file) in disk.chain.iter().enumerate() {
                    index.files.entry(file).or_default().insert(at);
                    if link == 0 {
                        index.tops.entry(file).or_default().insert(at);
                    }
                }
            }
        }
        index
    }

    /// `None`: it is the VM's own. `Some(None)`: nobody's.
    fn foreign(&self, estate: &Estate, holder: usize, disk: &Disk) -> Option<Option<usize>> {
        let file = disk.file();
        let vm = &estate.vms[holder];
        // Where its own folder is not told, nothing can be called another's.
        let home = vm.home.as_deref()?;
        if disk.shared || file.parts().is_none() {
            return None;
        }
        if disk.first_class && !disk.nonpersistent() {
            return None;
        }
        let folder = file.as_str().rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
        let lives = folder.as_deref().and_then(|folder| self.folders.get(folder).copied());
        let at_home = lives.filter(|at| *at != holder && folder.as_deref() != Some(home));
        // A folder of the same name on another datastore is its own unless another VM lives there.
        if at_home.is_none() && vm.is_home_of(&file) {
            return None;
        }
        let other = |map: &BTreeMap<&BackingPath, BTreeSet<usize>>| {
            map.get(&file).and_then(|all| all.iter().copied().find(|at| *at != holder))
        };
        if disk.nonpersistent() {
            return Some(at_home.or_else(|| other(&self.files)));
        }
        // A persistent disk is foreign only while its owner uses the file as well.
        let used_by_owner = at_home.filter(|at| self.files.get(&file).is_some_and(|all| all.contains(at)));
        used_by_owner.or_else(|| other(&self.tops)).map(Some)
    }
}

pub(super) fn findings(estate: &Estate, held: &[Held], limits: &Limits) -> Vec<Finding> {
    held.iter().map(|held| finding(estate, held, limits)).collect()
}

/// The snapshot that the disk was taken from, if it was read.
pub(super) fn source<'a>(owner: &'a Vm, file: &BackingPath) -> Option<&'a Snapshot> {
    let froze = |s: &&Snapshot| s.frozen.iter().flatten().any(|frozen| frozen.file == *file && !frozen.independent);
    owner.known_snapshots().find(froze)
}

fn finding(estate: &Estate, held: &Held, limits: &Limits) -> Finding {
    let (vm, disk) = (&estate.vms[held.holder], &held.disk);
    let file = disk.file();
    let owner = held.owner.map(|at| &estate.vms[at]);
    let source = owner.and_then(|owner| source(owner, &file));
    let ours = proof::of(estate, vm, disk);
    let (code, severity, risk) = weigh(estate, vm, disk, owner, source, limits);
    let mut finding = Finding::new(code, severity, &vm.object, risk)
        .fact("file", file.as_str())
        .fact("at", place(vm, disk))
        .fact("mode", &disk.mode)
        .fact("VM is", if vm.on { "powered on" } else { "not powered on" });
    match owner {
        Some(owner) => {
            finding = finding.fact("belongs to", format!("{} ({})", owner.object.name, owner.object.moref));
        }
        None => finding = finding.fact("belongs to", "no VM of this vCenter that can be seen"),
    }
    if vm.files.as_ref().is_some_and(|files| !files.is_empty() && !files.iter().any(|f| f.name == file)) {
        finding = finding.fact("among the VM's files", "no: vCenter does not list it there, so it may be gone");
    }
    if let Some(s) = source {
        let told = format!("\"{}\" ({}), taken {} ago", s.name, s.moref, age_text(estate, s.taken));
        finding = finding.fact("frozen by snapshot", told);
    }
    let busy = |vm: &Vm| vm.tasks.is_some_and(|tasks| tasks.running);
    if busy(vm) || owner.is_some_and(busy) {
        finding = finding.fact("tasks", "a task runs on one of the VMs");
    }
    match &ours {
        Ok(proof) => finding = finding.fact("whose", format!("hotadd-agent's, provably: duty {}", proof.duty)),
        Err(why) => finding = finding.fact("whose", format!("not provably hotadd-agent's: {why}")),
    }
    finding = steps(finding, vm, disk, ours.as_ref().ok());
    finding.ours = ours.ok();
    finding
}

fn weigh(
    estate: &Estate,
    vm: &Vm,
    disk: &Disk,
    owner: Option<&Vm>,
    source: Option<&Snapshot>,
    limits: &Limits,
) -> (codes::Code, Severity, &'static str) {
    const RISK: &str = "the owner's snapshots can't be removed and its deltas grow; destroying this VM, or removing the disk \
                        with its files, deletes the owner's data";
    let Some(owner) = owner else {
        let risk = "if the file is gone, this VM does not power on, and nothing on it can clean up; if it is not, its space is \
                    held and its owner can't be registered and started";
        // A VM that runs has found its files.
        return (codes::GONE, if vm.on { Severity::Warning } else { Severity::Critical }, risk);
    };
    if !disk.nonpersistent() {
        let risk = "both VMs may write to one chain: what either writes corrupts the other's data";
        return (codes::ATTACHED, Severity::Critical, risk);
    }
    if !vm.on {
        return (
            codes::ATTACHED,
            Severity::Critical,
            "nothing on a VM that is off detaches it: the owner's snapshots can't be \
                removed and its deltas grow; this VM does not power on once the file is gone; destroying it deletes the owner's data",
        );
    }
    let severity = match source {
        Some(snapshot) if !stale(estate, snapshot.taken, limits) => Severity::Info,
        Some(_) => Severity::Critical,
        // Nothing tells since when: a backup of a VM that is off needs no snapshot.
        None if !owner.on || owner.snapshots.is_none() => Severity::Warning,
        None if owner.known_snapshots().any(|s| s.frozen.is_none()) => Severity::Warning,
        None => Severity::Critical,
    };
    let risk =
        if severity == Severity::Info { "none if a backup runs now; else as for one that was left" } else { RISK };
    (codes::ATTACHED, severity, risk)
}

/// `SCSI(1:3), key 2019`.
pub(crate) fn place(vm: &Vm, disk: &Disk) -> String {
    let bus = vm.controllers.iter().find(|c| Some(c.key) == disk.controller_key);
    let unit = disk.unit.map_or_else(|| "?".to_owned(), |unit| unit.to_string());
    match bus {
        Some(c) => format!("{}({}:{unit}), key {}", if c.scsi { "SCSI" } else { "controller " }, c.bus, disk.key),
        None => format!("no controller that is shown, key {}", disk.key),
    }
}

/// The disk as govc names devices.
fn device(disk: &Disk) -> String {
    format!("disk-{}-{}", disk.controller_key.unwrap_or_default(), disk.unit.unwrap_or_default())
}

fn steps(finding: Finding, vm: &Vm, disk: &Disk, ours: Option<&Proof>) -> Finding {
    let finding = if ours.is_some() {
        let agent = "start hotadd-agent on this VM: it detaches what its journal says is its own";
        let finding = if vm.on { finding.step(agent) } else { finding };
        finding.step("hotaddctl doctor --fix, and again with --yes, while no agent serves there")
    } else {
        finding.step("end the backup, or run the clean-up, of the product that runs on this VM")
    };
    finding
        .step(format!("once no backup runs: govc device.remove -vm {} -keep {}", quoted(&vm.object.name), device(disk)))
        .step("or in the vSphere Client: this VM, Edit settings, remove that disk WITHOUT \"Delete files from datastore\"")
}
