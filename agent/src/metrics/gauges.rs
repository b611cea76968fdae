//! What is so now, read from the state when somebody asks. Asks neither vCenter nor a disk: a look at the metrics costs nothing, also when
//! nothing else works.
use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use super::{Labels, kind};
use crate::{
    attach::Settler,
    id::Moref,
    journal::{Duty, State},
};

/// All kinds of duties: a gauge without a duty is 0, not absent, so that an alert on it can be trusted.
pub(super) const KINDS: [&str; 4] = ["attach", "snapshot", "guard", "export"];

/// Most hosts that are told: a cluster has at most 96 (vSphere 8.0 configuration maximums).
const HOSTS: usize = 96;

/// One look.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    pub open: BTreeMap<&'static str, Kind>,
    pub settling: BTreeMap<&'static str, Kind>,
    /// Passes over the duty that was tried most often.
    pub tries: u32,
    /// Requests without an answer that are still looked for.
    pub late: usize,
    pub jobs: usize,
    pub sessions: usize,
    pub draining: bool,
    /// The API's port is open.
    pub serving: bool,
    /// Connections to ESXi hosts through VDDK, by host.
    pub nfc: Vec<(Moref, u32)>,
}

/// Of one kind of duty.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Kind {
    pub number: usize,
    pub oldest: Duration,
}

impl Kind {
    fn add(&mut self, age: Duration) {
        self.number += 1;
        self.oldest = self.oldest.max(age);
    }
}

impl Snapshot {
    /// Of duties. What a session or job still uses is open and not settling; a snapshot that is kept for a job that resumes is neither.
    #[must_use]
    pub fn of(state: &State, settler: &Settler) -> Self {
        let mut now = Self { late: state.late().count(), ..Self::default() };
        let kept = |duty: &Duty| duty.snapshot().is_some_and(|snapshot| snapshot.kept().is_some());
        for duty in state.duties().filter(|duty| !kept(duty)) {
            now.open.entry(kind(duty)).or_default().add(age(&duty.since));
            if let Some((since, tries)) = settling(duty, settler) {
                now.settling.entry(kind(duty)).or_default().add(since);
                now.tries = now.tries.max(tries);
            }
        }
        now
    }
}

/// How long a duty is being settled, and how often it was tried.
pub(crate) fn settling(duty: &Duty, settler: &Settler) -> Option<(Duration, u32)> {
    let (since, tries) = settler.progress(duty.id)?;
    // The clock of what an earlier run left does not begin anew with each start.
    let since = if settler.is_inherited(duty.id) { since.max(age(&duty.since)) } else { since };
    Some((since, tries))
}

/// A time that can't be read, or that is yet to come, is now.
pub(crate) fn age(since: &str) -> Duration {
    let since: Option<Timestamp> = since.parse().ok();
    since.and_then(|since| Duration::try_from(Timestamp::now().duration_since(since)).ok()).unwrap_or_default()
}

type ByKind = Family<Labels<1>, Gauge>;

pub(super) struct Gauges {
    open: ByKind,
    oldest: ByKind,
    settling: ByKind,
    settling_oldest: ByKind,
    tries: Gauge,
    late: Gauge,
    jobs: Gauge,
    sessions: Gauge,
    draining: Gauge,
    serving: Gauge,
    nfc: Family<[(&'static str, String); 1], Gauge>,
}

impl Gauges {
    pub(super) fn register(to: &mut Registry) -> Self {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        to.register("build", "The agent", build);
        let mut by_kind = |name: &str, help: &str, unit: Option<Unit>| {
            let family = ByKind::default();
            match unit {
                Some(unit) => to.register_with_unit(name, help, unit, family.clone()),
                None => to.register(name, help, family.clone()),
            }
            family
        };
        let open = by_kind("duties_open", "What is owed to vSphere, by kind; what runs uses some of it", None);
        let oldest = by_kind("duty_oldest", "Age of the oldest duty, by kind", Some(Unit::Seconds));
        let settling =
            by_kind("duties_settling", "Duties that nothing uses any more and that are not yet retired", None);
        let help = "How long the oldest of them is being settled: the one to be woken for";
        let settling_oldest = by_kind("duty_settling_oldest", help, Some(Unit::Seconds));
        let nfc = Family::default();
        let help = "Connections to hosts through VDDK, by the host's managed object id; a host without any is absent";
        to.register("nfc_connections", help, nfc.clone());
        let mut one = |name: &str, help: &str| {
            let gauge = Gauge::default();
            to.register(name, help, gauge.clone());
            gauge
        };
        Self {
            open,
            oldest,
            settling,
            settling_oldest,
            tries: one("duty_tries_max", "Looks at the duty that was tried most often"),
            late: one(
                "late_requests",
                "Requests without an answer, of which nothing was seen, that are still looked for",
            ),
            jobs: one("jobs_running", "Jobs that run or wait"),
            sessions: one("sessions_open", "Open sessions of controllers; jobs are not among them"),
            draining: one("draining", "1: no new work is taken"),
            serving: one("serving", "1: the port of the API is open"),
            nfc,
        }
    }

    pub(super) fn set(&self, now: &Snapshot) {
        for kind in KINDS {
            let of = |all: &BTreeMap<&'static str, Kind>| all.get(kind).copied().unwrap_or_default();
            let label = [("kind", kind)];
            for (numbers, oldest, of) in
                [(&self.open, &self.oldest, of(&now.open)), (&self.settling, &self.settling_oldest, of(&now.settling))]
            {
                numbers.get_or_create(&label).set(whole(of.number));
                oldest.get_or_create(&label).set(i64::try_from(of.oldest.as_secs()).unwrap_or(i64::MAX));
            }
        }
        self.tries.set(now.tries.into());
        self.late.set(whole(now.late));
        self.jobs.set(whole(now.jobs));
        self.sessions.set(whole(now.sessions));
        self.draining.set(now.draining.into());
        self.serving.set(now.serving.into());
        self.nfc.clear();
        for (host, connections) in now.nfc.iter().take(HOSTS) {
            self.nfc.get_or_create(&[("host", host.to_string())]).set((*connections).into());
        }
    }
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
