//! Puts a snapshot's disks on the proxy.
//!
//! ```text
//! wanted → guard the proxy → slots → journal.begin (fsync) → reconfigure(add…) → journal.confirm → find and prove → Attached
//!             └ refused    └ no journal, no attach    └ refused → retire        └ not proven → settler
//!                                                     └ unknown → settler
//! ```
//! Disks go to controllers that are proven. What finds no unit there is tried in turn, one request at a time, also on
//! controllers that are on trial ([`super::room`]), one disk each; a controller whose disk was not proven is refused, and
//! that disk goes elsewhere.
//!
//! An [`Attached`] that is dropped, on whatever way, hands its duty to the settler.
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    duty::begin,
    guards,
    proxy_vm::{ProxyVm, View, now},
    room::{self, Room},
    settler::{Settled, Settler},
};
use crate::{
    discover::{ControllerMap, Expectation, ProvenDisk},
    error::{Error, Result},
    hypervisor::{AttachOutcome, AttachRequest, ControllerFacts, TargetDisk, TargetFacts},
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

/// One disk that has no slot yet.
struct Item {
    /// Place in the caller's list.
    index: usize,
    wanted: Wanted,
    /// Why it was not proven on a controller that is refused since.
    failed: Option<Error>,
}

/// One disk on its way.
struct Pending {
    item: Item,
    duty: DutyId,
    slot: Slot,
}

/// What became of a batch.
#[derive(Default)]
struct Pass {
    answers: Vec<(usize, Result<Attached>)>,
    /// Found no unit, or has to go elsewhere.
    left: Vec<Item>,
}

impl Pass {
    fn refuse_all(&mut self, items: impl IntoIterator<Item = Item>, error: &Error) {
        self.answers.extend(items.into_iter().map(|item| (item.index, Err(error.copy()))));
    }
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
            let item = |(index, wanted)| Item { index, wanted, failed: None };
            let mut rest: VecDeque<Item> = wanted.into_iter().enumerate().map(item).collect();
            while !rest.is_empty() {
                let batch = rest.drain(..rest.len().min(this.vm.limits.attach_batch)).collect();
                let mut pass = this.batch(session, &target, batch, Room::Proven).await;
                if !pass.left.is_empty() {
                    let more = this.on_trial(session, &target, std::mem::take(&mut pass.left)).await;
                    pass.answers.extend(more.answers);
                    more.left.into_iter().rev().for_each(|item| rest.push_front(item));
                }
                for (index, answer) in pass.answers {
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

    /// For disks that found no unit on a proven controller. Each pass answers one, or refuses a controller.
    async fn on_trial(&self, session: SessionId, target: &TargetFacts, batch: Vec<Item>) -> Pass {
        let _trial = self.vm.trial.lock().await;
        let why = self.vm.make_room().await.err();
        let mut pass = self.batch(session, target, batch, Room::Trial).await;
        if pass.answers.is_empty() && pass.left.iter().all(|item| item.failed.is_none()) {
            // Not one found a unit.
            let view = self.vm.view().await;
            for item in std::mem::take(&mut pass.left) {
                let none = |view: &View| why.as_ref().map_or_else(|| no_slot(view), Error::copy);
                let error = view.as_ref().map_or_else(|e| e.copy(), none);
                pass.answers.push((item.index, Err(error)));
            }
        }
        pass
    }

    async fn batch(&self, session: SessionId, target: &TargetFacts, batch: Vec<Item>, room: Room) -> Pass {
        let mut pass = Pass::default();
        let start = Instant::now();
        let Some((held, map)) = self.reconfigure(session, target, batch, room, &mut pass).await else { return pass };
        let attach_time = start.elapsed();
        let expectations: Vec<_> = held.iter().map(expectation).collect();
        let found_at = Instant::now();
        let deadlines = &self.vm.deadlines;
        let found = self.vm.finder.find(&expectations, &map, deadlines.discover, deadlines.rescan).await;
        let discover_time = found_at.elapsed();
        let mut unproven = Vec::new();
        for (pending, found) in held.into_iter().zip(found) {
            let elsewhere = self.vm.judge_trial(&map, pending.slot, found.as_ref().err());
            match found {
                Ok(proven) => {
                    let Pending { item: Item { index, wanted, .. }, duty, .. } = pending;
                    let settler = self.settler.clone();
                    let disk = wanted.disk;
                    pass.answers
                        .push((index, Ok(Attached { duty, disk, proven, attach_time, discover_time, settler })));
                }
                Err(error) => unproven.push((pending, error, elsewhere)),
            }
        }
        self.give_back(unproven, &mut pass).await;
        pass
    }

    /// Everything under the gate. `None`: no disk of the batch got as far as vCenter.
    async fn reconfigure(
        &self,
        session: SessionId,
        target: &TargetFacts,
        batch: Vec<Item>,
        room: Room,
        pass: &mut Pass,
    ) -> Option<(Vec<Pending>, ControllerMap)> {
        let _gate = self.vm.gate.lock().await;
        let view = match self.vm.view().await {
            Ok(view) => view,
            Err(error) => {
                pass.refuse_all(batch, &error);
                return None;
            }
        };
        if let Err(error) = guards::proxy(&self.vm, &self.settler, &view.proxy.as_target()).await {
            pass.refuse_all(batch, &error);
            return None;
        }
        let pending = self.place(&view, batch, room, pass);
        if pending.is_empty() {
            return None;
        }
        let begun = pending.iter().map(|p| Record::Began(intent(&self.vm, session, target, p))).collect();
        if let Err(error) = self.vm.record(begun).await {
            pass.refuse_all(pending.into_iter().map(|p| p.item), &error);
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
                    pass.answers.push((p.item.index, Err(error)));
                }
                AttachOutcome::Unknown(error) => {
                    self.settler.hand_over(p.duty);
                    pass.answers.push((p.item.index, Err(error.owing())));
                }
            }
        }
        if let Err(error) = self.vm.record(records).await {
            // Attached but not confirmed: the intents are durable, so the settler finds and removes them.
            held.iter().for_each(|p| self.settler.hand_over(p.duty));
            pass.answers.extend(held.into_iter().map(|p| (p.item.index, Err(error.copy().owing()))));
            return None;
        }
        Some((held, view.map))
    }

    /// Gives each disk a slot, or its refusal; those without a unit are left.
    fn place(&self, view: &View, batch: Vec<Item>, room: Room, pass: &mut Pass) -> Vec<Pending> {
        let state = self.vm.journal.state();
        let open: Vec<&AttachDuty> = state.duties().filter_map(Duty::attach).collect();
        let mut present: BTreeSet<DiskUuid> =
            view.proxy.disks.iter().filter_map(|d| d.uuid).chain(open.iter().map(|d| d.uuid)).collect();
        let (reserved, held) = (state.reserved_slots(), open.iter().map(|duty| duty.slot).collect());
        let mut slots = room::slots(&view.proxy, &view.map, &reserved, &held, room, batch.len()).into_iter();
        let mut pending = Vec::new();
        for mut item in batch {
            if !present.insert(item.wanted.uuid) {
                let detail = format!("{} ({})", item.wanted.disk.backing, item.wanted.uuid);
                pass.answers.push((item.index, Err(Error::new(&reason::PLAN_IN_USE, detail))));
            } else if let Some(slot) = slots.next() {
                pending.push(Pending { item, duty: DutyId::new(), slot });
            } else if let Some(failed) = item.failed.take_if(|_| room == Room::Trial) {
                pass.answers.push((item.index, Err(failed)));
            } else {
                pass.left.push(item);
            }
        }
        pending
    }

    /// Detaches what was attached but not proven, and tells the result with the cause. A disk of a controller that is
    /// refused since goes elsewhere once it is proven gone.
    async fn give_back(&self, unproven: Vec<(Pending, Error, bool)>, pass: &mut Pass) {
        let duties: Vec<_> = unproven.iter().map(|(p, ..)| p.duty).collect();
        if duties.is_empty() {
            return;
        }
        let settled = self.settler.settle(&duties, self.vm.deadlines.cleanup).await;
        for (p, error, elsewhere) in unproven {
            tracing::warn!(backing = %p.item.wanted.disk.backing, slot = %p.slot, reason = error.reason().code, %error,
                "attached disk not proven; detached again");
            match (&settled, elsewhere) {
                (Settled::Done, true) => pass.left.push(Item { failed: Some(error), ..p.item }),
                (Settled::Done, false) => pass.answers.push((p.item.index, Err(error))),
                (Settled::Owed(_), _) => pass.answers.push((p.item.index, Err(error.owing()))),
            }
        }
    }
}

fn no_slot(view: &View) -> Error {
    let usable = view.map.usable().count();
    let refused = |c: &ControllerFacts| Some(format!("scsi{}: {}", c.bus, view.map.address(c.key).err()?));
    let mut why: Vec<_> = view.proxy.controllers.iter().filter_map(refused).collect();
    if usable > 0 {
        why.insert(0, format!("{usable} of {} controllers usable, all full", view.proxy.controllers.len()));
        return Error::new(&reason::ATT_NO_SLOT, why.join("; "));
    }
    let detail = if why.is_empty() { "the proxy has no SCSI controller".to_owned() } else { why.join("; ") };
    Error::new(&reason::ATT_CONTROLLER, detail)
}

fn expectation(pending: &Pending) -> Expectation {
    Expectation {
        slot: pending.slot,
        uuid: pending.item.wanted.uuid,
        size_bytes: pending.item.wanted.disk.capacity_bytes,
    }
}

fn request(pending: &Pending) -> AttachRequest {
    let Wanted { disk, uuid } = &pending.item.wanted;
    AttachRequest {
        slot: pending.slot,
        backing: disk.backing.clone(),
        backing_kind: disk.backing_kind.clone(),
        datastore: disk.datastore.clone(),
        capacity_bytes: disk.capacity_bytes,
        uuid: *uuid,
    }
}

fn intent(vm: &ProxyVm, session: SessionId, target: &TargetFacts, pending: &Pending) -> Duty {
    let Wanted { disk, uuid } = &pending.item.wanted;
    let kind = DutyKind::Attach(AttachDuty {
        backing: disk.backing.clone(),
        uuid: *uuid,
        capacity_bytes: disk.capacity_bytes,
        slot: pending.slot,
        device_key: None,
    });
    begin(vm, pending.duty, session, target, kind)
}
