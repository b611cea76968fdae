//! What a copy of an appliance does with what it has of the original: it keeps nothing. Nothing of a new configuration happens here.
//!
//! ```text
//! another machine ─▶ noted (generation spent, leaving) ─▶ agent.toml, all of /etc/hotadd ─▶ journal aside ─▶ mark ─▶ own name, leaving ends
//!                        └── after a power cut or an error the next boot goes on here, whatever is left ──┘
//! ```
use std::{fs, io, path::PathBuf};

use crate::{
    apply::{ETC, Host, STATE},
    configure::AGENT,
    files::{absent_is_fine, install, private_folder, sync},
    reach::NETWORK,
    reasons::{self, Fault},
    state::{Configured, Leaving, State},
};

/// The agent's journal of duties, below the root.
const JOURNAL: &str = "var/lib/hotadd";
/// Where it is put aside.
const ASIDE: &str = "var/lib/hotadd-appliance";
/// In it, the agent's own mark of a journal that may have forgotten something: the agent then looks in vCenter for disks that no record names.
pub(crate) const FORGOTTEN: &str = "damaged";
/// An empty one is filled at boot (machine-id(5)).
const MACHINE_ID: &str = "etc/machine-id";

impl Host {
    /// Whether this machine may serve with the configuration that is there: false on a copy that is not cleared, or not wholly.
    #[must_use]
    pub fn is_its_own(&self) -> bool {
        let State { machine: before, leaving, .. } = State::load(&self.path(STATE));
        leaving.is_none() && (self.machine.is_none() || before.is_none() || before == self.machine)
    }

    /// A copy of a configured appliance would serve with its key, at its address, under its name. It keeps nothing of it; the journal,
    /// whose duties are the original's, is put aside. Should it be the original after all, under a new UUID, its disks are looked for in vCenter.
    pub(crate) fn leave_the_original(&self, state: &mut State) -> io::Result<()> {
        let Some(before) = state.machine.clone() else {
            state.machine.clone_from(&self.machine);
            return Ok(());
        };
        let now = self.machine.clone().unwrap_or_else(|| before.clone());
        // What was begun is ended, also on a machine that has its old name again: its journal may be aside already.
        if now == before && state.leaving.is_none() {
            return Ok(());
        }
        let leaving = self.begin_to_leave(&before, state)?;
        // First what makes it serve.
        fs::remove_file(self.etc(AGENT)).or_else(absent_is_fine)?;
        fs::remove_dir_all(self.path(ETC)).or_else(absent_is_fine)?;
        private_folder(&self.path(ETC))?;
        self.put_the_journal_aside(&leaving)?;
        // Its address is the original's.
        fs::remove_file(self.path(NETWORK)).or_else(absent_is_fine)?;
        // Of the next boot: this one's is in use. DHCP tells machines apart by it.
        if self.path(MACHINE_ID).exists() {
            fs::File::create(self.path(MACHINE_ID))?.sync_all()?;
        }
        state.machine = Some(now);
        state.console = false;
        state.leaving = None;
        state.save(&self.path(STATE))?;
        if leaving.configured {
            state.faults.push(Fault::new(reasons::COPY, "this virtual machine is a copy of a configured appliance"));
        }
        Ok(())
    }

    /// Writes down what only the files tell that go now: a later try has to know it.
    fn begin_to_leave(&self, before: &str, state: &mut State) -> io::Result<Leaving> {
        if let Some(leaving) = &state.leaving {
            return Ok(leaving.clone());
        }
        let made = match self.configured().0 {
            Configured::Properties(generation) => Some(generation),
            Configured::ByHand | Configured::No => None,
        };
        // The last that were read may have had a fault, and the ones before have made what is here: the copy may be given either.
        let given: Vec<u16> = made.into_iter().chain(state.seen.filter(|seen| Some(*seen) != made)).collect();
        if !given.is_empty() && self.configured().0 != Configured::No {
            state.spent = given;
        }
        let name: String = before.chars().filter(char::is_ascii_alphanumeric).collect();
        // One that can't be read is one, too; and a copy that is not configured yet may have a mark that the agent has not answered.
        let there = self.etc(AGENT).symlink_metadata().is_ok() || self.path(JOURNAL).join(FORGOTTEN).exists();
        let leaving = Leaving { configured: there, journal: self.free(&format!("journal-of-{name}")) };
        state.leaving = Some(leaving.clone());
        state.save(&self.path(STATE))?;
        Ok(leaving)
    }

    /// This name, or one with a number behind it: what lies there is the journal of another time.
    fn free(&self, name: &str) -> String {
        let numbered = (2u64..).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|name| self.path(ASIDE).join(name).symlink_metadata().is_err()).unwrap_or_else(|| name.to_owned())
    }

    fn put_the_journal_aside(&self, leaving: &Leaving) -> io::Result<()> {
        let aside: PathBuf = self.path(ASIDE).join(&leaving.journal);
        private_folder(&self.path(ASIDE))?;
        // A free name was chosen: what has it now was put there by a try before this one.
        if !aside.exists() {
            fs::rename(self.path(JOURNAL), &aside).or_else(absent_is_fine)?;
            sync(&self.path(ASIDE))?;
        }
        private_folder(&self.path(JOURNAL))?;
        if leaving.configured {
            install(&self.path(JOURNAL).join(FORGOTTEN), b"", 0o600)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
