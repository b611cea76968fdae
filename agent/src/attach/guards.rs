//! Guards: methods of a VM that are disabled while we hold something of it, journalled like an attachment and enabled
//! again by the settler, whatever breaks.
//!
//! A target must not be moved by Storage vMotion while its files are read under their names. The proxy must not be
//! destroyed, unregistered, cloned, reverted or moved with its files: destroying a VM destroys every disk attached to it,
//! the customer's too (vSphere API 8.0, VirtualMachine.Destroy_Task). `MigrateVM_Task` of the proxy stays enabled:
//! without it its host could not enter maintenance.
//!
//! ```text
//! journal.begin ▶ DisableMethods ─ done ▶ journal.confirm ▶ held ──dropped──▶ settler
//!                     ├ refused ▶ retire, then policy: warn and go on │ refuse
//!                     └ unknown ▶ settler, then policy
//! ```
use super::{ProxyVm, Settled, Settler, begin, now};
use crate::{
    config::GuardPolicy,
    error::{Error, Result},
    hypervisor::{Guarding, TargetFacts},
    id::{DutyId, SessionId},
    journal::{Duty, DutyKind, DutyPhase, GuardDuty, Record},
    reason::{self, ReasonCode},
};

/// Of a target. Source: VDDK's VixDiskLib_PrepareForAccess.
const TARGET: &[&str] = &["RelocateVM_Task"];

/// Of the proxy.
const PROXY: &[&str] = &[
    "Destroy_Task",
    "UnregisterVM",
    "RelocateVM_Task",
    "CloneVM_Task",
    "CreateSnapshot_Task",
    "CreateSnapshotEx_Task",
    "RevertToSnapshot_Task",
    "RevertToCurrentSnapshot_Task",
    "MarkAsTemplate",
];

/// Methods of a VM are disabled as long as this lives; dropping it makes the settler enable them.
#[derive(Debug)]
pub struct HeldGuard {
    duty: DutyId,
    settler: Settler,
}

impl HeldGuard {
    #[must_use]
    pub fn duty(&self) -> DutyId {
        self.duty
    }
}

impl Drop for HeldGuard {
    fn drop(&mut self) {
        self.settler.hand_over(self.duty);
    }
}

/// Guards a target for a session. `None`: it could not be guarded and the policy is to go on.
///
/// # Errors
/// [`reason::GUARD_REFUSED`] or [`reason::GUARD_OTHERS`] where the policy is to refuse; the journal's.
pub async fn target(
    vm: &ProxyVm,
    settler: &Settler,
    session: SessionId,
    target: &TargetFacts,
) -> Result<Option<HeldGuard>> {
    if vm.guards == GuardPolicy::Off {
        return Ok(None);
    }
    let duty = journalled(vm, session, target, TARGET).await?;
    let held = HeldGuard { duty: duty.id, settler: settler.clone() };
    match disable(vm, &duty, target, TARGET).await? {
        Disabled::Yes => Ok(Some(held)),
        Disabled::No(error) | Disabled::Perhaps(error) => {
            tracing::warn!(vm = duty.vm_name, reason = error.reason().code, %error, "the target is not guarded");
            drop(held);
            let settled = settler.settle(&[duty.id], vm.deadlines.cleanup).await;
            let error = if matches!(settled, Settled::Done) { error } else { error.owing() };
            if vm.guards == GuardPolicy::Refuse { Err(error) } else { Ok(None) }
        }
    }
}

/// Guards the proxy, if no confirmed duty says that it is guarded. Called under the gate, before a disk is journalled; the
/// settler ends it when no disk is owed any more.
///
/// # Errors
/// As [`target`].
pub(super) async fn proxy(vm: &ProxyVm, settler: &Settler, facts: &TargetFacts) -> Result<()> {
    let state = vm.journal.state();
    let held =
        state.duties().any(|duty| duty.guard().is_some() && duty.vm == vm.moref && duty.phase == DutyPhase::Held);
    if vm.guards == GuardPolicy::Off || held {
        return Ok(());
    }
    // One that was never confirmed may still land, also after this one was confirmed and has ended: it stays a duty of its
    // own.
    let duty = journalled(vm, SessionId::new(), facts, PROXY).await?;
    let disabled = disable(vm, &duty, facts, PROXY).await;
    // From here on the settler has it: it waits for the last disk.
    settler.hand_over(duty.id);
    match disabled? {
        Disabled::Yes => Ok(()),
        Disabled::No(error) | Disabled::Perhaps(error) => {
            tracing::warn!(vm = duty.vm_name, reason = error.reason().code, %error, "the proxy is not guarded");
            if vm.guards == GuardPolicy::Refuse { Err(error) } else { Ok(()) }
        }
    }
}

async fn journalled(vm: &ProxyVm, session: SessionId, target: &TargetFacts, methods: &[&str]) -> Result<Duty> {
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    let id = DutyId::new();
    // One of its own for each duty, so that giving back an older one never undoes this.
    let kind = DutyKind::Guard(GuardDuty { methods, source: format!("hotadd-agent/{id}") });
    let duty = begin(vm, id, session, target, kind);
    vm.record(vec![Record::Began(duty.clone())]).await?;
    Ok(duty)
}

/// What is known after the calls.
enum Disabled {
    Yes,
    /// Refused; the duty is retired.
    No(Error),
    /// The duty stays for the settler.
    Perhaps(Error),
}

/// All in one call; if that is refused, one by one, since another product may hold one of them, or this vCenter may not
/// know one.
async fn disable(vm: &ProxyVm, duty: &Duty, target: &TargetFacts, methods: &[&str]) -> Result<Disabled> {
    let (id, source) = (target.id(), duty.guard().map_or("", |guard| guard.source.as_str()));
    let why = format!("held by {}", vm.source);
    let mut outcomes = vec![vm.hypervisor.disable_methods(&id, methods, source, &why).await];
    if methods.len() > 1 && matches!(outcomes[..], [Guarding::Others(_) | Guarding::Refused(_)]) {
        outcomes.clear();
        for method in methods {
            outcomes.push(vm.hypervisor.disable_methods(&id, &[method], source, &why).await);
        }
    }
    let told = |code: &'static ReasonCode, error: Error| Error::new(code, target.name.clone()).with_source(error);
    let (mut done, mut perhaps, mut refused) = (false, None, None);
    for outcome in outcomes {
        vm.audit_duty("disable methods", duty, &[], outcome.why());
        match outcome {
            Guarding::Disabled => done = true,
            Guarding::Unknown(error) => perhaps = Some(told(&reason::GUARD_REFUSED, error)),
            // The call for all may have disabled some before it met theirs: enabling again is harmless and surer.
            Guarding::Others(error) if !done => perhaps = perhaps.or(Some(told(&reason::GUARD_OTHERS, error))),
            Guarding::Others(error) => tracing::info!(vm = target.name, %error, "another product disabled a method"),
            Guarding::Refused(error) => refused = refused.or(Some(told(&reason::GUARD_REFUSED, error))),
        }
    }
    if done && perhaps.as_ref().is_some_and(|error| *error.reason() == reason::GUARD_OTHERS) {
        perhaps = None;
    }
    match (perhaps, refused) {
        (Some(error), _) => Ok(Disabled::Perhaps(error)),
        (None, Some(error)) if !done => {
            let proof = format!("refused by vCenter: {}", error.message());
            vm.record(vec![Record::Retired { duty: duty.id, at: now(), proof, late_until: None }]).await?;
            Ok(Disabled::No(error))
        }
        (None, refused) => {
            if let Some(error) = refused {
                tracing::info!(vm = target.name, %error, "not every method was disabled");
            }
            vm.record(vec![Record::Confirmed { duty: duty.id, device_key: None, moref: None }]).await?;
            Ok(Disabled::Yes)
        }
    }
}
