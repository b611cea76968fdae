//! Peak memory of an agent that reads many disks at the same time.
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use hotadd_bench::{Goal, machine::kibibytes};

use super::{
    Report, Size,
    disk::quiet,
    first::disks_of_a_job,
    measure::beside,
    ways::{BLOCK, DEPTH},
};
use crate::{Content, Scene};

const DISKS: u32 = 8;
/// What the agent may take beside what is in flight.
const REST_MIB: u32 = 64;

pub(super) async fn run(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let mut peaks = Vec::new();
    for round in 0..size.rounds.min(3) {
        let dir = dir.join(round.to_string());
        std::fs::create_dir(&dir)?;
        peaks.push(peak(&dir, size.bytes / 4).await?);
    }
    let bound = f64::from(DEPTH * (BLOCK >> 20) * DISKS + REST_MIB);
    let name = format!("peak of the agent, {DISKS} disks at once");
    let wanted = format!("depth {DEPTH} × 1 MiB × {DISKS} disks + {REST_MIB} MiB");
    let mut record = beside(&name, "MiB", &peaks, (&wanted, bound), Goal::AtMost(1.0), "memory");
    record.note = "VmHWM of a new agent (proc(5)), after one job over all disks.".to_owned();
    report.add(record)
}

/// MiB, of an agent of its own: the highest resident set is since its start.
async fn peak(dir: &Path, bytes: u64) -> Result<f64> {
    let contents: Vec<Content> = (0..u64::from(DISKS)).map(|seed| Content { every: 1, bytes, seed }).collect();
    let mut spec = quiet(dir, &contents);
    spec.agent_toml = format!("[limits]\nparallel_reads = {DISKS}\ndepth = {DEPTH}\n");
    let scene = Scene::start(dir, spec)?;
    let disks = disks_of_a_job(&scene).await?;
    ensure!(disks.len() == DISKS as usize, "{} disks were read", disks.len());
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.agent_pid()?))?;
    let peak = kibibytes(&status, "VmHWM").context("no VmHWM")?;
    Ok(f64::from(u32::try_from(peak >> 10)?) / 1024.0)
}
