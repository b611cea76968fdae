//! Every rule once where it is silent and once where it speaks, and that the table, the registry and the pages agree.
use std::{collections::BTreeSet, time::Duration};

use super::{
    world::{ESX8, World, calm, link, store},
    *,
};
use crate::{
    config::{NoSlot, Profile, SataNvme, TryVddk},
    hypervisor::{BackingKind, Unrest, views::*},
    id::Moref,
    journal::TryOutcome,
    plan::{Decision, Question, Route, Transport, decide, rates::Rates, rule::Verdict},
};

type Change = fn(&mut World);

/// Rule, what makes it speak, the kind of its verdict.
const SPEAKING: &[(&str, Change, &str)] = &[
    ("HA-PLAN-001", |w| w.disk().disk.backing_kind = BackingKind::Other("persistent memory".into()), "no"),
    ("HA-PLAN-002", |w| w.disk().disk.independent = true, "refuse"),
    ("HA-PLAN-003", |w| w.store_of().mount = Fact::Known(Mount::Absent), "no"),
    ("HA-PLAN-003", |w| w.store_of().mount = Fact::Known(Mount::ReadOnly), "no"),
    ("HA-PLAN-003", |w| w.store_of().mount = Fact::Known(Mount::Inaccessible), "no"),
    ("HA-PLAN-003", |w| w.store_of().mount = unknown(), "unknown"),
    ("HA-PLAN-004", |w| w.disk().multi_writer = true, "refuse"),
    ("HA-PLAN-004", |w| w.disk().bus_shared = true, "refuse"),
    ("HA-PLAN-005", |w| w.disk().disk.uuid = None, "no"),
    ("HA-PLAN-007", |w| w.disk().rdm = Some(Rdm::Physical), "refuse"),
    ("HA-PLAN-008", |w| w.disk().rdm = Some(Rdm::Virtual), "no"),
    ("HA-PLAN-009", |w| w.store_of().kind = StoreKind::Vsan, "no"),
    (
        "HA-PLAN-009",
        |w| {
            w.store_of().kind = StoreKind::Vsan;
            w.facts.proxy.home = unknown();
        },
        "unknown",
    ),
    ("HA-PLAN-010", linked_clone_on_vvol, "no"),
    (
        "HA-PLAN-010",
        |w| {
            w.store_of().kind = StoreKind::Vvol;
            w.disk().chain = unknown();
        },
        "unknown",
    ),
    ("HA-PLAN-011", sesparse_before_7, "no"),
    ("HA-PLAN-012", nfs3_before_u2b, "no"),
    (
        "HA-PLAN-012",
        |w| {
            w.store_of().kind = StoreKind::Nfs3;
            w.facts.target.host = unknown();
        },
        "unknown",
    ),
    ("HA-PLAN-013", |w| w.facts.proxy.datacenter = Fact::Known(Moref::new("dc-2")), "no"),
    ("HA-PLAN-013", |w| w.facts.proxy.datacenter = unknown(), "unknown"),
    ("HA-PLAN-014", |w| w.facts.target.vcenter = Fact::Known("other".into()), "refuse"),
    ("HA-PLAN-015", |w| w.disk().bus = Fact::Known(Bus::Ide), "no"),
    ("HA-PLAN-016", |w| w.disk().bus = Fact::Known(Bus::Sata), "warn"),
    (
        "HA-PLAN-016",
        |w| {
            w.disk().bus = Fact::Known(Bus::Nvme);
            w.policy.sata_nvme = SataNvme::Nbd;
        },
        "no",
    ),
    ("HA-PLAN-017", |w| w.disk().encrypted = true, "no"),
    (
        "HA-PLAN-017",
        |w| {
            w.disk().encrypted = true;
            w.facts.proxy.encrypted = unknown();
        },
        "unknown",
    ),
    ("HA-PLAN-018", |w| w.facts.target.template = Fact::Known(true), "refuse"),
    ("HA-PLAN-019", |w| w.facts.target.fault_tolerant = Fact::Known(true), "warn"),
    ("HA-PLAN-020", |w| w.room = Fact::Known(0), "hold"),
    (
        "HA-PLAN-020",
        |w| {
            w.room = Fact::Known(0);
            w.policy.no_slot = NoSlot::Nbd;
        },
        "no",
    ),
    ("HA-PLAN-021", |w| w.facts.target.is_proxy = true, "refuse"),
    ("HA-PLAN-022", |w| w.disk().chain = Fact::Known(vec![link("[ds] web/"); 29]), "refuse"),
    ("HA-PLAN-023", |w| w.store_of().free_bytes = 1 << 20, "no"),
    (
        "HA-PLAN-024",
        |w| World::host_of(&mut w.facts.proxy.host).unrest = Fact::Known(Some(Unrest::Maintenance)),
        "hold",
    ),
    (
        "HA-PLAN-024",
        |w| World::host_of(&mut w.facts.target.host).unrest = Fact::Known(Some(Unrest::Quarantine)),
        "hold",
    ),
    ("HA-PLAN-024", |w| World::host_of(&mut w.facts.target.host).unrest = unknown(), "unknown"),
    ("HA-PLAN-025", long_filter_names, "prefer"),
    ("HA-PLAN-026", |w| w.asked = Some(Transport::San), "refuse"),
    (
        "HA-PLAN-026",
        |w| {
            w.asked = Some(Transport::San);
            w.store_of().kind = StoreKind::Vvol;
        },
        "refuse",
    ),
    ("HA-PLAN-027", |w| w.disk().fcd = Some("fcd-1".into()), "refuse"),
    (
        "HA-PLAN-027",
        |w| {
            w.disk().fcd = Some("fcd-1".into());
            w.policy.fcd_allowed.insert("web01".into());
        },
        "warn",
    ),
    ("HA-PLAN-028", |w| World::host_of(&mut w.facts.target.host).build = Fact::Known(Build::new([6, 0, 0], 1)), "warn"),
    ("HA-PLAN-028", |w| w.vddk = Some(Build::new([7, 0, 3], 18_657_718)), "warn"),
    ("HA-PLAN-029", |w| w.facts.proxy.enable_uuid = Fact::Known(false), "refuse"),
    ("HA-PLAN-030", |w| w.facts.proxy.snapshots = Fact::Known(1), "refuse"),
    ("HA-PLAN-031", |w| w.facts.proxy.change_tracking = Fact::Known(true), "refuse"),
    ("HA-PLAN-031", |w| w.facts.proxy.change_tracking = unknown(), "unknown"),
    ("HA-PLAN-032", |w| w.facts.proxy.fault_tolerant = Fact::Known(true), "no"),
    ("HA-PLAN-033", |w| w.facts.proxy.drs = Fact::Known(Automation::Moves("fullyAutomated".into())), "warn"),
    ("HA-PLAN-033", |w| w.facts.proxy.drs = unknown(), "unknown"),
    ("HA-PLAN-034", |w| w.facts.proxy.storage_drs = Fact::Known(Automation::Moves("automated".into())), "warn"),
    ("HA-PLAN-035", |w| w.policy.profile = Profile::Cloud, "warn"),
    (
        "HA-PLAN-035",
        |w| {
            w.policy.profile = Profile::Cloud;
            w.facts.proxy.home = store("v", StoreKind::Vsan);
        },
        "prefer",
    ),
    (
        "HA-PLAN-036",
        |w| {
            w.policy.profile = Profile::Cloud;
            w.vddk = Some(Build::new([8, 0, 2], 1));
        },
        "warn",
    ),
    ("HA-PLAN-037", cheap_by_nbd, "prefer"),
    ("HA-PLAN-037", |w| w.policy.cost_model = true, "unknown"),
];

/// Rule, what comes near it and must not make it speak.
const SILENT: &[(&str, Change)] = &[
    ("HA-PLAN-001", |w| {
        w.disk().disk.backing_kind = BackingKind::Other("rdm".into());
        w.disk().rdm = Some(Rdm::Virtual);
    }),
    ("HA-PLAN-009", |w| {
        w.store_of().kind = StoreKind::Vsan;
        w.facts.proxy.home = store("v", StoreKind::Vsan);
    }),
    ("HA-PLAN-010", |w| w.store_of().kind = StoreKind::Vvol),
    ("HA-PLAN-010", |w| {
        linked_clone_on_vvol(w);
        w.store_of().kind = StoreKind::Vmfs;
    }),
    ("HA-PLAN-010", |w| w.disk().store = unknown()),
    ("HA-PLAN-011", |w| {
        sesparse_before_7(w);
        World::host_of(&mut w.facts.proxy.host).build = Fact::Known(ESX8);
    }),
    ("HA-PLAN-012", |w| w.store_of().kind = StoreKind::Nfs3),
    ("HA-PLAN-012", |w| {
        nfs3_before_u2b(w);
        w.facts.target.host = w.facts.proxy.host.clone();
    }),
    ("HA-PLAN-012", |w| {
        nfs3_before_u2b(w);
        w.store_of().kind = StoreKind::Nfs41;
    }),
    ("HA-PLAN-017", |w| {
        w.disk().encrypted = true;
        w.facts.proxy.encrypted = Fact::Known(true);
    }),
    ("HA-PLAN-022", |w| w.disk().chain = Fact::Known(vec![link("[ds] web/"); 28])),
    ("HA-PLAN-022", |w| {
        w.disk().chain = Fact::Known(vec![link("[ds] web/"); 40]);
        w.facts.site.snapshot_exists = true;
    }),
    ("HA-PLAN-025", |w| {
        long_filter_names(w);
        World::host_of(&mut w.facts.target.host).build = Fact::Known(Build::new([7, 0, 3], 0));
    }),
    ("HA-PLAN-025", |w| w.disk().io_filters = vec!["VMW_spm_1.0.0".into()]),
    ("HA-PLAN-036", |w| {
        w.policy.profile = Profile::Cloud;
        w.vddk = Some(Build::new([7, 0, 1], 1));
    }),
    ("HA-PLAN-037", |w| {
        cheap_by_nbd(w);
        w.policy.cost_model = false;
    }),
    ("HA-PLAN-037", |w| {
        cheap_by_nbd(w);
        w.bytes = None;
    }),
];

fn unknown<T>() -> Fact<T> {
    Fact::Unknown("NoPermission".into())
}

fn linked_clone_on_vvol(w: &mut World) {
    w.store_of().kind = StoreKind::Vvol;
    w.disk().chain = Fact::Known(vec![link("[vvol] clone/"), link("[vvol] parent/"), link("[vvol] parent/")]);
}

fn sesparse_before_7(w: &mut World) {
    w.disk().disk.backing_kind = BackingKind::SeSparse;
    w.facts.proxy.home = store("v", StoreKind::Vsan);
    World::host_of(&mut w.facts.proxy.host).build = Fact::Known(Build::new([6, 7, 0], 15_160_138));
}

fn nfs3_before_u2b(w: &mut World) {
    w.store_of().kind = StoreKind::Nfs3;
    World::host_of(&mut w.facts.target.host).build = Fact::Known(Build::new([8, 0, 2], 22_380_479));
}

fn long_filter_names(w: &mut World) {
    w.disk().io_filters = vec!["x".repeat(200), "y".repeat(100)];
    World::host_of(&mut w.facts.target.host).build = Fact::Known(Build::new([7, 0, 2], 17_630_552));
}

fn cheap_by_nbd(w: &mut World) {
    w.policy.cost_model = true;
    w.bytes = Some(64 << 20);
    w.rates = Rates {
        attach_seconds: Some(20.0),
        detach_seconds: Some(10.0),
        hotadd_bytes_per_second: Some(4e8),
        nbd_bytes_per_second: Some(1e7),
        ..Rates::default()
    };
}

fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Silent => "silent",
        Verdict::Warn(_) => "warn",
        Verdict::NoHotAdd(_) => "no",
        Verdict::Refuse(_) => "refuse",
        Verdict::Hold(_) => "hold",
        Verdict::Unknown(_) => "unknown",
        Verdict::Prefer(..) => "prefer",
    }
}

#[test]
fn with_nothing_special_every_rule_is_silent() {
    let calm = calm();
    for rule in RULES {
        assert_eq!(calm.says(rule), Verdict::Silent, "{}", rule.id());
    }
    assert!(calm.decide().wanted().is_some());
}

#[test]
fn each_rule_speaks_for_its_own_cause_only() {
    for (id, change, expected) in SPEAKING {
        let mut world = calm();
        change(&mut world);
        let verdict = world.says(by_id(id).unwrap());
        assert_eq!(name(&verdict), *expected, "{id}: {verdict:?}");
        if verdict != Verdict::Silent {
            assert!(!verdict.text().unwrap().is_empty(), "{id} gives no facts");
        }
    }
    for (id, change) in SILENT {
        let mut world = calm();
        change(&mut world);
        assert_eq!(world.says(by_id(id).unwrap()), Verdict::Silent, "{id}");
    }
}

#[test]
fn every_rule_has_its_test_its_page_and_its_code() {
    let tested: BTreeSet<&str> = SPEAKING.iter().map(|(id, ..)| *id).collect();
    let attach_time = ["HA-PLAN-006", "HA-PLAN-038"];
    for id in RULES.iter().map(Rule::id).chain(attach_time) {
        assert!(attach_time.contains(&id) || tested.contains(id), "{id} has no test in which it speaks");
        let page = hotadd_reasons::find(id).unwrap();
        assert!(page.section("Fix").contains("Source:"), "{} names no source", page.path());
    }
    let codes = crate::reason::ALL.iter().filter(|reason| reason.code.starts_with("HA-PLAN-")).count();
    assert_eq!(codes, RULES.len() + attach_time.len(), "a code without a rule");
    for rule in RULES {
        assert!(!rule.facts.is_empty() && !rule.source.is_empty(), "{}", rule.id());
    }
}

#[test]
fn what_is_unknown_binds_only_where_going_on_could_do_harm() {
    let binding: Vec<&str> = RULES.iter().filter(|rule| rule.on_unknown != Effect::None).map(Rule::id).collect();
    assert_eq!(binding, ["HA-PLAN-010", "HA-PLAN-031"]);
    for (id, change, expected) in SPEAKING.iter().filter(|(.., expected)| *expected == "unknown") {
        let mut world = calm();
        change(&mut world);
        let decision = world.decide();
        assert_eq!(decision.is_hotadd(), !binding.contains(id), "{id} {expected}: {:?}", decision.spoken);
        assert!(decision.spoken.iter().any(|s| s.rule.id() == *id && matches!(s.verdict, Verdict::Unknown(_))));
    }
}

#[test]
fn everything_unknown_at_once_is_told_and_nothing_is_silently_fine() {
    let mut w = calm();
    w.facts.site.vcenter = unknown();
    w.facts.target.template = unknown();
    w.facts.target.fault_tolerant = unknown();
    w.facts.target.host = unknown();
    w.facts.target.datacenter = unknown();
    w.facts.proxy.enable_uuid = unknown();
    w.facts.proxy.snapshots = unknown();
    w.facts.proxy.fault_tolerant = unknown();
    w.facts.proxy.drs = unknown();
    w.facts.proxy.storage_drs = unknown();
    w.room = unknown();
    w.disk().store = unknown();
    let told: Vec<&str> = w.decide().spoken.iter().map(|spoken| spoken.rule.id()).collect();
    let expected = [3, 9, 12, 13, 14, 18, 19, 20, 23, 24, 28, 29, 30, 32, 33, 34];
    assert_eq!(told, expected.map(|n| format!("HA-PLAN-{n:03}")));
    assert!(w.decide().is_hotadd());
}

#[test]
fn all_refusals_are_told_and_nothing_is_wanted() {
    let mut w = calm();
    w.disk().disk.independent = true;
    w.disk().multi_writer = true;
    let decision = w.decide();
    let codes: Vec<&str> = decision.refusals.iter().map(|e| e.reason().code).collect();
    assert_eq!(codes, ["HA-PLAN-002", "HA-PLAN-004"]);
    assert!(decision.wanted().is_none() && decision.route == Route::Refused);
    let mut w = calm();
    w.disk().bus = Fact::Known(Bus::Ide);
    assert_eq!(w.decide().route, Route::Refused, "no server was named");
    w.nbd.insert(w.facts.disks[0].disk.device_key);
    assert_eq!(w.decide().route, Route::Nbd, "another transport may take it");
    assert_eq!(w.decide().refusals.len(), 1, "and why is told");
    w.disk().disk.independent = true;
    assert_eq!(w.decide().route, Route::Refused, "a server does not lift what refuses every transport");
}

#[test]
fn what_was_asked_is_taken_or_refused_and_never_replaced() {
    let mut w = calm();
    w.asked = Some(Transport::Nbd);
    let decision = w.decide();
    assert_eq!((decision.route, decision.refusals[0].reason().code), (Route::Refused, "HA-NBD-001"));
    w.nbd.insert(w.facts.disks[0].disk.device_key);
    assert_eq!(w.decide().route, Route::Nbd);
    assert!(w.decide().wanted().is_none(), "nothing is attached for it");
    w.asked = None;
    assert_eq!(w.decide().route, Route::HotAdd, "a server alone is no wish");
    w.asked = Some(Transport::HotAdd);
    w.disk().bus = Fact::Known(Bus::Ide);
    assert_eq!(w.decide().route, Route::Refused);
}

#[test]
fn free_units_are_counted_down_disk_by_disk() {
    let mut w = calm();
    w.room = Fact::Known(1);
    w.policy.no_slot = NoSlot::Nbd;
    let one = w.facts.disks[0].clone();
    w.facts.disks.push(DiskView { bus: Fact::Known(Bus::Ide), ..one.clone() });
    w.facts.disks.push(one);
    let question = Question {
        policy: &w.policy,
        room: w.room.clone(),
        asked: None,
        nbd: &w.nbd,
        export: w.export,
        tries: &w.tries,
        rates: &w.rates,
        bytes: None,
        vddk: None,
    };
    let hotadd: Vec<bool> = decide(&w.facts, &question).iter().map(Decision::is_hotadd).collect();
    assert_eq!(hotadd, [true, false, false]);
}

#[test]
fn a_vddk_limit_is_tried_once_and_a_failure_is_never_repeated() {
    let mut w = calm();
    w.store_of().kind = StoreKind::Vsan;
    assert!(!w.decide().is_hotadd() && w.decide().tries.is_empty(), "never is the default");
    w.policy.try_vddk = TryVddk::Once;
    let first = w.decide();
    assert!(first.is_hotadd());
    assert_eq!(first.tries.iter().map(|rule| rule.id()).collect::<Vec<_>>(), ["HA-PLAN-009"]);
    for (outcome, hotadd) in [
        (TryOutcome::Worked, true),
        (TryOutcome::Failed { why: "FileLocked".into() }, false),
        (TryOutcome::Begun, false),
        (TryOutcome::Unknown, false),
    ] {
        w.tries.insert("HA-PLAN-009".into(), outcome.clone());
        let decision = w.decide();
        assert_eq!(decision.is_hotadd(), hotadd, "{outcome:?}");
        assert!(decision.tries.is_empty(), "{outcome:?}: once is once");
    }
    w.tries.insert("HA-PLAN-009".into(), TryOutcome::Withdrawn);
    assert_eq!(w.decide().tries.len(), 1, "it told nothing of this place");
    // A disk that another rule refuses is not tried.
    w.tries.clear();
    w.disk().disk.independent = true;
    assert!(w.decide().tries.is_empty());
}

#[test]
fn a_linked_clone_on_vvol_is_never_tried() {
    let mut w = calm();
    w.policy.try_vddk = TryVddk::Once;
    linked_clone_on_vvol(&mut w);
    assert!(!w.decide().is_hotadd() && w.decide().tries.is_empty());
    let vddk: Vec<&str> = RULES.iter().filter(|rule| rule.may_try).map(Rule::id).collect();
    assert_eq!(vddk, ["HA-PLAN-009", "HA-PLAN-011", "HA-PLAN-015"]);
    assert!(RULES.iter().filter(|rule| rule.may_try).all(|rule| rule.origin == Vddk));
}

#[test]
fn a_limit_of_nbd_outweighs_its_price() {
    let mut w = calm();
    cheap_by_nbd(&mut w);
    assert_eq!(w.decide().preferred(), Some(Transport::Nbd));
    assert!(w.decide().is_hotadd(), "HotAdd stays possible");
    w.nbd.insert(w.facts.disks[0].disk.device_key);
    assert_eq!(w.decide().route, Route::Nbd);
    long_filter_names(&mut w);
    assert_eq!(w.decide().preferred(), Some(Transport::HotAdd));
}

/// Only where nothing else brings the disk, never against a refusal, never longer than allowed.
#[test]
fn an_export_is_the_last_resort_and_has_its_bounds() {
    let mut w = calm();
    w.export = Some(Duration::from_secs(3600));
    assert!(w.decide().is_hotadd() && w.decide().may_export);
    let key = w.disk().disk.device_key;
    w.disk().bus = Fact::Known(Bus::Ide);
    assert_eq!(w.decide().route, Route::Export);
    w.rates.export_bytes_per_second = Some(1.0);
    let decision = w.decide();
    assert_eq!(decision.route, Route::Refused);
    assert!(decision.refusals.iter().any(|e| e.reason().code == "HA-EXP-005"), "{:?}", decision.refusals);
    w.rates = Rates::default();
    w.disk().encrypted = true;
    assert_eq!(w.decide().route, Route::Refused, "vSphere exports no encrypted disk");
    w.disk().encrypted = false;
    w.nbd.insert(key);
    assert_eq!(w.decide().route, Route::Nbd, "a server is better");
    w.asked = Some(Transport::Export);
    assert_eq!(w.decide().route, Route::Export, "unless it was asked for");
    w.disk().rdm = Some(Rdm::Physical);
    assert_eq!(w.decide().route, Route::Refused);
    let mut off = calm();
    off.asked = Some(Transport::Export);
    let decision = off.decide();
    assert_eq!(decision.route, Route::Refused);
    assert_eq!(decision.refusals.last().map(|e| e.reason().code), Some("HA-EXP-006"));
}
