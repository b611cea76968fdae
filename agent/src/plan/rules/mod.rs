//! The table of rules, in order of their codes. Each is a pure function in the file of its subject: [`disk`] (what the
//! disk is), [`place`] (where it lies), [`vm`] (whose it is), [`proxy`] (what the proxy is), [`choice`] (what is better).
pub mod choice;
pub mod disk;
pub mod place;
pub mod proxy;
pub mod tables;
pub mod vm;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use super::rule::{
    Effect,
    Origin::{Inferred, Vddk, Vsphere},
    Rule,
};
use crate::reason as r;

/// See the module.
pub static RULES: &[Rule] = &[
    Rule::new(&r::PLAN_KIND, Vsphere, "vSphere API 8.0, VirtualDevice.BackingInfo", &["disk.backing_kind"], disk::kind),
    Rule::new(&r::PLAN_INDEPENDENT, Vsphere, "vSphere API 8.0, VirtualDiskMode", &["disk.mode"], disk::independent),
    Rule::new(
        &r::PLAN_DATASTORE,
        Vsphere,
        "vSphere API 8.0, HostMountInfo; VDDK programming guide, HotAdd proxies",
        &["disk.store.mount"],
        place::mount,
    ),
    Rule::new(
        &r::PLAN_SHARED,
        Vsphere,
        "vSphere API 8.0, SnapshotIncompatibleDeviceInVm, VirtualDiskSharing",
        &["disk.sharing", "disk.controller.shared_bus"],
        disk::shared,
    ),
    Rule::new(
        &r::PLAN_NO_UUID,
        Inferred,
        "nothing in the guest could prove which device it is",
        &["disk.uuid"],
        disk::uuid,
    ),
    Rule::new(
        &r::PLAN_RDM_PHYSICAL,
        Vsphere,
        "VDDK programming guide 6.7, changed block tracking: no snapshot of physical RDMs",
        &["disk.rdm"],
        disk::rdm_physical,
    ),
    Rule::new(
        &r::PLAN_RDM_VIRTUAL,
        Inferred,
        "attaching a snapshot's RDM is unproven",
        &["disk.rdm"],
        disk::rdm_virtual,
    ),
    Rule::new(
        &r::PLAN_VSAN,
        Vddk,
        "VDDK 7.0.3 release notes, known issues; VMware KB on HotAdd and vSAN",
        &["disk.store.kind", "proxy.home.kind"],
        place::vsan,
    )
    .may_try(),
    Rule::new(
        &r::PLAN_VVOL_CLONE,
        Vddk,
        "VDDK 7.0.3 release notes, known issues: the proxy VM can become invalid",
        &["disk.store.kind", "disk.chain"],
        place::vvol_clone,
    )
    .safety_critical(Effect::NoHotAdd),
    Rule::new(
        &r::PLAN_SESPARSE,
        Vddk,
        "VMware KB on HotAdd and vSAN: fixed with vSphere 7.0",
        &["disk.backing_kind", "disk.store.kind", "proxy.home.kind", "proxy.host.build"],
        place::sesparse,
    )
    .may_try(),
    Rule::new(
        &r::PLAN_NFS3,
        Vsphere,
        "Veeam KB1681; ESXi 8.0 Update 2b (Broadcom KB 395110 for its build)",
        &["disk.store.kind", "proxy.host", "target.host"],
        place::nfs3,
    ),
    Rule::new(
        &r::PLAN_DATACENTER,
        Vsphere,
        "vSphere API 8.0, DatacenterMismatch",
        &["proxy.datacenter", "target.datacenter"],
        place::datacenter,
    ),
    Rule::new(
        &r::PLAN_VCENTER,
        Vsphere,
        "VDDK programming guide, HotAdd proxies: one connection for both",
        &["site.vcenter", "target.vcenter"],
        vm::vcenter,
    ),
    Rule::new(&r::PLAN_IDE, Vddk, "VDDK programming guide: HotAdd is for SCSI disks", &["disk.bus"], disk::ide)
        .may_try(),
    Rule::new(
        &r::PLAN_SATA_NVME,
        Inferred,
        "an open implementation attaches them to SCSI controllers on vSphere 8; older releases unproven",
        &["disk.bus"],
        disk::sata_nvme,
    ),
    Rule::new(
        &r::PLAN_ENCRYPTED,
        Vsphere,
        "vSphere Security 8.0, virtual machine encryption and backup",
        &["disk.key", "proxy.encrypted"],
        disk::encrypted,
    ),
    Rule::new(&r::PLAN_TEMPLATE, Vsphere, "vSphere API 8.0, CreateSnapshot_Task", &["target.template"], vm::template),
    Rule::new(
        &r::PLAN_FT,
        Vsphere,
        "vSphere Availability 8.0: disk-only snapshots of fault-tolerant VMs",
        &["target.fault_tolerant"],
        vm::fault_tolerant,
    ),
    Rule::new(&r::PLAN_NO_SLOT, Vsphere, "vSphere API 8.0, TooManyDevices", &["proxy.room"], proxy::room),
    Rule::new(&r::PLAN_IS_PROXY, Inferred, "its own disks would appear twice in it", &["target.moref"], vm::is_proxy),
    Rule::new(
        &r::PLAN_CHAIN,
        Inferred,
        "tools of the field stop at 28 snapshots; vSphere API 8.0, TooManySnapshotLevels",
        &["disk.chain", "site.snapshot_exists"],
        disk::chain,
    ),
    Rule::new(
        &r::PLAN_REDO_SPACE,
        Inferred,
        "vSphere API 8.0, NoDiskSpace: a nonpersistent disk writes a redo log",
        &["disk.store.free_bytes"],
        place::redo_space,
    ),
    Rule::new(
        &r::PLAN_MAINTENANCE,
        Vsphere,
        "VDDK 7.0.3 release notes: HotRemove conflicts with entering maintenance mode",
        &["proxy.host.unrest", "target.host.unrest"],
        vm::maintenance,
    ),
    Rule::new(
        &r::PLAN_IO_FILTER,
        Vddk,
        "VDDK 7.0.3 release notes: strings of NFC are limited to 256 bytes before 7.0 U3",
        &["disk.io_filters", "target.host.build"],
        choice::io_filters,
    ),
    Rule::new(
        &r::PLAN_SAN,
        Vsphere,
        "VDDK 7.0.3 release notes: no SAN mode for vSAN and vVol since 6.7",
        &["request.transport", "disk.store.kind"],
        choice::san,
    ),
    Rule::new(
        &r::PLAN_FCD,
        Vsphere,
        "vSphere API 8.0, VirtualDisk.vDiskId: a snapshot of the VM blocks the detach of the disk",
        &["disk.fcd"],
        disk::fcd,
    ),
    Rule::new(&r::PLAN_KNOWN_BAD, Vsphere, "see the table", &["target.host.build", "vddk"], tables::known_bad),
    Rule::new(
        &r::PLAN_PROXY_UUID,
        Vsphere,
        "VMware, disk.EnableUUID: without it the guest sees no UUID of a disk",
        &["proxy.enable_uuid"],
        proxy::enable_uuid,
    ),
    Rule::new(
        &r::PLAN_PROXY_SNAPSHOT,
        Inferred,
        "a proxy with snapshots writes deltas, and its chain would hold foreign disks",
        &["proxy.snapshots"],
        proxy::snapshots,
    ),
    Rule::new(
        &r::PLAN_PROXY_CBT,
        Inferred,
        "change tracking of a VM puts tracking files beside every disk that it has",
        &["proxy.change_tracking"],
        proxy::change_tracking,
    )
    .safety_critical(Effect::Refuse),
    Rule::new(
        &r::PLAN_PROXY_FT,
        Vsphere,
        "vSphere Availability: no hot plug in a fault-tolerant VM",
        &["proxy.fault_tolerant"],
        proxy::fault_tolerant,
    ),
    Rule::new(
        &r::PLAN_PROXY_DRS,
        Inferred,
        "vSphere API 8.0, ClusterDrsVmConfigInfo: a move changes which datastores are seen",
        &["proxy.drs"],
        proxy::drs,
    ),
    Rule::new(
        &r::PLAN_PROXY_SDRS,
        Inferred,
        "vSphere API 8.0, StorageDrsVmConfigInfo",
        &["proxy.storage_drs"],
        proxy::storage_drs,
    ),
    Rule::new(
        &r::PLAN_CLOUD,
        Inferred,
        "VDDK release notes, VMware Cloud on AWS: no access to hosts",
        &["config.plan.profile", "proxy.home.kind"],
        choice::cloud,
    ),
    Rule::new(
        &r::PLAN_VMC_VDDK,
        Vddk,
        "VDDK 7.0.3 release notes, VMC table",
        &["config.plan.profile", "vddk"],
        tables::vmc,
    ),
    Rule::new(&r::PLAN_COST, Inferred, "times measured at this site", &["request.bytes", "rates"], choice::cost),
];

/// The rule with this id.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id() == id)
}
