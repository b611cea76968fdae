//! The agent's waits, scaled by one factor: its agent.toml for a campaign. A wait that is missing here would keep its
//! default, the one thing that is not scaled; a test compares the names with the agent's.
use std::time::Duration;

/// Names and defaults in seconds (docs/configuration.md), and a floor: below it the machine's own pace, not the agent's
/// wait, would decide.
const DEADLINES: &[(&str, f64, f64)] = &[
    ("call_seconds", 60.0, 1.0),
    ("reconfigure_seconds", 600.0, 5.0),
    ("snapshot_seconds", 1800.0, 5.0),
    ("poll_seconds", 20.0, 1.0),
    ("discover_seconds", 60.0, 1.0),
    ("rescan_seconds", 5.0, 0.1),
    ("export_unknown_seconds", 360.0, 1.0),
    ("export_stall_seconds", 120.0, 1.0),
    ("settle_seconds", 75.0, 1.25),
    ("late_seconds", 3600.0, 5.0),
    ("sweep_seconds", 30.0, 0.1),
    ("retry_first_seconds", 0.25, 0.01),
    ("retry_last_seconds", 30.0, 0.1),
    ("stall_seconds", 3600.0, 60.0),
    ("cleanup_seconds", 120.0, 1.0),
    ("delete_seconds", 40.0, 0.5),
    ("guest_seconds", 60.0, 1.0),
    ("holder_seconds", 3600.0, 1.0),
    ("consolidate_seconds", 60.0, 0.1),
    ("doubt_seconds", 600.0, 1.0),
    // Controllers stop on purpose for longer than this, scaled.
    ("event_seconds", 10.0, 10.0),
    ("lease_tick_seconds", 0.5, 0.05),
    ("drain_seconds", 240.0, 4.0),
    ("ping_seconds", 20.0, 0.2),
    ("ping_timeout_seconds", 20.0, 0.2),
    ("watch_seconds", 5.0, 0.25),
    ("hold_seconds", 900.0, 1.0),
    // A campaign plays one job at a time.
    ("turn_seconds", 28800.0, 5.0),
    ("reconnect_seconds", 5.0, 0.05),
    ("login_seconds", 90.0, 0.5),
    ("login_last_seconds", 900.0, 1.0),
    ("keep_alive_seconds", 300.0, 1.0),
    ("areas_seconds", 600.0, 2.0),
];
/// The same of `[limits]`.
const LIMITS: &[(&str, f64, f64)] = &[("lease_min_seconds", 10.0, 0.1), ("lease_default_seconds", 120.0, 1.0)];

/// Lengths in seconds at this scale.
#[derive(Debug, Clone, Copy)]
pub struct Scale(pub f64);

impl Scale {
    /// A wait that is `seconds` long at scale 1.
    #[must_use]
    pub fn of(self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.0)
    }

    #[must_use]
    pub fn millis(self, seconds: f64) -> u64 {
        u64::try_from(self.of(seconds).as_millis()).unwrap_or(u64::MAX)
    }

    /// `[limits]` and `[deadlines]` of agent.toml. `late`: this many seconds for `late_seconds`, not scaled.
    #[must_use]
    pub fn agent_toml(self, late: Option<f64>) -> String {
        let line = |(name, seconds, least): &(&str, f64, f64)| {
            let fixed = late.filter(|_| *name == "late_seconds");
            format!("{name} = {:.3}\n", fixed.unwrap_or_else(|| (seconds * self.0).max(*least)))
        };
        let limits: String = LIMITS.iter().map(line).collect();
        let deadlines: String = DEADLINES.iter().map(line).collect();
        format!("[limits]\n{limits}[deadlines]\n{deadlines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_scaled_and_have_a_floor() {
        let text = Scale(0.02).agent_toml(Some(0.0));
        assert!(text.contains("settle_seconds = 1.500\n") && text.contains("rescan_seconds = 0.100\n"), "{text}");
        assert!(text.contains("late_seconds = 0.000\n"), "{text}");
    }

    #[test]
    fn every_wait_of_the_agent_is_scaled() {
        let table = include_str!("../../../agent/src/config/deadlines.rs");
        let keys = table.lines().filter_map(|line| line.trim().split_once(" = ")?.0.split_once(", "));
        let missing: Vec<&str> = keys
            .map(|(_, key)| key)
            .filter(|key| key.ends_with("_seconds") && !DEADLINES.iter().any(|(name, ..)| name == key))
            .collect();
        assert!(missing.is_empty(), "not scaled: {missing:?}");
    }
}
