//! The proof that a device in the guest is the disk that vCenter attached. Pure: facts in, verdict out, and the only
//! constructor of [`ProvenDisk`].
//!
//! All must agree: the controller's PCI function and the target, LUN 0, the full 16-byte UUID from at least one VPD
//! page, the size, and the device must be read-only. A designator shorter than 16 bytes may contradict, it never
//! proves. Pages that contradict each other, or are empty, are a refusal.
use std::fmt;

use super::{ControllerMap, DeviceFacts};
use crate::id::{DiskUuid, PciAddress, Slot};

/// What vCenter says of the attached disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    pub slot: Slot,
    pub uuid: DiskUuid,
    pub size_bytes: u64,
}

/// A device whose identity is proven. Only such a disk can be opened or deleted; there is no other way to make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenDisk {
    facts: DeviceFacts,
    expectation: Expectation,
}

impl ProvenDisk {
    #[must_use]
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    #[must_use]
    pub fn expectation(&self) -> &Expectation {
        &self.expectation
    }
}

impl ProvenDisk {
    /// Whether what sits there now (`None`: nothing) still is this disk, and still read-only.
    ///
    /// # Errors
    /// The first [`Mismatch`].
    pub fn still(&self, now: Option<&DeviceFacts>) -> Result<(), Mismatch> {
        let place = |d: &DeviceFacts| format!("{} {}:{}:{}", d.controller, d.channel, d.target, d.lun);
        let expected = place(&self.facts);
        let Some(now) = now else { return Err(Mismatch::Place { expected, seen: "nothing".into() }) };
        let seen = place(now);
        if seen != expected || now.handle != self.facts.handle {
            return Err(Mismatch::Place { expected, seen });
        }
        agrees_with(&self.expectation, now)?;
        if now.read_only { Ok(()) } else { Err(Mismatch::Writable) }
    }
}

/// Why a device is not the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    Controller(String),
    Place { expected: String, seen: String },
    NoIdentity,
    ShortIdentity(String),
    PagesDisagree(String),
    Uuid { expected: DiskUuid, seen: DiskUuid },
    Size { expected: u64, seen: u64 },
    Writable,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(why) => write!(f, "controller refused: {why}"),
            Self::Place { expected, seen } => write!(f, "expected at {expected}, seen at {seen}"),
            Self::NoIdentity => f.write_str(
                "VPD pages 0x80 and 0x83 carry no UUID: disk.EnableUUID is not TRUE on the proxy, or was set without \
                 a power cycle",
            ),
            Self::ShortIdentity(seen) => write!(f, "only a short designator ({seen}) is shown; 16 bytes are needed"),
            Self::PagesDisagree(seen) => write!(f, "its VPD pages disagree: {seen}"),
            Self::Uuid { expected, seen } => write!(f, "UUID {seen}, expected {expected}"),
            Self::Size { expected, seen } => write!(f, "{seen} bytes, expected {expected}"),
            Self::Writable => f.write_str("the block device is not read-only: the agent's udev rule did not run"),
        }
    }
}

/// The full UUID that a device shows, if its pages show one and do not contradict each other.
///
/// # Errors
/// [`Mismatch::NoIdentity`], [`Mismatch::ShortIdentity`] or [`Mismatch::PagesDisagree`].
pub fn full_uuid(device: &DeviceFacts) -> Result<DiskUuid, Mismatch> {
    let serial = device.serial.as_deref().and_then(|text| text.parse::<DiskUuid>().ok());
    let long = device.designators.iter().filter_map(|d| <[u8; 16]>::try_from(d.as_slice()).ok());
    let mut candidates: Vec<DiskUuid> = serial.into_iter().chain(long.map(DiskUuid::from_bytes)).collect();
    candidates.sort_unstable();
    candidates.dedup();
    let shown = || {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let pages: Vec<String> = device.designators.iter().map(|d| format!("0x83 {}", hex(d))).collect();
        format!("0x80 {:?}, {}", device.serial.as_deref().unwrap_or(""), pages.join(", "))
    };
    match candidates[..] {
        [] if device.designators.is_empty() => Err(Mismatch::NoIdentity),
        [] => Err(Mismatch::ShortIdentity(shown())),
        [uuid] if device.designators.iter().all(|d| agrees(d, &uuid)) && serial_agrees(device, &uuid) => Ok(uuid),
        _ => Err(Mismatch::PagesDisagree(shown())),
    }
}

/// A shorter designator may only be a prefix (stock QEMU shows 8 of the 16 bytes).
fn agrees(designator: &[u8], uuid: &DiskUuid) -> bool {
    uuid.as_bytes().starts_with(designator)
}

/// A serial that is no UUID at all contradicts one on the other page.
fn serial_agrees(device: &DeviceFacts, uuid: &DiskUuid) -> bool {
    device.serial.as_deref().is_none_or(|text| text.parse() == Ok(*uuid))
}

/// Where the expected disk has to be.
///
/// # Errors
/// [`Mismatch::Controller`] when its controller is refused.
pub fn place<'a>(expectation: &Expectation, map: &'a ControllerMap) -> Result<&'a PciAddress, Mismatch> {
    map.address(expectation.slot.controller_key).map_err(|refused| Mismatch::Controller(refused.to_string()))
}

/// Whether a device sits where the disk has to be, whatever it is.
#[must_use]
pub fn sits_at(device: &DeviceFacts, address: &PciAddress, unit: u32) -> bool {
    device.controller == *address && device.channel == 0 && device.target == unit && device.lun == 0
}

/// The proof.
///
/// # Errors
/// The first [`Mismatch`].
pub fn prove(expectation: &Expectation, map: &ControllerMap, device: &DeviceFacts) -> Result<ProvenDisk, Mismatch> {
    let disk = identify(expectation, map, device)?;
    if !device.read_only {
        return Err(Mismatch::Writable);
    }
    Ok(disk)
}

/// The proof for removal: the same identity, but a device that is writable by mistake may be deleted all the same.
///
/// # Errors
/// The first [`Mismatch`].
pub fn identify(expectation: &Expectation, map: &ControllerMap, device: &DeviceFacts) -> Result<ProvenDisk, Mismatch> {
    let address = place(expectation, map)?;
    if !sits_at(device, address, expectation.slot.unit) {
        return Err(Mismatch::Place {
            expected: format!("{address} 0:{}:0", expectation.slot.unit),
            seen: format!("{} {}:{}:{}", device.controller, device.channel, device.target, device.lun),
        });
    }
    agrees_with(expectation, device)?;
    Ok(ProvenDisk { facts: device.clone(), expectation: expectation.clone() })
}

fn agrees_with(expectation: &Expectation, device: &DeviceFacts) -> Result<(), Mismatch> {
    let seen = full_uuid(device)?;
    if seen != expectation.uuid {
        return Err(Mismatch::Uuid { expected: expectation.uuid, seen });
    }
    if device.size_bytes != expectation.size_bytes {
        return Err(Mismatch::Size { expected: expectation.size_bytes, seen: device.size_bytes });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hypervisor::ControllerFacts;

    const UUID: &str = "6000c29abcdef0123456789abcdef012";
    const ADDRESS: &str = "0000:0b:00.0";

    /// A proven-looking device; the tests spoil it.
    pub(crate) fn device(address: &str, target: u32, uuid: &str) -> DeviceFacts {
        let uuid: DiskUuid = uuid.parse().unwrap();
        DeviceFacts {
            handle: "h".into(),
            name: "sdx".into(),
            controller: PciAddress::new(address),
            channel: 0,
            target,
            lun: 0,
            serial: Some(uuid.to_string()),
            designators: vec![uuid.as_bytes().to_vec()],
            size_bytes: 1 << 30,
            read_only: true,
            initialized: true,
        }
    }

    fn map() -> ControllerMap {
        let facts = ControllerFacts {
            key: 1001,
            bus: 1,
            kind: "pvscsi".into(),
            pvscsi: true,
            pci_slot: Some(192),
            reserved_unit: 7,
        };
        let slots = [super::super::SlotFacts { slot: 192, pci_address: "0000:0b:00".into() }];
        let hosts = [PciAddress::new(ADDRESS)];
        let guest = crate::discover::Guest { slots: &slots, hosts: &hosts, devices: &[] };
        ControllerMap::build(&[facts], &[], guest, &crate::discover::Trials::default())
    }

    fn expectation() -> Expectation {
        Expectation { slot: Slot { controller_key: 1001, unit: 3 }, uuid: UUID.parse().unwrap(), size_bytes: 1 << 30 }
    }

    fn verdict(spoil: impl FnOnce(&mut DeviceFacts)) -> Result<ProvenDisk, Mismatch> {
        let mut device = device(ADDRESS, 3, UUID);
        spoil(&mut device);
        prove(&expectation(), &map(), &device)
    }

    #[test]
    fn agreement_of_everything_proves() {
        assert!(verdict(|_| {}).is_ok());
        assert!(verdict(|d| d.serial = None).is_ok(), "page 0x83 alone, 16 bytes");
        assert!(verdict(|d| d.designators.clear()).is_ok(), "page 0x80 alone");
        assert!(verdict(|d| d.designators[0].truncate(8)).is_ok(), "a short designator that agrees, with page 0x80");
    }

    #[test]
    fn each_disagreement_refuses() {
        type Spoil = fn(&mut DeviceFacts);
        let place: [Spoil; 4] =
            [|d| d.controller = PciAddress::new("0000:13:00.0"), |d| d.target = 4, |d| d.channel = 1, |d| d.lun = 1];
        for spoil in place {
            assert!(matches!(verdict(spoil), Err(Mismatch::Place { .. })));
        }
        assert!(matches!(verdict(|d| d.size_bytes += 512), Err(Mismatch::Size { .. })));
        assert_eq!(verdict(|d| d.read_only = false), Err(Mismatch::Writable));
        let other = |d: &mut DeviceFacts| *d = device(ADDRESS, 3, "6000c29abcdef0123456789abcdef013");
        assert!(matches!(verdict(other), Err(Mismatch::Uuid { .. })), "same prefix, other tail");
    }

    #[test]
    fn weak_or_contradicting_pages_refuse() {
        let short = |d: &mut DeviceFacts| {
            d.serial = None;
            d.designators[0].truncate(8);
        };
        assert!(matches!(verdict(short), Err(Mismatch::ShortIdentity(_))));
        let none = |d: &mut DeviceFacts| {
            d.serial = None;
            d.designators.clear();
        };
        assert_eq!(verdict(none), Err(Mismatch::NoIdentity));
        assert!(matches!(verdict(|d| d.designators[0][15] ^= 1), Err(Mismatch::PagesDisagree(_))));
        let short_other = |d: &mut DeviceFacts| d.designators = vec![vec![0x60, 0, 0xc2, 0x9b, 0, 0, 0, 0]];
        assert!(matches!(verdict(short_other), Err(Mismatch::PagesDisagree(_))), "a short designator contradicts");
        assert!(matches!(verdict(|d| d.serial = Some("QM00001".into())), Err(Mismatch::PagesDisagree(_))));
    }

    #[test]
    fn a_proof_does_not_outlive_what_it_saw() {
        let disk = verdict(|_| {}).unwrap();
        let same = device(ADDRESS, 3, UUID);
        assert_eq!(disk.still(Some(&same)), Ok(()));
        assert!(matches!(disk.still(None), Err(Mismatch::Place { .. })));
        let swapped = device(ADDRESS, 3, "6000c29abcdef0123456789abcdef013");
        assert!(matches!(disk.still(Some(&swapped)), Err(Mismatch::Uuid { .. })));
        let writable = DeviceFacts { read_only: false, ..same.clone() };
        assert_eq!(disk.still(Some(&writable)), Err(Mismatch::Writable));
        assert!(disk.still(Some(&DeviceFacts { size_bytes: 1, ..same })).is_err());
    }

    #[test]
    fn a_refused_controller_proves_nothing() {
        let device = device(ADDRESS, 3, UUID);
        let verdict = prove(&expectation(), &ControllerMap::default(), &device);
        assert!(matches!(verdict, Err(Mismatch::Controller(_))));
    }
}
