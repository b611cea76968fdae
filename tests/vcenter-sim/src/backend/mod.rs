//! Device backends: where a disk appears that the simulated vCenter attached to the proxy VM.

mod loopdev;
mod qemu;
mod qmp;

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::store::Extents;
pub(crate) use loopdev::LoopBackend;
pub(crate) use qemu::QemuBackend;

/// Which backend, and the name of the VM whose disks it carries.
#[derive(Clone, Debug, Default)]
pub enum Backend {
    #[default]
    None,
    Loop {
        proxy: String,
        /// Past the page cache of this machine: for benchmarks.
        direct: bool,
    },
    Qemu {
        proxy: String,
        qmp: PathBuf,
    },
}

impl Backend {
    /// `none`, `loop:PROXY`, `loop-direct:PROXY`, `qemu:PROXY:QMPSOCKET`.
    pub fn parse(text: &str) -> Result<Backend, String> {
        match text.splitn(3, ':').collect::<Vec<_>>().as_slice() {
            ["none"] => Ok(Backend::None),
            ["loop", proxy] => Ok(Backend::Loop { proxy: (*proxy).into(), direct: false }),
            ["loop-direct", proxy] => Ok(Backend::Loop { proxy: (*proxy).into(), direct: true }),
            ["qemu", proxy, qmp] => Ok(Backend::Qemu { proxy: (*proxy).into(), qmp: qmp.into() }),
            _ => Err(format!("'{text}' is none of none, loop:PROXY, loop-direct:PROXY, qemu:PROXY:QMPSOCKET")),
        }
    }

    pub fn proxy(&self) -> Option<&str> {
        match self {
            Backend::None => None,
            Backend::Loop { proxy, .. } | Backend::Qemu { proxy, .. } => Some(proxy),
        }
    }
}

/// One disk to show to the guest.
#[derive(Clone, Debug)]
pub(crate) struct AttachReq {
    pub vm: String,
    pub key: i32,
    pub bus: u32,
    pub pci_slot: Option<u32>,
    pub unit: i32,
    /// None: the device shows no identity at all.
    pub uuid: Option<String>,
    pub size: u64,
    pub flattened: bool,
    pub image: PathBuf,
    pub layers: Vec<(PathBuf, Option<Extents>)>,
    pub nonpersistent: bool,
    pub path: String,
    /// `{"eio_sector": N}` or `{"bps": N}`.
    pub fault: Option<Value>,
}

impl AttachReq {
    /// Makes the guest see something else than vCenter says (command `attach_as`).
    pub(crate) fn disguise(&mut self, v: &Value) {
        if v["uuid"].is_null() && v.get("uuid").is_some() {
            self.uuid = None;
        }
        if let Some(u) = v["uuid"].as_str() {
            self.uuid = Some(u.into());
        }
        if let Some(n) = v["size"].as_u64() {
            self.size = n;
        }
        if let Some(n) = v["bus"].as_u64() {
            self.bus = u32::try_from(n).unwrap_or(0);
            self.pci_slot = [160, 192, 224, 256].get(self.bus as usize).copied();
        }
        if let Some(n) = v["unit"].as_i64() {
            self.unit = i32::try_from(n).unwrap_or(0);
        }
    }

    pub(crate) fn hex(&self) -> Option<String> {
        self.uuid.as_ref().map(|u| u.replace('-', "").to_lowercase())
    }

    /// The id by which backend and control socket know the device.
    pub(crate) fn id(&self) -> String {
        device_id(&self.vm, self.key)
    }
}

pub(crate) fn device_id(vm: &str, key: i32) -> String {
    format!("d-{vm}-{key}").replace("-vm-", "")
}

/// The running backend.
#[derive(Debug)]
pub(crate) enum Live {
    None,
    Loop(LoopBackend),
    Qemu(Box<QemuBackend>),
}

impl Live {
    /// Whether the guest has this disk without us: a machine that boots from its own disks.
    pub(crate) async fn has(&self, req: &AttachReq) -> Result<bool, String> {
        match self {
            Live::Qemu(b) => b.has(req).await,
            Live::Loop(_) | Live::None => Ok(false),
        }
    }

    pub(crate) async fn attach(&self, req: &AttachReq) -> Result<(), String> {
        match self {
            Live::None => Ok(()),
            Live::Loop(b) => b.attach(req).await,
            Live::Qemu(b) => b.attach(req).await,
        }
    }

    /// A running guest gets an empty controller. Loop devices need none.
    pub(crate) async fn add_controller(&self, bus: u32, slot: u32) -> Result<(), String> {
        match self {
            Live::Qemu(b) => b.add_controller(bus, slot).await,
            Live::Loop(_) | Live::None => Ok(()),
        }
    }

    /// Gone already is fine: a disk removed by surprise is still detached by vCenter.
    pub(crate) async fn detach(&self, vm: &str, key: i32) -> Result<(), String> {
        self.detach_id(&device_id(vm, key)).await
    }

    pub(crate) async fn detach_id(&self, id: &str) -> Result<(), String> {
        match self {
            Live::None => Ok(()),
            Live::Loop(b) => b.detach(id),
            Live::Qemu(b) => b.detach(id).await,
        }
    }

    pub(crate) fn devices(&self) -> Vec<Value> {
        match self {
            Live::Loop(b) => b.devices(),
            Live::Qemu(b) => b.devices(),
            Live::None => Vec::new(),
        }
    }

    pub(crate) fn events(&self) -> Option<broadcast::Receiver<Value>> {
        match self {
            Live::Loop(b) => Some(b.events()),
            _ => None,
        }
    }

    pub(crate) async fn guest_writes(&self) -> Result<u64, String> {
        match self {
            Live::Qemu(b) => b.guest_writes().await,
            _ => Ok(0),
        }
    }

    pub(crate) async fn shutdown(&self) {
        match self {
            Live::Loop(b) => b.shutdown(),
            Live::Qemu(b) => b.shutdown().await,
            Live::None => {}
        }
    }
}

/// PCI address of a controller as ESXi's bridges give it: slot 160 → 0000:03:00, 192 → 0000:0b:00, 1184 → 0000:04:00, …
/// The low ten bits tell the bridge, the others its function.
pub(crate) fn pci_address(slot: u32) -> String {
    if slot < 160 {
        return format!("0000:00:{:02x}", slot & 31);
    }
    let (bridge, function) = ((slot & 0x3ff) >> 5, slot >> 10);
    format!("0000:{:02x}:00", 3 + bridge.saturating_sub(5) * 8 + function)
}

pub(crate) fn event(kind: &str, device: &Value) -> Value {
    json!({"event": kind, "device": device})
}
