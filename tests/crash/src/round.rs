//! One round: the controller's work, the faults at their moments, the end, the verdict.
//!
//! ```text
//! act: its moment comes ──▶ strikes
//!      the agent is dead ─▶ it starts, the act strikes while it recovers
//!      else, or nothing was there to strike ─▶ all is mended, another job begins, and the act strikes in that one
//!      else ─▶ missed
//! ```
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hotadd_api::v1::{SnapshotRequest, open_disks_request::From};
use serde_json::json;

use crate::{
    act::{self, Done},
    client::{Controller, Outcome, Seen},
    heal::{self, Settling},
    journal,
    judge::{Verdict, chains, judge},
    lab::Lab,
    moment::{self, Moment},
    plan::{Act, Fault, Round, Step, Work},
    relay::Relay,
};

/// Length of tasks in rounds whose moments lie within one.
const TASK_MS: u64 = 120;
/// How long the faults that last are left to work after the last act.
const LINGER: Duration = Duration::from_millis(600);
/// A recovering agent gets this long to reach the act's moment.
const RECOVERY: Duration = Duration::from_millis(1500);
/// A moment that has not come by then does not come in this job.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same of a job that first waits until the one before it has given the VM back.
const PATIENCE_ANEW: Duration = Duration::from_secs(8);
/// More data than this can't be on its way between an agent's last look and a controller that takes no more: queues of
/// events (8 blocks), HTTP/2's send buffer (400 KiB) and window (64 KiB).
const ON_ITS_WAY: u64 = 1 << 20;

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub verdict: Verdict,
    pub settling: Option<Settling>,
    pub kills: u64,
    /// Faults that were done, and acts whose moment did not come, with the work.
    pub done: u64,
    pub missed: Vec<String>,
    pub ok: bool,
    pub notes: Vec<String>,
    /// Until the last act, lingering, until the controller's end: where a campaign's time goes.
    pub spent: [Duration; 3],
}

/// Runs it. Whatever goes wrong is in the report: a campaign goes on.
pub async fn run(lab: &mut Lab, round: &Round) -> Report {
    let mut report = Report::default();
    let mut outcomes = Vec::new();
    if let Err(error) = play(lab, round, &mut report, &mut outcomes).await {
        report.verdict.other.push(format!("the round could not be played: {error:#}"));
    }
    report.ok = outcomes.iter().any(|outcome| outcome.ok);
    report.notes.extend(outcomes.iter().map(|outcome| format!("controller: {outcome:?}")));
    // Who went away in the middle of a call left work behind that nothing outside shows before it begins.
    let still = outcomes.is_empty() || outcomes.iter().any(|outcome| outcome.broken.is_some());
    match heal::settle(lab, still).await {
        Ok(settling) => report.settling = Some(settling),
        Err(error) => report.verdict.other.push(format!("{error:#}")),
    }
    let seen = judge(lab, &outcomes, &mut report.verdict).await;
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

async fn play(lab: &mut Lab, round: &Round, report: &mut Report, outcomes: &mut Vec<Outcome>) -> Result<()> {
    lab.agent_ready().await?;
    let frames = moment::frames(&lab.sources);
    let acts: Vec<(Act, Moment)> =
        round.acts.iter().map(|act| (*act, moment::of(round.work, act.step, act.timing, frames))).collect();
    let mut play = Play {
        lab,
        work: round.work,
        report,
        outcomes,
        client: None,
        relay: None,
        holds: Vec::new(),
        killed: false,
        stopping: false,
        cut: false,
        spoiled: None,
    };
    let from = Instant::now();
    play.prepare(&acts).await?;
    for at in 0..acts.len() {
        play.act(&acts[at..]).await?;
    }
    play.report.spent[0] = from.elapsed();
    play.end().await
}

struct Play<'a> {
    lab: &'a mut Lab,
    work: Work,
    report: &'a mut Report,
    outcomes: &'a mut Vec<Outcome>,
    client: Option<Controller>,
    relay: Option<Relay>,
    /// Where the controller stops.
    holds: Vec<Seen>,
    /// The agent is dead, or has not served since.
    killed: bool,
    /// SIGTERM was sent and the end has not been seen.
    stopping: bool,
    /// Nothing passes the relay.
    cut: bool,
    /// What took away the data that the controller was still to get.
    spoiled: Option<String>,
}

impl Play<'_> {
    /// Makes the moments of these acts possible, and forgets what came before.
    async fn prepare(&mut self, acts: &[(Act, Moment)]) -> Result<()> {
        self.lab.call(json!({"cmd": "requests", "clear": true})).await?;
        self.lab.journal_mark = journal::records_from(&self.lab.journal(), 0)?.1;
        if acts.iter().any(|(_, moment)| moment.needs_slow_tasks()) {
            self.lab.call(json!({"cmd": "set_task_ms", "ms": TASK_MS})).await?;
        }
        if acts.iter().any(|(act, _)| act.step == Step::Discover) {
            self.lab.call(json!({"cmd": "suppress_events", "on": true})).await?;
        }
        self.relay = match acts.iter().any(|(act, _)| act.fault == Fault::HalfOpen) {
            true => Some(Relay::start(self.lab.port()).await?),
            false => None,
        };
        self.holds =
            acts.iter().filter_map(|(_, m)| if let Moment::Client(seen) = m { Some(*seen) } else { None }).collect();
        Ok(())
    }

    fn start(&mut self) {
        let url = self.relay.as_ref().map(|relay| format!("https://localhost:{}", relay.port));
        let url = url.unwrap_or_else(|| self.lab.url.clone());
        let pki = self.lab.scene().pki.clone();
        let standing = self.lab.foreign.snapshots.first().filter(|_| self.work == Work::Standing);
        let from =
            standing.map_or_else(|| From::Take(SnapshotRequest::default()), |id| From::SnapshotMoref(id.clone()));
        let (sources, holds) = (self.lab.sources.clone(), self.holds.clone());
        let servers = if self.work == Work::Served { self.lab.servers() } else { Vec::new() };
        self.client = Some(Controller::start_on(self.work, url, pki, sources, holds, from, servers));
    }

    /// The first of these acts, in this job or, if it can't be done there, in another one.
    async fn act(&mut self, acts: &[(Act, Moment)]) -> Result<()> {
        let Some(&(act, moment)) = acts.first() else { return Ok(()) };
        // What ends the controller's way needs a controller.
        let alone = moment == Moment::Start && !matches!(act.fault, Fault::ClientGone | Fault::HalfOpen);
        if self.client.is_none() && !alone {
            self.start();
        }
        let here = match self.killed {
            true => in_recovery(self.lab, moment).await?,
            false => moment.reached(self.lab, self.client.as_ref(), PATIENCE).await?,
        };
        if here && self.strike(&act, moment).await? {
            return Ok(());
        }
        self.anew(acts).await?;
        if moment.reached(self.lab, self.client.as_ref(), PATIENCE_ANEW).await? && self.strike(&act, moment).await? {
            return Ok(());
        }
        self.report.missed.push(format!("{act} {:?}", self.work));
        let at = self.client.as_ref().map(|client| client.progress.borrow().clone());
        self.report.notes.push(format!("{act}: its moment did not come; the controller is at {at:?}"));
        self.release(moment);
        Ok(())
    }

    /// False: there was nothing to strike.
    async fn strike(&mut self, act: &Act, moment: Moment) -> Result<bool> {
        let at = Instant::now();
        let client = self.client.as_ref();
        let left = client.filter(|_| matches!(moment, Moment::Client(_))).map_or(0, |c| c.progress.borrow().left);
        let done = act::perform(self.lab, act, client, self.relay.as_ref()).await.with_context(|| act.to_string())?;
        let Done { killed, idle, spoils, note } = done;
        self.report.notes.push(format!(
            "{act}: {} in {} ms {note}",
            if idle { "idle" } else { "done" },
            at.elapsed().as_millis()
        ));
        if idle {
            return Ok(false);
        }
        self.report.done += 1;
        self.report.kills += u64::from(killed);
        self.killed |= act.fault.kills();
        self.stopping = (self.stopping || act.fault == Fault::Stop) && !act.fault.kills();
        self.cut |= act.fault == Fault::HalfOpen;
        if spoils && left > ON_ITS_WAY {
            self.spoiled = Some(format!("{act}: {left} bytes were still to come, {note}"));
        }
        self.release(moment);
        Ok(true)
    }

    fn release(&self, moment: Moment) {
        if let (Moment::Client(seen), Some(client)) = (moment, &self.client) {
            client.release(seen);
        }
    }

    /// Everything is mended and another job begins while the agent still gives back what it held.
    async fn anew(&mut self, acts: &[(Act, Moment)]) -> Result<()> {
        heal::mend(self.lab).await?;
        // The next job would fail at once of an outage that still lasts.
        self.lab.call(json!({"cmd": "vc_down", "ms": 0})).await?;
        self.end_client().await?;
        self.lab.agent_ready().await?;
        self.killed = false;
        self.prepare(acts).await?;
        self.start();
        Ok(())
    }

    /// The controller's end, and the agent's if it was told to stop.
    async fn end_client(&mut self) -> Result<()> {
        if self.stopping {
            self.holds.iter().for_each(|seen| self.client.iter().for_each(|client| client.release(*seen)));
            self.lab.stopped().await?;
            self.stopping = false;
        }
        let Some(mut client) = self.client.take() else { return Ok(()) };
        self.holds.iter().for_each(|seen| client.release(*seen));
        if std::mem::take(&mut self.cut) {
            // Nothing comes through it any more: the controller gives up, the agent has to find out by itself.
            client.vanish();
        }
        let mut outcome = client.end(self.lab.patience).await?;
        if let Some(why) = self.spoiled.take().filter(|_| outcome.ok) {
            outcome.false_ok = Some(format!("OK in spite of {why}"));
        }
        self.outcomes.push(outcome);
        self.relay = None;
        Ok(())
    }

    /// What lasts is left to work for a while, then mended.
    async fn end(mut self) -> Result<()> {
        if self.client.is_none() {
            self.start();
        }
        let from = Instant::now();
        while let Some(client) = &self.client {
            self.holds.iter().for_each(|seen| client.release(*seen));
            if client.has_ended() || from.elapsed() >= LINGER {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        heal::mend(self.lab).await?;
        self.report.spent[1] = from.elapsed();
        let from = Instant::now();
        self.end_client().await?;
        self.report.spent[2] = from.elapsed();
        Ok(())
    }
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
