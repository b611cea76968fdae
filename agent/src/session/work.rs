//! What a person is shown of work: sessions and jobs in one form. Nothing is asked, nothing is decided.
use std::sync::Arc;

use hotadd_api::v1::{OpenedDisk, Phase, Transport};

use super::{
    live::{Session, State, seconds},
    registry::{Manager, lock},
};
use crate::id::SessionId;

/// One session or job that has not ended, or that still owes something.
#[derive(Debug, Clone)]
pub struct Work {
    /// `session` or `job`.
    pub kind: &'static str,
    pub id: String,
    /// Under which its duties are.
    pub session: SessionId,
    /// Name of the target; of a job that has not found it yet, as it was asked for.
    pub vm: String,
    /// Whose it is.
    pub client: Arc<str>,
    /// A session's state or a job's phase, as the API names it.
    pub stage: String,
    /// RFC 3339; empty: not known.
    pub since: String,
    /// Of a session that is open.
    pub lease_seconds_left: Option<u32>,
    /// Of a session, as they were opened.
    pub disks: Vec<WorkDisk>,
}

/// One disk that was opened.
#[derive(Debug, Clone)]
pub struct WorkDisk {
    pub device_key: i32,
    pub label: String,
    pub backing: String,
    pub capacity_bytes: u64,
    pub transport: Transport,
}

impl Manager {
    /// Sessions that are not closed, oldest first, and how many are left out.
    #[must_use]
    pub fn work(&self, most: usize) -> (Vec<Work>, usize) {
        self.refresh();
        let mut all: Vec<Arc<Session>> = lock(&self.shared.sessions).clone();
        all.retain(|session| lock(&session.inner).state != State::Closed);
        let left_out = all.len().saturating_sub(most);
        let state = self.opener().vm.journal.state();
        let since = |id: SessionId| {
            let past = state.history().sessions().find(|past| past.began.session == id);
            past.map(|past| past.began.at.clone()).unwrap_or_default()
        };
        (all.iter().take(most).map(|session| session.work(since(session.id))).collect(), left_out)
    }
}

impl Session {
    fn work(&self, since: String) -> Work {
        let inner = lock(&self.inner);
        let left = inner.lease_end.saturating_duration_since(tokio::time::Instant::now());
        Work {
            kind: "session",
            id: self.id.to_string(),
            session: self.id,
            vm: self.vm_name.clone(),
            client: Arc::clone(&self.owner),
            stage: inner.state.name().to_owned(),
            since,
            lease_seconds_left: (inner.state == State::Open).then(|| seconds(left)),
            disks: self.opened.iter().filter(|disk| disk.opened).filter_map(opened).collect(),
        }
    }
}

fn opened(disk: &OpenedDisk) -> Option<WorkDisk> {
    let facts = disk.disk.as_ref()?;
    Some(WorkDisk {
        device_key: facts.device_key,
        label: facts.label.clone(),
        backing: facts.backing.clone(),
        capacity_bytes: facts.capacity_bytes,
        transport: disk.transport(),
    })
}

/// `read` of `PHASE_READ`.
pub(super) fn phase(phase: Phase) -> String {
    phase.as_str_name().trim_start_matches("PHASE_").to_ascii_lowercase().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_words() {
        assert_eq!(phase(Phase::Read), "read");
        assert_eq!(phase(Phase::RemoveSnapshot), "remove snapshot");
    }
}
