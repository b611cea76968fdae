//! Which disk of the proxy a duty means, on vCenter's side. Pure, and the only place that makes an [`OurDisk`].
use std::collections::BTreeSet;

use crate::{
    hypervisor::{OurDisk, ProxyDisk, ProxyFacts},
    id::DiskUuid,
    journal::AttachDuty,
};

/// What vCenter's list says about a duty's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is there, and nothing speaks against it being ours.
    Ours(OurDisk),
    /// Its slot is empty or holds somebody else's disk: ours is not attached there.
    Absent,
    /// The slot holds something that partly agrees; a person has to look.
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

/// Compares the slot, the backing (or one of its parents), the mode, the UUID and the capacity.
#[must_use]
pub fn claim(duty: &AttachDuty, proxy: &ProxyFacts, listed: &BTreeSet<DiskUuid>) -> Claim {
    let Some(disk) = proxy.disks.iter().find(|disk| disk.slot == Some(duty.slot)) else { return Claim::Absent };
    if !disk.chain.contains(&duty.backing) {
        return Claim::Absent;
    }
    let mut against = Vec::new();
    if is_own(disk, proxy, listed) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BackingPath, Moref, Slot};

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

    fn verdict(disk: ProxyDisk) -> Claim {
        let proxy = ProxyFacts {
            moref: Moref::new("vm-1"),
            name: "p".into(),
            home: "[ds] proxy/".into(),
            hardware_version: 19,
            controllers: Vec::new(),
            disks: vec![disk],
            busy: false,
        };
        claim(&duty(), &proxy, &BTreeSet::new())
    }

    #[test]
    fn agreement_is_ours_also_behind_a_redo_log() {
        assert_eq!(verdict(disk()), Claim::Ours(OurDisk(disk())));
        let redo = BackingPath::new("[ds] web/web.vmdk-REDO_a1b2");
        let behind = ProxyDisk { chain: vec![redo, duty().backing], uuid: None, ..disk() };
        assert!(matches!(verdict(behind), Claim::Ours(_)));
    }

    #[test]
    fn another_slot_or_another_file_is_absence() {
        assert_eq!(verdict(ProxyDisk { slot: Some(Slot { unit: 4, ..SLOT }), ..disk() }), Claim::Absent);
        assert_eq!(
            verdict(ProxyDisk { chain: vec![BackingPath::new("[ds] web/web_1.vmdk")], ..disk() }),
            Claim::Absent
        );
    }

    #[test]
    fn half_agreement_is_doubt_never_ours() {
        let other_uuid = "6000c29abcdef0123456789abcdef013".parse().ok();
        for half in [
            ProxyDisk { nonpersistent: false, ..disk() },
            ProxyDisk { uuid: other_uuid, ..disk() },
            ProxyDisk { capacity_bytes: 1, ..disk() },
            ProxyDisk { chain: vec![duty().backing, BackingPath::new("[ds] proxy/own.vmdk")], ..disk() },
        ] {
            assert!(matches!(verdict(half), Claim::Doubtful(_)));
        }
    }
}
