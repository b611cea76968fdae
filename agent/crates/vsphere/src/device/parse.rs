//! Devices from the wire. Source: vSphere API 8.0, VirtualDevice and its descendants.

use std::sync::Arc;

use super::{
    Backing, BackingKind, BackingPath, Device, Disk, KeyId, OtherController, OtherControllerKind, ScsiController,
    ScsiKind,
};
use crate::xml::{Node, Shape};

/// The unit of a SCSI controller on its own bus when the server does not tell.
const DEFAULT_CONTROLLER_UNIT: u32 = 7;

/// Reads an `ArrayOfVirtualDevice`.
pub(crate) fn devices(array: &Node) -> Result<Vec<Device>, Shape> {
    array.children.iter().map(device).collect()
}

fn device(node: &Node) -> Result<Device, Shape> {
    let key = node.need("key")?;
    let type_name = node.type_name();
    if type_name == "VirtualDisk" {
        return Ok(Device::Disk(disk(node)?));
    }
    if let Some(kind) = scsi_kind(type_name, node) {
        return Ok(Device::ScsiController(scsi(node, key, kind)?));
    }
    if let Some(bus) = node.opt("busNumber")? {
        return Ok(Device::OtherController(OtherController { key, bus, kind: other_kind(type_name) }));
    }
    if let Some(mac) = node.child("macAddress") {
        let mac = Some(mac.text.clone()).filter(|m| !m.is_empty());
        let network = node.child("backing").and_then(|backing| backing.string("deviceName"));
        return Ok(Device::Nic { key, mac, type_name: type_name.to_owned(), network });
    }
    let type_name = if type_name.is_empty() { "VirtualDevice" } else { type_name };
    Ok(Device::Other { key, type_name: type_name.to_owned() })
}

fn scsi_kind(type_name: &str, node: &Node) -> Option<ScsiKind> {
    Some(match type_name {
        "ParaVirtualSCSIController" => ScsiKind::Pvscsi,
        "VirtualLsiLogicController" => ScsiKind::LsiLogic,
        "VirtualLsiLogicSASController" => ScsiKind::LsiSas,
        "VirtualBusLogicController" => ScsiKind::BusLogic,
        // Only SCSI controllers share a bus and take a unit on it.
        other if node.child("scsiCtlrUnitNumber").is_some() => ScsiKind::Other(other.to_owned()),
        _ => return None,
    })
}

fn scsi(node: &Node, key: i32, kind: ScsiKind) -> Result<ScsiController, Shape> {
    let pci_slot = node.child("slotInfo").map(|s| s.opt("pciSlotNumber")).transpose()?.flatten();
    Ok(ScsiController {
        key,
        bus: node.need("busNumber")?,
        kind,
        // VMware writes -1 for "not assigned yet".
        pci_slot: pci_slot.and_then(|n: i64| u32::try_from(n).ok()),
        own_unit: node.opt("scsiCtlrUnitNumber")?.unwrap_or(DEFAULT_CONTROLLER_UNIT),
        shared_bus: node.string("sharedBus"),
    })
}

fn other_kind(type_name: &str) -> OtherControllerKind {
    match type_name {
        "VirtualIDEController" => OtherControllerKind::Ide,
        "VirtualAHCIController" | "VirtualSATAController" => OtherControllerKind::Sata,
        "VirtualNVMEController" => OtherControllerKind::Nvme,
        other => OtherControllerKind::Other(other.to_owned()),
    }
}

fn disk(node: &Node) -> Result<Disk, Shape> {
    Ok(Disk {
        key: node.need("key")?,
        label: node.child("deviceInfo").and_then(|d| d.string("label")),
        controller_key: node.opt("controllerKey")?,
        unit: node.opt("unitNumber")?,
        capacity_bytes: capacity(node)?,
        // Optional in the schema: a disk without one stays visible, as a kind that can't be attached.
        backing: backing(node.child("backing").unwrap_or(&Node::default()))?,
        v_disk_id: node.child("vDiskId").and_then(|d| d.string("id")),
        io_filters: node.all("iofilter").map(|n| n.text.clone()).collect(),
        raw: Arc::new(node.clone()),
    })
}

/// `capacityInBytes` is exact; `capacityInKB` is the older, always present field.
fn capacity(node: &Node) -> Result<u64, Shape> {
    if let Some(bytes) = node.opt("capacityInBytes")? {
        return Ok(bytes);
    }
    let kib: u64 = node.need("capacityInKB")?;
    kib.checked_mul(1024).ok_or_else(|| Shape(format!("capacityInKB {kib} overflows")))
}

fn backing(node: &Node) -> Result<Backing, Shape> {
    let compatibility_mode = node.string("compatibilityMode");
    let file = node.str("fileName").or_else(|| node.str("descriptorFileName")).unwrap_or_default();
    Ok(Backing {
        kind: backing_kind(node.type_name(), compatibility_mode.as_deref()),
        file_name: BackingPath::new(file),
        datastore: node.child("datastore").filter(|d| !d.text.is_empty()).map(Node::moref).transpose()?,
        uuid: node.string("uuid"),
        content_id: node.string("contentId"),
        change_id: node.string("changeId"),
        disk_mode: node.string("diskMode"),
        sharing: node.string("sharing"),
        thin: node.flag("thinProvisioned")?,
        key_id: node.child("keyId").and_then(key_id),
        parent: node.child("parent").map(|p| backing_of_parent(p, node)).transpose()?.map(Box::new),
        compatibility_mode,
    })
}

/// A parent has the type of its child when it carries none of its own.
fn backing_of_parent(parent: &Node, child: &Node) -> Result<Backing, Shape> {
    let mut below = backing(parent)?;
    if parent.xsi_type.is_none() {
        below.kind = backing_kind(child.type_name(), below.compatibility_mode.as_deref());
    }
    Ok(below)
}

fn backing_kind(type_name: &str, compatibility_mode: Option<&str>) -> BackingKind {
    match (type_name, compatibility_mode) {
        ("VirtualDiskFlatVer2BackingInfo", _) => BackingKind::FlatV2,
        ("VirtualDiskSeSparseBackingInfo", _) => BackingKind::SeSparse,
        ("VirtualDiskSparseVer2BackingInfo", _) => BackingKind::SparseV2,
        ("VirtualDiskRawDiskMappingVer1BackingInfo", Some("virtualMode")) => BackingKind::RdmVirtual,
        // An RDM of unknown mode is treated as the one that can't be snapshotted.
        ("VirtualDiskRawDiskMappingVer1BackingInfo", _) => BackingKind::RdmPhysical,
        ("VirtualDiskLocalPMemBackingInfo", _) => BackingKind::LocalPMem,
        (other, _) => BackingKind::Other(other.to_owned()),
    }
}

/// Reads a `CryptoKeyId`.
pub(crate) fn key_id(node: &Node) -> Option<KeyId> {
    let id = node.string("keyId")?;
    Some(KeyId { id, provider: node.child("providerId").and_then(|p| p.string("id")) })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
