//! The project's open questions (what no document of VMware's answers), and what a survey tells of each. What is not asked is said, with its reason.
use crate::document::{Document, Question};

struct Open {
    question: &'static str,
    /// Why a survey does not ask it; else where the facts are.
    why: &'static str,
    facts: fn(&Document) -> bool,
}

const HELD: &str = "independent_nonpersistent";

fn never(_: &Document) -> bool {
    false
}

/// In the order of their weight.
const OPEN: &[Open] = &[
    Open {
        question: "is a detach refused while the proxy's host enters maintenance mode",
        why: "a host would have to leave service: look at a planned one",
        facts: never,
    },
    Open {
        question: "file name, parent and redo log that are told of a disk attached nonpersistent",
        why: "vm.disks[].chain and vm.files[] of a survey without --go of a proxy while a backup runs",
        facts: |d| d.vm.iter().flat_map(|vm| &vm.disks).any(|disk| disk.mode.as_deref() == Some(HELD)),
    },
    Open {
        question: "hot-add of disks on SATA and NVMe controllers, and of virtual RDMs",
        why: "nothing is attached by a survey",
        facts: never,
    },
    Open { question: "hot-add on vSAN by a proxy elsewhere", why: "nothing is attached by a survey", facts: never },
    Open { question: "two proxies on one snapshot", why: "nothing is attached by a survey", facts: never },
    Open {
        question: "whether disabled methods end with the session",
        why: "a method that stays disabled would need an administrator",
        facts: never,
    },
    Open {
        question: "units 16 to 63 of a PVSCSI controller",
        why: "vm.disks[].unit, if one of them is there",
        facts: |d| d.vm.iter().flat_map(|vm| &vm.disks).any(|disk| disk.unit.is_some_and(|unit| unit > 15)),
    },
    Open {
        question: "pciSlotNumber and the address in the guest",
        why: "vm.controllers[].pci_slot; the guest's side is not seen from here",
        facts: |d| d.vm.iter().flat_map(|vm| &vm.controllers).any(|controller| controller.pci_slot.is_some()),
    },
    Open {
        question: "faults of queries for changed areas",
        why: "faults[] areas_…, of a run",
        facts: |d| d.faults.iter().any(|fault| fault.question.starts_with("areas_")),
    },
    Open {
        question: "changed block tracking after an extension or a Storage vMotion",
        why: "a survey neither extends nor moves a VM",
        facts: never,
    },
    Open {
        question: "whether an export lease blocks the removal of a snapshot",
        why: "a survey exports nothing",
        facts: never,
    },
    Open {
        question: "whether a working folder of its own moves deltas and redo logs",
        why: "vm.home, vm.snapshot_directory and snapshot.new_files[], of a run on a VM that has one",
        facts: |d| {
            d.snapshot.is_some()
                && d.vm.iter().any(|vm| vm.snapshot_directory.is_some() && vm.snapshot_directory != vm.home)
        },
    },
    Open {
        question: "how long snapshots take, and a VM stands still for them",
        why: "steps[]; stun has a bound, and events if vCenter records any: the length itself is in the VM's vmware.log",
        facts: |d| !d.steps.is_empty(),
    },
    Open {
        question: "identity pages (VPD 0x80, 0x83) of an attached disk",
        why: "nothing is attached by a survey; vm.disks[].uuid is vCenter's side of it",
        facts: never,
    },
];

/// The document with its last part.
pub(crate) fn answered(mut document: Document) -> Document {
    let told = |open: &Open| Question {
        question: open.question.to_owned(),
        state: if (open.facts)(&document) { "facts" } else { "not_asked" }.to_owned(),
        why: open.why.to_owned(),
    };
    document.questions = OPEN.iter().map(told).collect();
    document
}
