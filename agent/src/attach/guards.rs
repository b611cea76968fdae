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
//!                     ├ refused, or others hold it ▶ settler, then policy: warn and go on │ refuse
//!                     └ unknown ▶ settler, then policy
//! ```
use super::{ProxyVm, Settler, begin};
use crate::{
    config::GuardPolicy,
    error::{Error, Result},
    hypervisor::{Guarding, TargetFacts},
    id::{DutyId, SessionId},
    journal::{Duty, DutyKind, GuardDuty, Record},
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
    match disable(vm, &duty, target, TARGET).await {
        Ok(()) => Ok(Some(HeldGuard { duty: duty.id, settler: settler.clone() })),
        Err(error) => {
            let error = not_guarded(vm, settler, &duty, error).await;
            if vm.guards == GuardPolicy::Refuse { Err(error) } else { Ok(None) }
        }
    }
}

/// Guards the proxy, if no duty says that it is guarded. Called under the gate, before a disk is journalled; the settler
/// ends it when no disk is owed any more.
///
/// # Errors
/// As [`target`].
pub(super) async fn proxy(vm: &ProxyVm, settler: &Settler, facts: &TargetFacts) -> Result<()> {
    let state = vm.journal.state();
    let guarded = state.duties().any(|duty| duty.guard().is_some() && duty.vm == vm.moref);
    if vm.guards == GuardPolicy::Off || guarded {
        return Ok(());
    }
    let duty = journalled(vm, SessionId::new(), facts, PROXY).await?;
    let disabled = disable(vm, &duty, facts, PROXY).await;
    // From here on the settler has it: it waits for the last disk.
    settler.hand_over(duty.id);
    match disabled {
        Err(error) if vm.guards == GuardPolicy::Refuse => Err(error),
        Err(error) => {
            warn(&duty, &error);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn journalled(vm: &ProxyVm, session: SessionId, target: &TargetFacts, methods: &[&str]) -> Result<Duty> {
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    let kind = DutyKind::Guard(GuardDuty { methods, source: vm.source.clone() });
    let duty = begin(vm, DutyId::new(), session, target, kind);
    vm.record(vec![Record::Began(duty.clone())]).await?;
    Ok(duty)
}

/// All in one call. If another product holds one of them, the rest is disabled one by one.
async fn disable(vm: &ProxyVm, duty: &Duty, target: &TargetFacts, methods: &[&str]) -> Result<()> {
    let (id, source) = (target.id(), vm.source.as_str());
    let why = format!("hotadd-agent duty {}", duty.id);
    let mut outcome = vm.hypervisor.disable_methods(&id, methods, source, &why).await;
    if methods.len() > 1 && matches!(outcome, Guarding::Others(_) | Guarding::Refused(_)) {
        let mut disabled = 0;
        for method in methods {
            match vm.hypervisor.disable_methods(&id, &[method], source, &why).await {
                Guarding::Disabled => disabled += 1,
                // Disabled by somebody: nobody can call it now, which is what is wanted; it may end before we do.
                Guarding::Others(error) => {
                    tracing::info!(vm = target.name, method, %error, "disabled by another product")
                }
                Guarding::Refused(error) => tracing::debug!(vm = target.name, method, %error, "can't be disabled"),
                unknown @ Guarding::Unknown(_) => {
                    outcome = unknown;
                    break;
                }
            }
        }
        if disabled > 0 && !matches!(outcome, Guarding::Unknown(_)) {
            outcome = Guarding::Disabled;
        }
    }
    let refusal = |code: &'static ReasonCode, error: Error| Error::new(code, target.name.clone()).with_source(error);
    match outcome {
        Guarding::Disabled => vm.record(vec![Record::Confirmed { duty: duty.id, device_key: None, moref: None }]).await,
        Guarding::Others(error) => Err(refusal(&reason::GUARD_OTHERS, error)),
        Guarding::Refused(error) | Guarding::Unknown(error) => Err(refusal(&reason::GUARD_REFUSED, error)),
    }
}

/// Gives back whatever of it may have happened.
async fn not_guarded(vm: &ProxyVm, settler: &Settler, duty: &Duty, error: Error) -> Error {
    warn(duty, &error);
    settler.hand_over_refused(duty.id);
    match settler.settle(&[duty.id], vm.deadlines.cleanup).await {
        super::Settled::Done => error,
        super::Settled::Owed(_) => error.owing(),
    }
}

fn warn(duty: &Duty, error: &Error) {
    tracing::warn!(vm = duty.vm_name, reason = error.reason().code, %error, "methods could not be disabled");
}
