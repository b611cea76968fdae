//! How each disk may be read, and why: pure functions over facts. Per disk, never per VM.
//!
//! ```text
//! facts (one read of vCenter) ─▶ every rule of the table ─▶ verdicts ─▶ per disk: HotAdd │ the next transport │ refused
//! ```
//! [`facts`] is what rules see, [`rule`] what a rule is, [`rules`] the table, [`rates`] what was measured at this site,
//! [`faults`] what a refused attach means for the next step, [`explain`] the same as the API shows it, [`refusal()`] what a refused
//! request is told. A fact that could
//! not be read is unknown, never fine: its rule says so, and binds only where going on could do harm.
pub mod explain;
pub mod facts;
pub mod faults;
pub mod rates;
mod refusal;
pub mod rule;
pub mod rules;

use std::{collections::BTreeSet, fmt, path::Path, time::Duration};

use hotadd_api::v1;

use self::{
    facts::{Build, DiskView, Fact, Facts, PlanFacts, Tries},
    rates::{RateBook, Rates},
    rule::{Effect, Rule, Verdict},
    rules::RULES,
};
pub use self::{
    faults::{After, after_fault},
    refusal::refusal,
};
use crate::{
    attach::Wanted,
    config::{Policy, TryVddk},
    error::Error,
    hypervisor::TargetDisk,
    id::DiskUuid,
    journal::history::TryOutcome,
    reason,
};

/// A way to a disk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    HotAdd,
    Nbd,
    /// The snapshot's export lease.
    Export,
    San,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HotAdd => "HotAdd",
            Self::Nbd => "NBD",
            Self::Export => "export",
            Self::San => "SAN",
        })
    }
}

/// What the agent plans with, for its whole life.
#[derive(Debug)]
pub struct Planner {
    pub policy: Policy,
    pub rates: RateBook,
}

impl Planner {
    #[must_use]
    pub fn new(policy: Policy, state_dir: &Path) -> Self {
        Self { policy, rates: RateBook::open(state_dir) }
    }
}

/// What is asked, and what this agent knows besides vCenter.
#[derive(Debug)]
pub struct Question<'a> {
    pub policy: &'a Policy,
    /// Free units of the proxy.
    pub room: Fact<usize>,
    pub asked: Option<Transport>,
    /// Keys of disks that an NBD server has.
    pub nbd: &'a BTreeSet<i32>,
    /// How long a disk may be exported; `None`: it may not.
    pub export: Option<Duration>,
    pub tries: &'a Tries,
    pub rates: &'a Rates,
    /// Bytes to be read of each disk; `None`: all.
    pub bytes: Option<u64>,
    pub vddk: Option<Build>,
}

/// A rule that spoke.
#[derive(Debug, Clone)]
pub struct Spoken {
    pub rule: &'static Rule,
    pub verdict: Verdict,
    pub effect: Effect,
}

impl Spoken {
    /// As an error about a disk.
    #[must_use]
    pub fn to_error(&self, label: &str) -> Error {
        Error::new(self.rule.reason, format!("{label}: {}", self.verdict.text().unwrap_or_default()))
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    HotAdd,
    Nbd,
    Export,
    Refused,
}

/// The decision for one disk.
#[derive(Debug)]
pub struct Decision {
    pub disk: TargetDisk,
    /// To be read of it.
    pub bytes: u64,
    /// Every rule that spoke, in the table's order.
    pub spoken: Vec<Spoken>,
    pub route: Route,
    /// A server has it, and no rule or wish forbids that.
    pub may_nbd: bool,
    /// It may be exported, and no rule or wish forbids that.
    pub may_export: bool,
    /// Everything that speaks against HotAdd.
    pub refusals: Vec<Error>,
    /// Rules that are tried against by attaching it.
    pub tries: Vec<&'static Rule>,
}

impl Decision {
    #[must_use]
    pub fn is_hotadd(&self) -> bool {
        self.route == Route::HotAdd
    }

    /// The transport that a rule prefers.
    #[must_use]
    pub fn preferred(&self) -> Option<Transport> {
        preferred(&self.spoken)
    }

    /// NBD would bring a disk that is refused, if it had it.
    #[must_use]
    pub fn lacks_nbd(&self, asked: Option<Transport>) -> bool {
        let helps =
            matches!(asked, None | Some(Transport::Nbd)) && self.spoken.iter().all(|s| s.effect != Effect::Refuse);
        self.route == Route::Refused && helps && !self.may_nbd
    }

    /// An export would bring a disk that is refused, if it were possible.
    #[must_use]
    pub fn lacks_export(&self, asked: Option<Transport>) -> bool {
        let helps =
            matches!(asked, None | Some(Transport::Export)) && self.spoken.iter().all(|s| s.effect != Effect::Refuse);
        self.route == Route::Refused && helps && !self.may_export
    }

    /// What to attach, if nothing refuses it.
    #[must_use]
    pub fn wanted(&self) -> Option<Wanted> {
        let uuid: DiskUuid = self.disk.uuid.filter(|_| self.is_hotadd())?;
        Some(Wanted { disk: self.disk.clone(), uuid })
    }
}

/// Decides for every disk; each that gets HotAdd takes one of the free units.
#[must_use]
pub fn decide(facts: &PlanFacts, question: &Question<'_>) -> Vec<Decision> {
    let mut room = question.room.clone();
    let mut decisions = Vec::new();
    for disk in &facts.disks {
        let decision = decide_one(facts, disk, &room, question);
        if let (Fact::Known(units), true) = (&mut room, decision.is_hotadd()) {
            *units = units.saturating_sub(1);
        }
        decisions.push(decision);
    }
    decisions
}

fn decide_one(facts: &PlanFacts, disk: &DiskView, room: &Fact<usize>, question: &Question<'_>) -> Decision {
    let capacity = disk.disk.capacity_bytes;
    let bytes = question.bytes.map_or(capacity, |bytes| bytes.min(capacity));
    let seen = Facts {
        site: &facts.site,
        proxy: &facts.proxy,
        target: &facts.target,
        disk,
        room,
        asked: question.asked,
        tries: question.tries,
        rates: question.rates,
        bytes,
        vddk: question.vddk,
    };
    let mut spoken = Vec::new();
    let mut tries = Vec::new();
    for rule in RULES {
        let (verdict, tried) = lift(rule, (rule.decide)(&seen, question.policy), &seen, question.policy);
        tries.extend(tried.then_some(rule));
        if verdict != Verdict::Silent {
            spoken.push(Spoken { rule, effect: rule.effect(&verdict), verdict });
        }
    }
    let label = &disk.disk.label;
    let mut refusals: Vec<Error> =
        spoken.iter().filter(|s| s.effect != Effect::None).map(|spoken| spoken.to_error(label)).collect();
    let has_nbd = question.nbd.contains(&disk.disk.device_key);
    let (may_export, too_long) = may_export(disk, question, capacity);
    let route = route(&spoken, question.asked, has_nbd, may_export);
    if route == Route::Refused && question.asked == Some(Transport::Nbd) && !has_nbd {
        refusals.push(Error::new(&reason::NBD_NONE, label.clone()));
    }
    if route == Route::Refused && spoken.iter().all(|s| s.effect != Effect::Refuse) {
        refusals.extend(too_long);
        if question.asked == Some(Transport::Export) && question.export.is_none() {
            refusals.push(Error::new(&reason::EXP_OFF, label.clone()));
        }
    }
    if route != Route::HotAdd {
        tries.clear();
    }
    let may_nbd = has_nbd && matches!(question.asked, None | Some(Transport::Nbd));
    Decision { disk: disk.disk.clone(), bytes, spoken, route, may_nbd, may_export, refusals, tries }
}

/// Whether a disk may be exported, and why not if that is for its length alone. vSphere exports no encrypted VM; an export is
/// of the whole disk.
fn may_export(disk: &DiskView, question: &Question<'_>, capacity: u64) -> (bool, Option<Error>) {
    let wanted = matches!(question.asked, None | Some(Transport::Export));
    let Some(most) = question.export.filter(|_| wanted && !disk.encrypted) else { return (false, None) };
    match question.rates.export_seconds(capacity) {
        Some(seconds) if seconds > most.as_secs_f64() => {
            let (label, hours) = (&disk.disk.label, seconds / 3600.0);
            (false, Some(Error::new(&reason::EXP_LONG, format!("{label}: {hours:.1} hours are expected"))))
        }
        _ => (true, None),
    }
}

/// A limit of NBD outweighs its price.
fn preferred(spoken: &[Spoken]) -> Option<Transport> {
    let mut wishes = spoken.iter().filter_map(|spoken| match spoken.verdict {
        Verdict::Prefer(transport, _) => Some(transport),
        _ => None,
    });
    let first = wishes.next()?;
    if wishes.any(|other| other == Transport::HotAdd) { Some(Transport::HotAdd) } else { Some(first) }
}

/// The strongest effect decides, then what was asked, then what is better.
fn route(spoken: &[Spoken], asked: Option<Transport>, has_nbd: bool, may_export: bool) -> Route {
    let effect = spoken.iter().map(|spoken| spoken.effect).max().unwrap_or(Effect::None);
    let may_nbd = has_nbd && matches!(asked, None | Some(Transport::Nbd));
    match (effect, asked) {
        (Effect::Refuse, _) => Route::Refused,
        (Effect::NoHotAdd, _) | (Effect::None, Some(Transport::Nbd)) if may_nbd => Route::Nbd,
        (Effect::NoHotAdd, _) | (Effect::None, Some(Transport::Export)) if may_export => Route::Export,
        (Effect::NoHotAdd, _) | (Effect::None, Some(Transport::Nbd | Transport::Export)) => Route::Refused,
        (Effect::None, _) if may_nbd && preferred(spoken) == Some(Transport::Nbd) => Route::Nbd,
        (Effect::None, _) => Route::HotAdd,
    }
}

/// With `try = once`, a limit that only VDDK is known to have is tried against, unless that failed here before. A try
/// whose end is not known counts as failed.
fn lift(rule: &Rule, verdict: Verdict, facts: &Facts<'_>, policy: &Policy) -> (Verdict, bool) {
    let Verdict::NoHotAdd(text) = verdict else { return (verdict, false) };
    if !rule.may_try || policy.try_vddk == TryVddk::Never {
        return (Verdict::NoHotAdd(text), false);
    }
    match facts.tries.get(rule.id()) {
        None | Some(TryOutcome::Withdrawn) => {
            (Verdict::Warn(format!("{text}; HotAdd is tried once all the same (plan.try)")), true)
        }
        Some(TryOutcome::Worked) => (Verdict::Warn(format!("{text}; HotAdd was tried here and worked")), false),
        Some(TryOutcome::Failed { why }) => {
            (Verdict::NoHotAdd(format!("{text}; HotAdd was tried here and failed: {why}")), false)
        }
        Some(TryOutcome::Begun | TryOutcome::Unknown) => {
            (Verdict::NoHotAdd(format!("{text}; HotAdd was tried here, and how that ended is not known")), false)
        }
    }
}

/// The decision as the API shows it: why not, or remarks.
#[must_use]
pub fn to_api(decision: &Decision) -> v1::DiskPlan {
    let transport = route_to_api(decision.route);
    let reasons = if decision.is_hotadd() {
        let remark = |s: &&Spoken| matches!(s.verdict, Verdict::Warn(_) | Verdict::Hold(_));
        decision.spoken.iter().filter(remark).map(|s| s.to_error(&decision.disk.label).to_reason()).collect()
    } else {
        decision.refusals.iter().map(Error::to_reason).collect()
    };
    v1::DiskPlan { disk: Some(facts_to_api(&decision.disk)), transport: transport.into(), reasons }
}

fn route_to_api(route: Route) -> v1::Transport {
    match route {
        Route::HotAdd => v1::Transport::Hotadd,
        Route::Nbd => v1::Transport::Nbd,
        Route::Export => v1::Transport::Export,
        Route::Refused => v1::Transport::Unspecified,
    }
}

#[must_use]
pub fn facts_to_api(disk: &TargetDisk) -> v1::DiskFacts {
    v1::DiskFacts {
        device_key: disk.device_key,
        label: disk.label.clone(),
        backing: disk.backing.to_string(),
        capacity_bytes: disk.capacity_bytes,
        uuid: disk.uuid.map(|u| u.to_string()).unwrap_or_default(),
        change_id: disk.change_id.clone(),
        datastore: disk.datastore_name.clone(),
        controller: disk.place.clone(),
    }
}
