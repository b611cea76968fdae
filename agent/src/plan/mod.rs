//! How each disk may be read, and why: pure functions over facts. Per disk, never per VM.
//!
//! ```text
//! facts (one read of vCenter) ─▶ every rule of the table ─▶ verdicts ─▶ per disk: HotAdd │ the next transport │ refused
//! ```
//! [`facts`] is what rules see, [`rule`] what a rule is, [`rules`] the table, [`rates`] what was measured at this site,
//! [`faults`] what a refused attach means for the next step, [`explain`] the same as the API shows it. A fact that could
//! not be read is unknown, never fine: its rule says so, and binds only where going on could do harm.
pub mod explain;
pub mod facts;
pub mod faults;
pub mod rates;
pub mod rule;
pub mod rules;

use std::{fmt, path::Path};

use hotadd_api::v1;

pub use self::faults::{After, after_fault};
use self::{
    facts::{Build, DiskView, Fact, Facts, PlanFacts, Tries},
    rates::{RateBook, Rates},
    rule::{Effect, Rule, Verdict},
    rules::RULES,
};
use crate::{
    attach::Wanted,
    config::{Policy, TryVddk},
    error::Error,
    hypervisor::TargetDisk,
    id::DiskUuid,
    journal::history::TryOutcome,
};

/// A way to a disk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    HotAdd,
    Nbd,
    San,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HotAdd => "HotAdd",
            Self::Nbd => "NBD",
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

/// The decision for one disk.
#[derive(Debug)]
pub struct Decision {
    pub disk: TargetDisk,
    /// To be read of it.
    pub bytes: u64,
    /// Every rule that spoke, in the table's order.
    pub spoken: Vec<Spoken>,
    /// Empty: HotAdd. Otherwise every rule that speaks against it.
    pub refusals: Vec<Error>,
    /// Rules that are tried against by attaching it.
    pub tries: Vec<&'static Rule>,
}

impl Decision {
    #[must_use]
    pub fn is_hotadd(&self) -> bool {
        self.effect() == Effect::None
    }

    /// The strongest effect.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.spoken.iter().map(|spoken| spoken.effect).max().unwrap_or(Effect::None)
    }

    /// Whether another transport than HotAdd may take it, and should if there is one.
    #[must_use]
    pub fn wants_next(&self) -> bool {
        self.effect() == Effect::NoHotAdd || (self.is_hotadd() && self.preferred() == Some(Transport::Nbd))
    }

    /// The transport that a rule prefers; a limit of NBD outweighs its price.
    #[must_use]
    pub fn preferred(&self) -> Option<Transport> {
        let mut wishes = self.spoken.iter().filter_map(|spoken| match spoken.verdict {
            Verdict::Prefer(transport, _) => Some(transport),
            _ => None,
        });
        let first = wishes.next()?;
        if wishes.any(|other| other == Transport::HotAdd) { Some(Transport::HotAdd) } else { Some(first) }
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
    let refusals: Vec<Error> =
        spoken.iter().filter(|s| s.effect != Effect::None).map(|spoken| spoken.to_error(label)).collect();
    if !refusals.is_empty() {
        tries.clear();
    }
    Decision { disk: disk.disk.clone(), bytes, spoken, refusals, tries }
}

/// With `try = once`, a limit that only VDDK is known to have is tried against, unless that failed here before. A try
/// whose end is not known counts as failed.
fn lift(rule: &Rule, verdict: Verdict, facts: &Facts<'_>, policy: &Policy) -> (Verdict, bool) {
    let Verdict::NoHotAdd(text) = verdict else { return (verdict, false) };
    if !rule.may_try || policy.try_vddk == TryVddk::Never {
        return (Verdict::NoHotAdd(text), false);
    }
    match facts.tries.get(rule.id()) {
        None => (Verdict::Warn(format!("{text}; HotAdd is tried once all the same (plan.try)")), true),
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
    let transport = if decision.is_hotadd() { v1::Transport::Hotadd } else { v1::Transport::Unspecified };
    let reasons = if decision.is_hotadd() {
        let remark = |s: &&Spoken| matches!(s.verdict, Verdict::Warn(_) | Verdict::Hold(_));
        decision.spoken.iter().filter(remark).map(|s| s.to_error(&decision.disk.label).to_reason()).collect()
    } else {
        decision.refusals.iter().map(Error::to_reason).collect()
    };
    v1::DiskPlan { disk: Some(facts_to_api(&decision.disk)), transport: transport.into(), reasons }
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
