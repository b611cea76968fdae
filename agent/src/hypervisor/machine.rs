//! The hardware of a VM as a snapshot froze it, told to whoever will have to describe the VM again. Only what such a
//! description needs passes: no annotation, no advanced settings, no MAC addresses, no paths.
use hotadd_vsphere as vim;

use super::{
    convert::{error, snapshot_ref},
    vsphere::Vsphere,
};
use crate::{error::Result, id::Moref};

/// Longer than any id or name that vSphere gives (network names: 80 characters).
const LONGEST: usize = 80;

/// Hardware of a VM. Texts are short and printable; one that was not is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: u32,
    pub cores_per_socket: Option<u32>,
    pub memory_mib: u64,
    pub guest_id: String,
    /// `vmx-19`.
    pub hardware_version: String,
    /// `None`: not told.
    pub efi: Option<bool>,
    pub secure_boot: bool,
    /// Those that hold disks.
    pub controllers: Vec<Holder>,
    pub disks: Vec<Place>,
    pub adapters: Vec<Adapter>,
}

/// A controller that holds disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub key: i32,
    pub bus: u32,
    pub kind: HolderKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderKind {
    Pvscsi,
    LsiLogic,
    LsiSas,
    BusLogic,
    Ide,
    Sata,
    Nvme,
    Unknown,
}

/// Where a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub device_key: i32,
    pub controller_key: i32,
    pub unit: u32,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    pub type_name: String,
    /// Empty on a distributed switch.
    pub network: String,
}

impl Vsphere {
    pub(super) async fn read_machine(&self, snapshot: &Moref) -> Result<Machine> {
        let hardware = self.acting.snapshot_hardware(&snapshot_ref(snapshot)).await.map_err(error)?;
        let disks: Vec<Place> = hardware.devices.iter().filter_map(vim::Device::as_disk).filter_map(place).collect();
        let holds = |holder: &Holder| disks.iter().any(|disk| disk.controller_key == holder.key);
        Ok(Machine {
            cpus: hardware.cpus,
            cores_per_socket: hardware.cores_per_socket,
            memory_mib: hardware.memory_mib,
            guest_id: id(hardware.guest_id),
            hardware_version: id(hardware.version),
            efi: hardware.firmware.map(|firmware| firmware == "efi"),
            secure_boot: hardware.secure_boot == Some(true),
            controllers: hardware.devices.iter().filter_map(holder).filter(holds).collect(),
            adapters: hardware.devices.iter().filter_map(adapter).collect(),
            disks,
        })
    }
}

fn place(disk: &vim::Disk) -> Option<Place> {
    Some(Place { device_key: disk.key, controller_key: disk.controller_key?, unit: u32::try_from(disk.unit?).ok()? })
}

fn holder(device: &vim::Device) -> Option<Holder> {
    let (key, bus, kind) = match device {
        vim::Device::ScsiController(c) => (c.key, c.bus, scsi(&c.kind)),
        vim::Device::OtherController(c) => (c.key, c.bus, other(&c.kind)),
        _ => return None,
    };
    Some(Holder { key, bus: u32::try_from(bus).ok()?, kind })
}

fn scsi(kind: &vim::ScsiKind) -> HolderKind {
    match kind {
        vim::ScsiKind::Pvscsi => HolderKind::Pvscsi,
        vim::ScsiKind::LsiLogic => HolderKind::LsiLogic,
        vim::ScsiKind::LsiSas => HolderKind::LsiSas,
        vim::ScsiKind::BusLogic => HolderKind::BusLogic,
        vim::ScsiKind::Other(_) => HolderKind::Unknown,
    }
}

fn other(kind: &vim::OtherControllerKind) -> HolderKind {
    match kind {
        vim::OtherControllerKind::Ide => HolderKind::Ide,
        vim::OtherControllerKind::Sata => HolderKind::Sata,
        vim::OtherControllerKind::Nvme => HolderKind::Nvme,
        vim::OtherControllerKind::Other(_) => HolderKind::Unknown,
    }
}

fn adapter(device: &vim::Device) -> Option<Adapter> {
    let vim::Device::Nic { type_name, network, .. } = device else { return None };
    Some(Adapter { type_name: id(Some(type_name.clone())), network: name(network.clone()) })
}

/// VMware's ids are letters, digits and dashes.
fn id(text: Option<String>) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.filter(|text| text.len() <= LONGEST && text.chars().all(allowed)).unwrap_or_default()
}

/// What people named; a sign that can't be printed is left out.
fn name(text: Option<String>) -> String {
    text.unwrap_or_default().chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_short_and_printable() {
        assert_eq!(id(Some("debian12_64Guest".into())), "debian12_64Guest");
        assert_eq!(id(Some("vmx-19".into())), "vmx-19");
        assert_eq!(id(Some("a b".into())), "");
        assert_eq!(id(Some("x".repeat(LONGEST + 1))), "");
        assert_eq!(id(None), "");
        assert_eq!(name(Some("VM Network\n\u{1b}é".into())), "VM Networké");
        assert_eq!(name(Some("é".repeat(200))).chars().count(), LONGEST);
    }
}
