//! The table `[traces]`: whether, and to whom, a trace of each job and session is sent. Off by default. Not without TLS, but to a collector
//! on this machine: the agent shows the certificate of `[tls]`, and the collector has to be vouched for by `ca_file`.
use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use tonic::transport::Uri;

use super::TlsFiles;

/// A collector.
#[derive(Debug, Clone)]
pub struct TracesSettings {
    pub endpoint: Uri,
    /// `None`: on this machine, without TLS.
    pub ca_file: Option<PathBuf>,
    /// Of the agent itself.
    pub tls: TlsFiles,
    /// Of one try.
    pub timeout: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTraces {
    endpoint: Option<String>,
    ca_file: Option<PathBuf>,
    timeout_seconds: f64,
}

impl Default for RawTraces {
    fn default() -> Self {
        Self { endpoint: None, ca_file: None, timeout_seconds: 10.0 }
    }
}

impl RawTraces {
    /// `None`: no traces, or a fault. `tls`: the files of the table `[tls]`, if it is whole.
    pub(super) fn check(self, tls: Option<&TlsFiles>, faults: &mut Vec<String>) -> Option<TracesSettings> {
        if !(0.1..=60.0).contains(&self.timeout_seconds) {
            faults.push(format!("traces.timeout_seconds: {} is not between 0.1 and 60", self.timeout_seconds));
            return None;
        }
        let timeout = Duration::from_secs_f64(self.timeout_seconds);
        let Some(text) = &self.endpoint else {
            faults.extend(self.ca_file.map(|_| "traces.endpoint: missing, and there is a ca_file".to_owned()));
            return None;
        };
        let parsed = endpoint(text).map_err(|why| faults.push(format!("traces.endpoint: {why}"))).ok()?;
        match (&self.ca_file, parsed.scheme_str() == Some("https")) {
            (None, true) => faults.push("traces.ca_file: missing; an https collector is trusted by it alone".into()),
            (Some(_), false) => faults.push("traces.ca_file: the endpoint is http, which has no certificate".into()),
            (Some(path), true) => {
                faults.extend(fs::read(path).err().map(|e| format!("traces.ca_file: {}: {e}", path.display())));
            }
            (None, false) => {}
        }
        Some(TracesSettings { endpoint: parsed, ca_file: self.ca_file, tls: tls?.clone(), timeout })
    }
}

/// Faults don't repeat the text: there may be a password in it.
fn endpoint(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "not a URL like https://collector.example:4317".to_owned())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("not a URL like https://collector.example:4317".into());
    };
    if authority.as_str().contains('@') {
        return Err("a user or password in it: the agent's certificate says who it is".into());
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("a path in it: OTLP over gRPC has host and port only".into());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" => Ok(uri),
        "http" if here => Ok(uri),
        "http" => Err("http only to this machine (127.0.0.1, ::1, localhost); use https".into()),
        _ => Err("neither https nor, to this machine, http".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Option<TracesSettings>, Vec<String>) {
        let mut faults = Vec::new();
        let raw: RawTraces = toml::from_str(text).unwrap();
        let files = super::super::Tls::none().files;
        (raw.check(Some(&files), &mut faults), faults)
    }

    #[test]
    fn https_with_a_ca_or_http_on_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, "pem").unwrap();
        let (none, faults) = check("");
        assert!(none.is_none() && faults.is_empty());
        let (some, faults) = check(&format!("endpoint = 'https://c.example:4317'\nca_file = '{}'", ca.display()));
        let some = some.unwrap();
        assert_eq!((some.endpoint.port_u16(), some.timeout, faults.len()), (Some(4317), Duration::from_secs(10), 0));
        for here in ["http://127.0.0.1:4317", "http://[::1]:4317/", "http://localhost:4317", "http://127.8.8.8:1"] {
            let (some, faults) = check(&format!("endpoint = '{here}'\ntimeout_seconds = 0.5"));
            assert!(some.is_some() && faults.is_empty(), "{here}: {faults:?}");
        }
    }

    #[test]
    fn everything_else_is_refused_and_not_repeated() {
        for (endpoint, why) in [
            ("http://c.example:4317", "http only to this machine"),
            ("http://10.0.0.1:4317", "http only to this machine"),
            ("http://localhost.example:4317", "http only to this machine"),
            ("http://127.0.0.1.example:4317", "http only to this machine"),
            ("https://u:canary@c.example:4317", "a user or password"),
            ("http://canary@127.0.0.1:4317", "a user or password"),
            ("https://c.example:4317/v1/traces", "a path"),
            ("https://c.example:4317?canary", "a path"),
            ("grpc://c.example:4317", "neither https"),
            ("c.example:4317", "not a URL"),
            ("canary canary", "not a URL"),
            ("", "not a URL"),
        ] {
            let (some, faults) = check(&format!("endpoint = '{endpoint}'"));
            assert!(some.is_none() && faults.len() == 1 && faults[0].contains(why), "{endpoint}: {faults:?}");
            assert!(faults[0].starts_with("traces.endpoint: ") && !faults[0].contains("canary"), "{faults:?}");
        }
        for (more, why) in [
            ("endpoint = 'https://c.example'", "traces.ca_file: missing"),
            ("endpoint = 'https://c.example'\nca_file = '/no/such/file'", "traces.ca_file: /no/such/file"),
            ("endpoint = 'http://127.0.0.1:4317'\nca_file = '/ca.pem'", "traces.ca_file: the endpoint is http"),
            ("ca_file = '/ca.pem'", "traces.endpoint: missing"),
            ("endpoint = 'http://127.0.0.1:4317'\ntimeout_seconds = nan", "traces.timeout_seconds"),
            ("endpoint = 'http://127.0.0.1:4317'\ntimeout_seconds = 0.0", "traces.timeout_seconds"),
        ] {
            let (_, faults) = check(more);
            assert!(faults.len() == 1 && faults[0].contains(why), "{more}: {faults:?}");
        }
    }

    #[test]
    fn the_document_names_each_with_its_default() {
        let page = include_str!("../../../docs/configuration.md");
        let table = page.split("## [traces]").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let RawTraces { endpoint, ca_file, timeout_seconds } = RawTraces::default();
        assert!(endpoint.is_none() && ca_file.is_none());
        for row in [
            "| `endpoint` | none |".into(),
            "| `ca_file` | none |".into(),
            format!("| `timeout_seconds` | {timeout_seconds} |"),
        ] {
            assert!(table.contains(&row), "{row} is not in the table");
        }
    }
}
