//! A site's survey (`hotaddctl survey`, docs/survey.md) as what the simulator replays of it. The document is read by types of its own: who wrote it
//! knows the project's client, and the simulator does not. Keys that it does not know are refused; what it knows and does not replay
//! (files, events, questions) it skips.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::fault::Fault;
use crate::ops::task::cued_fault;
use crate::schema::{SCHEMA, Ver};
use crate::value::{MoRef, Val};
use crate::xml::Node;

const KNOWN: &str = "hotadd-survey/1";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what is known and not replayed must still be there to be known")]
struct Document {
    schema: String,
    program: IgnoredAny,
    ran: IgnoredAny,
    vcenter: Vcenter,
    host: Option<Host>,
    datastores: IgnoredAny,
    vm: Option<Vm>,
    snapshot: IgnoredAny,
    faults: Vec<Told>,
    steps: Vec<Step>,
    events: IgnoredAny,
    stun: IgnoredAny,
    left: IgnoredAny,
    questions: IgnoredAny,
    not_read: IgnoredAny,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Vcenter {
    product: IgnoredAny,
    version: String,
    build: String,
    api_version: String,
    negotiated: IgnoredAny,
    api_type: IgnoredAny,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Host {
    version: Option<String>,
    build: Option<String>,
    #[serde(default)]
    in_maintenance: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Vm {
    hardware_version: IgnoredAny,
    power: IgnoredAny,
    tools: IgnoredAny,
    change_tracking: IgnoredAny,
    encrypted: IgnoredAny,
    consolidation_needed: IgnoredAny,
    disabled_methods: IgnoredAny,
    snapshots: IgnoredAny,
    snapshot_depth: IgnoredAny,
    home: IgnoredAny,
    snapshot_directory: IgnoredAny,
    devices: IgnoredAny,
    controllers: Vec<Controller>,
    disks: Vec<Disk>,
    files: IgnoredAny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Controller {
    key: i32,
    #[serde(rename = "type")]
    kind: IgnoredAny,
    bus: u32,
    pci_slot: Option<u32>,
    own_unit: IgnoredAny,
    sharing: IgnoredAny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Disk {
    key: i32,
    controller_key: Option<i32>,
    unit: Option<i32>,
    backing: IgnoredAny,
    mode: Option<String>,
    sharing: IgnoredAny,
    thin: IgnoredAny,
    uuid: IgnoredAny,
    change_id: IgnoredAny,
    chain: Vec<String>,
}

/// A fault as it was told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Told {
    question: String,
    call: IgnoredAny,
    #[serde(rename = "type")]
    kind: Option<String>,
    message: String,
    causes: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Step {
    step: String,
    ms: IgnoredAny,
    queue_ms: Option<u64>,
    run_ms: Option<u64>,
    fault: IgnoredAny,
}

/// What the simulator does as the site did.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    pub(crate) api_version: Option<String>,
    /// Version and build of vCenter, and of hosts of which the inventory tells none.
    pub(crate) version: Option<String>,
    pub(crate) build: Option<String>,
    pub(crate) host_version: Option<String>,
    pub(crate) host_build: Option<String>,
    /// By bus.
    slots: BTreeMap<u32, u32>,
    /// Keys of disks on SCSI controllers tell their place (base + 16 × bus + unit), instead of the lowest that is free.
    keys_by_place: bool,
    pub(crate) show_redo: Option<bool>,
    /// `x.vmdk-REDO_1` instead of `x-REDO_1.vmdk`.
    redo_after_extension: bool,
    faults: BTreeMap<String, Told>,
    /// By method: waiting and working, milliseconds.
    times: BTreeMap<&'static str, (u64, u64)>,
}

impl Profile {
    /// The document of a survey.
    pub fn read(path: &Path) -> Result<Profile> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Profile::parse(&text).with_context(|| format!("{}: no profile", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Profile> {
        let document: Document = serde_json::from_str(text)?;
        ensure!(document.schema == KNOWN, "schema {} is not {KNOWN}", document.schema);
        let Vcenter { version, build, api_version, .. } = document.vcenter;
        ensure!(Ver::parse(&api_version).is_some(), "API version {api_version}");
        for told in document.faults.iter().filter_map(|told| told.kind.as_deref()) {
            ensure!(SCHEMA.is_a(told, "MethodFault"), "no such fault: {told}");
        }
        let host = document.host.unwrap_or_default();
        let mut profile = Profile {
            api_version: Some(api_version),
            version: Some(version),
            build: Some(build),
            host_version: host.version,
            host_build: host.build,
            faults: document.faults.into_iter().map(|told| (told.question.clone(), told)).collect(),
            ..Profile::default()
        };
        for step in &document.steps {
            let method = match step.step.as_str() {
                "create_snapshot" => "CreateSnapshot_Task",
                "remove_snapshot" => "RemoveSnapshot_Task",
                other => anyhow::bail!("no such step: {other}"),
            };
            profile.times.insert(method, (step.queue_ms.unwrap_or_default(), step.run_ms.unwrap_or_default()));
        }
        if let Some(vm) = &document.vm {
            profile.devices(vm);
        }
        Ok(profile)
    }

    fn devices(&mut self, vm: &Vm) {
        self.slots = vm.controllers.iter().filter_map(|c| Some((c.bus, c.pci_slot?))).collect();
        let place = |disk: &Disk| {
            let bus = vm.controllers.iter().find(|c| Some(c.key) == disk.controller_key)?.bus;
            Some((disk.key, 2000 + 16 * i32::try_from(bus).ok()? + disk.unit?))
        };
        let places: Vec<(i32, i32)> = vm.disks.iter().filter_map(place).collect();
        let mut keys: Vec<i32> = places.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        // A single disk at 0:0 has the same key by either rule.
        let lowest = (2000..).zip(&keys).all(|(lowest, key)| lowest == *key);
        self.keys_by_place = !places.is_empty() && !lowest && places.iter().all(|(key, place)| key == place);
        let held = vm.disks.iter().find(|disk| disk.mode.as_deref() == Some("independent_nonpersistent"));
        if let Some(top) = held.and_then(|disk| disk.chain.first()) {
            self.show_redo = Some(top.contains("-REDO_"));
            self.redo_after_extension = top.contains(".vmdk-REDO_");
        }
    }

    pub(crate) fn slot(&self, bus: u32) -> Option<u32> {
        self.slots.get(&bus).copied()
    }

    /// The key that a disk on a SCSI controller has by its place, where the site had such.
    pub(crate) fn key(&self, bus: u32, unit: i32) -> Option<i32> {
        self.keys_by_place.then(|| 2000 + 16 * i32::try_from(bus).unwrap_or(0) + unit)
    }

    pub(crate) fn redo(&self, path: &str, key: i32) -> String {
        match path.strip_suffix(".vmdk") {
            Some(stem) if !self.redo_after_extension => format!("{stem}-REDO_{key:06x}.vmdk"),
            _ => format!("{path}-REDO_{key:06x}"),
        }
    }

    /// How long tasks of a method wait and work.
    pub(crate) fn times(&self, method: &str) -> (u64, u64) {
        self.times.get(method).copied().unwrap_or_default()
    }

    /// The fault as the site told it, if the question is one that was asked there.
    pub(crate) fn told(&self, body: &Node, this: Option<&MoRef>, fault: Fault) -> Fault {
        let told = question(body, &fault).and_then(|question| self.faults.get(question));
        match told {
            Some(Told { kind: Some(kind), message, .. }) if kind == fault.ty() => {
                Fault { text: message.clone(), ..fault }
            }
            Some(Told { kind: Some(kind), message, .. }) => {
                let root = MoRef::new("Folder", crate::state::ROOT);
                cued_fault(kind, &json!({"message": message}), this.unwrap_or(&root))
            }
            _ => fault,
        }
    }
}

/// Which question of a survey this fault answers.
fn question(body: &Node, fault: &Fault) -> Option<&'static str> {
    let field = |name: &str| fault.obj.fields.iter().find(|(n, _)| *n == name).map(|(_, val)| val);
    match (body.name.as_str(), fault.ty()) {
        ("RetrievePropertiesEx", "ManagedObjectNotFound") => match field("obj") {
            Some(Val::Ref(gone)) => Some(match gone.ty.as_str() {
                "VirtualMachine" => "gone_vm",
                "VirtualMachineSnapshot" => "gone_snapshot",
                "HostSystem" => "gone_host",
                "Datastore" => "gone_datastore",
                _ => return None,
            }),
            _ => None,
        },
        ("RemoveSnapshot_Task", "ManagedObjectNotFound") => Some("gone_snapshot_removed"),
        ("QueryChangedDiskAreas", "InvalidArgument") => match field("invalidProperty") {
            Some(Val::Str(name)) if name == "startOffset" => Some("areas_at_the_end"),
            Some(Val::Str(name)) if name == "deviceKey" => Some("areas_of_no_disk"),
            _ => None,
        },
        ("QueryChangedDiskAreas", "FileFault") => {
            let in_use = body.str("changeId").is_some_and(|id| id.trim() == "*");
            Some(if in_use { "areas_in_use" } else { "areas_since_a_foreign_change" })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> serde_json::Value {
        json!({
            "schema": KNOWN, "program": "0.1.0", "ran": true,
            "vcenter": {"product": "VMware vCenter Server", "version": "7.0.3", "build": "7", "api_version": "7.0.3.0", "negotiated": "7.0.3.0", "api_type": "VirtualCenter"},
            "host": null, "datastores": [], "vm": null, "snapshot": null, "faults": [], "steps": [], "events": [], "stun": null,
            "left": [], "questions": [], "not_read": []
        })
    }

    fn vm(disks: serde_json::Value) -> Profile {
        let mut told = document();
        told["vm"] = json!({"controllers": [{"key": 1000, "bus": 0, "pci_slot": 160}, {"key": 1001, "bus": 1, "pci_slot": 1184}], "disks": disks});
        Profile::parse(&told.to_string()).unwrap()
    }

    fn disk(key: i32, controller: i32, unit: i32) -> serde_json::Value {
        json!({"key": key, "controller_key": controller, "unit": unit, "mode": "persistent", "chain": ["[ds-1] a/b.vmdk"]})
    }

    #[test]
    fn the_rule_of_keys_is_told_by_two_disks_and_never_by_one_that_fits_both() {
        assert_eq!(vm(json!([disk(2000, 1000, 0)])).key(1, 3), None);
        assert_eq!(vm(json!([disk(2000, 1000, 0), disk(2001, 1001, 0)])).key(1, 3), None);
        let by_place = vm(json!([disk(2000, 1000, 0), disk(2016, 1001, 0)]));
        assert_eq!((by_place.key(1, 3), by_place.slot(1)), (Some(2019), Some(1184)));
        assert_eq!(vm(json!([disk(2005, 1000, 0), disk(2016, 1001, 0)])).key(1, 3), None, "no rule that we know");
    }

    #[test]
    fn a_redo_log_is_named_as_it_was_seen() {
        let held = |top: &str| {
            let mut seen = disk(2000, 1000, 0);
            (seen["mode"], seen["chain"]) = (json!("independent_nonpersistent"), json!([top]));
            vm(json!([seen]))
        };
        assert_eq!(held("[ds-1] a/b.vmdk").show_redo, Some(false));
        let after = held("[ds-1] a/b.vmdk-REDO_xxxxxx");
        assert_eq!((after.show_redo, after.redo("[x] y.vmdk", 16)), (Some(true), "[x] y.vmdk-REDO_000010".into()));
        assert_eq!(held("[ds-1] a/b-REDO_xxxxxx.vmdk").redo("[x] y.vmdk", 16), "[x] y-REDO_000010.vmdk");
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (place, key, value, told) in [
            ("", "novel", json!(1), "novel"),
            ("/vcenter", "novel", json!(1), "novel"),
            ("", "vm", json!({"controllers": [], "disks": [{"novel": 1}]}), "novel"),
            ("", "schema", json!("hotadd-survey/9"), "hotadd-survey/9"),
            (
                "",
                "faults",
                json!([{"question": "gone_vm", "call": "x", "type": "Nonsense", "message": "", "causes": []}]),
                "Nonsense",
            ),
            ("", "steps", json!([{"step": "dance", "ms": 1, "queue_ms": 1, "run_ms": 1, "fault": null}]), "dance"),
            ("/vcenter", "api_version", json!("x"), "API version"),
        ] {
            let mut bad = document();
            bad.pointer_mut(place).unwrap()[key] = value;
            let error = format!("{:#}", Profile::parse(&bad.to_string()).unwrap_err());
            assert!(error.contains(told), "{key}: {error}");
        }
    }
}
