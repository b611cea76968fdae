//! The first boot, and every boot after it: what is done in which order. Everything is written below a root folder, so that tests have one.
//!
//! ```text
//! copy? ─▶ read ─▶ settings ─▶ network, host name, console ─▶ files in new/, key included ─▶ the agent checks them ─▶ in place, agent.toml last
//!                                  (also with faults)                                            │ refuses: nothing changed
//!            └─▶ blank the passwords (always) ◀── state ◀────────────────────────────────────────┘
//! ```
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    certificate, config,
    environment::Environment,
    properties,
    reasons::{self, Fault},
    settings::{self, Console, Service, Settings, Trust},
    source::Source,
    state::{Configured, State},
};

/// The folder of the agent's files, below the root.
pub const ETC: &str = "etc/hotadd";
const AGENT: &str = "agent.toml";
/// Below it, where files are tried before they are put in place.
const TRIAL: &str = "new";
/// Where [`State`] is kept, below the root.
pub const STATE: &str = "var/lib/hotadd-appliance/state.json";
const NETWORK: &str = "etc/systemd/network/10-hotadd.network";

/// The rule of [`crate::own_disks`], below the root.
pub const OWN_DISKS: &str = "run/udev/rules.d/00-hotadd-own-disks.rules";
/// There: this boot found no properties.
pub const ASK: &str = "run/hotadd-appliance/no-properties";
/// The agent's journal of duties, below the root.
const JOURNAL: &str = "var/lib/hotadd";
/// An empty one is filled at boot (machine-id(5)).
const MACHINE_ID: &str = "etc/machine-id";
/// In it, the agent's own mark of a journal that may have forgotten something: the agent then looks in vCenter for disks that no record names.
const FORGOTTEN: &str = "damaged";

/// Where and with what.
#[derive(Debug, Clone)]
pub struct Host {
    pub root: PathBuf,
    pub source: Source,
    /// Identity of this virtual machine, if it can be told.
    pub machine: Option<String>,
    /// `hotadd-agent`
    pub agent: PathBuf,
    /// `chpasswd`
    pub chpasswd: PathBuf,
}

impl Host {
    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    fn etc(&self, name: &str) -> PathBuf {
        self.path(ETC).join(name)
    }

    /// Does everything and tells what it came to.
    #[must_use]
    pub fn apply(&self) -> State {
        let path = self.path(STATE);
        let mut state = State::load(&path);
        state.faults.clear();
        if !self.path(OWN_DISKS).exists() {
            state.faults.push(Fault::new(reasons::OWN_DISKS, format!("/{OWN_DISKS}")));
        }
        // What a power cut left of a trial holds a key and a password.
        if let Err(error) = fs::remove_dir_all(self.etc(TRIAL)).or_else(absent_is_fine) {
            state.faults.push(Fault::new(reasons::WRITE, format!("/{ETC}/{TRIAL}: {error}")));
        }
        // First: whatever hangs after this, a copy does not serve as the original.
        let left = self.leave_the_original(&mut state);
        let found = self.source.read();
        match (left, found.as_ref().map(|bytes| bytes.as_deref())) {
            (Err(error), _) => state.faults.push(Fault::new(reasons::WRITE, format!("a copy is not cleared: {error}"))),
            (Ok(()), Ok(Some(bytes))) => self.given(bytes, &mut state),
            (Ok(()), Ok(None)) => self.nothing("guestinfo holds none", &mut state),
            (Ok(()), Err(error)) => self.nothing(&format!("guestinfo can't be asked: {error}"), &mut state),
        }
        // Whatever came before: agent.toml has what was taken, and nobody else needs a password in guestinfo.
        if let Ok(Some(bytes)) = &found
            && matches!(self.source, Source::Guestinfo(_))
            && !self.source.blank(bytes).unwrap_or(false)
        {
            state.faults.push(Fault::new(reasons::NOT_BLANKED, "guestinfo.ovfEnv"));
        }
        if let Err(error) = state.save(&path) {
            state.faults.push(Fault::new(reasons::WRITE, format!("/{STATE}: {error}")));
        }
        state
    }

    /// Whether there is a configuration, and the text of it.
    #[must_use]
    pub fn configured(&self) -> (Configured, String) {
        let text = fs::read(self.etc(AGENT)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (Configured::of(text.as_deref()), text.unwrap_or_default())
    }

    /// Whether this machine may serve with the configuration that is there: false on a copy that could not be cleared.
    #[must_use]
    pub fn is_its_own(&self) -> bool {
        let before = State::load(&self.path(STATE)).machine;
        self.machine.is_none() || before.is_none() || before == self.machine
    }

    /// A copy of a configured appliance would serve with its key, at its address, under its name. It keeps nothing of it; the journal,
    /// whose duties are the original's, is put aside. Should it be the original after all, under a new UUID, its disks are looked for in vCenter.
    fn leave_the_original(&self, state: &mut State) -> io::Result<()> {
        let Some(now) = &self.machine else { return Ok(()) };
        let Some(before) = state.machine.clone().filter(|before| before != now) else {
            state.machine = Some(now.clone());
            return Ok(());
        };
        let configured = self.configured().0;
        state.spent = match configured {
            Configured::Properties(generation) => Some(generation),
            Configured::ByHand => state.seen.or(state.spent),
            Configured::No => state.spent,
        };
        // First what makes it serve.
        fs::remove_file(self.etc(AGENT)).or_else(absent_is_fine)?;
        fs::remove_dir_all(self.path(ETC)).or_else(absent_is_fine)?;
        private_folder(&self.path(ETC))?;
        let name: String = before.chars().filter(char::is_ascii_alphanumeric).collect();
        let aside = self.path("var/lib/hotadd-appliance").join(format!("journal-of-{name}"));
        fs::create_dir_all(self.path("var/lib/hotadd-appliance"))?;
        if !aside.exists() {
            fs::rename(self.path(JOURNAL), aside).or_else(absent_is_fine)?;
        }
        private_folder(&self.path(JOURNAL))?;
        if configured != Configured::No {
            install(&self.path(JOURNAL).join(FORGOTTEN), b"", 0o600)?;
        }
        // Of the next boot: this one's is in use. DHCP tells machines apart by it.
        if self.path(MACHINE_ID).exists() {
            fs::write(self.path(MACHINE_ID), b"")?;
        }
        // Its own file is written here, with the name of the new machine: a power cut before does all this again.
        state.machine = Some(now.clone());
        state.save(&self.path(STATE))?;
        if configured != Configured::No {
            state.faults.push(Fault::new(reasons::COPY, "this virtual machine is a copy of a configured appliance"));
        }
        Ok(())
    }

    /// No properties: normal for an appliance that has its configuration.
    fn nothing(&self, why: &str, state: &mut State) {
        if self.configured().0 == Configured::No {
            // Then a person is asked on the console (getty@tty1.service).
            if let Err(error) = install(&self.path(ASK), b"", 0o644) {
                state.faults.push(Fault::new(reasons::WRITE, format!("/{ASK}: {error}")));
            }
            state.faults.push(Fault::new(reasons::NO_ENVIRONMENT, why));
            self.make_reachable(&settings::read(&Environment::default()), state);
        }
    }

    fn given(&self, bytes: &[u8], state: &mut State) {
        let configured = self.configured().0;
        if configured == Configured::ByHand {
            // A copy of this one must not take them for its own.
            state.seen = Environment::parse(bytes).ok().map(|environment| settings::read(&environment).generation);
            return;
        }
        let unconfigured = configured == Configured::No;
        let settings = match Environment::parse(bytes) {
            Ok(environment) => settings::read(&environment),
            Err(error) => {
                state.faults.push(Fault::new(reasons::UNREADABLE, error.to_string()));
                if unconfigured {
                    self.make_reachable(&settings::read(&Environment::default()), state);
                }
                return;
            }
        };
        if configured == Configured::Properties(settings.generation) {
            return;
        }
        if unconfigured && state.spent == Some(settings.generation) {
            // Its address and name may be those of the original, which runs.
            let of = format!("{}.{} {}", properties::CLASS, properties::GENERATION, settings.generation);
            state.faults.retain(|fault| fault.code != reasons::COPY.id);
            state.faults.push(Fault::new(reasons::COPY, format!("these properties ({of}) are those of the original")));
            return self.make_reachable(&settings::read(&Environment::default()), state);
        }
        state.faults.extend(settings.faults.iter().cloned());
        if unconfigured || settings.service.is_some() {
            self.make_reachable(&settings, state);
        }
        let Some(service) = &settings.service else { return };
        let mark = Configured::mark(settings.generation);
        match self.configure(&settings, service, unconfigured, &mark, || Ok(())) {
            Ok(None) => {}
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
        if let Err(error) = self.set_password(settings.console.as_ref()) {
            state.faults.push(Fault::new(reasons::WRITE, format!("the password of root: {error}")));
        }
    }

    /// Certificate and key. New until the appliance is configured, since the host name may change until then; after that the same for
    /// ever: who knows the fingerprint must not lose it by a change of a property.
    fn pair(&self, settings: &Settings, new: bool) -> io::Result<certificate::Pair> {
        if !new {
            let (certificate, key) = (self.etc(config::CERTIFICATE), self.etc(config::KEY));
            return Ok(certificate::Pair {
                certificate: fs::read_to_string(certificate)?,
                key: fs::read_to_string(key)?,
            });
        }
        let address = settings.network.address.map(|prefix| prefix.address);
        certificate::create(&settings.hostname, address).map_err(io::Error::other)
    }

    /// Whether agent.toml says anything: the package's own is all comments.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        let (configured, text) = self.configured();
        configured != Configured::No && text.parse::<toml::Table>().map_or(true, |table| !table.is_empty())
    }

    /// What a person answered (see [`crate::setup`]): as properties would do it, but kept from them. A certificate that is there stays.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn set_up(&self, settings: &Settings, service: &Service, appliance: bool) -> io::Result<Option<String>> {
        let new = !(self.etc(config::CERTIFICATE).exists() && self.etc(config::KEY).exists());
        if self.has_settings() {
            fs::copy(self.etc(AGENT), self.etc("agent.toml.old"))?;
        }
        // Before agent.toml: once that is there nobody is asked again, and whoever can't log in can't repair the rest.
        let reach = || if appliance { self.reach_all(settings) } else { Ok(()) };
        self.configure(settings, service, new, "# Made by hotadd-agent setup.\n", reach)
    }

    /// All of [`Self::make_reachable`], or an error.
    fn reach_all(&self, settings: &Settings) -> io::Result<()> {
        let path = self.path(STATE);
        let mut state = State::load(&path);
        state.faults.clear();
        self.make_reachable(settings, &mut state);
        match state.faults.first() {
            Some(fault) => Err(io::Error::other(fault.message.clone())),
            None => state.save(&path),
        }
    }

    /// Why the agent does not take it, if so; then nothing of what it runs with has changed.
    /// `before_last`: done when everything but agent.toml is in place.
    fn configure(
        &self,
        settings: &Settings,
        service: &Service,
        new: bool,
        mark: &str,
        before_last: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Option<String>> {
        let pair = self.pair(settings, new)?;
        let mut files = vec![
            (config::KEY, &*pair.key, 0o600),
            (config::CERTIFICATE, &*pair.certificate, 0o644),
            (config::CLIENT_CA, &*service.client_ca, 0o644),
            (config::PASSWORD, &*service.password, 0o600),
        ];
        if let Trust::Authority(pem) = &service.trust {
            files.push((config::VCENTER_CA, pem, 0o644));
        }
        let trial = self.etc(TRIAL);
        fs::remove_dir_all(&trial).or_else(absent_is_fine)?;
        let refused = self.try_out(&trial, &files, service);
        // It holds a key and a password, whatever came of it.
        fs::remove_dir_all(&trial).or_else(absent_is_fine)?;
        if let Some(why) = refused? {
            return Ok(Some(why));
        }
        for (name, content, mode) in &files {
            install(&self.etc(name), content.as_bytes(), *mode)?;
        }
        before_last()?;
        // Of the system that runs, not of the folder that stands for its root.
        let text = mark.to_owned() + &toml(service, &Path::new("/").join(ETC))?;
        install(&self.etc(AGENT), text.as_bytes(), 0o644)?;
        Ok(None)
    }

    /// What the agent says against these files, which are laid into `trial`.
    fn try_out(&self, trial: &Path, files: &[(&str, &str, u32)], service: &Service) -> io::Result<Option<String>> {
        for (name, content, mode) in files {
            install(&trial.join(name), content.as_bytes(), *mode)?;
        }
        let draft = trial.join(AGENT);
        install(&draft, toml(service, trial)?.as_bytes(), 0o644)?;
        self.check(&draft)
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

    /// Without one nobody can log in, whatever was set before.
    fn set_password(&self, password: Option<&Console>) -> io::Result<()> {
        let (arguments, line): (&[&str], _) = match password {
            Some(Console(password)) => (&[], format!("root:{password}")),
            None => (&["--encrypted"], "root:!".to_owned()),
        };
        let mut child =
            Command::new(&self.chpasswd).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            writeln!(input, "{line}")?;
        }
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("chpasswd: {status}"))) }
    }

    /// The fingerprint of the service's certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let pem = fs::read_to_string(self.etc(config::CERTIFICATE)).ok()?;
        certificate::fingerprint(&pem)
    }
}

fn toml(service: &Service, folder: &Path) -> io::Result<String> {
    config::agent(service, &folder.display().to_string()).map_err(io::Error::other)
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
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
