//! How to reach a vCenter, whom to be there, and the limits of every call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::error::{Error, ErrorKind};
use crate::login::PasswordSource;

/// What makes a server certificate acceptable. There is no trust on first use and no way to switch the check off.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Certificates of authorities, PEM; chain, dates and host name are checked.
    Ca(Vec<u8>),
    /// SHA-256 of the server's DER certificate. It names exactly one certificate, so name and dates are not checked.
    Pin([u8; 32]),
}

/// One call of the API that ended, for whoever counts them.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Name of the method, from this program's own list.
    pub method: &'static str,
    /// With a new login and a repetition, if there were any.
    pub took: Duration,
    /// Why it failed.
    pub error: Option<&'a ErrorKind>,
}

/// Is told of each call that ended; must not block.
pub type Observer = Arc<dyn Fn(&Call<'_>) + Send + Sync>;

/// Connection settings. `Debug` shows no secret.
#[derive(Clone)]
pub struct Config {
    /// `https://host[:port][/sdk]`; no user or password in it.
    pub url: String,
    /// Account, for example `backup@vsphere.local`.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Where the password is read again before each login; may block.
    pub password_source: Option<PasswordSource>,
    /// Is told of each call that ended.
    pub observer: Option<Observer>,
    /// How the server proves itself.
    pub trust: Trust,
    /// Longest time for name, TCP and TLS.
    pub connect_timeout: Duration,
    /// Longest time for one whole request and its answer (long polls add their own wait).
    pub request_timeout: Duration,
    /// How long the server may hold the answer of one long poll; one that takes twice as long is given up as lost.
    pub poll: Duration,
    /// Pause after the first refused login, doubled with each further one.
    pub login_pause: Duration,
    /// Longest such pause.
    pub login_pause_last: Duration,
    /// Largest answer accepted, in bytes.
    pub max_response_bytes: usize,
}

impl Config {
    /// Settings with default limits: 10 s to connect, 60 s a request, 20 s a poll, 90 s to 15 min after a refused login, 32 MiB
    /// an answer.
    pub fn new(url: impl Into<String>, user: impl Into<String>, password: SecretString, trust: Trust) -> Config {
        Config {
            url: url.into(),
            user: user.into(),
            password,
            password_source: None,
            observer: None,
            trust,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            poll: Duration::from_secs(20),
            login_pause: Duration::from_secs(90),
            login_pause_last: Duration::from_secs(900),
            max_response_bytes: 32 << 20,
        }
    }

    /// The SOAP endpoint.
    pub(crate) fn endpoint(&self) -> Result<reqwest::Url, Error> {
        let refuse = |why: &str| Error::new(ErrorKind::Unsupported, "connect", format!("vCenter URL: {why}"));
        let mut url = reqwest::Url::parse(&self.url).map_err(|e| refuse(&e.to_string()))?;
        if url.scheme() != "https" {
            return Err(refuse("must start with https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("must not hold a user name or a password"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(refuse("has no host"));
        }
        if url.path().trim_end_matches('/').is_empty() {
            url.set_path("/sdk");
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        url.set_query(None);
        url.set_fragment(None);
        Ok(url)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL with a password in it is refused later, but Debug may come first.
        let url = if self.url.contains('@') { "[URL with user info]" } else { &self.url };
        f.debug_struct("Config")
            .field("url", &url)
            .field("user", &self.user)
            .field("password", &"[REDACTED]")
            .field("trust", &self.trust)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("poll", &self.poll)
            .field("login_pause", &self.login_pause)
            .field("login_pause_last", &self.login_pause_last)
            .field("max_response_bytes", &self.max_response_bytes)
            .finish()
    }
}
