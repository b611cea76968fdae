//! What attaching and settling share: the proxy VM from both sides, the journal, and the gate that lets only one
//! writer at a time reconfigure the proxy.
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Readers, Reservations, Turns, own_disks, room::Learnt};
use crate::{
    audit::Audit,
    config::{Config, Deadlines, GuardPolicy, Limits, ReadTuning},
    discover::{ControllerMap, DeviceFacts, Finder, Guest, Platform},
    error::{Error, Result},
    events::Events,
    hypervisor::{Happening, Hypervisor, ProxyFacts, Site},
    id::SessionId,
    id::{DiskUuid, Moref, Slot},
    journal::{Journal, JournalError, Record, State},
    metrics::Meter,
    reason,
    traces::Traces,
    transport::{Means, Memory, Tally, throttle::Throttle},
};

/// See the module.
#[derive(Debug)]
pub struct ProxyVm {
    pub moref: Moref,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub platform: Arc<dyn Platform>,
    pub journal: Journal,
    pub finder: Finder,
    pub limits: Limits,
    pub deadlines: Deadlines,
    /// Who this proxy is, in what others can read of us: descriptions of snapshots, reasons of disabled methods.
    pub source: String,
    pub guards: GuardPolicy,
    /// UUIDs of own disks outside the proxy's home folder.
    pub listed_own: BTreeSet<DiskUuid>,
    /// For the buffers of all reads.
    pub memory: Memory,
    pub throttle: Throttle,
    /// Of the threads that read.
    pub tuning: ReadTuning,
    pub readers: Readers,
    pub reservations: Reservations,
    pub(super) turns: Turns,
    pub events: Events,
    pub meter: Meter,
    pub tally: Tally,
    pub audit: Audit,
    /// Sessions that were cloned and are being ended.
    pub farewells: TaskTracker,
    pub traces: Traces,
    /// Cancelled when only a new start can go on: a loop that must never end has ended.
    pub fatal: CancellationToken,
    /// Held over: read the device list, write the intent, reconfigure, read back.
    pub(super) gate: Mutex<()>,
    /// Held by who attaches to a controller on trial, from before the gate until the verdict.
    pub(super) trial: Mutex<()>,
    /// See [`super::room`].
    pub(super) learnt: StdMutex<Learnt>,
    /// The proxy as vCenter told it last, and when that look began.
    seen: StdMutex<(Instant, ProxyFacts)>,
    /// The last look at the proxy's host, and when it began.
    site: StdMutex<Option<(Instant, Site)>>,
    /// The last look at events.
    recorded: StdMutex<Option<Recorded>>,
}

/// Events as they were read once.
#[derive(Debug)]
struct Recorded {
    /// When the look began.
    at: Instant,
    host: Option<Moref>,
    since: Timestamp,
    happenings: Vec<Happening>,
}

/// Both sides at one moment.
pub(super) struct View {
    pub(super) proxy: ProxyFacts,
    pub(super) devices: Vec<DeviceFacts>,
    pub(super) map: ControllerMap,
}

impl ProxyVm {
    /// What a read of this session shares with all others.
    #[must_use]
    pub fn means(&self, session: SessionId) -> Means<'_> {
        Means {
            memory: &self.memory,
            throttle: &self.throttle,
            tuning: &self.tuning,
            meter: &self.meter,
            tally: &self.tally,
            session,
        }
    }

    #[must_use]
    pub fn new(
        proxy: &ProxyFacts,
        config: &Config,
        hypervisor: Arc<dyn Hypervisor>,
        platform: Arc<dyn Platform>,
        journal: Journal,
        finder: Finder,
        meter: Meter,
    ) -> Self {
        let instance = proxy.instance_uuid.as_deref().unwrap_or(proxy.moref.as_str());
        Self {
            moref: proxy.moref.clone(),
            source: format!("hotadd-agent/{instance}"),
            guards: config.guards,
            hypervisor,
            platform,
            journal,
            finder,
            limits: config.limits.clone(),
            deadlines: config.deadlines.clone(),
            listed_own: config.own_disks.clone(),
            memory: Memory::new(config.limits.memory_bytes, config.limits.reads),
            throttle: Throttle::new(config.pace.clone()),
            tuning: config.reading.clone(),
            readers: Readers::default(),
            reservations: Reservations::default(),
            turns: Turns::new(config.limits.snapshots_per_datastore),
            events: Events::default(),
            traces: Traces::start(config.traces.as_ref(), instance, &meter),
            meter,
            tally: Tally::default(),
            audit: Audit::new(&config.audit),
            farewells: TaskTracker::new(),
            fatal: CancellationToken::new(),
            gate: Mutex::new(()),
            trial: Mutex::new(()),
            learnt: StdMutex::default(),
            seen: StdMutex::new((Instant::now(), proxy.clone())),
            site: StdMutex::default(),
            recorded: StdMutex::default(),
        }
    }

    /// Makes records durable before it returns.
    ///
    /// # Errors
    /// [`reason::DUTY_JOURNAL`].
    pub async fn record(&self, records: Vec<Record>) -> Result<()> {
        let journal = self.journal.clone();
        let before = journal.state();
        let (written, records) = tokio::task::spawn_blocking(move || (journal.append(&records), records)).await?;
        written.map_err(|e| Error::new(&reason::DUTY_JOURNAL, "").with_source(e))?;
        self.tell(&records, &before);
        Ok(())
    }

    /// What became durable.
    fn tell(&self, records: &[Record], before: &State) {
        self.events.tell(records, before);
        self.meter.recorded(records, before);
        if records.iter().any(|record| matches!(record, Record::Retired { .. })) {
            self.turns.ring();
        }
    }

    /// The proxy's host and whether it is being moved, seen less than `age` ago: jobs that look at it in turn share a look.
    ///
    /// # Errors
    /// Of the hypervisor.
    pub async fn site(&self, age: Duration) -> Result<Site> {
        let seen = || self.site.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        if let Some((_, site)) = seen().as_ref().filter(|(at, _)| begin.duration_since(*at) < age) {
            return Ok(site.clone());
        }
        let site = self.hypervisor.proxy_site(&self.moref).await?;
        let mut last = seen();
        if last.as_ref().is_none_or(|(at, _)| *at < begin) {
            *last = Some((begin, site.clone()));
        }
        Ok(site)
    }

    /// What vCenter recorded of the proxy and its host from `since` on, and perhaps of before, read less than `age` ago: a look
    /// of somebody who began to watch earlier tells the later ones as well.
    pub async fn happenings(&self, host: Option<&Moref>, since: Timestamp, age: Duration) -> Vec<Happening> {
        let seen = || self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        let fits =
            |last: &&Recorded| begin.duration_since(last.at) < age && last.since <= since && last.host.as_ref() == host;
        if let Some(last) = seen().as_ref().filter(fits) {
            return last.happenings.clone();
        }
        let happenings = self.hypervisor.happenings(&self.moref, host, since).await;
        *seen() = Some(Recorded { at: begin, host: host.cloned(), since, happenings: happenings.clone() });
        happenings
    }

    /// As [`Self::record`], but a record that the journal refuses costs only itself: those are given back.
    pub async fn record_each(&self, records: Vec<Record>) -> Vec<(Record, Error)> {
        let journal = self.journal.clone();
        let (before, asked) = (journal.state(), records.clone());
        let written = tokio::task::spawn_blocking(move || journal.append_each(&asked)).await;
        let Ok(refused) = written else {
            let lost = || Error::new(&reason::INTERNAL, "a write to the journal ended without an answer");
            return records.into_iter().map(|record| (record, lost())).collect();
        };
        let mut refused: BTreeMap<usize, JournalError> = refused.into_iter().collect();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (at, record) in records.into_iter().enumerate() {
            match refused.remove(&at) {
                Some(why) => bad.push((record, Error::new(&reason::DUTY_JOURNAL, "").with_source(why))),
                None => good.push(record),
            }
        }
        self.tell(&good, &before);
        bad
    }

    /// Ends the agent; the next start settles from the journal.
    pub fn fail(&self, why: &str) {
        if !self.fatal.is_cancelled() {
            tracing::error!(why, "the agent can't go on and ends; the next start settles what is owed");
            self.fatal.cancel();
        }
    }

    /// Runs a loop on which everything depends: if it panics, the agent ends instead of going on without it.
    pub fn supervise(self: &Arc<Self>, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if tokio::spawn(work).await.is_err() {
                this.fail(what);
            }
        });
    }

    /// The proxy as vCenter tells it now.
    ///
    /// # Errors
    /// Of the hypervisor.
    pub async fn facts(&self) -> Result<ProxyFacts> {
        let begin = Instant::now();
        let facts = self.hypervisor.proxy(&self.moref).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Looks may overtake each other.
        if seen.0 <= begin {
            *seen = (begin, facts.clone());
        }
        Ok(facts)
    }

    /// The proxy as vCenter told it last, and how long ago: for who may not ask.
    #[must_use]
    pub fn last_seen(&self) -> (Duration, ProxyFacts) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.0.elapsed(), seen.1.clone())
    }

    /// The map from vCenter's controllers to PCI functions, for the given facts.
    ///
    /// # Errors
    /// When the guest's devices can't be read.
    pub async fn controller_map(&self, proxy: &ProxyFacts) -> Result<ControllerMap> {
        Ok(self.look(proxy).await?.1)
    }

    /// Slots that open attach duties name.
    #[must_use]
    pub fn named_slots(&self) -> BTreeSet<Slot> {
        self.journal.state().duties().filter_map(|duty| duty.attach().map(|attach| attach.slot)).collect()
    }

    pub(super) async fn view(&self) -> Result<View> {
        let proxy = self.facts().await?;
        let (devices, map) = self.look(&proxy).await?;
        Ok(View { proxy, devices, map })
    }

    async fn look(&self, proxy: &ProxyFacts) -> Result<(Vec<DeviceFacts>, ControllerMap)> {
        let platform = Arc::clone(&self.platform);
        let read = move || Ok::<_, std::io::Error>((platform.slots()?, platform.hosts()?, platform.devices()?));
        let unreadable = || Error::new(&reason::INTERNAL, "the guest's devices are not told in time");
        let (slots, hosts, devices) = timeout(self.deadlines.guest, tokio::task::spawn_blocking(read))
            .await
            .map_err(|_| unreadable())??
            .map_err(|e| Error::new(&reason::INTERNAL, "the guest's devices can't be read").with_source(e))?;
        let own = own_disks(proxy, &self.listed_own);
        let guest = Guest { slots: &slots, hosts: &hosts, devices: &devices };
        let mut learnt = self.learnt();
        learnt.trials.keep(&proxy.controllers);
        let map = ControllerMap::build(&proxy.controllers, &own, guest, &learnt.trials);
        drop(learnt);
        Ok((devices, map))
    }
}

/// RFC 3339, seconds.
#[must_use]
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}
