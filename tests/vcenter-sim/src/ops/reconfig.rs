//! ReconfigVM_Task: all or nothing. A spec is planned on a copy of the device list, the backend moves the disks, then it is committed.

use crate::Sim;
use crate::backend::AttachReq;
use crate::fault::{Fault, Res};
use crate::inventory::{BackingKind, ControllerKind, DiskSpec, stable_uuid};
use crate::ops::{slots, space};
use crate::state::vm::controller_key_base;
use crate::state::{Device, Disk, Kind, Origin, State, Vm, now};
use crate::store::{flatten, split_path};
use crate::value::MoRef;
use crate::xml::Node;

/// Who reconfigures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Who {
    #[default]
    Client,
    /// The control command `attach_foreign`: reads beside other readers.
    Actor,
    /// The same, whatever is locked.
    Forced,
}

/// What a spec comes to.
#[derive(Debug, Default)]
struct Plan {
    who: Who,
    /// The user, if he may learn of it.
    by: Option<String>,
    devices: Vec<Device>,
    added: Vec<i32>,
    removed: Vec<i32>,
    extra: Vec<(String, String)>,
    tracking: Option<bool>,
    version: Option<String>,
    create: Vec<(String, u64)>,
    destroy: Vec<String>,
    file_operations: u64,
}

/// Privileges that the spec needs, with the object they are needed on (vSphere API 8.0, ReconfigVM_Task).
pub(crate) fn privileges(s: &State, vm: &Vm, spec: &Node) -> Vec<(MoRef, &'static str)> {
    let mut out: Vec<_> = on_vm(spec).into_iter().map(|privilege| (vm.moref(), privilege)).collect();
    for change in spec.all("deviceChange").filter(|c| c.str("operation").map(str::trim) == Some("add")) {
        let backing = change.kid("device").and_then(|device| device.kid("backing"));
        out.extend(backing.and_then(|b| b.str("fileName")).into_iter().flat_map(|path| of_file(s, vm, path)));
    }
    out
}

/// What adding a disk on this file needs beside the right to add one. UNVERIFIED: that a redo log beside an existing disk is space that is
/// allocated, and on which object Cryptographer.Access is asked for (vSphere Security 8.0: "virtual machine, host, or datastore").
fn of_file(s: &State, vm: &Vm, path: &str) -> Vec<(MoRef, &'static str)> {
    let mut out = Vec::new();
    let store = split_path(path).and_then(|(name, _)| s.datastore(name));
    out.extend(store.map(|d| (MoRef::new("Datastore", d.id.clone()), "Datastore.AllocateSpace")));
    if s.store.files.get(path).is_some_and(|file| file.key_id.is_some()) {
        out.push((vm.moref(), "Cryptographer.AddDisk"));
        let owner = s.vms.values().find(|v| v.disks().any(|(_, d)| s.store.chain(&d.path).iter().any(|p| p == path)));
        out.extend(owner.map(|owner| (owner.moref(), "Cryptographer.Access")));
    }
    out
}

fn on_vm(spec: &Node) -> Vec<&'static str> {
    let mut out = Vec::new();
    for c in spec.all("deviceChange") {
        let disk = c.kid("device").and_then(Node::xsi_type) == Some("VirtualDisk");
        out.push(match (disk, c.str("operation").map(str::trim), c.kid("fileOperation").is_some()) {
            (true, Some("add"), false) => "VirtualMachine.Config.AddExistingDisk",
            (true, Some("add"), true) => "VirtualMachine.Config.AddNewDisk",
            (true, Some("remove"), _) => "VirtualMachine.Config.RemoveDisk",
            (_, Some("edit"), _) => "VirtualMachine.Config.EditDevice",
            _ => "VirtualMachine.Config.AddRemoveDevice",
        });
    }
    if spec.kid("extraConfig").is_some() {
        out.push("VirtualMachine.Config.AdvancedConfig");
    }
    if spec.kid("changeTrackingEnabled").is_some() {
        out.push("VirtualMachine.Config.ChangeTracking");
    }
    out
}

pub(crate) async fn run(sim: &Sim, id: &str, spec: &Node, who: Who, by: Option<String>) -> Res<()> {
    let (plan, attaches, removed_anchors) = {
        let mut s = sim.lock();
        let plan = plan(&s, id, spec, Plan { who, by, ..Plan::default() })?;
        for (path, size) in &plan.create {
            s.add_file(path, &DiskSpec { capacity: Some(*size), ..DiskSpec::default() })
                .map_err(|e| Fault::vm_config(&format!("{e:#}")))?;
        }
        let pending = plan.devices.iter().filter(|d| plan.added.contains(&d.key));
        let paths: Vec<String> =
            pending.filter_map(|d| if let Kind::Disk(k) = &d.kind { Some(k.path.clone()) } else { None }).collect();
        s.vm_mut(id)?.pending = paths;
        let attaches = attaches(&mut s, sim, id, &plan)?;
        let before = s.vm(id)?.devices.clone();
        let backs = requests(&mut s, sim, id, &before, &plan.removed)?;
        (plan, attaches, backs)
    };
    for (bus, slot) in controllers(sim, id, &plan) {
        sim.backend.add_controller(bus, slot).await.map_err(|e| Fault::vm_config(&e))?;
    }
    if let Err(e) = move_disks(sim, id, &plan.removed, &attaches, &removed_anchors).await {
        return Err(Fault::vm_config(&format!("Failed to add disk: {e}")));
    }
    commit(sim, id, plan)
}

/// Bus and slot in the guest of the controllers that a plan adds to the proxy.
fn controllers(sim: &Sim, id: &str, plan: &Plan) -> Vec<(u32, u32)> {
    if !sim.is_proxy(&sim.lock(), id) {
        return Vec::new();
    }
    let added = plan.devices.iter().filter(|d| plan.added.contains(&d.key));
    added.filter_map(|d| d.kind.hot_plugged()).collect()
}

/// Removes, then adds; what was done is undone when one fails.
async fn move_disks(
    sim: &Sim,
    id: &str,
    removed: &[i32],
    attaches: &[AttachReq],
    backs: &[AttachReq],
) -> Result<(), String> {
    for key in removed {
        sim.backend.detach(id, *key).await?;
    }
    let mut done = Vec::new();
    for req in attaches {
        let prepared = prepare(req).await;
        let result = match prepared {
            Ok(()) => sim.backend.attach(req).await,
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            for key in done {
                sim.backend.detach(id, key).await.ok();
            }
            for back in backs {
                sim.backend.attach(back).await.ok();
            }
            return Err(e);
        }
        done.push(req.key);
    }
    Ok(())
}

/// A chain deeper than its base becomes one raw file.
async fn prepare(req: &AttachReq) -> Result<(), String> {
    if req.layers.len() < 2 {
        return Ok(());
    }
    let (layers, out) = (req.layers.clone(), req.image.clone());
    let done = tokio::task::spawn_blocking(move || flatten(&layers, &out)).await;
    done.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn attaches(s: &mut State, sim: &Sim, id: &str, plan: &Plan) -> Res<Vec<AttachReq>> {
    requests(s, sim, id, &plan.devices, &plan.added)
}

/// Backend requests for the named keys of a device list, decoy overrides applied.
pub(crate) fn requests(s: &mut State, sim: &Sim, id: &str, devices: &[Device], keys: &[i32]) -> Res<Vec<AttachReq>> {
    if !sim.is_proxy(s, id) {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for d in devices.iter().filter(|d| keys.contains(&d.key)) {
        let Kind::Disk(disk) = &d.kind else { continue };
        let place = devices.iter().find(|c| Some(c.key) == d.controller).and_then(|c| match &c.kind {
            Kind::Controller { kind, bus, pci_slot, guest_slot, .. } if kind.is_scsi() => {
                Some((*bus, guest_slot.or(*pci_slot)))
            }
            _ => None,
        });
        let (Some((bus, slot)), Some(file)) = (place, s.store.files.get(&disk.path)) else { continue };
        let layers = s.store.layers(&disk.path);
        let image = match layers.as_slice() {
            [(base, _)] => base.clone(),
            _ => sim.work.join(format!("flat-{}.raw", stable_uuid("", &format!("{id} {} {}", d.key, s.seq)))),
        };
        let mut req = AttachReq {
            vm: id.into(),
            key: d.key,
            bus,
            pci_slot: slot,
            unit: d.unit.unwrap_or(0),
            uuid: Some(file.uuid.clone()),
            size: file.capacity,
            flattened: layers.len() > 1,
            image,
            layers,
            nonpersistent: disk.nonpersistent(),
            path: disk.path.clone(),
            fault: s.disk_faults.get(&disk.path).cloned(),
        };
        if let Some(as_) = s.attach_as.remove(&disk.path) {
            req.disguise(&as_);
        }
        out.push(req);
    }
    Ok(out)
}

fn commit(sim: &Sim, id: &str, plan: Plan) -> Res<()> {
    let mut s = sim.lock();
    s.counters.file_operations += plan.file_operations;
    for path in &plan.destroy {
        for p in s.store.chain(path) {
            s.delete_file(&p)?;
        }
    }
    let vm = s.vm_mut(id)?;
    vm.devices = plan.devices;
    for (k, v) in plan.extra {
        if v.is_empty() {
            vm.extra_config.remove(&k)
        } else {
            vm.extra_config.insert(k, v)
        };
    }
    if let Some(on) = plan.tracking {
        vm.change_tracking = on;
    }
    if let Some(v) = plan.version.as_deref().and_then(|v| v.strip_prefix("vmx-")).and_then(|v| v.parse().ok()) {
        vm.hardware_version = v;
    }
    vm.change_version = now();
    vm.pending.clear();
    Ok(())
}

fn plan(s: &State, id: &str, spec: &Node, empty: Plan) -> Res<Plan> {
    let vm = s.vm(id)?;
    if let Some(v) = spec.str("changeVersion")
        && v != vm.change_version
    {
        return Err(Fault::new("ConcurrentAccess", "The object has been changed by another operation."));
    }
    if vm.template {
        return Err(Fault::new("NotSupported", "The operation is not supported on the object."));
    }
    if s.hosts.iter().any(|h| h.id == vm.host && h.in_maintenance) {
        return Err(Fault::new("InvalidState", "The operation is not allowed in the current state of the host."));
    }
    let mut p = Plan { devices: vm.devices.clone(), ..empty };
    let mut temporary: Vec<(i32, i32)> = Vec::new();
    for (index, change) in spec.all("deviceChange").enumerate() {
        let device = change.kid("device").ok_or_else(|| Fault::device("InvalidDeviceSpec", index))?;
        let operation = change.str("operation").map(str::trim).unwrap_or("");
        if change.kid("fileOperation").is_some() {
            p.file_operations += 1;
        }
        match operation {
            "add" => add(s, id, &mut p, &mut temporary, change, device, index)?,
            "remove" => remove(&mut p, change, device, index)?,
            "edit" => return Err(Fault::device("InvalidDeviceOperation", index).with("badOp", "edit")),
            _ => return Err(Fault::device("InvalidDeviceSpec", index)),
        }
    }
    for o in spec.all("extraConfig") {
        p.extra.push((o.str("key").unwrap_or("").to_owned(), o.str("value").unwrap_or("").to_owned()));
    }
    p.tracking = spec.bool("changeTrackingEnabled");
    p.version = spec.str("version").map(str::to_owned);
    Ok(p)
}

fn add(
    s: &State,
    id: &str,
    p: &mut Plan,
    temporary: &mut Vec<(i32, i32)>,
    change: &Node,
    device: &Node,
    index: usize,
) -> Res<()> {
    let given: i32 = device.int("key").unwrap_or(0);
    let key = match device.xsi_type().unwrap_or("") {
        "VirtualDisk" => add_disk(s, id, p, temporary, change, device, index)?,
        ty => add_controller(s, id, p, ty, device, index)?,
    };
    temporary.push((given, key));
    p.added.push(key);
    Ok(())
}

fn add_controller(s: &State, id: &str, p: &mut Plan, ty: &str, device: &Node, index: usize) -> Res<i32> {
    let kind = match ty {
        "ParaVirtualSCSIController" => ControllerKind::Pvscsi,
        "VirtualLsiLogicController" => ControllerKind::Lsilogic,
        "VirtualLsiLogicSASController" => ControllerKind::Lsisas,
        "VirtualBusLogicController" => ControllerKind::Buslogic,
        "VirtualAHCIController" => ControllerKind::Sata,
        "VirtualNVMEController" => ControllerKind::Nvme,
        other => {
            return Err(
                Fault::new("DeviceNotSupported", format!("Device '{other}' is not supported.")).with("device", other)
            );
        }
    };
    let bus: u32 = device.int("busNumber").ok_or_else(|| Fault::device("InvalidDeviceSpec", index))?;
    slots::controller_bus(&p.devices, kind, bus, index)?;
    let key = controller_key_base(kind) + i32::try_from(bus).unwrap_or(0);
    let running = s.vm(id)?.on;
    if running && !s.knobs.controller_hotplug {
        return Err(Fault::device("DeviceHotPlugNotSupported", index));
    }
    let real = if running { slots::hot_plug_slot(&p.devices) } else { s.profile.slot(bus).or(slots::cold_slot(bus)) };
    let told = s.knobs.told_slot.filter(|_| running);
    let (pci_slot, guest_slot) = (told.or(real), told.and(real));
    let sharing = device.str("sharedBus").map(|t| t.trim().to_owned()).unwrap_or_else(|| "noSharing".into());
    let kind = Kind::Controller { kind, bus, pci_slot, hidden_slot: false, guest_slot, sharing };
    p.devices.push(Device { key, controller: Some(100), unit: Some(3 + i32::try_from(bus).unwrap_or(0)), kind });
    Ok(key)
}

fn add_disk(
    s: &State,
    id: &str,
    p: &mut Plan,
    temporary: &[(i32, i32)],
    change: &Node,
    device: &Node,
    index: usize,
) -> Res<i32> {
    let vm = s.vm(id)?;
    let wanted: i32 = device.int("controllerKey").ok_or_else(|| Fault::device("InvalidDeviceSpec", index))?;
    let ctl = temporary.iter().find(|(t, _)| *t == wanted && wanted < 0).map(|(_, k)| *k).unwrap_or(wanted);
    let kind = p.devices.iter().find(|d| d.key == ctl).and_then(|d| match d.kind {
        Kind::Controller { kind, .. } => Some(kind),
        _ => None,
    });
    let kind = kind.ok_or_else(|| Fault::device("InvalidController", index).with("controllerKey", wanted))?;
    let unit = slots::place(vm, &p.devices, ctl, kind, device.int("unitNumber"), index)?;
    let backing = device.kid("backing").ok_or_else(|| Fault::device("InvalidDeviceBacking", index))?;
    let path = backing.str("fileName").unwrap_or("").to_owned();
    let mode = backing.str("diskMode").map(|m| m.trim().to_owned()).unwrap_or_else(|| "persistent".into());
    const MODES: [&str; 6] =
        ["persistent", "nonpersistent", "undoable", "independent_persistent", "independent_nonpersistent", "append"];
    if !MODES.contains(&mode.as_str()) {
        return Err(Fault::device("InvalidDeviceBacking", index));
    }
    let create = change.str("fileOperation").map(str::trim) == Some("create");
    if create {
        p.create.push((path.clone(), device.int::<u64>("capacityInKB").unwrap_or(0) * 1024));
    } else {
        check_file(s, id, p, backing, device, &path, &mode, index)?;
    }
    let bus = p.devices.iter().find(|d| d.key == ctl).and_then(|d| match d.kind {
        Kind::Controller { bus, .. } => Some(bus),
        _ => None,
    });
    let key = s.disk_key(&p.devices, kind, bus.unwrap_or(0), unit);
    let redo = mode.contains("nonpersistent").then(|| s.profile.redo(&path, key));
    let sharing = backing.str("sharing").map(|t| t.trim().to_owned());
    let origin = match p.who {
        _ if create => Origin::Own,
        Who::Client => Origin::Attached,
        Who::Actor | Who::Forced => Origin::Actor,
    };
    let disk = Disk { path, mode, sharing, redo, origin, by: p.by.clone() };
    p.devices.push(Device { key, controller: Some(ctl), unit: Some(unit), kind: Kind::Disk(disk) });
    Ok(key)
}

#[allow(clippy::too_many_arguments)] // one rule after the other over the same facts
fn check_file(
    s: &State,
    id: &str,
    p: &Plan,
    backing: &Node,
    device: &Node,
    path: &str,
    mode: &str,
    index: usize,
) -> Res<()> {
    let bad_path =
        || Fault::new("InvalidDatastorePath", format!("Invalid datastore path '{path}'.")).with("datastorePath", path);
    let (ds_name, _) = split_path(path).ok_or_else(bad_path)?;
    let Some(ds) = s.datastore(ds_name) else {
        return Err(Fault::new("InvalidDatastore", format!("Invalid datastore '{ds_name}'.")).with("name", ds_name));
    };
    let vm = s.vm(id)?;
    let me = MoRef::new("Datastore", ds.id.clone());
    if backing.kid("datastore").is_some_and(|d| d.text.trim() != ds.id) {
        return Err(Fault::new("InvalidDatastore", "datastore and path disagree")
            .with("datastore", me)
            .with("name", ds_name));
    }
    if !ds.accessible || !s.host_sees(&vm.host, ds_name) {
        return Err(Fault::new("InaccessibleDatastore", format!("Unable to access datastore '{ds_name}'."))
            .with("datastore", me)
            .with("name", ds_name));
    }
    let Some(file) = s.store.files.get(path) else {
        return Err(Fault::new("FileNotFound", format!("File {path} was not found")).with("file", path));
    };
    if ds.access_mode != "readWrite" {
        // Even a nonpersistent disk needs a redo log beside its base.
        return Err(Fault::new("CannotAccessFile", format!("Unable to access file {path}")).with("file", path));
    }
    let kb: u64 = device.int("capacityInKB").unwrap_or(0);
    if kb != 0 && kb != file.capacity / 1024 {
        return Err(Fault::device("InvalidDeviceSpec", index));
    }
    if file.backing == BackingKind::RdmPhysical {
        return Err(Fault::device("InvalidDeviceBacking", index));
    }
    if file.key_id.is_some() && vm.key_id.is_none() {
        return Err(Fault::vm_config("The virtual machine is not encrypted; an encrypted disk can't be attached."));
    }
    space::check(s, path, s.knobs.need_attach)?;
    let nonpersistent = mode.contains("nonpersistent");
    let twice =
        p.devices.iter().any(|d| matches!(&d.kind, Kind::Disk(k) if s.store.chain(&k.path).iter().any(|f| f == path)));
    if twice {
        return Err(Fault::device("InvalidDeviceSpec", index));
    }
    if p.who == Who::Forced {
        return Ok(());
    }
    if s.write_locked(path, id) {
        return Err(s.locked_fault(path));
    }
    // A file in use elsewhere: another VM's disk, or the parent of one. Reading below a running VM's delta is what HotAdd does.
    let held = s.vms.values().filter(|v| v.id != id).any(|v| {
        let nonpersistent_holder =
            v.disks().any(|(_, d)| d.nonpersistent() && d.path == path) || v.pending.iter().any(|x| x == path);
        nonpersistent_holder && !s.knobs.shared_reads && p.who == Who::Client
    });
    let parent_of_open = !s.holders(path, id).is_empty() || !s.store.children(path).is_empty();
    if held || (!nonpersistent && parent_of_open) {
        return Err(s.locked_fault(path));
    }
    Ok(())
}

fn remove(p: &mut Plan, change: &Node, device: &Node, index: usize) -> Res<()> {
    let key: i32 = device.int("key").unwrap_or(0);
    let Some(at) = p.devices.iter().position(|d| d.key == key) else {
        return Err(Fault::device("DeviceNotFound", index));
    };
    match &p.devices[at].kind {
        Kind::Disk(k) => {
            if change.str("fileOperation").map(str::trim) == Some("destroy") {
                p.destroy.push(k.path.clone());
            }
        }
        Kind::Controller { .. } if !p.devices.iter().any(|d| d.controller == Some(key)) => {}
        _ => return Err(Fault::device("InvalidDeviceOperation", index).with("badOp", "remove")),
    }
    p.devices.remove(at);
    p.removed.push(key);
    Ok(())
}

/// Requests for all disks that a proxy has already: its anchors, attached when the backend connects.
pub(crate) fn boot_requests(s: &mut State, sim: &Sim, id: &str) -> Res<Vec<AttachReq>> {
    let devices = s.vm(id)?.devices.clone();
    let keys: Vec<i32> = devices.iter().map(|d| d.key).collect();
    requests(s, sim, id, &devices, &keys)
}

/// Flattens and attaches, outside of any task.
pub(crate) async fn attach_now(sim: &Sim, req: &AttachReq) -> Result<(), String> {
    prepare(req).await?;
    sim.backend.attach(req).await
}
