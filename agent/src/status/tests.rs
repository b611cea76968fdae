//! The shape of the snapshot, and that the page can't do what its policy forbids.
use std::cell::Cell;

use serde_json::Value;

use super::{
    page::{Path, Shared, protect, role},
    slots::{Whose, map},
    *,
};
use crate::{
    hypervisor::{ControllerFacts, ProxyDisk, ProxyFacts},
    id::{BackingPath, DiskUuid, DutyId, Moref, SessionId, Slot},
    journal::{AttachDuty, Record},
};

const HOSTILE: &str = "<img src=x onerror=document.title='owned'>\"</script>\u{2028}";

fn empty() -> Snapshot {
    Snapshot {
        agent: Agent {
            version: "0",
            host: "h".into(),
            proxy: "p".into(),
            moref: "vm-1".into(),
            vcenter: "v".into(),
            time: now(),
            up_ms: 1,
        },
        state: State::Starting,
        findings: judge(&Facts::default()),
        work: List { items: Vec::new(), left_out: 0 },
        reads: Reads {
            running: 0,
            bytes: std::array::from_fn(|n| Bytes { transport: way(WAYS[n]), bytes: 0 }),
            stages: StageTimes { source_us: 0, agent_us: 0, outlet_us: 0, paced_us: 0 },
        },
        duties: List { items: Vec::new(), left_out: 0 },
        late: 0,
        slots: Slots { seen_seconds: 0, reserved: 0, controllers: Vec::new() },
        events: List { items: Vec::new(), left_out: 0 },
    }
}

fn json(snapshot: Snapshot) -> Value {
    serde_json::from_slice(&Shared::default().body(Path::Snapshot, || snapshot)).unwrap()
}

fn attach(vm_name: &str, slot: Slot, session: SessionId) -> journal::Duty {
    journal::Duty {
        ticket: false,
        id: DutyId::new(),
        session,
        vm: Moref::new("vm-2"),
        vm_name: vm_name.into(),
        vm_uuid: None,
        vcenter: None,
        proxy: None,
        login: None,
        since: now(),
        phase: DutyPhase::Intended,
        kind: DutyKind::Attach(AttachDuty {
            backing: BackingPath::new(format!("[ds1] web01/{}.vmdk", slot.unit)),
            uuid: DiskUuid::from_bytes([6; 16]),
            capacity_bytes: 4096,
            slot,
            device_key: None,
        }),
    }
}

fn work(session: SessionId) -> Work {
    Work {
        kind: "job",
        id: "j".into(),
        session,
        vm: HOSTILE.into(),
        client: HOSTILE.into(),
        stage: "read".into(),
        since: now(),
        lease_seconds_left: None,
        disks: Vec::new(),
    }
}

fn journalled(duties: impl IntoIterator<Item = journal::Duty>) -> journal::State {
    let mut state = journal::State::default();
    for duty in duties {
        state.apply(&Record::Began(duty)).unwrap();
    }
    state
}

#[test]
fn an_agent_with_nothing_tells_every_list_and_says_so() {
    let told = json(empty());
    for list in ["work", "duties", "events"] {
        assert_eq!(told[list], serde_json::json!({"items": [], "left_out": 0}), "{list}");
    }
    assert_eq!((&told["state"], &told["findings"][0]["level"]), (&"starting".into(), &"wait".into()));
    let ways: Vec<_> = told["reads"]["bytes"].as_array().unwrap().iter().map(|way| way["transport"].clone()).collect();
    assert_eq!(ways, ["hotadd", "nbd", "export"]);
}

#[test]
fn hostile_names_stay_text() {
    let session = SessionId::new();
    let items = vec![row(&work(session), Vec::new(), &journal::State::default())];
    let told = json(Snapshot { work: List { items, left_out: 0 }, ..empty() });
    assert_eq!(
        (&told["work"]["items"][0]["vm"], &told["work"]["items"][0]["client"]),
        (&HOSTILE.into(), &HOSTILE.into())
    );
}

#[test]
fn disks_that_are_attached_and_not_yet_read_are_shown_up_to_a_bound() {
    let session = SessionId::new();
    let slot = |unit| Slot { controller_key: 1000, unit };
    let many = u32::try_from(bound::DISKS).unwrap() + 3;
    let state = journalled((0..many).map(|unit| attach("web01", slot(unit), session)));
    let told = row(&work(session), Vec::new(), &state).disks;
    assert_eq!((told.items.len(), told.left_out), (bound::DISKS, 3));
    assert!(told.items.iter().all(|disk| disk.transport == "hotadd" && disk.capacity_bytes == 4096));
    assert!(row(&work(SessionId::new()), Vec::new(), &state).disks.items.is_empty(), "of another session");
}

#[test]
fn long_texts_are_cut_between_two_characters() {
    let long = "ä".repeat(bound::TEXT);
    let cut = clip(&long);
    assert!(cut.len() <= bound::TEXT + 3 && cut.ends_with("ä…"), "{} bytes", cut.len());
    assert_eq!(clip("web01"), "web01");
}

#[test]
fn every_slot_tells_whose_it_is() {
    let slot = |unit| Slot { controller_key: 1000, unit };
    let disk = |unit, file: &str, nonpersistent| ProxyDisk {
        device_key: 2000,
        slot: Some(slot(unit)),
        chain: vec![BackingPath::new(file)],
        uuid: None,
        capacity_bytes: 1,
        nonpersistent,
    };
    let controller =
        ControllerFacts { key: 1000, bus: 0, kind: "pvscsi".into(), pvscsi: true, pci_slot: None, reserved_unit: 7 };
    let proxy = ProxyFacts {
        moref: Moref::new("vm-1"),
        instance_uuid: None,
        name: "p".into(),
        home: "[ds1] p/".into(),
        hardware_version: 13,
        controllers: vec![controller.clone(), ControllerFacts { key: 1001, bus: 1, ..controller }],
        disks: vec![
            disk(0, "[ds1] p/p.vmdk", false),
            disk(1, "[ds1] web01/1.vmdk", true),
            disk(2, "[ds1] foreign/f.vmdk", true),
        ],
        busy: false,
    };
    let session = SessionId::new();
    let state = journalled([attach("web01", slot(1), session), attach("web01", slot(3), session)]);
    let told = map(&proxy, &state, &std::collections::BTreeSet::new());
    let taken: Vec<_> = told[0].taken.iter().map(|taken| (taken.unit, taken.whose)).collect();
    let expected = [(0, Whose::Own), (1, Whose::Hotadd), (2, Whose::Other), (3, Whose::Hotadd), (7, Whose::Controller)];
    assert_eq!(taken, expected);
    assert_eq!((told[0].units, told[0].free), (16, 11), "14 usable, three of them taken");
    assert_eq!((told[0].taken[1].vm.as_str(), &told[0].taken[1].session), ("web01", &session.to_string()));
    assert_eq!((told[1].taken.len(), told[1].free), (1, 14));
}

#[test]
fn looks_are_shared_for_a_moment() {
    let (shared, looks) = (Shared::default(), Cell::new(0));
    let look = || {
        looks.set(looks.get() + 1);
        empty()
    };
    let first = shared.body(Path::Snapshot, look);
    assert_eq!(first, shared.body(Path::Snapshot, || panic!("a second look")));
    assert_eq!(looks.get(), 1);
}

#[test]
fn the_page_is_for_those_who_may_list_sessions_and_loads_nothing_from_elsewhere() {
    assert_eq!(Some(role()), hotadd_api::roles::needed("/hotadd.v1.DiskService/ListSessions"));
    let mut headers = hyper::HeaderMap::new();
    protect(&mut headers);
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; ")
            && !policy.contains("-inline")
            && !policy.contains("-eval")
            && !policy.contains('*'),
        "{policy}"
    );
    let (page, script) = (include_str!("page.html"), include_str!("page.js"));
    for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "onclick"] {
        assert!(!script.contains(word) && !page.contains(word), "{word}");
    }
    for text in [page, script, include_str!("page.css")] {
        // Names of XML, which nobody fetches.
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http:") && !elsewhere.contains("https:") && !elsewhere.contains("//cdn"));
    }
    // What the policy would refuse.
    assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("<script>"));
}
