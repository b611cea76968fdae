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
//! What is done under the gate, also for several jobs at once, is in [`super::joint`].
//!
//! An [`Attached`] that is dropped, on whatever way, hands its duty to the settler.
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Actor,
    joint::{Carried, Orders},
    proxy_vm::{ProxyVm, View},
    room::Room,
    settler::{Settled, Settler},
};
use crate::{
    discover::{Expectation, ProvenDisk},
    error::{Error, Result},
    hypervisor::{ControllerFacts, TargetDisk, TargetFacts},
    id::{DiskUuid, DutyId, Slot},
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
    pub(super) vm: Arc<ProxyVm>,
    pub(super) settler: Settler,
    pub(super) orders: Orders,
}

/// One disk that has no slot yet.
#[derive(Debug)]
pub(super) struct Item {
    /// Place in the caller's list.
    pub(super) index: usize,
    pub(super) wanted: Wanted,
    pub(super) actor: Actor,
    pub(super) target: Arc<TargetFacts>,
    /// Why it was not proven on a controller that is refused since.
    pub(super) failed: Option<Error>,
}

/// One disk on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) item: Item,
    pub(super) duty: DutyId,
    pub(super) slot: Slot,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) answers: Vec<(usize, Result<Attached>)>,
    /// Found no unit, or has to go elsewhere.
    pub(super) left: Vec<Item>,
    /// To be tried once more, by this job alone.
    pub(super) again: Vec<Item>,
}

impl Attacher {
    #[must_use]
    pub fn new(vm: Arc<ProxyVm>, settler: Settler) -> Self {
        Self { vm, settler, orders: Orders::default() }
    }

    /// Attaches all; one answer per disk, in order. Runs to its end in a task of its own: a caller that goes away does
    /// not tear it apart, which keeps unknown outcomes rare (the journal, not this, is what makes it safe).
    pub async fn attach(&self, actor: &Actor, target: &TargetFacts, wanted: Vec<Wanted>) -> Vec<Result<Attached>> {
        let count = wanted.len();
        let (this, actor, target) = (self.clone(), actor.clone(), Arc::new(target.clone()));
        let run = tokio::spawn(async move {
            let mut answers: Vec<Option<Result<Attached>>> = (0..wanted.len()).map(|_| None).collect();
            let item = |(index, wanted)| Item {
                index,
                wanted,
                actor: actor.clone(),
                target: Arc::clone(&target),
                failed: None,
            };
            let mut rest: VecDeque<Item> = wanted.into_iter().enumerate().map(item).collect();
            let mut alone = false;
            while !rest.is_empty() {
                let batch = rest.drain(..rest.len().min(this.vm.limits.attach_batch)).collect();
                let mut pass = this.batch(&actor, batch, Room::Proven, alone).await;
                alone |= !pass.again.is_empty();
                std::mem::take(&mut pass.again).into_iter().rev().for_each(|item| rest.push_front(item));
                if !pass.left.is_empty() {
                    let more = this.on_trial(&actor, std::mem::take(&mut pass.left)).await;
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
    async fn on_trial(&self, actor: &Actor, batch: Vec<Item>) -> Pass {
        let _trial = self.vm.trial.lock().await;
        let why = self.vm.make_room(actor).await.err();
        let mut pass = self.batch(actor, batch, Room::Trial, true).await;
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

    async fn batch(&self, actor: &Actor, batch: Vec<Item>, room: Room, alone: bool) -> Pass {
        let start = Instant::now();
        let Carried { mut pass, held, again, map } = self.reconfigure(actor, batch, room, alone).await;
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
        pass.again = self.cleared(again, &mut pass).await;
        pass
    }

    /// Those of a joint request that were not attached, and owe nothing now; of the others, why.
    async fn cleared(&self, again: Vec<(Item, Error, Option<DutyId>)>, pass: &mut Pass) -> Vec<Item> {
        let duties: Vec<DutyId> = again.iter().filter_map(|(.., duty)| *duty).collect();
        let deadlines = &self.vm.deadlines;
        // An absence is believed only after a while.
        let patience = deadlines.settle + deadlines.call;
        let settled = if duties.is_empty() { Settled::Done } else { self.settler.settle(&duties, patience).await };
        let mut cleared = Vec::new();
        for (item, error, duty) in again {
            if duty.is_some() && matches!(settled, Settled::Owed(_)) {
                pass.answers.push((item.index, Err(error)));
            } else {
                tracing::info!(backing = %item.wanted.disk.backing, %error, "not attached with those of other jobs; once more alone");
                cleared.push(item);
            }
        }
        cleared
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
