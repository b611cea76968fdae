//! A virtual machine, its devices and snapshots.

use std::collections::BTreeMap;

use crate::inventory::ControllerKind;
use crate::value::MoRef;

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub path: String,
    pub mode: String,
    pub sharing: Option<String>,
    /// Redo log of an independent_nonpersistent disk, in the VM that has it attached.
    pub redo: Option<String>,
    pub origin: Origin,
    /// User whose request attached it; none if that landed late: he could not know.
    pub by: Option<String>,
}

/// How a disk came to the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Made with it or for it.
    Own,
    /// An existing file, attached by a client.
    Attached,
    /// An existing file, attached by the control command `attach_foreign`.
    Actor,
}

impl Origin {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Origin::Own => "own",
            Origin::Attached => "attached",
            Origin::Actor => "actor",
        }
    }
}

/// A method that somebody switched off (AuthorizationManager.DisableMethods).
#[derive(Clone, Debug)]
pub(crate) struct Disabled {
    pub method: String,
    pub source: String,
    /// Who did it; empty: a test.
    pub user: String,
    pub reason: String,
    /// Cookie of the session that it ends with.
    pub session: Option<String>,
}

impl Disk {
    pub(crate) fn nonpersistent(&self) -> bool {
        self.mode.contains("nonpersistent")
    }

    /// Takes part in snapshots of its VM (vSphere API 8.0, VirtualDiskMode).
    pub(crate) fn snapshotted(&self) -> bool {
        !self.mode.starts_with("independent")
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Controller {
        kind: ControllerKind,
        bus: u32,
        pci_slot: Option<u32>,
        hidden_slot: bool,
        /// Where the guest really has it, if that is another slot than vCenter tells.
        guest_slot: Option<u32>,
        sharing: String,
    },
    Disk(Disk),
    Nic {
        mac: String,
    },
    /// Devices every VM has: type name, label.
    Fixed {
        ty: &'static str,
        label: &'static str,
        bus: Option<u32>,
    },
}

impl Kind {
    /// Bus and slot in the guest of a SCSI controller that was added while the VM ran.
    pub(crate) fn hot_plugged(&self) -> Option<(u32, u32)> {
        match self {
            Kind::Controller { kind, bus, pci_slot, guest_slot, .. } if kind.is_scsi() => {
                let slot = guest_slot.or(*pci_slot)?;
                (slot >= FIRST_HOT_PLUG_SLOT).then_some((*bus, slot))
            }
            _ => None,
        }
    }
}

/// The first slot of a controller that comes to a running VM (the others are taken at power-on).
pub(crate) const FIRST_HOT_PLUG_SLOT: u32 = 1184;

#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub key: i32,
    pub controller: Option<i32>,
    pub unit: Option<i32>,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub id: String,
    pub number: i32,
    pub name: String,
    pub description: String,
    pub created: String,
    pub on: bool,
    pub quiesced: bool,
    pub parent: Option<String>,
    pub devices: Vec<Device>,
}

#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub id: String,
    pub name: String,
    pub datastore: String,
    pub host: String,
    pub on: bool,
    pub hardware_version: u32,
    pub uuid: String,
    pub instance_uuid: String,
    /// Folder of new deltas, when it is not that of their parents.
    pub working_dir: Option<String>,
    pub disabled: Vec<Disabled>,
    pub template: bool,
    pub tools: bool,
    pub change_tracking: bool,
    pub key_id: Option<String>,
    pub fault_tolerance: Option<String>,
    /// In the second datacenter.
    pub elsewhere: bool,
    /// EFI with secure boot.
    pub efi: bool,
    /// Name and version.
    pub product: Option<[String; 2]>,
    /// Files that are counted to it and belong to no disk, with their sizes.
    pub strays: Vec<(String, u64)>,
    pub extra_config: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    pub snapshots: Vec<Snapshot>,
    pub current: Option<String>,
    pub change_version: String,
    pub consolidation_needed: bool,
    pub busy: Option<String>,
    /// Files of disks whose attach is under way.
    pub pending: Vec<String>,
    pub next_snapshot: i32,
}

impl Vm {
    pub(crate) fn moref(&self) -> MoRef {
        MoRef::new("VirtualMachine", self.id.clone())
    }

    pub(crate) fn home(&self) -> String {
        format!("[{}] {}/", self.datastore, self.name)
    }

    pub(crate) fn disks(&self) -> impl Iterator<Item = (&Device, &Disk)> {
        self.devices.iter().filter_map(|d| match &d.kind {
            Kind::Disk(k) => Some((d, k)),
            _ => None,
        })
    }

    /// Files that this VM has open: its disks and those just being attached.
    pub(crate) fn opened(&self) -> impl Iterator<Item = &str> {
        self.disks().map(|(_, d)| d.path.as_str()).chain(self.pending.iter().map(String::as_str))
    }

    pub(crate) fn device(&self, key: i32) -> Option<&Device> {
        self.devices.iter().find(|d| d.key == key)
    }

    /// (kind, bus) of the controller with this key.
    pub(crate) fn controller(&self, key: i32) -> Option<(ControllerKind, u32)> {
        match self.device(key)?.kind {
            Kind::Controller { kind, bus, .. } => Some((kind, bus)),
            _ => None,
        }
    }

    /// The disk as told by unit ("0:3" = bus:unit, "3" = unit on the first controller), key, or path.
    pub(crate) fn find_disk(&self, what: &str) -> Option<(&Device, &Disk)> {
        self.disks().find(|(dev, d)| {
            let bus = dev.controller.and_then(|c| self.controller(c)).map(|c| c.1).unwrap_or(0);
            let unit = dev.unit.unwrap_or(-1);
            d.path == what
                || dev.key.to_string() == what
                || format!("{bus}:{unit}") == what
                || (bus == 0 && unit.to_string() == what)
        })
    }

    /// Units that a controller offers, reserved one left out (vsphere-facts: 15, or 64 with PVSCSI from hardware version 14).
    pub(crate) fn unit_ok(&self, kind: ControllerKind, unit: i32) -> bool {
        match kind {
            ControllerKind::Pvscsi if self.hardware_version >= 14 => (0..64).contains(&unit) && unit != 7,
            ControllerKind::Ide => (0..2).contains(&unit),
            ControllerKind::Sata => (0..30).contains(&unit),
            ControllerKind::Nvme => (0..15).contains(&unit),
            _ => (0..16).contains(&unit) && unit != 7,
        }
    }

    pub(crate) fn max_unit(&self, kind: ControllerKind) -> i32 {
        (0..64).filter(|u| self.unit_ok(kind, *u)).max().unwrap_or(0)
    }
}

/// First key of a device family on ESXi: disks on SCSI 2000, IDE 3000, NICs 4000, SATA 16000, NVMe 32000.
pub(crate) fn disk_key_base(kind: ControllerKind) -> i32 {
    match kind {
        ControllerKind::Ide => 3000,
        ControllerKind::Sata => 16000,
        ControllerKind::Nvme => 32000,
        _ => 2000,
    }
}

pub(crate) fn controller_key_base(kind: ControllerKind) -> i32 {
    match kind {
        ControllerKind::Ide => 200,
        ControllerKind::Sata => 15000,
        ControllerKind::Nvme => 31000,
        _ => 1000,
    }
}

/// Keys are used again: the lowest free one of the family.
pub(crate) fn lowest_free_key(devices: &[Device], base: i32) -> i32 {
    let mut key = base;
    while devices.iter().any(|d| d.key == key) {
        key += 1;
    }
    key
}
