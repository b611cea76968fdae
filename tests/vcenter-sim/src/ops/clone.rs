//! CloneVM_Task: a powered-off copy with disks of its own. The disks' UUIDs stay, as VMware keeps them; what another VM has
//! attached to the source is copied too.

use crate::fault::{Fault, Res};
use crate::inventory::{DiskSpec, stable_uuid};
use crate::state::build::mac_of;
use crate::state::{Kind, Origin, State, now};
use crate::store::{flatten, split_path};
use crate::value::{MoRef, Val};

/// `same_uuid`: with the source's BIOS UUID and MAC addresses, as a copy made below vCenter has them.
pub(crate) fn run(s: &mut State, vm: &str, name: &str, datastore: Option<&str>, same_uuid: bool) -> Res<Val> {
    if let Some(other) = s.find_vm(name) {
        return Err(Fault::new("DuplicateName", format!("The name '{name}' already exists."))
            .with("name", name)
            .with("object", MoRef::new("VirtualMachine", other)));
    }
    let mut copy = s.vm(vm)?.clone();
    copy.id = format!("vm-{}", s.next());
    copy.name = name.to_owned();
    copy.datastore = datastore.map(str::to_owned).unwrap_or(copy.datastore);
    copy.on = false;
    copy.instance_uuid = stable_uuid("50", &format!("clone {name} {}", copy.id));
    if !same_uuid {
        copy.uuid = stable_uuid("42", &format!("clone {name} {}", copy.id));
    }
    copy.template = false;
    copy.working_dir = None;
    copy.snapshots.clear();
    copy.current = None;
    copy.next_snapshot = 1;
    copy.consolidation_needed = false;
    copy.busy = None;
    copy.pending.clear();
    copy.disabled.clear();
    copy.change_version = now();
    let uuid = copy.uuid.clone();
    for d in &mut copy.devices {
        match &mut d.kind {
            Kind::Disk(k) => {
                k.path = copy_disk(s, &k.path, &copy.datastore, name)?;
                k.origin = Origin::Own;
                k.by = None;
                k.redo = None;
                k.mode = "persistent".into();
            }
            Kind::Nic { mac } if !same_uuid => *mac = mac_of(&uuid),
            _ => {}
        }
    }
    let reference = copy.moref();
    s.vms.insert(copy.id.clone(), copy);
    Ok(Val::Ref(reference))
}

fn copy_disk(s: &mut State, top: &str, datastore: &str, name: &str) -> Res<String> {
    let chain = s.store.chain(top);
    let base = chain.last().map(String::as_str).unwrap_or(top);
    let gone = || Fault::new("FileNotFound", format!("File {top} was not found")).with("file", top);
    let file = s.store.files.get(top).cloned().ok_or_else(gone)?;
    let stem = split_path(base).map(|(_, rel)| rel.rsplit('/').next().unwrap_or(rel)).unwrap_or("disk.vmdk");
    let stem = stem.strip_suffix(".vmdk").unwrap_or(stem);
    let names = std::iter::once(format!("[{datastore}] {name}/{stem}.vmdk"))
        .chain((1..).map(|n| format!("[{datastore}] {name}/{stem}_{n}.vmdk")));
    let path = names.into_iter().find(|p| !s.store.files.contains_key(p)).ok_or_else(gone)?;
    let layers = s.store.layers(top);
    let failed = |e: String| Fault::new("SystemError", e.clone()).with("reason", e);
    let spec = DiskSpec {
        capacity: Some(file.capacity),
        uuid: Some(file.uuid),
        backing: file.backing,
        key_id: file.key_id,
        ..DiskSpec::default()
    };
    s.add_file(&path, &spec).map_err(|e| failed(format!("{e:#}")))?;
    if let Some(new) = s.store.files.get(&path) {
        flatten(&layers, &new.host).map_err(|e| failed(e.to_string()))?;
    }
    Ok(path)
}
