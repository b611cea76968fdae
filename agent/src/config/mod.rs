//! `/etc/hotadd/agent.toml`: read as it is written ([`RawConfig`], unknown keys refused), then checked as a whole into
//! [`Config`]; every fault is reported at once. Secrets are only named here (a file), never held in the text.
mod audit;
mod clients;
mod deadlines;
mod export;
mod limits;
mod metrics;
mod nbd;
mod pace;
mod plan;
mod reading;
mod secret;
mod shares;
pub(crate) mod state_dir;
mod tls;
mod traces;
mod vddk;

use std::{
    collections::BTreeSet,
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use hotadd_blockio::EngineKind;
use secrecy::SecretString;
use serde::Deserialize;

use self::{
    audit::RawAudit, clients::RawClient, deadlines::RawDeadlines, export::RawExport, limits::RawLimits,
    metrics::RawMetrics, nbd::RawNbd, pace::RawPace, plan::RawPlan, reading::RawReading, tls::RawTls,
    traces::RawTraces, vddk::RawVddk,
};
pub use self::{
    deadlines::Deadlines,
    export::Export,
    limits::Limits,
    nbd::Nbd,
    plan::{NoSlot, Policy, Profile, SataNvme, TryVddk},
    reading::ReadTuning,
    shares::ClientLimits,
    tls::{Stamp, Tls, TlsFiles},
    traces::TracesSettings,
    vddk::{Compression, VddkSettings},
};
use crate::{access::Rules, audit::AuditPolicy, id::DiskUuid, transport::throttle::Rates};

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub tls: Tls,
    /// Who may do what.
    pub clients: Rules,
    pub audit: AuditPolicy,
    pub vcenter: Vcenter,
    pub state_dir: PathBuf,
    pub limits: Limits,
    pub pace: Rates,
    pub reading: ReadTuning,
    pub deadlines: Deadlines,
    pub plan: Policy,
    pub nbd: Nbd,
    /// `None`: no VDDK.
    pub vddk: Option<VddkSettings>,
    pub export: Export,
    /// Engines in order of preference.
    pub engines: Vec<EngineKind>,
    pub guards: GuardPolicy,
    pub quarantine: OnFailure,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Who gets traces; `None`: nobody.
    pub traces: Option<TracesSettings>,
    /// UUIDs of the proxy's own disks outside its home folder, never touched. Disks in the proxy's home folder are
    /// its own without being listed.
    pub own_disks: BTreeSet<DiskUuid>,
}

/// Where and as whom to log in.
#[derive(Debug, Clone)]
pub struct Vcenter {
    pub url: String,
    pub user: String,
    pub password: SecretString,
    /// Where the password came from.
    pub password_file: PathBuf,
    pub trust: Trust,
}

impl Vcenter {
    /// The password as its file has it now; `None`, and a warning, when it can't be read.
    #[must_use]
    pub fn read_password(&self) -> Option<SecretString> {
        secret::line(&self.password_file)
            .map_err(|why| tracing::warn!(why, "the password file can't be read again"))
            .ok()
    }
}

/// What to do about methods that must not be called on a VM while we hold something of it (Storage vMotion of a target,
/// destruction of the proxy).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardPolicy {
    /// Disable them; where that is refused, say so and go on.
    #[default]
    Warn,
    /// Disable them; where that is refused, refuse the work.
    Refuse,
    /// Leave them alone.
    Off,
}

/// What to do when this system does not keep its hands off attached disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Say so and open no port.
    #[default]
    Refuse,
    /// Say so and serve.
    Warn,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawQuarantine {
    on_failure: OnFailure,
}

/// How vCenter's certificate is believed. There is no trust on first use.
#[derive(Debug, Clone)]
pub enum Trust {
    Ca(Vec<u8>),
    Pin([u8; 32]),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listen: String,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default)]
    tls: Option<RawTls>,
    #[serde(default)]
    client: Vec<RawClient>,
    #[serde(default)]
    audit: RawAudit,
    vcenter: RawVcenter,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    deadlines: RawDeadlines,
    #[serde(default)]
    plan: RawPlan,
    #[serde(default)]
    pace: RawPace,
    #[serde(default)]
    reading: RawReading,
    #[serde(default)]
    nbd: RawNbd,
    #[serde(default)]
    vddk: Option<RawVddk>,
    #[serde(default)]
    export: RawExport,
    #[serde(default)]
    engines: Option<Vec<String>>,
    #[serde(default)]
    guards: GuardPolicy,
    #[serde(default)]
    quarantine: RawQuarantine,
    #[serde(default)]
    metrics: RawMetrics,
    #[serde(default)]
    traces: RawTraces,
    #[serde(default)]
    own_disks: Vec<String>,
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/hotadd")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVcenter {
    url: String,
    user: String,
    password_file: PathBuf,
    ca_file: Option<PathBuf>,
    pin_sha256: Option<String>,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Faults {}

impl Config {
    /// Reads and checks the file and all files that it names.
    ///
    /// # Errors
    /// [`Faults`]: all of them at once, each with its key.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let text = fs::read_to_string(path).map_err(|e| Faults(vec![format!("{}: {e}", path.display())]))?;
        let raw: RawConfig = toml::from_str(&text).map_err(|e| Faults(vec![syntax(path, &text, &e)]))?;
        check(raw, For::Serving)
    }

    /// What settling needs. Nothing that only a served port needs (certificates, clients and their limits, addresses, the audit log, a collector) can keep what is owed
    /// from being given back.
    ///
    /// # Errors
    /// As [`Self::load`], of the rest.
    pub fn load_to_settle(path: &Path) -> Result<Self, Faults> {
        let text = fs::read_to_string(path).map_err(|e| Faults(vec![format!("{}: {e}", path.display())]))?;
        let mut table: toml::Table = toml::from_str(&text).map_err(|e| Faults(vec![syntax(path, &text, &e)]))?;
        for only_served in ["tls", "client", "metrics", "traces", "audit"] {
            table.remove(only_served);
        }
        if let Some(limits) = table.get_mut("limits").and_then(toml::Value::as_table_mut) {
            limits.remove("client");
        }
        table.insert("listen".into(), "127.0.0.1:0".into());
        let raw: RawConfig = table.try_into().map_err(|e| Faults(vec![syntax(path, "", &e)]))?;
        check(raw, For::Settling)
    }
}

/// What a configuration is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Serving,
    Settling,
}

/// The message and the line's number, never the line: somebody may have written a secret there.
fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    let place = line.map(|line| format!(" line {line}")).unwrap_or_default();
    format!("{}{place}: {}", path.display(), error.message().trim().replace('\n', " "))
}

fn check(raw: RawConfig, what_for: For) -> Result<Config, Faults> {
    let mut faults = Collector::default();
    let listen = faults.take("listen", raw.listen.parse::<SocketAddr>().map_err(|e| e.to_string()));
    let tls = match raw.tls {
        Some(raw) => raw.check(&mut faults.0),
        None if what_for == For::Settling => Some(Tls::none()),
        None => faults.take("tls", Err("the table is missing".to_owned())),
    };
    let clients = clients::check(&raw.client, &mut faults.0);
    let audit = raw.audit.check(&mut faults.0);
    let vcenter = faults.vcenter(raw.vcenter);
    let limits = raw.limits.check(&mut faults.0);
    let deadlines = raw.deadlines.check(&mut faults.0);
    let plan = raw.plan.check(&mut faults.0);
    let pace = raw.pace.check(&mut faults.0);
    let reading = raw.reading.check(&mut faults.0);
    let nbd = raw.nbd.check(&mut faults.0);
    let vddk = raw.vddk.map(|raw| raw.check(&mut faults.0));
    let export = raw.export.check(&mut faults.0);
    let metrics = raw.metrics.check(&raw.listen, &mut faults.0);
    let traces = raw.traces.check(tls.as_ref().map(|tls| &tls.files), &mut faults.0);
    let engines = faults.engines(raw.engines);
    let own_disks = raw
        .own_disks
        .iter()
        .filter_map(|text| faults.take("own_disks", text.parse::<DiskUuid>().map_err(|e| e.to_string())))
        .collect();
    match (listen, tls, vcenter, faults.0.is_empty()) {
        (Some(listen), Some(tls), Some(vcenter), true) => Ok(Config {
            listen,
            tls,
            clients,
            audit,
            vcenter,
            state_dir: raw.state_dir,
            limits,
            deadlines,
            plan,
            pace,
            reading,
            nbd,
            vddk,
            export,
            engines,
            guards: raw.guards,
            quarantine: raw.quarantine.on_failure,
            metrics,
            traces,
            own_disks,
        }),
        _ => Err(Faults(faults.0)),
    }
}

#[derive(Default)]
struct Collector(Vec<String>);

impl Collector {
    fn take<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|e| self.0.push(format!("{key}: {e}"))).ok()
    }

    fn file(&mut self, key: &str, path: &Path) -> Vec<u8> {
        self.take(key, fs::read(path).map_err(|e| format!("{}: {e}", path.display()))).unwrap_or_default()
    }

    fn vcenter(&mut self, raw: RawVcenter) -> Option<Vcenter> {
        let password = self.take("vcenter.password_file", secret::line(&raw.password_file)).unwrap_or_default();
        if !raw.url.starts_with("https://") {
            self.0.push(format!("vcenter.url: {:?} does not start with https://", raw.url));
        }
        if raw.user.is_empty() {
            self.0.push("vcenter.user: empty".into());
        }
        let trust = match (raw.ca_file, raw.pin_sha256) {
            (Some(path), None) => Some(Trust::Ca(self.file("vcenter.ca_file", &path))),
            (None, Some(pin)) => self.take("vcenter.pin_sha256", parse_pin(&pin)).map(Trust::Pin),
            _ => {
                self.0.push("vcenter: give exactly one of ca_file and pin_sha256".into());
                None
            }
        };
        trust.map(|trust| {
            let password_file = raw.password_file;
            Vcenter { url: raw.url, user: raw.user, password, password_file, trust }
        })
    }

    fn engines(&mut self, names: Option<Vec<String>>) -> Vec<EngineKind> {
        let Some(names) = names else { return EngineKind::PREFERENCE.to_vec() };
        if names.is_empty() {
            self.0.push("engines: empty list".into());
        }
        names
            .iter()
            .filter_map(|name| {
                let known = "io_uring, linux-aio or preadv";
                self.take("engines", EngineKind::from_name(name).ok_or_else(|| format!("{name:?} is not {known}")))
            })
            .collect()
    }
}

/// 64 hexadecimal digits, colons allowed.
fn parse_pin(text: &str) -> Result<[u8; 32], String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let bytes: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| "not a SHA-256 fingerprint (64 hexadecimal digits)".into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn good(dir: &Path) -> String {
        for name in ["cert.pem", "ca.pem", "vc.pem"] {
            write(dir, name, "pem", 0o644);
        }
        write(dir, "key.pem", "pem", 0o600);
        write(dir, "password", "s3cret\n", 0o600);
        let d = dir.display();
        format!(
            "listen = '0.0.0.0:7443'\n[tls]\ncertificate_file = '{d}/cert.pem'\nkey_file = '{d}/key.pem'\n\
             client_ca_file = '{d}/ca.pem'\n[vcenter]\nurl = 'https://vc/sdk'\nuser = 'u'\n\
             password_file = '{d}/password'\nca_file = '{d}/vc.pem'\n"
        )
    }

    #[test]
    fn a_good_file_loads_and_its_secrets_stay_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "agent.toml", &good(dir.path()), 0o644);
        let config = Config::load(&path).unwrap();
        assert_eq!(config.limits.attach_batch, 15);
        assert_eq!(config.vddk, None);
        assert_eq!(config.engines, EngineKind::PREFERENCE);
        assert!(!format!("{config:?}").contains("s3cret"));
        use secrecy::ExposeSecret as _;
        assert_eq!(config.vcenter.password.expose_secret(), "s3cret");
        write(dir.path(), "password", "n3w\r\n", 0o600);
        assert_eq!(config.vcenter.read_password().unwrap().expose_secret(), "n3w");
        write(dir.path(), "password", "open", 0o644);
        assert!(config.vcenter.read_password().is_none(), "open to others");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let text = good(dir.path())
            .replace("0.0.0.0:7443", "nowhere")
            .replace("https://vc", "http://vc")
            .replace("key.pem", "missing.pem")
            + "pin_sha256 = 'zz'\n[limits]\ndepth = 0\n[limits.client]\ncalls = 0\ncalls_per_second = nan\n[deadlines]\ncall_seconds = 0\nsettle_seconds = 0\n[vddk]\nlibdir = 'l'\nnfc_buffers = 17\n\
               [[client]]\nsan = 'b1'\nrole = 'reader'\n[[client]]\nsan = 'DNS:b1'\nrole = 'root'\n[[client]]\nrole = 'admin'\n[audit]\nrequired = true\n[traces]\nendpoint = 'http://collector.example:4317'\n";
        write(dir.path(), "password", "x", 0o644);
        let path = write(dir.path(), "agent.toml", &text, 0o644);
        let Faults(faults) = Config::load(&path).unwrap_err();
        for key in [
            "listen:",
            "tls.key_file:",
            "vcenter.url:",
            "password_file:",
            "exactly one of",
            "limits.depth:",
            "limits.client.calls:",
            "limits.client.calls_per_second:",
            "call_seconds:",
            "settle_seconds:",
            "vddk.libdir:",
            "vddk.nfc_buffer_64k × nfc_buffers:",
            "audit.required:",
            "traces.endpoint:",
            "client 1: san:",
            "client 2: role:",
            "client 3: give exactly one",
        ] {
            assert!(faults.iter().any(|f| f.contains(key)), "{key} missing in {faults:#?}");
        }
    }

    #[test]
    fn what_only_a_port_needs_does_not_keep_from_settling() {
        let dir = tempfile::tempdir().unwrap();
        let more = "[[client]]\nrole = 'king'\n[metrics]\nlisten = 'nowhere'\n[traces]\nendpoint = 7\n[audit]\nfile = 7\n\
                    [limits.client]\ncalls = 'many'\n";
        let text = good(dir.path()).replace("0.0.0.0:7443", "nowhere").replace("key.pem", "missing.pem") + more;
        let path = write(dir.path(), "agent.toml", &text, 0o644);
        assert!(Config::load(&path).is_err());
        assert_eq!(Config::load_to_settle(&path).unwrap().vcenter.user, "u");
        let path = write(dir.path(), "b.toml", &text.replace("https://vc", "http://vc"), 0o644);
        assert!(Config::load_to_settle(&path).unwrap_err().to_string().contains("vcenter.url"));
    }

    #[test]
    fn unknown_keys_and_engines_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "a.toml", &format!("simulate = true\n{}", good(dir.path())), 0o644);
        assert!(Config::load(&path).unwrap_err().to_string().contains("simulate"));
        let path = write(dir.path(), "b.toml", &format!("engines = ['mmap']\n{}", good(dir.path())), 0o644);
        assert!(Config::load(&path).unwrap_err().to_string().contains("mmap"));
    }

    #[test]
    fn a_failed_quarantine_refuses_unless_it_is_told_to_warn() {
        let dir = tempfile::tempdir().unwrap();
        let load = |more: &str| {
            Config::load(&write(dir.path(), "agent.toml", &format!("{}{more}", good(dir.path())), 0o644))
                .map(|c| c.quarantine)
        };
        assert_eq!(load("").unwrap(), OnFailure::Refuse);
        assert_eq!(load("[quarantine]\non_failure = 'warn'\n").unwrap(), OnFailure::Warn);
        assert!(load("[quarantine]\non_failure = 'ignore'\n").unwrap_err().to_string().contains("ignore"));
    }

    #[test]
    fn a_slow_detach_that_is_allowed_is_no_hang() {
        let dir = tempfile::tempdir().unwrap();
        let more = "[deadlines]\nreconfigure_seconds = 7200\nstall_seconds = 1\n";
        let config = Config::load(&write(dir.path(), "agent.toml", &format!("{}{more}", good(dir.path())), 0o644));
        assert_eq!(config.unwrap().deadlines.stall.as_secs(), 3 * 7200);
    }

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        for line in ["password = 's3cret", "s3cret", "password = 's3cret'", "x = s3cret"] {
            let path = write(dir.path(), "agent.toml", &format!("{}{line}\n", good(dir.path())), 0o644);
            let text = Config::load(&path).unwrap_err().to_string();
            assert!(!text.contains("s3cret") && text.contains("line"), "{text}");
        }
    }

    #[test]
    fn pins_are_64_digits() {
        assert!(parse_pin(&"ab".repeat(32)).is_ok());
        assert!(parse_pin(&vec!["AB"; 32].join(":")).is_ok());
        assert!(parse_pin("abc").is_err());
        assert!(parse_pin(&"é".repeat(32)).is_err());
    }
}
