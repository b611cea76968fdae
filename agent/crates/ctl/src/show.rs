//! `info` (its second half is in `capacity`), `ls` and `job`: what the agent says of itself, as tables or JSON lines. Asks, never changes anything.
use hotadd_api::{
    status::cleanup_name,
    v1::{
        GetJobRequest, JobResult, JobState, ListDutiesRequest, ListJobsRequest, ListSessionsRequest,
        get_job_request::By,
    },
};
use serde_json::json;

use crate::{
    backup::report,
    capacity,
    cli::{AgentArgs, JobArgs},
    connect::Agent,
    error::Failure,
    exit::Exit,
    operator::show_duties,
    output::{Output, table},
};

pub(crate) async fn info(args: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let (agent, info) = Agent::connect(args).await?;
    out.event(|| {
        json!({"event": "info", "agent_version": info.agent_version, "proxy_name": info.proxy_name,
            "proxy_moref": info.proxy_moref, "vcenter_name": info.vcenter_name,
            "vcenter_api_version": info.vcenter_api_version, "negotiated_version": info.negotiated_version,
            "engine": info.engine, "engine_refusals": info.engine_refusals, "kernel": info.kernel,
            "open_duties": info.open_duties, "draining": info.draining, "clone_tickets": info.clone_tickets})
    });
    let mut rows = vec![
        pair("agent", format!("{}{}", info.agent_version, if info.draining { ", draining" } else { "" })),
        pair("proxy", format!("{} ({})", info.proxy_name, info.proxy_moref)),
        pair("vCenter", format!("{}, API {}", info.vcenter_name, info.vcenter_api_version)),
        pair("spoken version", info.negotiated_version),
        pair("engine", info.engine),
        pair("kernel", info.kernel),
        pair("open duties", info.open_duties.to_string()),
    ];
    rows.extend(info.engine_refusals.into_iter().map(|refusal| pair("engine refused", refusal)));
    out.answer(&table(&["agent", ""], &rows));
    capacity::show(&agent, out).await?;
    Ok(Exit::Ok)
}

fn pair(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

pub(crate) async fn ls(args: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let (agent, _) = Agent::connect(args).await?;
    sessions(&agent, out).await?;
    let jobs = agent.call(agent.jobs().list_jobs(ListJobsRequest {})).await?.jobs;
    jobs.iter().for_each(|job| out.event(|| report::job_json("job", job)));
    let rows: Vec<_> = jobs.iter().map(job_row).collect();
    out.section("jobs", &["job", "VM", "state", "phase", "disks", "clean-up", "started", "ended"], &rows);
    let duties = agent.call(agent.disks().list_duties(ListDutiesRequest {})).await?.duties;
    show_duties(&duties, out);
    Ok(Exit::Ok)
}

async fn sessions(agent: &Agent, out: &Output) -> Result<(), Failure> {
    let sessions = agent.call(agent.disks().list_sessions(ListSessionsRequest {})).await?.sessions;
    for session in &sessions {
        out.event(|| {
            json!({"event": "session", "session_id": session.session_id, "vm": session.vm, "state": session.state,
                "disks": session.disks.len(), "lease_seconds_left": session.lease_seconds_left,
                "closed_reason": session.closed_reason})
        });
    }
    let rows: Vec<_> = sessions
        .into_iter()
        .map(|session| {
            let lease = format!("{} s", session.lease_seconds_left);
            vec![
                session.session_id,
                session.vm,
                session.state,
                session.disks.len().to_string(),
                lease,
                session.closed_reason,
            ]
        })
        .collect();
    out.section("sessions", &["session", "VM", "state", "disks", "lease", "closed because"], &rows);
    Ok(())
}

fn job_row(job: &JobResult) -> Vec<String> {
    vec![
        job.job_id.clone(),
        job.vm_name.clone(),
        state_name(job.state()).to_owned(),
        report::phase_name(job.phase()).to_owned(),
        job.disks.len().to_string(),
        cleanup_name(job.cleanup()).to_owned(),
        job.started.clone(),
        job.ended.clone(),
    ]
}

pub(crate) fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Ok => "ok",
        JobState::Failed => "failed",
        JobState::Unspecified => "unknown",
    }
}

pub(crate) async fn job(args: &JobArgs, agent: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let (agent, _) = Agent::connect(agent).await?;
    let by = match (&args.id, &args.request_id) {
        (Some(id), _) => By::JobId(id.clone()),
        (None, Some(id)) => By::RequestId(id.clone()),
        (None, None) => return Err(Failure::internal("job without an id")),
    };
    let job = agent.call(agent.jobs().get_job(GetJobRequest { by: Some(by) })).await?;
    out.event(|| report::job_json("job", &job));
    let rows = [
        pair("job", job.job_id.clone()),
        pair("request", job.request_id.clone()),
        pair("VM", format!("{} ({})", job.vm_name, job.vm_moref)),
        pair("state", state_name(job.state()).to_owned()),
        pair("phase", report::phase_name(job.phase()).to_owned()),
        pair("clean-up", cleanup_name(job.cleanup()).to_owned()),
        pair("started", job.started.clone()),
        pair("ended", job.ended.clone()),
    ];
    out.answer(&table(&["job", ""], &rows));
    out.answer(&format!("\n{}", report::disk_table(&job.disks)));
    for reason in job.reasons.iter().chain(job.disks.iter().flat_map(|disk| &disk.reasons)) {
        out.answer(&report::reason_line(reason));
    }
    Ok(Exit::Ok)
}
