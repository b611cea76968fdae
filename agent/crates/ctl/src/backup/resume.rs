//! `--resume-for`: a job that broke and whose snapshot the agent keeps is taken up where its images end.
//!
//! ```text
//! stream ──▶ result OK ──▶ judged
//!   ▲  │ failed, or the stream broke
//!   │  ▼
//!   │ which of our jobs has the snapshot kept (GetJob: resume_until)? ── none ──▶ the failure stands
//!   │  │      └ it still runs, or the agent does not answer: ask again until the time is over
//!   └──┘ the rest, as a new job; after one that brought nothing with a pause
//! ```
//! The time begins anew whenever bytes came, so that it bounds standing still, not the backup.
use std::time::Duration;

use hotadd_api::v1::{BackupVmRequest, Cleanup, GetJobRequest, JobResult, JobState, Scope, get_job_request::By};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use uuid::Uuid;

use super::collector::{Collector, Missing};
use crate::{
    connect::Agent,
    error::Failure,
    interrupt::{Interrupt, interrupted},
    output::{Output, bytes},
};

const ASK_EVERY: Duration = Duration::from_millis(500);
/// One question; a dead connection answers none and has to be made anew.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// After a job that brought nothing; doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Resume {
    /// Zero: it was not asked for.
    window: Duration,
    /// Of this run, the youngest last: any of them may be the one whose snapshot is kept.
    jobs: Vec<String>,
    received: u64,
    end: Option<Instant>,
    pause: Duration,
}

impl Resume {
    pub(super) fn new(seconds: u32) -> Self {
        let window = Duration::from_secs(seconds.into());
        Self { window, jobs: Vec::new(), received: 0, end: None, pause: FIRST_PAUSE }
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.window.is_zero()
    }

    /// The request for what is missing, once it can be made; `None`: there is nothing to resume.
    ///
    /// # Errors
    /// An interrupt, or a disk here that can't be written.
    pub(super) async fn rest(
        &mut self,
        agent: &Agent,
        last: &BackupVmRequest,
        collector: &mut Collector,
        interrupt: &mut Interrupt,
        out: &Output,
    ) -> Result<Option<BackupVmRequest>, Failure> {
        if !self.is_wanted() {
            return Ok(None);
        }
        self.jobs.extend(collector.seen().job_id.clone());
        let broken = tokio::select! {
            broken = self.wait_for_kept(agent, collector.received()) => broken,
            // What is kept is owed until its time is over.
            signal = interrupt.wait() => return Err(interrupted(signal).cleanup(Cleanup::Owed).judged()),
        };
        let Some(broken) = broken else { return Ok(None) };
        let Some(missing) = collector.missing(&broken).await? else { return Ok(None) };
        let left = missing.bytes;
        out.line(&format!("job {} broke; resuming the last {} from its snapshot", broken.job_id, bytes(left)));
        out.event(|| json!({"event": "resume", "job_id": broken.job_id, "bytes": left}));
        Ok(Some(BackupVmRequest {
            request_id: Uuid::new_v4().to_string(),
            resume_job: broken.job_id,
            ..narrowed(last, missing)
        }))
    }

    async fn wait_for_kept(&mut self, agent: &Agent, received: u64) -> Option<JobResult> {
        if received > self.received || self.end.is_none() {
            self.received = received;
            self.end = Some(Instant::now() + self.window);
            self.pause = FIRST_PAUSE;
        } else {
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
        let left = self.end?.saturating_duration_since(Instant::now());
        timeout(left, self.find_kept(agent)).await.ok().flatten()
    }

    /// `None`: all have ended and none has anything kept.
    async fn find_kept(&self, agent: &Agent) -> Option<JobResult> {
        loop {
            let mut open = false;
            for job in self.jobs.iter().rev() {
                let by = Some(By::JobId(job.clone()));
                match timeout(ASK_LIMIT, agent.jobs().get_job(GetJobRequest { by })).await {
                    Ok(Ok(answer)) => {
                        let job = answer.into_inner();
                        if job.state() == JobState::Failed && !job.resume_until.is_empty() {
                            return Some(job);
                        }
                        open |= !matches!(job.state(), JobState::Ok | JobState::Failed);
                    }
                    Ok(Err(status)) if status.code() == Code::NotFound => {}
                    Ok(Err(_)) | Err(_) => open = true,
                }
            }
            if !open {
                return None;
            }
            sleep(ASK_EVERY).await;
        }
    }
}

/// The request for what is missing. A disk whose map is known is asked for by ranges; only one that never was opened is
/// still asked for by scope and base.
fn narrowed(last: &BackupVmRequest, missing: Missing) -> BackupVmRequest {
    let by_ranges = |key: i32| missing.ranges.iter().any(|ranges| ranges.device_key == key);
    let unopened = missing.keys.iter().any(|key| !by_ranges(*key));
    let bases = last.bases.iter().filter(|base| missing.keys.contains(&base.device_key) && !by_ranges(base.device_key));
    BackupVmRequest {
        bases: bases.cloned().collect(),
        scope: if unopened { last.scope } else { Scope::Unspecified.into() },
        device_keys: missing.keys,
        ranges: missing.ranges,
        ..last.clone()
    }
}
