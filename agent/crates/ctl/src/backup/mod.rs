//! `backup`: one VM, one job, one folder. This file holds the order of things; the parts hold the rules.
//!
//! ```text
//! Target::open ─▶ connect ─▶ BackupVm ─▶ events ─▶ collector ─▶ result ─▶ judge ─▶ writers synced ─▶ commit ─▶ exit 0/10
//!      │2             │3,4        │             │                   │         │4,5,6        │5,7           │7
//!      ▼              ▼           ▼             ▼                   ▼         ▼             ▼              ▼
//!   nothing was asked         (`resume`: once more, for the rest, while the agent keeps the snapshot)
//!                             Stop::Ask     drop the stream (the agent detaches), remove our files, GetJob → clean-up
//!                             Stop::Broken  GetJob first: a job that was OK but for its last message is still OK
//!                             Stop::Final   the agent's own last word, clean-up included
//! ```
pub mod areas;
pub mod coverage;
pub mod progress;
pub mod staging;
pub mod writer;

mod base;
mod collector;
mod disk;
mod hardware;
mod image;
mod judge;
mod rate;
pub(crate) mod report;
mod resume;
mod settle;
mod stages;
mod target;
mod ticket;
mod wish;

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use hotadd_api::{
    status,
    v1::{BackupVmRequest, Cleanup, Consistency, GetInfoResponse, JobResult, JobState, SnapshotRequest, Transport},
};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use self::{
    collector::Collector,
    coverage::Format,
    judge::{Asked, Verdict},
    resume::Resume,
    settle::Settled,
    target::Target,
    ticket::Ticket,
    wish::Wish,
};
use crate::{
    cli::{AgentArgs, BackupArgs},
    connect::{self, Agent, chain, is_transport},
    error::Failure,
    exit::Exit,
    interrupt::{Interrupt, interrupted},
    output::Output,
    reasons,
    sign::SigningKey,
};

/// The longest that a living agent may be silent: removing a snapshot of a busy VM takes hours and has no events.
/// A dead agent is noticed in seconds by HTTP/2 pings, not by this.
const SILENCE_LIMIT: Duration = Duration::from_secs(12 * 3600);
/// How long the end of the stream may take after its last message.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why there is no result on the stream.
#[derive(Debug)]
enum Stop {
    /// The agent's own word, with its clean-up state.
    Final(Failure),
    /// Our side gave up; what that leaves has to be asked.
    Ask(Failure),
    /// The stream is gone; the job may even have ended well.
    Broken(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Ask(failure)
    }
}

/// # Errors
/// Every documented way to fail; the folder then holds nothing that looks like a backup of this run.
pub async fn run(args: &BackupArgs, agent_args: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut interrupt = Interrupt::install()?;
    let key = args.sign.as_deref().map(SigningKey::load).transpose()?;
    let target = Target::open(args)?;
    let asked = Asked::new(args);
    let wish = Wish::new(args, &asked, out)?;
    let mut request = wish.ask(request(args));
    let (agent, info) = interrupt.guard(Agent::connect(agent_args)).await?;
    let ticket = Ticket::new(args);
    ticket.suits(&info)?;
    request.vcenter_clone_ticket = ticket.take()?;
    let (faults, mut heard) = mpsc::channel(1);
    let format = Format { block: args.block_bytes(), compression: args.compression() };
    let mut collector = Collector::new(out.clone(), target, asked, wish, format, faults);
    let mut resume = Resume::new(args.resume_for);
    collector.keep_broken(resume.is_wanted());
    let result = loop {
        let streamed = tokio::select! {
            ended = stream(&agent, request.clone(), &mut collector) => ended,
            // The collector keeps a sender, so that this never ends by itself.
            Some(failure) = heard.recv() => Err(Stop::Ask(failure)),
            signal = interrupt.wait() => Err(Stop::Ask(interrupted(signal))),
        };
        let may_go_on = match &streamed {
            Ok(result) => result.state() == JobState::Failed,
            // A job that was OK but for its last message is none that broke.
            Err(Stop::Broken(_)) => !collector.is_whole(),
            Err(Stop::Final(_)) => true,
            Err(Stop::Ask(_)) => false,
        };
        if may_go_on && let Some(rest) = resume.rest(&agent, &request, &mut collector, &mut interrupt, out).await? {
            // It may be another agent by now.
            if ticket.is_given() {
                // The snapshot is kept for whoever resumes, until its time is over.
                let owed = |failure: Failure| failure.cleanup(Cleanup::Owed).judged();
                ticket.suits(&interrupt.guard(agent.info()).await?).map_err(owed)?;
            }
            request = BackupVmRequest { vcenter_clone_ticket: ticket.take()?, ..rest };
            continue;
        }
        break match streamed {
            Ok(result) => result,
            Err(stop) => {
                let limit = Duration::from_secs(args.settle_timeout);
                recover(stop, &agent, &request.request_id, limit, &mut collector, &mut interrupt, out).await?
            }
        };
    };
    let result = collector.complete(result);
    interrupt.guard(conclude(collector, result, &info, key.as_ref(), out, started)).await
}

fn request(args: &BackupArgs) -> BackupVmRequest {
    BackupVmRequest {
        request_id: args.request_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
        vm: args.vm.clone(),
        snapshot: Some(SnapshotRequest {
            consistency: Consistency::from(args.consistency).into(),
            timeout_seconds: args.quiesce_timeout,
        }),
        device_keys: args.disks.clone(),
        block_bytes: args.block_bytes(),
        allow_partial: args.allow_partial,
        resume_window_seconds: args.resume_for,
        nbd_servers: args.nbd.clone(),
        back_to_hotadd: args.back_to_hotadd,
        compression: args.compression().into(),
        transport: args.transport.map_or(Transport::Unspecified, Transport::from).into(),
        ..BackupVmRequest::default()
    }
}

/// Runs the job's stream to its result. Dropping this ends the stream, and with it the job.
async fn stream(agent: &Agent, request: BackupVmRequest, collector: &mut Collector) -> Result<JobResult, Stop> {
    let mut client = agent.jobs();
    let mut events = match tokio::time::timeout(SILENCE_LIMIT, client.backup_vm(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(stopped(agent, &status, false).await),
        Err(_) => return Err(silent()),
    };
    loop {
        match tokio::time::timeout(SILENCE_LIMIT, events.message()).await {
            Ok(Ok(Some(event))) => {
                if let Some(result) = collector.take(event).await? {
                    farewell(&mut events).await;
                    return Ok(result);
                }
            }
            Ok(Ok(None)) => return Err(Stop::Broken(broken("the agent ended it"))),
            Ok(Err(status)) => return Err(stopped(agent, &status, collector.began()).await),
            Err(_) => return Err(silent()),
        }
    }
}

/// Lets the agent end the stream, so that its side does not see a client that ran away. What comes is not of interest.
async fn farewell<T>(events: &mut Streaming<T>) {
    let _ = tokio::time::timeout(FAREWELL, events.message()).await;
}

fn silent() -> Stop {
    let what = format!("no event for {} h", SILENCE_LIMIT.as_secs() / 3600);
    Stop::Ask(Failure::new(Exit::JobFailed, reasons::SILENT, what))
}

fn broken(why: &str) -> Failure {
    Failure::new(Exit::JobFailed, reasons::BROKEN, format!("the stream broke before its result: {why}"))
}

/// Without a cause of this side, its words are those of what answers there.
fn torn(status: &Status) -> Stop {
    let why = match status.source() {
        Some(_) => connect::broken(status).to_owned(),
        None => format!("what answers there said {:?}: {}", status.code(), status.message()),
    };
    Stop::Broken(broken(&why).detail(chain(status)))
}

async fn stopped(agent: &Agent, status: &Status, began: bool) -> Stop {
    if let Some(reason) = status::from_status(status) {
        let exit = if began { Exit::JobFailed } else { Exit::Refused };
        let failure = Failure::from_reason(exit, &reason);
        // Without a word about clean-up the exit code must wait for one.
        return match reason.cleanup() {
            Cleanup::Unspecified => Stop::Ask(Failure { exit, ..failure }),
            Cleanup::Done | Cleanup::Owed => Stop::Final(failure),
        };
    }
    match status.code() {
        // Made by this side: a message above MAX_MESSAGE_BYTES.
        Code::OutOfRange => return Stop::Ask(Failure::contract(status.message())),
        // What HTTP/2 and runtimes make of a stream that is torn.
        Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => return torn(status),
        _ if is_transport(status) => return torn(status),
        _ => {}
    }
    // A server that is no agent; the job may run all the same.
    Stop::Ask(Failure { exit: Exit::JobFailed, ..agent.explain(status).await })
}

/// Finds out how the job ended when its stream did not tell.
async fn recover(
    stop: Stop,
    agent: &Agent,
    request_id: &str,
    limit: Duration,
    collector: &mut Collector,
    interrupt: &mut Interrupt,
    out: &Output,
) -> Result<JobResult, Failure> {
    let (failure, is_broken) = match stop {
        Stop::Final(failure) => return Err(failure),
        Stop::Ask(failure) => (failure, false),
        Stop::Broken(failure) => (failure, true),
    };
    if !is_broken {
        collector.give_up();
    }
    out.line(&format!("{}; asking the agent how the job ended", failure.message));
    let Settled { result, cleanup } = settle::settle(agent, request_id, limit, interrupt).await;
    let mut failure = failure;
    match result {
        Some(result) if is_broken && result.state() == JobState::Ok => return Ok(result),
        Some(result) => {
            out.event(|| report::job_json("job", &result));
            if let Some(reason) = result.reasons.first() {
                failure.message = format!("{} (the job ended: {} {})", failure.message, reason.code, reason.message);
            }
        }
        None => {}
    }
    Err(failure.cleanup(cleanup).judged())
}

/// From a result to a backup.
async fn conclude(
    mut collector: Collector,
    result: JobResult,
    info: &GetInfoResponse,
    key: Option<&SigningKey>,
    out: &Output,
    started: Instant,
) -> Result<Exit, Failure> {
    out.event(|| report::job_json("job", &result));
    let verdict = judge::judge(&result, collector.seen(), collector.asked())
        .inspect_err(|_| report::disks(out, &result.disks))?;
    let manifest = collector.manifest(&verdict, &result, info).await.map_err(|f| owed(f, &result))?;
    let (target, told) = collector.into_end();
    let path = target.commit(&manifest, key).map_err(|f| owed(f, &result))?;
    let exit = tell_missing(out, &verdict);
    report::end(out, &result, &manifest, path.as_deref(), &told, (exit, started.elapsed()));
    Ok(exit)
}

/// A failure after the job's end owes what the job's end says.
fn owed(failure: Failure, result: &JobResult) -> Failure {
    failure.cleanup(result.cleanup()).judged()
}

fn tell_missing(out: &Output, verdict: &Verdict) -> Exit {
    for missing in &verdict.missing {
        out.warning(&format!("not in this backup: {missing}"));
    }
    if verdict.missing.is_empty() { Exit::Ok } else { Exit::Partial }
}
