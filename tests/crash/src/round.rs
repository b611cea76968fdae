//! One round: the controller's work, the faults at their moments, the end, the verdict.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    act,
    client::{Controller, Outcome},
    heal::{self, Settling},
    journal,
    judge::{Verdict, chains, judge},
    lab::Lab,
    moment::{self, Moment},
    plan::{Act, Fault, Round, Step},
    relay::Relay,
};

/// Length of tasks in rounds whose moments lie within one.
const TASK_MS: u64 = 120;
/// How long the faults that last are left to work after the last act.
const LINGER: Duration = Duration::from_millis(600);
/// A recovering agent gets this long to reach the act's moment.
const RECOVERY: Duration = Duration::from_millis(1500);

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub verdict: Verdict,
    pub settling: Option<Settling>,
    pub kills: u64,
    /// Faults that were done, and moments that did not come.
    pub done: u64,
    pub missed: u64,
    pub ok: bool,
    pub notes: Vec<String>,
    /// Until the last act, lingering, until the controller's end: where a campaign's time goes.
    pub spent: [Duration; 3],
}

/// Runs it. Whatever goes wrong is in the report: a campaign goes on.
pub async fn run(lab: &mut Lab, round: &Round) -> Report {
    let mut report = Report::default();
    let mut outcome = None;
    if let Err(error) = play(lab, round, &mut report, &mut outcome).await {
        report.verdict.other.push(format!("the round could not be played: {error:#}"));
    }
    if let Some(outcome) = &outcome {
        report.ok = outcome.ok;
        report.notes.push(format!("controller: {outcome:?}"));
    }
    // Who went away in the middle of a call left work behind that nothing outside shows before it begins.
    let still = outcome.as_ref().is_none_or(|outcome| outcome.broken.is_some());
    match heal::settle(lab, still).await {
        Ok(settling) => report.settling = Some(settling),
        Err(error) => report.verdict.other.push(format!("{error:#}")),
    }
    let seen = judge(lab, outcome.as_ref(), &mut report.verdict).await;
    let mut cleared = seen.and(heal::clear_foreign(lab).await);
    if cleared.is_ok() {
        cleared = chains(lab, &mut report.verdict).await;
    }
    if let Err(error) = cleared {
        report.verdict.other.push(format!("the end could not be judged: {error:#}"));
    }
    lab.rounds += 1;
    report
}

async fn play(lab: &mut Lab, round: &Round, report: &mut Report, outcome: &mut Option<Outcome>) -> Result<()> {
    lab.agent_ready().await?;
    lab.call(json!({"cmd": "requests", "clear": true})).await?;
    lab.journal_mark = journal::records_from(&lab.journal(), 0)?.1;
    let frames = moment::frames(&lab.sources);
    let moments: Vec<(Act, Moment)> =
        round.acts.iter().map(|act| (*act, moment::of(round.work, act.step, act.timing, frames))).collect();
    if moments.iter().any(|(_, moment)| moment.needs_slow_tasks()) {
        lab.call(json!({"cmd": "set_task_ms", "ms": TASK_MS})).await?;
    }
    if round.acts.iter().any(|act| act.step == Step::Discover) {
        lab.call(json!({"cmd": "suppress_events", "on": true})).await?;
    }
    let relay = match round.acts.iter().any(|act| act.fault == Fault::HalfOpen) {
        true => Some(Relay::start(lab.port()).await?),
        false => None,
    };
    let holds = moments.iter().filter_map(|(_, m)| if let Moment::Client(seen) = m { Some(*seen) } else { None });
    let holds: Vec<_> = holds.collect();
    let start = |lab: &Lab| {
        let url = relay.as_ref().map_or_else(|| lab.url.clone(), |r| format!("https://localhost:{}", r.port));
        Controller::start(round.work, url, lab.scene().pki.clone(), lab.sources.clone(), holds.clone())
    };
    let mut client = None;
    let play_from = Instant::now();
    let (mut killed, mut stopping) = (false, false);
    for (act, moment) in moments {
        // What ends the controller's way needs a controller.
        let alone = moment == Moment::Start && !matches!(act.fault, Fault::ClientGone | Fault::HalfOpen);
        if client.is_none() && !alone {
            client = Some(start(lab));
        }
        let reached = match killed {
            true => in_recovery(lab, moment).await?,
            false => moment.reached(lab, client.as_ref()).await?,
        };
        if !reached {
            report.missed += 1;
            report.notes.push(format!("{act}: its moment did not come"));
            continue;
        }
        let at = Instant::now();
        let done = act::perform(lab, &act, client.as_ref(), relay.as_ref()).await.with_context(|| act.to_string())?;
        report.notes.push(format!("{act}: done in {} ms {}", at.elapsed().as_millis(), done.note));
        report.done += 1;
        report.kills += u64::from(done.killed);
        killed |= act.fault.kills();
        stopping = (stopping || act.fault == Fault::Stop) && !act.fault.kills();
        if let (Moment::Client(seen), Some(client)) = (moment, &client) {
            client.release(seen);
        }
    }
    let mut client = client.unwrap_or_else(|| start(lab));
    holds.iter().for_each(|seen| client.release(*seen));
    report.spent[0] = play_from.elapsed();
    let linger_from = Instant::now();
    let linger = linger_from + LINGER;
    while !client.has_ended() && Instant::now() < linger {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    heal::mend(lab).await?;
    report.spent[1] = linger_from.elapsed();
    let end_from = Instant::now();
    if stopping {
        lab.stopped().await?;
    }
    if relay.is_some() {
        // Nothing comes through it any more: the controller gives up, the agent has to find out by itself.
        client.vanish();
    }
    *outcome = Some(client.end(lab.patience).await?);
    report.spent[2] = end_from.elapsed();
    drop(relay);
    Ok(())
}

/// The agent is dead: it starts, and the act strikes while it recovers.
async fn in_recovery(lab: &mut Lab, moment: Moment) -> Result<bool> {
    if !lab.agent_lives() {
        lab.launch_agent()?;
    }
    let end = Instant::now() + RECOVERY;
    let Moment::Call(method, text) = moment else { return Ok(true) };
    while Instant::now() < end {
        if moment::called(lab, method, text).await? {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(12)).await;
    }
    Ok(false)
}
