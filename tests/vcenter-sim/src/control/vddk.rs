//! A snapshot's disk as bytes, for servers that stand in for ESXi's NFC service. `vddk_open` is what VDDK does with vCenter
//! and ESXi before it reads, for the double of nbdkit's plug-in: it logs in, compares the certificate, and finds the disk;
//! texts are VDDK's, as nbdkit shows them. `snapshot_copy` asks nothing.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::command::text;
use crate::Sim;
use crate::state::{Device, Kind, State};
use crate::store::{Extents, flatten};

type Layers = Vec<(PathBuf, Option<Extents>)>;

pub(crate) async fn open(sim: &Arc<Sim>, v: &Value) -> Result<Value, String> {
    let layers = {
        let s = sim.lock();
        let path = find(&s, v)?;
        s.store.layers(&path)
    };
    copy(layers, v).await
}

/// Of the VM's youngest snapshot.
pub(crate) async fn snapshot_copy(sim: &Arc<Sim>, v: &Value) -> Result<Value, String> {
    let layers = {
        let s = sim.lock();
        let key = v["key"].as_i64().ok_or("key missing")?;
        let vm = s.find_vm(text(v, "vm")?).and_then(|id| s.vms.get(&id)).ok_or("no such VM")?;
        let snapshot = vm.snapshots.last().ok_or("the VM has no snapshot")?;
        let disk = |d: &Device| match &d.kind {
            Kind::Disk(disk) if i64::from(d.key) == key && disk.snapshotted() => Some(disk.path.clone()),
            _ => None,
        };
        let path = snapshot.devices.iter().find_map(disk).ok_or("the snapshot has no such disk")?;
        s.store.layers(&path)
    };
    copy(layers, v).await
}

async fn copy(layers: Layers, v: &Value) -> Result<Value, String> {
    let out = PathBuf::from(text(v, "out")?);
    let copy = tokio::task::spawn_blocking(move || {
        flatten(&layers, &out)?;
        std::fs::metadata(&out).map(|file| file.len())
    });
    let size = copy.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    Ok(json!({"size": size}))
}

fn find(s: &State, v: &Value) -> Result<String, String> {
    if !text(v, "thumbprint")?.eq_ignore_ascii_case(&s.thumbprint) {
        return Err("VixDiskLib_Open: Unknown error".into());
    }
    if text(v, "user")? != s.user || text(v, "password")? != s.password {
        return Err("VixDiskLib_ConnectEx: Insufficient permissions in the host operating system".into());
    }
    let none = "VixDiskLib_Open: A file was not found";
    let (vm, snapshot) = s.snapshot(text(v, "snapshot")?).map_err(|_| none)?;
    if vm.id != text(v, "vm")? {
        return Err(none.into());
    }
    let file = text(v, "file")?;
    let disk = |kind: &Kind| matches!(kind, Kind::Disk(disk) if disk.path == file && disk.snapshotted());
    snapshot.devices.iter().any(|device| disk(&device.kind)).then(|| file.to_owned()).ok_or_else(|| none.into())
}
