//! Puts a snapshot's disks on the proxy.
//!
//! ```text
//! wanted → guard the proxy → slots → journal.begin (fsync) → reconfigure(add…) → journal.confirm → find and prove → Attached
//!             └ refused    └ no journal, no attach    └ refused → retire        └ not proven → settler
//!                                                     └ unknown → settler
//! ```
//! An [`Attached`] that is dropped, on whatever way, hands its duty to the settler.
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    duty::begin,
    guards,
    proxy_vm::{ProxyVm, View, now},
    settler::{Settled, Settler},
    slots::{choose, free_units},
};
use crate::{
    discover::{ControllerMap, Expectation, ProvenDisk},
    error::{Error, Result},
    hypervisor::{AttachOutcome, AttachRequest, TargetDisk, TargetFacts},
    id::{DiskUuid, DutyId, SessionId, Slot},
    journal::{AttachDuty, Duty, DutyKind, Record},
    reason,
};

/// A disk to attach. `uuid`: checked by the plan to exist.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub disk: TargetDisk,
    pub uuid: DiskUuid,
}

/// A disk that is attached and proven. Dropping it makes the settler detach it, so whoever reads from it must hold it.
#[derive(Debug)]
pub struct Attached {
    duty: DutyId,
    disk: TargetDisk,
    proven: ProvenDisk,
    attach_time: Duration,
    discover_time: Duration,
    settler: Settler,
}

impl Attached {
    #[must_use]
    pub fn duty(&self) -> DutyId {
        self.duty
    }

    #[must_use]
    pub fn disk(&self) -> &TargetDisk {
        &self.disk
    }

    #[must_use]
    pub fn proven(&self) -> &ProvenDisk {
        &self.proven
    }

    #[must_use]
    pub fn attach_time(&self) -> Duration {
        self.attach_time
    }

    #[must_use]
    pub fn discover_time(&self) -> Duration {
        self.discover_time
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.settler.hand_over(self.duty);
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Attacher {
    vm: Arc<ProxyVm>,
    settler: Settler,
}

/// One disk on its way.
struct Pending {
    /// Place in the caller's list.
    index: usize,
    wanted: Wanted,
    duty: DutyId,
    slot: Slot,
}

impl Attacher {
    #[must_use]
    pub fn new(vm: Arc<ProxyVm>, settler: Settler) -> Self {
        Self { vm, settler }
    }

    /// Attaches all; one answer per disk, in order. Runs to its end in a task of its own: a caller that goes away does
    /// not tear it apart, which keeps unknown outcomes rare (the journal, not this, is what makes it safe).
    pub async fn attach(&self, session: SessionId, target: &TargetFacts, wanted: Vec<Wanted>) -> Vec<Result<Attached>> {
        let count = wanted.len();
        let (this, target) = (self.clone(), target.clone());
        let run = tokio::spawn(async move {
            let mut answers: Vec<Option<Result<Attached>>> = (0..wanted.len()).map(|_| None).collect();
            let mut rest: Vec<(usize, Wanted)> = wanted.into_iter().enumerate().collect();
            while !rest.is_empty() {
                let batch = rest.drain(..rest.len().min(this.vm.limits.attach_batch)).collect();
                for (index, answer) in this.batch(session, &target, batch).await {
                    if let Some(place) = answers.get_mut(index) {
                        *place = Some(answer);
                    }
                }
            }
            answers
        });
        let lost = || Err(Error::new(&reason::INTERNAL, "the attach task ended without an answer").owing());
        match run.await {
            Ok(answers) => answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect(),
            Err(_) => (0..count).map(|_| lost()).collect(),
        }
    }

    async fn batch(
        &self,
        session: SessionId,
        target: &TargetFacts,
        batch: Vec<(usize, Wanted)>,
    ) -> Vec<(usize, Result<Attached>)> {
        let mut answers = Vec::new();
        let start = Instant::now();
        let (held, map) = match self.reconfigure(session, target, batch, &mut answers).await {
            Some(done) => done,
            None => return answers,
        };
        let attach_time = start.elapsed();
        let expectations: Vec<_> = held.iter().map(expectation).collect();
        let found_at = Instant::now();
        let deadlines = &self.vm.deadlines;
        let found = self.vm.finder.find(&expectations, &map, deadlines.discover, deadlines.rescan).await;
        let discover_time = found_at.elapsed();
        let mut unproven = Vec::new();
        for (pending, found) in held.into_iter().zip(found) {
            match found {
                Ok(proven) => {
                    let Pending { index, wanted, duty, .. } = pending;
                    let settler = self.settler.clone();
                    let disk = wanted.disk;
                    answers.push((index, Ok(Attached { duty, disk, proven, attach_time, discover_time, settler })));
                }
                Err(error) => unproven.push((pending, error)),
            }
        }
        answers.extend(self.give_back(unproven).await);
        answers
    }

    /// Everything under the gate. `None`: no disk of the batch got as far as vCenter.
    async fn reconfigure(
        &self,
        session: SessionId,
        target: &TargetFacts,
        batch: Vec<(usize, Wanted)>,
        answers: &mut Vec<(usize, Result<Attached>)>,
    ) -> Option<(Vec<Pending>, ControllerMap)> {
        let _gate = self.vm.gate.lock().await;
        let view = match self.vm.view().await {
            Ok(view) => view,
            Err(error) => {
                refuse_all(batch, answers, &error);
                return None;
            }
        };
        if let Err(error) = guards::proxy(&self.vm, &self.settler, &view.proxy.as_target()).await {
            refuse_all(batch, answers, &error);
            return None;
        }
        let pending = self.place(&view, batch, answers);
        let begun = pending.iter().map(|p| Record::Began(intent(&self.vm, session, target, p))).collect();
        if let Err(error) = self.vm.record(begun).await {
            refuse_all(pending.into_iter().map(|p| (p.index, p.wanted)).collect(), answers, &error);
            return None;
        }
        let requests: Vec<_> = pending.iter().map(request).collect();
        let outcomes = self.vm.hypervisor.attach(&self.vm.moref, &requests).await;
        let mut held = Vec::new();
        let mut records = Vec::new();
        for (p, outcome) in pending.into_iter().zip(outcomes) {
            match outcome {
                AttachOutcome::Attached { device_key } => {
                    records.push(Record::Confirmed { duty: p.duty, device_key: Some(device_key), moref: None });
                    held.push(p);
                }
                AttachOutcome::Refused(error) => {
                    let proof = format!("refused by vCenter: {}", error.message());
                    records.push(Record::Retired { duty: p.duty, at: now(), proof, late_until: None });
                    answers.push((p.index, Err(error)));
                }
                AttachOutcome::Unknown(error) => {
                    self.settler.hand_over(p.duty);
                    answers.push((p.index, Err(error.owing())));
                }
            }
        }
        if let Err(error) = self.vm.record(records).await {
            // Attached but not confirmed: the intents are durable, so the settler finds and removes them.
            held.iter().for_each(|p| self.settler.hand_over(p.duty));
            answers.extend(held.into_iter().map(|p| (p.index, Err(error.copy().owing()))));
            return None;
        }
        Some((held, view.map))
    }

    /// Gives each disk a slot, or its refusal.
    fn place(
        &self,
        view: &View,
        batch: Vec<(usize, Wanted)>,
        answers: &mut Vec<(usize, Result<Attached>)>,
    ) -> Vec<Pending> {
        let state = self.vm.journal.state();
        let open: Vec<&AttachDuty> = state.duties().filter_map(Duty::attach).collect();
        let mut present: BTreeSet<DiskUuid> =
            view.proxy.disks.iter().filter_map(|d| d.uuid).chain(open.iter().map(|d| d.uuid)).collect();
        let reserved: BTreeSet<Slot> = state.reserved_slots();
        let usable: BTreeSet<i32> = view.map.usable().collect();
        let mut slots =
            choose(free_units(&view.proxy, &reserved), |key| usable.contains(&key), batch.len()).into_iter();
        let mut pending = Vec::new();
        for (index, wanted) in batch {
            if !present.insert(wanted.uuid) {
                let detail = format!("{} ({})", wanted.disk.backing, wanted.uuid);
                answers.push((index, Err(Error::new(&reason::PLAN_IN_USE, detail))));
            } else if let Some(slot) = slots.next() {
                pending.push(Pending { index, wanted, duty: DutyId::new(), slot });
            } else {
                answers.push((index, Err(no_slot(view, &usable))));
            }
        }
        pending
    }

    /// Detaches what was attached but not proven, and tells the result with the cause.
    async fn give_back(&self, unproven: Vec<(Pending, Error)>) -> Vec<(usize, Result<Attached>)> {
        let duties: Vec<_> = unproven.iter().map(|(p, _)| p.duty).collect();
        if duties.is_empty() {
            return Vec::new();
        }
        let settled = self.settler.settle(&duties, self.vm.deadlines.cleanup).await;
        let finish = |(p, error): (Pending, Error)| {
            let error = if matches!(settled, Settled::Done) { error } else { error.owing() };
            tracing::warn!(backing = %p.wanted.disk.backing, slot = %p.slot, reason = error.reason().code, %error,
                "attached disk not proven; detached again");
            (p.index, Err(error))
        };
        unproven.into_iter().map(finish).collect()
    }
}

fn no_slot(view: &View, usable: &BTreeSet<i32>) -> Error {
    if !usable.is_empty() {
        let detail = format!("{} of {} controllers usable, all full", usable.len(), view.proxy.controllers.len());
        return Error::new(&reason::ATT_NO_SLOT, detail);
    }
    let why: Vec<_> = view
        .proxy
        .controllers
        .iter()
        .filter_map(|c| view.map.address(c.key).err().map(|refused| format!("scsi{}: {refused}", c.bus)))
        .collect();
    let detail = if why.is_empty() { "the proxy has no SCSI controller".to_owned() } else { why.join("; ") };
    Error::new(&reason::ATT_CONTROLLER, detail)
}

fn refuse_all(batch: Vec<(usize, Wanted)>, answers: &mut Vec<(usize, Result<Attached>)>, error: &Error) {
    answers.extend(batch.into_iter().map(|(index, _)| (index, Err(error.copy()))));
}

fn expectation(pending: &Pending) -> Expectation {
    Expectation { slot: pending.slot, uuid: pending.wanted.uuid, size_bytes: pending.wanted.disk.capacity_bytes }
}

fn request(pending: &Pending) -> AttachRequest {
    let disk = &pending.wanted.disk;
    AttachRequest {
        slot: pending.slot,
        backing: disk.backing.clone(),
        backing_kind: disk.backing_kind.clone(),
        datastore: disk.datastore.clone(),
        capacity_bytes: disk.capacity_bytes,
        uuid: pending.wanted.uuid,
    }
}

fn intent(vm: &ProxyVm, session: SessionId, target: &TargetFacts, pending: &Pending) -> Duty {
    let kind = DutyKind::Attach(AttachDuty {
        backing: pending.wanted.disk.backing.clone(),
        uuid: pending.wanted.uuid,
        capacity_bytes: pending.wanted.disk.capacity_bytes,
        slot: pending.slot,
        device_key: None,
    });
    begin(vm, pending.duty, session, target, kind)
}
