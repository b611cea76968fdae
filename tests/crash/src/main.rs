//! hotadd-crash: the campaign that breaks everything at every step of a job, thousands of times, and looks from outside
//! whether anything of the agent's stays. `ci/crash` starts it.
#![forbid(unsafe_code)]
mod act;
mod client;
mod dice;
mod guest;
mod heal;
mod journal;
mod judge;
mod lab;
mod moment;
mod plan;
mod relay;
mod round;
mod scale;
mod tally;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    lab::{Lab, Setup},
    plan::Round,
    round::Report,
    scale::Scale,
    tally::Tally,
};

/// Rounds of one simulator.
const ROUNDS_A_LAB: u64 = 50;

/// Breaks everything at every step, and looks whether anything stays.
#[derive(Debug, Parser)]
struct Args {
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first round's number: a campaign can be split.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Rounds at a time; most of a round is waiting.
    #[arg(long, default_value_t = 12)]
    jobs: u64,
    /// Of all the agent's waits [default: 0.02 in tier a, 1 in tier b]
    #[arg(long)]
    scale: Option<f64>,
    /// The agent's late_seconds instead of the scaled one; 0: only ended sessions keep late landings away. Tier a only.
    #[arg(long)]
    late: Option<f64>,
    /// Seconds that a slow task takes, instead of 0.3 to 1.2. Tier a only.
    #[arg(long)]
    slow: Option<f64>,
    /// Properties that the agent can never read, commas between. Tier a only.
    #[arg(long, value_delimiter = ',')]
    deny: Vec<String>,
    /// a: agent-sim with vcenter-sim on this host. b: the shipped daemon in a lab guest.
    #[arg(long, default_value = "a", value_parser = ["a", "b"])]
    tier: String,
    /// Plays one round again, with everything logged: SEED:ROUND.
    #[arg(long)]
    replay: Option<String>,
    /// Prints what each round is, and plays none.
    #[arg(long)]
    list: bool,
    /// Plays only rounds whose faults are all among these (names as --list prints them, commas between).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Plays this scene in every round: Work/Fault:Timing:Step,… (names as --list prints them; Standing: a session of the
    /// snapshot that stands). Tier a only.
    #[arg(long)]
    play: Option<plan::Scene>,
    /// Ends after this many failed rounds; 0: never.
    #[arg(long, default_value_t = 0)]
    stop_after: u64,
    /// Longest settling after a round, in seconds of real time [default: 60 in tier a, 400 in tier b]
    #[arg(long)]
    patience: Option<u64>,
    /// Where scenes live, and those of failed rounds stay.
    #[arg(long, default_value = "target/crash")]
    dir: PathBuf,
}

struct Campaign {
    setup: Setup,
    seed: u64,
    next: AtomicU64,
    /// Rounds that are still to be played.
    left: AtomicU64,
    only: Vec<String>,
    scene: Option<plan::Scene>,
    stop_after: u64,
    verbose: bool,
    tally: Mutex<Tally>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(mut args: Args) -> Result<bool> {
    if let Some(which) = &args.replay {
        let (seed, number) = which.split_once(':').context("--replay SEED:ROUND")?;
        (args.seed, args.from, args.rounds, args.jobs) = (seed.parse()?, number.parse()?, 1, 1);
    }
    let guest = args.tier == "b";
    if args.list && guest {
        (args.from..args.from + args.rounds).for_each(|n| println!("{}", guest::plan(args.seed, n)));
        return Ok(true);
    }
    if args.list {
        (args.from..args.from + args.rounds).for_each(|n| println!("{}", plan::round(args.seed, n)));
        return Ok(true);
    }
    let root = std::path::absolute(&args.dir)?.join(format!("run-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir_all(&root)?;
    let verbose = args.replay.is_some();
    let log = if verbose { "info,hotadd_agent=debug,hotadd_vsphere=debug" } else { "info" };
    // What vCenter never confirmed takes two looks and the settle wait, which is long at scale 1.
    let (scale, patience) = if guest { (1.0, 400) } else { (0.02, 60) };
    let scale = args.scale.unwrap_or(scale);
    let patience = Duration::from_secs(args.patience.unwrap_or(patience));
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if guest {
        let Args { seed, from, rounds, only, stop_after, .. } = args;
        let options = guest::Options { seed, from, rounds, only, stop_after, scale, patience, verbose };
        let tally = runtime.block_on(async { guest::campaign(&options, &root).await })?;
        fs::remove_dir(&root).ok();
        println!("{}", tally.line(scale, seed, start.elapsed()));
        return Ok(tally.is_clean(rounds));
    }
    let slow = args.slow.map(Duration::try_from_secs_f64).transpose().context("--slow SECONDS")?;
    let (late, denied) = (args.late, args.deny);
    let setup = Setup { scale: Scale(scale), late, slow, denied, patience, log: log.into(), root: root.clone() };
    let campaign = Arc::new(Campaign {
        setup,
        seed: args.seed,
        next: AtomicU64::new(args.from),
        left: AtomicU64::new(args.rounds),
        only: args.only,
        scene: args.play,
        stop_after: args.stop_after,
        verbose,
        tally: Mutex::default(),
    });
    runtime.block_on(async {
        tokio::spawn(end_early(Arc::clone(&campaign)));
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|n| tokio::spawn(worker(Arc::clone(&campaign), n))).collect();
        for worker in workers {
            if let Err(panic) = worker.await {
                eprintln!("a worker panicked: {panic}");
            }
        }
    });
    let tally = campaign.tally.lock().unwrap_or_else(PoisonError::into_inner);
    // Empty unless scenes of failed rounds are kept.
    fs::remove_dir(&root).ok();
    eprintln!("{}{}", tally.misses(), tally.times());
    println!("{}", tally.line(scale, args.seed, start.elapsed()));
    Ok(tally.is_clean(args.rounds))
}

/// SIGINT and SIGTERM let the rounds that run come to their end, so that no process or loop device stays.
async fn end_early(campaign: Arc<Campaign>) {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("ending after the rounds that run");
    campaign.left.store(0, Ordering::Relaxed);
}

async fn worker(campaign: Arc<Campaign>, worker: u64) {
    let mut lab: Option<Lab> = None;
    while let Some(round) = campaign.next_round() {
        let mut here = match lab.take() {
            Some(lab) => lab,
            None => match Lab::start(&campaign.setup, &format!("w{worker}-{}", round.number)).await {
                Ok(lab) => lab,
                Err(error) => {
                    let mut report = Report::default();
                    report.verdict.other.push(format!("no scene: {error:#}"));
                    campaign.note(&round, &report, None);
                    continue;
                }
            },
        };
        let exits = here.exits;
        let report = round::run(&mut here, &round).await;
        campaign.tally.lock().unwrap_or_else(PoisonError::into_inner).exits += here.exits - exits;
        campaign.note(&round, &report, Some(&here));
        match (report.verdict.is_clean(), here.rounds >= ROUNDS_A_LAB) {
            (false, _) => here.end(),
            (true, true) => remove(here),
            (true, false) => lab = Some(here),
        }
    }
    lab.into_iter().for_each(remove);
}

/// A scene in which all was well.
fn remove(lab: Lab) {
    let dir = lab.dir.clone();
    lab.end();
    fs::remove_dir_all(dir).ok();
}

impl Campaign {
    fn next_round(&self) -> Option<Round> {
        let failed = self.tally.lock().unwrap_or_else(PoisonError::into_inner).failed;
        if self.stop_after > 0 && failed >= self.stop_after {
            return None;
        }
        let take = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        let wanted = |round: &Round| {
            let known = |act: &plan::Act| self.only.iter().any(|name| *name == format!("{:?}", act.fault));
            self.only.is_empty() || round.acts.iter().all(known)
        };
        if let Some(scene) = &self.scene {
            return Some(scene.round(self.seed, self.next.fetch_add(1, Ordering::Relaxed)));
        }
        // Far enough for any list of faults; one that names none at all ends here.
        (0..1_000_000).map(|_| plan::round(self.seed, self.next.fetch_add(1, Ordering::Relaxed))).find(wanted)
    }

    fn note(&self, round: &Round, report: &Report, lab: Option<&Lab>) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.add(round.number, report);
        let failed = !report.verdict.is_clean();
        if failed || self.verbose {
            let mut text = format!("{}{round}\n", if failed { "FAILED " } else { "" });
            for line in report.verdict.lines().iter().chain(&report.notes) {
                text += &format!("    {line}\n");
            }
            if let Some(lab) = lab.filter(|_| failed) {
                text += &format!("    scene: {}\n", lab.dir.display());
                fs::write(lab.dir.join("round.txt"), &text).ok();
            }
            text += &format!("    again: ci/crash --replay {}:{}\n", round.seed, round.number);
            print!("{text}");
        }
        if tally.rounds.is_multiple_of(100) {
            eprintln!("{} rounds, {} failed", tally.rounds, tally.failed);
        }
    }
}
