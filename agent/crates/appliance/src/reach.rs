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
    /// Everything that can be done; what can't be becomes a fault.
    pub(crate) fn make_reachable(&self, settings: &Settings, state: &mut State) {
        state.hostname.clone_from(&settings.hostname);
        for fault in self.reach(settings) {
            state.faults.push(Fault::new(reasons::WRITE, fault));
        }
    }

    /// By DHCP, without a name or a password of its own.
    pub(crate) fn make_reachable_somehow(&self, state: &mut State) {
        self.make_reachable(&settings::read(&Environment::default()), state);
    }

    /// All of it, or an error.
    pub(crate) fn reach_wholly(&self, settings: &Settings) -> io::Result<()> {
        match self.reach(settings).into_iter().next() {
            Some(fault) => Err(io::Error::other(fault)),
            None => Ok(()),
        }
    }

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
        let mut faults: Vec<_> = files.into_iter().filter_map(failed).collect();
        if let Err(error) = self.set_password(settings.console.as_ref()) {
            faults.push(format!("the password of root: {error}"));
        }
        faults
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
