//! The table `[pace]`: how fast disks may be read. No limits by default. What they do is in [`crate::transport::throttle`].
use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use crate::transport::throttle::{Rate, Rates, Scope};

/// The smallest rate: one block of the smallest size in a second.
const LEAST_BYTES: u64 = 64 << 10;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPace {
    agent: RawRate,
    disk: RawRate,
    datastores: BTreeMap<String, RawRate>,
}

/// 0: no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRate {
    bytes_per_second: u64,
    reads_per_second: u64,
    latency_ms: f64,
}

impl RawPace {
    pub(super) fn check(&self, faults: &mut Vec<String>) -> Rates {
        let mut rates = Rates::new();
        let stores = self.datastores.iter().map(|(name, raw)| (Scope::Datastore(name.clone()), raw));
        for (scope, raw) in [(Scope::Agent, &self.agent), (Scope::Disk, &self.disk)].into_iter().chain(stores) {
            match raw.rate(&scope) {
                Ok(rate) if rate == Rate::default() => {}
                Ok(rate) => drop(rates.insert(scope, rate)),
                Err(fault) => faults.push(format!("pace.{scope}.{fault}")),
            }
        }
        rates
    }
}

impl RawRate {
    fn rate(&self, scope: &Scope) -> Result<Rate, String> {
        if !(self.latency_ms == 0.0 || (0.1..=60_000.0).contains(&self.latency_ms)) {
            return Err(format!("latency_ms: {} is not between 0.1 and 60000", self.latency_ms));
        }
        let latency = (self.latency_ms > 0.0).then(|| Duration::from_secs_f64(self.latency_ms / 1000.0));
        let above_zero = |value: u64| (value > 0).then_some(value);
        let rate = Rate {
            bytes_per_second: above_zero(self.bytes_per_second),
            reads_per_second: above_zero(self.reads_per_second),
            latency,
        };
        rate.checked(scope)
    }
}

impl Rate {
    /// # Errors
    /// Key and fault of a limit that nothing could be read under, or that its scope does not have.
    pub fn checked(self, scope: &Scope) -> Result<Self, String> {
        if let Some(bytes) = self.bytes_per_second.filter(|bytes| *bytes < LEAST_BYTES) {
            return Err(format!("bytes_per_second: {bytes} is less than {LEAST_BYTES}"));
        }
        if *scope == Scope::Agent && self.latency.is_some() {
            return Err("latency_ms: is of disks and datastores".to_owned());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Rates, Vec<String>) {
        let raw: RawPace = toml::from_str(text).unwrap();
        let mut faults = Vec::new();
        (raw.check(&mut faults), faults)
    }

    #[test]
    fn no_limits_by_default_and_each_where_it_is_named() {
        assert_eq!(parsed(""), (Rates::new(), vec![]));
        let (rates, faults) = parsed(
            "agent.bytes_per_second = 100000000\n[datastores.'ds 1']\nlatency_ms = 2.5\n[disk]\nreads_per_second = 50",
        );
        assert_eq!(faults, [""; 0]);
        let slow = Rate { latency: Some(Duration::from_micros(2500)), ..Rate::default() };
        assert_eq!(rates[&Scope::Datastore("ds 1".into())], slow);
        assert_eq!(
            (rates[&Scope::Agent].bytes_per_second, rates[&Scope::Disk].reads_per_second),
            (Some(100_000_000), Some(50))
        );
    }

    #[test]
    fn what_can_not_be_kept_is_a_fault_with_its_key() {
        let wrong = [
            ("[agent]\nbytes_per_second = 1000", "pace.agent.bytes_per_second: 1000"),
            ("[agent]\nlatency_ms = 5", "pace.agent.latency_ms:"),
            ("[disk]\nlatency_ms = -1", "pace.disk.latency_ms:"),
            ("[datastores.x]\nlatency_ms = 0.01", "pace.datastores.x.latency_ms:"),
        ];
        for (text, fault) in wrong {
            let (_, faults) = parsed(text);
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{text}: {faults:?}");
        }
        assert!(toml::from_str::<RawPace>("[disk]\nmib = 1").is_err());
    }
}
