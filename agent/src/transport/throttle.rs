//! How fast all reads together may go: bytes and reads per second for the agent, for each datastore and for each disk, and a
//! latency ceiling per disk. Set in `[pace]` and changed at run time (SetLimits).
//!
//! A limit is a clock: each read moves it on by its cost, and may begin when the clock is at most [`BURST`] ahead. Where
//! sessions compete, the one that has had the fewest bytes goes first, however many disks it reads.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hotadd_blockio::{Depth, Pace};

use crate::id::SessionId;

/// How far reads may run ahead of a limit.
const BURST: Duration = Duration::from_millis(100);
/// How much more than another session, which waits, one may have had.
const AHEAD: u64 = 4 << 20;
/// Before a session that is ahead looks again.
const YIELD: Duration = Duration::from_millis(2);
/// A session that was refused and does not come back within this does not wait any more: its client is slow, or gone.
const WAITS: Duration = Duration::from_millis(250);

/// How often one that waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Limits of one thing; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    pub bytes_per_second: Option<u64>,
    pub reads_per_second: Option<u64>,
    /// Mean latency of a read, above which fewer are in flight. Of disks; an agent has none.
    pub latency: Option<Duration>,
}

/// What a limit is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Agent,
    /// All disks on it, by name.
    Datastore(String),
    /// Each disk by itself.
    Disk,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent => f.write_str("agent"),
            Self::Datastore(name) => write!(f, "datastores.{name}"),
            Self::Disk => f.write_str("disk"),
        }
    }
}

/// The limits as configured.
pub type Rates = BTreeMap<Scope, Rate>;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether there is any limit at all: without one nobody locks.
    limited: AtomicBool,
    disks: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    configured: Rates,
    changed: BTreeMap<Scope, (Rate, Option<Instant>)>,
    clocks: BTreeMap<Clock, Instant>,
    flows: BTreeMap<SessionId, Flow>,
    /// The most that a session has had: where a new one begins.
    served: u64,
}

/// Figures of a state that a panic left are figures all the same.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose clock; a disk has a number of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Clock {
    Shared(Scope, Unit),
    Disk(u64, Unit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Bytes,
    Reads,
}

/// One session's share.
#[derive(Debug)]
struct Flow {
    bytes: u64,
    /// When, and by which shared limit.
    refused: Option<(Instant, Clock)>,
    readers: usize,
}

impl Throttle {
    #[must_use]
    pub fn new(configured: Rates) -> Self {
        let this = Self::default();
        lock(&this.0.state).configured = configured;
        this.0.limited.store(lock(&this.0.state).any(), Ordering::Relaxed);
        this
    }

    /// Whether any limit holds.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.limited.load(Ordering::Relaxed)
    }

    /// Another limit from now on, for so long; `None`: until the agent ends.
    pub fn set(&self, scope: Scope, rate: Rate, ttl: Option<Duration>) {
        let mut state = lock(&self.0.state);
        state.forget(&scope);
        state.changed.insert(scope, (rate, ttl.map(|ttl| Instant::now() + ttl)));
        self.0.limited.store(state.any(), Ordering::Relaxed);
    }

    /// As configured again.
    pub fn unset(&self, scope: &Scope) {
        let mut state = lock(&self.0.state);
        state.forget(scope);
        state.changed.remove(scope);
        self.0.limited.store(state.any(), Ordering::Relaxed);
    }

    /// What holds now, with what is left of it.
    #[must_use]
    pub fn now(&self) -> Vec<(Scope, Rate, Option<Duration>)> {
        let (mut state, now) = (lock(&self.0.state), Instant::now());
        state.expire(now);
        let scopes: BTreeSet<Scope> = state.configured.keys().chain(state.changed.keys()).cloned().collect();
        let told = |scope: Scope| {
            let left = state.changed.get(&scope).and_then(|(_, end)| *end);
            (scope.clone(), state.rate(&scope), left.map(|end| end.saturating_duration_since(now)))
        };
        scopes.into_iter().map(told).filter(|(_, rate, _)| *rate != Rate::default()).collect()
    }

    /// For one read of a disk.
    #[must_use]
    /// `depth`: most reads in flight; `halvings`: how often the longest of them may be halved.
    pub fn pacer(&self, session: SessionId, datastore: &str, (depth, halvings): (usize, u32)) -> Pacer {
        let mut state = lock(&self.0.state);
        let served = state.served;
        let flow = state.flows.entry(session).or_insert(Flow { bytes: served, refused: None, readers: 0 });
        flow.readers += 1;
        drop(state);
        let disk = self.0.disks.fetch_add(1, Ordering::Relaxed);
        let store = Scope::Datastore(datastore.to_owned());
        Pacer { throttle: self.clone(), session, store, disk, depth: Depth::new(depth, halvings, None) }
    }
}

impl State {
    fn any(&self) -> bool {
        let limits = |rate: &Rate| *rate != Rate::default();
        self.configured.values().any(limits) || self.changed.values().any(|(rate, _)| limits(rate))
    }

    fn expire(&mut self, now: Instant) {
        self.changed.retain(|_, (_, end)| end.is_none_or(|end| end > now));
    }

    /// What reads cost under another limit says nothing of the next.
    fn forget(&mut self, scope: &Scope) {
        self.clocks.retain(|clock, _| match clock {
            Clock::Shared(of, _) => of != scope,
            Clock::Disk(..) => *scope != Scope::Disk,
        });
    }

    fn rate(&self, scope: &Scope) -> Rate {
        let changed = self.changed.get(scope).map(|(rate, _)| *rate);
        changed.or_else(|| self.configured.get(scope).copied()).unwrap_or_default()
    }

    fn ceiling(&self, store: &Scope) -> Option<Duration> {
        self.rate(store).latency.or_else(|| self.rate(&Scope::Disk).latency)
    }

    fn admit(&mut self, who: &Pacer, bytes: u32, now: Instant) -> Result<(), Duration> {
        let costs = self.costs(who, bytes);
        let ahead = |(clock, _): &(Clock, Duration)| {
            self.clocks.get(clock).map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
        };
        let most = costs.iter().map(|cost| (ahead(cost).saturating_sub(BURST), &cost.0)).max_by_key(|(wait, _)| *wait);
        let yields = || Some((YIELD, self.is_ahead(who.session, &costs, now)?));
        let refused = most.filter(|(wait, _)| !wait.is_zero()).map(|(wait, by)| (wait, by.clone())).or_else(yields);
        let served = self.served;
        let flow = self.flows.entry(who.session).or_insert(Flow { bytes: served, refused: None, readers: 1 });
        if let Some((wait, by)) = refused {
            // A disk's own limit is nothing that another could leave to it.
            flow.refused = matches!(by, Clock::Shared(..)).then_some((now, by));
            return Err(wait);
        }
        let waited = flow.refused.take().is_some_and(|(at, _)| now.saturating_duration_since(at) < WAITS);
        // Who did not read for a while does not get that back.
        let had = if waited { flow.bytes } else { flow.bytes.max(served.saturating_sub(AHEAD)) };
        flow.bytes = had + u64::from(bytes);
        self.served = served.max(flow.bytes);
        for (clock, cost) in costs {
            let at = self.clocks.entry(clock).or_insert(now);
            *at = (*at).max(now) + cost;
        }
        Ok(())
    }

    /// By how much each limit's clock moves on.
    fn costs(&self, who: &Pacer, bytes: u32) -> Vec<(Clock, Duration)> {
        let mut costs = Vec::new();
        for scope in [&Scope::Agent, &who.store, &Scope::Disk] {
            let rate = self.rate(scope);
            let mut add = |unit: Unit, amount: f64, limit: Option<u64>| {
                let Some(limit) = limit else { return };
                let clock = match scope {
                    Scope::Disk => Clock::Disk(who.disk, unit),
                    _ => Clock::Shared(scope.clone(), unit),
                };
                #[allow(clippy::cast_precision_loss, reason = "a rate far below 2^52")]
                costs.push((clock, Duration::from_secs_f64(amount / limit.max(1) as f64)));
            };
            add(Unit::Bytes, f64::from(bytes), rate.bytes_per_second);
            add(Unit::Reads, 1.0, rate.reads_per_second);
        }
        costs
    }

    /// The limit of this read's that another session waits for, which has had less.
    fn is_ahead(&self, session: SessionId, costs: &[(Clock, Duration)], now: Instant) -> Option<Clock> {
        let mine = self.flows.get(&session).map_or(0, |flow| flow.bytes);
        let busy = |clock: &Clock| self.clocks.get(clock).is_some_and(|at| *at > now);
        let waits_for = |flow: &Flow| {
            let (at, clock) = flow.refused.as_ref()?;
            let waits = now.saturating_duration_since(*at) < WAITS && busy(clock);
            (waits && costs.iter().any(|(mine, _)| mine == clock)).then(|| clock.clone())
        };
        let others = self.flows.iter().filter(|(other, flow)| **other != session && flow.bytes + AHEAD < mine);
        others.filter_map(|(_, flow)| waits_for(flow)).next()
    }
}

/// One read's view of the limits.
#[derive(Debug)]
pub struct Pacer {
    throttle: Throttle,
    session: SessionId,
    store: Scope,
    disk: u64,
    depth: Depth,
}

impl Pacer {
    /// Waits for a read of `bytes`; `Break`: it is not wanted any more.
    pub fn wait(&mut self, bytes: u32, stop: &AtomicBool) -> ControlFlow<()> {
        while let Err(wait) = self.admit(bytes) {
            if stop.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            std::thread::sleep(wait.min(LOOK));
        }
        ControlFlow::Continue(())
    }
}

impl Pace for Pacer {
    fn admit(&mut self, bytes: u32) -> Result<(), Duration> {
        if !self.throttle.is_limited() {
            self.depth.set_ceiling(None);
            return Ok(());
        }
        let throttle = self.throttle.clone();
        let mut state = lock(&throttle.0.state);
        let now = Instant::now();
        state.expire(now);
        self.depth.set_ceiling(state.ceiling(&self.store));
        state.admit(self, bytes, now)
    }

    fn depth(&self) -> usize {
        self.depth.now()
    }

    fn halvings(&self) -> u32 {
        self.depth.halvings()
    }

    fn answered(&mut self, latency: Duration) {
        self.depth.answered(latency);
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        let throttle = self.throttle.clone();
        let mut state = lock(&throttle.0.state);
        let mine = self.disk;
        state.clocks.retain(|clock, _| !matches!(clock, Clock::Disk(disk, _) if *disk == mine));
        if let Some(flow) = state.flows.get_mut(&self.session) {
            flow.readers -= 1;
            if flow.readers == 0 {
                state.flows.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn limits(scope: Scope, mib_per_second: u64) -> Rates {
        let rate = Rate { bytes_per_second: Some(mib_per_second * u64::from(MIB)), ..Rate::default() };
        Rates::from([(scope, rate)])
    }

    /// Plays readers for so many milliseconds from there; MiB that each got.
    fn play(throttle: &Throttle, readers: &[Pacer], start: Instant, millis: u64) -> Vec<u64> {
        let (mut got, mut next) = (vec![0; readers.len()], vec![start; readers.len()]);
        for step in 0..millis * 4 {
            let now = start + Duration::from_micros(step * 250);
            for (n, reader) in readers.iter().enumerate() {
                while next[n] <= now {
                    match lock(&throttle.0.state).admit(reader, MIB, now) {
                        Ok(()) => got[n] += 1,
                        Err(wait) => next[n] = now + wait.min(Duration::from_millis(50)),
                    }
                }
            }
        }
        got
    }

    fn close(value: u64, due: u64) -> bool {
        value.abs_diff(due) * 20 <= due
    }

    #[test]
    fn all_together_keep_to_the_agents_limit_and_sessions_share_it() {
        let throttle = Throttle::new(limits(Scope::Agent, 100));
        let (one, two) = (SessionId::new(), SessionId::new());
        let mut readers: Vec<_> = (0..4).map(|_| throttle.pacer(one, "ds1", (16, 0))).collect();
        readers.push(throttle.pacer(two, "ds2", (16, 0)));
        let got = play(&throttle, &readers, Instant::now(), 20_000);
        let (four, single) = (got[..4].iter().sum::<u64>(), got[4]);
        assert!(close(four + single, 2010), "{got:?}");
        assert!(close(four, 1005) && close(single, 1005), "one disk of its own against four: {got:?}");
    }

    #[test]
    fn a_session_that_comes_later_gets_its_share_and_not_the_past() {
        let throttle = Throttle::new(limits(Scope::Agent, 100));
        let first = throttle.pacer(SessionId::new(), "ds1", (16, 0));
        let start = Instant::now();
        play(&throttle, std::slice::from_ref(&first), start, 10_000);
        let second = throttle.pacer(SessionId::new(), "ds1", (16, 0));
        let got = play(&throttle, &[first, second], start + Duration::from_secs(10), 10_000);
        assert!(close(got[0], 500) && close(got[1], 500), "{got:?}");
    }

    #[test]
    fn limits_of_a_datastore_and_of_a_disk_bind_only_what_they_name() {
        let mut rates = limits(Scope::Datastore("slow".into()), 20);
        rates.extend(limits(Scope::Disk, 50));
        let throttle = Throttle::new(rates);
        let session = SessionId::new();
        let readers: Vec<_> =
            ["slow", "slow", "fast", "fast"].map(|store| throttle.pacer(session, store, (16, 0))).into();
        let got = play(&throttle, &readers, Instant::now(), 10_000);
        assert!(close(got[0] + got[1], 202), "{got:?}");
        assert!(close(got[2], 505) && close(got[3], 505), "{got:?}");
    }

    #[test]
    fn who_waits_for_another_limit_holds_nobody_up() {
        let mut rates = limits(Scope::Datastore("slow".into()), 1);
        rates.extend(limits(Scope::Datastore("fast".into()), 200));
        let throttle = Throttle::new(rates);
        let readers = ["slow", "fast"].map(|store| throttle.pacer(SessionId::new(), store, (16, 0)));
        let got = play(&throttle, &readers, Instant::now(), 10_000);
        assert!(got[0] <= 11 && close(got[1], 2010), "{got:?}");
        let mut rates = limits(Scope::Disk, 10);
        rates.extend(limits(Scope::Agent, 1000));
        let throttle = Throttle::new(rates);
        let (one, many) = (SessionId::new(), SessionId::new());
        let mut readers = vec![throttle.pacer(one, "a", (16, 0))];
        readers.extend((0..10).map(|_| throttle.pacer(many, "a", (16, 0))));
        let got = play(&throttle, &readers, Instant::now(), 10_000);
        assert!(close(got[0], 101) && close(got[1..].iter().sum(), 1010), "ten disks are ten times one: {got:?}");
    }

    #[test]
    fn a_limit_that_is_raised_is_felt_at_once() {
        let throttle = Throttle::new(limits(Scope::Disk, 1));
        let mut pacer = throttle.pacer(SessionId::new(), "a", (1, 0));
        assert_eq!(pacer.admit(64 * MIB), Ok(()));
        assert!(pacer.admit(MIB).is_err());
        throttle.set(Scope::Disk, Rate { bytes_per_second: Some(100 << 20), ..Rate::default() }, None);
        assert_eq!(pacer.admit(MIB), Ok(()));
    }

    #[test]
    fn reads_are_counted_too_and_a_change_ends_with_its_time() {
        let throttle = Throttle::default();
        let mut pacer = throttle.pacer(SessionId::new(), "ds1", (8, 0));
        assert_eq!(pacer.admit(MIB), Ok(()));
        let ten = Rate { reads_per_second: Some(10), latency: Some(Duration::from_millis(5)), ..Rate::default() };
        throttle.set(Scope::Disk, ten, Some(Duration::from_secs(3600)));
        assert_eq!(pacer.admit(MIB), Ok(()));
        assert_eq!(pacer.admit(MIB), Ok(()), "a burst of a tenth of a second");
        assert!(pacer.admit(MIB).is_err());
        assert_eq!(throttle.now().len(), 1);
        for _ in 0..8 {
            pacer.answered(Duration::from_millis(50));
        }
        assert_eq!(pacer.depth(), 4, "the ceiling of the change");
        throttle.set(Scope::Disk, ten, Some(Duration::ZERO));
        assert_eq!(pacer.admit(MIB), Ok(()));
        assert_eq!((pacer.depth(), throttle.now().len()), (8, 0));
    }

    #[test]
    fn nothing_is_kept_of_reads_that_ended() {
        let throttle = Throttle::new(limits(Scope::Disk, 1));
        let session = SessionId::new();
        let (one, two) = (throttle.pacer(session, "a", (1, 0)), throttle.pacer(session, "a", (1, 0)));
        play(&throttle, &[one, two], Instant::now(), 10);
        let state = lock(&throttle.0.state);
        assert!(state.flows.is_empty() && state.clocks.is_empty(), "{state:?}");
    }
}
