//! Export leases: aborted unless they have ended. One whose reply was lost has no name; nobody reports its progress, so it
//! ends by its own timeout.
use tokio::time::Instant;

use super::{Finding, Shared, lock};
use crate::journal::{Duty, ExportDuty};

impl Shared {
    pub(super) async fn end_export(&self, duty: &Duty, export: &ExportDuty) {
        let finding = self.settle_export(duty, export).await;
        self.conclude(vec![(duty.clone(), finding)]).await;
    }

    async fn settle_export(&self, duty: &Duty, export: &ExportDuty) -> Finding {
        if let Some(lease) = &export.moref {
            return match self.vm.hypervisor.end_export(lease).await {
                Ok(()) => Finding::Gone(format!("export lease {lease} has ended")),
                Err(error) => Finding::Waits(format!("export lease {lease}: {}", error.message())),
            };
        }
        let (refused, since) = {
            let mut open = lock(&self.open);
            let entry = open.entry(duty.id).or_default();
            (entry.refused, *entry.absent_since.get_or_insert_with(Instant::now))
        };
        if refused || since.elapsed() >= self.vm.deadlines.export_unknown {
            return Finding::Gone(format!("no export lease of {} was ever confirmed", export.snapshot));
        }
        Finding::Waits(format!("an export lease of {} may live without a name; it ends by its timeout", duty.vm_name))
    }
}
