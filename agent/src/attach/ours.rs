//! Which disk of the proxy a duty means, on vCenter's side. Pure, and the only place that makes an [`OurDisk`].
use std::collections::BTreeSet;

use crate::{
    hypervisor::{OurDisk, ProxyDisk, ProxyFacts},
    id::{BackingPath, DiskUuid, Slot},
    journal::AttachDuty,
};

/// What vCenter's list says about a duty's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is there, and nothing speaks against it being ours.
    Ours(OurDisk),
    /// Its slot is empty or holds a disk that is certainly another, and no other slot shows ours.
    Absent,
    /// Something partly agrees; a person has to look.
    Doubtful(String),
}

/// The proxy's own disks, which are never touched: those in its home folder, and those listed in the configuration.
#[must_use]
pub fn own_disks(proxy: &ProxyFacts, listed: &BTreeSet<DiskUuid>) -> Vec<ProxyDisk> {
    proxy.disks.iter().filter(|disk| is_own(disk, proxy, listed)).cloned().collect()
}

fn is_own(disk: &ProxyDisk, proxy: &ProxyFacts, listed: &BTreeSet<DiskUuid>) -> bool {
    let at_home = disk.chain.iter().any(|file| file.folder() == proxy.home);
    at_home || disk.uuid.is_some_and(|uuid| listed.contains(&uuid))
}

/// Compares the slot, the backing (or one of its parents), the mode, the UUID, the key and the capacity. `named`: slots
/// that open duties name.
#[must_use]
pub fn claim(duty: &AttachDuty, proxy: &ProxyFacts, listed: &BTreeSet<DiskUuid>, named: &BTreeSet<Slot>) -> Claim {
    let claim = match proxy.disk_at(duty.slot) {
        Some(disk) if names_backing(disk, &duty.backing) => compare(duty, disk, is_own(disk, proxy, listed)),
        Some(disk) => other_file(duty, disk),
        None => Claim::Absent,
    };
    let moved = |disk: &&ProxyDisk| {
        disk.slot != Some(duty.slot)
            && disk.slot.is_none_or(|slot| !named.contains(&slot))
            && !is_own(disk, proxy, listed)
            && disk.nonpersistent
            && disk.uuid == Some(duty.uuid)
            && names_backing(disk, &duty.backing)
    };
    match (claim, proxy.disks.iter().find(moved)) {
        (Claim::Absent, Some(disk)) => {
            let place = disk.slot.map_or_else(|| "no SCSI slot".to_owned(), |slot| slot.to_string());
            Claim::Doubtful(format!("{} is attached at {place} instead of {}", duty.backing, duty.slot))
        }
        (claim, _) => claim,
    }
}

/// The file itself, one of its parents, or its redo log: the server may show a nonpersistent disk under the redo log's
/// name without telling the parent.
fn names_backing(disk: &ProxyDisk, backing: &BackingPath) -> bool {
    disk.chain.contains(backing)
        || disk.chain.first().is_some_and(|top| {
            top.as_str().strip_prefix(backing.as_str()).is_some_and(|rest| rest.starts_with("-REDO_"))
        })
}

fn compare(duty: &AttachDuty, disk: &ProxyDisk, own: bool) -> Claim {
    let mut against = Vec::new();
    if own {
        against.push("it is one of the proxy's own disks".to_owned());
    }
    if !disk.nonpersistent {
        against.push("it is not independent_nonpersistent".to_owned());
    }
    if let Some(uuid) = disk.uuid
        && uuid != duty.uuid
    {
        against.push(format!("its UUID is {uuid}, not {}", duty.uuid));
    }
    if disk.capacity_bytes != duty.capacity_bytes {
        against.push(format!("it has {} bytes, not {}", disk.capacity_bytes, duty.capacity_bytes));
    }
    if against.is_empty() {
        Claim::Ours(OurDisk(disk.clone()))
    } else {
        Claim::Doubtful(format!("{} holds {}, but {}", duty.slot, duty.backing, against.join(" and ")))
    }
}

/// The slot shows another file. A renamed datastore, or a redo log under a name of its own, looks like that too, so
/// only a disk that certainly is another one counts as our absence.
///
/// Never ours, whatever else agrees: the slot decides the key, every hot-add product attaches nonpersistent, and linked
/// clones share UUID and size. Another product's disk in the slot that ours left would agree in all of them.
fn other_file(duty: &AttachDuty, disk: &ProxyDisk) -> Claim {
    let same_key = duty.device_key == Some(disk.device_key);
    let other_uuid = disk.uuid.is_some_and(|uuid| uuid != duty.uuid);
    // Keys of removed devices are given out again, so a key alone says little; mode and size must agree as well.
    let key_fits = same_key || duty.device_key.is_none();
    let alike = key_fits && disk.nonpersistent && disk.capacity_bytes == duty.capacity_bytes;
    if other_uuid && !alike {
        return Claim::Absent;
    }
    let file = disk.chain.first().map(ToString::to_string).unwrap_or_default();
    let uuid = disk.uuid.map_or_else(|| "unknown".to_owned(), |uuid| uuid.to_string());
    Claim::Doubtful(format!(
        "{} holds {file} (key {}, UUID {uuid}) where {} was attached",
        duty.slot, disk.device_key, duty.backing
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Moref;

    const UUID: &str = "6000c29abcdef0123456789abcdef012";
    const SLOT: Slot = Slot { controller_key: 1001, unit: 3 };

    fn duty() -> AttachDuty {
        AttachDuty {
            backing: BackingPath::new("[ds] web/web.vmdk"),
            uuid: UUID.parse().unwrap(),
            capacity_bytes: 1 << 30,
            slot: SLOT,
            device_key: None,
        }
    }

    fn disk() -> ProxyDisk {
        ProxyDisk {
            device_key: 2019,
            slot: Some(SLOT),
            chain: vec![BackingPath::new("[ds] web/web.vmdk")],
            uuid: UUID.parse().ok(),
            capacity_bytes: 1 << 30,
            nonpersistent: true,
        }
    }

    fn proxy(disks: Vec<ProxyDisk>) -> ProxyFacts {
        ProxyFacts {
            moref: Moref::new("vm-1"),
            instance_uuid: None,
            name: "p".into(),
            home: "[ds] proxy/".into(),
            hardware_version: 19,
            controllers: Vec::new(),
            disks,
            busy: false,
        }
    }

    fn verdict(disk: ProxyDisk) -> Claim {
        claim(&duty(), &proxy(vec![disk]), &BTreeSet::new(), &BTreeSet::from([SLOT]))
    }

    fn other_uuid() -> Option<DiskUuid> {
        "6000c29abcdef0123456789abcdef013".parse().ok()
    }

    fn other_chain() -> Vec<BackingPath> {
        vec![BackingPath::new("[ds renamed] web/web.vmdk")]
    }

    #[test]
    fn agreement_is_ours_also_behind_a_redo_log() {
        assert_eq!(verdict(disk()), Claim::Ours(OurDisk(disk())));
        let redo = BackingPath::new("[ds] web/web.vmdk-REDO_a1b2");
        let behind = ProxyDisk { chain: vec![redo.clone(), duty().backing], uuid: None, ..disk() };
        assert!(matches!(verdict(behind), Claim::Ours(_)));
        assert!(matches!(verdict(ProxyDisk { chain: vec![redo], ..disk() }), Claim::Ours(_)), "parent not told");
    }

    #[test]
    fn an_empty_slot_and_a_certainly_different_disk_are_absence() {
        assert_eq!(claim(&duty(), &proxy(vec![]), &BTreeSet::new(), &BTreeSet::new()), Claim::Absent);
        let other = ProxyDisk { chain: other_chain(), uuid: other_uuid(), capacity_bytes: 1, ..disk() };
        assert_eq!(verdict(other.clone()), Claim::Absent);
        let same_size = ProxyDisk { capacity_bytes: 1 << 30, ..other };
        let held = AttachDuty { device_key: Some(2000), ..duty() };
        assert_eq!(claim(&held, &proxy(vec![same_size.clone()]), &BTreeSet::new(), &BTreeSet::new()), Claim::Absent);
        let key_again = AttachDuty { device_key: Some(same_size.device_key), ..duty() };
        let smaller = ProxyDisk { capacity_bytes: 1, ..same_size };
        assert_eq!(
            claim(&key_again, &proxy(vec![smaller]), &BTreeSet::new(), &BTreeSet::new()),
            Claim::Absent,
            "re-used key"
        );
    }

    #[test]
    fn another_file_name_alone_is_no_absence() {
        let held = AttachDuty { device_key: Some(2019), ..duty() };
        let renamed = ProxyDisk { chain: other_chain(), ..disk() };
        for (duty, disk) in [
            (duty(), renamed.clone()),
            (duty(), ProxyDisk { uuid: None, ..renamed.clone() }),
            (duty(), ProxyDisk { uuid: other_uuid(), ..renamed.clone() }),
            (held, ProxyDisk { uuid: other_uuid(), ..renamed }),
        ] {
            let claim = claim(&duty, &proxy(vec![disk.clone()]), &BTreeSet::new(), &BTreeSet::new());
            assert!(matches!(claim, Claim::Doubtful(_)), "{disk:?}: {claim:?}");
        }
    }

    #[test]
    fn our_disk_in_another_slot_is_doubt_unless_a_duty_names_that_slot() {
        let elsewhere = Slot { unit: 4, ..SLOT };
        let moved = ProxyDisk { slot: Some(elsewhere), ..disk() };
        assert!(matches!(verdict(moved.clone()), Claim::Doubtful(_)));
        assert!(matches!(verdict(ProxyDisk { slot: None, ..disk() }), Claim::Doubtful(_)));
        let named = BTreeSet::from([SLOT, elsewhere]);
        assert_eq!(claim(&duty(), &proxy(vec![moved.clone()]), &BTreeSet::new(), &named), Claim::Absent);
        assert_eq!(verdict(ProxyDisk { uuid: other_uuid(), ..moved }), Claim::Absent);
    }

    #[test]
    fn half_agreement_is_doubt_never_ours() {
        for half in [
            ProxyDisk { nonpersistent: false, ..disk() },
            ProxyDisk { uuid: other_uuid(), ..disk() },
            ProxyDisk { capacity_bytes: 1, ..disk() },
            ProxyDisk { chain: vec![duty().backing, BackingPath::new("[ds] proxy/own.vmdk")], ..disk() },
        ] {
            assert!(matches!(verdict(half), Claim::Doubtful(_)));
        }
    }
}
