//! Disks that a server has: what may be asked, how, and that it is the disk's size. A server is named by the request, or it
//! is an nbdkit of ours with the user's VDDK. Nothing is started or connected before it is read.
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use hotadd_blockio::nbd::{Address, Limits, NbdEngine, NbdError, Options, Target};

use super::vddk::{self, Served, Serving, Vddk, Which};
use crate::{
    config::Nbd,
    error::{Error, Result},
    hypervisor::{TargetDisk, views::HostView},
    id::{Moref, SessionId},
    reason,
};

/// What a server, or VDDK, lacked: the disk may still come by another transport.
pub const SERVER_LOST: [&reason::ReasonCode; 11] = [
    &reason::NBD_CONNECT,
    &reason::NBD_LOST,
    &reason::VDK_LIBRARY,
    &reason::VDK_NBDKIT,
    &reason::VDK_PLUGIN,
    &reason::VDK_START,
    &reason::VDK_SLOW,
    &reason::VDK_DIED,
    &reason::VDK_OPEN,
    &reason::VDK_BUSY,
    &reason::VDK_HOST,
];

/// The servers that this agent may read.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    named: Arc<Nbd>,
    vddk: Option<Vddk>,
}

/// Whose disks, as of which snapshot.
#[derive(Debug, Clone)]
pub struct Of {
    pub session: SessionId,
    pub vm: Moref,
    pub snapshot: Moref,
    /// Of the VM, if it is known.
    pub host: Option<HostView>,
}

impl Servers {
    #[must_use]
    pub fn new(named: Nbd, vddk: Option<Vddk>) -> Self {
        Self { named: Arc::new(named), vddk }
    }

    /// Connections to ESXi hosts through VDDK, by host.
    #[must_use]
    pub fn nfc_connections(&self) -> Vec<(Moref, u32)> {
        self.vddk.as_ref().map(Vddk::connections).unwrap_or_default()
    }

    /// A server that a request names.
    ///
    /// # Errors
    /// [`reason::SES_REQUEST`] for what is no URI, [`reason::NBD_REFUSED`] for a server that is not on the list.
    pub fn admit(&self, uri: &str) -> Result<Target> {
        let target: Target =
            uri.parse().map_err(|error: NbdError| Error::new(&reason::SES_REQUEST, format!("nbd_servers: {error}")))?;
        if !self.named.allows(&target) {
            return Err(Error::new(&reason::NBD_REFUSED, target.to_string()));
        }
        Ok(target)
    }

    /// The user's VDDK, if the configuration has one.
    #[must_use]
    pub fn vddk(&self) -> Option<&Vddk> {
        self.vddk.as_ref()
    }

    /// A disk by the server that the request names for it, or by VDDK where there is one.
    #[must_use]
    pub fn disk(&self, disk: &TargetDisk, named: Option<&Target>, of: &Of) -> Option<Arc<Remote>> {
        let server = match (named, &self.vddk) {
            (Some(target), _) => Server::Named(target.clone(), self.named.options(target)),
            (None, Some(vddk)) => Server::Vddk(vddk.disk(Which {
                session: of.session,
                vm: of.vm.clone(),
                snapshot: of.snapshot.clone(),
                host: of.host.clone(),
                file: disk.backing.clone(),
            })),
            (None, None) => return None,
        };
        Some(Arc::new(Remote { disk: disk.clone(), server }))
    }

    /// Ends what was started for a session.
    pub async fn end(&self, session: SessionId) {
        if let Some(vddk) = &self.vddk {
            vddk.end(session).await;
        }
    }
}

#[derive(Debug)]
enum Server {
    Named(Target, Options),
    Vddk(Arc<Served>),
}

/// One disk and its server.
#[derive(Debug)]
pub struct Remote {
    disk: TargetDisk,
    server: Server,
}

/// A server that can be connected to now, for one read.
#[derive(Debug)]
pub struct Ready {
    target: Target,
    options: Options,
    name: String,
    child: Option<Serving>,
}

impl Remote {
    #[must_use]
    pub fn disk(&self) -> &TargetDisk {
        &self.disk
    }

    /// Starts what has to be started.
    ///
    /// # Errors
    /// HA-VDK-001 … 010; [`reason::READ_STOPPED`] when its session has ended.
    pub async fn ready(&self) -> Result<Ready> {
        let name = self.name();
        match &self.server {
            Server::Named(target, options) => {
                Ok(Ready { target: target.clone(), options: options.clone(), name, child: None })
            }
            Server::Vddk(served) => {
                let child = served.ready().await?;
                let address = Address::Unix(child.running.socket.clone());
                let target = Target { address, export: String::new(), tls: false };
                // An nbdkit that is started anew takes a while; each connection that it accepts is a login of VDDK.
                let limits = Limits { reconnects: 6, backoff: Duration::from_secs(1), ..Limits::default() };
                let connections = vddk::CONNECTIONS;
                let options = Options { connections, block_status: false, limits, ..Options::default() };
                Ok(Ready { target, options, name, child: Some(child) })
            }
        }
    }

    /// Ends what was started, until somebody reads again.
    pub async fn rest(&self) {
        if let Server::Vddk(served) = &self.server {
            served.rest().await;
        }
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.server {
            Server::Named(target, _) => format!("{} ({target})", self.disk.label),
            Server::Vddk(_) => format!("{} (VDDK)", self.disk.label),
        }
    }
}

impl Ready {
    /// Connects, for one read; blocking. `stop` ends every wait.
    ///
    /// # Errors
    /// [`reason::NBD_CONNECT`], [`reason::NBD_SIZE`], [`reason::READ_STOPPED`]; HA-VDK-006, 007, 012.
    pub fn connect(&self, disk: &TargetDisk, depth: u32, stop: &Arc<AtomicBool>) -> Result<NbdEngine> {
        let options = Options { stop: Some(Arc::clone(stop)), ..self.options.clone() };
        let engine = NbdEngine::open(&self.target, &options, depth).map_err(|error| match (error, &self.child) {
            (NbdError::Stopped, _) => Error::new(&reason::READ_STOPPED, &self.name),
            (error, Some(child)) => child.why(&error).about(&self.name),
            (error, None) => Error::new(&reason::NBD_CONNECT, &self.name).with_source(error),
        })?;
        let (has, due) = (engine.export().size, disk.capacity_bytes);
        if has != due {
            return Err(Error::new(&reason::NBD_SIZE, format!("{}: {has} bytes, the disk has {due}", self.name)));
        }
        Ok(engine)
    }

    /// What VDDK said of a read that failed.
    #[must_use]
    pub fn told(&self, error: Error) -> Error {
        let of_server = [&reason::NBD_LOST, &reason::READ_IO, &reason::READ_MEDIA, &reason::READ_GONE];
        match &self.child {
            Some(child) if of_server.contains(&error.reason()) => child.why(error.message()),
            _ => error,
        }
    }
}
