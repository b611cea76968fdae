//! The registry of sessions: one per target VM, leases, idempotent opening, reads, closing, drain.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hotadd_api::v1::{self, Cleanup};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    opener::{Opened, Opener, Source},
    snapshot::HeldSnapshot,
};
use crate::{
    attach::{Attached, Settled, now},
    error::{Error, Result},
    id::{Moref, SessionId},
    journal::Record,
    plan::facts_to_api,
    reason,
    transport::{Item, Outlet, ReadOrder, Reading},
};

/// How often leases are looked at.
const LEASE_TICK: Duration = Duration::from_millis(500);
/// Reads of one session at the same time.
const READS_PER_SESSION: u32 = 256;
/// Ended sessions that ListSessions still shows.
const KEEP_ENDED: usize = 64;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What OpenDisks asks.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    pub request_id: String,
    /// Everything else of the request, to tell a repetition from a conflict.
    pub fingerprint: Vec<u8>,
    pub vm: String,
    pub source: Source,
    pub keys: Vec<i32>,
    pub lease: Option<Duration>,
}

/// Names of the states, as the API shows them; the edges are drawn in [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    Closing,
    Closed,
    Owed,
}

impl State {
    fn name(self) -> &'static str {
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
    id: SessionId,
    vm_name: String,
    opened: Vec<v1::OpenedDisk>,
    snapshot: v1::SnapshotResult,
    lease: Duration,
    inner: Mutex<Inner>,
    /// Every read holds a permit; closing takes them all.
    reads: Arc<Semaphore>,
    cancel_reads: Arc<AtomicBool>,
}

struct Inner {
    state: State,
    lease_end: Instant,
    reason: String,
    held: Option<Held>,
}

/// Dropped in this order: disks first, the snapshot they come from after them, the VM's claim last.
struct Held {
    disks: BTreeMap<i32, Arc<Attached>>,
    snapshot: HeldSnapshot,
    _claim: VmClaim,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {})", self.id, self.vm_name)
    }
}

type Answer = Option<Result<Arc<Session>, Arc<Error>>>;
type Requests = HashMap<String, (Vec<u8>, watch::Receiver<Answer>)>;

/// See the module.
#[derive(Debug, Clone)]
pub struct Manager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    opener: Opener,
    sessions: Mutex<Vec<Arc<Session>>>,
    requests: Mutex<Requests>,
    claimed: Arc<Mutex<HashSet<Moref>>>,
    drain: CancellationToken,
}

/// One session or job per target VM at a time.
#[derive(Debug)]
pub struct VmClaim {
    vm: Moref,
    claimed: Arc<Mutex<HashSet<Moref>>>,
}

impl Drop for VmClaim {
    fn drop(&mut self) {
        lock(&self.claimed).remove(&self.vm);
    }
}

impl Manager {
    /// Starts the lease clock.
    #[must_use]
    pub fn start(opener: Opener) -> Self {
        let shared = Arc::new(Shared {
            opener,
            sessions: Mutex::default(),
            requests: Mutex::default(),
            claimed: Arc::default(),
            drain: CancellationToken::new(),
        });
        let this = Self { shared };
        tokio::spawn(this.clone().watch_leases());
        this
    }

    #[must_use]
    pub fn opener(&self) -> &Opener {
        &self.shared.opener
    }

    /// Cancelled when the agent drains.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.shared.drain
    }

    /// One session or job per VM, and none while anything of an earlier one is owed: its snapshot and the new one's disks
    /// would be of one chain.
    ///
    /// # Errors
    /// [`reason::SES_BUSY`], or [`reason::SES_DRAINING`].
    pub fn claim(&self, vm: &Moref, name: &str) -> Result<VmClaim> {
        if self.shared.drain.is_cancelled() {
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        if !lock(&self.shared.claimed).insert(vm.clone()) {
            return Err(Error::new(&reason::SES_BUSY, name));
        }
        let claim = VmClaim { vm: vm.clone(), claimed: Arc::clone(&self.shared.claimed) };
        if let Some(duty) = self.shared.opener.vm.journal.state().duties().find(|duty| duty.vm == *vm) {
            let detail = format!("{name}: clean-up of an earlier one is not finished (duty {})", duty.id);
            return Err(Error::new(&reason::SES_BUSY, detail).owing());
        }
        Ok(claim)
    }

    /// Opens a session, or gives the one that this request opened before. Runs to its end without its caller.
    ///
    /// # Errors
    /// Whatever the opening met; everything is given back or owed then.
    pub async fn open(&self, request: OpenRequest) -> Result<v1::OpenDisksResponse> {
        let mut answer = self.admit(request)?;
        let session = loop {
            if let Some(result) = answer.borrow_and_update().clone() {
                break result.map_err(|error| error.copy())?;
            }
            if answer.changed().await.is_err() {
                return Err(Error::new(&reason::INTERNAL, "the opening ended without an answer").owing());
            }
        };
        Ok(session.to_response())
    }

    fn admit(&self, request: OpenRequest) -> Result<watch::Receiver<Answer>> {
        if self.shared.drain.is_cancelled() {
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        let mut requests = lock(&self.shared.requests);
        if !request.request_id.is_empty()
            && let Some((fingerprint, answer)) = requests.get(&request.request_id)
        {
            if *fingerprint != request.fingerprint {
                return Err(Error::new(&reason::SES_CONFLICT, request.request_id));
            }
            return Ok(answer.clone());
        }
        let (tell, answer) = watch::channel(None);
        if !request.request_id.is_empty() {
            requests.insert(request.request_id.clone(), (request.fingerprint.clone(), answer.clone()));
        }
        drop(requests);
        let this = self.clone();
        tokio::spawn(async move {
            let id = request.request_id.clone();
            let result = this.open_new(request).await.map_err(Arc::new);
            if result.is_err() {
                // A failed request may be tried again under the same id.
                lock(&this.shared.requests).remove(&id);
            }
            tell.send_replace(Some(result));
        });
        Ok(answer)
    }

    async fn open_new(&self, request: OpenRequest) -> Result<Arc<Session>> {
        let opener = &self.shared.opener;
        let id = SessionId::new();
        let preflight = opener.preflight(&request.vm, &request.keys).await?;
        let target = &preflight.target;
        let claim = self.claim(&target.moref, &target.name)?;
        opener.admit(&preflight, true).await?;
        let snapshot = opener.snapshot(id, target, &request.source).await?;
        let disks = match opener.attach(id, target, &snapshot.moref, &request.keys).await {
            Ok(disks) => disks,
            Err(error) => return Err(self.abandon(error, id, snapshot).await),
        };
        let opened: Vec<_> = disks.iter().map(opened_to_api).collect();
        let (held, errors) = split(disks);
        if held.is_empty() {
            let error = errors.into_iter().next().unwrap_or_else(|| Error::new(&reason::VM_NO_DISKS, &target.name));
            return Err(self.abandon(error, id, snapshot).await);
        }
        let limits = &opener.vm.limits;
        let lease = request.lease.unwrap_or(limits.lease_default).clamp(limits.lease_min, limits.lease_max);
        let began = Record::LeaseBegan { session: id, at: now(), seconds: lease.as_secs() };
        if let Err(error) = opener.vm.record(vec![began]).await {
            drop(held);
            return Err(self.abandon(error, id, snapshot).await);
        }
        let session = Arc::new(Session {
            id,
            vm_name: target.name.clone(),
            opened,
            snapshot: snapshot.to_api(),
            lease,
            inner: Mutex::new(Inner {
                state: State::Open,
                lease_end: Instant::now() + lease,
                reason: String::new(),
                held: Some(Held { disks: held, snapshot, _claim: claim }),
            }),
            reads: Arc::new(Semaphore::new(READS_PER_SESSION as usize)),
            cancel_reads: Arc::default(),
        });
        tracing::info!(session = %id, vm = target.name, "session open");
        self.remember(&session);
        if self.shared.drain.is_cancelled() {
            self.close(&session, "the agent is shutting down").await;
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        Ok(session)
    }

    fn remember(&self, session: &Arc<Session>) {
        let mut sessions = lock(&self.shared.sessions);
        let ended = |s: &Arc<Session>| lock(&s.inner).state == State::Closed;
        if sessions.len() > KEEP_ENDED
            && let Some(oldest) = sessions.iter().position(ended)
        {
            sessions.remove(oldest);
        }
        sessions.push(Arc::clone(session));
    }

    /// Gives everything back after a failure and tells with the cause whether something is still owed.
    async fn abandon(&self, error: Error, session: SessionId, snapshot: HeldSnapshot) -> Error {
        self.give_back_disks(session).await;
        match self.give_back_snapshot(session, snapshot).await {
            Settled::Done => error,
            Settled::Owed(_) => error.owing(),
        }
    }

    /// Settles every disk that the journal knows of this session, those of an attach that went wrong included. The
    /// wait is bounded, the settling is not.
    pub async fn give_back_disks(&self, session: SessionId) -> Settled {
        let opener = &self.shared.opener;
        let open = opener.vm.journal.duties_of(session);
        let disks: Vec<_> = open.iter().filter(|duty| duty.attach().is_some()).map(|duty| duty.id).collect();
        opener.settler.settle(&disks, opener.vm.deadlines.cleanup).await
    }

    /// Whatever is left of the session: its snapshots, after its disks.
    pub async fn give_back_snapshot(&self, session: SessionId, snapshot: HeldSnapshot) -> Settled {
        let opener = &self.shared.opener;
        drop(snapshot);
        let open: Vec<_> = opener.vm.journal.duties_of(session).iter().map(|duty| duty.id).collect();
        opener.settler.settle(&open, opener.vm.deadlines.cleanup).await
    }

    /// # Errors
    /// [`reason::SES_UNKNOWN`].
    pub fn get(&self, id: &str) -> Result<Arc<Session>> {
        let unknown = || Error::new(&reason::SES_UNKNOWN, format!("{id:?}"));
        let wanted: SessionId = id.parse().map_err(|_| unknown())?;
        lock(&self.shared.sessions).iter().find(|s| s.id == wanted).cloned().ok_or_else(unknown)
    }

    #[must_use]
    pub fn list(&self) -> Vec<v1::Session> {
        lock(&self.shared.sessions).iter().map(|session| session.to_api()).collect()
    }

    /// Detaches everything of a session; a session that is closing or closed answers with how that ended.
    pub async fn close(&self, session: &Arc<Session>, why: &str) -> v1::CloseDisksResponse {
        let held = {
            let mut inner = lock(&session.inner);
            let held = inner.held.take();
            if held.is_some() {
                inner.state = State::Closing;
                why.clone_into(&mut inner.reason);
            }
            held
        };
        if let Some(held) = held {
            // In a task of its own: a caller that goes away does not stop it.
            let (this, session, why) = (self.clone(), Arc::clone(session), why.to_owned());
            drop(tokio::spawn(async move { this.close_held(&session, held, &why).await }).await);
        }
        self.after_close(session)
    }

    async fn close_held(&self, session: &Session, held: Held, why: &str) {
        session.cancel_reads.store(true, Ordering::Relaxed);
        // Every reader's descriptor is closed before its device is deleted.
        let all_reads = session.reads.acquire_many(READS_PER_SESSION).await;
        let Held { disks, snapshot, _claim } = held;
        drop(disks);
        self.give_back_disks(session.id).await;
        let settled = self.give_back_snapshot(session.id, snapshot).await;
        drop(all_reads);
        lock(&session.inner).state = if matches!(settled, Settled::Done) { State::Closed } else { State::Owed };
        tracing::info!(session = %session.id, vm = session.vm_name, why, ?settled, "session ended");
        let ended = Record::LeaseEnded { session: session.id, at: now(), reason: why.to_owned() };
        if let Err(error) = self.shared.opener.vm.record(vec![ended]).await {
            tracing::warn!(%error, "the end of a lease could not be journalled");
        }
    }

    fn after_close(&self, session: &Session) -> v1::CloseDisksResponse {
        let open = self.shared.opener.vm.journal.duties_of(session.id);
        let reasons = open.iter().map(|duty| {
            let why = self.shared.opener.settler.why(duty.id).unwrap_or_else(|| "being settled".to_owned());
            Error::new(&reason::DUTY_OWED, why).owing().to_reason()
        });
        let cleanup = if open.is_empty() { Cleanup::Done } else { Cleanup::Owed };
        if open.is_empty() {
            lock(&session.inner).state = State::Closed;
        }
        v1::CloseDisksResponse { cleanup: cleanup.into(), reasons: reasons.collect() }
    }

    async fn watch_leases(self) {
        let mut clock = tokio::time::interval(LEASE_TICK);
        loop {
            clock.tick().await;
            let over: Vec<_> = lock(&self.shared.sessions).iter().filter(|s| s.is_over()).cloned().collect();
            for session in over {
                tracing::warn!(session = %session.id, vm = session.vm_name, reason = reason::SES_LEASE.code, "lease over; detaching");
                let this = self.clone();
                tokio::spawn(async move { this.close(&session, reason::SES_LEASE.summary).await });
            }
        }
    }

    /// Refuses everything new, ends everything that lives. Returns when every session has ended or been handed over.
    pub async fn drain(&self) {
        self.shared.drain.cancel();
        let live: Vec<_> = lock(&self.shared.sessions).clone();
        futures_util::future::join_all(live.iter().map(|s| self.close(s, "the agent is shutting down"))).await;
    }
}

fn split(disks: Vec<Opened>) -> (BTreeMap<i32, Arc<Attached>>, Vec<Error>) {
    let mut held = BTreeMap::new();
    let mut errors = Vec::new();
    for disk in disks {
        match disk.attached {
            Ok(attached) => drop(held.insert(disk.decision.disk.device_key, attached)),
            Err(why) => errors.extend(why),
        }
    }
    (held, errors)
}

fn opened_to_api(opened: &Opened) -> v1::OpenedDisk {
    let ok = opened.attached.is_ok();
    v1::OpenedDisk {
        disk: Some(facts_to_api(&opened.decision.disk)),
        opened: ok,
        reasons: opened.attached.as_ref().err().into_iter().flatten().map(Error::to_reason).collect(),
        transport: if ok { v1::Transport::Hotadd } else { v1::Transport::Unspecified }.into(),
    }
}

impl Session {
    /// Renews the lease and tells what is left.
    ///
    /// # Errors
    /// [`reason::SES_STATE`] when it is no longer open.
    pub fn keep_alive(&self) -> Result<Duration> {
        let mut inner = lock(&self.inner);
        if inner.state != State::Open {
            return Err(self.wrong_state(&inner));
        }
        inner.lease_end = Instant::now() + self.lease;
        Ok(self.lease)
    }

    fn is_over(&self) -> bool {
        let inner = lock(&self.inner);
        inner.state == State::Open && inner.lease_end <= Instant::now()
    }

    fn wrong_state(&self, inner: &Inner) -> Error {
        Error::new(&reason::SES_STATE, format!("{} is {} ({})", self.id, inner.state.name(), inner.reason))
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
        let attached = {
            let inner = lock(&self.inner);
            let held = inner.held.as_ref().filter(|_| inner.state == State::Open);
            let disks = &held.ok_or_else(|| self.wrong_state(&inner))?.disks;
            let unknown = || Error::new(&reason::VM_DISK_UNKNOWN, format!("key {device_key} is not in this session"));
            disks.get(&device_key).cloned().ok_or_else(unknown)?
        };
        let permit = Arc::clone(&self.reads)
            .try_acquire_owned()
            .map_err(|_| Error::new(&reason::SES_STATE, "too many reads, or the session is closing"))?;
        let session = Arc::clone(self);
        // No patience of its own: a client that stops reading loses its lease, and that cancels the read.
        let mut outlet = Outlet::new(tx.clone(), Arc::clone(&self.cancel_reads), Duration::MAX);
        let sink = Box::new(move |item| {
            let Item::Frame(frame) = item else { return ControlFlow::Continue(()) };
            let message = v1::ReadDiskResponse { item: Some(v1::read_disk_response::Item::Frame(frame)) };
            outlet.push(Ok(message))?;
            // Progress renews the lease; one that ended meanwhile cancels the read by its flag.
            session.keep_alive().ok();
            ControlFlow::Continue(())
        });
        let reading =
            Reading::start(Arc::clone(&attached), opener.platform(), order, sink, Arc::clone(&self.cancel_reads))?;
        tokio::spawn(async move {
            let report = reading.join().await;
            let done = report.to_api(&attached);
            // The order matters to a close that waits for the permit: nothing of this read holds the disk after it.
            drop(attached);
            drop(permit);
            // A client that is gone does not want the result.
            tx.send(Ok(v1::ReadDiskResponse { item: Some(v1::read_disk_response::Item::Done(done)) })).await.ok();
        });
        Ok(())
    }

    fn to_response(&self) -> v1::OpenDisksResponse {
        v1::OpenDisksResponse {
            session_id: self.id.to_string(),
            snapshot: Some(self.snapshot.clone()),
            disks: self.opened.clone(),
            lease_seconds: seconds(self.lease),
        }
    }

    fn to_api(&self) -> v1::Session {
        let inner = lock(&self.inner);
        let left = inner.lease_end.saturating_duration_since(Instant::now());
        v1::Session {
            session_id: self.id.to_string(),
            vm: self.vm_name.clone(),
            state: inner.state.name().to_owned(),
            disks: self.opened.clone(),
            lease_seconds_left: if inner.state == State::Open { seconds(left) } else { 0 },
            closed_reason: inner.reason.clone(),
        }
    }
}

/// Whole seconds, saturating.
#[must_use]
pub fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
