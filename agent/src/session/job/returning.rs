//! Back to HotAdd, where the request asks for it: while a disk that was to be attached is read from its server.
//!
//! ```text
//! server ──hosts at rest──▶ attach again ──proven──▶ its read ends between two blocks ──▶ attached, from the next byte
//!             │                 └─ refused: once more after a pause, a bounded number of times
//!             └─ not yet: looked at again
//! ```
//! An attach that has begun is never torn apart, and never outlives its job: [`Job::attaching`] is waited for before
//! anything is given back.
use std::sync::Arc;

use tokio::time::sleep;

use super::{Holding, Job, held::HeldDisk};
use crate::{
    attach::Attached,
    error::{Error, Result},
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
        let Disk::Remote(_) = &disk else { return None };
        let target = holding.target.as_ref()?;
        while held.may_return() {
            let host = loop {
                let quiet = |why: Error| async move { tracing::info!(%why, "not attached again yet") };
                match watch::hold(&opener.vm, &target.moref, quiet, || self.go_on_reading(&holding.disks)).await {
                    Ok(host) => break host,
                    Err(error) if *error.reason() == reason::HST_HOLD => {}
                    Err(_) => return None,
                }
            };
            match self.attach_again(opener, holding, disk.facts().device_key).await {
                Ok(attached) => {
                    tracing::info!(disk = disk.facts().label, "attached again: the rest is read from the device");
                    if let Some(watch) = self.watch_now() {
                        self.watch_by(watch.with_proxy(host));
                    }
                    return Some(attached);
                }
                Err(error) => tracing::warn!(disk = disk.facts().label, %error, "the disk can't be attached again"),
            }
            sleep(opener.vm.deadlines.watch).await;
        }
        None
    }

    async fn attach_again(&self, opener: &Opener, holding: &Holding, key: i32) -> Result<Arc<Attached>> {
        let lost = || Error::new(&reason::INTERNAL, "no answer for this disk");
        let target = holding.target.clone().ok_or_else(lost)?;
        let snapshot = holding.snapshot.as_ref().map(|snapshot| snapshot.moref.clone()).ok_or_else(lost)?;
        let (opener, session) = (opener.clone(), self.session);
        // Dropping the handle hands what was attached to the settler.
        let task = self.attaching.spawn(async move {
            let ways = Ways { asked: Some(Transport::HotAdd), ..Ways::default() };
            let mut opened = opener.attach(session, &target, &snapshot, &[key], &ways).await?;
            match opened.pop().map(|opened| opened.disk) {
                Some(Ok(Disk::Attached(attached))) => Ok(attached),
                Some(Err(errors)) => Err(errors.into_iter().next().unwrap_or_else(lost)),
                Some(Ok(_)) | None => Err(lost()),
            }
        });
        task.await.unwrap_or_else(|panic| Err(panic.into()))
    }
}
