//! The registry of jobs: one per request id, results that outlive their streams, and what the journal remembers of jobs of
//! earlier runs. One job's way is in [`super::job`].
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use hotadd_api::v1::{self, Cleanup, Consistency, JobState, Phase, job_event::Item as Event};
use hotadd_blockio::EngineKind;
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::{
    job::Job,
    opener::Ways,
    registry::{Manager, lock, recorded},
    snapshot::Wish,
    work::{Work, phase},
};
use crate::{
    access::Caller,
    areas::{KnownBlock, Wanted},
    attach::now,
    error::{Error, Result},
    id::{JobId, SessionId},
    journal::history::{JobPast, KEEP_JOBS},
    reason,
    traces::{Of, Parent},
};

/// Events between a job and its stream. Frames wait here, so it bounds memory together with the arenas.
const EVENTS: usize = 8;

/// What BackupVm asks.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// Who asks; the job is his.
    pub caller: Caller,
    pub request_id: String,
    /// Fingerprint of everything else of the request, to tell a repetition from a conflict.
    pub asked: String,
    pub vm: String,
    pub wish: Wish,
    pub keys: Vec<i32>,
    pub block_bytes: u32,
    pub compression: v1::Compression,
    pub partial: bool,
    pub engines: Vec<EngineKind>,
    /// How long our snapshot is kept if the stream breaks; zero: not at all.
    pub resume_window: Duration,
    /// The job whose kept snapshot is taken over.
    pub resume_job: Option<String>,
    /// What to read, by device key, whatever `wanted` says.
    pub ranges: BTreeMap<i32, Vec<Range<u64>>>,
    /// What a disk has to show before its ranges are read.
    pub shown: BTreeMap<i32, Vec<KnownBlock>>,
    /// What to read of the other disks.
    pub wanted: Wanted,
    pub ways: Ways,
    pub ticket: Option<SecretString>,
    /// What went on by its server is attached again when that is possible.
    pub back: bool,
    /// The span of who asks.
    pub parent: Option<Parent>,
}

pub type EventStream = mpsc::Receiver<Result<v1::JobEvent, Status>>;

/// What is known of one job.
#[derive(Debug, Clone)]
struct Entry {
    result: v1::JobResult,
    /// Under which its duties are.
    session: SessionId,
    asked: String,
    /// The client that started it.
    owner: Arc<str>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Jobs {
    pub(super) manager: Manager,
    entries: Arc<Mutex<VecDeque<Entry>>>,
    /// Rung when a job has ended.
    ended: watch::Sender<()>,
}

/// What a job that resumes takes over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Broken {
    pub(super) session: SessionId,
    pub(super) reached: Consistency,
}

impl Jobs {
    /// With the jobs that the journal remembers.
    #[must_use]
    pub fn new(manager: Manager) -> Self {
        let state = manager.opener().vm.journal.state();
        let entries = state.history().jobs().map(remembered).collect();
        Self { manager, entries: Arc::new(Mutex::new(entries)), ended: watch::Sender::new(()) }
    }

    /// Starts a job, or shows the result of the one that this request started before.
    ///
    /// # Errors
    /// [`reason::JOB_RUNNING`], [`reason::SES_CONFLICT`], [`reason::AUT_OWNER`], [`reason::SES_DRAINING`], [`reason::SES_DRAIN`].
    pub fn start(&self, request: JobRequest) -> Result<EventStream> {
        let (tx, rx) = mpsc::channel(EVENTS);
        let mut entries = lock(&self.entries);
        let same = |e: &&Entry| !request.request_id.is_empty() && e.result.request_id == request.request_id;
        if let Some(entry) = entries.iter().find(same) {
            request.caller.may_touch(&entry.owner, &format!("job {}", entry.result.job_id))?;
            if entry.asked != request.asked {
                return Err(Error::new(&reason::SES_CONFLICT, request.request_id));
            }
            if entry.result.state() == JobState::Running {
                return Err(Error::new(&reason::JOB_RUNNING, &entry.result.job_id).owing());
            }
            let replay = [Event::JobId(entry.result.job_id.clone()), Event::Result(self.fresh(entry))];
            for event in replay {
                tx.try_send(Ok(v1::JobEvent { item: Some(event) })).ok();
            }
            return Ok(rx);
        }
        if let Some(broken) = &request.resume_job
            && let Some(entry) = entries.iter().find(|entry| entry.result.job_id == *broken)
        {
            request.caller.may_touch(&entry.owner, &format!("job {broken}"))?;
        }
        self.manager.takes_new()?;
        if entries.len() >= KEEP_JOBS
            && let Some(oldest) = entries.iter().position(|e| e.result.state() != JobState::Running)
        {
            entries.remove(oldest);
        }
        let (id, session) = (JobId::new(), SessionId::new());
        let result = v1::JobResult {
            job_id: id.to_string(),
            request_id: request.request_id.clone(),
            state: JobState::Running.into(),
            started: now(),
            cleanup: Cleanup::Owed.into(),
            ..v1::JobResult::default()
        };
        self.manager.opener().vm.audit.remember(session, &request.caller);
        self.manager.opener().vm.traces.begin(Of::Job(id), session, request.parent);
        let owner = Arc::clone(&request.caller.name);
        entries.push_back(Entry { result, session, asked: request.asked.clone(), owner });
        drop(entries);
        let job = Arc::new(Job::new(id, session, request, self.clone(), tx));
        let run = tokio::spawn(Arc::clone(&job).run());
        tokio::spawn(async move {
            if let Err(panic) = run.await {
                // What it held went to the settler when it was dropped; the journal knows the rest.
                job.conclude(vec![panic.into()]).await;
            }
        });
        Ok(rx)
    }

    /// # Errors
    /// [`reason::JOB_UNKNOWN`].
    pub fn get(&self, is_it: impl Fn(&v1::JobResult) -> bool, name: &str) -> Result<v1::JobResult> {
        let found = lock(&self.entries).iter().find(|e| is_it(&e.result)).cloned();
        let entry = found.ok_or_else(|| Error::new(&reason::JOB_UNKNOWN, format!("{name:?}")))?;
        Ok(self.fresh(&entry))
    }

    #[must_use]
    pub fn list(&self) -> Vec<v1::JobResult> {
        let entries = lock(&self.entries).clone();
        entries.iter().map(|entry| self.fresh(entry)).collect()
    }

    /// The result with what is owed and kept now: the settler goes on after a job's end.
    fn fresh(&self, entry: &Entry) -> v1::JobResult {
        let mut result = entry.result.clone();
        if result.state() == JobState::Running {
            return result;
        }
        let open = self.manager.opener().vm.journal.duties_of(entry.session);
        let cleanup = if open.is_empty() { Cleanup::Done } else { Cleanup::Owed };
        result.cleanup = cleanup.into();
        result.reasons.iter_mut().for_each(|reason| reason.cleanup = cleanup.into());
        let kept = open.iter().find_map(|duty| duty.snapshot()?.kept().map(str::to_owned));
        result.resume_until = kept.unwrap_or_default();
        result
    }

    /// # Errors
    /// [`reason::JOB_RESUME`].
    pub(super) fn broken(&self, job: &str) -> Result<Broken> {
        let nothing = |why: &str| Error::new(&reason::JOB_RESUME, format!("job {job:?}: {why}"));
        let entries = lock(&self.entries);
        let entry = entries.iter().find(|e| e.result.job_id == job).ok_or_else(|| nothing("not known"))?;
        match entry.result.state() {
            JobState::Running => Err(nothing("it runs")),
            _ if self.fresh(entry).resume_until.is_empty() => Err(nothing("no snapshot is kept")),
            _ => {
                let reached =
                    entry.result.snapshot.as_ref().map_or(Consistency::Unspecified, v1::SnapshotResult::reached);
                Ok(Broken { session: entry.session, reached })
            }
        }
    }

    pub(super) fn note(&self, job: JobId, change: impl FnOnce(&mut v1::JobResult)) {
        let id = job.to_string();
        if let Some(entry) = lock(&self.entries).iter_mut().find(|e| e.result.job_id == id) {
            change(&mut entry.result);
        }
    }

    /// How many have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.entries).iter().filter(|e| e.result.state() == JobState::Running).count()
    }

    /// Those that run, oldest first, and how many are left out.
    #[must_use]
    pub fn work(&self, most: usize) -> (Vec<Work>, usize) {
        let entries = lock(&self.entries);
        let running = || entries.iter().filter(|e| e.result.state() == JobState::Running);
        let left_out = running().count().saturating_sub(most);
        let shown: Vec<Work> = running().take(most).map(Entry::work).collect();
        drop(entries);
        let state = self.manager.opener().vm.journal.state();
        let asked_for = |id: SessionId| {
            let past = state.history().jobs().find(|past| past.began.session == id);
            past.map(|past| past.began.vm.clone()).unwrap_or_default()
        };
        let named = |work: Work| if work.vm.is_empty() { Work { vm: asked_for(work.session), ..work } } else { work };
        (shown.into_iter().map(named).collect(), left_out)
    }

    pub(super) fn ring(&self) {
        self.ended.send_replace(());
    }

    /// Returns when no job runs any more.
    pub async fn wait_idle(&self) {
        let mut ended = self.ended.subscribe();
        while lock(&self.entries).iter().any(|e| e.result.state() == JobState::Running) {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Entry {
    fn work(&self) -> Work {
        Work {
            kind: "job",
            id: self.result.job_id.clone(),
            session: self.session,
            vm: self.result.vm_name.clone(),
            client: Arc::clone(&self.owner),
            stage: phase(self.result.phase()),
            since: self.result.started.clone(),
            lease_seconds_left: None,
            disks: Vec::new(),
        }
    }
}

/// A job of an earlier run: how it ended, without its disks' details.
fn remembered(past: &JobPast) -> Entry {
    let began = &past.began;
    let mut result = v1::JobResult {
        job_id: began.job.to_string(),
        request_id: began.request_id.clone(),
        vm_name: began.vm.clone(),
        started: began.at.clone(),
        state: JobState::Failed.into(),
        ..v1::JobResult::default()
    };
    match &past.end {
        Some(end) if end.code.is_empty() => {
            result.state = JobState::Ok.into();
            result.phase = Phase::Done.into();
            result.ended.clone_from(&end.at);
        }
        Some(end) => {
            result.reasons = vec![recorded(end, &reason::JOB_RESTART).to_reason()];
            result.ended.clone_from(&end.at);
        }
        // The start of this agent has ended every one; nothing else is known.
        None => result.reasons = vec![Error::new(&reason::JOB_RESTART, "").to_reason()],
    }
    Entry { result, session: began.session, asked: began.asked.clone(), owner: began.owner.as_str().into() }
}
