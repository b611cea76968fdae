//! Backups by hotaddctl as a contender, and what their events tell.
use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_bench::Stages;
use serde_json::Value;

use super::measure::{Contender, Sample, cpu, cpu_of};
use crate::{Run, Scene, scene::TARGET};

/// Where what can't be dropped goes: an incremental backup is one only with its base.
const MEMORY: &str = "/dev/shm";

fn can_drop(more: &[&str]) -> bool {
    !more.contains(&"--incremental")
}

/// One backup of the target's first disk that was OK.
#[derive(Debug)]
pub(super) struct Done {
    /// First read submitted to last frame handed over.
    pub transfer: Duration,
    pub cpu: Duration,
    pub stages: Option<Stages>,
    /// From the opened disk to the proven backup: image, manifest and folder are synced, and the disk is detached.
    pub kept: Duration,
    pub scope: String,
}

/// `out`: a folder that is not there.
pub(super) fn backup(scene: &Scene, out: &Path, more: &[&str]) -> Result<Done> {
    let out = out.to_str().context("not UTF-8")?;
    run(scene, &[&["--out", out], more].concat())
}

fn run(scene: &Scene, more: &[&str]) -> Result<Done> {
    let agent = scene.agent_pid()?;
    let (before, agents) = (cpu()?, cpu_of(agent)?);
    let mut command = Run::command(&scene.url, &scene.pki, "client")?;
    let (run, events) = Run::stamped(command.args(["--json", "backup", "--vm", TARGET]).args(more))?;
    ensure!(run.code == 0, "{}", run.stderr);
    let spent = cpu()?.saturating_sub(before) + cpu_of(agent)?.saturating_sub(agents);
    let event = |name: &str| events.iter().find(|(_, event)| event["event"] == name).with_context(|| name.to_owned());
    let ((begun, opened), (_, disk), (ended, _)) = (event("opened")?, event("disk")?, event("result")?);
    let transfer = disk["result"]["transfer_us"].as_u64().context("transfer time")?;
    Ok(Done {
        transfer: Duration::from_micros(transfer),
        cpu: spent,
        stages: stages(&disk["result"]["stages"]),
        kept: ended.saturating_duration_since(*begun),
        scope: opened["scope"].as_str().unwrap_or_default().to_owned(),
    })
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a transfer")]
fn stages(told: &Value) -> Option<Stages> {
    let us = |name: &str| told[name].as_u64().map(|us| us as f64);
    let all = [us("source_us")?, us("agent_us")?, us("outlet_us")?, us("paced_us")?];
    let sum: f64 = all.iter().sum();
    let [source, agent, outlet, paced] = all.map(|us| hotadd_bench::record::rounded(us / sum));
    (sum > 0.0).then_some(Stages { source, agent, outlet, paced })
}

/// A backup of which nothing is kept.
pub(super) fn dropped(scene: &Scene, more: &[&str]) -> Result<Done> {
    if can_drop(more) {
        return run(scene, &[&["--discard"], more].concat());
    }
    let dir = tempfile::tempdir_in(MEMORY)?;
    backup(scene, &dir.path().join("out"), more)
}

/// As somebody would type it.
pub(super) fn typed(more: &[&str]) -> String {
    let words = [if can_drop(more) { "--discard" } else { "--out TMPFS" }];
    let more = more.iter().map(|word| if word.contains('/') { "BASE" } else { word });
    words.into_iter().chain(more).fold("hotaddctl backup --vm web01".to_owned(), |text, word| text + " " + word)
}

/// The whole way into nothing; its time is the transfer alone, its CPU that of agent and hotaddctl.
pub(super) fn discarding<'a>(name: &str, scene: &'a Scene, bytes: u64) -> Contender<'a> {
    Contender::new(name, &typed(&[]), move || {
        let done = dropped(scene, &[])?;
        Ok(Sample { stages: done.stages, ..Sample::new(bytes, done.transfer, done.cpu) })
    })
}
