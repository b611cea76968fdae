//! Export leases: a snapshot's disks as compressed streams over HTTPS, by public API.
//!
//! ```text
//! ExportSnapshot ─▶ initializing ─▶ ready ──HttpNfcLeaseComplete──▶ done
//!                        │            │  ▲ HttpNfcLeaseProgress, more often than the timeout
//!                        └────────────┴──HttpNfcLeaseAbort, timeout, fault──▶ error
//! ```
//! Source: vSphere API 8.0, VirtualMachineSnapshot.ExportSnapshot (since 5.5, privilege VApp.Export), HttpNfcLease.
//! While a lease lives, power-on, destroy and migration of the VM are blocked: end it, always. `held` does that.

mod file;
mod held;
mod stream;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use file::{DiskAddress, LeaseFile};
pub use held::ExportLease;
pub use stream::LeaseStream;

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::fault::{Fault, FaultKind};
use crate::moref::MoRef;
use crate::property::Properties;
use crate::soap::{Effect, Request};
use crate::wait::{self, Watched};
use crate::xml::Shape;

/// Most files of one lease that are read: a VM has at most 256 disks.
const MAX_FILES: usize = 1024;

/// State of a lease (vSphere API 8.0, HttpNfcLeaseState).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Being prepared.
    Initializing,
    /// Its files can be read.
    Ready,
    /// Completed.
    Done,
    /// Ended by a failure, an abort or its timeout.
    Error(Option<Box<Fault>>),
    /// The server does not know it (any more).
    Gone,
}

impl LeaseState {
    /// Whether it blocks nothing any more.
    pub fn is_over(&self) -> bool {
        matches!(self, LeaseState::Done | LeaseState::Error(_) | LeaseState::Gone)
    }
}

/// A ready lease (vSphere API 8.0, HttpNfcLeaseInfo).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// The lease.
    pub lease: MoRef,
    /// The VM.
    pub entity: MoRef,
    /// Without a report of progress in this time the server ends the lease.
    pub timeout: Duration,
    /// Capacity of all disks in bytes.
    pub capacity_bytes: u64,
    /// Its files, disks and others, in no order that means anything.
    pub files: Vec<LeaseFile>,
}

impl Client {
    /// Asks for a lease on a snapshot's disks.
    ///
    /// # Errors
    /// `TaskInProgress`, `InvalidState`, `FileFault`, `NoPermission` of the server. `UnknownOutcome`: a lease may live that
    /// nobody can name; it ends by its timeout (300 s by default), as nobody reports progress.
    pub async fn export_snapshot(&self, snapshot: &MoRef) -> Result<MoRef, Error> {
        // Not a task, but as a task's is its answer a reference that must not be lost.
        self.session.start_task(&Request::new("ExportSnapshot", Effect::Mutation, snapshot, |_| {})).await
    }

    /// Reads a lease's state.
    pub async fn lease_state(&self, lease: &MoRef) -> Result<LeaseState, Error> {
        match self.properties(lease, &["state", "error"]).await.map_err(|e| gone(e, lease)) {
            Ok(p) => state(&p).map_err(|e| Error::shape("RetrievePropertiesEx", e)),
            Err(e) if *e.kind() == ErrorKind::LeaseGone => Ok(LeaseState::Gone),
            Err(e) => Err(e),
        }
    }

    /// Waits until a lease is ready, at most `deadline`.
    ///
    /// # Errors
    /// The lease's own fault, `LeaseGone` when it ended otherwise, `Deadline` and `Cancelled` (it goes on: abort it).
    pub async fn lease_ready(
        &self,
        lease: &MoRef,
        deadline: Duration,
        cancel: Option<&CancellationToken>,
    ) -> Result<LeaseInfo, Error> {
        let op = "lease_ready";
        let end = Instant::now() + deadline;
        let is_final = |s: &str| s != "initializing";
        let watched = Watched { object: lease, path: "state", is_final, gone: || ErrorKind::LeaseGone };
        let attempt = || async move {
            let scoped = self.reach(watched, end).await?;
            let read = self.properties(lease, &["state", "error", "info"]).await;
            Ok((read.map_err(|e| gone(e, lease))?, Some(scoped)))
        };
        let p = self.persist(op, lease, deadline, cancel, attempt).await?;
        match state(&p).map_err(|e| Error::shape(op, e))? {
            LeaseState::Ready => info(&p, lease).map_err(|e| Error::shape(op, e)),
            LeaseState::Error(Some(fault)) => Err(Error::fault_of(op, *fault)),
            other => Err(Error::new(ErrorKind::LeaseGone, op, format!("{lease} is {other:?}"))),
        }
    }

    /// Reports progress, 0 to 100, which keeps a lease alive.
    ///
    /// # Errors
    /// `LeaseGone` when it has ended.
    pub async fn lease_progress(&self, lease: &MoRef, percent: u8) -> Result<(), Error> {
        let request = Request::read("HttpNfcLeaseProgress", lease, |w| w.value("percent", percent.min(100)));
        let done = self.session.call(&request, self.session.timeout).await.map(drop);
        done.map_err(|e| match e.fault().map(|f| &f.kind) {
            Some(FaultKind::InvalidState | FaultKind::Timedout) => {
                Error::new(ErrorKind::LeaseGone, request.op, e.kind().to_string()).with_source(e)
            }
            _ => gone(e, lease),
        })
    }

    /// Ends a lease whose files were read.
    ///
    /// # Errors
    /// `LeaseGone` when it had ended in another way; the files may be incomplete then.
    pub async fn complete_lease(&self, lease: &MoRef) -> Result<(), Error> {
        let request = Request::new("HttpNfcLeaseComplete", Effect::Mutation, lease, |_| {});
        let Err(error) = self.session.call(&request, self.session.timeout).await else { return Ok(()) };
        // A lost answer, or a second call: what counts is how it stands.
        match self.lease_state(lease).await {
            Ok(LeaseState::Done) => Ok(()),
            Ok(state) if state.is_over() => {
                Err(Error::new(ErrorKind::LeaseGone, request.op, format!("{lease} is {state:?}")).with_source(error))
            }
            _ => Err(error),
        }
    }

    /// Ends a lease without success. One that has ended is fine.
    pub async fn abort_lease(&self, lease: &MoRef) -> Result<(), Error> {
        let request = Request::read("HttpNfcLeaseAbort", lease, |_| {});
        let Err(error) = self.session.call(&request, self.session.timeout).await else { return Ok(()) };
        match self.lease_state(lease).await {
            Ok(state) if state.is_over() => Ok(()),
            _ => Err(error),
        }
    }
}

fn gone(error: Error, lease: &MoRef) -> Error {
    wait::gone(error, lease, ErrorKind::LeaseGone)
}

fn state(p: &Properties) -> Result<LeaseState, Shape> {
    Ok(match p.string("state").as_deref() {
        Some("initializing") => LeaseState::Initializing,
        Some("ready") => LeaseState::Ready,
        Some("done") => LeaseState::Done,
        Some("error") => LeaseState::Error(p.get("error").map(|e| Box::new(Fault::from_localized(e)))),
        _ => return Err(Shape(format!("{} has no known state", p.object))),
    })
}

fn info(p: &Properties, lease: &MoRef) -> Result<LeaseInfo, Shape> {
    let info = p.get("info").ok_or_else(|| Shape(format!("{lease} is ready and has no info")))?;
    let seconds: u32 = info.need("leaseTimeout")?;
    let files: Vec<LeaseFile> =
        info.all("deviceUrl").take(MAX_FILES).map(LeaseFile::parse).collect::<Result<_, _>>()?;
    Ok(LeaseInfo {
        lease: lease.clone(),
        entity: info.required("entity")?.moref()?,
        timeout: Duration::from_secs(seconds.into()),
        capacity_bytes: info.opt::<u64>("totalDiskCapacityInKB")?.unwrap_or(0).saturating_mul(1024),
        files,
    })
}
