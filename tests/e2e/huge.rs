//! A disk of 10 TiB of which little was ever written: time, memory and manifest follow what is in it, not its size.
use std::{fs::File, os::unix::fs::FileExt as _, os::unix::fs::MetadataExt as _};

use anyhow::{Result, ensure};
use hotadd_harness::{Content, ctl::images, scene::TARGET};
use serde_json::Value;

use crate::{
    many::peak,
    support::{MIB, nothing_is_left, scene},
};

const SIZE: u64 = 10 << 40;
/// One step of 64 KiB in each 64 GiB.
const STEP: u64 = 64 << 10;
const EVERY: u64 = (64 << 30) / STEP;
/// What the agent needs beside the buffers of one read, and those.
const MEMORY: u64 = (64 + 16) * MIB;
/// A block of the manifest is a line with its offset and its hash.
const LINE: u64 = 160;

#[tokio::test(flavor = "multi_thread")]
async fn ten_tebibytes_cost_what_is_in_them() -> Result<()> {
    let content = Content { bytes: SIZE, seed: 1, every: EVERY };
    let (dir, mut scene) = scene(&[content], |spec| spec.target().change_tracking = true)?;
    let out = dir.path().join("out");
    let target = out.display().to_string();
    let run = scene.ctl(&["--json", "backup", "--vm", TARGET, "--out", &target, "--allocated"])?;
    ensure!(run.code == 0, "{run:?}");
    let text = std::fs::read(out.join("manifest.json"))?;
    let manifest: Value = serde_json::from_slice(&text)?;
    let disk = &manifest["disks"][0];
    ensure!(disk["capacity_bytes"] == SIZE && disk["scope"] == "allocated", "{disk:#}");
    let image = File::open(&images(&out)?[0].1)?;
    let source = File::open(scene.source(0))?;
    let steps = SIZE / (EVERY * STEP);
    let (mut x, mut y) = (vec![0; usize::try_from(STEP)?], vec![0; usize::try_from(STEP)?]);
    for step in 0..steps {
        image.read_exact_at(&mut x, step * EVERY * STEP)?;
        source.read_exact_at(&mut y, step * EVERY * STEP)?;
        ensure!(x == y && x.iter().any(|&byte| byte != 0), "step {step} differs");
    }
    let kept = image.metadata()?;
    ensure!(kept.len() == SIZE && kept.blocks() * 512 <= steps * 2 * MIB, "{} blocks", kept.blocks());
    ensure!(text.len() as u64 <= 64 * LINE + steps * 4 * LINE, "a manifest of {} bytes for {steps} blocks", text.len());
    let used = peak(&mut scene)?;
    ensure!(used <= MEMORY, "the agent used {} MiB", used >> 20);
    nothing_is_left(&scene).await
}
