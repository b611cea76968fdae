//! `doctor`: hotadd-doctor with hotaddctl's output and exit codes, and its fix. Neither rules nor vSphere live here.
use hotadd_api::v1::Cleanup;
use hotadd_doctor::{
    codes,
    connect::{Trouble, Vcenter},
    finding::{self, Report},
    fix::{self, Agent},
    report,
};
use serde_json::Value;

use crate::{
    cli::{AgentArgs, DoctorArgs},
    connect,
    error::Failure,
    exit::Exit,
    output::Output,
};

pub(crate) async fn run(args: &DoctorArgs, agent: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let agent = address(agent)?;
    let vcenter = Vcenter::open(&args.look.vcenter).await.map_err(|trouble| failure(&trouble))?;
    let ended = look_and_fix(&vcenter, args, &agent, out).await;
    vcenter.close().await;
    ended
}

/// Where the agent answers that has to be dead before anything is changed.
fn address(agent: &AgentArgs) -> Result<Agent, Failure> {
    if agent.agent.is_none() && std::env::var_os("HOTADD_AGENT").is_none() {
        return Ok(Agent::default());
    }
    let uri = connect::agent_uri(agent)?;
    Ok(Agent { address: uri.authority().map(ToString::to_string) })
}

async fn look_and_fix(vcenter: &Vcenter, args: &DoctorArgs, agent: &Agent, out: &Output) -> Result<Exit, Failure> {
    let limits = &args.look.limits;
    let told = |trouble: Trouble| failure(&trouble);
    let mut last = report(vcenter, limits).await.map_err(told)?;
    if args.fix.fix {
        let plan = fix::plan(vcenter, &args.fix, limits, agent).await.map_err(told)?;
        if !args.fix.yes {
            tell_report(&last, out);
            tell(out, "doctor_fix", plan.json());
            out.answer(&plan.text());
            return Ok(exit(&last));
        }
        let done = fix::carry_out(vcenter, &plan, &args.fix, limits, agent).await.map_err(told)?;
        tell(out, "doctor_fix", done.json());
        out.answer(&done.text());
        if let Some(trouble) = &done.trouble {
            return Err(failure(trouble));
        }
        last = report(vcenter, limits).await.map_err(told)?;
        tell_report(&last, out);
        let Some(refusal) = done.refusals.first() else { return Ok(exit(&last)) };
        let what = format!("{} ({}): {}", refusal.object.name, refusal.object.moref, refusal.why);
        return Err(failure(&Trouble { code: codes::NOT_FIXED, message: what }));
    }
    tell_report(&last, out);
    Ok(exit(&last))
}

fn tell_report(report: &Report, out: &Output) {
    let mut json = report.json();
    json["exit"] = exit(report).code().into();
    tell(out, "doctor", json);
    out.answer(&report.text());
}

fn tell(out: &Output, event: &str, mut json: Value) {
    json["event"] = event.into();
    out.event(|| json);
}

fn exit(report: &Report) -> Exit {
    match report.exit() {
        finding::Exit::Clean => Exit::Ok,
        finding::Exit::Findings => Exit::Findings,
        finding::Exit::Usage => Exit::Usage,
        finding::Exit::CouldNotLook => Exit::NotLookedAt,
    }
}

fn failure(trouble: &Trouble) -> Failure {
    let (exit, cleanup) = match trouble.code {
        codes::USAGE => (Exit::Usage, Cleanup::Done),
        codes::NOT_FIXED => (Exit::Refused, Cleanup::Owed),
        codes::HALF_FIXED => (Exit::CleanupOwed, Cleanup::Unspecified),
        _ => (Exit::Unreachable, Cleanup::Done),
    };
    Failure {
        exit,
        code: trouble.code.id.to_owned(),
        message: trouble.message.clone(),
        next: trouble.code.next.to_owned(),
        detail: None,
        cleanup,
    }
}
