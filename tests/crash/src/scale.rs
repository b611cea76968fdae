//! The agent's waits, scaled by one factor: its agent.toml for a campaign. A wait that is missing here keeps its default,
//! which would be the one thing that is not scaled, so every name of `[deadlines]` has its line.

/// Names and defaults in seconds (docs/configuration.md). A minimum of its own: below it the machine's own pace, not
/// the agent, would decide.
const DEADLINES: &[(&str, f64, f64)] = &[
    ("call_seconds", 60.0, 1.0),
    ("reconfigure_seconds", 600.0, 5.0),
    ("snapshot_seconds", 1800.0, 5.0),
    ("discover_seconds", 60.0, 1.0),
    ("rescan_seconds", 5.0, 0.1),
    ("settle_seconds", 75.0, 1.25),
    ("cleanup_seconds", 120.0, 1.0),
    ("doubt_seconds", 600.0, 1.0),
    ("drain_seconds", 240.0, 4.0),
];

/// Lengths in seconds at this scale.
#[derive(Debug, Clone, Copy)]
pub struct Scale(pub f64);

impl Scale {
    /// A wait that is `seconds` long at scale 1.
    #[must_use]
    pub fn of(self, seconds: f64) -> std::time::Duration {
        std::time::Duration::from_secs_f64(seconds * self.0)
    }

    #[must_use]
    pub fn millis(self, seconds: f64) -> u64 {
        u64::try_from(self.of(seconds).as_millis()).unwrap_or(u64::MAX)
    }

    /// `[limits]` and `[deadlines]` of agent.toml. `whole`: for an agent that takes no decimals.
    #[must_use]
    pub fn agent_toml(self, whole: bool) -> String {
        let mut text = "[limits]\nlease_min_seconds = 1\nlease_default_seconds = 2\n[deadlines]\n".to_owned();
        for (name, seconds, least) in DEADLINES {
            let value = (seconds * self.0).max(*least);
            let up = value.ceil() + f64::from(u8::from(*name == "settle_seconds"));
            let line = if whole { format!("{name} = {up:.0}\n") } else { format!("{name} = {value:.3}\n") };
            text += &line;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_scaled_and_have_a_floor() {
        let text = Scale(0.02).agent_toml(false);
        assert!(text.contains("settle_seconds = 1.500\n") && text.contains("doubt_seconds = 12.000\n"), "{text}");
        let whole = Scale(0.02).agent_toml(true);
        assert!(whole.contains("settle_seconds = 3\n") && whole.contains("call_seconds = 2\n"), "{whole}");
    }
}
