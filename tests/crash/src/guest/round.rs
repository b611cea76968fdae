//! One round of tier B: the controller's work, the faults at their moments, until nothing is owed, the verdict.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{
    act::{self, Clock},
    judge::judge,
    plan::Round,
    scene::Scene,
};
use crate::{
    client::{Controller, Outcome},
    heal::Settling,
    journal,
    moment::{self, Moment},
    plan::Work,
    round::Report,
};

/// Length of tasks in rounds whose moments lie within one.
const TASK_MS: u64 = 400;
const POLL: Duration = Duration::from_millis(50);
/// A moment that has not come by then does not come in this round; everything takes longer on an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(20);
/// Sessions opened and closed in a row.
const CYCLES: u32 = 30;

/// Runs it. Whatever goes wrong is in the report: a campaign goes on.
pub async fn run(scene: &mut Scene, round: &Round) -> Report {
    let mut report = Report::default();
    let played = match round.acts.is_empty() {
        true => cycles(scene, &mut report).await.map(|()| (Clock::None, None)),
        false => play(scene, round, &mut report).await,
    };
    let (clock, outcome) = played.unwrap_or_else(|error| {
        report.verdict.other.push(format!("the round could not be played: {error:#}"));
        (Clock::None, None)
    });
    if let Some(outcome) = &outcome {
        report.ok = outcome.ok;
        report.notes.push(format!("controller: {outcome:?}"));
    }
    if let Err(error) = settle(scene, round, clock, &mut report).await {
        report.verdict.other.push(format!("{error:#}"));
    }
    if let Err(error) = judge(scene, outcome.as_ref(), &mut report.verdict).await {
        report.verdict.other.push(format!("the end could not be judged: {error:#}"));
    }
    report
}

async fn play(scene: &mut Scene, round: &Round, report: &mut Report) -> Result<(Clock, Option<Outcome>)> {
    scene.agent_ready()?;
    scene.call(json!({"cmd": "requests", "clear": true})).await?;
    scene.slow_disks(round.slow_disks()).await?;
    let frames = moment::frames(&scene.sources);
    let acts: Vec<_> =
        round.acts.iter().map(|act| (*act, moment::of(round.work, act.step, act.timing, frames))).collect();
    if acts.iter().any(|(_, moment)| moment.needs_slow_tasks()) {
        scene.call(json!({"cmd": "set_task_ms", "ms": TASK_MS})).await?;
    }
    let holds: Vec<_> =
        acts.iter().filter_map(|(_, m)| if let Moment::Client(seen) = m { Some(*seen) } else { None }).collect();
    let mut client = Controller::start(
        round.work,
        scene.lab.url.clone(),
        scene.lab.pki.clone(),
        scene.sources.clone(),
        holds.clone(),
    );
    let mut clock = Clock::None;
    for (act, moment) in acts {
        if !moment.reached(scene, Some(&client), PATIENCE).await? {
            report.missed.push(format!("{:?} {:?} {:?} {:?}", act.fault, act.timing, act.step, round.work));
            report.notes.push(format!("{act:?}: its moment did not come"));
            continue;
        }
        let at = Instant::now();
        let done = act::perform(scene, act.fault).await.with_context(|| format!("{act:?}"))?;
        report.notes.push(format!("{act:?}: done in {} ms {}", at.elapsed().as_millis(), done.note));
        report.done += 1;
        report.kills += u64::from(done.killed);
        if done.clock != Clock::None {
            clock = done.clock;
        }
        if done.deaf {
            client.vanish();
        }
        if let Moment::Client(seen) = moment {
            client.release(seen);
        }
    }
    holds.iter().for_each(|seen| client.release(*seen));
    scene.call(json!({"cmd": "set_task_ms", "ms": 0})).await?;
    let outcome = client.end(scene.patience).await?;
    act::mend(scene)?;
    scene.slow_disks(false).await?;
    Ok((clock, Some(outcome)))
}

/// Attaches and detaches the target's disks many times with one agent.
async fn cycles(scene: &mut Scene, report: &mut Report) -> Result<()> {
    scene.agent_ready()?;
    let open_files = "ls /proc/$(systemctl show -p MainPID --value hotadd-agent)/fd | wc -l";
    let mut before = None;
    for _ in 0..CYCLES {
        let mut client = Controller::start(
            Work::Session,
            scene.lab.url.clone(),
            scene.lab.pki.clone(),
            scene.sources.clone(),
            Vec::new(),
        );
        let outcome = client.end(scene.patience).await?;
        ensure!(outcome.ok && outcome.done && outcome.false_ok.is_none(), "a cycle went wrong: {outcome:?}");
        report.done += 1;
        report.ok = true;
        // The first cycle opens what stays open.
        before.get_or_insert(scene.guest(open_files)?);
    }
    let after = scene.guest(open_files)?;
    let count = |text: &str| text.trim().parse::<u64>();
    let before = count(&before.unwrap_or_default())?;
    // A connection of a controller may just be ending.
    ensure!(count(&after)? <= before + 4, "{before} open files after one cycle, {after} after {CYCLES}");
    Ok(())
}

/// Waits until vCenter and the journal show nothing of ours.
async fn settle(scene: &mut Scene, round: &Round, clock: Clock, report: &mut Report) -> Result<()> {
    let end = Instant::now() + scene.patience;
    let clean = loop {
        let Some(why) = owed(scene).await? else { break Instant::now() };
        if Instant::now() >= end {
            bail!("not settled within {} s: {why}", scene.patience.as_secs());
        }
        tokio::time::sleep(POLL).await;
    };
    let from = match clock {
        Clock::None => None,
        Clock::From(at) => Some(at),
        Clock::FirstConnection => scene.relay.first_connection(),
    };
    if let Some(from) = from {
        let took = clean.saturating_duration_since(from);
        report.notes.push(format!("settled {} ms after vCenter was there", took.as_millis()));
        report.settling = Some(Settling { took, unconfirmed: !round.confirmed() });
    }
    scene.agent_ready()
}

async fn owed(scene: &mut Scene) -> Result<Option<String>> {
    let state = scene.call(json!({"cmd": "state"})).await?;
    let vms = state["vms"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(busy) = vms.iter().find(|vm| !vm["busy"].is_null()) {
        return Ok(Some(format!("{} runs on {}", busy["busy"], busy["name"])));
    }
    let disks = scene.left_attached().await?;
    if !disks.is_empty() {
        return Ok(Some(format!("attached: {:?}", disks.iter().map(|disk| &disk.path).collect::<Vec<_>>())));
    }
    let snapshots = scene.our_snapshots().await?;
    if !snapshots.is_empty() {
        return Ok(Some(format!("snapshots: {snapshots:?}")));
    }
    let methods = scene.our_methods().await?;
    if !methods.is_empty() {
        return Ok(Some(format!("disabled methods: {methods:?}")));
    }
    // Last, because the emulated machine pays for each look.
    let open = scene.open_duties()?;
    Ok((!open.is_empty()).then(|| format!("journal: {}", journal::told(&open))))
}
