//! Whether a VM may be surveyed with a change: pure, over facts as they were read right before. What is not known stands against it.
use hotadd_vsphere::{PowerState, VmInfo};

/// What is known of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) template: bool,
    pub(crate) connected: bool,
    /// `None`: neither on nor off, or not known.
    pub(crate) on: Option<bool>,
    /// The others: `None`, not known.
    pub(crate) snapshots: Option<usize>,
    pub(crate) disks: Option<usize>,
    /// Disks that somebody attached so, and that no snapshot may freeze.
    pub(crate) nonpersistent: usize,
    pub(crate) consolidation: Option<bool>,
    pub(crate) busy: Option<bool>,
    pub(crate) question: bool,
    pub(crate) disabled: Vec<String>,
    /// Privileges that the account lacks.
    pub(crate) lacking: Option<Vec<String>>,
    /// Properties that vCenter refused and whose absence would be taken for good news.
    pub(crate) untold: Vec<String>,
}

const SILENT: [&str; 3] = ["config.template", "disabledMethod", "runtime.question"];

/// What the survey needs on the VM.
pub(crate) const PRIVILEGES: [&str; 2] = ["VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot"];
/// Methods that it calls.
const METHODS: [&str; 2] = ["CreateSnapshot_Task", "RemoveSnapshot_Task"];

impl Target {
    /// `busy`: whether a task runs on it. `lacking`: privileges that are not granted.
    pub(crate) fn of(info: &VmInfo, busy: Option<bool>, lacking: Option<Vec<String>>) -> Self {
        let refused =
            |path: &str| info.missing.iter().any(|m| path == m.path || path.starts_with(&format!("{}.", m.path)));
        let devices = info.gave("config.hardware.device");
        Self {
            name: info.name.clone(),
            template: info.is_template,
            connected: info.connection_state.as_deref() == Some("connected"),
            on: match info.power_state {
                Some(PowerState::On) => Some(true),
                Some(PowerState::Off) => Some(false),
                _ => None,
            },
            // A VM without snapshots does not have the property at all.
            snapshots: (!refused("snapshot")).then(|| info.snapshots.iter().flat_map(crate::gather::nodes).count()),
            disks: devices.then(|| info.disks().count()),
            nonpersistent: info
                .disks()
                .filter(|d| d.backing.disk_mode.as_deref() == Some("independent_nonpersistent"))
                .count(),
            consolidation: info.consolidation_needed,
            busy,
            untold: SILENT.iter().filter(|path| refused(path)).map(|path| (*path).to_owned()).collect(),
            question: info.question.is_some(),
            disabled: info.disabled_methods.clone(),
            lacking,
        }
    }
}

/// Everything that stands against it; empty: it may be surveyed.
pub(crate) fn refusals(vm: &Target, typed: &str, powered_on_ok: bool) -> Vec<String> {
    let mut all = Vec::new();
    let mut when = |stands: bool, why: &str| {
        if stands {
            all.push(why.to_owned());
        }
    };
    when(vm.name != typed, "its name is not the one given with --sacrificial");
    when(vm.template, "it is a template");
    when(!vm.connected, "it is not connected to its host, or that is not told");
    match vm.on {
        None => when(true, "it is neither on nor off, or its power state is not told"),
        Some(on) => when(on && !powered_on_ok, "it is powered on and --powered-on-ok is not given"),
    }
    match vm.snapshots {
        None => when(true, "its snapshots are not told"),
        Some(count) => when(count > 0, "it has a snapshot"),
    }
    match vm.disks {
        None => when(true, "its devices are not told"),
        Some(count) => when(count == 0, "it has no disk"),
    }
    when(vm.nonpersistent > 0, "a disk is attached to it as hot-add backups do: it may be somebody's proxy");
    match vm.consolidation {
        None => when(true, "it is not told whether it needs consolidation"),
        Some(needed) => when(needed, "it needs consolidation"),
    }
    match vm.busy {
        None => when(true, "its tasks are not told"),
        Some(busy) => when(busy, "a task runs on it"),
    }
    when(vm.question, "it waits for the answer to a question");
    for method in METHODS {
        when(vm.disabled.iter().any(|disabled| disabled == method), &format!("{method} is disabled on it"));
    }
    vm.untold.iter().for_each(|path| when(true, &format!("{path} is not told")));
    match &vm.lacking {
        None => when(true, "the account's privileges on it are not told"),
        Some(lacking) => lacking.iter().for_each(|id| when(true, &format!("the account lacks {id} on it"))),
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Target {
        Target {
            name: "lab".into(),
            template: false,
            connected: true,
            on: Some(false),
            snapshots: Some(0),
            disks: Some(1),
            nonpersistent: 0,
            consolidation: Some(false),
            busy: Some(false),
            question: false,
            disabled: vec!["RelocateVM_Task".into()],
            lacking: Some(Vec::new()),
            untold: Vec::new(),
        }
    }

    #[test]
    fn a_vm_that_is_given_and_at_rest_is_taken() {
        assert_eq!(refusals(&fit(), "lab", false), Vec::<String>::new());
        let on = Target { on: Some(true), ..fit() };
        assert_eq!(refusals(&on, "lab", true), Vec::<String>::new());
    }

    /// One fact at a time, and each that is not known.
    #[test]
    fn each_doubt_refuses() {
        let bad: [(Target, &str); 19] = [
            (Target { name: "Lab".into(), ..fit() }, "name"),
            (Target { template: true, ..fit() }, "template"),
            (Target { connected: false, ..fit() }, "connected"),
            (Target { on: Some(true), ..fit() }, "--powered-on-ok"),
            (Target { on: None, ..fit() }, "power state"),
            (Target { snapshots: Some(1), ..fit() }, "has a snapshot"),
            (Target { snapshots: None, ..fit() }, "snapshots are not told"),
            (Target { disks: Some(0), ..fit() }, "no disk"),
            (Target { disks: None, ..fit() }, "devices"),
            (Target { nonpersistent: 1, ..fit() }, "proxy"),
            (Target { consolidation: Some(true), ..fit() }, "consolidation"),
            (Target { consolidation: None, ..fit() }, "not told whether"),
            (Target { busy: Some(true), ..fit() }, "task runs"),
            (Target { busy: None, ..fit() }, "tasks"),
            (Target { question: true, ..fit() }, "question"),
            (Target { disabled: vec!["RemoveSnapshot_Task".into()], ..fit() }, "RemoveSnapshot_Task is disabled"),
            (Target { lacking: Some(vec!["X.Y".into()]), ..fit() }, "lacks X.Y"),
            (Target { lacking: None, ..fit() }, "privileges"),
            (Target { untold: vec!["disabledMethod".into()], ..fit() }, "disabledMethod is not told"),
        ];
        for (vm, why) in bad {
            let told = refusals(&vm, "lab", false);
            assert!(told.len() == 1 && told[0].contains(why), "{why}: {told:?}");
        }
    }
}
