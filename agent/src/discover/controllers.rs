//! Which SCSI controller of vCenter is which PCI function in the guest. Pure.
//!
//! Two independent ways: (a) an anchor, a disk of the proxy's own with a known UUID that sits on that controller;
//! (b) vSphere's pciSlotNumber, which is the name of a slot under /sys/bus/pci/slots. Where both speak they must
//! agree; where neither speaks, or they disagree, or two controllers claim one function, the controller is refused.
//! A slot number alone, on a function that carries a SCSI host, is believed on trial: until a disk behind it was proven
//! ([`Trials`]) the controller holds one disk, and a disk that is not proven refuses it.
//! Linux host numbers follow probe order and are never used.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{DeviceFacts, SlotFacts, proof::full_uuid};
use crate::{
    hypervisor::{ControllerFacts, ProxyDisk},
    id::PciAddress,
};

/// Why a controller can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// No anchor disk was found on it and vCenter's slot number names no slot here.
    Unknown,
    /// Anchor and slot number name different functions.
    Contradiction { anchor: PciAddress, slot: PciAddress },
    /// Its anchor is seen behind more than one function, or its anchors disagree.
    AmbiguousAnchor(Vec<PciAddress>),
    /// Another controller maps to the same function.
    Shared(PciAddress),
    /// Its PCI slot number names a function without a SCSI host.
    NoHost(PciAddress),
    /// A disk that was attached to it was not proven behind the function that its PCI slot number names.
    Disproved { address: PciAddress, why: String },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no anchor disk seen on it and its PCI slot number is unknown in the guest"),
            Self::Contradiction { anchor, slot } => {
                write!(f, "its anchor disk is on {anchor} but its PCI slot number names {slot}")
            }
            Self::AmbiguousAnchor(seen) => {
                let seen: Vec<_> = seen.iter().map(PciAddress::as_str).collect();
                write!(f, "its anchor disks are seen on {}", seen.join(" and "))
            }
            Self::Shared(address) => write!(f, "another controller also maps to {address}"),
            Self::NoHost(address) => write!(f, "its PCI slot number names {address}, where no SCSI host is"),
            Self::Disproved { address, why } => {
                write!(f, "its PCI slot number names {address}, but a disk attached to it was not proven there: {why}")
            }
        }
    }
}

/// What was learnt in this run from disks behind controllers that only their slot number told. In memory alone: the next
/// run tries again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trials {
    proven: BTreeSet<(i32, PciAddress)>,
    disproved: BTreeMap<(i32, PciAddress), String>,
}

impl Trials {
    /// A disk of this controller was proven behind this function.
    pub fn prove(&mut self, key: i32, address: &PciAddress) {
        self.proven.insert((key, address.clone()));
    }

    /// A disk of this controller was not proven behind this function.
    pub fn disprove(&mut self, key: i32, address: &PciAddress, why: String) {
        self.disproved.insert((key, address.clone()), why);
    }

    /// Forgets controllers that the proxy no longer has: their keys are given again.
    pub fn keep(&mut self, controllers: &[ControllerFacts]) {
        let known = |key: i32| controllers.iter().any(|c| c.key == key);
        self.proven.retain(|(key, _)| known(*key));
        self.disproved.retain(|(key, _), _| known(*key));
    }

    #[must_use]
    pub fn any_disproved(&self) -> bool {
        !self.disproved.is_empty()
    }
}

/// Where a controller is, and whether more than its slot number says so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Located {
    address: PciAddress,
    proven: bool,
}

/// The guest's side of the map.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guest<'a> {
    pub slots: &'a [SlotFacts],
    /// Functions that carry a SCSI host.
    pub hosts: &'a [PciAddress],
    pub devices: &'a [DeviceFacts],
}

/// The answer for every SCSI controller of the proxy, by its vSphere key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControllerMap {
    entries: BTreeMap<i32, Result<Located, Refused>>,
}

impl ControllerMap {
    /// `own`: the proxy's own disks, as vCenter tells them.
    #[must_use]
    pub fn build(controllers: &[ControllerFacts], own: &[ProxyDisk], guest: Guest<'_>, trials: &Trials) -> Self {
        let mut entries: BTreeMap<_, _> = controllers.iter().map(|c| (c.key, locate(c, own, guest))).collect();
        let mut claims: BTreeMap<PciAddress, u32> = BTreeMap::new();
        for located in entries.values().flatten() {
            *claims.entry(located.address.clone()).or_default() += 1;
        }
        for (key, entry) in &mut entries {
            let Ok(located) = entry else { continue };
            let place = (*key, located.address.clone());
            if claims.get(&located.address).is_some_and(|&n| n > 1) {
                *entry = Err(Refused::Shared(place.1));
            } else if let Some(why) = trials.disproved.get(&place) {
                *entry = Err(Refused::Disproved { address: place.1, why: why.clone() });
            } else {
                located.proven |= trials.proven.contains(&place);
            }
        }
        Self { entries }
    }

    /// # Errors
    /// Why this controller is refused; an unknown key is [`Refused::Unknown`].
    pub fn address(&self, key: i32) -> Result<&PciAddress, &Refused> {
        self.entries.get(&key).map_or(Err(&Refused::Unknown), Result::as_ref).map(|located| &located.address)
    }

    /// Whether only its slot number tells where it is: such a controller holds one disk until that is proven.
    #[must_use]
    pub fn on_trial(&self, key: i32) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.as_ref().is_ok_and(|located| !located.proven))
    }

    pub fn usable(&self) -> impl Iterator<Item = i32> + '_ {
        self.entries.iter().filter(|(_, entry)| entry.is_ok()).map(|(key, _)| *key)
    }
}

fn locate(controller: &ControllerFacts, own: &[ProxyDisk], guest: Guest<'_>) -> Result<Located, Refused> {
    let anchor = by_anchor(controller, own, guest.devices)?;
    let slot = by_slot(controller, guest.slots, guest.devices);
    match (anchor, slot) {
        (Some(anchor), Some(slot)) if anchor != slot => Err(Refused::Contradiction { anchor, slot }),
        (Some(address), _) => Ok(Located { address, proven: true }),
        (None, Some(address)) if !guest.hosts.contains(&address) => Err(Refused::NoHost(address)),
        (None, Some(address)) => Ok(Located { address, proven: false }),
        (None, None) => Err(Refused::Unknown),
    }
}

fn by_anchor(
    controller: &ControllerFacts,
    own: &[ProxyDisk],
    devices: &[DeviceFacts],
) -> Result<Option<PciAddress>, Refused> {
    let mut seen = BTreeSet::new();
    for anchor in own.iter().filter(|disk| disk.slot.is_some_and(|slot| slot.controller_key == controller.key)) {
        let (Some(uuid), Some(slot)) = (anchor.uuid, anchor.slot) else { continue };
        let shows = |device: &&DeviceFacts| {
            device.target == slot.unit
                && device.lun == 0
                && device.size_bytes == anchor.capacity_bytes
                && full_uuid(device) == Ok(uuid)
        };
        seen.extend(devices.iter().filter(shows).map(|device| device.controller.clone()));
    }
    match seen.len() {
        0 | 1 => Ok(seen.pop_first()),
        _ => Err(Refused::AmbiguousAnchor(seen.into_iter().collect())),
    }
}

fn by_slot(controller: &ControllerFacts, slots: &[SlotFacts], devices: &[DeviceFacts]) -> Option<PciAddress> {
    let number = controller.pci_slot?;
    let mut named = slots.iter().filter(|slot| slot.slot == number);
    let slot = named.next()?;
    if named.next().is_some() {
        return None;
    }
    // A slot has no function number. The controller's devices tell it; an empty controller is function 0.
    let prefix = format!("{}.", slot.pci_address);
    let functions: BTreeSet<_> =
        devices.iter().map(|d| &d.controller).filter(|c| c.as_str().starts_with(&prefix)).collect();
    match functions.len() {
        0 => Some(PciAddress::new(format!("{prefix}0"))),
        1 => functions.first().map(|address| (*address).clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discover::proof::tests::device,
        id::{BackingPath, Slot},
    };

    const ANCHOR: &str = "6000c290000000000000000000000001";

    fn controller(key: i32, pci_slot: Option<u32>) -> ControllerFacts {
        ControllerFacts { key, bus: key - 1000, kind: "pvscsi".into(), pvscsi: true, pci_slot, reserved_unit: 7 }
    }

    fn own(key: i32, uuid: &str) -> ProxyDisk {
        ProxyDisk {
            device_key: 2000,
            slot: Some(Slot { controller_key: key, unit: 0 }),
            chain: vec![BackingPath::new("[ds] proxy/anchor.vmdk")],
            uuid: uuid.parse().ok(),
            capacity_bytes: 1 << 20,
            nonpersistent: false,
        }
    }

    fn anchor_at(address: &str, uuid: &str) -> DeviceFacts {
        DeviceFacts { size_bytes: 1 << 20, target: 0, ..device(address, 0, uuid) }
    }

    fn slot(slot: u32, address: &str) -> SlotFacts {
        SlotFacts { slot, pci_address: address.into() }
    }

    fn host(address: &str) -> PciAddress {
        PciAddress::new(address)
    }

    fn guest<'a>(slots: &'a [SlotFacts], hosts: &'a [PciAddress], devices: &'a [DeviceFacts]) -> Guest<'a> {
        Guest { slots, hosts, devices }
    }

    fn build(controllers: &[ControllerFacts], own: &[ProxyDisk], guest: Guest<'_>) -> ControllerMap {
        ControllerMap::build(controllers, own, guest, &Trials::default())
    }

    #[test]
    fn either_way_alone_suffices_and_agreement_too() {
        let slots = [slot(160, "0000:01:00")];
        let seen = [anchor_at("0000:01:00.0", ANCHOR)];
        let want = PciAddress::new("0000:01:00.0");
        for (pci_slot, own, slots, seen, on_trial) in [
            (Some(160), vec![], &slots[..], &[][..], true),
            (None, vec![own(1000, ANCHOR)], &[][..], &seen[..], false),
            (Some(160), vec![own(1000, ANCHOR)], &slots[..], &seen[..], false),
        ] {
            let map = build(&[controller(1000, pci_slot)], &own, guest(slots, std::slice::from_ref(&want), seen));
            assert_eq!(map.address(1000), Ok(&want));
            assert_eq!(map.on_trial(1000), on_trial);
        }
    }

    #[test]
    fn a_slot_number_needs_a_host_there_and_a_trial_decides_for_good() {
        let (slots, hosts) = ([slot(1184, "0000:04:00")], [host("0000:04:00.0")]);
        let empty = [controller(1001, Some(1184))];
        assert_eq!(build(&empty, &[], guest(&slots, &[], &[])).address(1001), Err(&Refused::NoHost(hosts[0].clone())));
        let with = |trials: &Trials| ControllerMap::build(&empty, &[], guest(&slots, &hosts, &[]), trials);
        let mut trials = Trials::default();
        assert!(with(&trials).on_trial(1001));
        trials.prove(1001, &host("0000:05:00.0"));
        assert!(with(&trials).on_trial(1001), "it was proven behind another function");
        trials.prove(1001, &hosts[0]);
        assert!(!with(&trials).on_trial(1001) && with(&trials).usable().eq([1001]));
        trials.disprove(1001, &hosts[0], "nothing came".into());
        assert!(matches!(with(&trials).address(1001), Err(Refused::Disproved { .. })));
        trials.keep(&empty);
        assert!(trials.any_disproved());
        trials.keep(&[]);
        assert_eq!(trials, Trials::default(), "the key of a controller that went is given to another");
    }

    #[test]
    fn contradiction_and_silence_are_refused() {
        let seen = [anchor_at("0000:02:00.0", ANCHOR)];
        let slots = [slot(160, "0000:01:00")];
        let map = build(&[controller(1000, Some(160))], &[own(1000, ANCHOR)], guest(&slots, &[], &seen));
        assert!(matches!(map.address(1000), Err(Refused::Contradiction { .. })));
        let map = build(&[controller(1000, Some(999))], &[own(1000, ANCHOR)], guest(&slots, &[], &[]));
        assert_eq!(map.address(1000), Err(&Refused::Unknown));
        assert_eq!(map.address(1003), Err(&Refused::Unknown));
    }

    #[test]
    fn an_anchor_of_another_size_unit_or_short_uuid_proves_nothing() {
        let good = anchor_at("0000:01:00.0", ANCHOR);
        let wrong = [
            DeviceFacts { size_bytes: 2 << 20, ..good.clone() },
            DeviceFacts { target: 1, ..good.clone() },
            DeviceFacts { serial: None, designators: vec![vec![0x60, 0, 0xc2, 0x90, 0, 0, 0, 0]], ..good },
        ];
        for device in wrong {
            let map = build(&[controller(1000, None)], &[own(1000, ANCHOR)], guest(&[], &[], &[device]));
            assert_eq!(map.address(1000), Err(&Refused::Unknown));
        }
    }

    #[test]
    fn an_anchor_seen_twice_and_a_function_claimed_twice_are_refused() {
        let twice = [anchor_at("0000:01:00.0", ANCHOR), anchor_at("0000:02:00.0", ANCHOR)];
        let map = build(&[controller(1000, None)], &[own(1000, ANCHOR)], guest(&[], &[], &twice));
        assert!(matches!(map.address(1000), Err(Refused::AmbiguousAnchor(_))));
        let (slots, hosts) = ([slot(160, "0000:01:00")], [host("0000:01:00.0")]);
        let both = [controller(1000, Some(160)), controller(1001, Some(160))];
        let map = build(&both, &[], guest(&slots, &hosts, &[]));
        assert!(map.usable().next().is_none());
    }
}
