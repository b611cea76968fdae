//! Guards: methods of a VM that are disabled while we hold something of it, journalled like an attachment and enabled
//! again by the settler, whatever breaks.
//!
//! A target must not be moved by Storage vMotion while its files are read under their names. The proxy must not be
//! destroyed, unregistered, cloned, reverted or moved with its files: destroying a VM destroys every disk attached to it,
//! the customer's too (vSphere API 8.0, VirtualMachine.Destroy_Task). `MigrateVM_Task` of the proxy stays enabled:
//! without it its host could not enter maintenance.
//!
//! With the rights of a ticket a guard is begun only if the account may end it, and what was free before is written down: the settler
//! looks whether it is free again.
//!
//! ```text
//! journal.begin ▶ DisableMethods ─ done ▶ journal.confirm ▶ held ──dropped──▶ settler
//!                     ├ refused ▶ retire, then policy: warn and go on │ refuse
//!                     └ unknown ▶ settler, then policy
//! ```
use super::{Actor, ProxyVm, Settled, Settler, begin, now};
use crate::{
    config::GuardPolicy,
    error::{Error, Result},
    hypervisor::{Guarding, On, TargetFacts},
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

/// What the account needs to end a guard.
const ENABLE: &str = "Global.EnableMethods";

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
pub async fn target(vm: &ProxyVm, settler: &Settler, actor: &Actor, target: &TargetFacts) -> Result<Option<HeldGuard>> {
    if vm.guards == GuardPolicy::Off {
        return Ok(None);
    }
    let free = match free(vm, actor, target, TARGET).await {
        Ok(free) => free,
        Err(error) => return unguarded(vm, target, error).map(|()| None),
    };
    let duty = journalled(vm, actor, target, TARGET, free).await?;
    let held = HeldGuard { duty: duty.id, settler: settler.clone() };
    let (error, unanswered) = match disable(vm, actor, &duty, target, TARGET).await? {
        Disabled::Yes => return Ok(Some(held)),
        Disabled::No(error) => (error, false),
        Disabled::Others(error) => {
            settler.hand_over_refused(duty.id);
            if vm.guards != GuardPolicy::Refuse {
                tracing::warn!(vm = duty.vm_name, %error, "the target is not guarded by us");
                return Ok(None);
            }
            (error, false)
        }
        Disabled::Perhaps(error) => (error, true),
    };
    tracing::warn!(vm = duty.vm_name, reason = error.reason().code, %error, "the target is not guarded");
    drop(held);
    let settled = settler.settle(&[duty.id], vm.deadlines.cleanup).await;
    let error = if matches!(settled, Settled::Done) { error } else { error.owing() };
    // The fence of what was never answered is the end of the cloned session: the job has none to go on with.
    let key = actor.hypervisor().login();
    let fenced = unanswered && actor.has_ticket() && key.is_none_or(|key| vm.hypervisor.has_ended(&key));
    if vm.guards == GuardPolicy::Refuse || fenced { Err(error) } else { Ok(None) }
}

/// Guards the proxy, if no confirmed duty says that it is guarded. Called under the gate, before a disk is journalled; the
/// settler ends it when no disk is owed any more.
///
/// # Errors
/// As [`target`].
pub(super) async fn proxy(vm: &ProxyVm, settler: &Settler, actor: &Actor, facts: &TargetFacts) -> Result<()> {
    let state = vm.journal.state();
    let guards = |duty: &Duty| duty.guard().is_some() && duty.vm == vm.moref && duty.phase == DutyPhase::Held;
    // One whose methods were enabled again, and is owed for another reason, guards nothing.
    let held = state.duties().any(|duty| guards(duty) && !settler.is_enabled(duty.id));
    if vm.guards == GuardPolicy::Off || held {
        return Ok(());
    }
    let free = match free(vm, actor, facts, PROXY).await {
        Ok(free) => free,
        Err(error) => return unguarded(vm, facts, error),
    };
    // One that was never confirmed may still land, also after this one was confirmed and has ended: it stays a duty of its
    // own.
    let duty = journalled(vm, &actor.under(SessionId::new()), facts, PROXY, free).await?;
    let disabled = disable(vm, actor, &duty, facts, PROXY).await;
    // From here on the settler has it: it waits for the last disk.
    match &disabled {
        Ok(Disabled::Others(_)) => settler.hand_over_refused(duty.id),
        _ => settler.hand_over(duty.id),
    }
    match disabled? {
        Disabled::Yes => Ok(()),
        Disabled::No(error) | Disabled::Others(error) | Disabled::Perhaps(error) => {
            tracing::warn!(vm = duty.vm_name, reason = error.reason().code, %error, "the proxy is not guarded");
            if vm.guards == GuardPolicy::Refuse { Err(error) } else { Ok(()) }
        }
    }
}

/// Before anything is begun with the rights of a ticket: that the account may enable again, and what nobody has disabled so far. Empty
/// without a ticket.
async fn free(vm: &ProxyVm, actor: &Actor, target: &TargetFacts, methods: &[&str]) -> Result<Vec<String>> {
    if !actor.has_ticket() {
        return Ok(Vec::new());
    }
    let told = |error: Error| Error::new(&reason::GUARD_REFUSED, target.name.clone()).with_source(error);
    if !vm.hypervisor.account_may(On::Vcenter, ENABLE).await.map_err(told)? {
        return Err(told(Error::new(&reason::VC_TICKET_BACK, format!("{ENABLE} on vCenter itself"))));
    }
    let disabled = vm.hypervisor.disabled_methods(&target.id()).await.map_err(told)?;
    Ok(methods.iter().filter(|method| !disabled.contains(**method)).map(|method| (*method).to_owned()).collect())
}

/// Nothing was begun: the policy decides.
fn unguarded(vm: &ProxyVm, target: &TargetFacts, error: Error) -> Result<()> {
    tracing::warn!(vm = target.name, reason = error.reason().code, %error, "not guarded: it could not be given back");
    if vm.guards == GuardPolicy::Refuse { Err(error) } else { Ok(()) }
}

async fn journalled(
    vm: &ProxyVm,
    actor: &Actor,
    target: &TargetFacts,
    methods: &[&str],
    free: Vec<String>,
) -> Result<Duty> {
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    let id = DutyId::new();
    // One of its own for each duty, so that giving back an older one never undoes this.
    let kind = DutyKind::Guard(GuardDuty { methods, source: format!("hotadd-agent/{id}"), free });
    let duty = begin(vm, id, actor, target, kind);
    vm.record(vec![Record::Began(duty.clone())]).await?;
    Ok(duty)
}

/// What is known after the calls.
enum Disabled {
    Yes,
    /// Refused; the duty is retired.
    No(Error),
    /// All was answered, and others hold what we wanted. Some may have been disabled before theirs was met: the duty stays for the
    /// settler, which enables again, but nothing may land any more.
    Others(Error),
    /// Not all was answered. The duty stays for the settler.
    Perhaps(Error),
}

/// All in one call; if that is refused, one by one, since another product may hold one of them, or this vCenter may not
/// know one.
async fn disable(vm: &ProxyVm, actor: &Actor, duty: &Duty, target: &TargetFacts, methods: &[&str]) -> Result<Disabled> {
    let (id, source) = (target.id(), duty.guard().map_or("", |guard| guard.source.as_str()));
    let why = format!("held by {}", vm.source);
    let mut outcomes = vec![actor.hypervisor().disable_methods(&id, methods, source, &why).await];
    if methods.len() > 1 && matches!(outcomes[..], [Guarding::Others(_) | Guarding::Refused(_)]) {
        outcomes.clear();
        for method in methods {
            outcomes.push(actor.hypervisor().disable_methods(&id, &[method], source, &why).await);
        }
    }
    let told = |code: &'static ReasonCode, error: Error| Error::new(code, target.name.clone()).with_source(error);
    let (mut done, mut perhaps, mut others, mut refused) = (false, None, None, None);
    for outcome in outcomes {
        vm.audit_duty("disable methods", duty, &[], outcome.why());
        match outcome {
            Guarding::Disabled => done = true,
            Guarding::Unknown(error) => perhaps = Some(told(&reason::GUARD_REFUSED, error)),
            Guarding::Others(error) => {
                tracing::info!(vm = target.name, %error, "another product disabled a method");
                others = others.or(Some(told(&reason::GUARD_OTHERS, error)));
            }
            Guarding::Refused(error) => refused = refused.or(Some(told(&reason::GUARD_REFUSED, error))),
        }
    }
    match (perhaps, others, refused) {
        (Some(error), ..) => Ok(Disabled::Perhaps(error)),
        (None, Some(error), _) if !done => Ok(Disabled::Others(error)),
        (None, None, Some(error)) if !done => {
            let proof = format!("refused by vCenter: {}", error.message());
            vm.record(vec![Record::Retired { duty: duty.id, at: now(), proof, late_until: None }]).await?;
            Ok(Disabled::No(error))
        }
        (None, _, refused) => {
            if let Some(error) = refused {
                tracing::info!(vm = target.name, %error, "not every method was disabled");
            }
            vm.record(vec![Record::Confirmed { duty: duty.id, device_key: None, moref: None }]).await?;
            Ok(Disabled::Yes)
        }
    }
}
