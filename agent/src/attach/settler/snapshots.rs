//! Snapshots of ours: removed when none of their VM's disks is attached and nobody else stands on them, then looked after
//! until the VM needs no consolidation.
//!
//! ```text
//! disks owed? ─ yes ▶ later          younger foreign snapshot ─▶ wait, bounded ─┐
//!     └ no ▶ in the tree? ─ yes ─▶ ──┼─ foreign holder of a file ─▶ wait, alarm │
//!                 │                  ├─ its host leaves service ─▶ wait, alarm    │
//!                 │                  └─ nobody ◀────────────────────────────────┘─▶ remove
//!                 └ no ▶ consolidation needed? ─ no ▶ gone
//!                                  └ yes ▶ wait ▶ holders? ▶ consolidate once ▶ alarm, gone
//! ```
//! Foreign snapshots are never removed, and nothing is removed by anything but its reference and name.
use std::sync::Arc;

use tokio::time::Instant;

use super::{Finding, Open, Shared, lock};
use crate::{
    audit::tasks_of,
    error::Result,
    hypervisor::SnapshotTree,
    id::{DutyId, Moref, TargetId},
    journal::{Duty, SnapshotDuty},
    reason,
};

/// One snapshot's turn; over when dropped, also by a panic.
pub(super) struct Removing {
    pub(super) shared: Arc<Shared>,
    pub(super) duty: DutyId,
}

impl Drop for Removing {
    fn drop(&mut self) {
        lock(&self.shared.removing).remove(&self.duty);
        // Only what is gone can be what another duty waits for; a look that changed nothing has its pause.
        if self.shared.vm.journal.state().get(self.duty).is_none() {
            self.shared.wake.notify_one();
        }
        self.shared.passes.send_modify(|n| *n += 1);
    }
}

impl Shared {
    pub(super) fn spawn_snapshot(self: &Arc<Self>, duty: &Duty) {
        if !lock(&self.removing).insert(duty.id) {
            return;
        }
        let turn = Removing { shared: Arc::clone(self), duty: duty.id };
        tokio::spawn(async move {
            let shared = &turn.shared;
            // Read anew: before this turn a job may have taken it over.
            let Some(duty) = shared.vm.journal.state().get(turn.duty).cloned() else { return };
            let Some(snapshot) = duty.snapshot().cloned() else { return };
            let finding = match shared.settle_snapshot(&duty, &snapshot).await {
                Ok(finding) => finding,
                Err(error) if *error.reason() == reason::SNAP_DOUBT => Finding::Doubtful(error.message()),
                Err(error) => Finding::Waits(error.message()),
            };
            shared.conclude(vec![(duty, finding)]).await;
        });
    }

    async fn settle_snapshot(&self, duty: &Duty, snapshot: &SnapshotDuty) -> Result<Finding> {
        let disks = self.disks_of(&duty.vm);
        if !disks.is_empty() {
            let why = format!("snapshot {}: its disks are still in use", snapshot.name);
            let open = lock(&self.open);
            let doubtful = disks.iter().all(|id| open.get(id).is_some_and(|o| o.doubtful));
            return Ok(if doubtful { Finding::Doubtful(why) } else { Finding::Waits(why) });
        }
        if self.vm.readers.has(&duty.vm) {
            return Ok(Finding::Waits(format!("snapshot {}: a process of ours has a disk of it open", snapshot.name)));
        }
        if let Some(until) = snapshot.kept() {
            return Ok(Finding::Later(format!(
                "snapshot {}: kept until {until} for a job that resumes",
                snapshot.name
            )));
        }
        let target = duty.target();
        let tree = self.vm.hypervisor.snapshots(&target).await;
        let named = |tree: &SnapshotTree| tree.named(&snapshot.name);
        let present = match (&tree, &snapshot.moref) {
            (Ok(Some(tree)), Some(moref)) => {
                tree.holds(moref, &snapshot.name)?.then(|| moref.clone()).into_iter().collect()
            }
            (Ok(Some(tree)), None) => named(tree),
            _ => Vec::new(),
        };
        let busy = tree.as_ref().ok().and_then(Option::as_ref).is_some_and(|tree| tree.busy);
        // Seen, unknown, or something still runs: an absence counts from here anew.
        if tree.is_err() || busy || !present.is_empty() {
            self.forget_absence(duty.id);
        }
        let Some(tree) = tree? else {
            return Ok(Finding::Gone(format!("{} is gone, and its snapshots with it", duty.vm_name)));
        };
        if present.is_empty() {
            return self.settle_absent(duty, snapshot, &target, &tree).await;
        }
        if let Some(why) = self.in_the_way(duty, &target, &tree, &present).await? {
            return Ok(Finding::Doubtful(format!("snapshot {}: {why}", snapshot.name)));
        }
        if let Some(why) = self.vm.hypervisor.host_blocks_removal(&target).await {
            return Ok(Finding::Waits(format!("snapshot {}: not removed while {why}", snapshot.name)));
        }
        for moref in &present {
            let (removed, tasks) = tasks_of(self.vm.hypervisor.remove_snapshot(&target, moref, &snapshot.name)).await;
            self.vm.audit_duty("remove snapshot", duty, &tasks, removed.as_ref().err());
            removed?;
        }
        match self.vm.hypervisor.snapshots(&target).await? {
            Some(tree) => self.settle_absent(duty, snapshot, &target, &tree).await,
            None => Ok(gone(duty, snapshot)),
        }
    }

    /// It is not in the tree.
    async fn settle_absent(
        &self,
        duty: &Duty,
        snapshot: &SnapshotDuty,
        target: &TargetId,
        tree: &SnapshotTree,
    ) -> Result<Finding> {
        if tree.busy {
            let why = format!("snapshot {}: not listed, but a task runs on {}", snapshot.name, duty.vm_name);
            return Ok(Finding::Waits(why));
        }
        if snapshot.moref.is_none() && !self.absence_counts(duty).await {
            let why = format!("snapshot {}: never confirmed and not there; looking once more", snapshot.name);
            return Ok(Finding::Waits(why));
        }
        // Deltas of others are not ours to merge: without a snapshot of ours there are none of ours.
        if tree.consolidation_needed && snapshot.moref.is_some() {
            return self.consolidate(duty, snapshot, target).await;
        }
        Ok(gone(duty, snapshot))
    }

    /// Who else stands on the snapshot; `None`: nobody, or nobody that is waited for any longer.
    async fn in_the_way(
        &self,
        duty: &Duty,
        target: &TargetId,
        tree: &SnapshotTree,
        ours: &[Moref],
    ) -> Result<Option<String>> {
        let mut holders = Vec::new();
        for moref in ours {
            match self.vm.hypervisor.holders(target, Some(moref)).await {
                Ok(more) => holders.extend(more),
                // The locks of the host decide then.
                Err(error) => tracing::warn!(vm = duty.vm_name, %error, "can't tell who holds files of the VM"),
            }
        }
        let younger: Vec<String> = ours.iter().flat_map(|moref| tree.younger_foreign(moref)).collect();
        if holders.is_empty() && younger.is_empty() {
            return Ok(None);
        }
        let since = self.entry(duty.id, |open| *open.blocked_since.get_or_insert_with(Instant::now));
        let over = since.elapsed() >= self.vm.deadlines.holder;
        if !holders.is_empty() {
            let why = format!("{} hold files of {}", holders.join(", "), duty.vm_name);
            if over {
                tracing::error!(
                    reason = reason::SNAP_HELD.code,
                    vm = duty.vm_name,
                    why,
                    "{}",
                    reason::SNAP_HELD.next_step
                );
            }
            return Ok(Some(why));
        }
        if over {
            tracing::warn!(vm = duty.vm_name, ?younger, "removing our snapshot below younger ones, which stay");
            return Ok(None);
        }
        Ok(Some(format!("younger snapshots of others stand on it: {}", younger.join(", "))))
    }

    /// Wait, look for holders, consolidate once, give up with an alarm: the snapshot itself is gone by now.
    async fn consolidate(&self, duty: &Duty, snapshot: &SnapshotDuty, target: &TargetId) -> Result<Finding> {
        let since = self.entry(duty.id, |open| *open.needs_since.get_or_insert_with(Instant::now));
        if let Some(report) = self.vm.hypervisor.conflict_report(target).await {
            tracing::error!(reason = reason::SNAP_CONSOLIDATE.code, vm = duty.vm_name, "{report}");
        }
        let wait = |why: String| Ok(Finding::Waits(format!("snapshot {} is gone, {why}", snapshot.name)));
        if since.elapsed() < self.vm.deadlines.consolidate {
            return wait(format!("but {} needs consolidation", duty.vm_name));
        }
        let holders = self.vm.hypervisor.holders(target, None).await.unwrap_or_default();
        if !holders.is_empty() && since.elapsed() < self.vm.deadlines.consolidate + self.vm.deadlines.holder {
            return wait(format!(
                "but {} hold files of {}, which needs consolidation",
                holders.join(", "),
                duty.vm_name
            ));
        }
        let tried = self.entry(duty.id, |open| std::mem::replace(&mut open.consolidated, true));
        if !tried && holders.is_empty() {
            let (consolidated, tasks) = tasks_of(self.vm.hypervisor.consolidate(target)).await;
            self.vm.audit_duty("consolidate", duty, &tasks, consolidated.as_ref().err());
            match consolidated {
                Ok(()) => return wait(format!("and {} was consolidated; looking once more", duty.vm_name)),
                Err(error) => tracing::warn!(vm = duty.vm_name, %error, "consolidation failed"),
            }
        }
        let why = format!("{}: {}", duty.vm_name, reason::SNAP_CONSOLIDATE.summary);
        tracing::error!(
            reason = reason::SNAP_CONSOLIDATE.code,
            vm = duty.vm_name,
            "{}",
            reason::SNAP_CONSOLIDATE.next_step
        );
        self.alarm(duty, &why, 0);
        Ok(Finding::Gone(format!(
            "snapshot {} is not on {}, which still needs consolidation",
            snapshot.name, duty.vm_name
        )))
    }

    fn entry<T>(&self, duty: DutyId, change: impl FnOnce(&mut Open) -> T) -> T {
        change(lock(&self.open).entry(duty).or_default())
    }

    /// Of any session: disks that another one attached hang on the same chain.
    fn disks_of(&self, vm: &Moref) -> Vec<DutyId> {
        let state = self.vm.journal.state();
        state.duties().filter(|duty| duty.vm == *vm && duty.uses_snapshot()).map(|duty| duty.id).collect()
    }
}

fn gone(duty: &Duty, snapshot: &SnapshotDuty) -> Finding {
    Finding::Gone(format!("snapshot {} is not on {}", snapshot.name, duty.vm_name))
}
