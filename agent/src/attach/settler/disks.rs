//! Attached disks: detached in the guest, then in vCenter, then proven gone on both sides. All of a pass in one task.
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Finding, Shared, lock, millis};
use crate::{
    attach::{Claim, claim, proxy_vm::View},
    audit::tasks_of,
    discover::{Expectation, proof},
    error::Result,
    hypervisor::OurDisk,
    journal::{AttachDuty, Duty, DutyPhase},
    reason,
};

impl Shared {
    /// Under the gate.
    pub(super) async fn look_at(&self, duties: &[(Duty, AttachDuty)]) -> Result<Vec<(Duty, Finding)>> {
        let view = self.vm.view().await?;
        let (mut remove, mut of) = (Vec::new(), Vec::new());
        let mut deletions = Vec::new();
        for (duty, attach) in duties {
            if let Claim::Ours(disk) = self.claim(attach, &view) {
                deletions.push(self.delete_in_guest(attach, &view));
                remove.push(disk);
                of.push(duty);
            }
        }
        // Together: each may wait its whole patience.
        join_all(deletions).await;
        let view = if remove.is_empty() {
            view
        } else {
            self.remove(&remove, &of).await;
            self.vm.view().await?
        };
        let mut findings = Vec::new();
        for (duty, attach) in duties {
            findings.push((duty.clone(), self.judge(duty, attach, &view).await));
        }
        Ok(findings)
    }

    /// All in one task; if vCenter refuses that, one by one, so that one bad disk holds nobody else. A busy proxy or a
    /// vCenter that does not answer would only cost the same wait for each. Errors are only logged: what counts is what
    /// vCenter's list says afterwards.
    async fn remove(&self, disks: &[OurDisk], of: &[&Duty]) {
        let started = Instant::now();
        let (outcome, tasks) = tasks_of(self.vm.hypervisor.detach(&self.vm.moref, disks)).await;
        self.vm.meter.detached(started.elapsed());
        for duty in of {
            self.vm.audit_duty("detach", duty, &tasks, outcome.as_ref().err());
        }
        let Err(error) = outcome else {
            tracing::info!(op = "detach", disks = disks.len(), duration_ms = millis(started), "detached");
            return;
        };
        tracing::warn!(op = "detach", disks = disks.len(), %error, "batched detach failed");
        if disks.len() < 2 || *error.reason() != reason::VC_FAULT {
            return;
        }
        for (disk, duty) in disks.iter().zip(of) {
            self.pulse.beat();
            let (outcome, tasks) =
                tasks_of(self.vm.hypervisor.detach(&self.vm.moref, std::slice::from_ref(disk))).await;
            self.vm.audit_duty("detach", duty, &tasks, outcome.as_ref().err());
            if let Err(error) = outcome {
                tracing::warn!(op = "detach", key = disk.0.device_key, %error, "detach failed");
                if *error.reason() != reason::VC_FAULT {
                    return;
                }
            }
        }
    }

    async fn judge(&self, duty: &Duty, attach: &AttachDuty, view: &View) -> Finding {
        let claim = self.claim(attach, view);
        if claim != Claim::Absent || view.proxy.busy {
            self.forget_absence(duty.id);
        }
        match claim {
            Claim::Ours(_) => Finding::Waits(format!("{} is still attached at {}", attach.backing, attach.slot)),
            Claim::Doubtful(why) => Finding::Doubtful(format!("not touched: {why}")),
            Claim::Absent if view.proxy.busy => {
                Finding::Waits(format!("{}: a task runs on the proxy; an attach may still land", attach.backing))
            }
            Claim::Absent if duty.phase == DutyPhase::Intended && !self.absence_counts(duty).await => {
                Finding::Waits(format!("{}: never confirmed and not there; looking once more", attach.backing))
            }
            Claim::Absent => self.judge_guest(attach, view).await,
        }
    }

    pub(super) fn claim(&self, attach: &AttachDuty, view: &View) -> Claim {
        claim(attach, &view.proxy, &self.vm.listed_own, &self.vm.named_slots())
    }

    /// vCenter says gone; the guest must agree. While vCenter lists another disk in the slot, the device there is that
    /// disk's and is left alone. In an empty slot any device is a ghost: deleted if it is proven, else waited for.
    async fn judge_guest(&self, attach: &AttachDuty, view: &View) -> Finding {
        let occupied = view.proxy.disk_at(attach.slot).is_some();
        let ghost = view.devices.iter().any(|device| {
            let placed = view.map.address(attach.slot.controller_key);
            let here = placed.is_ok_and(|address| proof::sits_at(device, address, attach.slot.unit));
            let same = proof::full_uuid(device) == Ok(attach.uuid);
            (here && !occupied) || ((here || placed.is_err()) && same)
        });
        if ghost {
            if !occupied {
                self.delete_in_guest(attach, view).await;
            }
            return Finding::Waits(format!("{}: the guest still shows a device at {}", attach.backing, attach.slot));
        }
        Finding::Gone(format!("vCenter's device list and the guest show no {} at {}", attach.backing, attach.slot))
    }

    /// Deletes the SCSI device if it is proven to be this disk; anything else is left alone.
    async fn delete_in_guest(&self, attach: &AttachDuty, view: &View) {
        let wanted = Expectation { slot: attach.slot, uuid: attach.uuid, size_bytes: attach.capacity_bytes };
        let Ok(address) = proof::place(&wanted, &view.map) else { return };
        let Some(device) = view.devices.iter().find(|d| proof::sits_at(d, address, attach.slot.unit)) else { return };
        let disk = match proof::identify(&wanted, &view.map, device) {
            Ok(disk) => disk,
            Err(mismatch) => {
                tracing::warn!(device = device.name, %mismatch, "a device in the slot is not the disk; not deleted");
                return;
            }
        };
        let handle = device.handle.clone();
        if !lock(&self.stuck).insert(handle.clone()) {
            tracing::warn!(device = device.name, "an earlier deletion of this device still hangs");
            return;
        }
        let platform = Arc::clone(&self.vm.platform);
        let mut deletion = tokio::task::spawn_blocking(move || platform.delete(&disk));
        match timeout(self.vm.deadlines.delete, &mut deletion).await {
            Ok(Ok(Ok(()))) => tracing::debug!(device = device.name, backing = %attach.backing, "SCSI device deleted"),
            // The removal in vCenter follows all the same: detaching matters more than a tidy guest.
            Ok(Ok(Err(error))) => tracing::warn!(device = device.name, %error, "SCSI device not deleted"),
            Ok(Err(error)) => tracing::error!(device = device.name, %error, "deletion panicked"),
            Err(_) => {
                tracing::error!(device = device.name, "the deletion of the SCSI device hangs; detaching all the same");
                let stuck = Arc::clone(&self.stuck);
                tokio::spawn(async move {
                    drop(deletion.await);
                    lock(&stuck).remove(&handle);
                });
                return;
            }
        }
        lock(&self.stuck).remove(&handle);
    }
}
