//! Methods that we disabled: enabled again when nothing else of their VM is owed. Enabling is idempotent and undoes only
//! what was disabled under our own source.
use super::{Finding, Shared, lock};
use crate::{
    journal::{Duty, DutyPhase, GuardDuty},
    reason,
};

impl Shared {
    pub(super) async fn end_guard(&self, duty: &Duty, guard: &GuardDuty) {
        // Over the decision, the call and its record: an attach that begins now needs the guard of the proxy.
        let _gate = if self.guards_proxy(duty) { Some(self.vm.gate.lock().await) } else { None };
        let finding = self.settle_guard(duty, guard).await;
        self.conclude(vec![(duty.clone(), finding)]).await;
    }

    async fn settle_guard(&self, duty: &Duty, guard: &GuardDuty) -> Finding {
        if self.is_needed(duty) {
            return Finding::Later(format!("methods of {} stay disabled while something of it is held", duty.vm_name));
        }
        let enabled = self.vm.hypervisor.enable_methods(&duty.target(), &guard.methods, &guard.source).await;
        self.vm.audit_duty("enable methods", duty, &[], enabled.as_ref().err());
        if let Err(error) = enabled {
            if *error.reason() == reason::VC_UNKNOWN_OUTCOME {
                // They may be enabled by now: the next disk must not count on them.
                lock(&self.open).entry(duty.id).or_default().enabled = true;
            }
            self.forget_absence(duty.id);
            // A person's to grant or to enable; it is no reason to keep the port closed.
            return Finding::Doubtful(format!(
                "methods of {} are not enabled again: {}",
                duty.vm_name,
                error.message()
            ));
        }
        lock(&self.open).entry(duty.id).or_default().enabled = true;
        // The call that disables them may still be on its way.
        if duty.phase == DutyPhase::Intended && !self.absence_counts(duty).await {
            return Finding::Waits(format!(
                "methods of {} were never confirmed disabled; enabling once more",
                duty.vm_name
            ));
        }
        if duty.ticket
            && let Some(finding) = self.still_disabled(duty, guard).await
        {
            return finding;
        }
        Finding::Gone(format!("{} of {} are enabled for our source", guard.methods.join(", "), duty.vm_name))
    }

    /// What a session of a ticket has disabled may be no other account's to enable, and the call says nothing of it. Somebody else may
    /// have disabled it since, too: both need to be looked at.
    async fn still_disabled(&self, duty: &Duty, guard: &GuardDuty) -> Option<Finding> {
        let disabled = match self.vm.hypervisor.disabled_methods(&duty.target()).await {
            Ok(disabled) => disabled,
            Err(error) => {
                let why = error.message();
                return Some(Finding::Doubtful(format!("whether methods of {} are enabled: {why}", duty.vm_name)));
            }
        };
        let free = guard.free.iter().map(String::as_str);
        let still: Vec<&str> = free.filter(|method| disabled.contains(*method)).collect();
        if still.is_empty() {
            return None;
        }
        if still.len() == guard.methods.len() {
            // All of them still guard.
            lock(&self.open).entry(duty.id).or_default().enabled = false;
        }
        let (methods, source) = (still.join(", "), &guard.source);
        tracing::warn!(duty = %duty.id, vm = duty.vm_name, methods, source, "still disabled after they were enabled");
        Some(Finding::Doubtful(format!(
            "{methods} of {} are still disabled after they were enabled as {source}: by another product, or the account can't \
             enable what the ticket's has disabled",
            duty.vm_name
        )))
    }

    fn guards_proxy(&self, duty: &Duty) -> bool {
        duty.vm == self.vm.moref
    }

    /// The proxy's guard covers every attached disk, a target's what is owed of that target; while a snapshot is only kept
    /// for a job that resumes, its VM may be moved.
    fn is_needed(&self, duty: &Duty) -> bool {
        let state = self.vm.journal.state();
        let proxy = self.guards_proxy(duty);
        state.duties().any(|other| {
            let kept = other.snapshot().is_some_and(|snapshot| snapshot.kept().is_some());
            if proxy { other.attach().is_some() } else { other.vm == duty.vm && other.guard().is_none() && !kept }
        })
    }
}
