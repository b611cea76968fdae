//! How many NFC connections an ESXi host takes at once, and how much of its NFC memory their buffers take.
//!
//! | what | limit | source |
//! |---|---|---|
//! | connections of a host | 50, or what the configuration says | VDDK 7.0.1 and 8.0 release notes |
//! | NFC memory of a host | 48 MiB up to 7.0, 96 MiB from 8.0 | VMware KB on NFC limits; VDDK 8.0 release notes |
//! | connections through vCenter, hosts below 7.0 U1 | 52 for all of them | VDDK guide, NFC session limits |
//!
//! First come, first served, for each host by itself: who waits for one host holds nobody of another. A waiter that is
//! first for what vCenter still has to give is not overtaken by later ones either.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    error::{Error, Result},
    id::Moref,
    reason,
};

const THROUGH_VCENTER: u32 = 52;

/// Release of an ESXi host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostVersion(pub u32, pub u32, pub u32);

impl HostVersion {
    /// `AboutInfo.version`, for example `7.0.3`. What can't be read counts as old: those limits are the narrow ones.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut numbers = text.split('.').map(|part| part.trim().parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self(next(), next(), next())
    }
}

/// What one host can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    pub connections: u32,
    pub memory: u64,
    /// Its connections go through vCenter's own service and count there too.
    pub through_vcenter: bool,
}

impl HostLimits {
    #[must_use]
    pub fn of(version: HostVersion, connections: u32) -> Self {
        let memory = if version >= HostVersion(8, 0, 0) { 96 << 20 } else { 48 << 20 };
        Self { connections, memory, through_vcenter: version < HostVersion(7, 0, 1) }
    }
}

/// What one disk takes: connections of its NBD client, and the buffers of each
/// ([`super::VddkSettings::session_bytes`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub connections: u32,
    pub memory: u64,
}

impl Need {
    #[must_use]
    pub fn of(settings: &super::VddkSettings, connections: u32) -> Self {
        Self { connections, memory: settings.session_bytes() * u64::from(connections) }
    }
}

#[derive(Debug)]
struct Claim {
    host: Moref,
    limits: HostLimits,
    need: Need,
}

/// The pure part: who holds what, who waits, and who is next.
#[derive(Debug, Default)]
struct Ledger {
    next: u64,
    held: HashMap<u64, Claim>,
    /// In the order in which they came.
    waiting: BTreeMap<u64, Claim>,
}

impl Ledger {
    /// Queues a claim; [`Ledger::grant`] says when it is its turn. `None`: it never can be.
    fn ask(&mut self, claim: Claim) -> Option<u64> {
        let Claim { limits, need, .. } = &claim;
        let vcenter = !limits.through_vcenter || need.connections <= THROUGH_VCENTER;
        if need.connections > limits.connections || need.memory > limits.memory || !vcenter {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, claim);
        Some(id)
    }

    fn leave(&mut self, id: u64) {
        self.held.remove(&id);
        self.waiting.remove(&id);
    }

    /// Everybody whose turn it is holds from now on.
    fn grant(&mut self) -> Vec<u64> {
        let (mut closed, mut vcenter_closed, mut granted) = (HashSet::new(), false, Vec::new());
        let ids: Vec<u64> = self.waiting.keys().copied().collect();
        for id in ids {
            let Some(claim) = self.waiting.get(&id) else { continue };
            let (host, through) = (claim.host.clone(), claim.limits.through_vcenter);
            if closed.contains(&host) || through && vcenter_closed {
                // Behind somebody: nobody later of the same host goes first.
                closed.insert(host);
                continue;
            }
            let fits = self.fits_host(claim);
            let vcenter_fits = !through || self.used_of_vcenter() + claim.need.connections <= THROUGH_VCENTER;
            if fits && vcenter_fits {
                if let Some(claim) = self.waiting.remove(&id) {
                    self.held.insert(id, claim);
                }
                granted.push(id);
                continue;
            }
            vcenter_closed |= !vcenter_fits;
            closed.insert(host);
        }
        granted
    }

    fn fits_host(&self, claim: &Claim) -> bool {
        let (mut connections, mut memory) = (claim.need.connections, claim.need.memory);
        for held in self.held.values().filter(|held| held.host == claim.host) {
            connections += held.need.connections;
            memory += held.need.memory;
        }
        connections <= claim.limits.connections && memory <= claim.limits.memory
    }

    fn used_of_vcenter(&self) -> u32 {
        self.held.values().filter(|held| held.limits.through_vcenter).map(|held| held.need.connections).sum()
    }
}

#[derive(Debug, Default)]
struct Desk {
    ledger: Ledger,
    bells: HashMap<u64, oneshot::Sender<()>>,
}

impl Desk {
    fn serve(&mut self) {
        for id in self.ledger.grant() {
            if let Some(bell) = self.bells.remove(&id) {
                // Who does not wait any more leaves by its permit's Drop.
                _ = bell.send(());
            }
        }
    }
}

/// See the module. Cheap to clone: one budget for the agent.
#[derive(Debug, Clone, Default)]
pub struct HostBudget(Arc<Mutex<Desk>>);

/// A share of a host; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    id: u64,
    budget: HostBudget,
}

impl HostBudget {
    /// Waits for a share, at most `patience`. Dropped while it waits, it leaves the queue.
    ///
    /// # Errors
    /// HA-VDK-010: not in time, or more than the host can ever give.
    pub async fn acquire(&self, host: &Moref, limits: HostLimits, need: Need, patience: Duration) -> Result<Permit> {
        let refused = |why: &str| {
            let Need { connections, memory } = need;
            Error::new(
                &reason::VDK_BUSY,
                format!("{host}: {connections} connections with {memory} bytes of buffers, {why}"),
            )
        };
        let (bell, turn) = oneshot::channel();
        let permit = {
            let mut desk = self.desk();
            let claim = Claim { host: host.clone(), limits, need };
            let id = desk.ledger.ask(claim).ok_or_else(|| refused("more than the host gives"))?;
            desk.bells.insert(id, bell);
            desk.serve();
            Permit { id, budget: self.clone() }
        };
        match timeout(patience, turn).await {
            Ok(Ok(())) => Ok(permit),
            _ => Err(refused(&format!("not within {} s", patience.as_secs_f64()))),
        }
    }

    /// Connections that are held, by host.
    #[must_use]
    pub fn held(&self) -> Vec<(Moref, u32)> {
        let mut hosts: BTreeMap<Moref, u32> = BTreeMap::new();
        for claim in self.desk().ledger.held.values() {
            *hosts.entry(claim.host.clone()).or_default() += claim.need.connections;
        }
        hosts.into_iter().collect()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut desk = self.budget.desk();
        desk.bells.remove(&self.id);
        desk.ledger.leave(self.id);
        desk.serve();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn limits(version: &str) -> HostLimits {
        HostLimits::of(HostVersion::parse(version), 50)
    }

    fn claim(host: &str, version: &str, connections: u32, mib: u64) -> Claim {
        Claim { host: Moref::new(host), limits: limits(version), need: Need { connections, memory: mib << 20 } }
    }

    #[test]
    fn limits_follow_the_release() {
        for (version, mib, through) in [
            ("6.5.0", 48, true),
            ("7.0.0", 48, true),
            ("7.0.1", 48, false),
            ("7.0.3", 48, false),
            ("8.0.0", 96, false),
            ("9.0.1", 96, false),
            ("", 48, true),
            ("x", 48, true),
        ] {
            let expected = HostLimits { connections: 50, memory: mib << 20, through_vcenter: through };
            assert_eq!(limits(version), expected, "{version}");
        }
        let settings = super::super::VddkSettings::new("/x");
        assert_eq!(Need::of(&settings, 2), Need { connections: 2, memory: 8 << 20 });
    }

    #[test]
    fn connections_memory_and_vcenter_bind_each_by_itself() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.ask(claim("h1", "8.0.0", 51, 1)), None, "never");
        assert_eq!(ledger.ask(claim("h1", "7.0.3", 1, 49)), None, "never");
        let first = ledger.ask(claim("h1", "8.0.0", 1, 96)).unwrap();
        let second = ledger.ask(claim("h1", "8.0.0", 1, 1)).unwrap();
        let other = ledger.ask(claim("h2", "8.0.0", 50, 1)).unwrap();
        assert_eq!(ledger.grant(), [first, other], "one host holds nobody of another");
        ledger.leave(first);
        assert_eq!(ledger.grant(), [second]);
        let old: Vec<u64> = (0..2).map(|n| ledger.ask(claim(&format!("old{n}"), "6.7.0", 40, 1)).unwrap()).collect();
        assert_eq!(ledger.grant(), [old[0]], "40 of vCenter's 52");
        let small = ledger.ask(claim("old9", "6.7.0", 1, 1)).unwrap();
        assert_eq!(ledger.grant(), [0; 0], "behind one that waits for vCenter");
        ledger.leave(old[0]);
        assert_eq!(ledger.grant(), [old[1], small]);
    }

    #[test]
    fn a_small_claim_does_not_overtake_a_large_one() {
        let mut ledger = Ledger::default();
        let all = [30, 30, 1].map(|n| ledger.ask(claim("h", "8.0.0", n, 1)).unwrap());
        assert_eq!(ledger.grant(), [all[0]]);
        ledger.leave(all[1]);
        assert_eq!(ledger.grant(), [all[2]], "the large one gave up");
    }

    proptest! {
        #[test]
        fn never_too_much_never_out_of_order_never_stuck(steps in prop::collection::vec((0u8..4, 1u32..50, 1u64..48, any::<bool>(), any::<prop::sample::Index>()), 1..80)) {
            let mut ledger = Ledger::default();
            for (host, connections, mib, ask, which) in steps {
                let version = if host < 2 { "6.7.0" } else { "8.0.0" };
                let ids: Vec<u64> = ledger.held.keys().chain(ledger.waiting.keys()).copied().collect();
                if ask || ids.is_empty() {
                    ledger.ask(claim(&format!("h{host}"), version, connections, mib)).unwrap();
                } else {
                    ledger.leave(*which.get(&ids));
                }
                for id in ledger.grant() {
                    let host = &ledger.held[&id].host;
                    prop_assert!(ledger.waiting.iter().all(|(other, claim)| *other > id || claim.host != *host), "overtook");
                }
                let mut held: HashMap<&Moref, (u32, u64)> = HashMap::new();
                for claim in ledger.held.values() {
                    let sum = held.entry(&claim.host).or_default();
                    *sum = (sum.0 + claim.need.connections, sum.1 + claim.need.memory);
                    prop_assert!(sum.0 <= claim.limits.connections && sum.1 <= claim.limits.memory);
                }
                prop_assert!(ledger.used_of_vcenter() <= THROUGH_VCENTER);
                prop_assert!(ledger.waiting.is_empty() || !ledger.held.is_empty(), "stuck");
            }
        }
    }

    #[tokio::test]
    async fn permits_come_in_order_and_go_with_their_value() {
        let (budget, host) = (HostBudget::default(), Moref::new("host-1"));
        let need = |connections| Need { connections, memory: 1 };
        let ask = |connections, patience| {
            let (budget, host) = (budget.clone(), host.clone());
            async move { budget.acquire(&host, limits("8.0.0"), need(connections), patience).await }
        };
        let first = ask(50, LONG).await.unwrap();
        assert_eq!(ask(1, Duration::ZERO).await.unwrap_err().reason().code, "HA-VDK-010");
        assert_eq!(ask(51, LONG).await.unwrap_err().reason().code, "HA-VDK-010");
        let mut second = Box::pin(ask(50, LONG));
        assert!(futures_util::poll!(&mut second).is_pending());
        let mut third = Box::pin(ask(1, LONG));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        let second = second.await.unwrap();
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(second);
        drop(third);
        let all = ask(50, LONG).await.expect("one that was dropped with its turn gave it back");
        drop(all);
        assert!(budget.desk().bells.is_empty() && budget.desk().ledger.held.is_empty());
    }
}
