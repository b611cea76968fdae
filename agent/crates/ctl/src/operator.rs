//! `duties`, `drain`, `limits`: what an operator asks first, whether new work is taken, and how fast it may go.
use hotadd_api::v1::{DrainRequest, Duty, Limit, ListDutiesRequest, Pace, SetLimitsRequest, set_limits_request::What};
use serde_json::{Value, json};

use crate::{
    cli::{AgentArgs, DrainArgs, LimitsArgs, LimitsOf},
    connect::Agent,
    error::Failure,
    exit::Exit,
    output::Output,
};

/// Everything that the agent owes vSphere now; the exit code says whether that is anything.
pub(crate) async fn duties(args: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let (agent, _) = Agent::connect(args).await?;
    let duties = agent.call(agent.disks().list_duties(ListDutiesRequest {})).await?.duties;
    show_duties(&duties, out);
    Ok(if duties.is_empty() { Exit::Ok } else { Exit::DutiesOpen })
}

/// The table of duties, or a JSON line each.
pub(crate) fn show_duties(duties: &[Duty], out: &Output) {
    duties.iter().for_each(|duty| out.event(|| duty_json(duty)));
    let rows: Vec<_> = duties.iter().map(row).collect();
    out.section("duties", &["kind", "VM", "object", "state", "since", "note"], &rows);
}

fn duty_json(duty: &Duty) -> Value {
    json!({"event": "duty", "duty_id": duty.duty_id, "kind": duty.kind, "vm": duty.vm, "backing": duty.backing,
        "moref": duty.moref, "state": duty.state, "since": duty.since, "last_error": duty.last_error,
        "owner": duty.owner, "keep_until": duty.keep_until})
}

fn row(duty: &Duty) -> Vec<String> {
    let object = if duty.backing.is_empty() { &duty.moref } else { &duty.backing };
    let note = if duty.keep_until.is_empty() {
        duty.last_error.clone()
    } else {
        format!("kept until {} for a job that resumes", duty.keep_until)
    };
    vec![duty.kind.clone(), duty.vm.clone(), object.clone(), duty.state.clone(), duty.since.clone(), note]
}

/// Lets the agent take no new work, or take it again; the exit code says whether anything still runs.
pub(crate) async fn drain(args: DrainArgs, agent: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let (agent, _) = Agent::connect(agent).await?;
    let request = DrainRequest { drain: (!args.show).then_some(!args.off) };
    let now = agent.call(agent.proxy().drain(request)).await?;
    out.event(|| {
        json!({"event": "draining", "draining": now.draining, "running_jobs": now.running_jobs,
            "open_sessions": now.open_sessions, "open_duties": now.open_duties, "idle": now.idle})
    });
    let numbers = [now.running_jobs, now.open_sessions, now.open_duties].map(|number| number.to_string());
    let row = std::iter::once(if now.draining { "no" } else { "yes" }.to_owned()).chain(numbers).collect();
    out.section("drain", &["takes new work", "jobs", "sessions", "duties"], &[row]);
    Ok(if now.draining && !now.idle { Exit::DutiesOpen } else { Exit::Ok })
}

/// Shows the limits of reading, after a change if one is asked.
pub(crate) async fn limits(args: &LimitsArgs, agent: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let what = match &args.of {
        LimitsOf { all: true, .. } => Some(What::Agent(true)),
        LimitsOf { disk: true, .. } => Some(What::Disk(true)),
        LimitsOf { datastore, .. } => datastore.clone().map(What::Datastore),
    };
    let pace = Pace {
        bytes_per_second: args.bytes_per_second,
        reads_per_second: args.reads_per_second,
        latency_us: args.latency_us,
    };
    let pace = (what.is_some() && !args.reset).then_some(pace);
    let (agent, _) = Agent::connect(agent).await?;
    let request = SetLimitsRequest { what, pace, ttl_seconds: args.seconds };
    let limits = agent.call(agent.proxy().set_limits(request)).await?.limits;
    let of = |limit: &Limit| limit.pace.unwrap_or_default();
    limits.iter().for_each(|limit| {
        let Pace { bytes_per_second, reads_per_second, latency_us } = of(limit);
        out.event(|| {
            json!({"event": "limit", "what": limit.what, "bytes_per_second": bytes_per_second,
                "reads_per_second": reads_per_second, "latency_us": latency_us, "seconds_left": limit.seconds_left})
        });
    });
    let shown = |value: u64| if value == 0 { "-".to_owned() } else { value.to_string() };
    let row = |limit: &Limit| {
        let Pace { bytes_per_second, reads_per_second, latency_us } = of(limit);
        let figures = [bytes_per_second, reads_per_second, latency_us.into(), limit.seconds_left.into()];
        std::iter::once(limit.what.clone()).chain(figures.map(shown)).collect()
    };
    let rows: Vec<Vec<String>> = limits.iter().map(row).collect();
    out.section("limits", &["of", "bytes/s", "reads/s", "latency µs", "seconds left"], &rows);
    Ok(Exit::Ok)
}
