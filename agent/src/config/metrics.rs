//! The table `[metrics]`: whether, and where, the agent tells what it counts. Off by default. There is no port without TLS: it takes the
//! certificates of the API (`[tls]`), and a client needs one of its CA.
use std::net::SocketAddr;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    listen: Option<String>,
}

impl RawMetrics {
    /// `None`: no port. `api`: the address of the API, which another port can't have too.
    pub(super) fn check(&self, api: &str, faults: &mut Vec<String>) -> Option<SocketAddr> {
        let text = self.listen.as_deref()?;
        let parsed = text.parse::<SocketAddr>().map_err(|e| faults.push(format!("metrics.listen: {e}"))).ok()?;
        let same = |api: SocketAddr| api.port() == parsed.port() && parsed.port() != 0;
        if api.parse().is_ok_and(same) {
            faults.push(format!("metrics.listen: {text}: the API has that port"));
        }
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_its_own_or_none() {
        let check = |text: &str| {
            let mut faults = Vec::new();
            let raw: RawMetrics = toml::from_str(text).unwrap();
            (raw.check("0.0.0.0:7443", &mut faults), faults)
        };
        assert_eq!(check(""), (None, Vec::new()));
        assert_eq!(check("listen = '127.0.0.1:9464'"), (Some("127.0.0.1:9464".parse().unwrap()), Vec::new()));
        for (text, why) in [("listen = '[::]:7443'", "the API has that port"), ("listen = '9464'", "metrics.listen")] {
            let (_, faults) = check(text);
            assert!(faults.len() == 1 && faults[0].contains(why), "{text}: {faults:?}");
        }
    }
}
