//! The settler: the only loop in the program that detaches and that removes snapshots. It has no end but proof.
//!
//! ```text
//! handed over ──▶ open ──pass──▶ vCenter: ours?  ── yes ─▶ delete in guest ─▶ reconfigure(remove) ─▶ read back ─┐
//!                  ▲                  ├─ absent, nothing may still land ───────────────────────────────────────▶ guest: gone?
//!                  │                  ├─ busy, or an intent never confirmed: fence, then wait ────┐               │
//!                  │                  └─ doubtful: alarm ─────────────────────────────────────────┤               ▼
//!                  └──────────────────────────── back-off ◀──────────────────────────────────────┘           retired
//! ```
//! "Not there" alone is no proof: while a task runs on the proxy an attach may still land, and an intent that was
//! never confirmed is believed gone only after a second look, and is looked for again for a while after that ([`late`]).
//! A snapshot is removed only when no attach duty and no export lease ([`exports`]) of its VM is open ([`snapshots`]), methods are enabled again when
//! nothing of their VM is owed ([`guards`]). Sessions, leases and recovery after a kill all come through here.
mod absence;
mod disks;
mod exports;
mod guards;
mod late;
mod pulse;
mod snapshots;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use self::{pulse::Pulse, snapshots::Removing};
use super::proxy_vm::{ProxyVm, now};
use crate::{
    error::{Error, Result},
    id::{DutyId, Moref, SessionId},
    journal::{AttachDuty, Duty, Record},
    reason,
};

/// Passes after which a duty that stays open is logged as an error: somebody should look.
const ALARM_AFTER: u32 = 8;

/// Handle to the loop. Cheap to clone; handing over never blocks and never fails while the agent lives.
#[derive(Debug, Clone)]
pub struct Settler {
    inbox: mpsc::UnboundedSender<DutyId>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    vm: Arc<ProxyVm>,
    /// Duties that were open when this run began.
    inherited: BTreeSet<DutyId>,
    /// Why each open duty is still open.
    open: Mutex<BTreeMap<DutyId, Open>>,
    passes: watch::Sender<u64>,
    /// How much of what is late could not be looked at the last time.
    unseen: AtomicUsize,
    /// Devices whose deletion hangs in the kernel: no second thread is spent on them.
    stuck: Arc<Mutex<BTreeSet<String>>>,
    /// Snapshot duties that a task works on now. Removing takes minutes; disks are not to wait for it.
    removing: Mutex<BTreeSet<DutyId>>,
    /// vCenter sessions that were ended, or can't be: they are not tried again.
    fenced: Mutex<BTreeSet<String>>,
    /// vCenter sessions that began with a fence.
    fresh: Mutex<BTreeSet<String>>,
    /// Something changed that another duty may have waited for.
    wake: Notify,
    pulse: Pulse,
    /// When the loop looks again by itself; `None`: it works, or waits for an order.
    next: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone, Default)]
struct Open {
    /// From when nothing uses it any more; `None`: something does, or its time has not come.
    since: Option<Instant>,
    tries: u32,
    last_error: String,
    /// When an unconfirmed intent was first seen absent; forgotten when it was seen, or when something still ran.
    absent_since: Option<Instant>,
    /// vSphere refused it: nothing may land any more, so the first absence counts.
    refused: bool,
    /// Of an export lease: vCenter took that everything was read.
    completed: bool,
    /// Of a guard: its methods were enabled again.
    enabled: bool,
    /// The last look needs a person.
    doubtful: bool,
    /// Snapshots: since when somebody else stands in the way, and since when the VM needs consolidation.
    blocked_since: Option<Instant>,
    needs_since: Option<Instant>,
    /// The one consolidation was tried.
    consolidated: bool,
}

/// How a wait for the settler ended.
#[derive(Debug)]
pub enum Settled {
    /// Every duty is retired, by proof.
    Done,
    /// Some are open; the settler goes on.
    Owed(Error),
}

impl Settler {
    /// Starts the loop.
    #[must_use]
    pub fn start(vm: Arc<ProxyVm>) -> Self {
        let (inbox, orders) = mpsc::unbounded_channel();
        let (passes, _) = watch::channel(0);
        let shared = Arc::new(Shared {
            vm: Arc::clone(&vm),
            inherited: vm.journal.state().duties().map(|duty| duty.id).collect(),
            open: Mutex::default(),
            passes,
            unseen: AtomicUsize::new(0),
            stuck: Arc::default(),
            removing: Mutex::default(),
            fenced: Mutex::default(),
            fresh: Mutex::default(),
            wake: Notify::new(),
            pulse: Pulse::new(),
            next: Mutex::default(),
        });
        vm.supervise("the settler panicked", run(Arc::clone(&shared), orders));
        Self { inbox, shared }
    }

    /// Puts a duty on the loop's list and returns at once.
    pub fn hand_over(&self, duty: DutyId) {
        // A pass that waits for the gate takes it along.
        self.shared.admit(duty);
        if self.inbox.send(duty).is_err() {
            tracing::error!(%duty, "the settler is gone; the next start settles this duty");
        }
    }

    /// Hands over a duty of which vSphere said that it did not begin it: one look at its absence is enough.
    pub fn hand_over_refused(&self, duty: DutyId) {
        lock(&self.shared.open).entry(duty).or_default().refused = true;
        self.hand_over(duty);
    }

    /// Whether a guard's methods were enabled again, whatever else it is still owed for.
    #[must_use]
    pub fn is_enabled(&self, duty: DutyId) -> bool {
        lock(&self.shared.open).get(&duty).is_some_and(|open| open.enabled)
    }

    /// Hands over an export lease of which vCenter took that everything was read.
    pub fn hand_over_completed(&self, duty: DutyId) {
        lock(&self.shared.open).entry(duty).or_default().completed = true;
        self.hand_over(duty);
    }

    /// Takes a snapshot that is kept for a job that resumes away from the loop, for good: its duty goes on under a new id
    /// and the given session. `None`: it is no longer kept.
    ///
    /// # Errors
    /// Of the journal, or when a look at it does not end.
    pub async fn adopt(&self, duty: DutyId, session: SessionId) -> Result<Option<(DutyId, Moref)>> {
        let mut passes = self.shared.passes.subscribe();
        let busy = || Error::new(&reason::SES_BUSY, format!("duty {duty} is being looked at")).owing();
        // A look at it that runs now may be its removal.
        let free = async {
            while !lock(&self.shared.removing).insert(duty) {
                if passes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        timeout(self.shared.vm.deadlines.call, free).await.map_err(|_| busy())?;
        let _turn = Removing { shared: Arc::clone(&self.shared), duty };
        let state = self.shared.vm.journal.state();
        let kept = state.get(duty).and_then(Duty::snapshot).filter(|snapshot| snapshot.kept().is_some());
        let Some(moref) = kept.and_then(|snapshot| snapshot.moref.clone()) else { return Ok(None) };
        let into = DutyId::new();
        self.shared.vm.record(vec![Record::Adopted { duty, into, session }]).await?;
        Ok(Some((into, moref)))
    }

    /// Hands over and waits until all are retired, at most `patience`.
    pub async fn settle(&self, duties: &[DutyId], patience: Duration) -> Settled {
        let mut passes = self.shared.passes.subscribe();
        duties.iter().for_each(|duty| self.hand_over(*duty));
        let all_retired = async {
            while self.still_open(duties).next().is_some() {
                if passes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        if timeout(patience, all_retired).await.is_ok() {
            return Settled::Done;
        }
        let why: Vec<String> =
            self.still_open(duties).map(|id| self.why(id).unwrap_or_else(|| "not tried yet".to_owned())).collect();
        if why.is_empty() {
            Settled::Done
        } else {
            Settled::Owed(Error::new(&reason::DUTY_OWED, why.join("; ")).owing())
        }
    }

    /// Waits until everything that was late when this run began has been looked for once; what landed is a duty again.
    ///
    /// # Errors
    /// [`reason::DUTY_OWED`] when vCenter did not let all of it be looked for.
    pub async fn late_looked_at(&self) -> Result<()> {
        if self.shared.vm.journal.state().late().next().is_none() {
            return Ok(());
        }
        let mut passes = self.shared.passes.subscribe();
        if passes.wait_for(|passes| *passes > 0).await.is_err() {
            return std::future::pending().await;
        }
        match self.shared.unseen.load(Ordering::Acquire) {
            0 => Ok(()),
            n => {
                Err(Error::new(&reason::DUTY_OWED, format!("{n} requests without an answer can't be looked for"))
                    .owing())
            }
        }
    }

    /// How long the loop has taken no step; waits for the locks that each step of it needs.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        let (_open, _state) = (lock(&self.shared.open).len(), self.shared.vm.journal.state());
        self.shared.pulse.silent_for()
    }

    /// Has an idle loop take a step; one that works takes its own.
    pub fn ask(&self) {
        self.shared.pulse.ask();
    }

    fn still_open<'a>(&self, duties: &'a [DutyId]) -> impl Iterator<Item = DutyId> + use<'a> {
        let state = self.shared.vm.journal.state();
        duties.iter().copied().filter(move |id| state.get(*id).is_some())
    }

    /// Whether all of these need a person: the settler looked, and waiting does not heal it.
    #[must_use]
    pub fn all_doubtful(&self, duties: &[DutyId]) -> bool {
        let open = lock(&self.shared.open);
        self.still_open(duties).all(|id| open.get(&id).is_some_and(|o| o.doubtful))
    }

    /// Whether waiting does not heal it; never of one that is retired.
    #[must_use]
    pub fn is_doubtful(&self, duty: DutyId) -> bool {
        lock(&self.shared.open).get(&duty).is_some_and(|open| open.doubtful)
    }

    /// Whether an earlier run of the agent began it.
    #[must_use]
    pub fn is_inherited(&self, duty: DutyId) -> bool {
        self.shared.inherited.contains(&duty)
    }

    /// How long a duty is being settled, and how often it was tried; `None`: something uses it, or its time has not come.
    #[must_use]
    pub fn progress(&self, duty: DutyId) -> Option<(Duration, u32)> {
        let open = lock(&self.shared.open);
        open.get(&duty).and_then(|open| Some((open.since?.elapsed(), open.tries)))
    }

    /// How long until it looks again at what it could not settle; `None`: it looks now, or has nothing.
    #[must_use]
    pub fn next_look(&self) -> Option<Duration> {
        (*lock(&self.shared.next)).map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Why a duty is still open, if the settler has it and met something.
    #[must_use]
    pub fn why(&self, duty: DutyId) -> Option<String> {
        let open = lock(&self.shared.open);
        open.get(&duty).map(|o| o.last_error.clone())
    }
}

async fn run(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<DutyId>) {
    let deadlines = shared.vm.deadlines.clone();
    let mut pause = deadlines.retry_first;
    // What was late when this run began is looked for at once.
    let mut next_sweep = Instant::now();
    loop {
        let idle = shared.ids().is_empty();
        let watching = shared.vm.journal.state().late().next().is_some();
        let retry = (!idle).then(|| Instant::now() + pause);
        let next = retry.into_iter().chain(watching.then_some(next_sweep)).min();
        *lock(&shared.next) = retry;
        let woken = wait(&shared, &mut orders, next).await;
        *lock(&shared.next) = None;
        match woken {
            Woken::Over => return,
            Woken::Order => pause = deadlines.retry_first,
            Woken::Time => {}
        }
        shared.pulse.beat();
        if watching && next_sweep <= Instant::now() {
            shared.unseen.store(shared.sweep().await, Ordering::Release);
            next_sweep = Instant::now() + deadlines.sweep;
        }
        let before = shared.ids().len();
        shared.pass().await;
        pause = if shared.ids().len() < before { deadlines.retry_first } else { (pause * 2).min(deadlines.retry_last) };
        shared.passes.send_modify(|n| *n += 1);
    }
}

enum Woken {
    Order,
    Time,
    /// Nobody is left to give orders.
    Over,
}

/// Until there is work. A question whether the loop lives is answered here, and is no reason for a pass.
async fn wait(shared: &Shared, orders: &mut mpsc::UnboundedReceiver<DutyId>, next: Option<Instant>) -> Woken {
    let nap = async {
        match next {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let mut nap = std::pin::pin!(nap);
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(duty) = order else { return Woken::Over };
                shared.admit(duty);
                while let Ok(more) = orders.try_recv() {
                    shared.admit(more);
                }
                return Woken::Order;
            }
            () = shared.wake.notified() => return Woken::Time,
            () = &mut nap => return Woken::Time,
            () = shared.pulse.asked() => shared.pulse.beat(),
        }
    }
}

/// What a pass found for one duty.
enum Finding {
    Gone(String),
    /// Nothing to do yet, and nothing wrong: it has its time, or other duties come first.
    Later(String),
    Waits(String),
    /// Waiting alone may not heal it: somebody else, or a person, has to act.
    Doubtful(String),
}

impl Shared {
    fn admit(&self, duty: DutyId) {
        if self.vm.journal.state().get(duty).is_some() {
            lock(&self.open).entry(duty).or_default().since.get_or_insert_with(Instant::now);
        }
    }

    fn ids(&self) -> BTreeSet<DutyId> {
        lock(&self.open).keys().copied().collect()
    }

    async fn pass(self: &Arc<Self>) {
        let ids = self.ids();
        let state = self.vm.journal.state();
        let duties: Vec<Duty> = ids.iter().filter_map(|id| state.get(*id)).cloned().collect();
        self.forget(ids.iter().filter(|id| state.get(**id).is_none()));

        if duties.iter().any(|duty| duty.attach().is_some()) {
            self.settle_attached().await;
        }
        for duty in &duties {
            if let Some(export) = duty.export() {
                self.end_export(duty, export).await;
                self.pulse.beat();
            }
        }
        for duty in duties.iter().filter(|duty| duty.snapshot().is_some()) {
            self.spawn_snapshot(duty);
        }
        for duty in &duties {
            if let Some(guard) = duty.guard() {
                self.end_guard(duty, guard).await;
                self.pulse.beat();
            }
        }
    }

    /// All that are open once the gate is ours: those of jobs that ended meanwhile go into the same reconfigure.
    async fn settle_attached(&self) {
        let gate = self.vm.gate.lock().await;
        self.pulse.beat();
        let (ids, state) = (self.ids(), self.vm.journal.state());
        let open = ids.iter().filter_map(|id| state.get(*id));
        let attached: Vec<(Duty, AttachDuty)> = open.filter_map(|d| Some((d.clone(), d.attach()?.clone()))).collect();
        let findings = self.look_at(&attached).await;
        drop(gate);
        self.pulse.beat();
        match findings {
            Ok(findings) => self.conclude(findings).await,
            Err(error) => attached.iter().for_each(|(d, _)| self.waits(d, &error.message(), false)),
        }
    }

    async fn conclude(&self, findings: Vec<(Duty, Finding)>) {
        let mut records = Vec::new();
        for (duty, finding) in &findings {
            match finding {
                Finding::Gone(proof) => {
                    let (late_until, proof) = (self.late_until(duty), proof.clone());
                    records.push(Record::Retired { duty: duty.id, at: now(), proof, late_until });
                }
                Finding::Later(why) => {
                    let mut open = lock(&self.open);
                    let entry = open.entry(duty.id).or_default();
                    why.clone_into(&mut entry.last_error);
                    // What it waits for decides whether waiting helps.
                    (entry.doubtful, entry.since) = (true, None);
                }
                Finding::Waits(why) => self.waits(duty, why, false),
                Finding::Doubtful(why) => self.waits(duty, why, true),
            }
        }
        let mut retired: BTreeSet<DutyId> = records.iter().filter_map(retired_id).collect();
        for (record, error) in self.vm.record_each(records).await {
            tracing::error!(?record, %error, "a proven duty could not be retired; it stays open");
            retired_id(&record).map(|id| retired.remove(&id));
        }
        self.forget(retired.iter());
    }

    fn waits(&self, duty: &Duty, why: &str, doubtful: bool) {
        let mut open = lock(&self.open);
        let entry = open.entry(duty.id).or_default();
        entry.tries += 1;
        entry.since.get_or_insert_with(Instant::now);
        let turned_doubtful = doubtful && !entry.doubtful;
        entry.doubtful = doubtful;
        why.clone_into(&mut entry.last_error);
        let (id, tries) = (duty.id, entry.tries);
        drop(open);
        if tries.is_multiple_of(ALARM_AFTER) || turned_doubtful {
            self.alarm(duty, why, tries);
        } else {
            tracing::info!(duty = %id, vm = duty.vm_name, tries, why, "not settled yet");
        }
    }

    /// Into the log and the journal: from there into the event stream, so that it is found after a restart too.
    fn alarm(&self, duty: &Duty, why: &str, tries: u32) {
        tracing::error!(duty = %duty.id, vm = duty.vm_name, tries, why, "a duty stays open; the agent goes on");
        let (vm, record) = (Arc::clone(&self.vm), Record::Alarm { duty: duty.id, at: now(), why: why.to_owned() });
        tokio::spawn(async move {
            if let Err(error) = vm.record(vec![record]).await {
                tracing::warn!(%error, "an alarm could not be journalled");
            }
        });
    }

    fn forget<'a>(&self, ids: impl Iterator<Item = &'a DutyId>) {
        let mut open = lock(&self.open);
        for id in ids {
            open.remove(id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn retired_id(record: &Record) -> Option<DutyId> {
    if let Record::Retired { duty, .. } = record { Some(*duty) } else { None }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
