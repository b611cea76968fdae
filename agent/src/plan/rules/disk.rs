//! Rules about what a disk is. Pure.
use crate::{
    config::{Policy, SataNvme},
    hypervisor::{
        BackingKind,
        views::{Bus, Rdm},
    },
    plan::{
        facts::Facts,
        rule::{Verdict, known},
    },
};

/// Unknown backings have no file that could be added by path. Raw device mappings have rules of their own.
pub(super) fn kind(f: &Facts<'_>, _: &Policy) -> Verdict {
    match (&f.disk.disk.backing_kind, f.disk.rdm) {
        (BackingKind::Other(kind), None) => Verdict::NoHotAdd(format!("its backing is {kind:?}")),
        _ => Verdict::Silent,
    }
}

/// vSphere API 8.0, VirtualDiskMode: independent disks are not affected by snapshots.
pub(super) fn independent(f: &Facts<'_>, _: &Policy) -> Verdict {
    if f.disk.disk.independent { Verdict::Refuse("its mode is independent".to_owned()) } else { Verdict::Silent }
}

pub(super) fn shared(f: &Facts<'_>, _: &Policy) -> Verdict {
    match (f.disk.multi_writer, f.disk.bus_shared) {
        (true, _) => Verdict::Refuse("its sharing is sharingMultiWriter".to_owned()),
        (false, true) => Verdict::Refuse("its controller shares its bus".to_owned()),
        (false, false) => Verdict::Silent,
    }
}

/// Without a UUID nothing could prove in the guest which device it is.
pub(super) fn uuid(f: &Facts<'_>, _: &Policy) -> Verdict {
    let attachable = !matches!(f.disk.disk.backing_kind, BackingKind::Other(_));
    if f.disk.disk.uuid.is_none() && attachable {
        return Verdict::NoHotAdd(f.disk.disk.backing.to_string());
    }
    Verdict::Silent
}

pub(super) fn rdm_physical(f: &Facts<'_>, _: &Policy) -> Verdict {
    if f.disk.rdm == Some(Rdm::Physical) {
        Verdict::Refuse("its compatibility mode is physical".to_owned())
    } else {
        Verdict::Silent
    }
}

pub(super) fn rdm_virtual(f: &Facts<'_>, _: &Policy) -> Verdict {
    if f.disk.rdm == Some(Rdm::Virtual) {
        Verdict::NoHotAdd("its compatibility mode is virtual".to_owned())
    } else {
        Verdict::Silent
    }
}

pub(super) fn ide(f: &Facts<'_>, _: &Policy) -> Verdict {
    match known!(f.disk.bus, "disk.bus") {
        Bus::Ide => Verdict::NoHotAdd(format!("it is {}", f.disk.disk.place)),
        Bus::Scsi | Bus::Sata | Bus::Nvme => Verdict::Silent,
    }
}

pub(super) fn sata_nvme(f: &Facts<'_>, policy: &Policy) -> Verdict {
    let text = || format!("it is {}; the proxy gets it on a SCSI controller", f.disk.disk.place);
    match (known!(f.disk.bus, "disk.bus"), policy.sata_nvme) {
        (Bus::Scsi | Bus::Ide, _) => Verdict::Silent,
        (Bus::Sata | Bus::Nvme, SataNvme::Allow) => Verdict::Warn(text()),
        (Bus::Sata | Bus::Nvme, SataNvme::Nbd) => {
            Verdict::NoHotAdd(format!("it is {}, and plan.sata_nvme is nbd", f.disk.disk.place))
        }
    }
}

/// A VM that is encrypted for its vTPM only has plain disks: the disk's own key decides.
pub(super) fn encrypted(f: &Facts<'_>, _: &Policy) -> Verdict {
    if !f.disk.encrypted {
        return Verdict::Silent;
    }
    if *known!(f.proxy.encrypted, "proxy.encrypted") {
        return Verdict::Silent;
    }
    Verdict::NoHotAdd(format!("{} is not encrypted", f.proxy.name))
}

/// Only where another snapshot would be taken.
pub(super) fn chain(f: &Facts<'_>, policy: &Policy) -> Verdict {
    if f.site.snapshot_exists {
        return Verdict::Silent;
    }
    let links = known!(f.disk.chain, "disk.chain").len();
    if links > policy.max_chain {
        return Verdict::Refuse(format!("its chain has {links} links, {} are allowed", policy.max_chain));
    }
    Verdict::Silent
}

pub(super) fn fcd(f: &Facts<'_>, policy: &Policy) -> Verdict {
    let Some(id) = &f.disk.fcd else { return Verdict::Silent };
    let target = f.target;
    let names = [Some(target.name.as_str()), Some(target.moref.as_str()), target.instance_uuid.as_deref()];
    if names.into_iter().flatten().any(|name| policy.fcd_allowed.contains(name)) {
        return Verdict::Warn(format!(
            "it is {id}, and plan.fcd_allowed names {}; it can't be detached meanwhile",
            target.name
        ));
    }
    Verdict::Refuse(format!("it is {id}; a snapshot would keep it from being detached from {}", target.name))
}
