//! When not being there is a proof: the two looks at what was never confirmed, and the fence between them.
use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{Shared, lock};
use crate::{id::DutyId, journal::Duty, reason};

impl Shared {
    /// Whether an absence proves that nothing will come: vSphere refused, or this is the second look, the configured
    /// pause after a first one. Between the two the vCenter session under which it was asked for is ended, so that a
    /// request that is still on its way can only fail (how vCenter treats one that it had begun to accept is not known,
    /// so the pause stays).
    pub(super) async fn absence_counts(&self, duty: &Duty) -> bool {
        let since = {
            let mut open = lock(&self.open);
            let entry = open.entry(duty.id).or_default();
            if entry.refused {
                return true;
            }
            entry.absent_since
        };
        if let Some(since) = since {
            if since.elapsed() < self.vm.deadlines.settle {
                return false;
            }
            // A cloned session of this run lives as long as it is kept alive: as long as its logout fails, what it sent may land. So it
            // is ended first, and the pause begins then.
            if !duty.ticket || self.inherited.contains(&duty.id) || self.is_fenced(duty) {
                return true;
            }
        }
        self.fence(duty).await;
        lock(&self.open).entry(duty.id).or_default().absent_since = Some(Instant::now());
        false
    }

    /// Ends the session under which a duty was asked for; for one of this run also the session in use, since a call that
    /// met an ended session was sent again under the next. A session that was cloned has no next.
    async fn fence(&self, duty: &Duty) {
        let hypervisor = &self.vm.hypervisor;
        let own = if self.inherited.contains(&duty.id) || duty.ticket { None } else { hypervisor.login() };
        // A session that began after a fence carries nothing of what is fenced.
        let own = own.filter(|login| !lock(&self.fresh).contains(login));
        let logins: BTreeSet<String> = duty.login.clone().into_iter().chain(own).collect();
        for login in logins {
            if lock(&self.fenced).contains(&login) {
                continue;
            }
            match hypervisor.fence(&login).await {
                Ok(()) => tracing::info!(duty = %duty.id, "the vCenter session of an unconfirmed request was ended"),
                Err(error) if *error.reason() == reason::VC_PRIVILEGE => {
                    tracing::warn!(%error, "an earlier vCenter session can't be ended; only the pause protects");
                }
                // Unreachable: tried again with the next duty, or not at all, and for a cloned session at the next look; the pause stays.
                Err(error) => {
                    tracing::warn!(%error, "the vCenter session of an unconfirmed request could not be ended");
                    continue;
                }
            }
            lock(&self.fenced).insert(login);
            // The session in use began with the fence, unless it was a clone's.
            if !duty.ticket {
                lock(&self.fresh).extend(hypervisor.login());
            }
        }
    }

    /// Whether the session under which it was asked for was ended, or can't be.
    fn is_fenced(&self, duty: &Duty) -> bool {
        let fenced = lock(&self.fenced);
        duty.login.iter().all(|login| fenced.contains(login))
    }

    pub(super) fn forget_absence(&self, duty: DutyId) {
        if let Some(entry) = lock(&self.open).get_mut(&duty) {
            entry.absent_since = None;
        }
    }
}
