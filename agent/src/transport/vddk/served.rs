//! VDDK as this agent uses it: at which vCenter, as whom, and the disks of sessions that it serves.
//!
//! ```text
//! disk ─▶ idle ──ready: a share of its host, then nbdkit──▶ serving ──rest: its read is over──▶ idle
//!           └──────────── end: its session gives everything back ────┴──▶ over
//! ```
//! An nbdkit that has the snapshot's disk open must end before the snapshot is removed, so the end of a session waits for it.
use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::Mutex as AsyncMutex, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

use super::{
    DiskSpec, HostBudget, HostLimits, HostVersion, Need, Permit, Running, VddkSettings, command, start, thumbprint_of,
};
use crate::{
    attach::Readers,
    config::Vcenter,
    error::{Error, Result},
    hypervisor::{
        Hypervisor,
        views::{Build, HostView},
    },
    id::{BackingPath, Moref, SessionId},
    reason,
    transport::reach,
};

/// VDDK opens a disk for each connection; one keeps its queue of reads full.
pub const CONNECTIONS: u32 = 1;
/// For a folder that answers at all.
const LOOK: Duration = Duration::from_secs(5);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Vddk(Arc<Inner>);

struct Inner {
    settings: VddkSettings,
    vcenter: Vcenter,
    hypervisor: Arc<dyn Hypervisor>,
    runtime_dir: PathBuf,
    budget: HostBudget,
    readers: Readers,
    /// One look at the library's folder at a time: it may hang.
    look: AsyncMutex<Option<JoinHandle<Result<Option<Build>>>>>,
    /// Of sessions that have not ended; kept here, so that whoever ends one finds what it started.
    served: Mutex<Vec<Arc<Served>>>,
}

impl fmt::Debug for Vddk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vddk").field("libdir", &self.0.settings.libdir).finish_non_exhaustive()
    }
}

/// Which disk, of what, where.
#[derive(Debug, Clone)]
pub struct Which {
    pub session: SessionId,
    pub vm: Moref,
    pub snapshot: Moref,
    /// Of the VM, if it is known.
    pub host: Option<HostView>,
    /// As the snapshot's device list names it.
    pub file: BackingPath,
}

/// One disk of one session.
#[derive(Debug)]
pub struct Served {
    vddk: Vddk,
    which: Which,
    child: AsyncMutex<Option<Child>>,
    over: CancellationToken,
}

/// An nbdkit and what it was started with.
#[derive(Debug)]
struct Child {
    running: Arc<Running>,
    password: SecretString,
    thumbprint: String,
}

/// An nbdkit that serves, and the share of its host that one reader takes.
#[derive(Debug)]
pub struct Serving {
    pub running: Arc<Running>,
    /// Of its words so far.
    mark: u64,
    _permit: Permit,
}

impl Serving {
    /// Why a connection to it failed. Blocking, for a moment.
    #[must_use]
    pub fn why(&self, cause: impl fmt::Display) -> Error {
        self.running.open_refused_soon(self.mark, cause)
    }
}

impl Vddk {
    #[must_use]
    pub fn new(
        settings: VddkSettings,
        vcenter: Vcenter,
        hypervisor: Arc<dyn Hypervisor>,
        readers: Readers,
        runtime_dir: PathBuf,
    ) -> Self {
        let (budget, served, look) = (HostBudget::default(), Mutex::default(), AsyncMutex::default());
        Self(Arc::new(Inner { settings, vcenter, hypervisor, runtime_dir, budget, readers, look, served }))
    }

    /// Connections that are held, by host.
    #[must_use]
    pub fn connections(&self) -> Vec<(Moref, u32)> {
        self.0.budget.held()
    }

    /// Release of the library, if its name tells it.
    ///
    /// # Errors
    /// [`reason::VDK_LIBRARY`]: there is none, or its folder does not answer.
    pub async fn release(&self) -> Result<Option<Build>> {
        let settings = &self.0.settings;
        let looked = async {
            let mut look = self.0.look.lock().await;
            // One that hangs is waited for again by the next caller.
            let running = look.get_or_insert_with(|| {
                let settings = settings.clone();
                tokio::task::spawn_blocking(move || command::library(&settings))
            });
            let found = running.await;
            *look = None;
            found?
        };
        let late = || Error::new(&reason::VDK_LIBRARY, format!("{} does not answer", settings.libdir.display()));
        timeout(LOOK, looked).await.unwrap_or_else(|_| Err(late()))
    }

    /// Whether the data can come from these ESXi hosts.
    ///
    /// # Errors
    /// [`reason::VDK_PORT`], with every host that does not answer.
    pub async fn reaches(&self, hosts: Vec<String>) -> Result<()> {
        let Some(port) = self.0.settings.nfc_port else { return Ok(()) };
        match reach::all(hosts, port).await {
            None => Ok(()),
            Some(why) => Err(Error::new(&reason::VDK_PORT, why)),
        }
    }

    /// A disk, idle.
    #[must_use]
    pub fn disk(&self, which: Which) -> Arc<Served> {
        let served = Served { vddk: self.clone(), which, child: AsyncMutex::default(), over: CancellationToken::new() };
        let served = Arc::new(served);
        self.0.served.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&served));
        served
    }

    /// Ends every nbdkit of a session, and waits for it.
    pub async fn end(&self, session: SessionId) {
        let all: Vec<Arc<Served>> = {
            let mut all = self.0.served.lock().unwrap_or_else(PoisonError::into_inner);
            all.extract_if(.., |served| served.which.session == session).collect()
        };
        join_all(all.iter().map(|served| served.end())).await;
    }

    fn spec(&self, which: &Which) -> Result<DiskSpec> {
        let Vcenter { url, user, .. } = &self.0.vcenter;
        let wrong = |what: &str| Error::new(&reason::VDK_VALUE, what.to_owned());
        let uri: Uri = url.parse().map_err(|e| wrong("vcenter.url").with_source(e))?;
        let server = uri.host().ok_or_else(|| wrong("vcenter.url: no host"))?;
        let der = self.0.hypervisor.certificate().ok_or_else(|| wrong("vCenter's certificate is not known yet"))?;
        Ok(DiskSpec {
            vm: which.vm.clone(),
            snapshot: which.snapshot.clone(),
            file: which.file.clone(),
            server: server.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16(),
            user: user.clone(),
            thumbprint: thumbprint_of(&der),
            session: which.session.to_string(),
        })
    }
}

impl Served {
    /// Waits for a share of the host, and for an nbdkit that serves. Dropped meanwhile, nothing is left of it.
    ///
    /// # Errors
    /// HA-VDK-001 … 010; [`reason::READ_STOPPED`] when its session has ended; [`reason::VC_LOGIN`] and others of vCenter.
    pub async fn ready(&self) -> Result<Serving> {
        let serving = async {
            let permit = self.share().await?;
            let running = self.started().await?;
            Ok(Serving { mark: running.mark(), running, _permit: permit })
        };
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(Error::new(&reason::READ_STOPPED, self.which.file.to_string())),
            serving = serving => serving,
        }
    }

    /// Lets the nbdkit end until somebody reads again; does not wait for it.
    pub async fn rest(&self) {
        if let Some(child) = self.child.lock().await.as_ref() {
            child.running.leave();
        }
    }

    async fn end(&self) {
        // A start that is under way gives up, and with it the lock.
        self.over.cancel();
        if let Some(child) = self.child.lock().await.as_ref() {
            child.running.stop().await;
        }
    }

    async fn share(&self) -> Result<Permit> {
        let settings = &self.vddk.0.settings;
        let (host, version) = match &self.which.host {
            Some(host) => (host.moref.clone(), host.build.known().map(|build| build.version)),
            None => (Moref::new("unknown"), None),
        };
        let [major, minor, update] = version.unwrap_or_default();
        let limits = HostLimits::of(HostVersion(major, minor, update), settings.connections_per_host);
        let need = Need::of(settings, CONNECTIONS);
        self.vddk.0.budget.acquire(&host, limits, need, settings.queue_deadline).await
    }

    /// With a password that vCenter takes now and the certificate that it shows now: VDDK logs in for each connection, and
    /// would lock the account with an old one.
    async fn started(&self) -> Result<Arc<Running>> {
        let mut child = self.child.lock().await;
        let Inner { settings, hypervisor, readers, runtime_dir, vcenter, .. } = &*self.vddk.0;
        let spec = self.vddk.spec(&self.which)?;
        if let Some(known) = child.as_ref() {
            let vcenter = vcenter.clone();
            let now = tokio::task::spawn_blocking(move || vcenter.read_password()).await?;
            let same = now.is_none_or(|now| now.expose_secret() == known.password.expose_secret());
            if same && known.thumbprint == spec.thumbprint && !known.running.leaves() && known.running.serves().await {
                return Ok(Arc::clone(&known.running));
            }
            known.running.stop().await;
            *child = None;
        }
        let password = hypervisor.proven_password().await?;
        let thumbprint = spec.thumbprint.clone();
        let reader = readers.begin(&self.which.vm);
        let running = Arc::new(start(settings, spec, &password, runtime_dir, Some(reader)).await?);
        tracing::info!(session = %self.which.session, disk = %self.which.file, socket = %running.socket.display(), "VDDK serves");
        *child = Some(Child { running: Arc::clone(&running), password, thumbprint });
        Ok(running)
    }
}
