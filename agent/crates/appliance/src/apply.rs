//! The first boot, and every boot after it: what is done in which order. Everything is written below a root folder, so that tests have one.
//!
//! ```text
//! copy? ─▶ read ─▶ settings ─▶ not configured: network, host name, console (also with faults) ─▶ files, key included ─▶ the agent checks them
//!            │                                                         │ refuses: nothing changed                       │
//!            │                                                         ▼                                                ▼
//!            └─▶ blank the passwords (always) ◀───────────────────── state ◀── agent.toml ◀── configured before: network, host name, console
//! ```
use std::path::PathBuf;

use crate::{
    environment::Environment,
    files::install,
    properties,
    reach::NETWORK,
    reasons::{self, Fault},
    settings,
    source::Source,
    state::{Configured, State},
};

/// The folder of the agent's files, below the root.
pub const ETC: &str = "etc/hotadd";
/// Where [`State`] is kept, below the root.
pub const STATE: &str = "var/lib/hotadd-appliance/state.json";

/// The rule of [`crate::own_disks`], below the root.
pub const OWN_DISKS: &str = "run/udev/rules.d/00-hotadd-own-disks.rules";
/// There: this boot found no properties.
pub const ASK: &str = "run/hotadd-appliance/no-properties";

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
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    pub(crate) fn etc(&self, name: &str) -> PathBuf {
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
        // What a power cut left holds a key and a password.
        if let Err(error) = self.tidy() {
            state.faults.push(Fault::new(reasons::WRITE, format!("/{ETC}: {error}")));
        }
        // First: whatever hangs after this, a copy does not serve as the original.
        let left = self.leave_the_original(&mut state);
        let found = self.source.ask();
        match (left, found.as_ref().map(|bytes| bytes.as_deref())) {
            (Err(error), _) => {
                state.faults.push(Fault::new(reasons::WRITE, format!("a copy is not cleared: {error}")));
                // The original runs, and has its address and name.
                self.make_reachable_somehow(&mut state);
            }
            (Ok(()), Ok(Some(bytes))) => self.given(bytes, &mut state),
            (Ok(()), Ok(None)) => self.nothing(&mut state),
            (Ok(()), Err(error)) => self.unanswered(&error.to_string(), &mut state),
        }
        // Whatever came before: agent.toml has what was taken, and nobody else needs a password in guestinfo.
        let blanked = || match &found {
            Ok(Some(bytes)) => self.source.blank(bytes).unwrap_or(false),
            Ok(None) => true,
            // It may hold one, and nobody can look.
            Err(_) => false,
        };
        if matches!(self.source, Source::Guestinfo(_)) && !blanked() {
            state.faults.push(Fault::new(reasons::NOT_BLANKED, "guestinfo.ovfEnv"));
        }
        if let Err(error) = state.save(&path) {
            state.faults.push(Fault::new(reasons::WRITE, format!("/{STATE}: {error}")));
        }
        state
    }

    /// No properties: normal for an appliance that has its configuration.
    fn nothing(&self, state: &mut State) {
        if self.configured().0 == Configured::No {
            // Then a person is asked on the console (getty@tty1.service).
            if let Err(error) = install(&self.path(ASK), b"", 0o644) {
                state.faults.push(Fault::new(reasons::WRITE, format!("/{ASK}: {error}")));
            }
            state.faults.push(Fault::new(reasons::NO_ENVIRONMENT, "guestinfo holds none"));
            self.make_reachable_somehow(state);
        }
    }

    /// There may be properties all the same: nobody is asked instead, and what an earlier boot made of them stays.
    fn unanswered(&self, why: &str, state: &mut State) {
        if self.configured().0 == Configured::No {
            state.faults.push(Fault::new(reasons::UNREADABLE, format!("guestinfo does not answer: {why}")));
            if !self.path(NETWORK).exists() {
                self.make_reachable_somehow(state);
            }
        }
    }

    fn given(&self, bytes: &[u8], state: &mut State) {
        let configured = self.configured().0;
        let unconfigured = configured == Configured::No;
        let settings = match Environment::parse(bytes) {
            Ok(environment) => settings::read(&environment),
            Err(_) if configured == Configured::ByHand => return,
            Err(error) => {
                state.faults.push(Fault::new(reasons::UNREADABLE, error.to_string()));
                if unconfigured {
                    self.make_reachable_somehow(state);
                }
                return;
            }
        };
        // Whatever comes of them, also by a person's hand later: a copy of this machine must not take them for its own.
        state.seen = Some(settings.generation);
        if [Configured::ByHand, Configured::Properties(settings.generation)].contains(&configured) {
            return;
        }
        if unconfigured && state.spent.contains(&settings.generation) {
            // Its address and name may be those of the original, which runs.
            let of = format!("{}.{} {}", properties::CLASS, properties::GENERATION, settings.generation);
            state.faults.retain(|fault| fault.code != reasons::COPY.id);
            state.faults.push(Fault::new(reasons::COPY, format!("these properties ({of}) are those of the original")));
            return self.make_reachable_somehow(state);
        }
        state.faults.extend(settings.faults.iter().cloned());
        if unconfigured {
            self.make_reachable(&settings, state);
        }
        let Some(service) = &settings.service else { return };
        let mark = Configured::mark(settings.generation);
        // An appliance that serves keeps its network, name and password too if the agent refuses the rest.
        let before_last = || if unconfigured { Ok(()) } else { self.reach_wholly(&settings) };
        match self.configure(&settings, service, unconfigured, &mark, before_last) {
            Ok(None) => {
                state.reached(&settings);
                // The configuration is in place, whatever this comes to; the next boot tries again.
                let _ = self.tidy();
            }
            Ok(Some(why)) => state.faults.push(Fault::new(reasons::REFUSED, why)),
            Err(error) => state.faults.push(Fault::new(reasons::WRITE, error.to_string())),
        }
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
pub(crate) mod tests;
