//! Rounds: contenders that take turns, what each round gave, and the records made of it.
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_bench::{Goal, Record, Side, Stages, stats, usage};

use super::Report;
use crate::Run;

/// One measured round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub mb_per_s: f64,
    pub cpu_s_per_gb: f64,
    pub stages: Option<Stages>,
}

impl Sample {
    #[allow(clippy::cast_precision_loss, reason = "rates of far fewer than 2^52 bytes")]
    pub(super) fn new(bytes: u64, elapsed: Duration, cpu: Duration) -> Self {
        let bytes = bytes as f64;
        Self {
            mb_per_s: bytes / 1e6 / elapsed.as_secs_f64(),
            cpu_s_per_gb: cpu.as_secs_f64() / (bytes / 1e9),
            stages: None,
        }
    }
}

/// Who reads, and what is wished of our ratio to it.
pub(super) struct Contender<'a> {
    pub name: String,
    /// As it was run; empty: in this process.
    pub command: String,
    pub goal: Option<Goal>,
    /// Wish for the CPU time of ours, as a ratio to this one's.
    pub cpu_goal: Option<Goal>,
    pub round: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

impl<'a> Contender<'a> {
    pub(super) fn new(name: &str, command: &str, round: impl FnMut() -> Result<Sample> + 'a) -> Self {
        let (name, command) = (name.to_owned(), command.to_owned());
        Self { name, command, goal: None, cpu_goal: None, round: Box::new(round) }
    }

    pub(super) fn at_least(mut self, ratio: f64) -> Self {
        self.goal = Some(Goal::AtLeast(ratio));
        self
    }

    pub(super) fn cpu_at_most(mut self, ratio: f64) -> Self {
        self.cpu_goal = Some(Goal::AtMost(ratio));
        self
    }
}

/// What all records of one comparison share.
#[derive(Debug, Default)]
pub(super) struct About<'a> {
    pub part: &'a str,
    pub bytes: u64,
    pub rounds: usize,
    pub note: &'a str,
    /// The last contender is no peer: its rate bounds all others.
    pub last_is_bound: bool,
}

/// The first is ours; a record for each other.
pub(super) fn compare(report: &mut Report, about: &About<'_>, mut all: Vec<Contender<'_>>) -> Result<()> {
    let samples = stats::turns(about.rounds, all.len(), |side| {
        let contender = &mut all[side];
        (contender.round)().with_context(|| contender.name.clone())
    })?;
    let rates = |n: usize| samples[n].iter().map(|sample| sample.mb_per_s).collect::<Vec<_>>();
    let cpu = |n: usize| samples[n].iter().map(|sample| sample.cpu_s_per_gb).collect::<Vec<_>>();
    let side = |n: usize| Side::of(&all[n].name, &all[n].command, &rates(n)).with_cpu(&cpu(n));
    let peers = 1..all.len() - usize::from(about.last_is_bound);
    let bound = about.last_is_bound.then(|| side(peers.end)).map(|side| (side.name, side.value));
    for n in peers {
        let mut record = Record::new(about.part, "MB/s", (side(0), side(n)), all[n].goal, about.rounds);
        (record.bytes, record.note, record.bound) = (about.bytes, about.note.to_owned(), bound.clone());
        record.stages = samples[0].last().and_then(|sample| sample.stages);
        report.add(record)?;
        if let Some(goal) = all[n].cpu_goal {
            let of = |n: usize| Side::of(&all[n].name, &all[n].command, &cpu(n));
            let mut record = Record::new(about.part, "CPU s/GB", (of(0), of(n)), Some(goal), about.rounds);
            record.bytes = about.bytes;
            report.add(record)?;
        }
    }
    Ok(())
}

/// Figures that have a wish but no peer: `values` beside the constant `wanted`.
pub(super) fn beside(name: &str, unit: &str, values: &[f64], wanted: (&str, f64), goal: Goal, part: &str) -> Record {
    let sides = (Side::of(name, "", values), Side::of(wanted.0, "", &[wanted.1]));
    Record::new(part, unit, sides, Some(goal), values.len())
}

/// CPU time of this process and of the children that it has waited for.
pub(super) fn cpu() -> Result<Duration> {
    Ok(usage::own_cpu()? + usage::children_cpu()?)
}

/// User and system time of a running process (proc(5), /proc/pid/stat fields 14 and 15).
pub(super) fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(") ").next().into_iter().flat_map(|rest| rest.split(' ').skip(11).take(2));
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(Duration::from_millis(ticks * 1000 / u64::try_from(per_second)?))
}

/// Runs a command to its end and counts the CPU time of `server`, too. What it prints is shown only when it fails.
pub(super) fn timed(command: &mut Command, server: Option<u32>, bytes: u64) -> Result<Sample> {
    let served = || server.map_or(Ok(Duration::ZERO), cpu_of);
    let (before, serving, begun) = (cpu()?, served()?, Instant::now());
    let run = Run::of(command)?;
    let elapsed = begun.elapsed();
    ensure!(run.code == 0, "{command:?}: {}{}", run.stdout, run.stderr);
    Ok(Sample::new(bytes, elapsed, cpu()?.saturating_sub(before) + served()?.saturating_sub(serving)))
}

/// Forgets what this machine's page cache holds of a block device: each round reads the device.
pub(super) fn forget(node: &Path) -> Result<()> {
    let run = Run::of(Command::new("blockdev").arg("--flushbufs").arg(node))?;
    ensure!(run.code == 0, "blockdev: {}", run.stderr);
    Ok(())
}

/// A command as somebody would type it.
pub(super) fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
