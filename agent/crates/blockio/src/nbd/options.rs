//! How a server is asked: connections, TLS, limits of time. Every wait of this client has its name here.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{NbdError, Tls};

/// How often a wait looks at [`Options::stop`].
pub(super) const STOP_POLL: Duration = Duration::from_millis(100);

/// What the caller chooses.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections at most; more than one only if the server says that they see the same bytes.
    pub connections: u32,
    /// Needed for `nbds` URIs, refused for others.
    pub tls: Option<Tls>,
    /// Ask for `base:allocation`.
    pub block_status: bool,
    pub limits: Limits,
    /// Ends every wait of this client soon after it was set.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 4, tls: None, block_status: true, limits: Limits::default(), stop: None }
    }
}

impl Options {
    pub(super) fn stopped(&self) -> Result<(), NbdError> {
        match &self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(NbdError::Stopped),
            _ => Ok(()),
        }
    }
}

/// Limits of time and patience.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Name resolution and connecting of one socket.
    pub connect: Duration,
    /// From the open socket to the end of negotiation, TLS included; bounds a server that drips options.
    pub handshake: Duration,
    /// A connection that owes replies and sends no byte. Only time that this client spends waiting counts, so a slow
    /// consumer costs nothing.
    pub idle: Duration,
    /// One request, from asking to its last byte; bounds a server that drips data. Counts as `idle` does.
    pub reply: Duration,
    /// Lost connections in a row, without one finished reply between them, before a connection is given up.
    pub reconnects: u32,
    /// Pause before the second attempt to connect again; doubles, at most [`Limits::BACKOFF_MOST`].
    pub backoff: Duration,
}

impl Limits {
    pub const BACKOFF_MOST: Duration = Duration::from_secs(5);

    /// The pause before attempt `strikes` + 1; the first attempt is made at once.
    pub(super) fn pause(&self, strikes: u32) -> Duration {
        match strikes {
            0 | 1 => Duration::ZERO,
            more => self.backoff.saturating_mul(1 << (more - 2).min(16)).min(Self::BACKOFF_MOST),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            reply: Duration::from_secs(300),
            reconnects: 5,
            backoff: Duration::from_millis(200),
        }
    }
}
