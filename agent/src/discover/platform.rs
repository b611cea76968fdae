//! The host as the agent sees it. Nothing here knows vSphere; everything is owned data, so it may cross threads.
use std::{fmt, fs::File, io, path::PathBuf, sync::mpsc};

use super::ProvenDisk;
use crate::{id::PciAddress, quarantine::Finding};

/// What the host says about itself (DMI and network).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostIdentity {
    /// `/sys/class/dmi/id/sys_vendor`.
    pub vendor: String,
    /// `product_serial`, e.g. `VMware-42 1c … -b1 54 …`; in vCenter's byte order on every hardware version.
    pub serial: Option<String>,
    /// `product_uuid`; the byte order of its first three fields depends on the virtual hardware version.
    pub uuid: Option<String>,
    /// Lower case, colons.
    pub macs: Vec<String>,
}

/// One entry of `/sys/bus/pci/slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    /// vSphere's pciSlotNumber by name.
    pub slot: u32,
    /// `dddd:bb:dd`, without a function.
    pub pci_address: String,
}

/// One SCSI disk as the guest kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Opaque handle of the platform that made it (sysfs path).
    pub handle: String,
    /// Kernel name now, for logs only.
    pub name: String,
    /// Function of the controller on which it sits.
    pub controller: PciAddress,
    pub channel: u32,
    pub target: u32,
    pub lun: u64,
    /// Page 0x80, raw text; `None` when the page is absent.
    pub serial: Option<String>,
    /// NAA designators of page 0x83 that belong to the logical unit, raw bytes (8 or 16).
    pub designators: Vec<Vec<u8>>,
    pub size_bytes: u64,
    pub read_only: bool,
    /// udev has run its rules for it.
    pub initialized: bool,
}

/// Something changed; the enumeration tells what. Events only wake, they are never believed alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    Added(String),
    Removed(String),
    Changed(String),
}

/// The host. Calls block (sysfs, udev): make them off the runtime's threads.
pub trait Platform: fmt::Debug + Send + Sync + 'static {
    /// # Errors
    /// When DMI can't be read.
    fn identity(&self) -> io::Result<HostIdentity>;
    /// A file whose lock only one agent of this host can hold, whatever its configuration is.
    fn lock_file(&self) -> PathBuf;
    /// PCI slots with their addresses; empty on hosts without slot names.
    ///
    /// # Errors
    /// Of reading sysfs.
    fn slots(&self) -> io::Result<Vec<SlotFacts>>;
    /// PCI functions that carry a SCSI host: a driver serves them, disks or none.
    ///
    /// # Errors
    /// Of reading sysfs.
    fn hosts(&self) -> io::Result<Vec<PciAddress>>;
    /// Every SCSI disk now.
    ///
    /// # Errors
    /// Of the enumeration.
    fn devices(&self) -> io::Result<Vec<DeviceFacts>>;
    /// Starts a stream of events; it ends when the receiver is dropped.
    ///
    /// # Errors
    /// When no monitor can be made.
    fn subscribe(&self) -> io::Result<mpsc::Receiver<DeviceEvent>>;
    /// Opens for reading only, direct.
    ///
    /// # Errors
    /// Of `open`.
    fn open(&self, disk: &ProvenDisk) -> io::Result<File>;
    /// Removes the SCSI device from the guest; returns when it is gone.
    ///
    /// # Errors
    /// Of the write, or `TimedOut` when it stays.
    fn delete(&self, disk: &ProvenDisk) -> io::Result<()>;
    /// Asks one controller to look again at one target.
    ///
    /// # Errors
    /// Of the write; a target above the driver's range is `InvalidInput`.
    fn rescan(&self, controller: &PciAddress, target: u32) -> io::Result<()>;
    /// What makes it doubtful that this system leaves attached disks alone; takes seconds only if something does.
    fn quarantine(&self) -> Vec<Finding>;
}
