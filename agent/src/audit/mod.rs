//! The audit log: every mutation, who asked for it, vCenter's task and how it ended. Each entry is an event of the target `audit` (in
//! journald with its fields) and, if the configuration names a file, a line of JSON there. No secret gets here: entries hold names, ids
//! and codes.
//!
//! ```text
//! call of a client ─────────▶ entry {who, what, about, outcome}
//! step on vCenter ─▶ tasks noted by the adapter ─▶ entry {who it is for, what, vm, tasks, outcome} ─▶ event, line
//! ```
mod file;
mod steps;
mod tasks;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use self::file::AuditFile;
pub use self::tasks::{Task, note_task, of as tasks_of};
use crate::{
    access::{Caller, Peer},
    error::{Error, Result},
    id::SessionId,
    reason,
};

/// Sessions and jobs of this run whose clients are remembered; of others the journal has the name.
const KEEP: usize = 1024;

/// Characters of one name, and names of one entry: of a proxy's 60 disks, three each.
const LONGEST: usize = 256;
const MOST: usize = 192;

/// How the configuration wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPolicy {
    /// `None`: events only.
    pub file: Option<PathBuf>,
    /// Nothing is begun while the file can't be written.
    pub required: bool,
}

/// On whose behalf something is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    pub name: String,
    /// Of the certificate; empty: not known.
    pub fingerprint: String,
    pub address: String,
}

impl Who {
    /// What nobody asked for.
    #[must_use]
    pub fn agent() -> Self {
        Self { name: "agent".to_owned(), ..Self::default() }
    }
}

impl From<&Caller> for Who {
    fn from(caller: &Caller) -> Self {
        Self { name: caller.name.to_string(), ..Self::from(&*caller.peer) }
    }
}

/// Of one without a role.
impl From<&Peer> for Who {
    fn from(peer: &Peer) -> Self {
        let (fingerprint, address) = (peer.fingerprint().to_owned(), peer.address().to_string());
        Self { name: peer.label(), fingerprint, address }
    }
}

/// One entry. Empty: not applicable, or not known.
#[derive(Debug, Default, Serialize)]
pub struct Entry {
    pub time: String,
    pub who: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Name of the rpc, or of what is done on vCenter.
    pub what: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vm: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub moref: String,
    /// Disks, snapshot, methods, or what the call asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub about: Vec<String>,
    /// Ids of vCenter's tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// `ok`, `failed`, or `unknown`: vCenter's answer was lost.
    pub outcome: &'static str,
    /// Code of the reason.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
}

impl Entry {
    /// With the outcome that this result has.
    #[must_use]
    pub fn ended<T>(self, result: &Result<T>) -> Self {
        match result {
            Ok(_) => Self { outcome: "ok", ..self },
            Err(error) => self.failed(error),
        }
    }

    /// Much of it is a client's text: a line must not fill the disk that the journal may be on.
    fn bounded(mut self) -> Self {
        for text in [&mut self.who, &mut self.session, &mut self.vm, &mut self.moref].into_iter().chain(&mut self.about)
        {
            if let Some((at, _)) = text.char_indices().nth(LONGEST) {
                text.truncate(at);
                text.push('…');
            }
        }
        self.about.truncate(MOST);
        self
    }

    /// With the ids of these tasks.
    #[must_use]
    pub fn by(self, tasks: &[Task]) -> Self {
        Self { tasks: tasks.iter().map(|task| task.id.clone()).collect(), ..self }
    }

    #[must_use]
    pub fn failed(self, error: &Error) -> Self {
        let lost = [&reason::VC_UNKNOWN_OUTCOME, &reason::VC_DEADLINE, &reason::ATT_UNKNOWN].contains(&error.reason());
        Self { outcome: if lost { "unknown" } else { "failed" }, reason: error.reason().code, ..self }
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: Option<AuditFile>,
    required: bool,
    clients: Mutex<VecDeque<(SessionId, Who)>>,
}

impl Audit {
    /// A file that can't be opened is told, and keeps nobody from giving back: see [`Self::can_begin`].
    #[must_use]
    pub fn new(policy: &AuditPolicy) -> Self {
        let file = policy.file.as_deref().map(AuditFile::start);
        let this = Self { shared: Arc::new(Shared { file, required: policy.required, clients: Mutex::default() }) };
        this.flush();
        this
    }

    fn clients(&self) -> MutexGuard<'_, VecDeque<(SessionId, Who)>> {
        self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asked for this session or job.
    pub fn remember(&self, session: SessionId, caller: &Caller) {
        let mut clients = self.clients();
        if clients.len() == KEEP {
            clients.pop_front();
        }
        clients.push_back((session, caller.into()));
    }

    /// Who asked for it in this run.
    #[must_use]
    pub fn client(&self, session: SessionId) -> Option<Who> {
        self.clients().iter().find(|(known, _)| *known == session).map(|(_, who)| who.clone())
    }

    /// Whether something new may be begun. What gives back goes on in any case.
    ///
    /// # Errors
    /// [`reason::AUD_FILE`].
    pub fn can_begin(&self) -> Result<()> {
        match self.shared.file.as_ref().and_then(AuditFile::failed) {
            Some(why) if self.shared.required => Err(Error::new(&reason::AUD_FILE, why)),
            _ => Ok(()),
        }
    }

    /// Writes an entry.
    pub fn tell(&self, who: &Who, entry: Entry) {
        let entry = Entry {
            time: crate::attach::now(),
            who: who.name.clone(),
            fingerprint: who.fingerprint.clone(),
            address: who.address.clone(),
            ..entry
        }
        .bounded();
        let line = serde_json::to_string(&entry).unwrap_or_default();
        let Entry { who, fingerprint, address, what, session, vm, moref, about, tasks, outcome, reason, .. } = entry;
        let about: Vec<String> = about.iter().map(|text| printable(text)).collect();
        let (who, vm) = (printable(&who), printable(&vm));
        let (about, task) = (about.join(" "), tasks.join(" "));
        tracing::info!(target: "audit", who, fingerprint, address, what, session, vm, moref, about, task, outcome, reason, "{what} {outcome}");
        if let Some(file) = &self.shared.file {
            file.write(line);
        }
    }

    /// The file is another from now on: log rotation has moved it.
    pub fn reopen(&self) {
        if let Some(file) = &self.shared.file {
            file.reopen();
        }
    }

    /// Waits, for a bounded time, until what was told is written.
    pub fn flush(&self) {
        if let Some(file) = &self.shared.file {
            file.flush();
        }
    }
}

/// Names come from others: what would break a line or a terminal is escaped.
fn printable(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests;
