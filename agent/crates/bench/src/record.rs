//! One comparison as it is kept and shown: two sides in one unit, their ratio, and what was wished of it.
use serde::{Deserialize, Serialize};

use crate::stats::{median, spread};

/// Above this a ratio says little: whatever it is, it may be chance.
pub const NOISE: f64 = 0.30;

/// What a ratio should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    #[must_use]
    pub fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }

    /// Whether `now` is worse than `before` by more than `share` of it.
    #[must_use]
    pub fn worse(self, now: f64, before: f64, share: f64) -> bool {
        match self {
            Self::AtLeast(_) => now < before * (1.0 - share),
            Self::AtMost(_) => now > before * (1.0 + share),
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Failed,
    /// The rounds of one side differ by more than [`NOISE`].
    Inconclusive,
}

impl Verdict {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// One side of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    pub name: String,
    /// As it was run; empty: in the benchmark's own process.
    pub command: String,
    /// Median of the rounds, in the record's unit.
    pub value: f64,
    /// (greatest − least) / median of the rounds.
    pub spread: f64,
    /// User and system seconds of all processes of this side, per 10⁹ bytes; median.
    pub cpu_s_per_gb: Option<f64>,
}

impl Side {
    #[must_use]
    pub fn of(name: impl Into<String>, command: impl Into<String>, values: &[f64]) -> Self {
        let (value, spread) = (rounded(median(values)), rounded(spread(values)));
        Self { name: name.into(), command: command.into(), value, spread, cpu_s_per_gb: None }
    }

    #[must_use]
    pub fn with_cpu(mut self, seconds_per_gb: &[f64]) -> Self {
        self.cpu_s_per_gb = Some(rounded(median(seconds_per_gb)));
        self
    }
}

/// Where the time of a transfer went, as shares of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    pub source: f64,
    pub agent: f64,
    pub outlet: f64,
    pub paced: f64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub part: String,
    pub name: String,
    pub unit: String,
    pub ours: Side,
    pub peer: Side,
    /// Our value divided by the peer's.
    pub ratio: f64,
    pub goal: Option<Goal>,
    pub verdict: Option<Verdict>,
    pub rounds: usize,
    /// Of each round.
    pub bytes: u64,
    /// What bounds both sides, in the record's unit, and its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<(String, f64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Stages>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Record {
    #[must_use]
    pub fn new(part: &str, unit: &str, (ours, peer): (Side, Side), goal: Option<Goal>, rounds: usize) -> Self {
        let ratio = rounded(ours.value / peer.value);
        let noisy = ours.spread > NOISE || peer.spread > NOISE;
        let verdict = goal.map(|goal| match goal.met(ratio) {
            _ if noisy || !ratio.is_finite() => Verdict::Inconclusive,
            true => Verdict::Passed,
            false => Verdict::Failed,
        });
        Self {
            part: part.to_owned(),
            name: ours.name.clone(),
            unit: unit.to_owned(),
            ours,
            peer,
            ratio,
            goal,
            verdict,
            rounds,
            bytes: 0,
            bound: None,
            stages: None,
            note: String::new(),
        }
    }

    /// Whether `other` measured the same.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        (&self.part, &self.name, &self.peer.name, &self.unit)
            == (&other.part, &other.name, &other.peer.name, &other.unit)
    }
}

/// Three decimals: more would be noise.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ours: &[f64], theirs: &[f64], goal: Goal) -> Record {
        Record::new("p", "MB/s", (Side::of("a", "", ours), Side::of("b", "", theirs)), Some(goal), ours.len())
    }

    #[test]
    fn a_goal_is_met_missed_or_not_to_be_told() {
        let judge = |ours: &[f64], theirs: &[f64], goal| record(ours, theirs, goal).verdict;
        assert_eq!(judge(&[10.0, 11.0], &[10.0, 10.0], Goal::AtLeast(1.0)), Some(Verdict::Passed));
        assert_eq!(judge(&[9.0, 9.0], &[10.0, 10.0], Goal::AtLeast(1.0)), Some(Verdict::Failed));
        assert_eq!(judge(&[9.0, 9.0], &[10.0, 10.0], Goal::AtMost(1.0)), Some(Verdict::Passed));
        assert_eq!(judge(&[20.0, 30.0], &[10.0, 10.0], Goal::AtLeast(1.0)), Some(Verdict::Inconclusive));
        assert_eq!(judge(&[20.0, 20.0], &[10.0, 14.0], Goal::AtLeast(1.0)), Some(Verdict::Inconclusive));
        assert_eq!(judge(&[20.0], &[0.0], Goal::AtLeast(1.0)), Some(Verdict::Inconclusive));
    }

    #[test]
    fn worse_goes_by_the_direction_of_the_goal() {
        assert!(Goal::AtLeast(1.0).worse(0.89, 1.0, 0.1) && !Goal::AtLeast(1.0).worse(0.91, 1.0, 0.1));
        assert!(Goal::AtMost(1.0).worse(1.11, 1.0, 0.1) && !Goal::AtMost(1.0).worse(0.5, 1.0, 0.1));
    }

    #[test]
    fn what_is_kept_can_be_read_again() {
        let mut kept = record(&[10.0, 11.0], &[10.0, 10.0], Goal::AtLeast(1.0));
        kept.bound = Some(("threads".into(), 12.5));
        kept.stages = Some(Stages { source: 0.5, ..Stages::default() });
        let text = serde_json::to_string(&kept).unwrap();
        let again: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(again, kept);
        assert!(again.is(&record(&[1.0], &[2.0], Goal::AtMost(3.0))));
    }
}
