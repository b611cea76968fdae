//! A VM's hardware as a snapshot froze it. Source: vSphere API 8.0, VirtualMachineSnapshot.config (VirtualMachineConfigInfo),
//! VirtualHardware, VirtualMachineBootOptions. Annotation, advanced settings and files of the VM are not asked for.

use crate::client::Client;
use crate::device::{self, Device};
use crate::error::Error;
use crate::moref::MoRef;
use crate::property::Properties;
use crate::xml::Shape;

const CPUS: &str = "config.hardware.numCPU";
const CORES: &str = "config.hardware.numCoresPerSocket";
const MEMORY: &str = "config.hardware.memoryMB";
const DEVICES: &str = "config.hardware.device";
const GUEST: &str = "config.guestId";
const VERSION: &str = "config.version";
const FIRMWARE: &str = "config.firmware";
const SECURE_BOOT: &str = "config.bootOptions.efiSecureBootEnabled";

/// Hardware of the VM as of a snapshot.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SnapshotHardware {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Cores of one virtual socket.
    pub cores_per_socket: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// VMware's id of the guest's operating system, `debian12_64Guest`.
    pub guest_id: Option<String>,
    /// `vmx-19`.
    pub version: Option<String>,
    /// `bios` or `efi`.
    pub firmware: Option<String>,
    /// Whether the firmware starts signed code only.
    pub secure_boot: Option<bool>,
    /// All devices.
    pub devices: Vec<Device>,
}

impl Client {
    /// Reads the hardware that a VM had when the snapshot was taken.
    ///
    /// # Errors
    /// CPUs, memory or devices are not shown: without them there is nothing to describe. `NoPermission` names the privilege.
    pub async fn snapshot_hardware(&self, snapshot: &MoRef) -> Result<SnapshotHardware, Error> {
        let op = "RetrievePropertiesEx";
        let paths = [CPUS, CORES, MEMORY, DEVICES, GUEST, VERSION, FIRMWARE, SECURE_BOOT];
        let p = self.properties(snapshot, &paths).await?;
        let needed = [CPUS, MEMORY, DEVICES];
        if let Some(path) = needed.into_iter().find(|path| p.get(path).is_none()) {
            let refused = p.missing.iter().find(|missing| path.starts_with(&missing.path));
            return Err(match refused {
                Some(refused) => Error::fault_of(op, refused.fault.clone()),
                None => Error::protocol(op, format!("{snapshot} shows no {path}")),
            });
        }
        hardware(&p).map_err(|e| Error::shape(op, e))
    }
}

fn hardware(p: &Properties) -> Result<SnapshotHardware, Shape> {
    let number = |path: &str| {
        let parse = |text: &str| text.parse().map_err(|_| Shape(format!("{path} is {text:?}")));
        p.string(path).map(|text| parse(&text)).transpose()
    };
    Ok(SnapshotHardware {
        cpus: number(CPUS)?.unwrap_or_default(),
        cores_per_socket: number(CORES)?,
        memory_mib: number(MEMORY)?.unwrap_or_default().into(),
        guest_id: p.string(GUEST),
        version: p.string(VERSION),
        firmware: p.string(FIRMWARE),
        secure_boot: p.flag(SECURE_BOOT)?,
        devices: p.get(DEVICES).map(device::devices).transpose()?.unwrap_or_default(),
    })
}
