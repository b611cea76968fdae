//! A configuration: its files, tried out by the agent and put in place. Network, names and passwords of the system are not here.
//!
//! ```text
//! files in new/ ─▶ the agent checks them ─▶ new/ becomes files-N/ ─▶ agent.toml names files-N/ ─▶ what nothing names any more goes
//!                     └ refuses: new/ goes                              └ the only switch: before it the old configuration is whole
//! ```
use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    apply::{ETC, Host, STATE},
    certificate, config,
    files::{absent_is_fine, install, private_folder, sync},
    settings::{Service, Settings, Trust},
    state::{Configured, SET_UP, State},
};

pub(crate) const AGENT: &str = "agent.toml";
/// The one that `setup` replaced. Whoever renames it back finds its files.
pub(crate) const OLD: &str = "agent.toml.old";
/// Where files are tried before they are put in place.
pub(crate) const TRIAL: &str = "new";
/// Begins the name of the folder of a configuration; a number follows.
const FOLDER: &str = "files-";
/// In it: files beside agent.toml, where releases before had them, that it takes the place of.
const REPLACES: &str = "replaces";

impl Host {
    /// Whether there is a configuration, and the text of it.
    #[must_use]
    pub fn configured(&self) -> (Configured, String) {
        let text = fs::read(self.etc(AGENT)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (Configured::of(text.as_deref()), text.unwrap_or_default())
    }

    /// Certificate and key of the configuration that is there; the usual place if that does not tell.
    fn pair_files(&self) -> (PathBuf, PathBuf) {
        let table = self.configured().1.parse::<toml::Table>().unwrap_or_default();
        let named = |key: &str, usual: &str| {
            let path = table.get("tls").and_then(|tls| tls.get(key)?.as_str());
            // Below the root; a relative name is the agent's, whose folder is that of the system.
            path.map_or_else(|| self.etc(usual), |path| self.path(path.trim_start_matches('/')))
        };
        (named("certificate_file", config::CERTIFICATE), named("key_file", config::KEY))
    }

    /// Certificate and key. New until the appliance is configured, since the host name may change until then; after that the same for
    /// ever: who knows the fingerprint must not lose it by a change of a property.
    fn pair(&self, settings: &Settings, new: bool) -> io::Result<certificate::Pair> {
        if !new {
            let (certificate, key) = self.pair_files();
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

    /// Keys of agent.toml for which [`Self::set_up`] has no question: they would be gone.
    ///
    /// # Errors
    /// A text that can't be read: nobody knows what it says.
    pub fn not_asked_for(&self) -> io::Result<Vec<String>> {
        let table = self.configured().1.parse::<toml::Table>();
        let table =
            table.map_err(|_| io::Error::other(format!("/{ETC}/{AGENT} is no TOML; correct it, or rename it")))?;
        Ok(config::beyond(&table))
    }

    /// What a person answered (see [`crate::setup`]): as properties would do it, but kept from them. A certificate that is there stays.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn set_up(&self, settings: &Settings, service: &Service, appliance: bool) -> io::Result<Option<String>> {
        let (certificate, key) = self.pair_files();
        let new = !(certificate.exists() && key.exists());
        // Before agent.toml: once that is there nobody is asked again, and whoever can't log in can't repair the rest.
        let before_last = || {
            if appliance {
                self.reach_as_asked(settings)?;
            }
            self.keep_the_old()
        };
        self.configure(settings, service, new, SET_UP, before_last)
    }

    fn keep_the_old(&self) -> io::Result<()> {
        if !self.has_settings() {
            return Ok(());
        }
        let mode = fs::metadata(self.etc(AGENT))?.permissions().mode();
        install(&self.etc(OLD), &fs::read(self.etc(AGENT))?, mode & 0o777)
    }

    fn reach_as_asked(&self, settings: &Settings) -> io::Result<()> {
        let path = self.path(STATE);
        let mut state = State::load(&path);
        self.reach_wholly(settings)?;
        state.faults.clear();
        state.reached(settings);
        state.save(&path)
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
        if !matches!(refused, Ok(None)) {
            // It holds a key and a password.
            fs::remove_dir_all(&trial).or_else(absent_is_fine)?;
            return refused;
        }
        let folder = self.keep_the_trial()?;
        let switched = before_last().and_then(|()| {
            // Of the system that runs, not of the folder that stands for its root.
            let text = mark.to_owned() + &toml(service, &Path::new("/").join(ETC).join(&folder))?;
            install(&self.etc(AGENT), text.as_bytes(), 0o644)
        });
        if let Err(error) = switched {
            // Unless agent.toml names it all the same. What can't be removed is found by the next boot.
            if let Ok(used) = self.in_use() {
                let _ = self.discard(&folder, &used.unwrap_or_default());
            }
            return Err(error);
        }
        Ok(None)
    }

    /// What the agent says against these files, which are laid into `trial`.
    fn try_out(&self, trial: &Path, files: &[(&str, &str, u32)], service: &Service) -> io::Result<Option<String>> {
        private_folder(&self.path(ETC))?;
        private_folder(trial)?;
        for (name, content, mode) in files {
            install(&trial.join(name), content.as_bytes(), *mode)?;
        }
        let draft = trial.join(AGENT);
        install(&draft, toml(service, trial)?.as_bytes(), 0o644)?;
        self.check(&draft)
    }

    /// The files that were tried get their own folder, whose name is given.
    fn keep_the_trial(&self) -> io::Result<String> {
        let (trial, etc) = (self.etc(TRIAL), self.path(ETC));
        fs::remove_file(trial.join(AGENT))?;
        let replaced = self.flat_files_of_ours();
        if !replaced.is_empty() {
            install(&trial.join(REPLACES), replaced.join("\n").as_bytes(), 0o600)?;
        }
        sync(&trial)?;
        let mut names = (1u64..).map(|number| format!("{FOLDER}{number}"));
        let free = names.find(|name| etc.join(name).symlink_metadata().is_err());
        let name = free.ok_or_else(|| io::Error::other("no name is free"))?;
        fs::rename(&trial, etc.join(&name))?;
        sync(&etc)?;
        Ok(name)
    }

    /// Whether agent.toml is what a first boot or `setup` wrote.
    fn is_ours(&self) -> bool {
        let (configured, text) = self.configured();
        matches!(configured, Configured::Properties(_)) || text.starts_with(SET_UP)
    }

    /// Files beside agent.toml that it names and that a release before wrote: a person's own are not touched.
    fn flat_files_of_ours(&self) -> Vec<&'static str> {
        if !self.is_ours() {
            return Vec::new();
        }
        let text = self.configured().1;
        // Any of them alone is a person's: a pair of the site's, which something renews there.
        let whole = [config::CERTIFICATE, config::KEY, config::CLIENT_CA, config::PASSWORD];
        if !whole.iter().all(|name| flat(&text, name)) {
            return Vec::new();
        }
        config::FILES.into_iter().filter(|name| flat(&text, name)).collect()
    }

    /// What agent.toml and the one before it say; `None` without one.
    fn in_use(&self) -> io::Result<Option<String>> {
        let read = |name: &str| match fs::read(self.etc(name)) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let Some(text) = read(AGENT)? else { return Ok(None) };
        Ok(Some(text + "\n" + &read(OLD)?.unwrap_or_default()))
    }

    /// Removes what a power cut left of a trial, the folders of configurations that are no more, and the flat files that they took the
    /// place of. An agent.toml that is a person's, or put elsewhere for a while, may come to name a folder again: then all of them stay.
    /// Not while an agent runs that may have begun with them: it reads its password and certificates again by their names.
    ///
    /// # Errors
    /// What can't be removed is found by the next call.
    pub fn tidy(&self) -> io::Result<()> {
        fs::remove_dir_all(self.etc(TRIAL)).or_else(absent_is_fine)?;
        let Some(used) = self.in_use()?.filter(|_| self.is_ours()) else { return Ok(()) };
        for entry in fs::read_dir(self.path(ETC))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(FOLDER).unwrap_or_default();
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            if used.contains(&format!("{name}/")) {
                self.remove_replaced(&name, &used)?;
            }
            self.discard(&name, &used)?;
        }
        sync(&self.path(ETC))
    }

    fn remove_replaced(&self, folder: &str, used: &str) -> io::Result<()> {
        let list = fs::read_to_string(self.etc(folder).join(REPLACES)).unwrap_or_default();
        for file in config::FILES.into_iter().filter(|file| list.lines().any(|line| line == *file) && !flat(used, file))
        {
            fs::remove_file(self.etc(file)).or_else(absent_is_fine)?;
        }
        Ok(())
    }

    /// A folder that nothing names is removed.
    fn discard(&self, folder: &str, used: &str) -> io::Result<()> {
        if used.contains(&format!("{folder}/")) {
            return Ok(());
        }
        fs::remove_dir_all(self.etc(folder)).or_else(absent_is_fine)
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
        let pem = fs::read_to_string(self.pair_files().0).ok()?;
        certificate::fingerprint(&pem)
    }
}

/// Whether a text names a file as one beside agent.toml.
fn flat(text: &str, name: &str) -> bool {
    ['"', '\''].iter().any(|quote| text.contains(&format!("/{ETC}/{name}{quote}")))
}

fn toml(service: &Service, folder: &Path) -> io::Result<String> {
    config::agent(service, &folder.display().to_string()).map_err(io::Error::other)
}

#[cfg(test)]
#[path = "configure_tests.rs"]
mod tests;
