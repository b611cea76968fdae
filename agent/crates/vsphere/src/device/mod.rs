//! Virtual devices as plain types. Reading them from the wire is in `parse`, datastore paths in `path`.

mod parse;
mod path;

use std::sync::Arc;

pub use path::BackingPath;

pub(crate) use parse::{devices, key_id};

use crate::moref::MoRef;
use crate::xml::Node;

/// A device of a VM or of a snapshot. Kinds without a variant are kept as `Other`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "a VM has tens of devices; a box would only burden every match")]
pub enum Device {
    /// A virtual disk.
    Disk(Disk),
    /// A SCSI controller.
    ScsiController(ScsiController),
    /// Any other controller.
    OtherController(OtherController),
    /// A network card.
    Nic {
        /// Device key.
        key: i32,
        /// MAC address as vCenter shows it.
        mac: Option<String>,
        /// VMware's type name.
        type_name: String,
        /// Name of a standard network; absent for a distributed switch, whose backing has keys only.
        network: Option<String>,
    },
    /// Anything else.
    Other {
        /// Device key.
        key: i32,
        /// VMware's type name.
        type_name: String,
    },
}

impl Device {
    /// Device key, unique within the VM.
    pub fn key(&self) -> i32 {
        match self {
            Device::Disk(d) => d.key,
            Device::ScsiController(c) => c.key,
            Device::OtherController(c) => c.key,
            Device::Nic { key, .. } | Device::Other { key, .. } => *key,
        }
    }

    /// The disk, when it is one.
    pub fn as_disk(&self) -> Option<&Disk> {
        match self {
            Device::Disk(d) => Some(d),
            _ => None,
        }
    }

    /// The SCSI controller, when it is one.
    pub fn as_scsi_controller(&self) -> Option<&ScsiController> {
        match self {
            Device::ScsiController(c) => Some(c),
            _ => None,
        }
    }
}

/// A SCSI controller (vSphere API, VirtualSCSIController).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScsiController {
    /// Device key, 1000..1003 by convention.
    pub key: i32,
    /// Bus number, the n of `scsiN`.
    pub bus: i32,
    /// Model.
    pub kind: ScsiKind,
    /// `slotInfo.pciSlotNumber`; absent while the VM was never powered on.
    pub pci_slot: Option<u32>,
    /// The unit that the controller itself takes; no disk may have it. 7 unless told otherwise.
    pub own_unit: u32,
    /// `noSharing`, `virtualSharing` or `physicalSharing`.
    pub shared_bus: Option<String>,
}

/// Model of a SCSI controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScsiKind {
    /// `ParaVirtualSCSIController`.
    Pvscsi,
    /// `VirtualLsiLogicController`.
    LsiLogic,
    /// `VirtualLsiLogicSASController`.
    LsiSas,
    /// `VirtualBusLogicController`.
    BusLogic,
    /// VMware's type name.
    Other(String),
}

/// A controller that is not SCSI.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherController {
    /// Device key.
    pub key: i32,
    /// Bus number.
    pub bus: i32,
    /// Model.
    pub kind: OtherControllerKind,
}

/// Model of a controller that is not SCSI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherControllerKind {
    /// `VirtualIDEController`.
    Ide,
    /// `VirtualAHCIController`.
    Sata,
    /// `VirtualNVMEController`.
    Nvme,
    /// VMware's type name (PCI, USB, PS/2, …).
    Other(String),
}

/// A virtual disk as the server described it. Can only be read from a server, never built.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Disk {
    /// Device key; the server gives freed keys out again.
    pub key: i32,
    /// For people, for example `Hard disk 2`.
    pub label: Option<String>,
    /// Key of the controller.
    pub controller_key: Option<i32>,
    /// Unit on it.
    pub unit: Option<i32>,
    /// Capacity in bytes.
    pub capacity_bytes: u64,
    /// What is behind it.
    pub backing: Backing,
    /// Identity as a First Class Disk.
    pub v_disk_id: Option<String>,
    /// Attached I/O filters.
    pub io_filters: Vec<String>,
    /// The device as received: a removal sends it back in full.
    pub(crate) raw: Arc<Node>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("key", &self.key)
            .field("label", &self.label)
            .field("controller_key", &self.controller_key)
            .field("unit", &self.unit)
            .field("capacity_bytes", &self.capacity_bytes)
            .field("backing", &self.backing)
            .field("v_disk_id", &self.v_disk_id)
            .field("io_filters", &self.io_filters)
            .finish_non_exhaustive()
    }
}

/// Kind of a disk's backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackingKind {
    /// `VirtualDiskFlatVer2BackingInfo`.
    FlatV2,
    /// `VirtualDiskSeSparseBackingInfo`.
    SeSparse,
    /// `VirtualDiskSparseVer2BackingInfo`.
    SparseV2,
    /// Raw device mapping in virtual compatibility mode: takes part in snapshots.
    RdmVirtual,
    /// Raw device mapping in physical compatibility mode: does not.
    RdmPhysical,
    /// `VirtualDiskLocalPMemBackingInfo`.
    LocalPMem,
    /// VMware's type name.
    Other(String),
}

/// A disk's backing and, in `parent`, the links below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backing {
    /// Kind.
    pub kind: BackingKind,
    /// Datastore path of the descriptor.
    pub file_name: BackingPath,
    /// Datastore that holds it.
    pub datastore: Option<MoRef>,
    /// Disk UUID as in VPD page 0x83, `6000C29…`; linked clones share it.
    pub uuid: Option<String>,
    /// Changes when the content changes; equal in copies.
    pub content_id: Option<String>,
    /// Change tracking position; present in a snapshot of a VM with change tracking.
    pub change_id: Option<String>,
    /// `persistent`, `independent_nonpersistent`, …
    pub disk_mode: Option<String>,
    /// `sharingNone` or `sharingMultiWriter`.
    pub sharing: Option<String>,
    /// Thin provisioned.
    pub thin: Option<bool>,
    /// Encryption key.
    pub key_id: Option<KeyId>,
    /// The link below.
    pub parent: Option<Box<Backing>>,
    /// `virtualMode` or `physicalMode` of a raw device mapping.
    pub compatibility_mode: Option<String>,
}

impl Backing {
    /// This backing and all links below, top first.
    pub fn chain(&self) -> impl Iterator<Item = &Backing> {
        std::iter::successors(Some(self), |b| b.parent.as_deref())
    }
}

/// An encryption key by name (vSphere API, CryptoKeyId).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyId {
    /// Key within its provider.
    pub id: String,
    /// Key provider.
    pub provider: Option<String>,
}
