//! What happens around disks that are held: hosts that leave service, a proxy that is moved, a snapshot that somebody takes
//! away, a delta that fills its datastore. The port tells what is; here is what it means, as a pure function, and the two
//! loops that ask.
//!
//! ```text
//! hold:   before anything is touched ──hosts at rest──▶ go on          └─ hold_seconds over ─▶ refused
//! watch:  while disks are held ──trouble──▶ stop reading ▶ detach ▶ the reason is told; never OK
//! ```
//! Events that vCenter recorded are a third thing to watch, in [`super::recorded`]. A task of the host's cluster that does not
//! tell which of its hosts it is about is logged and ends nothing: most of the cluster's jobs would end for nothing.
//! A look that fails says nothing: vCenter may be away, and the data that is read does not depend on it.
use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::watch::{Receiver, Sender, channel},
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{recorded, snapshot::HeldSnapshot};
use crate::{
    attach::ProxyVm,
    config::Limits,
    error::{Error, Result},
    hypervisor::{Site, Surroundings, TargetFacts, TargetSite},
    id::Moref,
    reason,
};

/// What a session or job stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// The snapshot that is read.
    pub snapshot: Moref,
    /// We made it: its age and delta are ours to answer for.
    pub ours: bool,
    /// Disks are attached to the proxy: what happens to it and its host matters.
    pub attached: bool,
    /// Where the proxy ran when the disks were attached.
    pub proxy_host: Option<Moref>,
    /// Age of the snapshot.
    pub age: Duration,
}

/// Why reading must stop now; `None`: nothing speaks against going on.
#[must_use]
pub fn trouble(seen: &Surroundings, ground: &Ground, limits: &Limits) -> Option<Error> {
    let chain = |target: &TargetSite| chain_trouble(target, ground);
    let guard = |target: &TargetSite| if ground.ours { growth(target, ground, limits) } else { None };
    let Some(target) = &seen.target else {
        return Some(Error::new(&reason::CHN_GONE, "the VM is no longer registered"));
    };
    let proxy = || if ground.attached { proxy_trouble(&seen.proxy, ground) } else { None };
    chain(target).or_else(proxy).or_else(|| guard(target))
}

fn proxy_trouble(proxy: &Site, ground: &Ground) -> Option<Error> {
    if let Some(unrest) = &proxy.unrest {
        return Some(Error::new(&reason::HST_PROXY, format!("{} {unrest}", proxy.host_name)));
    }
    if let Some(task) = &proxy.moving {
        return Some(Error::new(&reason::HST_MOVED, format!("{task} runs on the proxy")));
    }
    let moved = proxy.host.as_ref().zip(ground.proxy_host.as_ref()).filter(|(now, then)| now != then);
    moved.map(|(now, then)| Error::new(&reason::HST_MOVED, format!("from {then} to {now} ({})", proxy.host_name)))
}

fn chain_trouble(target: &TargetSite, ground: &Ground) -> Option<Error> {
    if !target.snapshots.contains(&ground.snapshot) {
        return Some(Error::new(&reason::CHN_GONE, format!("{} is not in the VM's tree", ground.snapshot)));
    }
    if !target.stands_on.contains(&ground.snapshot) {
        let now = target.stands_on.first().map_or_else(|| "none".to_owned(), ToString::to_string);
        let detail = format!("the VM was reverted: it stands on {now}, not on {}", ground.snapshot);
        return Some(Error::new(&reason::CHN_GONE, detail));
    }
    target.reshaping.as_ref().map(|task| Error::new(&reason::CHN_BUSY, format!("{task} runs on the VM")))
}

fn growth(target: &TargetSite, ground: &Ground, limits: &Limits) -> Option<Error> {
    if let Some(most) = limits.snapshot_max_age.filter(|most| ground.age > *most) {
        let detail = format!("{} is {} s old, {} s are allowed", ground.snapshot, ground.age.as_secs(), most.as_secs());
        return Some(Error::new(&reason::SNAP_AGE, detail));
    }
    for store in &target.stores {
        if let Some(most) = limits.delta_max_bytes.filter(|most| store.delta_bytes > *most) {
            let detail = format!(
                "datastore {}: the delta has {} bytes, {most} are allowed ({} free)",
                store.name,
                store.delta_bytes,
                free(store.free_bytes)
            );
            return Some(Error::new(&reason::SNAP_AGE, detail));
        }
        let low = limits.datastore_min_free_bytes.zip(store.free_bytes).filter(|(least, free)| free < least);
        if let Some((least, free)) = low {
            let delta = store.delta_bytes;
            let detail = format!("datastore {}: {free} bytes free, {least} needed; the delta has {delta}", store.name);
            return Some(Error::new(&reason::SNAP_SPACE, detail));
        }
    }
    None
}

fn free(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown bytes".to_owned(), |bytes| format!("{bytes} bytes"))
}

/// Why nothing should begin now: a snapshot would be removed, and a disk detached, on a host that is leaving service.
#[must_use]
pub fn unrest(seen: &Surroundings) -> Option<Error> {
    if let Some(unrest) = &seen.proxy.unrest {
        return Some(Error::new(&reason::HST_PROXY, format!("{} {unrest}", seen.proxy.host_name)));
    }
    if let Some(task) = &seen.proxy.moving {
        return Some(Error::new(&reason::HST_MOVED, format!("{task} runs on the proxy")));
    }
    let target = &seen.target.as_ref()?.site;
    let unrest = target.unrest.as_ref()?;
    Some(Error::new(&reason::HST_TARGET, format!("{} {unrest}", target.host_name)))
}

/// Waits until the hosts of both are at rest, at most [`crate::config::Deadlines::hold`]; `waiting` is told once why. Gives
/// the proxy's host, as far as it was told.
///
/// # Errors
/// [`reason::HST_HOLD`]; whatever `go_on` refuses with.
pub async fn hold<F: Future<Output = ()>>(
    vm: &ProxyVm,
    target: &Moref,
    waiting: impl FnOnce(Error) -> F,
    go_on: impl Fn() -> Result<()>,
) -> Result<Option<Moref>> {
    let end = Instant::now() + vm.deadlines.hold;
    let mut waiting = Some(waiting);
    loop {
        go_on()?;
        let seen = look(vm, target, Duration::ZERO).await;
        let Some(why) = seen.as_ref().and_then(unrest) else { return Ok(seen.and_then(|seen| seen.proxy.host)) };
        let now = Instant::now();
        if now >= end {
            let detail = format!("waited {} s: {}", vm.deadlines.hold.as_secs(), why.message());
            return Err(Error::new(&reason::HST_HOLD, detail));
        }
        if let Some(waiting) = waiting.take() {
            waiting(why).await;
        }
        sleep(vm.deadlines.watch.min(end - now)).await;
    }
}

/// `age`: how old the look at the proxy may be, which all that holds disks share.
async fn look(vm: &ProxyVm, target: &Moref, age: Duration) -> Option<Surroundings> {
    let seen = async {
        let proxy = vm.site(age).await?;
        Ok(Surroundings { proxy, target: vm.hypervisor.target_site(target).await? })
    };
    let seen: Result<Surroundings> = seen.await;
    match seen {
        Ok(seen) => Some(seen),
        Err(error) => {
            tracing::info!(%error, "the surroundings can't be seen now");
            None
        }
    }
}

/// What a watch found; waits for it, or for the end of the watch.
#[derive(Debug, Clone)]
pub struct Trouble(Receiver<Option<Arc<Error>>>);

impl Trouble {
    /// What was found so far.
    #[must_use]
    pub fn now(&self) -> Option<Error> {
        self.0.borrow().as_ref().map(|error| error.copy())
    }

    /// `None`: the watch ended without any.
    pub async fn wait(mut self) -> Option<Error> {
        loop {
            if let Some(error) = self.now() {
                return Some(error);
            }
            if self.0.changed().await.is_err() {
                return self.now();
            }
        }
    }
}

/// Looks again and again until it is dropped or has found trouble.
pub struct Watch {
    trouble: Trouble,
    task: AbortHandle,
    vm: Arc<ProxyVm>,
    target: Moref,
    ground: Ground,
    since: Instant,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.ground)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// `proxy_host`: as [`hold`] gave it.
    #[must_use]
    pub fn start(vm: &Arc<ProxyVm>, target: &TargetFacts, snapshot: &HeldSnapshot, proxy_host: Option<Moref>) -> Self {
        let ground = Ground {
            snapshot: snapshot.moref.clone(),
            ours: snapshot.duty().is_some(),
            attached: true,
            proxy_host,
            age: snapshot.age(),
        };
        Self::on(Arc::clone(vm), target.moref.clone(), ground)
    }

    fn on(vm: Arc<ProxyVm>, target: Moref, ground: Ground) -> Self {
        let (tell, trouble) = channel(None);
        let task = tokio::spawn(run(Arc::clone(&vm), target.clone(), ground.clone(), tell)).abort_handle();
        Self { trouble: Trouble(trouble), task, vm, target, ground, since: Instant::now() }
    }

    /// The same where nothing is attached (any more): the proxy and its host no longer matter.
    #[must_use]
    pub fn without_proxy(&self) -> Self {
        let ground = Ground { attached: false, age: self.ground.age + self.since.elapsed(), ..self.ground.clone() };
        Self::on(Arc::clone(&self.vm), self.target.clone(), ground)
    }

    /// Whether it looks at the proxy, too.
    #[must_use]
    pub fn sees_proxy(&self) -> bool {
        self.ground.attached
    }

    /// The same where disks are to be attached again.
    #[must_use]
    pub fn with_proxy(&self, proxy_host: Option<Moref>) -> Self {
        let age = self.ground.age + self.since.elapsed();
        Self::on(
            Arc::clone(&self.vm),
            self.target.clone(),
            Ground { attached: true, proxy_host, age, ..self.ground.clone() },
        )
    }

    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// One more look now, before something is called good.
    pub async fn last_look(&self) -> Option<Error> {
        if let Some(error) = self.trouble.now() {
            return Some(error);
        }
        let end = Instant::now() + self.vm.deadlines.call;
        let seen = loop {
            match self.vm.hypervisor.target_site(&self.target).await {
                Ok(seen) => break seen,
                Err(error) => tracing::info!(%error, "the target can't be seen now"),
            }
            if Instant::now() >= end {
                return Some(Error::new(&reason::VC_STALE, "the snapshot could not be looked at after the last read"));
            }
            sleep(self.vm.deadlines.watch.min(self.vm.deadlines.call / 8)).await;
        };
        // Only what spoils the data: everything was read, so a host that leaves service now is no matter.
        let gone = || Some(Error::new(&reason::CHN_GONE, "the VM is no longer registered"));
        seen.map_or_else(gone, |target| chain_trouble(&target, &self.ground))
    }
}

async fn run(vm: Arc<ProxyVm>, target: Moref, ground: Ground, tell: Sender<Option<Arc<Error>>>) {
    let attached = ground.attached;
    let error = tokio::select! {
        error = see(&vm, &target, ground.clone()) => error,
        // They are all about the proxy and its host.
        error = recorded::wait(Arc::clone(&vm), ground), if attached => error,
    };
    tracing::warn!(%target, reason = error.reason().code, %error, "trouble around held disks");
    tell.send_replace(Some(Arc::new(error)));
}

/// Returns when there is trouble.
async fn see(vm: &ProxyVm, target: &Moref, mut ground: Ground) -> Error {
    let mut warned = None;
    let (start, age) = (Instant::now(), ground.age);
    loop {
        sleep(vm.deadlines.watch).await;
        let Some(seen) = look(vm, target, vm.deadlines.watch).await else { continue };
        ground.age = age + start.elapsed();
        if ground.proxy_host.is_none() {
            ground.proxy_host.clone_from(&seen.proxy.host);
        }
        if let Some(error) = trouble(&seen, &ground, &vm.limits) {
            return error;
        }
        let task = seen.proxy.cluster;
        if let Some(task) = task.as_deref().filter(|_| task != warned) {
            let host = &seen.proxy.host_name;
            tracing::warn!(%target, host, task, "a host of the cluster leaves service; it is not told which");
        }
        warned = task;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::{Store, Unrest};

    fn moref(text: &str) -> Moref {
        Moref::new(text)
    }

    fn ground() -> Ground {
        Ground {
            snapshot: moref("snapshot-2"),
            ours: true,
            attached: true,
            proxy_host: Some(moref("host-1")),
            age: Duration::ZERO,
        }
    }

    fn site() -> Site {
        Site { host: Some(moref("host-1")), host_name: "esx1".into(), unrest: None, moving: None, cluster: None }
    }

    fn calm() -> Surroundings {
        let target = TargetSite {
            site: site(),
            snapshots: vec![moref("snapshot-1"), moref("snapshot-2"), moref("snapshot-3")],
            stands_on: vec![moref("snapshot-3"), moref("snapshot-2"), moref("snapshot-1")],
            reshaping: None,
            stores: vec![Store { name: "ds1".into(), free_bytes: Some(100 << 30), delta_bytes: 1 << 30 }],
        };
        Surroundings { proxy: site(), target: Some(target) }
    }

    fn limits() -> Limits {
        Limits {
            attach_batch: 1,
            add_controllers: false,
            parallel_reads: 1,
            reads: 0,
            snapshots_per_datastore: 0,
            depth: 1,
            memory_bytes: 1 << 20,
            lease_min: Duration::ZERO,
            lease_max: Duration::ZERO,
            lease_default: Duration::ZERO,
            resume_max: Duration::ZERO,
            snapshot_max_age: Some(Duration::from_secs(60)),
            delta_max_bytes: Some(2 << 30),
            datastore_min_free_bytes: Some(4 << 30),
            client: crate::config::ClientLimits::default(),
        }
    }

    fn code(change: impl FnOnce(&mut Surroundings, &mut Ground)) -> Option<&'static str> {
        let (mut seen, mut ground) = (calm(), ground());
        change(&mut seen, &mut ground);
        trouble(&seen, &ground, &limits()).map(|error| error.reason().code)
    }

    fn target(seen: &mut Surroundings) -> &mut TargetSite {
        seen.target.as_mut().unwrap()
    }

    #[test]
    fn calm_is_no_trouble_and_a_younger_snapshot_is_none() {
        assert_eq!(code(|_, _| {}), None);
    }

    #[test]
    fn every_state_of_the_proxys_host_stops_a_read_and_the_targets_does_not() {
        let all = [
            Unrest::Entering("HostSystem.enterMaintenanceMode".into()),
            Unrest::Maintenance,
            Unrest::Quarantine,
            Unrest::Standby("entering".into()),
            Unrest::Connection("disconnected".into()),
        ];
        for unrest in all {
            assert_eq!(code(|seen, _| seen.proxy.unrest = Some(unrest.clone())), Some("HA-HST-001"), "{unrest}");
            assert_eq!(code(|seen, _| target(seen).site.unrest = Some(unrest.clone())), None, "{unrest}");
            let mut seen = calm();
            target(&mut seen).site.unrest = Some(unrest);
            assert_eq!(super::unrest(&seen).unwrap().reason().code, "HA-HST-004");
        }
        assert!(super::unrest(&calm()).is_none());
    }

    #[test]
    fn a_task_of_the_cluster_that_may_be_about_another_host_ends_and_holds_nothing() {
        let task = || Some("ClusterComputeResource.enterMaintenanceMode".to_owned());
        assert_eq!(code(|seen, _| seen.proxy.cluster = task()), None);
        let mut seen = calm();
        (seen.proxy.cluster, target(&mut seen).site.cluster) = (task(), task());
        assert!(super::unrest(&seen).is_none());
    }

    #[test]
    fn a_proxy_that_moves_or_was_moved_is_noticed() {
        assert_eq!(code(|seen, _| seen.proxy.moving = Some("VirtualMachine.migrate".into())), Some("HA-HST-002"));
        assert_eq!(code(|seen, _| seen.proxy.host = Some(moref("host-2"))), Some("HA-HST-002"));
        assert_eq!(code(|seen, _| seen.proxy.host = None), None, "not told is not moved");
        let nothing_attached = code(|seen, ground| {
            ground.attached = false;
            seen.proxy.host = Some(moref("host-2"));
        });
        assert_eq!(nothing_attached, None, "what is read from a server does not move with the proxy");
    }

    #[test]
    fn a_chain_that_no_longer_holds_our_snapshot_is_noticed() {
        assert_eq!(code(|seen, _| seen.target = None), Some("HA-CHN-001"));
        assert_eq!(code(|seen, _| drop(target(seen).snapshots.remove(1))), Some("HA-CHN-001"));
        assert_eq!(code(|seen, _| target(seen).stands_on = vec![moref("snapshot-1")]), Some("HA-CHN-001"), "reverted");
        let consolidating = Some("VirtualMachine.consolidateDisks".to_owned());
        assert_eq!(code(|seen, _| target(seen).reshaping = consolidating), Some("HA-CHN-002"));
    }

    #[test]
    fn age_and_growth_end_what_is_ours_only() {
        assert_eq!(code(|_, ground| ground.age = Duration::from_secs(61)), Some("HA-SNP-007"));
        assert_eq!(code(|seen, _| target(seen).stores[0].delta_bytes = 3 << 30), Some("HA-SNP-007"));
        assert_eq!(code(|seen, _| target(seen).stores[0].free_bytes = Some(1)), Some("HA-SNP-008"));
        assert_eq!(code(|seen, _| target(seen).stores[0].free_bytes = None), None, "not told is not full");
        let foreign = code(|seen, ground| {
            ground.ours = false;
            target(seen).stores[0].free_bytes = Some(1);
        });
        assert_eq!(foreign, None);
    }
}
