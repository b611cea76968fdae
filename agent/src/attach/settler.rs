//! The settler: the only loop in the program that detaches and that removes snapshots. It has no end but proof.
//!
//! ```text
//! handed over ──▶ open ──pass──▶ vCenter: ours?  ── yes ─▶ delete in guest ─▶ reconfigure(remove) ─▶ read back ─┐
//!                  ▲                  ├─ absent, nothing may still land ───────────────────────────────────────▶ guest: gone?
//!                  │                  ├─ busy, or first absence of an unconfirmed intent ─▶ wait ─┐               │
//!                  │                  └─ doubtful: alarm ─────────────────────────────────────────┤               ▼
//!                  └──────────────────────────── back-off ◀──────────────────────────────────────┘           retired
//! ```
//! "Not there" alone is no proof: while a task runs on the proxy an attach may still land, and an intent that was
//! never confirmed is believed gone only after a second look. A snapshot is removed only when no attach duty of its VM
//! is open. Sessions, leases and recovery after a kill all come through here.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hotadd_api::v1::EventKind;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use super::{
    Claim, claim,
    proxy_vm::{ProxyVm, View, now},
};
use crate::{
    discover::{Expectation, proof},
    error::{Error, Result},
    hypervisor::OurDisk,
    id::{DutyId, Moref, SessionId},
    journal::{AttachDuty, Duty, DutyPhase, Record, SnapshotDuty},
    reason,
};

/// First pause after a pass that left something open, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Passes after which a duty that stays open is logged as an error: somebody should look.
const ALARM_AFTER: u32 = 8;

/// A little above what the platform itself allows a deletion.
const DELETE_PATIENCE: Duration = Duration::from_secs(40);

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
    /// Devices whose deletion hangs in the kernel: no second thread is spent on them.
    stuck: Arc<Mutex<BTreeSet<String>>>,
    /// Snapshot duties that a task works on now. Removing takes minutes; disks are not to wait for it.
    removing: Mutex<BTreeSet<DutyId>>,
}

#[derive(Debug, Clone, Default)]
struct Open {
    tries: u32,
    last_error: String,
    /// When an unconfirmed intent was first seen absent; forgotten when it was seen, or when something still ran.
    absent_since: Option<Instant>,
    /// vSphere refused it: nothing may land any more, so the first absence counts.
    refused: bool,
    /// The last look needs a person.
    doubtful: bool,
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
            stuck: Arc::default(),
            removing: Mutex::default(),
        });
        vm.supervise("the settler panicked", run(Arc::clone(&shared), orders));
        Self { inbox, shared }
    }

    /// Puts a duty on the loop's list and returns at once.
    pub fn hand_over(&self, duty: DutyId) {
        if self.inbox.send(duty).is_err() {
            tracing::error!(%duty, "the settler is gone; the next start settles this duty");
        }
    }

    /// Hands over a duty of which vSphere said that it did not begin it: one look at its absence is enough.
    pub fn hand_over_refused(&self, duty: DutyId) {
        lock(&self.shared.open).entry(duty).or_default().refused = true;
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

    /// Whether an earlier run of the agent began it.
    #[must_use]
    pub fn is_inherited(&self, duty: DutyId) -> bool {
        self.shared.inherited.contains(&duty)
    }

    /// Why a duty is still open, if the settler has it and met something.
    #[must_use]
    pub fn why(&self, duty: DutyId) -> Option<String> {
        let open = lock(&self.shared.open);
        open.get(&duty).map(|o| o.last_error.clone())
    }
}

async fn run(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<DutyId>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let idle = shared.ids().is_empty();
        let order = if idle { Ok(orders.recv().await) } else { timeout(pause, orders.recv()).await };
        match order {
            Ok(Some(duty)) => {
                shared.admit(duty);
                while let Ok(more) = orders.try_recv() {
                    shared.admit(more);
                }
                pause = FIRST_PAUSE;
            }
            Ok(None) => return,
            Err(_) => {}
        }
        let before = shared.ids().len();
        shared.pass().await;
        pause = if shared.ids().len() < before { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
        shared.passes.send_modify(|n| *n += 1);
    }
}

/// What a pass found for one duty.
enum Finding {
    Gone(String),
    Waits(String),
    /// Nothing is to be done before its time.
    Kept(String),
    /// Waiting alone does not heal it: a person has to look.
    Doubtful(String),
}

impl Shared {
    fn admit(&self, duty: DutyId) {
        if self.vm.journal.state().get(duty).is_some() {
            lock(&self.open).entry(duty).or_default();
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

        let attached: Vec<(Duty, AttachDuty)> =
            duties.iter().filter_map(|d| Some((d.clone(), d.attach()?.clone()))).collect();
        if !attached.is_empty() {
            match self.settle_attached(&attached).await {
                Ok(findings) => self.conclude(findings).await,
                Err(error) => attached.iter().for_each(|(d, _)| self.waits(d, &error.message(), false)),
            }
        }
        for duty in duties {
            if duty.snapshot().is_some() && lock(&self.removing).insert(duty.id) {
                let turn = Removing { shared: Arc::clone(self), duty: duty.id };
                tokio::spawn(async move {
                    let shared = &turn.shared;
                    // Read anew: before this turn a job may have taken it over.
                    let Some(duty) = shared.vm.journal.state().get(turn.duty).cloned() else { return };
                    let Some(snapshot) = duty.snapshot().cloned() else { return };
                    let finding = match shared.settle_snapshot(&duty, &snapshot).await {
                        Ok(finding) => finding,
                        Err(error) if *error.reason() == reason::SNAP_DOUBT => Finding::Doubtful(error.message()),
                        Err(error) => Finding::Waits(error.message()),
                    };
                    shared.conclude(vec![(duty, finding)]).await;
                });
            }
        }
    }

    async fn settle_attached(&self, duties: &[(Duty, AttachDuty)]) -> Result<Vec<(Duty, Finding)>> {
        let _gate = self.vm.gate.lock().await;
        let view = self.vm.view().await?;
        let mut remove = Vec::new();
        let mut deletions = Vec::new();
        for (_, attach) in duties {
            if let Claim::Ours(disk) = self.claim(attach, &view) {
                deletions.push(self.delete_in_guest(attach, &view));
                remove.push(disk);
            }
        }
        // Together: each may wait its whole patience.
        futures_util::future::join_all(deletions).await;
        let view = if remove.is_empty() {
            view
        } else {
            self.remove(&remove).await;
            self.vm.view().await?
        };
        let mut findings = Vec::new();
        for (duty, attach) in duties {
            findings.push((duty.clone(), self.judge(duty, attach, &view).await));
        }
        Ok(findings)
    }

    /// All in one task; if vCenter refuses that, one by one, so that one bad disk holds nobody else. A busy proxy or a
    /// vCenter that does not answer would only cost the same wait for each. Errors are only logged: what counts is what
    /// vCenter's list says afterwards.
    async fn remove(&self, disks: &[OurDisk]) {
        let started = Instant::now();
        let outcome = self.vm.hypervisor.detach(&self.vm.moref, disks).await;
        let Err(error) = outcome else {
            tracing::info!(op = "detach", disks = disks.len(), duration_ms = millis(started), "detached");
            return;
        };
        tracing::warn!(op = "detach", disks = disks.len(), %error, "batched detach failed");
        if disks.len() < 2 || *error.reason() != reason::VC_FAULT {
            return;
        }
        for disk in disks {
            if let Err(error) = self.vm.hypervisor.detach(&self.vm.moref, std::slice::from_ref(disk)).await {
                tracing::warn!(op = "detach", key = disk.0.device_key, %error, "detach failed");
                if *error.reason() != reason::VC_FAULT {
                    return;
                }
            }
        }
    }

    async fn judge(&self, duty: &Duty, attach: &AttachDuty, view: &View) -> Finding {
        let claim = self.claim(attach, view);
        if claim != Claim::Absent || view.proxy.busy {
            self.forget_absence(duty.id);
        }
        match claim {
            Claim::Ours(_) => Finding::Waits(format!("{} is still attached at {}", attach.backing, attach.slot)),
            Claim::Doubtful(why) => Finding::Doubtful(format!("not touched: {why}")),
            Claim::Absent if view.proxy.busy => {
                Finding::Waits(format!("{}: a task runs on the proxy; an attach may still land", attach.backing))
            }
            Claim::Absent if duty.phase == DutyPhase::Intended && !self.absent_long_enough(duty.id) => {
                Finding::Waits(format!("{}: never confirmed and not there; looking once more", attach.backing))
            }
            Claim::Absent => self.judge_guest(attach, view).await,
        }
    }

    fn claim(&self, attach: &AttachDuty, view: &View) -> Claim {
        claim(attach, &view.proxy, &self.vm.listed_own, &self.vm.named_slots())
    }

    /// vCenter says gone; the guest must agree. While vCenter lists another disk in the slot, the device there is that
    /// disk's and is left alone. In an empty slot any device is a ghost: deleted if it is proven, else waited for.
    async fn judge_guest(&self, attach: &AttachDuty, view: &View) -> Finding {
        let occupied = view.proxy.disk_at(attach.slot).is_some();
        let ghost = view.devices.iter().any(|device| {
            let placed = view.map.address(attach.slot.controller_key);
            let here = placed.is_ok_and(|address| proof::sits_at(device, address, attach.slot.unit));
            let same = proof::full_uuid(device) == Ok(attach.uuid);
            (here && !occupied) || ((here || placed.is_err()) && same)
        });
        if ghost {
            if !occupied {
                self.delete_in_guest(attach, view).await;
            }
            return Finding::Waits(format!("{}: the guest still shows a device at {}", attach.backing, attach.slot));
        }
        Finding::Gone(format!("vCenter's device list and the guest show no {} at {}", attach.backing, attach.slot))
    }

    /// Deletes the SCSI device if it is proven to be this disk; anything else is left alone.
    async fn delete_in_guest(&self, attach: &AttachDuty, view: &View) {
        let wanted = Expectation { slot: attach.slot, uuid: attach.uuid, size_bytes: attach.capacity_bytes };
        let Ok(address) = proof::place(&wanted, &view.map) else { return };
        let Some(device) = view.devices.iter().find(|d| proof::sits_at(d, address, attach.slot.unit)) else { return };
        let disk = match proof::identify(&wanted, &view.map, device) {
            Ok(disk) => disk,
            Err(mismatch) => {
                tracing::warn!(device = device.name, %mismatch, "a device in the slot is not the disk; not deleted");
                return;
            }
        };
        let handle = device.handle.clone();
        if !lock(&self.stuck).insert(handle.clone()) {
            tracing::warn!(device = device.name, "an earlier deletion of this device still hangs");
            return;
        }
        let platform = Arc::clone(&self.vm.platform);
        let mut deletion = tokio::task::spawn_blocking(move || platform.delete(&disk));
        match timeout(DELETE_PATIENCE, &mut deletion).await {
            Ok(Ok(Ok(()))) => tracing::debug!(device = device.name, backing = %attach.backing, "SCSI device deleted"),
            // The removal in vCenter follows all the same: detaching matters more than a tidy guest.
            Ok(Ok(Err(error))) => tracing::warn!(device = device.name, %error, "SCSI device not deleted"),
            Ok(Err(error)) => tracing::error!(device = device.name, %error, "deletion panicked"),
            Err(_) => {
                tracing::error!(device = device.name, "the deletion of the SCSI device hangs; detaching all the same");
                let stuck = Arc::clone(&self.stuck);
                tokio::spawn(async move {
                    drop(deletion.await);
                    lock(&stuck).remove(&handle);
                });
                return;
            }
        }
        lock(&self.stuck).remove(&handle);
    }

    async fn settle_snapshot(&self, duty: &Duty, snapshot: &SnapshotDuty) -> Result<Finding> {
        let disks = self.disks_of(&duty.vm);
        if !disks.is_empty() {
            let why = format!("snapshot {}: its disks are not detached yet", snapshot.name);
            let open = lock(&self.open);
            let doubtful = disks.iter().all(|id| open.get(id).is_some_and(|o| o.doubtful));
            return Ok(if doubtful { Finding::Doubtful(why) } else { Finding::Waits(why) });
        }
        if let Some(until) = snapshot.kept() {
            return Ok(Finding::Kept(format!("snapshot {}: kept until {until} for a job that resumes", snapshot.name)));
        }
        let (hypervisor, target) = (&self.vm.hypervisor, duty.target());
        let found = match &snapshot.moref {
            Some(moref) => Ok(vec![moref.clone()]),
            None => hypervisor.find_snapshots(&target, &snapshot.name).await,
        };
        // Seen, or something still runs: an absence counts from here anew.
        if !matches!(&found, Ok(none) if none.is_empty()) {
            self.forget_absence(duty.id);
        }
        let morefs = found?;
        if morefs.is_empty() && !self.absent_long_enough(duty.id) {
            return Ok(Finding::Waits(format!(
                "snapshot {}: never confirmed and not there; looking once more",
                snapshot.name
            )));
        }
        if !morefs.is_empty()
            && let Some(why) = hypervisor.host_blocks_removal(&target).await
        {
            return Ok(Finding::Waits(format!("snapshot {}: not removed while {why}", snapshot.name)));
        }
        for moref in &morefs {
            hypervisor.remove_snapshot(&target, moref, &snapshot.name).await?;
        }
        if let Some(report) = hypervisor.conflict_report(&target).await {
            tracing::error!(reason = reason::SNAP_CONSOLIDATE.code, vm = duty.vm_name, "{report}");
        }
        Ok(Finding::Gone(format!("snapshot {} is not on {}", snapshot.name, duty.vm_name)))
    }

    /// Of any session: disks that another one attached hang on the same chain.
    fn disks_of(&self, vm: &Moref) -> Vec<DutyId> {
        let state = self.vm.journal.state();
        state.duties().filter(|duty| duty.vm == *vm && duty.attach().is_some()).map(|duty| duty.id).collect()
    }

    /// The second look at an absence, after the configured pause.
    fn absent_long_enough(&self, duty: DutyId) -> bool {
        let mut open = lock(&self.open);
        let entry = open.entry(duty).or_default();
        match entry.absent_since {
            _ if entry.refused => true,
            Some(since) => since.elapsed() >= self.vm.deadlines.settle,
            None => {
                entry.absent_since = Some(Instant::now());
                false
            }
        }
    }

    fn forget_absence(&self, duty: DutyId) {
        if let Some(entry) = lock(&self.open).get_mut(&duty) {
            entry.absent_since = None;
        }
    }

    async fn conclude(&self, findings: Vec<(Duty, Finding)>) {
        let mut records = Vec::new();
        for (duty, finding) in &findings {
            match finding {
                Finding::Gone(proof) => {
                    records.push(Record::Retired { duty: duty.id, at: now(), proof: proof.clone() });
                }
                Finding::Waits(why) => self.waits(duty, why, false),
                Finding::Kept(why) => {
                    let mut open = lock(&self.open);
                    why.clone_into(&mut open.entry(duty.id).or_default().last_error);
                }
                Finding::Doubtful(why) => self.waits(duty, why, true),
            }
        }
        let retired: Vec<DutyId> = records.iter().filter_map(retired_id).collect();
        match self.vm.record(records).await {
            Ok(()) => self.forget(retired.iter()),
            Err(error) => tracing::error!(%error, "a proven duty could not be retired; it stays open"),
        }
    }

    fn waits(&self, duty: &Duty, why: &str, doubtful: bool) {
        let mut open = lock(&self.open);
        let entry = open.entry(duty.id).or_default();
        entry.tries += 1;
        let turned_doubtful = doubtful && !entry.doubtful;
        entry.doubtful = doubtful;
        why.clone_into(&mut entry.last_error);
        let (id, tries) = (duty.id, entry.tries);
        if tries.is_multiple_of(ALARM_AFTER) || turned_doubtful {
            let owed = Error::new(&reason::DUTY_OWED, why).owing();
            self.vm.events.send(EventKind::DutyAlarm, id, &duty.vm_name, Some(&owed));
        }
        if tries.is_multiple_of(ALARM_AFTER) {
            tracing::error!(duty = %id, vm = duty.vm_name, tries, why, "a duty stays open; the agent goes on");
        } else {
            tracing::info!(duty = %id, vm = duty.vm_name, tries, why, "not settled yet");
        }
    }

    fn forget<'a>(&self, ids: impl Iterator<Item = &'a DutyId>) {
        let mut open = lock(&self.open);
        for id in ids {
            open.remove(id);
        }
    }
}

/// One snapshot's turn; over when dropped, also by a panic.
struct Removing {
    shared: Arc<Shared>,
    duty: DutyId,
}

impl Drop for Removing {
    fn drop(&mut self) {
        lock(&self.shared.removing).remove(&self.duty);
        self.shared.passes.send_modify(|n| *n += 1);
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
