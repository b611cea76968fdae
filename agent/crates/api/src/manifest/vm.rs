//! What of the VM's own configuration lies beside its disks, so that an export can give it back. Only what an importable
//! description of a VM needs; nothing of hosts, folders or MAC addresses, no annotation and no advanced settings.
use serde::{Deserialize, Serialize};

/// Hardware of the VM as of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Virtual CPUs.
    pub cpus: u32,
    /// 0: unknown.
    #[serde(default)]
    pub cores_per_socket: u32,
    pub memory_mib: u64,
    /// VirtualMachineConfigInfo.guestId, "debian12_64Guest"; empty if unknown.
    #[serde(default)]
    pub guest_id: String,
    #[serde(default)]
    pub firmware: Firmware,
    /// The firmware starts signed code only.
    #[serde(default)]
    pub secure_boot: bool,
    /// EFI variables, TPM.
    #[serde(default)]
    pub nvram: Nvram,
    /// VirtualMachineConfigInfo.version, "vmx-19"; empty if unknown.
    #[serde(default)]
    pub hardware_version: String,
    /// Controllers that hold disks.
    pub controllers: Vec<ControllerRecord>,
    /// Where each disk is.
    pub disks: Vec<UnitRecord>,
    /// Network cards, for people: no address is kept.
    #[serde(default)]
    pub adapters: Vec<AdapterRecord>,
}

/// Whether the VM's NVRAM is part of the backup. vSphere's API gives it only as a file of a datastore, which is not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nvram {
    #[default]
    #[serde(rename = "not included")]
    NotIncluded,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterRecord {
    /// VMware's type name, "VirtualVmxnet3".
    pub kind: String,
    /// Empty on a distributed switch.
    #[serde(default)]
    pub network: String,
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
