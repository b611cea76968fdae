//! Attached disks as scsi-hd devices on the pvscsi controllers of a running QEMU guest (controller N is `pvscsiN`).
//!
//! independent_nonpersistent is a throw-away qcow2 overlay: the guest may write, the base never changes, and the writes are counted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::AttachReq;
use super::qmp::Qmp;
use crate::state::vm::FIRST_HOT_PLUG_SLOT;

const DELETED_DEADLINE: Duration = Duration::from_secs(60);
const IN_USE_RETRIES: u32 = 200;

#[derive(Debug)]
struct Entry {
    facts: Value,
    nodes: Vec<String>,
    files: Vec<PathBuf>,
    /// The device was taken out by surprise; only the bookkeeping is left.
    gone: bool,
}

#[derive(Debug)]
pub(crate) struct QemuBackend {
    qmp: Mutex<Qmp>,
    entries: std::sync::Mutex<BTreeMap<String, Entry>>,
    work: PathBuf,
    socket: PathBuf,
    /// Writes of devices that are gone already.
    writes: std::sync::atomic::AtomicU64,
    seq: std::sync::atomic::AtomicU64,
}

impl QemuBackend {
    pub(crate) async fn connect(qmp: &std::path::Path, work: PathBuf) -> Result<QemuBackend, String> {
        Ok(QemuBackend {
            qmp: Mutex::new(Qmp::connect(qmp).await?),
            entries: std::sync::Mutex::default(),
            work,
            socket: qmp.to_owned(),
            writes: 0.into(),
            seq: 0.into(),
        })
    }

    /// After the guest's QEMU was started anew: nothing of the old one is left, its redo logs go.
    pub(crate) async fn reconnect(&self, socket: Option<&std::path::Path>) -> Result<(), String> {
        let socket = socket.unwrap_or(&self.socket);
        *self.qmp.lock().await = Qmp::connect(socket).await?;
        for (_, e) in std::mem::take(&mut *self.lock()) {
            for f in e.files {
                std::fs::remove_file(f).ok();
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn devices(&self) -> Vec<Value> {
        self.lock().values().filter(|e| !e.gone).map(|e| e.facts.clone()).collect()
    }

    /// The guest has one spare port, on the first slot for controllers that come later.
    pub(crate) async fn add_controller(&self, bus: u32, slot: u32) -> Result<(), String> {
        if slot != FIRST_HOT_PLUG_SLOT {
            return Err(format!("the guest has no port on slot {slot}"));
        }
        let args = json!({"driver": "pvscsi", "id": format!("pvscsi{bus}"), "bus": "spare"});
        self.qmp.lock().await.command("device_add", args).await.map(drop)
    }

    /// Whether the machine was started with this disk: at that place, with that serial number.
    pub(crate) async fn has(&self, req: &AttachReq) -> Result<bool, String> {
        let mut qmp = self.qmp.lock().await;
        let list = qmp.command("qom-list", json!({"path": "/machine/peripheral"})).await?;
        let disks = list.as_array().into_iter().flatten().filter(|child| child["type"] == "child<scsi-hd>");
        let bus = format!("/pvscsi{}.0", req.bus);
        for name in disks.filter_map(|child| child["name"].as_str()) {
            let mut found = Vec::new();
            for property in ["parent_bus", "scsi-id", "serial"] {
                let path = format!("/machine/peripheral/{name}");
                found.push(qmp.command("qom-get", json!({"path": path, "property": property})).await?);
            }
            let here = found[0].as_str().is_some_and(|path| path.ends_with(&bus)) && found[1] == json!(req.unit);
            if here && found[2].as_str() == req.hex().as_deref() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) async fn attach(&self, req: &AttachReq) -> Result<(), String> {
        self.attach_id(&req.id(), req).await
    }

    pub(crate) async fn attach_id(&self, id: &str, req: &AttachReq) -> Result<(), String> {
        let n = self.seq.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let node = format!("sim-{n}");
        let mut files: Vec<PathBuf> = req.flattened.then(|| req.image.clone()).into_iter().collect();
        let nodes = match self.build(id, req, &node, &mut files).await {
            Ok(nodes) => nodes,
            Err(e) => {
                for f in files {
                    std::fs::remove_file(f).ok();
                }
                return Err(e);
            }
        };
        let facts = json!({
            "id": id, "bus": req.bus, "target": req.unit, "lun": 0, "serial": req.hex(), "size_bytes": req.size, "path": req.path,
        });
        self.lock().insert(id.to_owned(), Entry { facts, nodes, files, gone: false });
        Ok(())
    }

    /// Adds the nodes and the device; what was added goes again when a step fails.
    async fn build(
        &self,
        id: &str,
        req: &AttachReq,
        node: &str,
        files: &mut Vec<PathBuf>,
    ) -> Result<Vec<String>, String> {
        let graph = self.graph(req, node, files).await?;
        let mut nodes = Vec::new();
        let mut qmp = self.qmp.lock().await;
        let mut failed = None;
        for (name, args) in graph {
            if let Err(e) = qmp.command("blockdev-add", args).await {
                failed = Some(e);
                break;
            }
            nodes.push(name);
        }
        if failed.is_none() {
            let top = nodes.last().cloned().unwrap_or_default();
            failed = qmp.command("device_add", device(id, &top, req)).await.err();
        }
        match failed {
            None => Ok(nodes),
            Some(e) => {
                drop_nodes(&mut qmp, &nodes).await;
                Err(e)
            }
        }
    }

    /// Block nodes in the order to add them; the last one carries the device.
    async fn graph(
        &self,
        req: &AttachReq,
        node: &str,
        files: &mut Vec<PathBuf>,
    ) -> Result<Vec<(String, Value)>, String> {
        let len = std::fs::metadata(&req.image).map_err(|e| format!("{}: {e}", req.image.display()))?.len();
        let ro = req.nonpersistent;
        let mut protocol = json!({"driver": "file", "filename": req.image, "read-only": ro});
        let fault = req.fault.clone().unwrap_or(Value::Null);
        if let Some(sector) = fault["eio_sector"].as_u64() {
            protocol = json!({"driver": "blkdebug", "image": protocol, "read-only": ro, "inject-error": [
                {"event": "read_aio", "sector": sector, "errno": 5, "once": false, "immediately": true}]});
        }
        let mut out = Vec::new();
        let mut base = json!({"driver": "raw", "node-name": format!("{node}-base"), "read-only": ro, "file": protocol});
        if req.size < len {
            base["size"] = json!(req.size);
        }
        out.push((format!("{node}-base"), base));
        let mut top = format!("{node}-base");
        if req.nonpersistent {
            let overlay = self.work.join(format!("{node}-redo.qcow2"));
            create_overlay(&overlay, req).await?;
            files.push(overlay.clone());
            let args = json!({"driver": "qcow2", "node-name": node, "backing": top,
                "file": {"driver": "file", "filename": overlay}});
            out.push((node.to_owned(), args));
            top = node.to_owned();
        }
        if let Some(bps) = fault["bps"].as_u64() {
            let group = format!("{node}-tg");
            let limits = json!({"qom-type": "throttle-group", "id": group, "limits": {"bps-total": bps}});
            self.qmp.lock().await.command("object-add", limits).await?;
            let name = format!("{node}-slow");
            out.push((
                name.clone(),
                json!({"driver": "throttle", "node-name": name, "throttle-group": group, "file": top}),
            ));
        }
        Ok(out)
    }

    pub(crate) async fn detach(&self, id: &str) -> Result<(), String> {
        self.remove_device(id).await?;
        let Some(e) = self.lock().remove(id) else { return Ok(()) };
        let mut qmp = self.qmp.lock().await;
        drop_nodes(&mut qmp, &e.nodes).await;
        for f in e.files {
            std::fs::remove_file(f).ok();
        }
        Ok(())
    }

    /// Takes the device from the guest; block nodes stay until vCenter detaches it.
    pub(crate) async fn remove_device(&self, id: &str) -> Result<(), String> {
        if self.lock().get(id).is_none_or(|e| e.gone) {
            return Ok(());
        }
        let writes = self.writes_of(Some(id)).await?;
        let mut qmp = self.qmp.lock().await;
        let name = format!("dev-{id}");
        qmp.command("device_del", json!({"id": name})).await?;
        qmp.device_event("DEVICE_DELETED", &name, DELETED_DEADLINE).await?;
        self.writes.fetch_add(writes, std::sync::atomic::Ordering::SeqCst);
        if let Some(e) = self.lock().get_mut(id) {
            e.gone = true;
        }
        Ok(())
    }

    /// Write requests of the guest to nonpersistent disks, of all devices, those that are gone included.
    pub(crate) async fn guest_writes(&self) -> Result<u64, String> {
        Ok(self.writes_of(None).await? + self.writes.load(std::sync::atomic::Ordering::SeqCst))
    }

    async fn writes_of(&self, id: Option<&str>) -> Result<u64, String> {
        let wanted: Vec<String> = {
            let entries = self.lock();
            let live = entries.iter().filter(|(k, e)| {
                !e.gone
                    && id.is_none_or(|i| i == k.as_str())
                    && e.files.iter().any(|f| f.extension().is_some_and(|x| x == "qcow2"))
            });
            live.map(|(k, _)| format!("dev-{k}")).collect()
        };
        let stats = self.qmp.lock().await.command("query-blockstats", json!({})).await?;
        let list = stats.as_array().cloned().unwrap_or_default();
        let ours = |q: &str| wanted.iter().any(|w| q == w || q.split('/').any(|part| part == w));
        Ok(list
            .iter()
            .filter(|s| s["qdev"].as_str().is_some_and(ours))
            .filter_map(|s| s["stats"]["wr_operations"].as_u64())
            .sum())
    }

    pub(crate) async fn shutdown(&self) {
        let ids: Vec<String> = self.lock().keys().cloned().collect();
        for id in ids {
            if let Err(e) = self.detach(&id).await {
                tracing::debug!(id, error = e, "QEMU is gone or keeps the device");
            }
        }
    }
}

fn device(id: &str, node: &str, req: &AttachReq) -> Value {
    let mut args = json!({"driver": "scsi-hd", "id": format!("dev-{id}"), "bus": format!("pvscsi{}.0", req.bus), "channel": 0,
        "scsi-id": req.unit, "lun": 0, "drive": node, "vendor": "VMware", "product": "Virtual disk", "ver": "2.0", "device_id": ""});
    if let Some(hex) = req.hex() {
        // QEMU's wwn has 64 bits; the whole UUID is in the serial number (page 0x80).
        if let Some(wwn) = hex.get(..16).and_then(|h| u64::from_str_radix(h, 16).ok()) {
            args["wwn"] = json!(wwn);
        }
        args["serial"] = json!(hex);
    }
    args
}

async fn create_overlay(path: &std::path::Path, req: &AttachReq) -> Result<(), String> {
    let mut cmd = Command::new("qemu-img");
    cmd.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(req.size.to_string());
    let out = cmd.output().await.map_err(|e| format!("qemu-img: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()) }
}

/// Deletes block nodes, top first, and the throttle group of the disk. QEMU may need a moment to let go of them.
async fn drop_nodes(qmp: &mut Qmp, nodes: &[String]) {
    for node in nodes.iter().rev() {
        for _ in 0..IN_USE_RETRIES {
            match qmp.command("blockdev-del", json!({"node-name": node})).await {
                Err(e) if e.contains("in use") => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(e) => {
                    tracing::warn!(node, error = e, "block node left");
                    break;
                }
                Ok(_) => break,
            }
        }
        if let Some(base) = node.strip_suffix("-slow") {
            qmp.command("object-del", json!({"id": format!("{base}-tg")})).await.ok();
        }
    }
}
