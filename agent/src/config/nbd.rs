//! The table `[nbd]`: which NBD servers may be read, and how they are trusted. Checked like the rest of the file.
use std::{fs, path::PathBuf, time::Duration};

use hotadd_blockio::nbd::{Address, Limits, Options, Target, Tls};
use serde::Deserialize;

use super::secret;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Nbd {
    allow: Vec<Target>,
    /// For `nbds` URIs.
    tls: Option<Tls>,
    options: Options,
}

impl Nbd {
    /// Whether an entry of the list admits this server: the same way (TLS or not), the same host and port, or a socket
    /// that is the entry's or lies in its folder; an entry with an export admits that export only.
    #[must_use]
    pub fn allows(&self, target: &Target) -> bool {
        self.allow.iter().any(|entry| {
            let place = match (&entry.address, &target.address) {
                (Address::Tcp { host, port }, Address::Tcp { host: other, port: at }) => {
                    host.eq_ignore_ascii_case(other) && port == at
                }
                // By components, and `..` would leave the folder again.
                (Address::Unix(entry), Address::Unix(path)) => {
                    path.starts_with(entry) && !path.components().any(|part| part == std::path::Component::ParentDir)
                }
                _ => false,
            };
            place && entry.tls == target.tls && (entry.export.is_empty() || entry.export == target.export)
        })
    }

    /// How to ask such a server.
    #[must_use]
    pub fn options(&self, target: &Target) -> Options {
        let tls = if target.tls { self.tls.clone() } else { None };
        Options { tls, block_status: false, ..self.options.clone() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNbd {
    allow: Vec<String>,
    ca_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    server_name: Option<String>,
    connections: u32,
    connect_seconds: u64,
    idle_seconds: u64,
    reply_seconds: u64,
}

impl Default for RawNbd {
    fn default() -> Self {
        let (options, limits) = (Options::default(), Limits::default());
        Self {
            allow: Vec::new(),
            ca_file: None,
            certificate_file: None,
            key_file: None,
            server_name: None,
            connections: options.connections,
            connect_seconds: limits.connect.as_secs(),
            idle_seconds: limits.idle.as_secs(),
            reply_seconds: limits.reply.as_secs(),
        }
    }
}

impl RawNbd {
    pub(super) fn check(self, faults: &mut Vec<String>) -> Nbd {
        let mut allow: Vec<Target> = Vec::new();
        for entry in &self.allow {
            match entry.parse() {
                Ok(target) => allow.push(target),
                Err(error) => faults.push(format!("nbd.allow: {error}")),
            }
        }
        if !(1..=16).contains(&self.connections) {
            faults.push(format!("nbd.connections: {} is not 1 to 16", self.connections));
        }
        let waits = [
            ("connect_seconds", self.connect_seconds),
            ("idle_seconds", self.idle_seconds),
            ("reply_seconds", self.reply_seconds),
        ];
        for (key, seconds) in waits {
            if !(1..=3600).contains(&seconds) {
                faults.push(format!("nbd.{key}: {seconds} is not 1 to 3600"));
            }
        }
        let tls = self.tls().unwrap_or_else(|fault| {
            faults.push(fault);
            None
        });
        if tls.is_none() && allow.iter().any(|entry| entry.tls) && faults.is_empty() {
            faults.push("nbd.ca_file: missing, and nbd.allow has an nbds entry".to_owned());
        }
        let limits = Limits {
            connect: Duration::from_secs(self.connect_seconds),
            idle: Duration::from_secs(self.idle_seconds),
            reply: Duration::from_secs(self.reply_seconds),
            ..Limits::default()
        };
        Nbd { allow, tls, options: Options { connections: self.connections, limits, ..Options::default() } }
    }

    fn tls(&self) -> Result<Option<Tls>, String> {
        use secrecy::ExposeSecret as _;
        let read =
            |key: &str, path: &PathBuf| fs::read(path).map_err(|e| format!("nbd.{key}: {}: {e}", path.display()));
        let Some(ca) = &self.ca_file else {
            let alone = self.certificate_file.is_some() || self.key_file.is_some() || self.server_name.is_some();
            return if alone { Err("nbd.ca_file: missing".to_owned()) } else { Ok(None) };
        };
        let authorities = read("ca_file", ca)?;
        let client = match (&self.certificate_file, &self.key_file) {
            (Some(chain), Some(key)) => {
                let key = secret::read(key).map_err(|e| format!("nbd.key_file: {e}"))?;
                Some((read("certificate_file", chain)?, key))
            }
            (None, None) => None,
            _ => return Err("nbd: give certificate_file and key_file together".to_owned()),
        };
        let client = client.as_ref().map(|(chain, key)| (chain.as_slice(), key.expose_secret().as_bytes()));
        Tls::new(&authorities, client, self.server_name.as_deref()).map(Some).map_err(|e| format!("nbd: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Nbd, Vec<String>> {
        let raw: RawNbd = toml::from_str(text).unwrap();
        let mut faults = Vec::new();
        let nbd = raw.check(&mut faults);
        if faults.is_empty() { Ok(nbd) } else { Err(faults) }
    }

    #[test]
    fn only_what_the_list_names_may_be_read() {
        let allow = "allow = ['nbd://esx-1:1234', 'nbd://Files/disk', 'nbd+unix:///?socket=/run/nbd']";
        let nbd = parsed(allow).unwrap();
        let may = |uri: &str| nbd.allows(&uri.parse().unwrap());
        for uri in [
            "nbd://ESX-1:1234/a",
            "nbd://files/disk",
            "nbd+unix:///x?socket=/run/nbd/a",
            "nbd+unix:///?socket=/run/nbd",
        ] {
            assert!(may(uri), "{uri}");
        }
        for uri in [
            "nbd://esx-1/a",
            "nbds://esx-1:1234/a",
            "nbd://files/other",
            "nbd://files/",
            "nbd+unix:///?socket=/run/nbd-other/a",
            "nbd+unix:///?socket=/run/nbd/../../etc/x",
            "nbds+unix:///?socket=/run/nbd/a",
        ] {
            assert!(!may(uri), "{uri}");
        }
        assert!(!parsed("").unwrap().allows(&"nbd://localhost".parse().unwrap()), "nothing is allowed by default");
    }

    #[test]
    fn faults_are_told_with_their_keys() {
        let faults = parsed("allow = ['http://x']\nconnections = 0\nidle_seconds = 0\ncertificate_file = '/nowhere'\n")
            .unwrap_err();
        for key in ["nbd.allow:", "nbd.connections:", "nbd.idle_seconds:", "nbd.ca_file:"] {
            assert!(faults.iter().any(|fault| fault.contains(key)), "{key} missing in {faults:?}");
        }
        let faults = parsed("allow = ['nbds://x']").unwrap_err();
        assert!(faults[0].contains("ca_file"), "TLS without anybody to trust: {faults:?}");
    }
}
