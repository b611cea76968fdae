//! The first boot, and every boot after it: what is done in which order. Everything is written below a root folder, so that tests have one.
//!
//! ```text
//! read ─▶ settings ─▶ network, host name, console ─▶ [certificate] files in new/ ─▶ the agent checks them ─▶ in place, agent.toml last
//!                          (also with faults)                                            │ refuses: nothing changed
//!      └─▶ blank the passwords (always) ◀── state ◀──────────────────────────────────────┘
//! ```
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    certificate, config,
    environment::Environment,
    reasons::{self, Fault},
    settings::{self, Service, Settings, Trust},
    source::Source,
    state::State,
};

/// The folder of the agent's files, below the root.
pub const ETC: &str = "etc/hotadd";
/// Where [`State`] is kept, below the root.
pub const STATE: &str = "var/lib/hotadd-appliance/state.json";
const NETWORK: &str = "etc/systemd/network/10-hotadd.network";

/// Where and with what.
#[derive(Debug, Clone)]
pub struct Host {
    pub root: PathBuf,
    pub source: Source,
    /// `hotadd-agent`
    pub agent: PathBuf,
    /// `chpasswd`
    pub chpasswd: PathBuf,
}

impl Host {
    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Does everything and tells what it came to.
    ///
    /// # Errors
    /// When not even the state can be kept.
    pub fn apply(&self) -> io::Result<State> {
        let path = self.path(STATE);
        let mut state = State::load(&path);
        state.faults.clear();
        let found = self.source.read();
        match found.as_ref().map(|bytes| bytes.as_deref()) {
            Ok(Some(bytes)) => self.given(bytes, &mut state),
            Ok(None) => self.nothing("guestinfo holds none", &mut state),
            Err(error) => self.nothing(&format!("guestinfo can't be asked: {error}"), &mut state),
        }
        state.save(&path)?;
        // After everything is kept: what is blanked can't be taken again.
        if let Ok(Some(bytes)) = &found
            && matches!(self.source, Source::Guestinfo(_))
            && !self.source.blank(bytes).unwrap_or(false)
        {
            state.faults.push(Fault::new(reasons::NOT_BLANKED, "guestinfo.ovfEnv"));
            state.save(&path)?;
        }
        Ok(state)
    }

    /// No properties: normal for an appliance that has its configuration.
    fn nothing(&self, why: &str, state: &mut State) {
        if state.configured.is_none() {
            state.faults.push(Fault::new(reasons::NO_ENVIRONMENT, why));
            self.make_reachable(&settings::read(&Environment::default()), state);
        }
    }

    fn given(&self, bytes: &[u8], state: &mut State) {
        let environment = match Environment::parse(bytes) {
            Ok(environment) => environment,
            Err(error) if state.configured.is_some() => {
                return state.faults.push(Fault::new(reasons::UNREADABLE, error.to_string()));
            }
            Err(error) => {
                state.faults.push(Fault::new(reasons::UNREADABLE, error.to_string()));
                return self.make_reachable(&settings::read(&Environment::default()), state);
            }
        };
        let settings = settings::read(&environment);
        if state.configured.is_some_and(|generation| generation == settings.generation) {
            return;
        }
        state.faults.extend(settings.faults.iter().cloned());
        if state.configured.is_none() || settings.service.is_some() {
            self.make_reachable(&settings, state);
        }
        let Some(service) = &settings.service else { return };
        match self.configure(&settings, service, state.configured.is_none()) {
            Ok(None) => {
                state.configured = Some(settings.generation);
                state.port = service.port;
            }
            Ok(Some(why)) => state.faults.push(Fault::new(reasons::REFUSED, why)),
            Err(error) => state.faults.push(Fault::new(reasons::WRITE, error.to_string())),
        }
    }

    /// Network, names and console: what a person needs to reach the appliance, whatever the rest is.
    fn make_reachable(&self, settings: &Settings, state: &mut State) {
        state.hostname.clone_from(&settings.hostname);
        let files = [
            ("etc/hostname", format!("{}\n", settings.hostname)),
            ("etc/hosts", config::hosts(&settings.hostname)),
            (NETWORK, config::network(&settings.network)),
        ];
        for (name, text) in files {
            if let Err(error) = install(&self.path(name), text.as_bytes(), 0o644) {
                state.faults.push(Fault::new(reasons::WRITE, format!("/{name}: {error}")));
            }
        }
        if let Some(console) = &settings.console
            && let Err(error) = self.set_password(&console.0)
        {
            state.faults.push(Fault::new(reasons::WRITE, format!("the password of root: {error}")));
        }
    }

    /// New until the appliance is configured, since the host name may change until then; after that the same for ever: who knows the
    /// fingerprint must not lose it by a change of a property.
    fn certify(&self, settings: &Settings, new: bool) -> io::Result<()> {
        let (certificate, key) = (self.path(ETC).join(config::CERTIFICATE), self.path(ETC).join(config::KEY));
        if !new && certificate.exists() && key.exists() {
            return Ok(());
        }
        let address = settings.network.address.map(|prefix| prefix.address);
        let pair = certificate::create(&settings.hostname, address).map_err(io::Error::other)?;
        install(&key, pair.key.as_bytes(), 0o600)?;
        install(&certificate, pair.certificate.as_bytes(), 0o644)
    }

    /// Why the agent does not take it, if so; then nothing of what it runs with has changed.
    fn configure(&self, settings: &Settings, service: &Service, first: bool) -> io::Result<Option<String>> {
        self.certify(settings, first)?;
        let etc = self.path(ETC);
        let trial = etc.join("new");
        fs::remove_dir_all(&trial).or_else(absent_is_fine)?;
        let mut files = vec![
            (config::CLIENT_CA, service.client_ca.as_bytes(), 0o644),
            (config::PASSWORD, service.password.as_bytes(), 0o600),
        ];
        if let Trust::Authority(pem) = &service.trust {
            files.push((config::VCENTER_CA, pem.as_bytes(), 0o644));
        }
        for (name, content, mode) in &files {
            install(&trial.join(name), content, *mode)?;
        }
        for (name, mode) in [(config::CERTIFICATE, 0o644), (config::KEY, 0o600)] {
            install(&trial.join(name), &fs::read(etc.join(name))?, mode)?;
        }
        let toml = |folder: &Path| config::agent(service, &folder.display().to_string()).map_err(io::Error::other);
        let draft = trial.join("agent.toml");
        install(&draft, toml(&trial)?.as_bytes(), 0o644)?;
        let refused = self.check(&draft)?;
        if refused.is_none() {
            for (name, content, mode) in &files {
                install(&etc.join(name), content, *mode)?;
            }
            // Of the system that runs, not of the folder that stands for its root.
            let text = format!(
                "# Made by hotadd-firstboot, generation {}.\n{}",
                settings.generation,
                toml(&Path::new("/").join(ETC))?
            );
            install(&etc.join("agent.toml"), text.as_bytes(), 0o644)?;
        }
        fs::remove_dir_all(&trial)?;
        Ok(refused)
    }

    fn check(&self, draft: &Path) -> io::Result<Option<String>> {
        let output = Command::new(&self.agent)
            .args(["check-config", "--config"])
            .arg(draft)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.agent.display())))?;
        if output.status.success() {
            return Ok(None);
        }
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Some(text))
    }

    fn set_password(&self, password: &str) -> io::Result<()> {
        let mut child = Command::new(&self.chpasswd).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            writeln!(input, "root:{password}")?;
        }
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("chpasswd: {status}"))) }
    }

    /// The fingerprint of the service's certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let pem = fs::read_to_string(self.path(ETC).join(config::CERTIFICATE)).ok()?;
        certificate::fingerprint(&pem)
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// A file that is there whole or not at all, after a power cut too.
pub(crate) fn install(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".part");
    let new = PathBuf::from(new);
    fs::remove_file(&new).or_else(absent_is_fine)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
