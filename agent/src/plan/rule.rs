//! What a rule is, what it can say, and what follows from that. Pure.
use super::{Transport, facts::Facts};
use crate::{config::Policy, reason::ReasonCode};

/// Where a limit is known from. Limits of VDDK's own way of attaching may not bind a direct attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Vsphere,
    Vddk,
    Inferred,
}

impl Origin {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vsphere => "vsphere",
            Self::Vddk => "vddk",
            Self::Inferred => "inferred",
        }
    }
}

/// What a rule says of a disk, with the facts that it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Silent,
    Warn(String),
    /// The next transport.
    NoHotAdd(String),
    /// No transport at all.
    Refuse(String),
    /// Not now: waiting helps.
    Hold(String),
    /// A fact that it needs could not be read.
    Unknown(String),
    Prefer(Transport, String),
}

impl Verdict {
    /// `None`: silent.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Silent => None,
            Self::Warn(text)
            | Self::NoHotAdd(text)
            | Self::Refuse(text)
            | Self::Hold(text)
            | Self::Unknown(text)
            | Self::Prefer(_, text) => Some(text),
        }
    }
}

/// What follows for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    None,
    NoHotAdd,
    Refuse,
}

/// An entry of the table.
#[derive(Debug)]
pub struct Rule {
    pub reason: &'static ReasonCode,
    /// Names of the facts that it looks at.
    pub facts: &'static [&'static str],
    pub origin: Origin,
    pub source: &'static str,
    pub decide: fn(&Facts<'_>, &Policy) -> Verdict,
    /// `try = once` may lift it.
    pub may_try: bool,
    /// What follows when its facts are unknown: more than nothing only where going on could do harm.
    pub on_unknown: Effect,
}

impl Rule {
    #[must_use]
    pub const fn new(
        reason: &'static ReasonCode,
        origin: Origin,
        source: &'static str,
        facts: &'static [&'static str],
        decide: fn(&Facts<'_>, &Policy) -> Verdict,
    ) -> Self {
        Self { reason, facts, origin, source, decide, may_try: false, on_unknown: Effect::None }
    }

    #[must_use]
    pub const fn may_try(self) -> Self {
        Self { may_try: true, ..self }
    }

    #[must_use]
    pub const fn safety_critical(self, on_unknown: Effect) -> Self {
        Self { on_unknown, ..self }
    }

    /// `HA-PLAN-nnn`.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.reason.code
    }

    #[must_use]
    pub fn effect(&self, verdict: &Verdict) -> Effect {
        match verdict {
            Verdict::NoHotAdd(_) => Effect::NoHotAdd,
            Verdict::Refuse(_) => Effect::Refuse,
            Verdict::Unknown(_) => self.on_unknown,
            Verdict::Silent | Verdict::Warn(_) | Verdict::Hold(_) | Verdict::Prefer(..) => Effect::None,
        }
    }
}

/// The value of a fact; a rule whose fact is unknown says so.
macro_rules! known {
    ($fact:expr, $name:literal) => {
        match &$fact {
            crate::hypervisor::views::Fact::Known(value) => value,
            crate::hypervisor::views::Fact::Unknown(why) => {
                return crate::plan::rule::Verdict::Unknown(format!("{}: {why}", $name))
            }
        }
    };
}
pub(super) use known;
