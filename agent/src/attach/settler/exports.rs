//! Export leases: aborted unless they have ended. One whose reply was lost has no name; nobody reports its progress, so it
//! ends by its own timeout.
use tokio::time::Instant;

use super::{Finding, Shared, lock};
use crate::{
    error::Result,
    hypervisor::LeaseEnd,
    journal::{Duty, ExportDuty},
};

impl Shared {
    pub(super) async fn end_export(&self, duty: &Duty, export: &ExportDuty) {
        let finding = self.settle_export(duty, export).await;
        self.conclude(vec![(duty.clone(), finding)]).await;
    }

    async fn settle_export(&self, duty: &Duty, export: &ExportDuty) -> Finding {
        let Some(lease) = &export.moref else {
            let none = format!("no export lease of {} was ever confirmed", export.snapshot);
            if lock(&self.open).get(&duty.id).is_some_and(|open| open.refused) {
                return Finding::Gone(none);
            }
            return match self.waited_out(duty).await {
                Ok(true) => Finding::Gone(none),
                Ok(false) => Finding::Waits(format!("an export lease of {} may live without a name", duty.vm_name)),
                Err(error) => Finding::Waits(format!("an export lease of {}: {}", duty.vm_name, error.message())),
            };
        };
        let gone = |how: &str| Finding::Gone(format!("export lease {lease} {how}"));
        let ended = self.vm.hypervisor.end_export(lease).await;
        self.vm.audit_duty("end export", duty, &[], ended.as_ref().err());
        match ended {
            Ok(LeaseEnd::Over) => gone("has ended"),
            Ok(LeaseEnd::Unknown) if self.has_no_owner(duty) => gone("is not known any more"),
            // Another session may not see it: then only its timeout ends it.
            Ok(LeaseEnd::Unknown) => match self.waited_out(duty).await {
                Ok(true) => gone("is not known, and nobody has kept it alive"),
                Ok(false) => Finding::Waits(format!(
                    "export lease {lease} is not known to this session; waiting for its timeout"
                )),
                Err(error) => Finding::Waits(format!("export lease {lease}: {}", error.message())),
            },
            Err(error) => {
                let why = format!("export lease {lease}: {}", error.message());
                // Longer than it can live unattended: waiting alone does not heal that.
                if self.waited_out(duty).await.unwrap_or(false) { Finding::Doubtful(why) } else { Finding::Waits(why) }
            }
        }
    }

    /// Whether a lease that is not known has nobody left who might know it: it was asked for by the session that looks, or by a cloned one
    /// that has ended or has completed it.
    fn has_no_owner(&self, duty: &Duty) -> bool {
        let Some(login) = &duty.login else { return false };
        let completed = || lock(&self.open).get(&duty.id).is_some_and(|open| open.completed);
        let cloned = duty.ticket && (completed() || self.vm.hypervisor.has_ended(login));
        cloned || self.vm.hypervisor.login().as_ref() == Some(login)
    }

    /// Whether nobody has reported progress for longer than a lease lives then, and no task ran on its VM meanwhile.
    async fn waited_out(&self, duty: &Duty) -> Result<bool> {
        let busy = self.vm.hypervisor.snapshots(&duty.target()).await?.is_some_and(|tree| tree.busy);
        let mut open = lock(&self.open);
        let entry = open.entry(duty.id).or_default();
        if busy {
            entry.absent_since = None;
        }
        let since = *entry.absent_since.get_or_insert_with(Instant::now);
        Ok(since.elapsed() >= self.vm.deadlines.export_unknown)
    }
}
