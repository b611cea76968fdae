//! What a run with `--go` does, step by step: shown before anything is done, and by every run without it.

/// A step, what it changes, and how that is undone.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub what: &'static str,
    pub changes: &'static str,
    pub undone: &'static str,
}

/// In order.
pub const STEPS: &[Step] = &[
    Step {
        what: "read the VM once more, and the account's privileges on it",
        changes: "nothing; whatever is unfit or not known ends the run here (HA-SVY-001)",
        undone: "-",
    },
    Step {
        what: "take a snapshot of the VM, without memory, not quiesced, and wait for its task",
        changes: "each disk gets a delta beside it; a VM that is on stands still for a moment",
        undone: "the snapshot is removed, and its deltas with it",
    },
    Step {
        what: "read the snapshot's disks, the VM's disks and its files; ask for changed areas that are not there",
        changes: "nothing",
        undone: "-",
    },
    Step {
        what: "remove the snapshot, wait for its task, and read the VM until it shows no such snapshot and no task",
        changes: "the deltas are merged; a VM that is on stands still for a moment",
        undone: "nothing is left to undo; else HA-SVY-003 names the snapshot",
    },
    Step {
        what: "ask for the removal of that snapshot once more, read the VM's files and events",
        changes: "nothing: the snapshot is gone",
        undone: "-",
    },
];

/// As text, a line a step.
#[must_use]
pub fn lines() -> Vec<String> {
    let line = |(n, step): (usize, &Step)| {
        format!("plan {}: {}; changes: {}; undone by: {}", n + 1, step.what, step.changes, step.undone)
    };
    STEPS.iter().enumerate().map(line).collect()
}
