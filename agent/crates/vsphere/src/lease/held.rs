//! A lease that is held: kept alive by progress, ended on every way out, and its loss told to whoever reads.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{LeaseFile, LeaseInfo, LeaseStream};
use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::moref::MoRef;

/// Between two reports: a part of the timeout, within these.
const PART: u32 = 4;
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(60);

/// A ready lease with its keeper. Dropped without an end it is aborted, as well as that can be done from a drop: a caller
/// that must know calls [`ExportLease::abort`].
#[derive(Debug)]
pub struct ExportLease {
    guard: Guard,
    info: LeaseInfo,
    shared: Arc<Shared>,
}

/// Aborts its lease when dropped, unless it was ended.
#[derive(Debug)]
struct Guard {
    client: Client,
    lease: MoRef,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    percent: AtomicU8,
    /// Cancelled when the lease is lost.
    lost: CancellationToken,
    /// Cancelled when the keeper shall stop.
    stop: CancellationToken,
    cause: Mutex<Option<Error>>,
}

impl ExportLease {
    /// Waits until `lease` is ready and keeps it alive from then on. On an error it has been aborted.
    ///
    /// # Errors
    /// As [`Client::lease_ready`].
    pub async fn hold(
        client: &Client,
        lease: &MoRef,
        deadline: Duration,
        cancel: Option<&CancellationToken>,
    ) -> Result<ExportLease, Error> {
        // Before the wait: a caller that goes away meanwhile leaves no lease behind.
        let mut guard = Guard { client: client.clone(), lease: lease.clone(), ended: false };
        match client.lease_ready(lease, deadline, cancel).await {
            Ok(info) => {
                let shared = Arc::new(Shared::default());
                tokio::spawn(keeper(client.clone(), lease.clone(), info.timeout, Arc::clone(&shared)));
                Ok(ExportLease { guard, info, shared })
            }
            Err(error) => {
                match client.abort_lease(lease).await {
                    Ok(()) => guard.ended = true,
                    Err(e) => tracing::warn!(%lease, error = %e, "export lease not aborted"),
                }
                Err(error)
            }
        }
    }

    /// What the lease gives access to.
    pub fn info(&self) -> &LeaseInfo {
        &self.info
    }

    /// Progress that the server shows to people, 0 to 100.
    pub fn set_percent(&self, percent: u8) {
        self.shared.percent.store(percent.min(100), Ordering::Relaxed);
    }

    /// Opens a file; reading it ends with `LeaseGone` when the lease is lost.
    ///
    /// # Errors
    /// As [`Client::lease_download`].
    pub async fn download(&self, file: &LeaseFile, stall: Duration) -> Result<LeaseStream, Error> {
        Ok(self.guard.client.lease_download(file, stall).await?.until(self.shared.lost.clone()))
    }

    /// Why the lease was lost, when it was.
    pub fn lost(&self) -> Option<String> {
        self.shared.cause.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ToString::to_string)
    }

    /// Ends the lease with success.
    ///
    /// # Errors
    /// As [`Client::complete_lease`]; the lease is aborted then.
    pub async fn complete(mut self) -> Result<(), Error> {
        self.shared.stop.cancel();
        self.guard.client.complete_lease(&self.info.lease).await?;
        self.guard.ended = true;
        Ok(())
    }

    /// Ends the lease without success.
    ///
    /// # Errors
    /// What calls can meet: it may live on until its timeout.
    pub async fn abort(mut self) -> Result<(), Error> {
        self.shared.stop.cancel();
        self.guard.client.abort_lease(&self.info.lease).await?;
        self.guard.ended = true;
        Ok(())
    }
}

impl Drop for ExportLease {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (client, lease) = (self.client.clone(), self.lease.clone());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                if let Err(error) = client.abort_lease(&lease).await {
                    tracing::warn!(%lease, %error, "export lease not aborted, it ends by its timeout");
                }
            })),
            Err(_) => tracing::warn!(%lease, "export lease not aborted, it ends by its timeout"),
        }
    }
}

/// Reports progress until stopped. Lost: the server says so, or it was not reached for as long as the timeout.
async fn keeper(client: Client, lease: MoRef, timeout: Duration, shared: Arc<Shared>) {
    let pause = (timeout / PART).clamp(SHORTEST, LONGEST);
    let mut heard = Instant::now();
    loop {
        let percent = shared.percent.load(Ordering::Relaxed);
        let sent = Instant::now();
        let report = tokio::time::timeout(timeout.max(SHORTEST), client.lease_progress(&lease, percent));
        let report = tokio::select! {
            report = report => report,
            () = shared.stop.cancelled() => return,
        };
        let error = match report {
            Ok(Ok(())) => {
                heard = sent;
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => Some(Error::new(ErrorKind::Deadline, "HttpNfcLeaseProgress", format!("{lease}: no answer"))),
        };
        if let Some(error) = error {
            let unheard = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Deadline);
            tracing::warn!(%lease, %error, "progress of an export lease not reported");
            if !unheard || heard.elapsed() >= timeout {
                *shared.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                shared.lost.cancel();
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}
