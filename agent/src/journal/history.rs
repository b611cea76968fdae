//! What began and how it ended: jobs and sessions of this and of earlier runs, so that a controller that comes back after
//! a crash is told. History only: nothing here is owed, and a record that does not fit is ignored.
//!
//! ```text
//! began ──ended──▶ ended (code)          began ──agent started again──▶ ended (restart)
//! ```
//! Bounded: the oldest entry goes when there are too many. Compaction keeps what is here.
use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Record,
    untrusted::{KEEP_UNTRUSTED, Untrusted},
};
use crate::{
    id::{DiskUuid, JobId, SessionId},
    reason,
};

/// Jobs that are remembered.
pub const KEEP_JOBS: usize = 256;
/// Sessions that are remembered.
pub const KEEP_SESSIONS: usize = 256;
/// Tries that are remembered.
pub const KEEP_TRIES: usize = 256;
/// Longest text of a reason in a record: the journal is no log.
const MAX_TEXT: usize = 500;

/// A job was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobBegan {
    pub job: JobId,
    /// Under which its duties are.
    pub session: SessionId,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Fingerprint of the rest of the request, see [`asked`].
    pub asked: String,
    /// As the request named it.
    pub vm: String,
    pub at: String,
    /// For how long its snapshot is kept if it breaks; 0: not at all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resume_seconds: u64,
    /// The client that started it; empty: an agent that knew none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// A session was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseBegan {
    pub session: SessionId,
    pub at: String,
    pub seconds: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vm: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
    /// The client that opened it; empty: an agent that knew none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub at: String,
    /// Reason's code; empty: a job that is OK.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The reason's message, or what ended a session.
    #[serde(default)]
    pub reason: String,
}

impl End {
    /// `code`: empty for a job that is OK.
    #[must_use]
    pub fn new(at: String, code: &str, reason: &str) -> Self {
        let short: String = reason.chars().take(MAX_TEXT).collect();
        Self { at, code: code.to_owned(), reason: short }
    }
}

/// HotAdd against a rule that is known from VDDK only, once per site, build and rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Id of the rule.
    pub rule: String,
    /// Instance UUID of the vCenter.
    pub site: String,
    /// Release of the proxy's host.
    pub build: String,
    #[serde(default)]
    pub at: String,
    #[serde(default)]
    pub outcome: TryOutcome,
}

/// How a try ended. Recorded as begun before it is made: one that nobody ended counts as failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TryOutcome {
    #[default]
    Begun,
    Worked,
    Failed {
        #[serde(default)]
        why: String,
    },
    /// It failed for something of the one who asked, and tells nothing of the place: it may be made once more.
    Withdrawn,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

impl Tried {
    fn same(&self, other: &Self) -> bool {
        (&self.rule, &self.site, &self.build) == (&other.rule, &other.site, &other.build)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Fingerprint of a request: enough to tell a repetition from a conflict, short enough for a record.
#[must_use]
pub fn asked(request: &[u8]) -> String {
    blake3::hash(request).to_hex().chars().take(32).collect()
}

/// A job and, if it has ended, how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPast {
    pub began: JobBegan,
    pub end: Option<End>,
}

/// A session and, if it has ended, how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPast {
    pub began: LeaseBegan,
    pub end: Option<End>,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    jobs: VecDeque<Arc<JobPast>>,
    sessions: VecDeque<Arc<SessionPast>>,
    tries: VecDeque<Arc<Tried>>,
    untrusted: VecDeque<Arc<Untrusted>>,
}

impl History {
    /// Oldest first.
    pub fn jobs(&self) -> impl Iterator<Item = &JobPast> {
        self.jobs.iter().map(Arc::as_ref)
    }

    /// Oldest first.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionPast> {
        self.sessions.iter().map(Arc::as_ref)
    }

    /// The last word on every try, oldest first.
    pub fn tries(&self) -> impl Iterator<Item = &Tried> {
        self.tries.iter().map(Arc::as_ref)
    }

    /// What was found wrong with this tracking of this disk, if anything.
    #[must_use]
    pub fn untrusted(&self, disk: DiskUuid, tracking: &str) -> Option<&Untrusted> {
        self.untrusted.iter().map(Arc::as_ref).find(|entry| entry.is_of(disk, tracking))
    }

    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::JobBegan(began) => {
                self.jobs.push_back(Arc::new(JobPast { began: began.clone(), end: None }));
                bound(&mut self.jobs, KEEP_JOBS, |past| past.end.is_some());
            }
            Record::JobEnded { job, end } => {
                if let Some(past) = self.jobs.iter_mut().find(|past| past.began.job == *job) {
                    Arc::make_mut(past).end = Some(end.clone());
                }
            }
            Record::Tried(tried) => {
                self.tries.retain(|other| !other.same(tried));
                self.tries.push_back(Arc::new(tried.clone()));
                bound(&mut self.tries, KEEP_TRIES, |_| true);
            }
            Record::Untrusted(entry) => {
                self.untrusted.retain(|other| !other.is_of(entry.disk, &entry.tracking));
                self.untrusted.push_back(Arc::new(entry.clone()));
                bound(&mut self.untrusted, KEEP_UNTRUSTED, |_| true);
            }
            Record::LeaseBegan(began) => {
                self.sessions.push_back(Arc::new(SessionPast { began: began.clone(), end: None }));
                bound(&mut self.sessions, KEEP_SESSIONS, |past| past.end.is_some());
            }
            Record::LeaseEnded { session, end } => {
                if let Some(past) = self.sessions.iter_mut().find(|past| past.began.session == *session) {
                    Arc::make_mut(past).end = Some(end.clone());
                }
            }
            _ => {}
        }
    }

    /// An agent started: whatever lived under the one before ended with it. Gives the sessions of jobs that asked for a
    /// window to resume in, with its seconds.
    pub(super) fn restart(&mut self, at: &str) -> Vec<(SessionId, u64)> {
        let mut resumable = Vec::new();
        for past in self.jobs.iter_mut().filter(|past| past.end.is_none()) {
            if past.began.resume_seconds > 0 {
                resumable.push((past.began.session, past.began.resume_seconds));
            }
            Arc::make_mut(past).end =
                Some(End::new(at.to_owned(), reason::JOB_RESTART.code, reason::JOB_RESTART.summary));
        }
        for past in self.sessions.iter_mut().filter(|past| past.end.is_none()) {
            Arc::make_mut(past).end =
                Some(End::new(at.to_owned(), reason::SES_RESTART.code, reason::SES_RESTART.summary));
        }
        resumable
    }

    /// As records, to start a new file from.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for past in &self.jobs {
            records.push(Record::JobBegan(past.began.clone()));
            records.extend(past.end.clone().map(|end| Record::JobEnded { job: past.began.job, end }));
        }
        records.extend(self.tries.iter().map(|tried| Record::Tried(Tried::clone(tried))));
        records.extend(self.untrusted.iter().map(|entry| Record::Untrusted(Untrusted::clone(entry))));
        for past in &self.sessions {
            records.push(Record::LeaseBegan(past.began.clone()));
            records.extend(past.end.clone().map(|end| Record::LeaseEnded { session: past.began.session, end }));
        }
        records
    }
}

/// Drops the oldest that has ended, or the oldest of all.
fn bound<T>(entries: &mut VecDeque<Arc<T>>, keep: usize, ended: impl Fn(&T) -> bool) {
    while entries.len() > keep {
        let oldest = entries.iter().position(|entry| ended(entry)).unwrap_or(0);
        entries.remove(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn began(request_id: &str, resume_seconds: u64) -> JobBegan {
        JobBegan {
            job: JobId::new(),
            session: SessionId::new(),
            request_id: request_id.into(),
            asked: asked(b"request"),
            vm: "web01".into(),
            at: "2026-01-01T00:00:00Z".into(),
            resume_seconds,
            owner: String::new(),
        }
    }

    fn folded(records: &[Record]) -> State {
        let mut state = State::default();
        records.iter().for_each(|record| state.apply(record).unwrap());
        state
    }

    fn untrusted(disk: u8, tracking: &str) -> Untrusted {
        let (at, vm, why) = ("2026-01-01T00:00:00Z".into(), "web01".into(), "a block".into());
        Untrusted { disk: DiskUuid::from_bytes([disk; 16]), tracking: tracking.into(), at, vm, why }
    }

    #[test]
    fn tracking_that_was_wrong_is_remembered_by_disk_and_tracking_and_through_compaction() {
        let disk = DiskUuid::from_bytes([1; 16]);
        let marks = [untrusted(1, "a"), untrusted(2, "a"), untrusted(1, "b"), untrusted(1, "a")];
        let state = folded(&marks.map(Record::Untrusted));
        let state = folded(&state.records());
        assert!(state.history().untrusted(disk, "a").is_some() && state.history().untrusted(disk, "b").is_some());
        assert!(state.history().untrusted(disk, "c").is_none(), "begun anew");
        assert_eq!(state.records().len(), 3);
        let many: Vec<Record> =
            (0..KEEP_UNTRUSTED + 5).map(|n| Record::Untrusted(untrusted(1, &n.to_string()))).collect();
        let state = folded(&many);
        assert_eq!(state.records().len(), KEEP_UNTRUSTED);
        assert!(state.history().untrusted(disk, "4").is_none() && state.history().untrusted(disk, "5").is_some());
    }

    #[test]
    fn what_lived_under_an_agent_ends_with_it() {
        let (done, open) = (began("a", 0), began("b", 0));
        let session = LeaseBegan {
            session: SessionId::new(),
            at: String::new(),
            seconds: 60,
            vm: "web01".into(),
            request_id: "s".into(),
            asked: String::new(),
            owner: String::new(),
        };
        let end = End::new("2026-01-01T00:00:01Z".into(), "", "");
        let state = folded(&[
            Record::JobBegan(done.clone()),
            Record::JobBegan(open),
            Record::LeaseBegan(session),
            Record::JobEnded { job: done.job, end: end.clone() },
            Record::Started { at: "2026-01-01T00:00:02Z".into(), version: "1".into() },
        ]);
        let ends: Vec<_> = state.history().jobs().map(|past| past.end.clone().unwrap()).collect();
        assert_eq!(ends[0], end, "one that had ended stays as it ended");
        assert_eq!((ends[1].code.as_str(), ends[1].at.as_str()), ("HA-JOB-005", "2026-01-01T00:00:02Z"));
        let sessions: Vec<_> = state.history().sessions().map(|past| past.end.clone().unwrap().code).collect();
        assert_eq!(sessions, ["HA-SES-008"]);
        // A new file made of it says the same.
        let again = folded(&state.history().records());
        assert_eq!(again.history(), state.history());
    }

    #[test]
    fn the_newest_are_kept_and_what_lives_is_not_forgotten() {
        let living = began("living", 0);
        let mut records = vec![Record::JobBegan(living.clone())];
        for n in 0..KEEP_JOBS + 10 {
            let job = began(&n.to_string(), 0);
            let end = End::new(String::new(), "HA-JOB-003", &"x".repeat(5000));
            records.extend([Record::JobBegan(job.clone()), Record::JobEnded { job: job.job, end }]);
        }
        let state = folded(&records);
        let jobs: Vec<_> = state.history().jobs().collect();
        assert_eq!(jobs.len(), KEEP_JOBS);
        assert_eq!(jobs[0].began, living);
        assert_eq!(jobs[KEEP_JOBS - 1].began.request_id, (KEEP_JOBS + 9).to_string());
        assert!(jobs[1].end.as_ref().unwrap().reason.len() == MAX_TEXT);
        assert!(state.is_empty(), "history is nothing owed");
    }

    #[test]
    fn an_end_without_a_beginning_is_ignored() {
        let end = End::new(String::new(), "", "");
        let state = folded(&[Record::JobEnded { job: JobId::new(), end }]);
        assert_eq!(state, State::default());
    }

    #[test]
    fn the_last_word_on_a_try_is_kept() {
        let tried = |build: &str, outcome| {
            Record::Tried(Tried {
                rule: "HA-PLAN-009".into(),
                site: "vc".into(),
                build: build.into(),
                at: String::new(),
                outcome,
            })
        };
        let state = folded(&[
            tried("8.0.2", TryOutcome::Begun),
            tried("8.0.3", TryOutcome::Begun),
            tried("8.0.2", TryOutcome::Worked),
        ]);
        let known: Vec<_> = state.history().tries().map(|t| (t.build.as_str(), t.outcome.clone())).collect();
        assert_eq!(known, [("8.0.3", TryOutcome::Begun), ("8.0.2", TryOutcome::Worked)]);
        assert_eq!(folded(&state.history().records()).history(), state.history());
    }

    #[test]
    fn a_try_of_a_later_version_is_read() {
        let text =
            r#"{"record":"tried","rule":"HA-PLAN-099","site":"vc","build":"9","mood":1,"outcome":{"state":"halfway"}}"#;
        let Record::Tried(tried) = serde_json::from_str(text).unwrap() else { panic!("not a try") };
        assert_eq!(tried.outcome, TryOutcome::Unknown);
    }
}
