//! Tier B of the campaign: the same question in a lab guest with the shipped daemon under its unit, real vmw_pvscsi, udev and
//! systemd. Its state lies on a disk of its own whose write cache a power cut takes away. All waits are those of the
//! defaults. One guest plays all rounds, one after the other.
mod act;
mod judge;
mod plan;
mod power;
mod round;
mod scene;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::tally::Tally;

pub use self::plan::round as plan;
use self::scene::Scene;

/// What a run of tier B is told.
#[derive(Debug)]
pub struct Options {
    pub seed: u64,
    pub from: u64,
    pub rounds: u64,
    pub only: Vec<String>,
    pub stop_after: u64,
    pub scale: f64,
    pub patience: Duration,
    pub verbose: bool,
}

/// Plays the rounds; scenes of failed ones stay below `root`.
pub async fn campaign(options: &Options, root: &Path) -> Result<Tally> {
    let mut tally = Tally::default();
    let wanted = |round: &plan::Round| {
        let named = |act: &plan::Act| options.only.iter().any(|name| *name == format!("{:?}", act.fault));
        options.only.is_empty() || (!round.acts.is_empty() && round.acts.iter().all(named))
    };
    // Far enough for any list of faults; one that names none at all ends here.
    let numbers = options.from..options.from.saturating_add(1_000_000);
    let rounds = numbers.map(|number| plan::round(options.seed, number)).filter(wanted);
    let mut scene = None;
    for round in rounds.take(usize::try_from(options.rounds).unwrap_or(usize::MAX)) {
        let mut here = match scene.take() {
            Some(here) => here,
            None => {
                let dir = root.join(format!("guest-{}", round.number));
                let mut scene = Scene::start(&dir, options.scale, options.patience).await?;
                // A power cut that loses nothing would prove nothing.
                power::a_cut_loses_what_was_not_flushed(&mut scene).await?;
                scene
            }
        };
        let start = Instant::now();
        let report = round::run(&mut here, &round).await;
        tally.add(round.number, &report);
        let failed = !report.verdict.is_clean();
        println!("{}{round} ({} s)", if failed { "FAILED " } else { "" }, start.elapsed().as_secs());
        if failed || options.verbose || std::env::var_os("HOTADD_CRASH_NOTES").is_some() {
            report.verdict.lines().iter().chain(&report.notes).for_each(|line| println!("    {line}"));
            println!("    again: ci/crash --tier b --replay {}:{}", round.seed, round.number);
        }
        if failed {
            println!("    scene: {}", here.dir.display());
            here.keep_journal();
            here.end();
            if options.stop_after > 0 && tally.failed >= options.stop_after {
                break;
            }
        } else {
            scene = Some(here);
        }
    }
    if let Some(here) = scene {
        let dir = here.dir.clone();
        here.end();
        std::fs::remove_dir_all(dir).ok();
    }
    Ok(tally)
}
