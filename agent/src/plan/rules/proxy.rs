//! Rules about the proxy itself: what it must be before any disk is put on it. Pure.
use crate::{
    config::{NoSlot, Policy},
    hypervisor::views::{Automation, Fact},
    plan::{
        facts::Facts,
        rule::{Verdict, known},
    },
};

pub(super) fn room(f: &Facts<'_>, policy: &Policy) -> Verdict {
    if *known!(*f.room, "proxy.room") > 0 {
        return Verdict::Silent;
    }
    match policy.no_slot {
        NoSlot::Queue => Verdict::Hold(format!("every unit of {} is taken; it waits for one", f.proxy.name)),
        NoSlot::Nbd => Verdict::NoHotAdd(format!("every unit of {} is taken, and plan.no_slot is nbd", f.proxy.name)),
    }
}

pub(super) fn enable_uuid(f: &Facts<'_>, _: &Policy) -> Verdict {
    if *known!(f.proxy.enable_uuid, "proxy.enable_uuid") {
        return Verdict::Silent;
    }
    Verdict::Refuse(format!("disk.EnableUUID of {} is not TRUE", f.proxy.name))
}

pub(super) fn snapshots(f: &Facts<'_>, _: &Policy) -> Verdict {
    match known!(f.proxy.snapshots, "proxy.snapshots") {
        0 => Verdict::Silent,
        _ => Verdict::Refuse(format!("{} has snapshots", f.proxy.name)),
    }
}

pub(super) fn change_tracking(f: &Facts<'_>, _: &Policy) -> Verdict {
    if *known!(f.proxy.change_tracking, "proxy.change_tracking") {
        return Verdict::Refuse(format!("{} has changed block tracking", f.proxy.name));
    }
    Verdict::Silent
}

pub(super) fn fault_tolerant(f: &Facts<'_>, _: &Policy) -> Verdict {
    if *known!(f.proxy.fault_tolerant, "proxy.fault_tolerant") {
        return Verdict::NoHotAdd(format!("{} has fault tolerance", f.proxy.name));
    }
    Verdict::Silent
}

pub(super) fn drs(f: &Facts<'_>, _: &Policy) -> Verdict {
    moved(&f.proxy.drs, "proxy.drs", &f.proxy.name, "DRS")
}

pub(super) fn storage_drs(f: &Facts<'_>, _: &Policy) -> Verdict {
    moved(&f.proxy.storage_drs, "proxy.storage_drs", &f.proxy.name, "Storage DRS")
}

fn moved(fact: &Fact<Automation>, name: &str, proxy: &str, who: &str) -> Verdict {
    match fact {
        Fact::Known(Automation::Absent | Automation::Exempt) => Verdict::Silent,
        Fact::Known(Automation::Moves(behavior)) => {
            Verdict::Warn(format!("{who} ({behavior}) may move {proxy}: it has no override"))
        }
        Fact::Unknown(why) => Verdict::Unknown(format!("{name}: {why}")),
    }
}
