//! The virtual machine that the OVA describes: four PVSCSI controllers, each with a permanent disk, so that vSphere keeps them all and the
//! agent can tell them apart. Pure.
use hotadd_ova::{Adapter, Bus, Class, Machine, Place, Product};

use crate::properties;

pub const ANNOTATION: &str = "hotadd-proxy: reads disks of other virtual machines for backups.\n\
    Never delete this virtual machine from disk while a job runs: it may hold other VMs' disks, and vSphere deletes the disks of a VM with it.\n\
    Never remove its small disks: each keeps a SCSI controller in place.";

/// vSphere 6.5, the oldest that is supported.
const HARDWARE: &str = "vmx-13";
pub const CONTROLLERS: u32 = 4;
pub const CPUS: u32 = 4;
/// The default limit of buffers (1 GiB), the agent and the system.
pub const MEMORY_MIB: u64 = 4096;
/// Bytes of the disks that keep a controller.
pub const ANCHOR_BYTES: u64 = 8 << 20;

/// Label of the n-th disk.
#[must_use]
pub fn label(disk: u32) -> String {
    if disk == 0 { "System".to_owned() } else { format!("Anchor of SCSI controller {disk}") }
}

/// What stands at the beginning of an anchor, for whoever finds it.
#[must_use]
pub fn anchor(disk: u32) -> String {
    format!("hotadd-proxy: this disk is empty. It keeps SCSI controller {disk} in place. Do not remove it.\n")
}

/// `license`: text of the EULA.
#[must_use]
pub fn machine<'a>(version: &'a str, license: &'a str) -> Machine<'a> {
    Machine {
        name: "hotadd-proxy".to_owned(),
        info: format!("hotadd-proxy {version}"),
        guest_id: "debian10_64Guest".to_owned(),
        version: HARDWARE.to_owned(),
        cpus: CPUS,
        cores_per_socket: 0,
        memory_mib: MEMORY_MIB,
        controllers: (0..CONTROLLERS).map(|number| Bus { class: Class::Pvscsi, number }).collect(),
        places: (0..CONTROLLERS as usize).map(|controller| Place { controller, unit: 0 }).collect(),
        adapters: vec![Adapter {
            network: "Management".to_owned(),
            description: "Reaches vCenter; the controllers reach the service here".to_owned(),
        }],
        config: Vec::new(),
        // Without disk.EnableUUID the guest can't identify a disk. A proxy with change tracking of its own would track foreign disks.
        extra_config: vec![("disk.EnableUUID", "TRUE"), ("ctkEnabled", "FALSE")],
        product: Some(Product {
            class: properties::CLASS,
            name: "hotadd-proxy",
            vendor: "hotadd-proxy",
            version,
            properties: properties::ALL,
            license,
            annotation: ANNOTATION,
        }),
    }
}
