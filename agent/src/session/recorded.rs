//! What vCenter recorded while disks are held: an event tells that the proxy's host left service, or that the proxy was
//! moved, also when the task is already gone or can't be read. What it means is a pure function; the loop asks.
//!
//! ```text
//! watch begins ─▶ vCenter's clock ─▶ events from then on, each look ──one that counts──▶ trouble
//! ```
//! Only here, never before the snapshot: a cancelled entering leaves no event that takes it back, so an old one would hold
//! a job for ever. A look that fails says nothing.
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::sleep;

use super::watch::Ground;
use crate::{
    attach::ProxyVm,
    error::Error,
    hypervisor::{Happened, Happening},
    reason,
};

/// Why reading must stop: the first event from `since` on, by vCenter's clock.
#[must_use]
pub fn trouble(happenings: &[Happening], since: Timestamp) -> Option<Error> {
    let first = happenings.iter().filter(|happening| happening.at >= since).min_by_key(|happening| happening.at)?;
    let (reason, whom) = match first.what {
        Happened::HostLeaves => (&reason::HST_PROXY, "the proxy's host"),
        Happened::Move => (&reason::HST_MOVED, "the proxy"),
    };
    Some(Error::new(reason, format!("vCenter recorded {} of {whom} at {}", first.event, first.at)))
}

/// Returns when an event tells trouble.
pub(super) async fn wait(vm: Arc<ProxyVm>, ground: Ground) -> Error {
    let since = loop {
        match vm.hypervisor.clock().await {
            Ok(now) => break now,
            Err(error) => tracing::debug!(%error, "vCenter's clock can't be read now"),
        }
        sleep(vm.deadlines.watch).await;
    };
    loop {
        sleep(vm.deadlines.watch).await;
        let host = match &ground.proxy_host {
            Some(host) => Some(host.clone()),
            None => vm.site(vm.deadlines.watch).await.ok().and_then(|site| site.host),
        };
        let happenings = vm.happenings(host.as_ref(), since, vm.deadlines.watch).await;
        if let Some(error) = trouble(&happenings, since) {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn happening(what: Happened, event: &str, second: i64) -> Happening {
        Happening { what, event: event.into(), at: at(second) }
    }

    fn told(happenings: &[Happening]) -> Option<(&'static str, String)> {
        trouble(happenings, at(0)).map(|error| (error.reason().code, error.message()))
    }

    #[test]
    fn an_event_has_the_reason_of_its_task_and_flag_and_is_named() {
        let leaves = told(&[happening(Happened::HostLeaves, "EnteringMaintenanceModeEvent", 5)]).unwrap();
        assert_eq!(leaves.0, "HA-HST-001");
        assert!(
            leaves.1.contains("EnteringMaintenanceModeEvent") && leaves.1.contains(&at(5).to_string()),
            "{leaves:?}"
        );
        assert_eq!(told(&[happening(Happened::Move, "VmMigratedEvent", 5)]).unwrap().0, "HA-HST-002");
    }

    #[test]
    fn what_was_before_the_watch_is_none_of_ours_and_its_first_moment_is() {
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[happening(Happened::HostLeaves, "EnteringMaintenanceModeEvent", -1)]), None);
        assert!(told(&[happening(Happened::HostLeaves, "EnteringMaintenanceModeEvent", 0)]).is_some());
    }

    #[test]
    fn of_several_the_first_is_told() {
        let entering = happening(Happened::HostLeaves, "EnteringMaintenanceModeEvent", 2);
        let moved = happening(Happened::Move, "DrsVmMigratedEvent", 3);
        assert_eq!(told(&[moved.clone(), entering.clone()]).unwrap().0, "HA-HST-001");
        let before = Happening { at: at(1), ..moved };
        assert_eq!(told(&[entering, before]).unwrap().0, "HA-HST-002");
    }
}
