//! `watch`: what happens at the agent, a line or a JSON line each, until it is interrupted; from now on, or from where another watch
//! broke off. Asks, never changes anything.
use hotadd_api::v1::{Event, EventKind, WatchEventsRequest};
use serde_json::json;
use tonic::Streaming;

use crate::{
    backup::report,
    cli::{AgentArgs, WatchArgs},
    connect::Agent,
    error::Failure,
    exit::Exit,
    interrupt::Interrupt,
    output::Output,
    reasons,
};

/// The last event that was told.
#[derive(Debug, Default)]
struct Mark {
    run: String,
    sequence: u64,
}

impl Mark {
    fn note(&mut self, event: &Event) {
        if event.kind() == EventKind::Watching {
            self.run.clone_from(&event.run);
        }
        self.sequence = event.sequence;
    }

    /// How to go on where this watch ended, whatever ended it.
    fn on(&self, failure: Failure) -> Failure {
        if self.run.is_empty() {
            return failure;
        }
        let next = format!("hotaddctl watch --since {} --run {} goes on from there", self.sequence, self.run);
        Failure { next, ..failure }
    }
}

pub(crate) async fn run(args: &WatchArgs, agent: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::install()?;
    let (agent, _) = interrupt.guard(Agent::connect(agent)).await?;
    let mut mark = Mark::default();
    let ended = interrupt.guard(follow(&agent, args, &mut mark, out)).await;
    ended.map_err(|failure| mark.on(failure))
}

async fn follow(agent: &Agent, args: &WatchArgs, mark: &mut Mark, out: &Output) -> Result<Exit, Failure> {
    let mut events = open(agent, place(agent, args).await?).await?;
    loop {
        let event = next(agent, &mut events).await?;
        mark.note(&event);
        tell(&event, out);
    }
}

/// Numbers mean something within one run only.
async fn place(agent: &Agent, args: &WatchArgs) -> Result<WatchEventsRequest, Failure> {
    let Some(after) = args.since else { return Ok(WatchEventsRequest::default()) };
    let run = match &args.run {
        Some(run) => run.clone(),
        None => {
            let mut events = open(agent, WatchEventsRequest::default()).await?;
            next(agent, &mut events).await?.run
        }
    };
    Ok(WatchEventsRequest { run, after })
}

async fn open(agent: &Agent, request: WatchEventsRequest) -> Result<Streaming<Event>, Failure> {
    match agent.proxy().watch_events(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(agent.explain(&status).await),
    }
}

async fn next(agent: &Agent, events: &mut Streaming<Event>) -> Result<Event, Failure> {
    match events.message().await {
        Ok(Some(event)) => Ok(event),
        Ok(None) => {
            let what = "the agent ended the events: it is stopping";
            Err(Failure::new(Exit::Unreachable, reasons::UNREACHABLE, what))
        }
        Err(status) => Err(agent.explain(&status).await),
    }
}

fn tell(event: &Event, out: &Output) {
    out.event(|| {
        json!({"event": kind_name(event.kind()), "time": event.time, "id": event.id, "vm": event.vm,
            "reason": event.reason.as_ref().map(report::reason_json), "missed": event.missed,
            "sequence": event.sequence, "run": event.run})
    });
    out.answer(&crate::output::clean(&line(event)));
}

fn line(event: &Event) -> String {
    let why = match (&event.reason, event.kind()) {
        (Some(reason), _) => format!("  {} {}", reason.code, reason.message),
        (None, EventKind::Watching) => format!("  run {}", event.run),
        (None, EventKind::Missed) if event.missed == 0 => {
            "  the agent restarted: what it told before is lost".to_owned()
        }
        (None, EventKind::Missed) => format!("  {} events were missed", event.missed),
        (None, _) => String::new(),
    };
    let (kind, vm, id) = (kind_name(event.kind()), &event.vm, &event.id);
    let what = format!("{:>6}  {}  {kind:13} {vm} {id}", event.sequence, event.time);
    format!("{}{why}", what.trim_end())
}

fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Watching => "watching",
        EventKind::Missed => "missed",
        EventKind::DutyOpened => "duty_opened",
        EventKind::DutyRetired => "duty_retired",
        EventKind::DutyAlarm => "duty_alarm",
        EventKind::DutyKept => "duty_kept",
        EventKind::SessionEnded => "session_ended",
        EventKind::JobBegan => "job_began",
        EventKind::JobEnded => "job_ended",
        EventKind::Hold => "hold",
        EventKind::Login => "login",
        EventKind::DutyHeld => "duty_held",
        EventKind::SessionOpened => "session_opened",
        EventKind::Drain => "drain",
        EventKind::Limits => "limits",
        EventKind::Unspecified => "unknown",
    }
}
