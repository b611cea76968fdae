//! What of the VM's own configuration lies beside its disks, so that an export can give it back. Only what an importable
//! description of a VM needs; nothing of hosts, folders or networks.
use serde::{Deserialize, Serialize};

/// Hardware of the VM as of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Virtual CPUs.
    pub cpus: u32,
    pub memory_mib: u64,
    /// VirtualMachineConfigInfo.guestId, "debian12_64Guest"; empty if unknown.
    #[serde(default)]
    pub guest_id: String,
    #[serde(default)]
    pub firmware: Firmware,
    /// VirtualMachineConfigInfo.version, "vmx-19"; empty if unknown.
    #[serde(default)]
    pub hardware_version: String,
    /// Controllers that hold disks.
    pub controllers: Vec<ControllerRecord>,
    /// Where each disk is.
    pub disks: Vec<UnitRecord>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    #[default]
    Bios,
    Efi,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// VirtualDevice.key, e.g. 1000.
    pub key: i32,
    pub kind: ControllerKind,
    pub bus: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControllerKind {
    Pvscsi,
    Lsilogic,
    LsilogicSas,
    Buslogic,
    Ide,
    Sata,
    Nvme,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// VirtualDevice.key of the disk.
    pub device_key: i32,
    pub controller_key: i32,
    pub unit: u32,
}
