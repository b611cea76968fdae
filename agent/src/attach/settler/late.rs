//! What was retired without ever having been confirmed is looked for again for a while: vCenter may carry out a request
//! long after its reply was lost. Only what is certainly ours, in a place that no other duty names, is owed again.
use jiff::Timestamp;

use super::{Shared, lock};
use crate::{
    attach::{Claim, claim, now},
    error::{Error, Result},
    journal::{Duty, DutyKind, DutyPhase, Late, Record},
    reason,
};

impl Shared {
    /// Until when a duty that is retired now is looked for; `None`: it was confirmed, or refused.
    pub(super) fn late_until(&self, duty: &Duty) -> Option<String> {
        let refused = lock(&self.open).get(&duty.id).is_some_and(|open| open.refused);
        let late = self.vm.deadlines.late;
        // A lease that nobody can name can't be looked for.
        (duty.phase == DutyPhase::Intended && duty.export().is_none() && !refused && !late.is_zero())
            .then(|| Timestamp::now().checked_add(late).map_or_else(|_| now(), |until| until.to_string()))
    }

    /// Looks at everything that is late; tells how much of it could not be looked at.
    pub(super) async fn sweep(&self) -> usize {
        let mut unseen = 0;
        let state = self.vm.journal.state();
        for late in state.late() {
            self.pulse.beat();
            let id = late.duty.id;
            if late.duty.is_of_another(self.vm.hypervisor.about().instance_uuid.as_deref(), &self.vm.moref) {
                self.note(Record::Lapsed { duty: id }).await;
                continue;
            }
            match self.has_landed(late).await {
                Ok(true) => {
                    tracing::error!(duty = %id, vm = late.duty.vm_name, "something landed long after its request; it is given back");
                    self.note(Record::Reopened { duty: id, at: now() }).await;
                    self.admit(id);
                }
                Ok(false) if is_over(late) => self.note(Record::Lapsed { duty: id }).await,
                Ok(false) => {}
                Err(error) => {
                    unseen += 1;
                    tracing::debug!(duty = %id, %error, "can't look for a late landing now");
                }
            }
        }
        unseen
    }

    async fn has_landed(&self, late: &Late) -> Result<bool> {
        let duty = &late.duty;
        match &duty.kind {
            DutyKind::Attach(attach) => {
                let _gate = self.vm.gate.lock().await;
                let proxy = self.vm.facts().await?;
                let named = self.vm.named_slots();
                // In a slot that an open duty names, the disk is that duty's.
                let free = !named.contains(&attach.slot);
                Ok(free && matches!(claim(attach, &proxy, &self.vm.listed_own, &named), Claim::Ours(_)))
            }
            DutyKind::Snapshot(snapshot) => {
                let tree = self.vm.hypervisor.snapshots(&duty.target()).await?;
                Ok(tree.is_some_and(|tree| !tree.named(&snapshot.name).is_empty()))
            }
            DutyKind::Guard(guard) => {
                // Whether it is our source that holds a method can't be read; enabling it again does no harm, unless a
                // newer duty of ours holds the same.
                let held = self.vm.journal.state().duties().any(|d| d.vm == duty.vm && d.guard().is_some());
                if held {
                    // Nothing was looked at: it must not lapse meanwhile.
                    return Err(Error::new(&reason::VC_BUSY, "a newer duty holds the same methods"));
                }
                let enabled = self.vm.hypervisor.enable_methods(&duty.target(), &guard.methods, &guard.source).await;
                self.vm.audit_duty("enable methods", duty, &[], enabled.as_ref().err());
                enabled?;
                Ok(false)
            }
            DutyKind::Export(_) => Ok(false),
        }
    }

    async fn note(&self, record: Record) {
        if let Err(error) = self.vm.record(vec![record]).await {
            tracing::error!(%error, "a late landing could not be journalled; looked for again");
        }
    }
}

/// A time that can't be read is over: it was written by this program, so the clock is what is wrong.
fn is_over(late: &Late) -> bool {
    late.until.parse::<Timestamp>().map_or(true, |until| until <= Timestamp::now())
}
