//! layoutEx: the files of a VM and their sizes (vSphere API 8.0, VirtualMachineFileLayoutEx).

use super::obj;
use crate::state::{Device, Kind, State, Vm};
use crate::store::Vmdk;
use crate::value::{MoRef, Obj};

/// Sizes of files that hold no disk data; nothing depends on them.
const SMALL: u64 = 4096;

/// Files get keys in the order in which they are met.
struct Files(Vec<(String, &'static str, u64)>);

impl Files {
    fn key(&mut self, name: String, kind: &'static str, size: u64) -> i32 {
        let at = self.0.iter().position(|f| f.0 == name).unwrap_or_else(|| {
            self.0.push((name, kind, size));
            self.0.len() - 1
        });
        i32::try_from(at).unwrap_or(i32::MAX)
    }

    /// Descriptor and extent.
    fn disk(&mut self, f: &Vmdk) -> Vec<i32> {
        let stem = f.path.strip_suffix(".vmdk").unwrap_or(&f.path);
        let extent = if f.parent.is_some() { format!("{stem}-delta.vmdk") } else { format!("{stem}-flat.vmdk") };
        vec![self.key(f.path.clone(), "diskDescriptor", SMALL), self.key(extent, "diskExtent", f.size())]
    }
}

pub(crate) fn layout(s: &State, vm: &Vm) -> Obj {
    let home = vm.home();
    let mut files = Files(Vec::new());
    files.key(format!("{home}{}.vmx", vm.name), "config", SMALL);
    let disks = chains(s, &vm.devices, &mut files);
    for (_, d) in vm.disks() {
        if let Some(redo) = &d.redo {
            files.key(redo.clone(), "diskExtent", SMALL);
        }
    }
    for (name, size) in &vm.strays {
        files.key(name.clone(), "diskExtent", *size);
    }
    let folder = vm.working_dir.as_deref().unwrap_or(&home).to_owned();
    let mut snapshots = Vec::new();
    for x in &vm.snapshots {
        let data = files.key(format!("{folder}{}-Snapshot{}.vmsn", vm.name, x.number), "snapshotData", SMALL);
        snapshots.push(
            obj("VirtualMachineFileLayoutExSnapshotLayout")
                .with("key", MoRef::new("VirtualMachineSnapshot", x.id.clone()))
                .with("dataKey", data)
                .with("memoryKey", -1)
                .with("disk", chains(s, &x.devices, &mut files)),
        );
    }
    let list: Vec<Obj> = (0..).zip(&files.0).map(|(key, f)| file(key, f)).collect();
    obj("VirtualMachineFileLayoutEx")
        .with("file", list)
        .with("disk", disks)
        .with("snapshot", snapshots)
        .with("timestamp", crate::state::now())
}

fn file(key: i32, (name, kind, size): &(String, &'static str, u64)) -> Obj {
    obj("VirtualMachineFileLayoutExFileInfo")
        .with("key", key)
        .with("name", name.as_str())
        .with("type", *kind)
        .with("size", *size)
        .with("uniqueSize", *size)
        .with("accessible", true)
}

/// One DiskLayout a disk: its chain, base first.
fn chains(s: &State, devices: &[Device], files: &mut Files) -> Vec<Obj> {
    let mut out = Vec::new();
    for d in devices {
        let Kind::Disk(k) = &d.kind else { continue };
        let chain = s.store.chain(&k.path);
        let links = chain.iter().rev().filter_map(|p| s.store.files.get(p));
        let units: Vec<Obj> =
            links.map(|f| obj("VirtualMachineFileLayoutExDiskUnit").with("fileKey", files.disk(f))).collect();
        out.push(obj("VirtualMachineFileLayoutExDiskLayout").with("key", d.key).with("chain", units));
    }
    out
}
