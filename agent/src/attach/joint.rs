//! Everything under the gate when disks are attached: batches of jobs that are ready at the same time go into one reconfigure.
//!
//! ```text
//! asked ──gate──▶ whoever gets it takes the oldest batches that fit together ─▶ slots → journal.begin (fsync) → reconfigure(add…) → journal.confirm
//!    └────────────────────────────────────── its batch was carried out by another ──▶ answered ◀──────────────────────────────────────┘
//! ```
//! A fault that names no disk is searched for by halves ([`crate::hypervisor`]), but some faults tell only that the request failed. So what a
//! joint request did not attach is tried once more by its job alone, as soon as nothing of it is owed: what one job's disk does to a request is
//! told to that job only. A batch on a controller on trial is never joint, and jobs that ask by different sessions never share a request.
//!
//! The gate is fair, so only one of those who attach waits for it: what is to be detached comes next, whatever else is to be attached. Who
//! attaches everything first has nothing to do while all that was read is given back.
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    Actor,
    attacher::{Attacher, Item, Pass, Pending, Wanted},
    duty::begin,
    guards,
    proxy_vm::{View, now},
    room::{self, Room},
};
use crate::{
    audit::tasks_of,
    discover::ControllerMap,
    error::Error,
    hypervisor::{AttachOutcome, AttachRequest},
    id::{DiskUuid, DutyId},
    journal::{AttachDuty, Duty, DutyKind, Record},
    reason,
};

/// Batches that wait for the gate, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    waiting: Arc<Mutex<VecDeque<Order>>>,
    /// Held by the one who waits for the gate.
    next: Arc<tokio::sync::Mutex<()>>,
}

/// One job's batch.
#[derive(Debug)]
struct Order {
    actor: Actor,
    items: Vec<Item>,
    room: Room,
    alone: bool,
    answer: oneshot::Sender<Carried>,
}

/// What became of one job's batch.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) pass: Pass,
    pub(super) held: Vec<Pending>,
    /// In a joint request it was not attached: once more alone, when this duty is settled; `None`: at once.
    pub(super) again: Vec<(Item, Error, Option<DutyId>)>,
    pub(super) map: ControllerMap,
}

impl Orders {
    fn all(&self) -> MutexGuard<'_, VecDeque<Order>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest, and those after it that fit into the same request.
    fn take(&self, most: usize) -> Vec<Order> {
        let joins = |order: &Order| order.room == Room::Proven && !order.alone;
        let mut all = self.all();
        let mut taken: Vec<Order> = all.pop_front().into_iter().collect();
        let mut count: usize = taken.iter().map(|order| order.items.len()).sum();
        while taken.iter().all(joins)
            && let Some(next) = all.front()
            && joins(next)
            && taken.iter().all(|order| order.actor.asks_as(&next.actor))
            && count + next.items.len() <= most
        {
            count += next.items.len();
            taken.extend(all.pop_front());
        }
        taken
    }
}

impl Attacher {
    /// Slots, intents, the request and what is known after it.
    pub(super) async fn reconfigure(&self, actor: &Actor, items: Vec<Item>, room: Room, alone: bool) -> Carried {
        let indexes: Vec<usize> = items.iter().map(|item| item.index).collect();
        let (answer, mut carried) = oneshot::channel();
        self.orders.all().push_back(Order { actor: actor.clone(), items, room, alone, answer });
        loop {
            tokio::select! {
                biased;
                answer = &mut carried => return answer.unwrap_or_else(|_| {
                    let lost = || Error::new(&reason::INTERNAL, "a joint attach ended without an answer").owing();
                    let answers = indexes.into_iter().map(|index| (index, Err(lost()))).collect();
                    Carried { pass: Pass { answers, ..Pass::default() }, ..Carried::default() }
                }),
                _turn = async { (self.orders.next.lock().await, self.vm.gate.lock().await) } => {
                    let orders = self.orders.take(self.vm.limits.attach_batch);
                    self.carry_out(orders).await;
                }
            }
        }
    }

    async fn carry_out(&self, orders: Vec<Order>) {
        let joint = orders.len() > 1;
        let Some(actor) = orders.first().map(|order| order.actor.clone()) else { return };
        let mut answers = Vec::new();
        let (mut all, mut carried): (Vec<_>, Vec<Carried>) = (Vec::new(), Vec::new());
        let room = orders.first().map_or(Room::Proven, |order| order.room);
        for (of, order) in orders.into_iter().enumerate() {
            all.extend(order.items.into_iter().map(|item| (of, item)));
            answers.push(order.answer);
            carried.push(Carried::default());
        }
        self.request(&actor, all, room, joint, &mut carried).await;
        for (answer, carried) in answers.into_iter().zip(carried) {
            // Who asked waits, in a task of its own, unless everything ends.
            drop(answer.send(carried));
        }
    }

    /// `items`: each with the place of its job's batch in `carried`.
    async fn request(
        &self,
        actor: &Actor,
        items: Vec<(usize, Item)>,
        room: Room,
        joint: bool,
        carried: &mut [Carried],
    ) {
        let view = match self.vm.view().await {
            Ok(view) => view,
            Err(error) => return not_begun(items, &error, joint, carried),
        };
        if let Err(error) = guards::proxy(&self.vm, &self.settler, actor, &view.proxy.as_target()).await {
            return not_begun(items, &error, joint, carried);
        }
        let pending = self.place(&view, items, room, carried);
        if pending.is_empty() {
            return;
        }
        let duties: Vec<Duty> = pending.iter().map(|(_, p)| self.intent(p)).collect();
        if let Err(error) = self.vm.record(duties.iter().cloned().map(Record::Began).collect()).await {
            return refuse_all(pending.into_iter().map(|(of, p)| (of, p.item)).collect(), &error, carried);
        }
        let requests: Vec<_> = pending.iter().map(|(_, p)| request(p)).collect();
        let asked = Instant::now();
        let (outcomes, tasks) = tasks_of(actor.hypervisor().attach(&self.vm.moref, &requests)).await;
        self.vm.meter.attached(asked.elapsed());
        for (duty, outcome) in duties.iter().zip(&outcomes) {
            self.vm.audit_duty("attach", duty, &tasks, outcome.why());
        }
        let (mut held, mut refused, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for ((of, p), outcome) in pending.into_iter().zip(outcomes) {
            let Some(carried) = carried.get_mut(of) else { continue };
            match outcome {
                AttachOutcome::Attached { device_key } => {
                    records.push(Record::Confirmed { duty: p.duty, device_key: Some(device_key), moref: None });
                    held.push((of, p));
                }
                AttachOutcome::Refused(error) => {
                    let proof = format!("refused by vCenter: {}", error.message());
                    records.push(Record::Retired { duty: p.duty, at: now(), proof, late_until: None });
                    refused.push((of, p, error));
                }
                AttachOutcome::Unknown(error) => {
                    self.settler.hand_over(p.duty);
                    carried.failed(p.item, error.owing(), joint, Some(p.duty));
                }
            }
        }
        let recorded = self.vm.record(records).await;
        for (of, p, error) in refused {
            let Some(carried) = carried.get_mut(of) else { continue };
            if recorded.is_ok() {
                carried.failed(p.item, error, joint, None);
            } else {
                // Durable is only that it was begun.
                self.settler.hand_over(p.duty);
                carried.failed(p.item, error.owing(), joint, Some(p.duty));
            }
        }
        for (of, p) in held {
            let Some(carried) = carried.get_mut(of) else { continue };
            match &recorded {
                Ok(()) => carried.held.push(p),
                // Attached but not confirmed: the intents are durable, so the settler finds and removes them.
                Err(error) => {
                    self.settler.hand_over(p.duty);
                    carried.pass.answers.push((p.item.index, Err(error.copy().owing())));
                }
            }
        }
        carried.iter_mut().for_each(|carried| carried.map.clone_from(&view.map));
    }

    /// Gives each disk a slot, or its refusal; those without a unit are left.
    fn place(
        &self,
        view: &View,
        items: Vec<(usize, Item)>,
        room: Room,
        carried: &mut [Carried],
    ) -> Vec<(usize, Pending)> {
        let state = self.vm.journal.state();
        let open: Vec<&AttachDuty> = state.duties().filter_map(Duty::attach).collect();
        let mut present: BTreeSet<DiskUuid> =
            view.proxy.disks.iter().filter_map(|d| d.uuid).chain(open.iter().map(|d| d.uuid)).collect();
        let (reserved, held) = (state.reserved_slots(), open.iter().map(|duty| duty.slot).collect());
        let mut slots = room::slots(&view.proxy, &view.map, &reserved, &held, room, items.len()).into_iter();
        let mut pending = Vec::new();
        for (of, mut item) in items {
            let Some(Carried { pass, .. }) = carried.get_mut(of) else { continue };
            if !present.insert(item.wanted.uuid) {
                let detail = format!("{} ({})", item.wanted.disk.backing, item.wanted.uuid);
                pass.answers.push((item.index, Err(Error::new(&reason::PLAN_IN_USE, detail))));
            } else if let Some(slot) = slots.next() {
                pending.push((of, Pending { item, duty: DutyId::new(), slot }));
            } else if let Some(failed) = item.failed.take_if(|_| room == Room::Trial) {
                pass.answers.push((item.index, Err(failed)));
            } else {
                pass.left.push(item);
            }
        }
        pending
    }

    fn intent(&self, pending: &Pending) -> Duty {
        let Wanted { disk, uuid } = &pending.item.wanted;
        let kind = DutyKind::Attach(AttachDuty {
            backing: disk.backing.clone(),
            uuid: *uuid,
            capacity_bytes: disk.capacity_bytes,
            slot: pending.slot,
            device_key: None,
        });
        begin(&self.vm, pending.duty, &pending.item.actor, &pending.item.target, kind)
    }
}

impl Carried {
    fn failed(&mut self, item: Item, error: Error, joint: bool, duty: Option<DutyId>) {
        if joint {
            self.again.push((item, error, duty));
        } else {
            self.pass.answers.push((item.index, Err(error)));
        }
    }
}

/// Nothing was asked yet. What may be one answer that was lost does not cost many jobs their disks: each asks again, alone.
fn not_begun(items: Vec<(usize, Item)>, error: &Error, joint: bool, carried: &mut [Carried]) {
    for (of, item) in items {
        if let Some(carried) = carried.get_mut(of) {
            carried.failed(item, error.copy(), joint, None);
        }
    }
}

/// A journal that can't be written meets every batch alike.
fn refuse_all(items: Vec<(usize, Item)>, error: &Error, carried: &mut [Carried]) {
    for (of, item) in items {
        if let Some(carried) = carried.get_mut(of) {
            carried.pass.answers.push((item.index, Err(error.copy())));
        }
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
