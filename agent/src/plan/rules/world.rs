//! Facts with which no rule speaks, for tests to change.
use std::{collections::BTreeSet, time::Duration};

use super::Rule;
use crate::{
    config::Policy,
    hypervisor::{BackingKind, ProxyFacts, TargetDisk, views::*},
    id::{BackingPath, Moref},
    plan::{
        Decision, Question, Transport, decide,
        facts::{Facts, Tries},
        rates::Rates,
        rule::Verdict,
    },
};

/// Facts with which no rule speaks, to be changed.
pub(super) struct World {
    pub(super) facts: PlanFacts,
    pub(super) policy: Policy,
    pub(super) room: Fact<usize>,
    pub(super) asked: Option<Transport>,
    pub(super) nbd: BTreeSet<i32>,
    pub(super) export: Option<Duration>,
    pub(super) tries: Tries,
    pub(super) rates: Rates,
    pub(super) bytes: Option<u64>,
    pub(super) vddk: Option<Build>,
}

pub(super) const ESX8: Build = Build::new([8, 0, 2], 23_305_546);

pub(super) fn host(name: &str) -> Fact<HostView> {
    Fact::Known(HostView {
        moref: Moref::new(name),
        name: name.into(),
        build: Fact::Known(ESX8),
        unrest: Fact::Known(None),
    })
}

pub(super) fn store(name: &str, kind: StoreKind) -> Fact<StoreView> {
    let (moref, mount) = (Moref::new(name), Fact::Known(Mount::Writable));
    Fact::Known(StoreView { moref, name: name.into(), kind, mount, free_bytes: 1 << 40 })
}

pub(super) fn link(folder: &str) -> Link {
    Link { folder: folder.into() }
}

pub(super) fn calm() -> World {
    let moref = Moref::new("vm-1");
    let proxy_vm = ProxyFacts {
        moref: moref.clone(),
        instance_uuid: None,
        name: "proxy01".into(),
        home: "[ds] proxy01/".into(),
        hardware_version: 19,
        controllers: Vec::new(),
        disks: Vec::new(),
        busy: false,
    };
    let disk = TargetDisk {
        device_key: 2000,
        label: "Hard disk 1".into(),
        place: "scsi0:0".into(),
        backing: BackingPath::new("[ds] web/web.vmdk"),
        backing_kind: BackingKind::FlatV2,
        datastore: Some(Moref::new("ds")),
        datastore_name: "ds".into(),
        capacity_bytes: 1 << 30,
        uuid: "6000c29abcdef0123456789abcdef012".parse().ok(),
        change_id: String::new(),
        independent: false,
        shared: false,
    };
    let proxy = ProxyView {
        name: "proxy01".into(),
        vm: proxy_vm,
        host: host("esx1"),
        home: store("ds", StoreKind::Vmfs),
        datacenter: Fact::Known(Moref::new("dc-1")),
        enable_uuid: Fact::Known(true),
        snapshots: Fact::Known(0),
        change_tracking: Fact::Known(false),
        fault_tolerant: Fact::Known(false),
        encrypted: Fact::Known(false),
        drs: Fact::Known(Automation::Absent),
        storage_drs: Fact::Known(Automation::Exempt),
    };
    let target = TargetView {
        moref: Moref::new("vm-2"),
        name: "web01".into(),
        instance_uuid: Some("50-web01".into()),
        vcenter: Fact::Known("vc".into()),
        host: host("esx2"),
        datacenter: Fact::Known(Moref::new("dc-1")),
        template: Fact::Known(false),
        fault_tolerant: Fact::Known(false),
        is_proxy: false,
    };
    let view = DiskView {
        disk,
        bus: Fact::Known(Bus::Scsi),
        rdm: None,
        multi_writer: false,
        bus_shared: false,
        chain: Fact::Known(vec![link("[ds] web/")]),
        store: store("ds", StoreKind::Vmfs),
        encrypted: false,
        fcd: None,
        io_filters: Vec::new(),
    };
    World {
        facts: PlanFacts {
            site: Site { vcenter: Fact::Known("vc".into()), snapshot_exists: false },
            proxy,
            target,
            disks: vec![view],
            stores: BTreeSet::new(),
        },
        policy: Policy::default(),
        room: Fact::Known(3),
        asked: None,
        nbd: BTreeSet::new(),
        export: None,
        tries: Tries::new(),
        rates: Rates::default(),
        bytes: None,
        vddk: None,
    }
}

impl World {
    pub(super) fn disk(&mut self) -> &mut DiskView {
        &mut self.facts.disks[0]
    }

    pub(super) fn store_of(&mut self) -> &mut StoreView {
        match &mut self.disk().store {
            Fact::Known(store) => store,
            Fact::Unknown(_) => panic!("unknown"),
        }
    }

    pub(super) fn host_of(fact: &mut Fact<HostView>) -> &mut HostView {
        match fact {
            Fact::Known(host) => host,
            Fact::Unknown(_) => panic!("unknown"),
        }
    }

    pub(super) fn says(&self, rule: &Rule) -> Verdict {
        let f = Facts {
            site: &self.facts.site,
            proxy: &self.facts.proxy,
            target: &self.facts.target,
            disk: &self.facts.disks[0],
            room: &self.room,
            asked: self.asked,
            tries: &self.tries,
            rates: &self.rates,
            bytes: self.bytes.unwrap_or(1 << 30),
            vddk: self.vddk,
        };
        (rule.decide)(&f, &self.policy)
    }

    pub(super) fn decide(&self) -> Decision {
        let question = Question {
            policy: &self.policy,
            room: self.room.clone(),
            asked: self.asked,
            nbd: &self.nbd,
            export: self.export,
            tries: &self.tries,
            rates: &self.rates,
            bytes: self.bytes,
            vddk: self.vddk,
        };
        decide(&self.facts, &question).remove(0)
    }
}
