//! One BackupVm: the edges are drawn in [`super`]. A job runs in its own task; its stream is only where it reports to.
//! When the stream breaks, the job stops reading and detaches; its result stays readable.
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hotadd_api::v1::{self, Cleanup, JobState, Phase, job_event::Item as Event};
use hotadd_blockio::EngineKind;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout},
};
use tonic::Status;

use super::{
    opener::{Opened, Opener, Source},
    registry::{Manager, VmClaim, lock},
    snapshot::{HeldSnapshot, Wish},
};
use crate::{
    attach::{Attached, Settled, now},
    error::{Error, Result},
    id::{JobId, SessionId},
    plan::{self, facts_to_api},
    reason,
    transport::{Item, Outlet, ReadOrder, Reading, micros},
};

/// Results kept for GetJob.
const KEEP_JOBS: usize = 256;
/// Events between a job and its stream. Frames wait here, so it bounds memory together with the arenas.
const EVENTS: usize = 8;
/// How long a client may take to accept an event that is not a frame.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);
/// Look again whether the client took everything.
const TAKEN_POLL: Duration = Duration::from_millis(20);

/// What BackupVm asks.
#[derive(Debug, Clone)]
pub struct JobRequest {
    pub request_id: String,
    /// Everything else of the request, to tell a repetition from a conflict.
    pub fingerprint: Vec<u8>,
    pub vm: String,
    pub wish: Wish,
    pub keys: Vec<i32>,
    pub block_bytes: u32,
    pub partial: bool,
    pub engines: Vec<EngineKind>,
}

pub type EventStream = mpsc::Receiver<Result<v1::JobEvent, Status>>;

/// The registry of jobs.
#[derive(Debug, Clone)]
pub struct Jobs {
    manager: Manager,
    results: Arc<Mutex<VecDeque<v1::JobResult>>>,
    /// What each job was asked, by its id; locked after `results`.
    asked: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    /// Rung when a job has ended.
    ended: watch::Sender<()>,
}

impl Jobs {
    #[must_use]
    pub fn new(manager: Manager) -> Self {
        Self { manager, results: Arc::default(), asked: Arc::default(), ended: watch::Sender::new(()) }
    }

    /// Starts a job, or shows the result of the one that this request started before.
    ///
    /// # Errors
    /// [`reason::JOB_RUNNING`], [`reason::SES_CONFLICT`], [`reason::SES_DRAINING`].
    pub fn start(&self, request: JobRequest) -> Result<EventStream> {
        let (tx, rx) = mpsc::channel(EVENTS);
        let mut results = lock(&self.results);
        let same = |job: &&v1::JobResult| !request.request_id.is_empty() && job.request_id == request.request_id;
        if let Some(job) = results.iter().find(same) {
            if lock(&self.asked).get(&job.job_id) != Some(&request.fingerprint) {
                return Err(Error::new(&reason::SES_CONFLICT, request.request_id));
            }
            if job.state() == JobState::Running {
                return Err(Error::new(&reason::JOB_RUNNING, &job.job_id).owing());
            }
            let replay = [Event::JobId(job.job_id.clone()), Event::Result(job.clone())];
            for event in replay {
                tx.try_send(Ok(v1::JobEvent { item: Some(event) })).ok();
            }
            return Ok(rx);
        }
        if self.manager.draining().is_cancelled() {
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        let id = JobId::new();
        if results.len() >= KEEP_JOBS
            && let Some(oldest) = results.iter().position(|job| job.state() != JobState::Running)
            && let Some(forgotten) = results.remove(oldest)
        {
            lock(&self.asked).remove(&forgotten.job_id);
        }
        lock(&self.asked).insert(id.to_string(), request.fingerprint.clone());
        results.push_back(v1::JobResult {
            job_id: id.to_string(),
            request_id: request.request_id.clone(),
            state: JobState::Running.into(),
            started: now(),
            cleanup: Cleanup::Owed.into(),
            ..v1::JobResult::default()
        });
        drop(results);
        let session = SessionId::new();
        let job = Arc::new(Job {
            id,
            session,
            request,
            jobs: self.clone(),
            tx,
            cancel: Arc::default(),
            deaf: Arc::default(),
        });
        let run = tokio::spawn(Arc::clone(&job).run());
        tokio::spawn(async move {
            if let Err(panic) = run.await {
                // What it held went to the settler when it was dropped; the journal knows the rest.
                job.conclude(vec![panic.into()]).await;
            }
        });
        Ok(rx)
    }

    /// # Errors
    /// [`reason::JOB_UNKNOWN`].
    pub fn get(&self, is_it: impl Fn(&v1::JobResult) -> bool, name: &str) -> Result<v1::JobResult> {
        let found = lock(&self.results).iter().find(|job| is_it(job)).cloned();
        found.ok_or_else(|| Error::new(&reason::JOB_UNKNOWN, format!("{name:?}")))
    }

    #[must_use]
    pub fn list(&self) -> Vec<v1::JobResult> {
        lock(&self.results).iter().cloned().collect()
    }

    /// Returns when no job runs any more.
    pub async fn wait_idle(&self) {
        let mut ended = self.ended.subscribe();
        while lock(&self.results).iter().any(|job| job.state() == JobState::Running) {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }
}

struct Job {
    id: JobId,
    session: SessionId,
    request: JobRequest,
    jobs: Jobs,
    tx: mpsc::Sender<Result<v1::JobEvent, Status>>,
    cancel: Arc<AtomicBool>,
    /// The client did not take something in time: it is not waited for again before everything is given back.
    deaf: Arc<AtomicBool>,
}

/// What a job holds; given back in order whatever happened.
#[derive(Default)]
struct Holding {
    claim: Option<VmClaim>,
    snapshot: Option<HeldSnapshot>,
    disks: Vec<Arc<Attached>>,
}

impl Job {
    async fn run(self: Arc<Self>) {
        let span = tracing::info_span!("job", job = %self.id, vm = self.request.vm);
        tracing::Instrument::instrument(self.run_inner(), span).await;
    }

    async fn run_inner(&self) {
        self.emit(Event::JobId(self.id.to_string())).await;
        let mut holding = Holding::default();
        let mut errors = Vec::new();
        errors.extend(self.work(&mut holding).await.err());
        if let Settled::Owed(error) = self.end(holding).await {
            errors.push(error);
        }
        if errors.is_empty() {
            errors.extend(self.everything_taken().await.err());
        }
        self.conclude(errors).await;
    }

    /// A result may be OK only if the client took every event before it. What the transport below still holds is the
    /// client's to count: its ranges and hashes tell.
    async fn everything_taken(&self) -> Result<()> {
        let patience = self.jobs.manager.opener().vm.limits.lease_default;
        let empty = async {
            while self.tx.capacity() < self.tx.max_capacity() && !self.tx.is_closed() {
                tokio::time::sleep(TAKEN_POLL).await;
            }
        };
        let in_time = timeout(patience, empty).await.is_ok();
        if in_time && !self.tx.is_closed() {
            Ok(())
        } else {
            Err(Error::new(&reason::JOB_STREAM, "before it took the last events"))
        }
    }

    /// Ends when the client is gone or the agent drains.
    async fn abort(&self) {
        tokio::select! {
            () = self.tx.closed() => {}
            () = self.jobs.manager.draining().cancelled() => {}
        }
    }

    /// Between two steps. A step that changes something in vSphere is never torn apart.
    fn go_on(&self) -> Result<()> {
        let gone = self.tx.is_closed() || self.jobs.manager.draining().is_cancelled();
        if gone { Err(self.abort_reason()) } else { Ok(()) }
    }

    fn abort_reason(&self) -> Error {
        if self.tx.is_closed() { Error::new(&reason::JOB_STREAM, "") } else { Error::new(&reason::SES_DRAINING, "") }
    }

    async fn work(&self, holding: &mut Holding) -> Result<()> {
        let opener = self.jobs.manager.opener();
        let session = self.session;
        let clock = self.begin(Phase::Preflight).await;
        let preflight = opener.preflight(&self.request.vm, &self.request.keys).await?;
        let target = &preflight.target;
        self.note(|job| {
            job.vm_moref = target.moref.to_string();
            job.vm_name.clone_from(&target.name);
        });
        self.emit(Event::Preflight(v1::Preflight {
            vm_moref: target.moref.to_string(),
            vm_name: target.name.clone(),
            power_state: target.power_state.clone(),
            disks: preflight.decisions.iter().map(plan::to_api).collect(),
        }))
        .await;
        holding.claim = Some(self.jobs.manager.claim(&target.moref, &target.name)?);
        opener.admit(&preflight, self.request.partial).await?;
        self.finish(Phase::Preflight, clock).await;
        self.go_on()?;

        let clock = self.begin(Phase::Snapshot).await;
        let snapshot = opener.snapshot(session, target, &Source::Take(self.request.wish)).await?;
        let api = snapshot.to_api();
        let moref = snapshot.moref.clone();
        holding.snapshot = Some(snapshot);
        self.note(|job| job.snapshot = Some(api.clone()));
        self.emit(Event::Snapshot(api)).await;
        self.finish(Phase::Snapshot, clock).await;
        self.go_on()?;

        let clock = self.begin(Phase::Attach).await;
        let opened = opener.attach(session, target, &moref, &self.request.keys).await?;
        let refused = self.hold(opened, holding);
        self.finish(Phase::Attach, clock).await;
        if holding.disks.is_empty() || (!self.request.partial && !refused.is_empty()) {
            let first = refused.into_iter().next();
            return Err(first.unwrap_or_else(|| Error::new(&reason::VM_NO_DISKS, &target.name)));
        }
        self.go_on()?;

        let clock = self.begin(Phase::Read).await;
        let read = self.read_all(opener, &holding.disks).await;
        self.finish(Phase::Read, clock).await;
        read
    }

    /// Sorts the attached from the refused and notes both.
    fn hold(&self, opened: Vec<Opened>, holding: &mut Holding) -> Vec<Error> {
        let mut refused = Vec::new();
        for disk in opened {
            match disk.attached {
                Ok(attached) => holding.disks.push(attached),
                Err(errors) => {
                    let facts = facts_to_api(&disk.decision.disk);
                    let reasons = errors.iter().map(Error::to_reason).collect();
                    let result = v1::DiskResult { disk: Some(facts), reasons, ..v1::DiskResult::default() };
                    self.note(|job| job.disks.push(result));
                    refused.extend(errors);
                }
            }
        }
        refused
    }

    async fn read_all(&self, opener: &Opener, disks: &[Arc<Attached>]) -> Result<()> {
        let turns = Semaphore::new(opener.vm.limits.parallel_reads);
        let reads = disks.iter().map(|disk| async {
            // Never closed, so the only way on is a permit.
            let _turn = turns.acquire().await;
            self.go_on()?;
            self.read_one(opener, disk).await
        });
        let mut reads = std::pin::pin!(futures_util::future::join_all(reads));
        let results = tokio::select! {
            results = &mut reads => results,
            () = self.abort() => {
                // The threads end between two blocks; their descriptors are closed when they have.
                self.cancel.store(true, Ordering::Relaxed);
                // One that hangs in the kernel must not keep the disks attached.
                if timeout(opener.vm.deadlines.cleanup, reads).await.is_err() {
                    tracing::error!("a read does not end; detaching under it");
                }
                return Err(self.abort_reason());
            }
        };
        let Some(error) = results.into_iter().find_map(Result::err) else { return Ok(()) };
        if *error.reason() == reason::READ_STOPPED {
            // A read stops because the stream broke or the agent drains: that is the cause to tell.
            self.go_on()?;
        }
        Err(error)
    }

    async fn read_one(&self, opener: &Opener, disk: &Arc<Attached>) -> Result<()> {
        let order = ReadOrder {
            ranges: Vec::new(),
            block_bytes: self.request.block_bytes,
            depth: opener.vm.limits.depth,
            engines: self.request.engines.clone(),
        };
        let patience = opener.vm.limits.lease_default;
        let mut outlet = Outlet::new(self.tx.clone(), Arc::clone(&self.cancel), patience);
        let facts = facts_to_api(disk.disk());
        let (cancel, deaf) = (Arc::clone(&self.cancel), Arc::clone(&self.deaf));
        let sink = Box::new(move |item| {
            let event = match item {
                Item::Opened { engine, bytes_required } => {
                    let (disk, engine) = (Some(facts.clone()), engine.name().to_owned());
                    Event::Opened(v1::DiskOpened { disk, engine, bytes_required })
                }
                Item::Frame(frame) => Event::Frame(frame),
            };
            let flow = outlet.push(Ok(v1::JobEvent { item: Some(event) }));
            if flow.is_break() && !cancel.load(Ordering::Relaxed) {
                deaf.store(true, Ordering::Relaxed);
            }
            flow
        });
        let (cancel, memory) = (Arc::clone(&self.cancel), &opener.vm.memory);
        let reading = Reading::start(Arc::clone(disk), opener.platform(), order, sink, cancel, memory).await?;
        let report = reading.join().await;
        let result = report.to_api(disk);
        self.note(|job| job.disks.push(result.clone()));
        // As patient as with a frame: without this event the job is not OK.
        let told = self.emit_within(Event::DiskRead(result), patience).await;
        match report.error {
            Some(error) => Err(error),
            None if !told => Err(Error::new(&reason::JOB_STREAM, "a disk's result was not taken")),
            None => Ok(()),
        }
    }

    /// Detach, then remove the snapshot; both by the settler, which goes on after our patience.
    async fn end(&self, holding: Holding) -> Settled {
        let Holding { claim, snapshot, disks } = holding;
        let manager = &self.jobs.manager;
        let keys: Vec<i32> = disks.iter().map(|disk| disk.disk().device_key).collect();
        let clock = if keys.is_empty() { None } else { Some(self.begin(Phase::Detach).await) };
        let start = Instant::now();
        drop(disks);
        let mut settled = manager.give_back_disks(self.session).await;
        let detach_us = micros(start.elapsed());
        self.note(|job| {
            let of_ours = |r: &&mut v1::DiskResult| r.disk.as_ref().is_some_and(|d| keys.contains(&d.device_key));
            job.disks
                .iter_mut()
                .filter(of_ours)
                .filter_map(|r| r.timings.as_mut())
                .for_each(|t| t.detach_us = detach_us);
        });
        if let Some(clock) = clock {
            self.finish(Phase::Detach, clock).await;
        }
        if let (Some(snapshot), Settled::Done) = (snapshot, &settled) {
            let clock = self.begin(Phase::RemoveSnapshot).await;
            settled = manager.give_back_snapshot(self.session, snapshot).await;
            self.finish(Phase::RemoveSnapshot, clock).await;
        }
        drop(claim);
        settled
    }

    async fn conclude(&self, errors: Vec<Error>) {
        // The journal decides what is owed, not the errors.
        let owed = self.jobs.manager.hand_over_all(self.session);
        let errors: Vec<Error> = errors.into_iter().map(|e| if owed { e.owing() } else { e }).collect();
        self.note(|job| {
            let delivered = job.disks.iter().any(|disk| disk.ok);
            let all = job.disks.iter().all(|disk| disk.ok || self.request.partial);
            let complete = errors.is_empty() && delivered && all && !owed;
            job.state = if complete { JobState::Ok } else { JobState::Failed }.into();
            job.reasons = errors.iter().map(Error::to_reason).collect();
            job.cleanup = if owed { Cleanup::Owed } else { Cleanup::Done }.into();
            job.ended = now();
            if complete {
                job.phase = Phase::Done.into();
            }
        });
        for error in &errors {
            tracing::error!(reason = error.reason().code, %error, "job failed");
        }
        let id = self.id.to_string();
        if let Ok(result) = self.jobs.get(|job| job.job_id == id, &id) {
            tracing::info!(state = ?result.state(), cleanup = ?result.cleanup(), "job ended");
            self.jobs.ended.send_replace(());
            // Nothing is held any more, so a slow client may have its time.
            self.deaf.store(false, Ordering::Relaxed);
            self.emit(Event::Result(result)).await;
        }
    }

    fn note(&self, change: impl FnOnce(&mut v1::JobResult)) {
        let id = self.id.to_string();
        if let Some(job) = lock(&self.jobs.results).iter_mut().find(|job| job.job_id == id) {
            change(job);
        }
    }

    async fn begin(&self, phase: Phase) -> Instant {
        self.note(|job| job.phase = phase.into());
        self.emit(Event::Phase(v1::PhaseEvent { phase: phase.into(), ..v1::PhaseEvent::default() })).await;
        Instant::now()
    }

    async fn finish(&self, phase: Phase, since: Instant) {
        let duration = since.elapsed();
        tracing::info!(op = phase.as_str_name(), duration_ms = duration.as_millis(), "phase finished");
        let event = v1::PhaseEvent {
            phase: phase.into(),
            finished: true,
            duration_us: micros(duration),
            ..v1::PhaseEvent::default()
        };
        self.emit(Event::Phase(event)).await;
    }

    /// A client that is gone, or that does not read while the job ends, misses events, never the clean-up: it is waited
    /// for once. Tells whether the event went into the stream.
    async fn emit(&self, event: Event) -> bool {
        self.emit_within(event, EVENT_PATIENCE).await
    }

    async fn emit_within(&self, event: Event, patience: Duration) -> bool {
        let event = Ok(v1::JobEvent { item: Some(event) });
        let taken = if self.deaf.load(Ordering::Relaxed) {
            self.tx.try_send(event).is_ok()
        } else {
            self.tx.send_timeout(event, patience).await.is_ok()
        };
        if !taken {
            self.deaf.store(true, Ordering::Relaxed);
            tracing::debug!("the client did not take an event");
        }
        taken
    }
}
