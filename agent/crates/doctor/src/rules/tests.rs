//! Each rule on facts that a test made: what is a finding, what is none, and what is provably ours.
use hotadd_vsphere::BackingPath;
use jiff::Timestamp;

use super::*;
use crate::{
    facts::{Blind, Controller, Disk, File, Frozen, Object, Server, Snapshot, Tasks, Vm},
    finding::{Finding, Severity},
    marker::Marker,
};

const NOW: i64 = 1_800_000_000;
const PROXY_UUID: &str = "5012ab34-5678-9abc-def0-123456789abc";

fn ago(hours: i64) -> Option<Timestamp> {
    Timestamp::from_second(NOW - hours * 3600).ok()
}

fn disk(key: i32, chain: &[&str], mode: &str) -> Disk {
    Disk {
        key,
        controller_key: Some(1000),
        unit: Some(key - 2000),
        chain: chain.iter().map(|file| BackingPath::new(*file)).collect(),
        mode: mode.into(),
        shared: false,
        uuid: Some("6000c291".into()),
        capacity: 1 << 30,
        first_class: false,
    }
}

fn vm(name: &str, disks: Vec<Disk>) -> Vm {
    Vm {
        object: Object { name: name.into(), moref: format!("vm-{name}") },
        bios_uuid: Some(format!("bios-{name}")),
        instance_uuid: Some(format!("instance-{name}")),
        on: true,
        home: Some(format!("[ds] {name}/")),
        disks: Some(disks),
        controllers: vec![Controller { key: 1000, bus: 0, scsi: true }],
        snapshots: Some(Vec::new()),
        files: Some(Vec::new()),
        tasks: Some(Tasks::default()),
        ..Vm::default()
    }
}

fn ours(hours: i64) -> Snapshot {
    let frozen = Frozen {
        file: BackingPath::new("[ds] web/web.vmdk"),
        uuid: Some("6000c291".into()),
        capacity: 1 << 30,
        independent: false,
    };
    Snapshot {
        moref: "snapshot-7".into(),
        name: "hotadd-agent d".into(),
        taken: ago(hours),
        current: true,
        marker: Some(Marker { proxy: PROXY_UUID.into(), duty: "d".into(), expires: None }),
        frozen: Some(vec![frozen]),
        ..Snapshot::default()
    }
}

/// A proxy with the target's disk, taken from a snapshot of the proxy's own agent so many hours ago.
fn left(hours: i64) -> Estate {
    let hot = disk(2003, &["[ds] web/web.vmdk"], "independent_nonpersistent");
    let mut proxy = vm("proxy", vec![disk(2000, &["[ds] proxy/proxy.vmdk"], "independent_persistent"), hot]);
    proxy.instance_uuid = Some(PROXY_UUID.into());
    let mut web = vm("web", vec![disk(2000, &["[ds] web/web-000001.vmdk", "[ds] web/web.vmdk"], "persistent")]);
    web.snapshots = Some(vec![ours(hours)]);
    estate(vec![proxy, web])
}

fn estate(vms: Vec<Vm>) -> Estate {
    let server = Server { is_vcenter: true, ..Server::default() };
    Estate { now: ago(0).unwrap(), server, vms, ..Estate::default() }
}

fn judged(estate: &Estate) -> Vec<Finding> {
    judge(estate, &Limits::default()).findings
}

fn codes(estate: &Estate) -> Vec<(&'static str, Severity)> {
    judged(estate).iter().map(|finding| (finding.code.id, finding.severity)).collect()
}

fn attached(estate: &Estate) -> Option<Finding> {
    judged(estate).into_iter().find(|finding| finding.code.id == "HA-DOC-001")
}

fn fact<'a>(finding: &'a Finding, name: &str) -> &'a str {
    finding.evidence.iter().find(|fact| fact.fact == name).map_or("", |fact| fact.value.as_str())
}

#[test]
fn a_disk_that_was_left_is_critical_and_provably_ours() {
    let finding = attached(&left(48)).unwrap();
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(fact(&finding, "file"), "[ds] web/web.vmdk");
    assert_eq!(fact(&finding, "at"), "SCSI(0:3), key 2003");
    let proof = finding.ours.unwrap();
    assert_eq!((proof.snapshot.as_str(), proof.owner.as_str(), proof.disk_key), ("snapshot-7", "vm-web", 2003));
    assert!(finding.fix.iter().any(|step| step.contains("-keep disk-1000-3")), "{:?}", finding.fix);
    assert_eq!(codes(&left(48)), [("HA-DOC-001", Severity::Critical), ("HA-DOC-002", Severity::Warning)]);
}

#[test]
fn a_backup_that_runs_is_told_and_not_counted() {
    let running = judge(&left(1), &Limits::default());
    assert!(running.findings.iter().all(|finding| finding.severity == Severity::Info), "{:?}", running.findings);
    assert_eq!(running.findings.len(), 2);
    let mut off = left(1);
    off.vms[0].on = false;
    assert_eq!(attached(&off).unwrap().severity, Severity::Critical, "nothing on it will detach");
}

#[test]
fn anything_that_disagrees_is_no_proof() {
    type Change = fn(&mut Estate);
    let changes: [(Change, &str); 8] = [
        (|e| e.vms[0].instance_uuid = Some("another".into()), "made by the agent of"),
        (|e| e.vms[0].instance_uuid = None, "this VM is unknown"),
        (|e| e.vms[1].snapshots.as_mut().unwrap()[0].marker = None, "not one of hotadd-agent"),
        (|e| e.vms[1].snapshots.as_mut().unwrap()[0].frozen = None, "0 snapshots"),
        (|e| e.vms[1].snapshots.as_mut().unwrap().push(ours(50)), "2 snapshots"),
        (|e| e.vms[1].snapshots.as_mut().unwrap()[0].frozen.as_mut().unwrap()[0].independent = true, "0 snapshots"),
        (|e| e.vms[0].disks.as_mut().unwrap()[1].uuid = Some("6000c292".into()), "its UUID"),
        (|e| e.vms[0].disks.as_mut().unwrap()[1].capacity = 5, "5 bytes"),
    ];
    for (change, told) in changes {
        let mut estate = left(48);
        change(&mut estate);
        let finding = attached(&estate).unwrap();
        assert_eq!(finding.ours, None, "{told}");
        assert!(fact(&finding, "whose").contains(told), "{told}: {:?}", finding.evidence);
        assert!(!finding.fix.iter().any(|step| step.contains("--fix")), "{:?}", finding.fix);
    }
    let mut gone = left(48);
    gone.vms[0].disks.as_mut().unwrap()[1].capacity = 0;
    assert!(attached(&gone).unwrap().ours.is_some(), "a file that is gone tells no size");
    let mut redo = left(48);
    redo.vms[0].disks.as_mut().unwrap()[1].chain = vec![BackingPath::new("[ds] web/web-REDO_0a0b.vmdk")];
    assert!(attached(&redo).unwrap().ours.is_some(), "shown under its redo log");
}

#[test]
fn what_vms_have_for_good_is_no_finding() {
    let clone = vm("clone", vec![disk(2000, &["[ds] clone/clone-000001.vmdk", "[ds] base/base.vmdk"], "persistent")]);
    let base = vm("base", vec![disk(2000, &["[ds] base/base.vmdk"], "persistent")]);
    let mut node = vm("node", vec![disk(2000, &["[ds] base/base.vmdk"], "persistent")]);
    node.disks.as_mut().unwrap()[0].shared = true;
    let moved = vm("moved", vec![disk(2000, &["[ds] old/data.vmdk"], "persistent")]);
    let old = vm("old", vec![]);
    let kiosk = vm("kiosk", vec![disk(2000, &["[other] kiosk/kiosk.vmdk"], "independent_nonpersistent")]);
    let mut volume = vm("volume", vec![disk(2000, &["[ds] fcd/1.vmdk"], "independent_persistent")]);
    volume.disks.as_mut().unwrap()[0].first_class = true;
    assert_eq!(codes(&estate(vec![clone, base, node, moved, old, kiosk, volume])), []);
}

#[test]
fn a_folder_of_the_same_name_is_anothers_when_another_lives_there() {
    let hot = disk(2003, &["[ds2] web/web.vmdk"], "independent_nonpersistent");
    let mut other = vm("other", vec![]);
    other.home = Some("[ds2] web/".into());
    let both = estate(vec![vm("web", vec![hot.clone()]), other]);
    assert_eq!(attached(&both).map(|finding| finding.object.name), Some("web".into()));
    assert_eq!(codes(&estate(vec![vm("web", vec![hot])])), []);
}

#[test]
fn two_vms_that_write_to_one_disk_are_critical() {
    let thief = vm("thief", vec![disk(2001, &["[ds] web/web.vmdk"], "persistent")]);
    let found =
        attached(&estate(vec![vm("web", vec![disk(2000, &["[ds] web/web.vmdk"], "persistent")]), thief])).unwrap();
    assert_eq!((found.severity, found.object.name.as_str()), (Severity::Critical, "thief"));
    assert!(found.risk.contains("corrupts"), "{}", found.risk);
}

#[test]
fn a_disk_of_nobody_is_told_and_keeps_a_vm_that_is_off_from_starting() {
    let mut gone = left(48);
    gone.vms.pop();
    gone.vms[0].on = false;
    assert_eq!(codes(&gone), [("HA-DOC-009", Severity::Critical)]);
    assert_eq!(judged(&gone)[0].ours, None);
    gone.vms[0].on = true;
    assert_eq!(codes(&gone), [("HA-DOC-009", Severity::Warning)]);
}

#[test]
fn snapshots_are_told_by_name_and_age() {
    let named = |name: &str, hours: i64| {
        let mut web = vm("web", vec![]);
        web.snapshots = Some(vec![Snapshot { name: name.into(), taken: ago(hours), ..Snapshot::default() }]);
        codes(&estate(vec![web]))
    };
    assert_eq!(named("VEEAM BACKUP TEMPORARY SNAPSHOT", 48), [("HA-DOC-002", Severity::Warning)]);
    assert_eq!(named("VEEAM BACKUP TEMPORARY SNAPSHOT", 2), [("HA-DOC-002", Severity::Info)]);
    assert_eq!(named("before the update", 48), []);
    let mut expired = left(2);
    expired.vms[0].disks.as_mut().unwrap().pop();
    expired.vms[1].snapshots.as_mut().unwrap()[0].marker.as_mut().unwrap().expires = ago(1);
    assert_eq!(codes(&expired), [("HA-DOC-002", Severity::Warning)]);
}

#[test]
fn methods_are_left_only_where_no_backup_holds_them() {
    let mut web = vm("web", vec![]);
    web.disabled = vec!["Destroy_Task".into(), "RelocateVM_Task".into()];
    assert_eq!(codes(&estate(vec![web.clone()])), [("HA-DOC-003", Severity::Warning)]);
    web.tasks = Some(Tasks { running: true, reconfigured: None });
    assert_eq!(codes(&estate(vec![web.clone()])), [("HA-DOC-003", Severity::Info)]);
    let mut host = estate(vec![web.clone()]);
    host.server.is_vcenter = false;
    assert_eq!(codes(&host), [], "a bare host has no Storage vMotion");
    web.disabled = vec!["PowerOnVM_Task".into()];
    assert_eq!(codes(&estate(vec![web])), [], "disabled by the VM's state");
}

#[test]
fn consolidation_names_who_stands_in_its_way() {
    let mut needy = left(48);
    needy.vms[1].consolidation_needed = true;
    let found = judged(&needy).into_iter().find(|f| f.code.id == "HA-DOC-004").unwrap();
    assert_eq!(fact(&found, "attached elsewhere"), "disks of this VM are attached to proxy");
    assert!(found.fix[0].contains("HA-DOC-001"), "{:?}", found.fix);
}

/// A VM with so many deltas of `bytes` together, its newest snapshot `hours` old, and `free` bytes on the datastore.
fn chain(deltas: usize, bytes: u64, hours: i64, free: u64) -> Estate {
    let mut files: Vec<String> = (1..=deltas).rev().map(|n| format!("[ds] web/web-{n:06}.vmdk")).collect();
    files.push("[ds] web/web.vmdk".into());
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let mut web = vm("web", vec![disk(2000, &names, "persistent")]);
    web.snapshots =
        Some(vec![Snapshot { name: "mine".into(), taken: ago(hours), current: true, ..Snapshot::default() }]);
    let extent = BackingPath::new(files[0].replace(".vmdk", "-delta.vmdk"));
    web.files = Some(vec![File { name: extent, bytes }]);
    let mut estate = estate(vec![web]);
    estate.free.insert("ds".into(), free);
    estate
}

#[test]
fn deltas_count_by_number_size_and_what_they_leave_free() {
    const MIB: u64 = 1 << 20;
    assert_eq!(codes(&chain(3, MIB, 48, 1 << 40)), []);
    assert_eq!(codes(&chain(4, MIB, 48, 1 << 40)), [("HA-DOC-005", Severity::Warning)]);
    assert_eq!(codes(&chain(30, MIB, 48, 1 << 40)), [("HA-DOC-005", Severity::Critical)]);
    assert_eq!(codes(&chain(1, 512 * MIB, 48, 1 << 40)), [("HA-DOC-005", Severity::Warning)], "half of the disk");
    // 100 MiB in 10 hours: 500 MiB last 50 hours, 100 MiB ten.
    assert_eq!(codes(&chain(1, 100 * MIB, 10, 500 * MIB)), [("HA-DOC-005", Severity::Warning)]);
    assert_eq!(codes(&chain(1, 100 * MIB, 10, 100 * MIB)), [("HA-DOC-005", Severity::Critical)]);
    assert_eq!(codes(&chain(1, 100 * MIB, 0, MIB)), [], "a rate over no time is none");
}

#[test]
fn a_redo_log_is_left_when_nobody_has_its_disk() {
    let mut used = left(1);
    let redo = File { name: BackingPath::new("[ds] web/web-REDO_0007d3.vmdk"), bytes: 4096 };
    used.vms[0].files = Some(vec![File { name: BackingPath::new("[ds] web/web.vmdk"), bytes: 1 }, redo]);
    assert!(!codes(&used).iter().any(|(code, _)| *code == "HA-DOC-006"));
    used.vms[0].disks.as_mut().unwrap().pop();
    assert!(codes(&used).contains(&("HA-DOC-006", Severity::Warning)));
    used.vms[1].disks = None;
    assert!(codes(&used).contains(&("HA-DOC-006", Severity::Info)), "a VM that hides its disks may use it");
}

#[test]
fn one_uuid_of_two_vms_is_worse_with_a_proxy_among_them() {
    let mut twins = estate(vec![vm("a", vec![]), vm("b", vec![])]);
    twins.vms[1].bios_uuid = Some("BIOS-a".into());
    assert_eq!(codes(&twins), [("HA-DOC-007", Severity::Warning)]);
    twins.vms[1].product = Some(("hotadd-proxy".into(), "0.1.0".into()));
    assert_eq!(codes(&twins), [("HA-DOC-007", Severity::Critical)]);
    assert_eq!(judged(&twins)[0].object.name, "b", "the proxy is named");
    twins.vms.iter_mut().for_each(|vm| vm.bios_uuid = None);
    assert_eq!(codes(&twins), []);
}

#[test]
fn a_proxy_misses_the_bus_between_others() {
    let controller = |bus: i32| Controller { key: 1000 + bus, bus, scsi: true };
    let with = |buses: &[i32]| {
        let mut proxy = vm("p", vec![]);
        proxy.product = Some(("hotadd-proxy".into(), "0.1.0".into()));
        proxy.controllers = buses.iter().copied().map(controller).collect();
        codes(&estate(vec![proxy]))
    };
    assert_eq!(with(&[0, 1, 2, 3]), []);
    assert_eq!(with(&[0, 2]), [("HA-DOC-008", Severity::Warning)]);
    assert_eq!(with(&[]), [("HA-DOC-008", Severity::Warning)]);
    let mut other = vm("o", vec![]);
    other.controllers = vec![controller(0), controller(2)];
    assert_eq!(codes(&estate(vec![other])), [], "no proxy");
}

#[test]
fn appliances_of_two_versions_are_told() {
    let proxy = |name: &str, version: &str| {
        let mut proxy = vm(name, vec![]);
        proxy.product = Some(("hotadd-proxy".into(), version.into()));
        proxy
    };
    assert_eq!(codes(&estate(vec![proxy("a", "0.1.0"), proxy("b", "0.1.0")])), []);
    assert_eq!(codes(&estate(vec![proxy("a", "0.1.0"), proxy("b", "0.2.0")])), [("HA-DOC-010", Severity::Info)]);
}

#[test]
fn what_was_not_given_is_no_good_news() {
    let mut hidden = left(48);
    let object = hidden.vms[0].object.clone();
    hidden.vms[0].disks = None;
    let blind = Blind { what: "disks and controllers".into(), object, why: "NoPermission".into() };
    hidden.blind = vec![blind.clone(), blind];
    let report = judge(&hidden, &Limits::default());
    assert_eq!(report.not_looked_at.len(), 1, "told once");
    let mut homeless = left(48);
    homeless.vms[0].home = None;
    assert_eq!(attached(&homeless), None, "without its home nothing is called another's");
}
