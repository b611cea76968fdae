//! A VM's facts in one read. Source: vSphere API 8.0, VirtualMachine, VirtualMachineConfigInfo, VirtualMachineRuntimeInfo.

use crate::client::Client;
use crate::device::{self, Device, Disk, KeyId, ScsiController};
use crate::error::{Error, ErrorKind};
use crate::inventory::decode_name;
use crate::moref::MoRef;
use crate::property::{MissingProperty, Properties};
use crate::snapshot::{self, SnapshotTree};
use crate::xml::{Node, Shape};

const DEVICES: &str = "config.hardware.device";

pub(crate) const PATHS: &[&str] = &[
    "name",
    "parent",
    "datastore",
    "snapshot",
    "recentTask",
    "disabledMethod",
    "config.uuid",
    "config.instanceUuid",
    "config.version",
    "config.changeVersion",
    "config.template",
    "config.files.vmPathName",
    "config.keyId",
    "config.changeTrackingEnabled",
    "config.extraConfig",
    "config.hardware.device",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "runtime.question",
    "guest.toolsRunningStatus",
    "guest.toolsStatus",
    "guest.hostName",
    "guest.ipAddress",
    "guest.guestId",
];

/// Power state of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// `poweredOn`.
    On,
    /// `poweredOff`.
    Off,
    /// `suspended`.
    Suspended,
    /// VMware's word.
    Other(String),
}

/// What VMware Tools tells of the guest; all absent without Tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestInfo {
    /// Host name inside the guest.
    pub host_name: Option<String>,
    /// Primary address.
    pub ip_address: Option<String>,
    /// Operating system id.
    pub guest_id: Option<String>,
}

/// Facts of a VM at one moment. What the server did not give is `None` or empty, and named in `missing` when refused.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VmInfo {
    /// The VM.
    pub moref: MoRef,
    /// Its name, decoded (`/` instead of `%2f`).
    pub name: String,
    /// BIOS UUID, not unique.
    pub uuid: Option<String>,
    /// Instance UUID, unique within the vCenter.
    pub instance_uuid: Option<String>,
    /// 19 for `vmx-19`.
    pub hardware_version: Option<u32>,
    /// For compare-and-swap in a reconfigure.
    pub change_version: Option<String>,
    /// Power state.
    pub power_state: Option<PowerState>,
    /// `connected`, `disconnected`, `orphaned`, `inaccessible`, `invalid`.
    pub connection_state: Option<String>,
    /// Host that runs it or holds it.
    pub host: Option<MoRef>,
    /// Folder; absent inside a vApp.
    pub parent: Option<MoRef>,
    /// Whether it is a template.
    pub is_template: bool,
    /// Datastore path of its .vmx.
    pub vm_path_name: Option<String>,
    /// Key of an encrypted VM.
    pub key_id: Option<KeyId>,
    /// Change block tracking on.
    pub change_tracking_enabled: Option<bool>,
    /// Advanced settings, in the server's order.
    pub extra_config: Vec<(String, String)>,
    /// All devices; empty also when the server did not give them, see [`VmInfo::gave`].
    pub devices: Vec<Device>,
    /// Property paths that the server gave.
    given: Vec<&'static str>,
    /// Datastores that it uses.
    pub datastores: Vec<MoRef>,
    /// Its snapshots; `None` when it has none.
    pub snapshots: Option<SnapshotTree>,
    /// Methods switched off by someone, for example `RelocateVM_Task`.
    pub disabled_methods: Vec<String>,
    /// Tasks of the last ten minutes or so.
    pub recent_tasks: Vec<MoRef>,
    /// Deltas without a snapshot exist.
    pub consolidation_needed: Option<bool>,
    /// The question that the VM waits on.
    pub question: Option<String>,
    /// `guestToolsRunning`, `guestToolsNotRunning`, …
    pub tools_running_status: Option<String>,
    /// `toolsOk`, `toolsNotInstalled`, …
    pub tools_status: Option<String>,
    /// From VMware Tools.
    pub guest: GuestInfo,
    /// Properties that the server refused to give, with the reason (`NoPermission` names the privilege).
    pub missing: Vec<MissingProperty>,
}

impl VmInfo {
    /// Its disks.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.devices.iter().filter_map(Device::as_disk)
    }

    /// Its SCSI controllers.
    pub fn scsi_controllers(&self) -> impl Iterator<Item = &ScsiController> {
        self.devices.iter().filter_map(Device::as_scsi_controller)
    }

    /// Whether the server gave this property. Most are absent when they are unset as well as when they can't be read;
    /// [`VmInfo::missing`] tells the latter, but a VM whose host is gone may lack `config` without a word.
    pub fn gave(&self, path: &str) -> bool {
        self.given.contains(&path)
    }

    /// An advanced setting; VMware compares these keys without regard to case.
    pub fn extra(&self, key: &str) -> Option<&str> {
        self.extra_config.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }
}

impl Client {
    /// Reads a VM's facts.
    ///
    /// # Errors
    /// `Fault(ManagedObjectNotFound)` when it does not exist; properties without permission are no error but `missing`.
    pub async fn vm(&self, vm: &MoRef) -> Result<VmInfo, Error> {
        let props = self.properties(vm, PATHS).await?;
        vm_info(props).map_err(|e| Error::shape("RetrievePropertiesEx", e))
    }
}

/// The disks of one of many VMs.
#[derive(Debug)]
#[non_exhaustive]
pub struct VmDisks {
    /// The VM.
    pub vm: MoRef,
    /// Its name; empty when the server does not show it.
    pub name: String,
    /// Its disks. A VM whose devices the server does not show (orphaned, no permission) has an error that names it: who asks
    /// this looks for holders of a file, and one that can't be seen is not one that is not there.
    pub disks: Result<Vec<Disk>, Error>,
}

impl Client {
    /// Reads name and disks of many VMs in as few calls as the server's pages allow; a VM that is gone is left out.
    ///
    /// A fault of a whole read is looked for by halves: one VM that makes the server refuse costs only itself.
    ///
    /// # Errors
    /// Whatever is no answer about a VM: then nothing is known of any.
    pub async fn vm_disks(&self, vms: &[MoRef]) -> Result<Vec<VmDisks>, Error> {
        let mut found = Vec::new();
        let mut open = vec![vms];
        while let Some(some) = open.pop() {
            match (self.properties_of(some, &["name", DEVICES]).await, some) {
                (Ok(all), _) => found.extend(all.into_iter().map(disks_of)),
                (Err(e), _) if e.fault().is_none() || e.is_not_authenticated() || e.is_not_found() => return Err(e),
                (Err(e), [vm]) => found.push(VmDisks { vm: vm.clone(), name: String::new(), disks: Err(e) }),
                (Err(_), many) => {
                    let (left, right) = many.split_at(many.len() / 2);
                    open.extend([right, left]);
                }
            }
        }
        Ok(found)
    }
}

fn disks_of(p: Properties) -> VmDisks {
    let name = p.get("name").map(|n| decode_name(&n.text)).unwrap_or_default();
    VmDisks { vm: p.object.clone(), disks: shown_disks(p, &name), name }
}

fn shown_disks(p: Properties, name: &str) -> Result<Vec<Disk>, Error> {
    let op = "RetrievePropertiesEx";
    let Some(array) = p.get(DEVICES) else {
        let context = format!("{} '{name}' does not show its devices", p.object);
        let refused = p.missing.into_iter().find(|m| DEVICES.starts_with(&m.path));
        return Err(match refused {
            Some(refused) => Error::new(ErrorKind::Fault(Box::new(refused.fault)), op, context),
            None => Error::protocol(op, context),
        });
    };
    let devices = device::devices(array).map_err(|e| Error::shape(op, e))?;
    let disks = devices.into_iter().filter_map(|d| match d {
        Device::Disk(disk) => Some(disk),
        _ => None,
    });
    Ok(disks.collect())
}

pub(crate) fn vm_info(p: Properties) -> Result<VmInfo, Shape> {
    Ok(VmInfo {
        name: p.get("name").map(|n| decode_name(&n.text)).unwrap_or_default(),
        uuid: p.string("config.uuid"),
        instance_uuid: p.string("config.instanceUuid"),
        hardware_version: p.get("config.version").and_then(|v| v.text.strip_prefix("vmx-")?.parse().ok()),
        change_version: p.string("config.changeVersion"),
        power_state: p.get("runtime.powerState").map(|n| power_state(&n.text)),
        connection_state: p.string("runtime.connectionState"),
        host: p.moref("runtime.host")?,
        parent: p.moref("parent")?,
        is_template: p.flag("config.template")?.unwrap_or(false),
        vm_path_name: p.string("config.files.vmPathName"),
        key_id: p.get("config.keyId").and_then(device::key_id),
        change_tracking_enabled: p.flag("config.changeTrackingEnabled")?,
        extra_config: p.get("config.extraConfig").map(options).unwrap_or_default(),
        devices: p.get("config.hardware.device").map(device::devices).transpose()?.unwrap_or_default(),
        datastores: p.morefs("datastore")?,
        snapshots: p.get("snapshot").map(snapshot::tree).transpose()?.flatten(),
        disabled_methods: p.get("disabledMethod").map(strings).unwrap_or_default(),
        recent_tasks: p.morefs("recentTask")?,
        consolidation_needed: p.flag("runtime.consolidationNeeded")?,
        question: p.get("runtime.question").and_then(|q| q.string("text")),
        tools_running_status: p.string("guest.toolsRunningStatus"),
        tools_status: p.string("guest.toolsStatus"),
        guest: GuestInfo {
            host_name: p.string("guest.hostName"),
            ip_address: p.string("guest.ipAddress"),
            guest_id: p.string("guest.guestId"),
        },
        given: PATHS.iter().copied().filter(|path| p.get(path).is_some()).collect(),
        moref: p.object,
        missing: p.missing,
    })
}

fn power_state(text: &str) -> PowerState {
    match text {
        "poweredOn" => PowerState::On,
        "poweredOff" => PowerState::Off,
        "suspended" => PowerState::Suspended,
        other => PowerState::Other(other.to_owned()),
    }
}

/// Reads an `ArrayOfOptionValue`.
fn options(node: &Node) -> Vec<(String, String)> {
    let pair = |n: &Node| Some((n.string("key")?, n.child("value").map(|v| v.text.clone()).unwrap_or_default()));
    node.children.iter().filter_map(pair).collect()
}

fn strings(node: &Node) -> Vec<String> {
    node.children.iter().map(|c| c.text.clone()).collect()
}
