//! One BackupVm: the edges are drawn in [`super`]. A job runs in its own task; its stream is only where it reports to.
//! When the stream breaks, the job stops reading and detaches; its result stays readable. If it asked for a window to
//! resume in, its snapshot is kept as a journalled duty with that deadline. What is read of a disk is in [`mapping`], reading
//! in [`reading`], its end in [`ending`].
mod ending;
mod held;
mod machine;
mod mapping;
mod reading;
mod returning;
mod tracking;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hotadd_api::v1::{self, EventKind, Phase, job_event::Item as Event};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use tonic::Status;

use self::{held::HeldDisk, tracking::Origin};
use super::{
    jobs::{JobRequest, Jobs},
    opener::{Opened, Opener, Source},
    registry::{VmClaim, lock},
    snapshot::HeldSnapshot,
    watch::{self, Watch},
};
use crate::{
    attach::{Actor, Settled, now},
    error::{Error, Result},
    hypervisor::TargetFacts,
    id::{JobId, SessionId},
    journal::{JobBegan, Record},
    plan::{self, Decision, Route, facts_to_api},
    reason,
    transport::micros,
};

/// Look again whether the client took everything.
const TAKEN_POLL: Duration = Duration::from_millis(20);

pub(super) struct Job {
    id: JobId,
    session: SessionId,
    request: JobRequest,
    jobs: Jobs,
    tx: mpsc::Sender<Result<v1::JobEvent, Status>>,
    /// Ends every read.
    cancel: Arc<AtomicBool>,
    /// The client did not take something in time: it is not waited for again before everything is given back.
    deaf: Arc<AtomicBool>,
    /// Over what is held now.
    watch: Mutex<Option<Arc<Watch>>>,
    /// Told when `watch` is another.
    rewatched: Notify,
    /// Attaches that run beside the reads.
    attaching: TaskTracker,
    /// Its rights; they end with it.
    actor: OnceLock<Actor>,
}

/// What a job holds; given back in order whatever happened.
#[derive(Default)]
struct Holding {
    target: Option<TargetFacts>,
    claim: Option<VmClaim>,
    /// Shared with attaches that run: it outlives them.
    snapshot: Option<Arc<HeldSnapshot>>,
    disks: Vec<HeldDisk>,
}

impl Job {
    pub(super) fn new(
        id: JobId,
        session: SessionId,
        request: JobRequest,
        jobs: Jobs,
        tx: mpsc::Sender<Result<v1::JobEvent, Status>>,
    ) -> Self {
        let (cancel, deaf) = (Arc::default(), Arc::default());
        let (watch, rewatched, attaching) = (Mutex::default(), Notify::new(), TaskTracker::new());
        let actor = OnceLock::new();
        Self { id, session, request, jobs, tx, cancel, deaf, watch, rewatched, attaching, actor }
    }

    fn watch_now(&self) -> Option<Arc<Watch>> {
        lock(&self.watch).clone()
    }

    /// The proxy matters again, or does not any more. What a watch has found is not forgotten.
    fn watch_proxy(&self, next: impl FnOnce(&Watch) -> Option<Watch>) {
        let mut now = lock(&self.watch);
        let calm = now.as_ref().filter(|watch| watch.trouble().now().is_none());
        if let Some(next) = calm.and_then(|watch| next(watch)) {
            *now = Some(Arc::new(next));
            self.rewatched.notify_one();
        }
    }

    fn watch_by(&self, watch: Watch) {
        *lock(&self.watch) = Some(Arc::new(watch));
        self.rewatched.notify_one();
    }

    pub(super) async fn run(self: Arc<Self>) {
        let span = tracing::info_span!("job", job = %self.id, vm = self.request.vm);
        tracing::Instrument::instrument(self.run_inner(), span).await;
    }

    async fn run_inner(&self) {
        // Known before it is told: who asks after a crash gets an answer.
        let began = self.record_begin().await;
        self.emit(Event::JobId(self.id.to_string())).await;
        let mut holding = Holding::default();
        let mut errors = Vec::new();
        errors.extend(match began {
            Ok(()) => self.work(&mut holding).await.err().map(|error| self.explain(error)),
            Err(error) => Some(error),
        });
        if let Settled::Owed(error) = self.end(holding, errors.first()).await {
            errors.push(error);
        }
        if errors.is_empty() {
            errors.extend(self.everything_taken().await.err());
        }
        self.conclude(errors).await;
    }

    async fn record_begin(&self) -> Result<()> {
        let began = JobBegan {
            job: self.id,
            session: self.session,
            request_id: self.request.request_id.clone(),
            asked: self.request.asked.clone(),
            vm: self.request.vm.clone(),
            at: now(),
            resume_seconds: self.request.resume_window.as_secs(),
            owner: self.request.caller.name.to_string(),
        };
        self.jobs.manager.opener().vm.record(vec![Record::JobBegan(began)]).await
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
        if in_time && !self.tx.is_closed() { Ok(()) } else { Err(self.gone("before it took the last events")) }
    }

    /// Between two steps. A step that changes something in vSphere is never torn apart.
    fn go_on(&self) -> Result<()> {
        self.abort_reason().map_or(Ok(()), Err)
    }

    fn abort_reason(&self) -> Option<Error> {
        let trouble = self.watch_now().and_then(|watch| watch.trouble().now());
        if self.jobs.manager.draining().is_cancelled() {
            return Some(Error::new(&reason::SES_DRAINING, ""));
        }
        let over = || self.actor.get().and_then(Actor::ended);
        trouble.or_else(|| self.tx.is_closed().then(|| self.gone(""))).or_else(over)
    }

    /// # Errors
    /// Before [`Self::work`] has begun: nothing is done with other rights instead.
    fn actor(&self) -> Result<&Actor> {
        self.actor.get().ok_or_else(|| Error::new(&reason::INTERNAL, "a job acts before it has its rights"))
    }

    fn explain(&self, error: Error) -> Error {
        match self.actor.get() {
            Some(actor) => actor.explain(error),
            None => error,
        }
    }

    /// Why nobody listens any more.
    fn gone(&self, when: &str) -> Error {
        self.request.caller.peer.out().unwrap_or_else(|| Error::new(&reason::JOB_STREAM, when))
    }

    async fn work(&self, holding: &mut Holding) -> Result<()> {
        let opener = self.jobs.manager.opener();
        let session = self.session;
        // At once: a ticket does not keep.
        let actor = Actor::new(&opener.vm, session, self.request.ticket.as_ref()).await?;
        let actor = self.actor.get_or_init(|| actor);
        self.note(|job| actor.user().clone_into(&mut job.acting_user));
        let clock = self.begin(Phase::Preflight).await;
        let JobRequest { vm, keys, ways, .. } = &self.request;
        let mut preflight = opener.preflight(actor, vm, keys, ways).await?;
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
        self.ranges_fit(&preflight.decisions)?;
        let broken = self.request.resume_job.as_deref().map(|job| self.jobs.broken(job)).transpose()?;
        let resume = broken.map(|broken| broken.session);
        holding.claim = Some(self.jobs.manager.claim(&target.moref, &target.name, resume)?);
        let source = match broken {
            Some(broken) => Source::Kept(broken.session, broken.reached),
            None => Source::Take(self.request.wish),
        };
        let partial = self.request.partial;
        Opener::able(&preflight, partial)?;
        let told = |why| self.tell_waiting(why);
        // A turn is not held while a host or a slot is waited for: others could have it.
        opener.admit_in_time(&preflight, partial, told, || self.go_on()).await?;
        let mut host = watch::hold(&opener.vm, &target.moref, told, || self.go_on()).await?;
        let patience = opener.vm.deadlines.turn;
        let turn = opener.turn(session, &preflight, &source, patience, told, || self.go_on()).await?;
        if turn.as_ref().is_some_and(|turn| turn.waited) {
            preflight = opener.preflight(actor, target.moref.as_str(), keys, ways).await?;
            self.ranges_fit(&preflight.decisions)?;
            opener.admit_in_time(&preflight, partial, told, || self.go_on()).await?;
            host = watch::hold(&opener.vm, &preflight.target.moref, told, || self.go_on()).await?;
        }
        let target = &preflight.target;
        opener.can_give_back(actor, target, &source).await?;
        let note = self.enable_tracking(opener, target).await?;
        self.finish_with(Phase::Preflight, clock, note).await;
        self.go_on()?;

        let clock = self.begin(Phase::Snapshot).await;
        let snapshot = opener.snapshot(actor, &preflight, &source).await?;
        drop(turn);
        let api = snapshot.to_api();
        let moref = snapshot.moref.clone();
        self.watch_by(Watch::start(&opener.vm, target, &snapshot, host));
        holding.snapshot = Some(Arc::new(snapshot));
        holding.target = Some(target.clone());
        self.note(|job| job.snapshot = Some(api.clone()));
        self.emit(Event::Snapshot(api)).await;
        self.emit(Event::VmConfig(machine::told(actor.hypervisor().machine(&moref).await))).await;
        self.finish(Phase::Snapshot, clock).await;
        self.go_on()?;

        let clock = self.begin(Phase::Attach).await;
        let opened = opener.attach(actor, target, &moref, &self.request.keys, &self.request.ways).await?;
        // An older snapshot that is taken over may lack a disk that the VM has now.
        let fit = self.ranges_fit(opened.iter().map(|disk| &disk.decision));
        let scope = self.request.wanted.scope;
        let origin = Arc::new(Origin::look(opener, scope, target, &moref, preflight.build).await);
        let refused = self.hold(opened, &origin, holding);
        let traces = &opener.vm.traces;
        if let Some(why) = fit.as_ref().err().or(refused.first()) {
            traces.stage_broke(self.session, why);
        }
        self.finish(Phase::Attach, clock).await;
        fit?;
        if holding.disks.is_empty() || (!self.request.partial && !refused.is_empty()) {
            let first = refused.into_iter().next();
            return Err(first.unwrap_or_else(|| Error::new(&reason::VM_NO_DISKS, &target.name)));
        }
        self.go_on()?;

        let clock = self.begin(Phase::Read).await;
        let read = self.read_all(opener, holding).await;
        if let Err(why) = &read {
            traces.stage_broke(self.session, why);
        }
        self.finish(Phase::Read, clock).await;
        read?;
        // What was read after the snapshot went away may be anything.
        match self.watch_now() {
            Some(watch) => watch.last_look().await.map_or(Ok(()), Err),
            None => Ok(()),
        }
    }

    /// Ranges of a disk that is not read would be missed in silence.
    fn ranges_fit<'a>(&self, disks: impl IntoIterator<Item = &'a Decision>) -> Result<()> {
        let keys: Vec<i32> = disks.into_iter().map(|decision| decision.disk.device_key).collect();
        match self.request.ranges.keys().find(|key| !keys.contains(key)) {
            None => Ok(()),
            Some(key) => Err(Error::new(&reason::READ_DISK, format!("key {key}; the disks are {keys:?}"))),
        }
    }

    async fn tell_waiting(&self, why: Error) {
        tracing::warn!(%why, "waiting before the snapshot");
        let vm = &self.jobs.manager.opener().vm;
        vm.traces.waits(self.session, &why);
        vm.events.send(EventKind::Hold, self.id, &self.request.vm, Some(&why));
        let waiting = v1::Waiting { reason: Some(why.to_reason()), eta_seconds: 0 };
        self.emit(Event::Waiting(waiting)).await;
    }

    /// Sorts the attached from the refused and notes both.
    fn hold(&self, opened: Vec<Opened>, origin: &Arc<Origin>, holding: &mut Holding) -> Vec<Error> {
        let mut refused = Vec::new();
        for disk in opened {
            match disk.disk {
                Ok(open) => {
                    let returns = disk.decision.route == Route::HotAdd;
                    holding.disks.push(HeldDisk::new(open, disk.next, disk.remarks, Arc::clone(origin), returns));
                }
                Err(errors) => {
                    let errors: Vec<Error> = errors.into_iter().map(|error| self.explain(error)).collect();
                    let facts = facts_to_api(&disk.decision.disk);
                    let reasons = errors.iter().map(Error::to_reason).collect();
                    let result = v1::DiskResult { disk: Some(facts), reasons, ..v1::DiskResult::default() };
                    self.note(|job| job.disks.push(result));
                    refused.extend(errors);
                }
            }
        }
        let of_proxy = |why: Error| [&reason::HST_PROXY, &reason::HST_MOVED].contains(&why.reason());
        if let Some(watch) = self.watch_now()
            && watch.trouble().now().is_none_or(of_proxy)
            && !holding.disks.iter().any(|disk| disk.now().is_attached())
        {
            self.watch_by(watch.without_proxy());
        }
        refused
    }

    fn note(&self, change: impl FnOnce(&mut v1::JobResult)) {
        self.jobs.note(self.id, change);
    }

    async fn begin(&self, phase: Phase) -> Instant {
        self.note(|job| job.phase = phase.into());
        self.jobs.manager.opener().vm.traces.stage(self.session, stage(phase));
        self.emit(Event::Phase(v1::PhaseEvent { phase: phase.into(), ..v1::PhaseEvent::default() })).await;
        Instant::now()
    }

    async fn finish(&self, phase: Phase, since: Instant) {
        self.finish_with(phase, since, "").await;
    }

    async fn finish_with(&self, phase: Phase, since: Instant, note: &str) {
        let duration = since.elapsed();
        self.jobs.manager.opener().vm.traces.stage_over(self.session);
        tracing::info!(op = phase.as_str_name(), duration_ms = duration.as_millis(), "phase finished");
        let event = v1::PhaseEvent {
            phase: phase.into(),
            finished: true,
            duration_us: micros(duration),
            note: note.to_owned(),
        };
        self.emit(Event::Phase(event)).await;
    }

    /// A client that is gone, or that does not read while the job ends, misses events, never the clean-up: it is waited
    /// for once. Tells whether the event went into the stream.
    async fn emit(&self, event: Event) -> bool {
        self.emit_within(event, self.jobs.manager.opener().vm.deadlines.event).await
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

/// Name of a span.
fn stage(phase: Phase) -> &'static str {
    match phase {
        Phase::Preflight => "preflight",
        Phase::Snapshot => "snapshot",
        Phase::Attach => "attach",
        Phase::Read => "read",
        Phase::Detach => "detach",
        Phase::RemoveSnapshot => "remove snapshot",
        Phase::Unspecified | Phase::Done => "other",
    }
}
