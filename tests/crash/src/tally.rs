//! What a campaign counts, and its last line.
use std::{collections::BTreeMap, time::Duration};

use crate::round::Report;

/// Of 100 acts at most this many may miss their moment: a campaign that does not play its faults proves nothing.
const MISSED_PERCENT: u64 = 5;
/// Below this many acts a share says nothing.
const MISSED_FROM: u64 = 100;

/// Sums over all rounds.
#[derive(Debug, Default)]
pub struct Tally {
    pub rounds: u64,
    pub failed: u64,
    pub kills: u64,
    pub faults: u64,
    pub missed: u64,
    /// How often, and in which round first.
    misses: BTreeMap<String, (u64, u64)>,
    pub ok: u64,
    pub exits: u64,
    attached: usize,
    snapshots: usize,
    methods: usize,
    foreign: usize,
    false_ok: usize,
    spent: [Duration; 3],
    confirmed: Vec<Duration>,
    unconfirmed: Vec<Duration>,
}

impl Tally {
    pub fn add(&mut self, number: u64, report: &Report) {
        self.rounds += 1;
        self.failed += u64::from(!report.verdict.is_clean());
        self.kills += report.kills;
        self.faults += report.done;
        self.missed += report.missed.len() as u64;
        for kind in &report.missed {
            self.misses.entry(kind.clone()).or_insert((0, number)).0 += 1;
        }
        self.ok += u64::from(report.ok);
        self.attached += report.verdict.attached.len();
        self.snapshots += report.verdict.snapshots.len();
        self.methods += report.verdict.methods.len();
        self.foreign += report.verdict.foreign.len();
        self.false_ok += report.verdict.false_ok.len();
        self.spent.iter_mut().zip(report.spent).for_each(|(sum, one)| *sum += one);
        if let Some(settling) = report.settling {
            let list = if settling.unconfirmed { &mut self.unconfirmed } else { &mut self.confirmed };
            list.push(settling.took);
        }
    }

    /// Moments of which kind did not come, the most frequent first; one line each.
    #[must_use]
    pub fn misses(&self) -> String {
        let mut all: Vec<_> = self.misses.iter().collect();
        all.sort_by_key(|(what, (times, _))| (std::cmp::Reverse(*times), (*what).clone()));
        all.iter().map(|(what, (times, first))| format!("missed {times:4} {what} (round {first})\n")).collect()
    }

    /// Whether so many moments did not come that the campaign has rotted.
    #[must_use]
    pub fn misses_too_many(&self) -> bool {
        let acts = self.faults + self.missed;
        acts >= MISSED_FROM && self.missed * 100 > acts * MISSED_PERCENT
    }

    /// Nothing left, nothing touched, nothing told wrongly, every round played and nearly every fault done.
    #[must_use]
    pub fn is_clean(&self, asked: u64) -> bool {
        let left = self.attached + self.snapshots + self.methods + self.foreign + self.false_ok;
        self.failed == 0 && left == 0 && self.rounds == asked && !self.misses_too_many()
    }

    /// Where the time of a round goes, on average.
    #[must_use]
    pub fn times(&self) -> String {
        let settling: Duration = self.confirmed.iter().chain(&self.unconfirmed).sum();
        let [acts, linger, end] = self.spent;
        let mean = |sum: Duration| sum.as_millis() / u128::from(self.rounds.max(1));
        format!(
            "a round: {} ms to the last act, {} ms lingering, {} ms to the controller's end, {} ms settling",
            mean(acts),
            mean(linger),
            mean(end),
            mean(settling)
        )
    }

    /// The last line of a campaign.
    #[must_use]
    pub fn line(&self, scale: f64, seed: u64, took: Duration) -> String {
        format!(
            "crash: rounds={} kills={} faults={} left_attached={} snapshots_left={} methods_left={} foreign_touched={} \
             false_ok={} settle_p99_s={:.2} unconfirmed_p99_s={:.2} failed={} missed={} jobs_ok={} exits={} \
             scale={scale} seed={seed} seconds={}",
            self.rounds,
            self.kills,
            self.faults,
            self.attached,
            self.snapshots,
            self.methods,
            self.foreign,
            self.false_ok,
            p99(&self.confirmed),
            p99(&self.unconfirmed),
            self.failed,
            self.missed,
            self.ok,
            self.exits,
            took.as_secs(),
        )
    }
}

/// Of 100 values 99 are at most this; seconds. 0 without a value.
fn p99(values: &[Duration]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort();
    let at = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(0.0, Duration::as_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_100_is_told() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_secs).collect();
        assert!((p99(&values) - 99.0).abs() < 0.01);
        assert!((p99(&values[..1]) - 1.0).abs() < 0.01);
    }

    #[test]
    fn a_campaign_that_ended_early_is_not_clean() {
        let mut tally = Tally::default();
        tally.add(0, &Report::default());
        assert!(tally.is_clean(1) && !tally.is_clean(2));
        let mut bad = Report::default();
        bad.verdict.other.push("something".into());
        tally.add(1, &bad);
        assert!(!tally.is_clean(2));
        assert!(tally.line(0.02, 1, Duration::ZERO).starts_with("crash: rounds=2 kills=0 faults=0 left_attached=0 "));
    }

    #[test]
    fn a_campaign_that_misses_too_many_moments_is_not_clean() {
        let mut tally = Tally::default();
        let missed = Report { missed: vec!["Kill Before Open Job".into()], ..Report::default() };
        let done = Report { done: 1, ..Report::default() };
        (0..95).for_each(|_| tally.add(0, &done));
        (0..5).for_each(|_| tally.add(0, &missed));
        assert!(tally.is_clean(100), "5 of 100");
        tally.add(0, &missed);
        assert!(!tally.is_clean(101), "6 of 101");
        assert!(tally.misses().starts_with("missed    6 "), "{}", tally.misses());
    }
}
