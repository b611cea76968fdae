//! The inventory file: what exists at start. All fields have defaults that make a usable lab.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inventory {
    pub datacenter: String,
    pub hosts: Vec<HostSpec>,
    pub datastores: Vec<DatastoreSpec>,
    pub vms: Vec<VmSpec>,
    /// The privileges of the user's role; None is an administrator.
    pub privileges: Option<Vec<String>>,
}

impl Default for Inventory {
    fn default() -> Self {
        Inventory {
            datacenter: "DC0".into(),
            hosts: Vec::new(),
            datastores: Vec::new(),
            vms: Vec::new(),
            privileges: None,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    pub name: String,
    /// Names of the datastores that the host mounts; None is all.
    #[serde(default)]
    pub datastores: Option<Vec<String>>,
    /// AboutInfo.version and .build of the host; None: the server's API version, build 1.
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub build: Option<String>,
    /// The host is alone in a cluster with DRS; None: it is in none.
    #[serde(default)]
    pub drs: Option<DrsSpec>,
}

/// DRS of a cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrsSpec {
    pub enabled: bool,
    /// `manual`, `partiallyAutomated` or `fullyAutomated`.
    pub behavior: String,
    /// Names of VMs that are exempt, and their behavior (`disabled`: left alone).
    #[serde(default)]
    pub overrides: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DatastoreKind {
    #[default]
    Vmfs,
    Nfs3,
    Nfs41,
    Vsan,
    Vvol,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatastoreSpec {
    pub name: String,
    #[serde(default)]
    pub kind: DatastoreKind,
    /// Folder on this machine that is the datastore.
    pub dir: PathBuf,
    #[serde(default = "yes")]
    pub accessible: bool,
    /// `readWrite` or `readOnly`.
    #[serde(default = "read_write")]
    pub access_mode: String,
    /// Free bytes.
    #[serde(default = "tib")]
    pub free: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ControllerKind {
    #[default]
    Pvscsi,
    Lsilogic,
    Lsisas,
    Buslogic,
    Ide,
    Sata,
    Nvme,
}

impl ControllerKind {
    pub fn is_scsi(self) -> bool {
        matches!(self, Self::Pvscsi | Self::Lsilogic | Self::Lsisas | Self::Buslogic)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControllerSpec {
    pub kind: ControllerKind,
    pub bus: u32,
    /// None: as ESXi gives them, 160, 192, 224, 256 by bus.
    pub pci_slot: Option<u32>,
    /// True: the slot number is told only as extraConfig `scsiN.pciSlotNumber`.
    pub in_extra_config_only: bool,
    /// True: vCenter tells the slot number nowhere.
    pub no_slot: bool,
    pub sharing: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum BackingKind {
    #[default]
    Flat,
    Sesparse,
    RdmVirtual,
    RdmPhysical,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSpec {
    pub controller: ControllerKind,
    pub bus: u32,
    pub unit: Option<i32>,
    /// Bytes; default is the size of `source`, else 16 MiB.
    pub capacity: Option<u64>,
    pub path: Option<String>,
    pub uuid: Option<String>,
    pub mode: Option<String>,
    /// An existing raw file that is the flat content, used in place.
    pub source: Option<PathBuf>,
    pub backing: BackingKind,
    pub sharing: Option<String>,
    pub fcd: Option<String>,
    pub key_id: Option<String>,
    /// Names of I/O filters.
    pub io_filters: Vec<String>,
    /// The disk is a linked clone of this one: `[ds] folder/disk.vmdk` of a VM before it in the file.
    pub linked_to: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    pub name: String,
    #[serde(default)]
    pub datastore: Option<String>,
    #[serde(default)]
    pub host: Option<String>,
    /// `on` or `off`.
    #[serde(default = "on")]
    pub power: String,
    #[serde(default = "hw")]
    pub hardware_version: u32,
    #[serde(default)]
    pub uuid: Option<String>,
    #[serde(default)]
    pub instance_uuid: Option<String>,
    #[serde(default)]
    pub macs: Vec<String>,
    /// Folder `[ds] x/` that gets new deltas instead of their parents' (workingDir with snapshot.redoNotWithParent).
    #[serde(default)]
    pub working_dir: Option<String>,
    #[serde(default)]
    pub template: bool,
    #[serde(default)]
    pub extra_config: BTreeMap<String, String>,
    #[serde(default = "yes")]
    pub tools: bool,
    #[serde(default)]
    pub change_tracking: bool,
    #[serde(default)]
    pub key_id: Option<String>,
    /// None: one PVSCSI, bus 0, slot 160.
    #[serde(default)]
    pub controllers: Option<Vec<ControllerSpec>>,
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Number of snapshots that exist already and are not ours.
    #[serde(default)]
    pub snapshots: u32,
    /// runtime.faultToleranceState; None: notConfigured.
    #[serde(default)]
    pub fault_tolerance: Option<String>,
    /// In a second datacenter of this vCenter.
    #[serde(default)]
    pub elsewhere: bool,
    /// EFI firmware with secure boot; else BIOS.
    #[serde(default)]
    pub efi: bool,
    /// summary.config.product: name and version of the appliance that it is.
    #[serde(default)]
    pub product: Option<[String; 2]>,
}

fn yes() -> bool {
    true
}
fn on() -> String {
    "on".into()
}
fn hw() -> u32 {
    19
}
fn read_write() -> String {
    "readWrite".into()
}
fn tib() -> u64 {
    1 << 40
}

/// A stable UUID of `name`, first bytes as given (`42` for VMs, `6000C29` for disks).
pub fn stable_uuid(prefix: &str, name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let h = format!("{prefix}{hex}");
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..32])
}
