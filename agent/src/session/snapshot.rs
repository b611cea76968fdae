//! Snapshots of ours: journalled before they are asked for, and the ladder of consistency.
//!
//! ```text
//! required_app │ filesystem:  quiesced ▶ quiesced once more ▶ fail
//! prefer_app:                 quiesced ▶ quiesced once more ▶ crash-consistent, with the fault told
//! crash:                      crash-consistent
//! ```
//! vSphere ignores a wish to quiesce when Tools do not run; what counts is what the snapshot says afterwards. A
//! powered-off VM is at rest: whatever was asked is reached.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hotadd_api::v1::{self, Cleanup, Consistency};
use jiff::Timestamp;

use crate::{
    attach::{
        Actor, ProxyVm, Settled, Settler, begin,
        guards::{self, HeldGuard},
    },
    audit::tasks_of,
    error::{Error, Result},
    hypervisor::{Quiesce, SNAPSHOT_NAME, Snapshot, SnapshotOutcome, TargetFacts},
    id::{DutyId, Moref, SessionId},
    journal::{DutyKind, Record, SnapshotDuty},
    reason,
};

/// A snapshot that a session reads from. If it is ours, dropping this makes the settler remove it.
#[derive(Debug)]
pub struct HeldSnapshot {
    pub moref: Moref,
    reached: Consistency,
    fault: Option<v1::Reason>,
    /// By this host's clock.
    since: Timestamp,
    ours: Option<(DutyId, Settler)>,
    /// After the snapshot: its VM may be moved again when nothing of it is held.
    guard: Option<HeldGuard>,
}

impl HeldSnapshot {
    /// A snapshot that the caller made and will remove.
    #[must_use]
    pub fn foreign(moref: Moref, guard: Option<HeldGuard>) -> Self {
        Self { moref, reached: Consistency::Unspecified, fault: None, since: Timestamp::now(), ours: None, guard }
    }

    /// Since it was taken, or since it was given to us.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::try_from(Timestamp::now().duration_since(self.since)).unwrap_or_default()
    }

    /// The duty to remove it, if it is ours.
    #[must_use]
    pub fn duty(&self) -> Option<DutyId> {
        self.ours.as_ref().map(|(duty, _)| *duty)
    }

    #[must_use]
    pub fn to_api(&self) -> v1::SnapshotResult {
        v1::SnapshotResult {
            moref: self.moref.to_string(),
            reached: self.reached.into(),
            fault: self.fault.clone(),
            ours: self.ours.is_some(),
        }
    }
}

impl Drop for HeldSnapshot {
    fn drop(&mut self) {
        if let Some((duty, settler)) = &self.ours {
            settler.hand_over(*duty);
        }
        drop(self.guard.take());
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub consistency: Consistency,
    pub timeout: Option<Duration>,
}

impl Wish {
    #[must_use]
    pub fn from_api(request: v1::SnapshotRequest) -> Self {
        let timeout = (request.timeout_seconds > 0).then(|| Duration::from_secs(request.timeout_seconds.into()));
        let consistency = match request.consistency() {
            Consistency::Unspecified => Consistency::Crash,
            asked => asked,
        };
        Self { consistency, timeout }
    }

    fn quiesces(self) -> bool {
        self.consistency != Consistency::Crash
    }
}

/// Guards the target, then takes the snapshot; `stores`: on which its deltas may be.
///
/// # Errors
/// [`reason::SNAP_QUIESCE`], [`reason::SNAP_FAILED`], or of the hypervisor. Anything that may exist is owed by then.
pub async fn take(
    vm: &Arc<ProxyVm>,
    settler: &Settler,
    actor: &Actor,
    target: &TargetFacts,
    stores: &BTreeSet<Moref>,
    wish: Wish,
) -> Result<HeldSnapshot> {
    let guard = guards::target(vm, settler, actor, target).await?;
    match climb(vm, settler, actor, target, stores, wish).await {
        Ok(mut held) => {
            held.guard = guard;
            Ok(held)
        }
        Err(error) => {
            let Some(duty) = guard.as_ref().map(HeldGuard::duty) else { return Err(error) };
            drop(guard);
            Err(owed_unless_settled(settler, duty, vm.deadlines.cleanup, error).await)
        }
    }
}

/// The ladder.
async fn climb(
    vm: &Arc<ProxyVm>,
    settler: &Settler,
    actor: &Actor,
    target: &TargetFacts,
    stores: &BTreeSet<Moref>,
    wish: Wish,
) -> Result<HeldSnapshot> {
    let mut quiesce_fault = None;
    if wish.quiesces() {
        for attempt in 1..=2 {
            match quiesced(vm, settler, actor, target, stores, wish).await {
                Ok(held) => return Ok(held),
                // While a snapshot of the first try is owed, another one would only lengthen the chain.
                Err(error) if *error.reason() == reason::SNAP_QUIESCE && error.cleanup() == Cleanup::Done => {
                    tracing::warn!(vm = target.name, attempt, %error, "quiescing failed");
                    quiesce_fault = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = quiesce_fault.take_if(|_| wish.consistency != Consistency::PreferApp) {
            return Err(error);
        }
    }
    let (mut held, _) = create(vm, settler, actor, target, stores, Quiesce::None).await?;
    held.fault = quiesce_fault.map(|error| error.to_reason());
    Ok(held)
}

/// Takes over the snapshot that is kept for a job that resumes. `of`: the session of the job that broke; `reached`: what
/// that job's snapshot was.
///
/// # Errors
/// [`reason::JOB_RESUME`]: none is kept, or it is no longer there; of the journal and the hypervisor.
pub async fn adopt(
    vm: &Arc<ProxyVm>,
    settler: &Settler,
    actor: &Actor,
    target: &TargetFacts,
    of: SessionId,
    reached: Consistency,
) -> Result<HeldSnapshot> {
    let nothing = |why: &str| Error::new(&reason::JOB_RESUME, format!("{}: {why}", target.name));
    let kept = vm.journal.duties_of(of).into_iter().find(|d| d.vm == target.moref && d.snapshot().is_some());
    let duty = kept.ok_or_else(|| nothing("no snapshot is kept"))?;
    let adopted = settler.adopt(duty.id, actor.session()).await?;
    let (id, moref) = adopted.ok_or_else(|| nothing("the time to resume is over"))?;
    let since = duty.since.parse().unwrap_or_else(|_| Timestamp::now());
    // From here it is removed when this is dropped.
    let mut held = HeldSnapshot { moref, reached, fault: None, since, ours: Some((id, settler.clone())), guard: None };
    held.guard = guards::target(vm, settler, actor, target).await?;
    if !vm.hypervisor.has_snapshot(&target.moref, &held.moref).await? {
        return Err(nothing("the kept snapshot is no longer there"));
    }
    Ok(held)
}

async fn quiesced(
    vm: &Arc<ProxyVm>,
    settler: &Settler,
    actor: &Actor,
    target: &TargetFacts,
    stores: &BTreeSet<Moref>,
    wish: Wish,
) -> Result<HeldSnapshot> {
    let (mut held, done) = create(vm, settler, actor, target, stores, Quiesce::Yes { timeout: wish.timeout }).await?;
    let at_rest = target.power_state == "poweredOff";
    if done || at_rest {
        let app = wish.consistency != Consistency::Filesystem;
        held.reached = if app { Consistency::RequiredApp } else { Consistency::Filesystem };
        return Ok(held);
    }
    let detail = format!("{}: vCenter took the snapshot without quiescing (VMware Tools not running?)", target.name);
    let error = Error::new(&reason::SNAP_QUIESCE, detail);
    let duty: Vec<DutyId> = held.duty().into_iter().collect();
    drop(held);
    match settler.settle(&duty, vm.deadlines.cleanup).await {
        Settled::Done => Err(error),
        Settled::Owed(_) => Err(error.owing()),
    }
}

async fn owed_unless_settled(settler: &Settler, duty: DutyId, patience: Duration, error: Error) -> Error {
    match settler.settle(&[duty], patience).await {
        Settled::Done => error,
        Settled::Owed(_) => error.owing(),
    }
}

/// Journal first, then vCenter, in a task of its own: a caller that goes away leaves no half-known snapshot, and the
/// result that nobody takes hands itself to the settler. Also tells whether the guest was quiesced.
async fn create(
    vm: &Arc<ProxyVm>,
    settler: &Settler,
    actor: &Actor,
    target: &TargetFacts,
    stores: &BTreeSet<Moref>,
    quiesce: Quiesce,
) -> Result<(HeldSnapshot, bool)> {
    let (vm, settler, actor) = (Arc::clone(vm), settler.clone(), actor.clone());
    let (target, stores) = (target.clone(), stores.clone());
    tokio::spawn(async move {
        let id = DutyId::new();
        let name = format!("{SNAPSHOT_NAME}{id}");
        let kind = DutyKind::Snapshot(SnapshotDuty { name: name.clone(), moref: None, keep_until: None, stores });
        let duty = begin(&vm, id, &actor, &target, kind);
        let marker = marker(&vm, id);
        vm.record(vec![Record::Began(duty.clone())]).await?;
        let step = actor.hypervisor().create_snapshot(&target.moref, &name, &marker, quiesce);
        let (outcome, tasks) = tasks_of(step).await;
        vm.audit_duty("create snapshot", &duty, &tasks, outcome.why());
        let made = match outcome {
            SnapshotOutcome::Made(made) => made,
            // The settler looks for it by name before it believes that there is none.
            SnapshotOutcome::Refused(error) => {
                settler.hand_over_refused(id);
                return Err(owed_unless_settled(&settler, id, vm.deadlines.cleanup, error).await);
            }
            SnapshotOutcome::Unknown(error) => {
                let patience = vm.deadlines.settle + vm.deadlines.call;
                return Err(owed_unless_settled(&settler, id, patience, error).await);
            }
        };
        let confirmed = Record::Confirmed { duty: id, device_key: None, moref: Some(made.moref.clone()) };
        if let Err(error) = vm.record(vec![confirmed]).await {
            settler.hand_over(id);
            return Err(error.owing());
        }
        let Snapshot { moref, quiesced } = made;
        let (reached, since) = (Consistency::Crash, Timestamp::now());
        Ok((HeldSnapshot { moref, reached, fault: None, since, ours: Some((id, settler)), guard: None }, quiesced))
    })
    .await?
}

/// Whose snapshot it is and when nobody needs it any more, readable from vCenter alone.
fn marker(vm: &ProxyVm, duty: DutyId) -> String {
    let age = vm.limits.snapshot_max_age;
    let expires = age.and_then(|age| Timestamp::now().checked_add(age).ok()).map(|at| format!("{at:.0}"));
    format!("[{} duty={duty} expires={}]", vm.source, expires.as_deref().unwrap_or("never"))
}
