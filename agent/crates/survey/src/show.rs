//! A document as text for people. It says nothing that the document does not.
use std::fmt::Write as _;

use crate::document::{Disk, Document};

impl Document {
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{line}");
        };
        let v = &self.vcenter;
        line(format!(
            "vCenter: {} {} build {}, API {} (spoken: {})",
            v.product, v.version, v.build, v.api_version, v.negotiated
        ));
        if let Some(host) = &self.host {
            line(format!("host: ESXi {} build {}", told(host.version.as_ref()), told(host.build.as_ref())));
        }
        for store in &self.datastores {
            line(format!(
                "datastore {}: {} {}",
                store.id,
                store.kind,
                store.vmfs_version.as_deref().unwrap_or_default()
            ));
        }
        if let Some(vm) = &self.vm {
            let version = vm.hardware_version.map(|n| format!("vmx-{n}"));
            line(format!(
                "VM: {}, power {}, {} snapshots, changed block tracking {}, disabled: {}",
                told(version.as_ref()),
                told(vm.power.as_ref()),
                vm.snapshots,
                vm.change_tracking.map_or("not told", |on| if on { "on" } else { "off" }),
                if vm.disabled_methods.is_empty() { "nothing".to_owned() } else { vm.disabled_methods.join(", ") }
            ));
            for c in &vm.controllers {
                let slot = c.pci_slot.map_or("not told".to_owned(), |slot| slot.to_string());
                line(format!("controller {}: {} bus {}, slot {slot}", c.key, c.kind, c.bus));
            }
            vm.disks.iter().for_each(|d| line(disk("disk", d)));
        }
        for d in self.snapshot.iter().flat_map(|s| &s.frozen) {
            line(disk("frozen disk", d));
        }
        for d in self.snapshot.iter().flat_map(|s| &s.live) {
            line(disk("disk meanwhile", d));
        }
        for step in &self.steps {
            let times = |ms: Option<u64>| ms.map_or("not told".to_owned(), |ms| format!("{ms} ms"));
            line(format!(
                "{}: {} ms (queued {}, ran {})",
                step.step,
                step.ms,
                times(step.queue_ms),
                times(step.run_ms)
            ));
        }
        for fault in self.faults.iter().chain(self.steps.iter().filter_map(|step| step.fault.as_ref())) {
            let kind = fault.kind.as_deref().unwrap_or("answered");
            line(format!("{}: {} {kind} {}", fault.question, fault.call, fault.message).trim_end().to_owned());
        }
        for question in &self.questions {
            line(format!("question: {}: {} ({})", question.question, question.state.replace('_', " "), question.why));
        }
        self.not_read.iter().for_each(|n| line(format!("NOT READ: {}: {}", n.what, n.why)));
        if self.ran && self.left.is_empty() {
            line("left of the survey: nothing".to_owned());
        }
        self.left.iter().for_each(|left| line(format!("LEFT: {left}")));
        text
    }
}

fn told(text: Option<&String>) -> &str {
    text.map_or("not told", String::as_str)
}

fn disk(what: &str, d: &Disk) -> String {
    let number = |n: Option<i32>| n.map_or("?".to_owned(), |n| n.to_string());
    let place = format!("{}:{}", number(d.controller_key), number(d.unit));
    format!("{what} {} at {place}: {} {}, {}", d.key, d.backing, told(d.mode.as_ref()), d.chain.join(" <- "))
}
