//! Attach and detach of disks by reconfigure, and the addition of a controller for them. Source: vSphere API 8.0, VirtualMachine.ReconfigVM_Task, VirtualDeviceConfigSpec.
//!
//! What keeps the customer's files safe is what these types can't say: a change only connects or disconnects a device, an
//! added disk is always independent_nonpersistent, only a disk that a server described can be removed, and no controller ever.

use std::sync::Arc;

use crate::client::Client;
use crate::device::{BackingKind, BackingPath, Disk};
use crate::error::{Error, ErrorKind};
use crate::moref::MoRef;
use crate::soap::{Effect, Request};
use crate::xml::{Node, Writer};

const OP: &str = "ReconfigVM_Task";

/// SCSI controllers that a VM can have.
const MAX_SCSI_BUSES: i32 = 4;
/// Key of every VM's PCI controller, by convention.
const PCI_CONTROLLER: i32 = 100;

/// A change of a VM's devices. The server applies it as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Reconfigure {
    /// Apply only when the VM's `changeVersion` is still this one; a mismatch is the fault `ConcurrentAccess`.
    pub change_version: Option<String>,
    /// What to change.
    pub change: DeviceChanges,
}

/// Adds disks, removes disks or adds a controller, never two of them in one request.
#[derive(Clone, Debug)]
pub enum DeviceChanges {
    /// Attach existing disks.
    Add(Vec<AddDisk>),
    /// Detach disks; their files stay.
    Remove(Vec<RemoveDisk>),
    /// Add one empty controller.
    AddController(AddController),
}

/// A ParaVirtualSCSIController to add, noSharing. Source: vSphere API 8.0, VirtualController, VirtualSCSIController.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddController {
    /// Bus number that no SCSI controller of the VM has, 0..3.
    pub bus: i32,
}

/// An existing disk to attach, always independent_nonpersistent: writes go to a log that is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddDisk {
    /// Negative key, unique in the request; the server gives the real one.
    pub temp_key: i32,
    /// Key of an existing controller.
    pub controller_key: i32,
    /// Free unit on it.
    pub unit: i32,
    /// The disk's capacity in bytes, unchanged.
    pub capacity_bytes: u64,
    /// Kind of its backing, as the snapshot shows it.
    pub backing_kind: BackingKind,
    /// Its descriptor.
    pub file_name: BackingPath,
    /// Its datastore: settles which one is meant when names repeat.
    pub datastore: Option<MoRef>,
}

/// A disk to detach, as the server described it.
#[derive(Clone, Debug)]
pub struct RemoveDisk {
    key: i32,
    raw: Arc<Node>,
}

impl RemoveDisk {
    /// Takes the disk that is to be detached; it must have been read from the VM that is reconfigured.
    pub fn new(disk: &Disk) -> RemoveDisk {
        RemoveDisk { key: disk.key, raw: Arc::clone(&disk.raw) }
    }

    /// Device key that selects the disk.
    pub fn key(&self) -> i32 {
        self.key
    }
}

impl From<&Disk> for RemoveDisk {
    fn from(disk: &Disk) -> RemoveDisk {
        RemoveDisk::new(disk)
    }
}

impl Client {
    /// Starts a reconfigure of a VM.
    ///
    /// # Errors
    /// `Unsupported` for an empty or self-contradicting change, before anything is sent. `UnknownOutcome`: the change may
    /// still land; read the VM's devices and recent tasks.
    pub async fn reconfigure(&self, vm: &MoRef, spec: &Reconfigure) -> Result<MoRef, Error> {
        check(&spec.change).map_err(|why| Error::new(ErrorKind::Unsupported, OP, why))?;
        let request = Request::new(OP, Effect::Mutation, vm, |w| {
            w.nest("spec", |w| {
                if let Some(version) = &spec.change_version {
                    w.text("changeVersion", version);
                }
                match &spec.change {
                    DeviceChanges::Add(disks) => disks.iter().for_each(|d| add(w, d)),
                    DeviceChanges::Remove(disks) => disks.iter().for_each(|d| remove(w, d)),
                    DeviceChanges::AddController(controller) => add_controller(w, *controller),
                }
            });
        });
        self.session.start_task(&request).await
    }
}

fn check(change: &DeviceChanges) -> Result<(), String> {
    let mut keys: Vec<i32> = match change {
        DeviceChanges::Add(disks) => disks.iter().map(|d| d.temp_key).collect(),
        DeviceChanges::Remove(disks) => disks.iter().map(|d| d.key).collect(),
        DeviceChanges::AddController(AddController { bus }) if (0..MAX_SCSI_BUSES).contains(bus) => return Ok(()),
        DeviceChanges::AddController(AddController { bus }) => return Err(format!("there is no SCSI bus {bus}")),
    };
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    if count == 0 {
        return Err("no device change".to_owned());
    }
    if keys.len() != count {
        return Err("two changes with one device key".to_owned());
    }
    let DeviceChanges::Add(disks) = change else { return Ok(()) };
    for disk in disks {
        if disk.temp_key >= 0 {
            return Err(format!("temporary key {} is not negative", disk.temp_key));
        }
        if backing_type(&disk.backing_kind).is_none() {
            return Err(format!("a backing of kind {:?} can't be attached", disk.backing_kind));
        }
        if disk.file_name.parts().is_none() {
            return Err(format!("'{}' is not a datastore path", disk.file_name));
        }
    }
    Ok(())
}

fn backing_type(kind: &BackingKind) -> Option<&'static str> {
    Some(match kind {
        BackingKind::FlatV2 => "VirtualDiskFlatVer2BackingInfo",
        BackingKind::SeSparse => "VirtualDiskSeSparseBackingInfo",
        BackingKind::SparseV2 => "VirtualDiskSparseVer2BackingInfo",
        BackingKind::RdmVirtual => "VirtualDiskRawDiskMappingVer1BackingInfo",
        BackingKind::RdmPhysical | BackingKind::LocalPMem | BackingKind::Other(_) => return None,
    })
}

fn add(w: &mut Writer, disk: &AddDisk) {
    let Some(backing_type) = backing_type(&disk.backing_kind) else { return };
    w.nest("deviceChange", |w| {
        w.text("operation", "add");
        w.typed("device", "VirtualDisk", |w| {
            w.value("key", disk.temp_key);
            w.typed("backing", backing_type, |w| {
                w.text("fileName", disk.file_name.as_str());
                if let Some(datastore) = &disk.datastore {
                    w.moref("datastore", datastore);
                }
                w.text("diskMode", "independent_nonpersistent");
            });
            w.value("controllerKey", disk.controller_key);
            w.value("unitNumber", disk.unit);
            w.value("capacityInKB", disk.capacity_bytes / 1024);
        });
    });
}

fn remove(w: &mut Writer, disk: &RemoveDisk) {
    w.nest("deviceChange", |w| {
        w.text("operation", "remove");
        w.echo("device", &disk.raw);
    });
}

fn add_controller(w: &mut Writer, controller: AddController) {
    w.nest("deviceChange", |w| {
        w.text("operation", "add");
        w.typed("device", "ParaVirtualSCSIController", |w| {
            w.value("key", -1);
            w.value("controllerKey", PCI_CONTROLLER);
            w.value("busNumber", controller.bus);
            w.text("sharedBus", "noSharing");
        });
    });
}
