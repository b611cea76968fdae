//! After a stream that gave no result: asks the agent until the job has ended, and with which clean-up state. The agent
//! cleans up without being asked; this only finds out, within a bound.
use std::time::Duration;

use hotadd_api::v1::{Cleanup, GetJobRequest, JobResult, JobState, ListDutiesRequest, get_job_request::By};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::{connect::Agent, interrupt::Interrupt};

const ASK_EVERY: Duration = Duration::from_millis(250);
/// One question; short, because a dead connection answers none and has to be made anew.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// What is known in the end.
#[derive(Debug)]
pub(super) struct Settled {
    /// The job, once it ended.
    pub(super) result: Option<JobResult>,
    pub(super) cleanup: Cleanup,
}

const UNKNOWN: Settled = Settled { result: None, cleanup: Cleanup::Unspecified };

/// Asks until the job has ended, the limit is over, or the user insists on leaving.
pub(super) async fn settle(agent: &Agent, request_id: &str, limit: Duration, interrupt: &mut Interrupt) -> Settled {
    tokio::select! {
        settled = timeout(limit, ask(agent, request_id)) => settled.unwrap_or(UNKNOWN),
        _ = interrupt.wait() => UNKNOWN,
    }
}

async fn ask(agent: &Agent, request_id: &str) -> Settled {
    loop {
        let next = Instant::now() + ASK_EVERY;
        let by = Some(By::RequestId(request_id.to_owned()));
        match timeout(ASK_LIMIT, agent.jobs().get_job(GetJobRequest { by })).await {
            Ok(Ok(answer)) => {
                let job = answer.into_inner();
                if matches!(job.state(), JobState::Ok | JobState::Failed) {
                    return Settled { cleanup: job.cleanup(), result: Some(job) };
                }
            }
            Ok(Err(status)) if status.code() == Code::NotFound => {
                return Settled { result: None, cleanup: duties(agent).await };
            }
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
}

/// The agent does not know the job (it never began, or the agent was started anew). Owing nothing at all, it owes
/// nothing for us; owing something, nobody can say for whom.
async fn duties(agent: &Agent) -> Cleanup {
    match timeout(ASK_LIMIT, agent.disks().list_duties(ListDutiesRequest {})).await {
        Ok(Ok(answer)) if answer.get_ref().duties.is_empty() => Cleanup::Done,
        _ => Cleanup::Unspecified,
    }
}
