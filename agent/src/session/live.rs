//! One session: what it holds, its lease, its reads. Its states are drawn in [`super`].
use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use hotadd_api::v1;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use super::{
    opener::Opener,
    registry::{VmClaim, lock},
    snapshot::HeldSnapshot,
    watch::Watch,
};
use crate::{
    access::{Caller, Peer},
    attach::Actor,
    error::{Error, Result},
    id::{Moref, SessionId},
    reason,
    transport::{Disk, Item, Outlet, ReadOrder, Reading, Report},
};

/// Reads of one session at the same time.
pub(super) const READS_PER_SESSION: u32 = 256;

/// Names of the states, as the API shows them; the edges are drawn in [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    Closing,
    Closed,
    Owed,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Owed => "owed",
        }
    }
}

/// One session. What it holds is in `held` until it closes.
pub struct Session {
    pub(super) id: SessionId,
    /// The client that opened it.
    pub(super) owner: Arc<str>,
    pub(super) vm_moref: Moref,
    pub(super) vm_name: String,
    /// Of the clone; empty without one.
    pub(super) acting_user: String,
    pub(super) opened: Vec<v1::OpenedDisk>,
    pub(super) snapshot: v1::SnapshotResult,
    pub(super) lease: Duration,
    pub(super) inner: Mutex<Inner>,
    /// Every read holds a permit; closing takes them all.
    pub(super) reads: Arc<Semaphore>,
    pub(super) cancel_reads: Arc<AtomicBool>,
}

pub(super) struct Inner {
    pub(super) state: State,
    pub(super) lease_end: Instant,
    /// Whose certificate it was when its owner last asked for something.
    pub(super) peer: Arc<Peer>,
    /// What ended it; set with the state that follows `Open`.
    pub(super) ended: Option<Error>,
    pub(super) held: Option<Held>,
}

/// Dropped in this order: nobody watches any more, disks first, the snapshot they come from after them, the VM's claim
/// last.
pub(super) struct Held {
    pub(super) watch: Arc<Watch>,
    pub(super) disks: BTreeMap<i32, Disk>,
    pub(super) snapshot: HeldSnapshot,
    /// Its rights end with it.
    pub(super) actor: Actor,
    pub(super) _claim: VmClaim,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {})", self.id, self.vm_name)
    }
}

impl Session {
    /// Whether this client may touch it. Of its owner the certificate is noted, under which it lives from now on.
    ///
    /// # Errors
    /// [`reason::AUT_OWNER`].
    pub(super) fn asked_by(&self, caller: &Caller) -> Result<()> {
        caller.may_touch(&self.owner, &format!("session {}", self.id))?;
        if *caller.name == *self.owner {
            lock(&self.inner).peer = Arc::clone(&caller.peer);
        }
        Ok(())
    }

    /// Why its owner may have it no longer.
    pub(super) fn owner_out(&self) -> Option<Error> {
        let inner = lock(&self.inner);
        if inner.state == State::Open { inner.peer.out() } else { None }
    }

    /// Renews the lease and tells what is left.
    ///
    /// # Errors
    /// What ended it, when it is no longer open.
    pub fn keep_alive(&self) -> Result<Duration> {
        let mut inner = lock(&self.inner);
        if inner.state != State::Open {
            return Err(self.wrong_state(&inner));
        }
        inner.lease_end = Instant::now() + self.lease;
        Ok(self.lease)
    }

    pub(super) fn is_over(&self) -> bool {
        let inner = lock(&self.inner);
        inner.state == State::Open && inner.lease_end <= Instant::now()
    }

    fn wrong_state(&self, inner: &Inner) -> Error {
        let unknown = || Error::new(&reason::SES_STATE, format!("{} is {}", self.id, inner.state.name()));
        let error = inner.ended.as_ref().map_or_else(unknown, Error::copy);
        if matches!(inner.state, State::Closing | State::Owed) { error.owing() } else { error }
    }

    /// What ended it; `None` while it is open.
    pub(super) fn ended(&self) -> Option<Error> {
        let inner = lock(&self.inner);
        (inner.state != State::Open).then(|| self.wrong_state(&inner))
    }

    /// Starts a read whose items go into `tx`. Frames renew the lease. The stream that is dropped ends this read only.
    ///
    /// # Errors
    /// An unknown disk, a session that is not open, or no thread.
    pub fn read(
        self: &Arc<Self>,
        opener: &Opener,
        device_key: i32,
        order: ReadOrder,
        tx: mpsc::Sender<Result<v1::ReadDiskResponse, tonic::Status>>,
    ) -> Result<()> {
        let (disk, watch) = {
            let inner = lock(&self.inner);
            let held = inner.held.as_ref().filter(|_| inner.state == State::Open);
            let held = held.ok_or_else(|| self.wrong_state(&inner))?;
            let unknown = || Error::new(&reason::VM_DISK_UNKNOWN, format!("key {device_key} is not in this session"));
            (held.disks.get(&device_key).cloned().ok_or_else(unknown)?, Arc::clone(&held.watch))
        };
        let permit = Arc::clone(&self.reads)
            .try_acquire_owned()
            .map_err(|_| Error::new(&reason::SES_STATE, "too many reads, or the session is closing"))?;
        let (session, vm, platform) = (Arc::clone(self), Arc::clone(&opener.vm), opener.platform());
        let id = self.id;
        let (began, cancel) = (std::time::Instant::now(), Arc::clone(&self.cancel_reads));
        // No patience of its own: a client that stops reading loses its lease, and that cancels the read.
        let mut outlet = Outlet::new(tx.clone(), Arc::clone(&cancel), Duration::MAX);
        let sink = Box::new(move |item| {
            let Item::Frame(frame) = item else { return ControlFlow::Continue(()) };
            let message = v1::ReadDiskResponse { item: Some(v1::read_disk_response::Item::Frame(frame)) };
            outlet.push(Ok(message))?;
            // Progress renews the lease; one that ended meanwhile cancels the read by its flag.
            session.keep_alive().ok();
            ControlFlow::Continue(())
        });
        tokio::spawn(async move {
            let gone = tx.clone();
            let reading = tokio::select! {
                reading = Reading::start(disk.clone(), platform, order, sink, cancel, vm.means(id)) => reading,
                () = gone.closed() => return,
            };
            let mut report = match reading {
                Ok(reading) => reading.join().await,
                Err(error) => Report::failed(error),
            };
            if report.error.is_none() {
                // What was read after the snapshot went away may be anything.
                report.error = watch.last_look().await;
            }
            let done = report.to_api(&disk);
            vm.traces.read(id, began, &done, report.error.as_ref());
            // The order matters to a close that waits for the permit: nothing of this read holds the disk after it.
            drop(disk);
            drop(permit);
            // A client that is gone does not want the result.
            tx.send(Ok(v1::ReadDiskResponse { item: Some(v1::read_disk_response::Item::Done(done)) })).await.ok();
        });
        Ok(())
    }

    pub(super) fn to_response(&self) -> v1::OpenDisksResponse {
        v1::OpenDisksResponse {
            session_id: self.id.to_string(),
            snapshot: Some(self.snapshot.clone()),
            disks: self.opened.clone(),
            lease_seconds: seconds(self.lease),
            acting_user: self.acting_user.clone(),
        }
    }

    pub(super) fn to_api(&self) -> v1::Session {
        let inner = lock(&self.inner);
        let left = inner.lease_end.saturating_duration_since(Instant::now());
        v1::Session {
            session_id: self.id.to_string(),
            vm: self.vm_name.clone(),
            state: inner.state.name().to_owned(),
            disks: self.opened.clone(),
            lease_seconds_left: if inner.state == State::Open { seconds(left) } else { 0 },
            closed_reason: inner.ended.as_ref().map(Error::message).unwrap_or_default(),
            ended: (inner.state != State::Open).then(|| self.wrong_state(&inner).to_reason()),
        }
    }
}

/// Whole seconds, saturating.
#[must_use]
pub fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
