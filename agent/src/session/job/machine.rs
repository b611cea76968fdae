//! The VM's hardware, told once after the snapshot. A description that can't be had costs no backup: why is told instead.
use hotadd_api::v1::{self, ControllerType, Firmware};

use crate::{
    error::Result,
    hypervisor::machine::{Adapter, Holder, HolderKind, Machine, Place},
};

pub(super) fn told(read: Result<Machine>) -> v1::VmConfig {
    match read {
        Ok(machine) => to_api(machine),
        Err(error) => {
            tracing::warn!(%error, "the VM's hardware can't be told");
            v1::VmConfig { unknown: Some(error.to_reason()), ..v1::VmConfig::default() }
        }
    }
}

fn to_api(machine: Machine) -> v1::VmConfig {
    let firmware = match machine.efi {
        None => Firmware::Unspecified,
        Some(false) => Firmware::Bios,
        Some(true) => Firmware::Efi,
    };
    let controller = |c: Holder| v1::VmController { key: c.key, r#type: controller_type(c.kind).into(), bus: c.bus };
    let disk = |d: Place| v1::VmDisk { device_key: d.device_key, controller_key: d.controller_key, unit: d.unit };
    let adapter = |a: Adapter| v1::VmAdapter { r#type: a.type_name, network: a.network };
    v1::VmConfig {
        unknown: None,
        cpus: machine.cpus,
        cores_per_socket: machine.cores_per_socket.unwrap_or_default(),
        memory_mib: machine.memory_mib,
        guest_id: machine.guest_id,
        hardware_version: machine.hardware_version,
        firmware: firmware.into(),
        secure_boot: machine.secure_boot,
        controllers: machine.controllers.into_iter().map(controller).collect(),
        disks: machine.disks.into_iter().map(disk).collect(),
        adapters: machine.adapters.into_iter().map(adapter).collect(),
    }
}

fn controller_type(kind: HolderKind) -> ControllerType {
    match kind {
        HolderKind::Pvscsi => ControllerType::Pvscsi,
        HolderKind::LsiLogic => ControllerType::Lsilogic,
        HolderKind::LsiSas => ControllerType::LsilogicSas,
        HolderKind::BusLogic => ControllerType::Buslogic,
        HolderKind::Ide => ControllerType::Ide,
        HolderKind::Sata => ControllerType::Sata,
        HolderKind::Nvme => ControllerType::Nvme,
        HolderKind::Unknown => ControllerType::Unspecified,
    }
}
