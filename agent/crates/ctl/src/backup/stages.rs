//! Where the time of one disk went: the agent tells its part, what of the rest was ours is measured here. Pure but for the
//! clock of who calls.
//!
//! ```text
//! agent:  source │ agent │ paced │       outlet: waited for room in the stream
//! here:                          │ network = the rest of it │ target = waited for the writers of this machine
//! ```
//! One stream brings all disks, so that a writer which is slow holds up the frames of every disk that is open.
use std::time::Duration;

use hotadd_api::v1::Stages;
use serde_json::{Value, json};

/// Of one disk, over all jobs of this run.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    /// Told at the end, or until the break, of jobs before this one.
    earlier: Stages,
    /// Of this job's openings before the one of now.
    before: Stages,
    now: Stages,
    target: Duration,
    told: bool,
}

impl Shares {
    /// What was told of the opening of now.
    pub(super) fn progress(&mut self, stages: Option<Stages>) {
        self.told |= stages.is_some();
        self.now = stages.unwrap_or(self.now);
    }

    pub(super) fn opened_again(&mut self) {
        self.before = sum(&self.before, &std::mem::take(&mut self.now));
    }

    /// The job is over; another goes on with this disk.
    pub(super) fn job_broke(&mut self) {
        self.opened_again();
        self.earlier = sum(&self.earlier, &std::mem::take(&mut self.before));
    }

    /// What was told of the whole of this job.
    pub(super) fn end(&mut self, stages: Option<Stages>) {
        if let Some(stages) = stages {
            (self.before, self.now, self.told) = (Stages::default(), stages, true);
        }
    }

    pub(super) fn waited_for_target(&mut self, time: Duration) {
        self.target += time;
    }

    /// By name, microseconds, in the order of the way that the bytes take.
    fn parts(&self) -> [(&'static str, u64); 5] {
        let all = sum(&self.earlier, &sum(&self.before, &self.now));
        let target = u64::try_from(self.target.as_micros()).unwrap_or(u64::MAX).min(all.outlet_us);
        let network = all.outlet_us - target;
        [
            ("source", all.source_us),
            ("agent", all.agent_us),
            ("network", network),
            ("target", target),
            ("paced", all.paced_us),
        ]
    }

    /// "source 71 %, agent 12 %, network 14 %, target 3 %"; `None`: the agent does not tell.
    pub(super) fn line(&self) -> Option<String> {
        let parts = self.parts();
        let total: u128 = parts.iter().map(|(_, us)| u128::from(*us)).sum();
        if !self.told || total == 0 {
            return None;
        }
        let told = parts.iter().filter(|(name, us)| *name != "paced" || *us > 0);
        let told: Vec<_> =
            told.map(|(name, us)| format!("{name} {} %", (u128::from(*us) * 100 + total / 2) / total)).collect();
        Some(told.join(", "))
    }

    pub(super) fn json(&self) -> Value {
        if !self.told {
            return Value::Null;
        }
        self.parts()
            .iter()
            .map(|(name, us)| (format!("{name}_us"), json!(us)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

fn sum(one: &Stages, other: &Stages) -> Stages {
    Stages {
        source_us: one.source_us.saturating_add(other.source_us),
        agent_us: one.agent_us.saturating_add(other.agent_us),
        outlet_us: one.outlet_us.saturating_add(other.outlet_us),
        paced_us: one.paced_us.saturating_add(other.paced_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(source_us: u64, agent_us: u64, outlet_us: u64) -> Option<Stages> {
        Some(Stages { source_us, agent_us, outlet_us, paced_us: 0 })
    }

    #[test]
    fn the_outlet_is_parted_between_network_and_target() {
        let mut shares = Shares::default();
        shares.waited_for_target(Duration::from_micros(30));
        assert_eq!((shares.line(), shares.json()), (None, Value::Null), "nothing was told yet");
        shares.progress(stages(710, 120, 170));
        assert_eq!(shares.line().unwrap(), "source 71 %, agent 12 %, network 14 %, target 3 %");
        assert_eq!((shares.json()["network_us"].as_u64(), shares.json()["target_us"].as_u64()), (Some(140), Some(30)));
        shares.waited_for_target(Duration::from_secs(9));
        assert_eq!(
            shares.line().unwrap(),
            "source 71 %, agent 12 %, network 0 %, target 17 %",
            "never more than was waited"
        );
        shares.end(Some(Stages { paced_us: 1000, ..stages(710, 120, 170).unwrap() }));
        assert!(shares.line().unwrap().ends_with(", paced 50 %"));
    }

    #[test]
    fn openings_and_jobs_add_up_and_the_end_holds_for_its_job() {
        let mut shares = Shares::default();
        shares.progress(stages(1, 0, 0));
        shares.progress(stages(2, 0, 0));
        shares.opened_again();
        shares.progress(stages(3, 0, 0));
        assert_eq!(shares.json()["source_us"].as_u64(), Some(5));
        shares.job_broke();
        shares.progress(stages(10, 0, 0));
        shares.opened_again();
        shares.progress(stages(20, 0, 0));
        assert_eq!(shares.json()["source_us"].as_u64(), Some(35));
        shares.end(stages(100, 0, 0));
        assert_eq!(shares.json()["source_us"].as_u64(), Some(105));
    }
}
