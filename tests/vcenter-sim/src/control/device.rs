//! Commands about the devices that the proxy's guest sees.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::command::text;
use crate::Sim;
use crate::backend::{AttachReq, Live, pci_address};
use crate::inventory::ControllerKind;
use crate::state::{Kind, Vm};
use crate::store::create_sparse;

pub(crate) async fn run(sim: &Arc<Sim>, v: &Value) -> Result<Value, String> {
    match text(v, "cmd")? {
        "devices" => devices(sim),
        "device_delete" => match &sim.backend {
            Live::Loop(b) => b.forget(text(v, "id")?).map(|()| json!({})),
            _ => Err("only the loop backend has no guest of its own".into()),
        },
        "device_rescan" => match &sim.backend {
            Live::Loop(b) => Ok(json!({"found": b.rescan(text(v, "pci_address")?)})),
            _ => Err("only the loop backend has no guest of its own".into()),
        },
        "device_remove" => remove(sim, text(v, "id")?).await,
        "backend_reconnect" => reconnect(sim, v["qmp"].as_str()).await,
        "attach_raw" => attach_raw(sim, v).await,
        "detach_raw" => sim.backend.detach_id(text(v, "id")?).await.map(|()| json!({})),
        _ => Ok(json!({"guest_writes": sim.backend.guest_writes().await?})),
    }
}

/// The proxy's machine was restarted: all disks that vCenter has on the proxy appear in the new one.
async fn reconnect(sim: &Arc<Sim>, qmp: Option<&str>) -> Result<Value, String> {
    let Live::Qemu(b) = &sim.backend else { return Err("only the qemu backend connects".into()) };
    b.reconnect(qmp.map(std::path::Path::new)).await?;
    let hot_plugged: Vec<(u32, u32)> = {
        let s = sim.lock();
        let vm = sim.proxy.as_deref().and_then(|p| s.find_vm(p)).and_then(|id| s.vms.get(&id)).ok_or("no backend")?;
        vm.devices.iter().filter_map(|d| d.kind.hot_plugged()).collect()
    };
    for (bus, slot) in hot_plugged {
        b.add_controller(bus, slot).await?;
    }
    let attached = crate::attach_boot_disks(sim).await.map_err(|e| format!("{e:#}"))?;
    Ok(json!({"attached": attached}))
}

/// Surprise removal: the guest loses the device, vCenter's device list stays.
async fn remove(sim: &Sim, id: &str) -> Result<Value, String> {
    match &sim.backend {
        Live::None => return Err("no backend".into()),
        Live::Loop(b) => b.forget(id)?,
        Live::Qemu(b) => b.remove_device(id).await?,
    }
    Ok(json!({}))
}

fn devices(sim: &Sim) -> Result<Value, String> {
    let s = sim.lock();
    let proxy = sim.proxy.as_deref().and_then(|p| s.find_vm(p)).ok_or("no backend")?;
    let vm = s.vm(&proxy).map_err(|f| f.text)?;
    // A slot that vCenter tells wrongly is there too, with a host of its own: else nobody could believe it.
    let places = vm.devices.iter().flat_map(|d| match d.kind {
        Kind::Controller { kind, pci_slot, guest_slot, .. } => [pci_slot, guest_slot].map(|slot| (kind, slot)),
        _ => [(ControllerKind::Ide, None); 2],
    });
    let places: Vec<(ControllerKind, u32)> = places.filter_map(|(kind, slot)| Some((kind, slot?))).collect();
    let slot = |(_, slot): &(_, u32)| json!({"slot": slot, "pci_address": pci_address(*slot)});
    let hosts = places.iter().filter(|(kind, _)| kind.is_scsi());
    let hosts: Vec<String> = hosts.map(|(_, slot)| format!("{}.0", pci_address(*slot))).collect();
    let slots: Vec<Value> = places.iter().map(slot).collect();
    Ok(json!({"slots": slots, "hosts": hosts, "dmi": dmi(vm), "devices": sim.backend.devices()}))
}

/// What the guest's firmware tells: product_serial in vCenter's byte order, product_uuid swapped from hardware version 13 on.
fn dmi(vm: &Vm) -> Value {
    let hex: String = vm.uuid.chars().filter(|c| *c != '-').collect::<String>().to_lowercase();
    let bytes: Vec<&str> = (0..16).filter_map(|i| hex.get(i * 2..i * 2 + 2)).collect();
    let serial = if bytes.len() == 16 {
        format!("VMware-{}-{}", bytes[..8].join(" "), bytes[8..].join(" "))
    } else {
        "VMware-".into()
    };
    let swapped = |r: std::ops::Range<usize>| {
        bytes.get(r).map(|b| b.iter().rev().copied().collect::<String>()).unwrap_or_default()
    };
    let plain = |r: std::ops::Range<usize>| bytes.get(r).map(|b| b.concat()).unwrap_or_default();
    let head = if vm.hardware_version >= 13 {
        format!("{}-{}-{}", swapped(0..4), swapped(4..6), swapped(6..8))
    } else {
        format!("{}-{}-{}", plain(0..4), plain(4..6), plain(6..8))
    };
    let macs: Vec<&str> = vm
        .devices
        .iter()
        .filter_map(|d| if let Kind::Nic { mac } = &d.kind { Some(mac.as_str()) } else { None })
        .collect();
    json!({"sys_vendor": "VMware, Inc.", "product_serial": serial, "product_uuid": format!("{head}-{}-{}", plain(8..10), plain(10..16)), "macs": macs})
}

/// A device that vCenter knows nothing of.
async fn attach_raw(sim: &Arc<Sim>, v: &Value) -> Result<Value, String> {
    let bus = u32::try_from(v["bus"].as_u64().unwrap_or(0)).unwrap_or(0);
    let n = sim.lock().next();
    let id = v["id"].as_str().map(str::to_owned).unwrap_or_else(|| format!("raw{n}"));
    let image = match v["file"].as_str() {
        Some(f) => PathBuf::from(f),
        None => {
            let f = sim.work.join(format!("{id}.raw"));
            create_sparse(&f, v["size"].as_u64().ok_or("file or size missing")?).map_err(|e| e.to_string())?;
            f
        }
    };
    let len = std::fs::metadata(&image).map_err(|e| e.to_string())?.len();
    let slot = {
        let s = sim.lock();
        let vm = sim.proxy.as_deref().and_then(|p| s.find_vm(p)).and_then(|id| s.vms.get(&id)).ok_or("no backend")?;
        vm.devices.iter().find_map(|d| match d.kind {
            Kind::Controller { kind, bus: b, pci_slot, guest_slot, .. } if b == bus && kind.is_scsi() => {
                guest_slot.or(pci_slot)
            }
            _ => None,
        })
    };
    let req = AttachReq {
        vm: "raw".into(),
        key: 0,
        bus,
        pci_slot: slot,
        unit: i32::try_from(v["unit"].as_i64().ok_or("unit missing")?).unwrap_or(0),
        uuid: v["uuid"].as_str().map(str::to_owned),
        size: v["size"].as_u64().unwrap_or(len),
        flattened: false,
        image,
        layers: Vec::new(),
        nonpersistent: true,
        path: "raw".into(),
        fault: None,
    };
    match &sim.backend {
        Live::None => return Err("no backend".into()),
        Live::Loop(b) => b.attach_id(&id, &req).await?,
        Live::Qemu(b) => b.attach_id(&id, &req).await?,
    }
    Ok(json!({"id": id}))
}
