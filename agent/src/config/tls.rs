//! The table `[tls]` and the files that it names, which are read again while the agent runs. What has to be in them is checked by
//! [`crate::access`].
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;
use serde::Deserialize;

use super::secret;

/// PEM of the server certificate, its key, the CA that client certificates must chain to, and its revocation lists.
#[derive(Clone)]
pub struct Tls {
    pub certificate: Vec<u8>,
    pub key: SecretString,
    pub client_ca: Vec<u8>,
    /// `None`: nothing is ever revoked.
    pub crl: Option<Vec<u8>>,
    /// Where they came from, and what these files were.
    pub files: TlsFiles,
    pub stamp: Stamp,
}

impl Tls {
    /// Of a run that opens no port.
    pub(super) fn none() -> Self {
        let (certificate, key, client_ca) = Default::default();
        let files = TlsFiles {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: PathBuf::new(),
            crl: None,
            look: Duration::MAX,
        };
        Self { certificate, key, client_ca, crl: None, files, stamp: Stamp::new() }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls { .. }")
    }
}

/// Where the parts lie.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    crl: Option<PathBuf>,
    /// Between two looks whether they have changed.
    pub look: Duration,
}

/// What tells that a file is another or has changed; `None`: it can't be looked at.
pub type Stamp = Vec<Option<[i64; 7]>>;

impl TlsFiles {
    /// Reads all of them.
    ///
    /// # Errors
    /// One line for each file that can't be read.
    pub fn read(&self) -> Result<Tls, Vec<String>> {
        // Before they are read: what changes meanwhile is read again.
        let stamp = self.stamp();
        let mut faults = Vec::new();
        let mut take = |key: &str, path: &Path| {
            let read = fs::read(path).map_err(|e| faults.push(format!("tls.{key}: {}: {e}", path.display())));
            read.unwrap_or_default()
        };
        let certificate = take("certificate_file", &self.certificate);
        let client_ca = take("client_ca_file", &self.client_ca);
        let crl = self.crl.as_ref().map(|path| take("crl_file", path));
        let key =
            secret::read(&self.key).map_err(|why| faults.push(format!("tls.key_file: {why}"))).unwrap_or_default();
        if faults.is_empty() {
            Ok(Tls { certificate, key, client_ca, crl, files: self.clone(), stamp })
        } else {
            Err(faults)
        }
    }

    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let all = [Some(&self.certificate), Some(&self.key), Some(&self.client_ca), self.crl.as_ref()];
        let one = |path: &PathBuf| {
            let m = fs::metadata(path).ok()?;
            let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            Some([
                number(m.dev()),
                number(m.ino()),
                number(m.size()),
                m.mtime(),
                m.mtime_nsec(),
                m.ctime(),
                m.ctime_nsec(),
            ])
        };
        all.into_iter().flatten().map(one).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    certificate_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: PathBuf,
    crl_file: Option<PathBuf>,
    #[serde(default = "default_reload_seconds")]
    reload_seconds: f64,
}

fn default_reload_seconds() -> f64 {
    10.0
}

impl RawTls {
    /// Reads the files; faults are added to `faults`, one line each.
    pub(super) fn check(self, faults: &mut Vec<String>) -> Option<Tls> {
        let mut look = Duration::ZERO;
        match self.reload_seconds {
            seconds if (0.1..=3600.0).contains(&seconds) => look = Duration::from_secs_f64(seconds),
            seconds => faults.push(format!("tls.reload_seconds: {seconds} is not between 0.1 and 3600")),
        }
        let files = TlsFiles {
            certificate: self.certificate_file,
            key: self.key_file,
            client_ca: self.client_ca_file,
            crl: self.crl_file,
            look,
        };
        files.read().map_err(|why| faults.extend(why)).ok()
    }
}
