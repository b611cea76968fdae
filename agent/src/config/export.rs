//! The table `[export]`: whether, and how long, jobs may export disks that nothing else brings. Off by default: while an
//! export lease lives, its VM can't be powered on, moved or destroyed.
use std::time::Duration;

use serde::Deserialize;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Longest life of a lease; `None`: no exports.
    pub most: Option<Duration>,
    /// TCP port of the hosts that is tried before the snapshot; `None`: none is.
    pub port: Option<u16>,
}

impl Default for Export {
    fn default() -> Self {
        RawExport::default().check(&mut Vec::new())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawExport {
    max_hours: f64,
    port: u16,
}

impl Default for RawExport {
    fn default() -> Self {
        Self { max_hours: 0.0, port: 443 }
    }
}

impl RawExport {
    pub(super) fn check(&self, faults: &mut Vec<String>) -> Export {
        if !(0.0..=168.0).contains(&self.max_hours) {
            faults.push(format!("export.max_hours: {} is not between 0 and 168", self.max_hours));
            return Export { most: None, port: None };
        }
        let most = Duration::from_secs_f64(self.max_hours * 3600.0);
        Export { most: Some(most).filter(|most| !most.is_zero()), port: Some(self.port).filter(|port| *port != 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_by_default_and_bounded() {
        assert_eq!(Export::default(), Export { most: None, port: Some(443) });
        let parsed = |text: &str| {
            let raw: RawExport = toml::from_str(text).unwrap();
            let mut faults = Vec::new();
            (raw.check(&mut faults), faults)
        };
        let on = Export { most: Some(Duration::from_secs(5400)), port: None };
        assert_eq!(parsed("max_hours = 1.5\nport = 0"), (on, vec![]));
        for wrong in ["max_hours = -1", "max_hours = nan", "max_hours = 169"] {
            assert!(parsed(wrong).1[0].contains("export.max_hours"), "{wrong}");
        }
    }
}
