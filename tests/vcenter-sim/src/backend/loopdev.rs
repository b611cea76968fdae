//! Attached disks as loop devices of this machine, with the facts that a guest would see, for hosts without SCSI.
//! A loop device lives as long as somebody has it open: this process, or the agent. No end of either, however
//! violent, leaves one behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{AttachReq, event, pci_address};

#[derive(Debug)]
struct Entry {
    device: Value,
    _node: Node,
    letter: String,
    flattened: Option<std::path::PathBuf>,
    /// The guest deleted the device; vCenter has not detached it yet.
    forgotten: bool,
    /// Its add event was suppressed.
    hidden: bool,
}

#[derive(Debug)]
pub(crate) struct LoopBackend {
    entries: Mutex<BTreeMap<String, Entry>>,
    events: broadcast::Sender<Value>,
    suppress: AtomicBool,
    /// Past the page cache of this machine.
    direct: bool,
}

impl LoopBackend {
    pub(crate) fn new(direct: bool) -> Self {
        let events = broadcast::channel(1024).0;
        LoopBackend { entries: Mutex::default(), events, suppress: AtomicBool::new(false), direct }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn suppress(&self, on: bool) {
        self.suppress.store(on, Ordering::SeqCst);
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }

    pub(crate) fn devices(&self) -> Vec<Value> {
        self.lock().values().filter(|e| !e.forgotten && !e.hidden).map(|e| e.device.clone()).collect()
    }

    pub(crate) async fn attach(&self, req: &AttachReq) -> Result<(), String> {
        self.attach_id(&req.id(), req).await
    }

    pub(crate) async fn attach_id(&self, id: &str, req: &AttachReq) -> Result<(), String> {
        let pci = pci_address(req.pci_slot.unwrap_or(160));
        let address = format!("{pci}.0");
        let occupied = |e: &Entry| {
            !e.forgotten && e.device["pci_address"] == json!(address) && e.device["target"] == json!(req.unit)
        };
        if self.lock().values().any(occupied) {
            return Err(format!("target {} on {pci} is in use", req.unit));
        }
        let node = Node::open(&req.image, req.size, self.direct).await?;
        let size = std::fs::metadata(&req.image).map(|m| m.len()).unwrap_or(req.size);
        let letter = self.letter();
        let hidden = self.suppress.load(Ordering::SeqCst);
        let hex = req.hex();
        let device = json!({
            "id": id, "pci_address": address, "host": req.bus, "channel": 0, "target": req.unit, "lun": 0, "name": letter, "node": node.path,
            "serial": hex, "designators": hex.iter().collect::<Vec<_>>(), "size_bytes": req.size.min(size), "logical_block": 512, "read_only": true,
        });
        let flattened = req.flattened.then(|| req.image.clone());
        self.lock().insert(
            id.to_owned(),
            Entry { device: device.clone(), _node: node, letter, flattened, forgotten: false, hidden },
        );
        if !hidden {
            self.events.send(event("add", &device)).ok();
        }
        Ok(())
    }

    pub(crate) fn detach(&self, id: &str) -> Result<(), String> {
        let Some(e) = self.lock().remove(id) else { return Ok(()) };
        if let Some(f) = &e.flattened {
            std::fs::remove_file(f).ok();
        }
        if !e.forgotten && !self.suppress.load(Ordering::SeqCst) {
            self.events.send(event("remove", &e.device)).ok();
        }
        Ok(())
    }

    /// The guest deletes the SCSI device: gone for the guest, still attached for vCenter.
    pub(crate) fn forget(&self, id: &str) -> Result<(), String> {
        let mut entries = self.lock();
        let e = entries.get_mut(id).filter(|e| !e.forgotten).ok_or("no such device")?;
        e.forgotten = true;
        self.events.send(event("remove", &e.device)).ok();
        Ok(())
    }

    /// Re-announces what was suppressed on one controller.
    pub(crate) fn rescan(&self, pci: &str) -> u64 {
        let mut found = 0;
        for e in self.lock().values_mut().filter(|e| e.hidden && !e.forgotten) {
            let at = e.device["pci_address"].as_str().unwrap_or("");
            if at.trim_end_matches(".0") == pci.trim_end_matches(".0") {
                e.hidden = false;
                found += 1;
                self.events.send(event("add", &e.device)).ok();
            }
        }
        found
    }

    pub(crate) fn shutdown(&self) {
        for e in std::mem::take(&mut *self.lock()).into_values() {
            if let Some(f) = e.flattened {
                std::fs::remove_file(f).ok();
            }
        }
    }

    /// The lowest free letter, used again at once as Linux does.
    fn letter(&self) -> String {
        let entries = self.lock();
        let name = |n: u32| {
            let c = |i: u32| char::from_u32(u32::from(b'a') + i % 26).unwrap_or('a');
            if n < 26 { format!("sd{}", c(n)) } else { format!("sd{}{}", c(n / 26 - 1), c(n)) }
        };
        (0..676)
            .map(name)
            .find(|l| entries.values().all(|e| e.forgotten || e.letter != *l))
            .unwrap_or_else(|| "sdzz".into())
    }
}

/// A loop device that this process holds open. The last close frees it.
#[derive(Debug)]
struct Node {
    path: String,
    _open: File,
}

impl Node {
    /// On a thread of its own: a simulator that ends meanwhile waits for it, and the device is freed again.
    async fn open(image: &Path, size: u64, direct: bool) -> Result<Node, String> {
        let image = PathBuf::from(image);
        let made = tokio::task::spawn_blocking(move || Node::make(&image, size, direct)).await;
        made.map_err(|e| format!("losetup: {e}"))?
    }

    fn make(image: &Path, size: u64, direct: bool) -> Result<Node, String> {
        let mut create = Command::new("losetup");
        create.args(["--find", "--show", "--read-only", "--sizelimit", &size.to_string()]);
        create.args(direct.then_some("--direct-io=on")).arg(image);
        let out = ran(&mut create)?;
        let path = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        let open = File::open(&path);
        // Of a device that is open this only sets LO_FLAGS_AUTOCLEAR; of one that could not be opened it frees it.
        ran(Command::new("losetup").args(["--detach", &path]))?;
        Ok(Node { _open: open.map_err(|e| format!("{path}: {e}"))?, path })
    }
}

fn ran(command: &mut Command) -> Result<Output, String> {
    let out = command.output().map_err(|e| format!("losetup: {e}"))?;
    if out.status.success() { Ok(out) } else { Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()) }
}
