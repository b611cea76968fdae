//! The export lease of a job's snapshot: journalled before vCenter is asked, held while its disks are read, completed or
//! aborted always.
//!
//! ```text
//! journal ─▶ ExportSnapshot ─ made ─▶ journal ─▶ ready ─▶ Lease ──all read──▶ complete ─┐
//!                 ├ refused ─▶ retired        └ fault ─┐    └─ dropped ──▶ settler: abort, unless it has ended ─▶ retired
//!                 └ unknown ───────────────────────────┴──────────────────────▲
//! ```
use std::sync::Arc;

use tokio::time::Instant;

use super::opener::Opener;
use crate::{
    attach::{Actor, begin, now},
    error::{Error, Result},
    hypervisor::{ExportOutcome, TargetFacts},
    id::{DutyId, Moref},
    journal::{DutyKind, ExportDuty, Record},
    reason,
    transport::Lease,
};

impl Opener {
    /// A lease on the snapshot's disks.
    ///
    /// # Errors
    /// [`reason::EXP_LEASE`] and others of vCenter; the journal's. Whatever lives is handed over then.
    pub(super) async fn export(
        &self,
        actor: &Actor,
        target: &TargetFacts,
        snapshot: &Moref,
        disks: usize,
    ) -> Result<Arc<Lease>> {
        let vm = &self.vm;
        let most = self.export.most.ok_or_else(|| Error::new(&reason::EXP_OFF, target.name.clone()))?;
        let end = Instant::now() + most;
        let kind = DutyKind::Export(ExportDuty { snapshot: snapshot.clone(), moref: None });
        let duty = begin(vm, DutyId::new(), actor, target, kind);
        let id = duty.id;
        vm.record(vec![Record::Began(duty.clone())]).await?;
        let outcome = actor.hypervisor().export(snapshot).await;
        vm.audit_duty("export", &duty, &[], outcome.why());
        let moref = match outcome {
            ExportOutcome::Made(moref) => moref,
            ExportOutcome::Refused(error) => {
                let proof = format!("refused by vCenter: {}", error.message());
                vm.record(vec![Record::Retired { duty: id, at: now(), proof, late_until: None }]).await?;
                return Err(error);
            }
            ExportOutcome::Unknown(error) => {
                self.settler.hand_over(id);
                return Err(error.owing());
            }
        };
        let known = vm.record(vec![Record::Confirmed { duty: id, device_key: None, moref: Some(moref.clone()) }]).await;
        let held = match known {
            Ok(()) => actor.hypervisor().hold_export(&moref, snapshot).await,
            Err(error) => {
                // Not by its duty, which does not know it.
                let ended = vm.hypervisor.end_export(&moref).await;
                vm.audit_duty("end export", &duty, &[], ended.as_ref().err());
                Err(error)
            }
        };
        match held {
            Ok(exported) => {
                tracing::warn!(vm = target.name, lease = %moref, "exported: the VM can't be powered on, moved or destroyed meanwhile");
                let (settler, stall) = (self.settler.clone(), vm.deadlines.export_stall);
                Ok(Arc::new(Lease::new(exported, id, settler, end, stall, disks)))
            }
            Err(error) => {
                self.settler.settle(&[id], vm.deadlines.cleanup).await;
                Err(error)
            }
        }
    }
}
