//! vcenter-sim: a strict vSphere SOAP simulator over TLS with VMware's semantics, for tests, the demo and the lab.
//!
//! Here live the public API (start, Running) and the shared core; protocol, state, operations and device backends are modules.
//! It knows nothing of the project's own vSphere client: two independent implementations check each other.

#![forbid(unsafe_code)]

mod backend;
mod collector;
pub mod control;
mod cue;
mod export;
mod fault;
pub mod inventory;
mod ops;
mod outage;
mod permit;
mod profile;
mod render;
mod schema;
mod soap;
mod state;
mod store;
mod tls;
mod tracking;
mod value;
mod xml;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use backend::Backend;
use backend::Live;
pub use inventory::Inventory;
use outage::{Outage, Port};
pub use profile::Profile;
use schema::Ver;
use state::State;

/// How to start a simulator.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// Names and addresses of the certificate besides localhost, 127.0.0.1 and 10.0.2.2.
    pub san: Vec<String>,
    pub user: String,
    pub password: String,
    /// 6.5, 6.7, 6.7.3, 7.0.0.0 … 9.1.0.0; one that the table does not know is offered as it is.
    pub api_version: String,
    pub inventory: Inventory,
    pub work_dir: PathBuf,
    /// Unix socket of the control API (CONTROL.md).
    pub control: PathBuf,
    pub backend: Backend,
    /// Every request and answer is written here, for tests/contract/check_types.py.
    pub dump_dir: Option<PathBuf>,
    /// What a site showed, over [`Options::api_version`] and under the inventory.
    pub profile: Profile,
}

impl Options {
    /// All in `dir`, on a free port of 127.0.0.1, user `administrator@vsphere.local`, password `secret`.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Options {
        let dir = dir.into();
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            san: Vec::new(),
            user: "administrator@vsphere.local".into(),
            password: "secret".into(),
            api_version: "8.0.2.0".into(),
            inventory: Inventory::default(),
            control: dir.join("control.sock"),
            work_dir: dir.join("work"),
            backend: Backend::None,
            dump_dir: None,
            profile: Profile::default(),
        }
    }
}

/// The shared core.
#[derive(Debug)]
pub(crate) struct Sim {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    outage: Outage,
    backend: Live,
    proxy: Option<String>,
    work: PathBuf,
    dump: Option<PathBuf>,
    dumped: AtomicU64,
}

impl Sim {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits for a change.
    fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    fn is_proxy(&self, s: &State, vm: &str) -> bool {
        self.proxy.as_deref().is_some_and(|p| s.vms.get(vm).is_some_and(|v| v.name == p))
    }

    fn dump(&self, method: &str, ver: Ver, kind: &str, text: &str) {
        let Some(dir) = &self.dump else { return };
        let n = self.dumped.fetch_add(1, Ordering::SeqCst);
        let v = ver.0.map(|x| x.to_string()).join(".");
        if let Err(e) = std::fs::write(dir.join(format!("{n:06}-{v}-{method}-{kind}.xml")), text) {
            tracing::warn!(error = %e, "dump");
        }
    }
}

/// A running simulator; dropping it without `shutdown` lets it run on.
#[derive(Debug)]
pub struct Running {
    pub addr: SocketAddr,
    pub ca_pem: String,
    /// SHA-256 of the server's certificate, lower-case hex.
    pub cert_sha256: String,
    /// The certificate itself.
    pub cert_der: Vec<u8>,
    pub control: PathBuf,
    sim: Arc<Sim>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn url(&self) -> String {
        format!("https://{}:{}/sdk", self.addr.ip(), self.addr.port())
    }

    /// Stops serving, detaches backend devices, removes the control socket.
    pub async fn shutdown(self) {
        self.sim.stop.send_replace(true);
        for t in self.tasks {
            t.await.ok();
        }
        self.sim.backend.shutdown().await;
        std::fs::remove_file(&self.control).ok();
    }
}

pub async fn start(opt: Options) -> Result<Running> {
    std::fs::create_dir_all(&opt.work_dir).with_context(|| opt.work_dir.display().to_string())?;
    if let Some(d) = &opt.dump_dir {
        std::fs::create_dir_all(d).with_context(|| d.display().to_string())?;
    }
    let api_version = opt.profile.api_version.as_deref().unwrap_or(&opt.api_version);
    let (user, password) = (&opt.user, &opt.password);
    let state = State::build(&opt.inventory, opt.profile.clone(), api_version, user, password, &opt.work_dir)?;
    let backend = match &opt.backend {
        Backend::None => Live::None,
        Backend::Loop { direct, .. } => Live::Loop(backend::LoopBackend::new(*direct)),
        Backend::Qemu { qmp, .. } => {
            let qemu = backend::QemuBackend::connect(qmp, opt.work_dir.clone()).await.map_err(anyhow::Error::msg)?;
            Live::Qemu(Box::new(qemu))
        }
    };
    let sim = Arc::new(Sim {
        state: Mutex::new(state),
        changed: watch::channel(0).0,
        stop: watch::channel(false).0,
        outage: Outage::default(),
        backend,
        proxy: opt.backend.proxy().map(str::to_owned),
        work: opt.work_dir.clone(),
        dump: opt.dump_dir.clone(),
        dumped: AtomicU64::new(0),
    });
    attach_boot_disks(&sim).await?;
    let identity = tls::identity(&opt.san)?;
    sim.lock().thumbprint = identity.thumbprint;
    let port = Port::reserve(opt.listen).with_context(|| opt.listen.to_string())?;
    let listener = port.listen().with_context(|| opt.listen.to_string())?;
    let addr = port.addr;
    let control = control::bind(&opt.control)?;
    let tasks = vec![
        tokio::spawn(soap::http::serve(Arc::clone(&sim), port, listener, identity.acceptor)),
        tokio::spawn(control::serve(Arc::clone(&sim), control)),
    ];
    Ok(Running {
        addr,
        ca_pem: identity.ca_pem,
        cert_sha256: identity.sha256,
        cert_der: identity.der,
        control: opt.control,
        sim,
        tasks,
    })
}

/// The disks that the proxy has from the start (its anchors) appear when the backend connects, if the machine does not have them anyhow.
async fn attach_boot_disks(sim: &Sim) -> Result<usize> {
    let requests = {
        let mut s = sim.lock();
        let Some(id) = sim.proxy.as_deref().and_then(|p| s.find_vm(p)) else {
            anyhow::ensure!(sim.proxy.is_none(), "the backend's proxy VM is not in the inventory");
            return Ok(0);
        };
        ops::reconfig::boot_requests(&mut s, sim, &id).map_err(|f| anyhow::anyhow!(f.text))?
    };
    for req in &requests {
        let attached = match sim.backend.has(req).await {
            Ok(false) => ops::reconfig::attach_now(sim, req).await,
            known => known.map(drop),
        };
        if let Err(e) = attached {
            sim.backend.shutdown().await;
            anyhow::bail!("{}: {e}", req.path);
        }
    }
    Ok(requests.len())
}
