//! The table `[limits.client]`: what each client of the gRPC port may, counted by its name ([`crate::access`]). The defaults are beyond
//! what a controller needs that sends a whole night to one proxy, and far below what the agent bears.
use serde::Deserialize;

use crate::access::Allowed;

/// What each client may.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientLimits {
    /// At the same time. 512: half of what the port takes of all (`access/incoming.rs`), so that one client leaves room for others. An
    /// address has 256 of its own.
    pub connections: usize,
    pub calls: Allowed,
}

#[cfg(test)]
impl Default for ClientLimits {
    fn default() -> Self {
        RawShares::default().check(&mut Vec::new())
    }
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawShares {
    connections: u64,
    calls: u64,
    calls_per_second: f64,
    burst: u64,
}

/// A proxy's share of 5,000 VMs over 20 proxies is 250 jobs. A controller may send them all at once, each a stream that lasts, read
/// as many disks in sessions (a proxy holds 248) and ask after each every few seconds.
impl Default for RawShares {
    fn default() -> Self {
        Self { connections: 512, calls: 1024, calls_per_second: 200.0, burst: 2000 }
    }
}

impl RawShares {
    /// Checks all; faults are added to `faults`, one line each.
    pub(super) fn check(&self, faults: &mut Vec<String>) -> ClientLimits {
        let mut count = |key: &str, value: u64, high: u32| match u32::try_from(value) {
            Ok(value) if (1..=high).contains(&value) => value,
            _ => {
                faults.push(format!("limits.client.{key}: {value} is not between 1 and {high}"));
                1
            }
        };
        let connections = count("connections", self.connections, 1024);
        let calls = count("calls", self.calls, 100_000);
        let burst = count("burst", self.burst, 1_000_000);
        let (rate, low, high) = (self.calls_per_second, 0.1, 100_000.0);
        if !(low..=high).contains(&rate) {
            faults.push(format!("limits.client.calls_per_second: {rate} is not between {low} and {high}"));
        }
        let calls = Allowed { calls: calls as usize, calls_per_second: rate, burst: burst.into() };
        ClientLimits { connections: connections as usize, calls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        toml::from_str::<RawShares>(text).unwrap().check(&mut faults);
        faults
    }

    #[test]
    fn what_would_let_nobody_in_or_bounds_nothing_is_refused() {
        assert!(faults("").is_empty());
        assert!(faults("connections = 1\ncalls = 1\ncalls_per_second = 0.1\nburst = 1").is_empty());
        for key in ["connections", "calls", "calls_per_second", "burst"] {
            for value in ["0", "99999999"] {
                let faults = faults(&format!("{key} = {value}"));
                assert!(faults.len() == 1 && faults[0].starts_with(&format!("limits.client.{key}:")), "{faults:?}");
            }
        }
        for wrong in ["nan", "inf", "-1.0"] {
            assert_eq!(faults(&format!("calls_per_second = {wrong}")).len(), 1, "{wrong}");
        }
        assert!(toml::from_str::<RawShares>("streams = 7").is_err());
    }

    #[test]
    fn the_document_names_each_with_its_default() {
        let page = include_str!("../../../docs/configuration.md");
        let table = page.split("## [limits.client]").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let RawShares { connections, calls, calls_per_second, burst } = RawShares::default();
        let defaults = [
            ("connections", connections.to_string()),
            ("calls", calls.to_string()),
            ("calls_per_second", calls_per_second.to_string()),
            ("burst", burst.to_string()),
        ];
        for (key, default) in defaults {
            assert!(table.contains(&format!("| `{key}` | {default} |")), "{key} = {default} is not in the table");
        }
    }
}
