//! Network, names and the console's password: what a person needs to reach the appliance, whatever the rest is. The agent's files are not here.
use std::{
    io,
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{
    apply::Host,
    config,
    environment::Environment,
    files::install,
    reasons::{self, Fault},
    settings::{self, Console, Settings},
    state::State,
};

pub(crate) const NETWORK: &str = "etc/systemd/network/10-hotadd.network";

impl Host {
    /// Everything that can be done; what can't be becomes a fault. A reboot inside the guest finds no passwords in its properties, since
    /// they were taken before: then root's stays.
    pub(crate) fn make_reachable(&self, settings: &Settings, state: &mut State) {
        state.hostname.clone_from(&settings.hostname);
        let mut faults = self.reach(settings);
        if !(settings.blanked && state.console) {
            state.console = settings.console.is_some();
            faults.extend(self.set_password(settings.console.as_ref()).err().map(of_root));
        }
        state.faults.extend(faults.into_iter().map(|fault| Fault::new(reasons::WRITE, fault)));
    }

    /// By DHCP, without a name or a password of its own.
    pub(crate) fn make_reachable_somehow(&self, state: &mut State) {
        self.make_reachable(&settings::read(&Environment::default()), state);
    }

    /// All of it, or an error.
    pub(crate) fn reach_wholly(&self, settings: &Settings) -> io::Result<()> {
        if let Some(fault) = self.reach(settings).into_iter().next() {
            return Err(io::Error::other(fault));
        }
        self.set_password(settings.console.as_ref()).map_err(|error| io::Error::other(of_root(error)))
    }

    /// Files of the network and of names that can't be written.
    fn reach(&self, settings: &Settings) -> Vec<String> {
        let files = [
            ("etc/hostname", format!("{}\n", settings.hostname)),
            ("etc/hosts", config::hosts(&settings.hostname)),
            (NETWORK, config::network(&settings.network)),
        ];
        let failed = |(name, text): (&str, String)| {
            let error = install(&self.path(name), text.as_bytes(), 0o644).err()?;
            Some(format!("/{name}: {error}"))
        };
        files.into_iter().filter_map(failed).collect()
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
}

fn of_root(error: io::Error) -> String {
    format!("the password of root: {error}")
}
