//! Disks that a server on the network has: what may be asked, how, and that it is the disk's size. Nothing is connected
//! before it is read.
use std::sync::{Arc, atomic::AtomicBool};

use hotadd_blockio::nbd::{NbdEngine, NbdError, Options, Target};

use crate::{
    config::Nbd,
    error::{Error, Result},
    hypervisor::TargetDisk,
    reason,
};

/// The servers that this agent may read.
#[derive(Debug, Clone, Default)]
pub struct Servers(Arc<Nbd>);

impl Servers {
    #[must_use]
    pub fn new(config: Nbd) -> Self {
        Self(Arc::new(config))
    }

    /// A server that a request names.
    ///
    /// # Errors
    /// [`reason::SES_REQUEST`] for what is no URI, [`reason::NBD_REFUSED`] for a server that is not on the list.
    pub fn admit(&self, uri: &str) -> Result<Target> {
        let target: Target =
            uri.parse().map_err(|error: NbdError| Error::new(&reason::SES_REQUEST, format!("nbd_servers: {error}")))?;
        if !self.0.allows(&target) {
            return Err(Error::new(&reason::NBD_REFUSED, target.to_string()));
        }
        Ok(target)
    }

    /// A disk by an admitted server.
    #[must_use]
    pub fn disk(&self, disk: &TargetDisk, target: &Target) -> Arc<Remote> {
        Arc::new(Remote { disk: disk.clone(), target: target.clone(), options: self.0.options(target) })
    }
}

/// One disk and its server.
#[derive(Debug)]
pub struct Remote {
    disk: TargetDisk,
    target: Target,
    options: Options,
}

impl Remote {
    #[must_use]
    pub fn disk(&self) -> &TargetDisk {
        &self.disk
    }

    /// Connects, for one read; blocking. `stop` ends every wait.
    ///
    /// # Errors
    /// [`reason::NBD_CONNECT`], [`reason::NBD_SIZE`], [`reason::READ_STOPPED`].
    pub fn connect(&self, depth: u32, stop: &Arc<AtomicBool>) -> Result<NbdEngine> {
        let options = Options { stop: Some(Arc::clone(stop)), ..self.options.clone() };
        let engine = NbdEngine::open(&self.target, &options, depth).map_err(|error| match error {
            NbdError::Stopped => Error::new(&reason::READ_STOPPED, self.name()),
            error => Error::new(&reason::NBD_CONNECT, self.name()).with_source(error),
        })?;
        let (has, due) = (engine.export().size, self.disk.capacity_bytes);
        if has != due {
            return Err(Error::new(&reason::NBD_SIZE, format!("{}: {has} bytes, the disk has {due}", self.name())));
        }
        Ok(engine)
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} ({})", self.disk.label, self.target)
    }
}
