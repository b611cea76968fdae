//! A configuration: its files, tried out by the agent and put in place, agent.toml last. Network, names and passwords of the system are not here.
use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    apply::{ETC, Host, STATE},
    certificate, config,
    files::{absent_is_fine, install},
    settings::{Service, Settings, Trust},
    state::{Configured, State},
};

pub(crate) const AGENT: &str = "agent.toml";
/// Where files are tried before they are put in place.
pub(crate) const TRIAL: &str = "new";

impl Host {
    /// Whether there is a configuration, and the text of it.
    #[must_use]
    pub fn configured(&self) -> (Configured, String) {
        let text = fs::read(self.etc(AGENT)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (Configured::of(text.as_deref()), text.unwrap_or_default())
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
    pub(crate) fn configure(
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
