//! Reads a vCenter into facts: every VM in small pieces, then more of the few that have to do with an attached disk. What was not
//! given becomes a [`Blind`]; only a vCenter that does not answer at all is an error.
use std::collections::{BTreeMap, BTreeSet};

use hotadd_vsphere as vim;
use vim::MoRef;

use crate::{
    connect::{Trouble, Vcenter},
    facts::{Blind, Controller, Disk, Estate, File, Frozen, Object, Server, Snapshot, Tasks, Vm},
    marker, rules,
};

/// VMs of one answer: their devices and files stay far below what the client accepts.
const PIECE: usize = 40;
/// Most snapshots whose disks are read; vCenter supports 32 a VM.
const MOST_SNAPSHOTS: usize = 2000;

pub(crate) async fn estate(vcenter: &Vcenter) -> Result<Estate, Trouble> {
    let trouble = |e: vim::Error| Trouble::of(&e);
    let about = vcenter.about();
    let server = Server {
        name: format!("{} {} build-{}", about.name, about.version, about.build),
        instance_uuid: about.instance_uuid.clone(),
        is_vcenter: about.api_type == "VirtualCenter",
    };
    let mut estate = Estate { now: vcenter.now().await.map_err(trouble)?, server, ..Estate::default() };
    let listed = vcenter.all_vms().await.map_err(trouble)?;
    let mut more = BTreeMap::new();
    let mut stores = BTreeSet::new();
    for piece in listed.chunks(PIECE) {
        let morefs: Vec<MoRef> = piece.iter().map(|(moref, _)| moref.clone()).collect();
        let told = vcenter.survey(&morefs).await.map_err(trouble)?;
        note_silent(&mut estate, piece, &told);
        for vim::Surveyed { moref, facts } in told {
            let name = piece.iter().find(|(of, _)| *of == moref).map(|(_, name)| name.clone()).unwrap_or_default();
            match facts {
                Ok(facts) => {
                    stores.extend(facts.vm.datastores.iter().cloned());
                    more.insert(moref.value.clone(), facts.vm.recent_tasks.clone());
                    note_missing(&mut estate, &facts);
                    estate.vms.push(vm(facts));
                }
                Err(e) => estate.blind.push(blind("everything", &Object { name, moref: moref.value }, &e.to_string())),
            }
        }
    }
    let stores: Vec<MoRef> = stores.into_iter().collect();
    match vcenter.free_space(&stores).await {
        Ok(free) => estate.free = free.into_iter().collect(),
        Err(e) if e.fault().is_some() => {
            estate.blind.push(blind("free space of datastores", &Object::default(), &e.to_string()));
        }
        Err(e) => return Err(trouble(e)),
    }
    look_closer(vcenter, &mut estate, &more).await?;
    Ok(estate)
}

fn blind(what: &str, object: &Object, why: &str) -> Blind {
    Blind { what: what.to_owned(), object: object.clone(), why: why.to_owned() }
}

/// VMs that were listed a moment ago and are not in the answer.
fn note_silent(estate: &mut Estate, asked: &[(MoRef, String)], told: &[vim::Surveyed]) {
    for (moref, name) in asked.iter().filter(|(moref, _)| !told.iter().any(|t| t.moref == *moref)) {
        let object = Object { name: name.clone(), moref: moref.value.clone() };
        estate.blind.push(blind("everything", &object, "listed, but gone or not shown a moment later"));
    }
}

const DEVICES: &str = "config.hardware.device";
const POWER: &str = "runtime.powerState";
/// What each rule needs, by the property that vCenter has it in.
const NEEDED: &[(&str, &str)] = &[
    (DEVICES, "disks and controllers"),
    ("snapshot", "snapshots"),
    ("disabledMethod", "disabled methods"),
    ("runtime.consolidationNeeded", "need of consolidation"),
    ("layoutEx.file", "files and their sizes"),
    ("recentTask", "tasks"),
    (POWER, "power state"),
    ("config.uuid", "BIOS UUID"),
    ("config.files.vmPathName", "home folder"),
];

/// What was refused, and what a VM whose host is gone does not show without a word.
fn note_missing(estate: &mut Estate, facts: &vim::SurveyedVm) {
    let object = object(&facts.vm);
    for (path, what) in NEEDED {
        if let Some(missing) = facts.refused(path) {
            estate.blind.push(blind(what, &object, &missing.fault.to_string()));
        } else if [DEVICES, POWER].contains(path) && !facts.vm.gave(path) {
            let state = facts.vm.connection_state.as_deref().unwrap_or("unknown");
            estate.blind.push(blind(what, &object, &format!("not shown; connection state: {state}")));
        }
    }
    let connected = facts.vm.connection_state.as_deref().is_none_or(|state| state == "connected");
    if !connected && facts.vm.gave(DEVICES) {
        let state = facts.vm.connection_state.as_deref().unwrap_or_default();
        estate.blind.push(blind("its present state", &object, &format!("{state}: vCenter tells what it knew before")));
    }
}

fn object(vm: &vim::VmInfo) -> Object {
    Object { name: vm.name.clone(), moref: vm.moref.value.clone() }
}

fn vm(facts: vim::SurveyedVm) -> Vm {
    let snapshots = facts.refused("snapshot").is_none().then(|| snapshots(facts.vm.snapshots.as_ref()));
    let info = facts.vm;
    let home =
        info.vm_path_name.as_deref().and_then(|path| path.rsplit_once('/').map(|(folder, _)| format!("{folder}/")));
    Vm {
        object: object(&info),
        on: info.power_state == Some(vim::PowerState::On),
        home,
        address: info.guest.ip_address.clone(),
        disks: info.gave(DEVICES).then(|| info.disks().map(|d| disk(d, &info)).collect()),
        controllers: info.devices.iter().filter_map(controller).collect(),
        snapshots,
        disabled: info.disabled_methods,
        consolidation_needed: info.consolidation_needed == Some(true),
        files: facts.files.map(|all| all.into_iter().map(|f| File { name: f.name, bytes: f.size_bytes }).collect()),
        product: facts.product.map(|p| (p.name, p.version)),
        bios_uuid: info.uuid,
        instance_uuid: info.instance_uuid,
        change_version: info.change_version,
        tasks: None,
    }
}

pub(crate) fn disk(disk: &vim::Disk, vm: &vim::VmInfo) -> Disk {
    let on = vm.scsi_controllers().find(|c| Some(c.key) == disk.controller_key);
    let shared_bus = on.and_then(|c| c.shared_bus.as_deref()).is_some_and(|sharing| sharing != "noSharing");
    Disk {
        key: disk.key,
        controller_key: disk.controller_key,
        unit: disk.unit,
        chain: disk.backing.chain().map(|link| link.file_name.clone()).collect(),
        mode: disk.backing.disk_mode.clone().unwrap_or_default(),
        shared: shared_bus || disk.backing.sharing.as_deref() == Some("sharingMultiWriter"),
        uuid: disk.backing.uuid.as_deref().map(str::to_ascii_lowercase),
        capacity: disk.capacity_bytes,
        first_class: disk.v_disk_id.is_some(),
    }
}

fn controller(device: &vim::Device) -> Option<Controller> {
    match device {
        vim::Device::ScsiController(c) => Some(Controller { key: c.key, bus: c.bus, scsi: true }),
        vim::Device::OtherController(c) => Some(Controller { key: c.key, bus: c.bus, scsi: false }),
        _ => None,
    }
}

fn snapshots(tree: Option<&vim::SnapshotTree>) -> Vec<Snapshot> {
    let Some(tree) = tree else { return Vec::new() };
    let mut open: Vec<&vim::SnapshotNode> = tree.roots.iter().collect();
    let mut all = Vec::new();
    while let Some(node) = open.pop() {
        open.extend(&node.children);
        all.push(Snapshot {
            moref: node.moref.value.clone(),
            name: node.name.clone(),
            description: node.description.clone(),
            taken: node.create_time,
            current: tree.current.as_ref() == Some(&node.moref),
            marker: marker::read(&node.name, &node.description),
            frozen: None,
        });
    }
    all
}

pub(crate) fn frozen(devices: &[vim::Device]) -> Vec<Frozen> {
    let disks = devices.iter().filter_map(vim::Device::as_disk);
    let one = |disk: &vim::Disk| Frozen {
        file: disk.backing.file_name.clone(),
        uuid: disk.backing.uuid.as_deref().map(str::to_ascii_lowercase),
        capacity: disk.capacity_bytes,
        independent: disk.backing.disk_mode.as_deref().is_some_and(|mode| mode.starts_with("independent")),
    };
    disks.map(one).collect()
}

/// Snapshots of the VMs whose disks are attached elsewhere, and the tasks of both sides.
async fn look_closer(
    vcenter: &Vcenter,
    estate: &mut Estate,
    tasks: &BTreeMap<String, Vec<MoRef>>,
) -> Result<(), Trouble> {
    let (holders, owners) = rules::attached::involved(estate);
    let Estate { vms, blind: unseen, .. } = estate;
    let mut left = MOST_SNAPSHOTS;
    for at in owners.iter().copied() {
        let object = vms[at].object.clone();
        for snapshot in vms[at].snapshots.iter_mut().flatten() {
            if left == 0 {
                unseen.push(blind("disks of its snapshots", &object, "more snapshots than are read in one run"));
                break;
            }
            left -= 1;
            match vcenter.snapshot_devices(&MoRef::new("VirtualMachineSnapshot", &snapshot.moref)).await {
                Ok(devices) => snapshot.frozen = Some(frozen(&devices)),
                Err(e) if e.fault().is_some() => {
                    unseen.push(blind(&format!("disks of snapshot {}", snapshot.moref), &object, &e.to_string()));
                }
                Err(e) => return Err(Trouble::of(&e)),
            }
        }
    }
    for at in holders.union(&owners).copied() {
        let recent = tasks.get(&vms[at].object.moref).map(Vec::as_slice).unwrap_or_default();
        match vcenter.tasks(recent).await {
            Ok(all) => vms[at].tasks = Some(summary(&all)),
            Err(e) if e.fault().is_some() => unseen.push(blind("tasks", &vms[at].object.clone(), &e.to_string())),
            Err(e) => return Err(Trouble::of(&e)),
        }
    }
    Ok(())
}

pub(crate) fn summary(tasks: &[vim::TaskInfo]) -> Tasks {
    let changed = tasks.iter().filter(|t| t.description_id == "VirtualMachine.reconfigure");
    Tasks {
        running: tasks.iter().any(|task| !task.state.is_final()),
        reconfigured: changed.filter_map(|t| t.complete_time.or(t.queue_time)).max(),
    }
}
