//! Back to HotAdd, where the request asks for it: while a disk that was to be attached is read from its server.
//!
//! ```text
//! server ──hosts seen at rest, nothing owed of it──▶ watch the proxy ▶ attach again ──proven──▶ its read ends between two blocks
//!             │ not yet: looked at again                                  └─ refused: once more, a bounded number of times
//! ```
//! An attach that has begun is never torn apart, and never outlives its job: [`Job::attaching`] is waited for before
//! the duties are read, and it holds the snapshot.
use std::sync::Arc;

use tokio::time::sleep;

use super::{Holding, Job, held::HeldDisk};
use crate::{
    attach::{Attached, Settled},
    error::{Error, Result},
    hypervisor::TargetFacts,
    id::Moref,
    plan::Transport,
    reason,
    session::{
        opener::{Opener, Ways},
        watch,
    },
    transport::Disk,
};

impl Job {
    /// Ends with the disk attached again and proven; `None`: not asked, not to be had, or the job is over.
    pub(super) async fn attached_again(
        &self,
        opener: &Opener,
        held: &HeldDisk,
        holding: &Holding,
    ) -> Option<Arc<Attached>> {
        let disk = held.now();
        let (Disk::Remote(_), Some(target)) = (&disk, &holding.target) else { return None };
        while held.may_return() {
            let host = self.at_rest(opener, held, target, holding).await.ok()?;
            // What happens from now on is seen.
            self.watch_proxy(|watch| (!watch.sees_proxy()).then(|| watch.with_proxy(Some(host))));
            match self.attach_again(opener, holding, disk.facts().device_key).await {
                // All were told to leave meanwhile: this one, too.
                Ok(_) if self.watch_now().is_none_or(|watch| !watch.sees_proxy()) => {}
                Ok(attached) => {
                    tracing::info!(disk = disk.facts().label, "attached again: the rest is read from the device");
                    return Some(attached);
                }
                Err(error) => {
                    tracing::warn!(disk = disk.facts().label, %error, "the disk can't be attached again");
                    let attached = holding.disks.iter().any(|disk| disk.now().is_attached());
                    self.watch_proxy(|watch| (watch.sees_proxy() && !attached).then(|| watch.without_proxy()));
                }
            }
            sleep(opener.vm.deadlines.watch).await;
        }
        None
    }

    /// Waits until both hosts were seen at rest and what was attached before is proven gone; the proxy's host.
    async fn at_rest(
        &self,
        opener: &Opener,
        held: &HeldDisk,
        target: &TargetFacts,
        holding: &Holding,
    ) -> Result<Moref> {
        let quiet = |why: Error| async move { tracing::info!(%why, "not attached again yet") };
        loop {
            match watch::hold(&opener.vm, &target.moref, quiet, || self.go_on_reading(&holding.disks)).await {
                Ok(Some(host)) if self.is_given_back(opener, held).await => return Ok(host),
                // Not seen, or still owed.
                Ok(_) => {}
                Err(error) if *error.reason() == reason::HST_HOLD => {}
                Err(error) => return Err(error),
            }
            sleep(opener.vm.deadlines.watch).await;
        }
    }

    async fn is_given_back(&self, opener: &Opener, held: &HeldDisk) -> bool {
        let Some(duty) = held.left() else { return true };
        matches!(opener.settler.settle(&[duty], opener.vm.deadlines.cleanup).await, Settled::Done)
    }

    async fn attach_again(&self, opener: &Opener, holding: &Holding, key: i32) -> Result<Arc<Attached>> {
        let lost = || Error::new(&reason::INTERNAL, "no answer for this disk");
        let (target, snapshot) = (holding.target.clone(), holding.snapshot.clone());
        let (target, snapshot) = target.zip(snapshot).ok_or_else(lost)?;
        let (opener, actor) = (opener.clone(), self.actor()?.clone());
        // Dropping the handle hands what was attached to the settler.
        let task = self.attaching.spawn(async move {
            let ways = Ways { asked: Some(Transport::HotAdd), ticket: actor.has_ticket(), ..Ways::default() };
            let mut opened = opener.attach(&actor, &target, &snapshot.moref, &[key], &ways).await?;
            match opened.pop().map(|opened| opened.disk) {
                Some(Ok(Disk::Attached(attached))) => Ok(attached),
                Some(Err(errors)) => Err(errors.into_iter().next().unwrap_or_else(lost)),
                Some(Ok(_)) | None => Err(lost()),
            }
        });
        task.await.unwrap_or_else(|panic| Err(panic.into()))
    }
}
