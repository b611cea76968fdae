//! From vim25 types to the agent's own words, and from vim25 errors to reasons. Pure.
use hotadd_vsphere as vim;

use super::{BackingKind, ControllerFacts, ProxyDisk, ProxyFacts, TargetDisk};
use crate::{
    error::Error,
    id::{BackingPath, Moref, Slot},
    reason::{self, ReasonCode},
};

/// vSphere API 8.0, VirtualDiskMode.
const NONPERSISTENT: &str = "independent_nonpersistent";

#[must_use]
pub fn moref(reference: &vim::MoRef) -> Moref {
    Moref::new(reference.value.clone())
}

#[must_use]
pub fn vm_ref(vm: &Moref) -> vim::MoRef {
    vim::MoRef::new("VirtualMachine", vm.as_str())
}

#[must_use]
pub fn snapshot_ref(snapshot: &Moref) -> vim::MoRef {
    vim::MoRef::new("VirtualMachineSnapshot", snapshot.as_str())
}

#[must_use]
pub fn datastore_ref(datastore: &Moref) -> vim::MoRef {
    vim::MoRef::new("Datastore", datastore.as_str())
}

/// VMware's word (vSphere API 8.0, VirtualMachinePowerState).
#[must_use]
pub fn power_state(state: &vim::PowerState) -> &str {
    match state {
        vim::PowerState::On => "poweredOn",
        vim::PowerState::Off => "poweredOff",
        vim::PowerState::Suspended => "suspended",
        vim::PowerState::Other(word) => word,
    }
}

/// `busy` is asked for separately: it takes reads of tasks.
#[must_use]
pub fn proxy_facts(vm: &vim::VmInfo, busy: bool) -> ProxyFacts {
    let home = vm.vm_path_name.clone().map(|path| BackingPath::new(path).folder().to_owned()).unwrap_or_default();
    let scsi_keys: Vec<i32> = vm.scsi_controllers().map(|c| c.key).collect();
    ProxyFacts {
        moref: moref(&vm.moref),
        instance_uuid: vm.instance_uuid.clone(),
        name: vm.name.clone(),
        home,
        hardware_version: vm.hardware_version.unwrap_or(0),
        controllers: vm.scsi_controllers().map(|c| controller(c, vm)).collect(),
        disks: vm.disks().map(|disk| proxy_disk(disk, &scsi_keys)).collect(),
        busy,
    }
}

fn controller(controller: &vim::ScsiController, vm: &vim::VmInfo) -> ControllerFacts {
    let extra = || vm.extra(&format!("scsi{}.pciSlotNumber", controller.bus)).and_then(|text| text.parse().ok());
    ControllerFacts {
        key: controller.key,
        bus: controller.bus,
        kind: scsi_kind(&controller.kind),
        pvscsi: controller.kind == vim::ScsiKind::Pvscsi,
        pci_slot: controller.pci_slot.or_else(extra),
        reserved_unit: controller.own_unit,
    }
}

fn scsi_kind(kind: &vim::ScsiKind) -> String {
    match kind {
        vim::ScsiKind::Pvscsi => "pvscsi".into(),
        vim::ScsiKind::LsiLogic => "lsilogic".into(),
        vim::ScsiKind::LsiSas => "lsisas".into(),
        vim::ScsiKind::BusLogic => "buslogic".into(),
        vim::ScsiKind::Other(name) => name.clone(),
    }
}

pub(super) fn proxy_disk(disk: &vim::Disk, scsi_keys: &[i32]) -> ProxyDisk {
    let unit = disk.unit.and_then(|unit| u32::try_from(unit).ok());
    let slot = match (disk.controller_key, unit) {
        (Some(controller_key), Some(unit)) if scsi_keys.contains(&controller_key) => {
            Some(Slot { controller_key, unit })
        }
        _ => None,
    };
    ProxyDisk {
        device_key: disk.key,
        slot,
        chain: disk.backing.chain().map(|link| BackingPath::new(link.file_name.as_str())).collect(),
        uuid: disk.backing.uuid.as_deref().and_then(|uuid| uuid.parse().ok()),
        capacity_bytes: disk.capacity_bytes,
        nonpersistent: disk.backing.disk_mode.as_deref() == Some(NONPERSISTENT),
    }
}

/// `devices`: where the disk's controller is looked up.
#[must_use]
pub fn target_disk(disk: &vim::Disk, devices: &[vim::Device]) -> TargetDisk {
    let holder = disk.controller_key.and_then(|key| devices.iter().find(|device| device.key() == key));
    let bus_shared = holder
        .and_then(vim::Device::as_scsi_controller)
        .is_some_and(|c| c.shared_bus.as_deref().is_some_and(|mode| mode != "noSharing"));
    let backing = &disk.backing;
    TargetDisk {
        device_key: disk.key,
        label: disk.label.clone().unwrap_or_else(|| format!("disk {}", disk.key)),
        place: place(disk, holder),
        backing: BackingPath::new(backing.file_name.as_str()),
        backing_kind: backing_kind(&backing.kind),
        datastore: backing.datastore.as_ref().map(moref),
        datastore_name: backing.file_name.datastore().unwrap_or_default().to_owned(),
        capacity_bytes: disk.capacity_bytes,
        uuid: backing.uuid.as_deref().and_then(|uuid| uuid.parse().ok()),
        change_id: backing.change_id.clone().unwrap_or_default(),
        independent: backing.disk_mode.as_deref().is_some_and(|mode| mode.starts_with("independent")),
        shared: bus_shared || backing.sharing.as_deref() == Some("sharingMultiWriter"),
    }
}

/// `scsi0:1`.
fn place(disk: &vim::Disk, holder: Option<&vim::Device>) -> String {
    let unit = disk.unit.map_or_else(|| "?".to_owned(), |unit| unit.to_string());
    let bus = match holder {
        Some(vim::Device::ScsiController(c)) => format!("scsi{}", c.bus),
        Some(vim::Device::OtherController(c)) => match &c.kind {
            vim::OtherControllerKind::Ide => format!("ide{}", c.bus),
            vim::OtherControllerKind::Sata => format!("sata{}", c.bus),
            vim::OtherControllerKind::Nvme => format!("nvme{}", c.bus),
            vim::OtherControllerKind::Other(name) => format!("{name}{}", c.bus),
        },
        _ => "?".to_owned(),
    };
    format!("{bus}:{unit}")
}

fn backing_kind(kind: &vim::BackingKind) -> BackingKind {
    match kind {
        vim::BackingKind::FlatV2 => BackingKind::FlatV2,
        vim::BackingKind::SeSparse => BackingKind::SeSparse,
        vim::BackingKind::SparseV2 => BackingKind::SparseV2,
        vim::BackingKind::RdmVirtual => BackingKind::Other("raw device mapping, virtual".into()),
        vim::BackingKind::RdmPhysical => BackingKind::Other("raw device mapping, physical".into()),
        vim::BackingKind::LocalPMem => BackingKind::Other("persistent memory".into()),
        vim::BackingKind::Other(name) => BackingKind::Other(name.clone()),
    }
}

/// The kind for a request; only kinds that the plan lets pass come here.
#[must_use]
pub fn vim_backing_kind(kind: &BackingKind) -> vim::BackingKind {
    match kind {
        BackingKind::FlatV2 => vim::BackingKind::FlatV2,
        BackingKind::SeSparse => vim::BackingKind::SeSparse,
        BackingKind::SparseV2 => vim::BackingKind::SparseV2,
        BackingKind::Other(name) => vim::BackingKind::Other(name.clone()),
    }
}

/// An error of the client, where nothing more specific is known.
#[must_use]
pub fn error(error: vim::Error) -> Error {
    let reason = match error.kind() {
        vim::ErrorKind::Unreachable => &reason::VC_UNREACHABLE,
        vim::ErrorKind::Tls => &reason::VC_TLS,
        vim::ErrorKind::Unauthorized => &reason::VC_LOGIN,
        vim::ErrorKind::LoginHeld => &reason::VC_LOGIN_HELD,
        vim::ErrorKind::Deadline | vim::ErrorKind::Cancelled => &reason::VC_DEADLINE,
        vim::ErrorKind::UnknownOutcome | vim::ErrorKind::TaskGone => &reason::VC_UNKNOWN_OUTCOME,
        vim::ErrorKind::Fault(fault) => return fault_error(fault, &reason::VC_FAULT),
        _ => &reason::VC_PROTOCOL,
    };
    Error::new(reason, "").with_source(error)
}

/// A fault, with the reason that its type implies, else `otherwise`.
#[must_use]
pub fn fault_error(fault: &vim::Fault, otherwise: &'static ReasonCode) -> Error {
    let text = fault_text(fault);
    let error = match &fault.kind {
        vim::FaultKind::NoPermission { object, privilege } => {
            let object = object.as_ref().map_or_else(|| "an object".to_owned(), ToString::to_string);
            let privilege = privilege.as_deref().unwrap_or("a privilege");
            Error::new(&reason::VC_PRIVILEGE, format!("{privilege} on {object}"))
        }
        vim::FaultKind::RestrictedByAdministrator | vim::FaultKind::NotEnoughLicenses => {
            Error::new(&reason::VC_PRIVILEGE, text)
        }
        _ if super::batch::is_busy(fault) => Error::new(&reason::VC_BUSY, text),
        vim::FaultKind::InvalidLogin | vim::FaultKind::NotAuthenticated => Error::new(&reason::VC_LOGIN, text),
        _ => Error::new(otherwise, text),
    };
    error.with_fault(&fault.type_name)
}

/// A fault of an attach.
#[must_use]
pub fn attach_error(fault: &vim::Fault, backing: &BackingPath) -> Error {
    use vim::FaultKind as F;
    let says_locked = |text: &str| text.to_lowercase().contains("lock");
    let locked = matches!(fault.kind, F::FileLocked) || fault.fault_messages.iter().any(|m| says_locked(m));
    let reason = match &fault.kind {
        _ if locked || says_locked(&fault.message) => &reason::ATT_LOCKED,
        F::InaccessibleDatastore
        | F::CannotAccessFile
        | F::InvalidDatastore
        | F::InvalidDatastorePath
        | F::DatastoreNotWritableOnHost
        | F::InvalidDatastoreState
        | F::NoDiskSpace => &reason::ATT_DATASTORE,
        _ => &reason::ATT_FAULT,
    };
    fault_error(fault, reason).about(backing)
}

fn fault_text(fault: &vim::Fault) -> String {
    let mut texts = vec![fault.message.as_str()];
    texts.extend(fault.fault_messages.iter().map(String::as_str));
    texts.retain(|text| !text.trim().is_empty());
    texts.dedup();
    if texts.is_empty() { fault.type_name.clone() } else { format!("{} ({})", texts.join("; "), fault.type_name) }
}
