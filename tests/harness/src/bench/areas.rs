//! Disks of which little is read: little data, little change, beside the full read of the same disk; and the zero scan.
use std::{hint::black_box, path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use hotadd_bench::{Goal, Record, Side, stats::turns};
use hotadd_blockio::zero::is_zero;
use serde_json::json;

use super::{
    Report, Size,
    disk::{Linked, scattered},
    jobs::{backup, dropped, typed},
    measure::{Sample, beside},
};
use crate::{Content, scene::TARGET};

/// A scan as the agent makes it: of a block that was just read, so mostly in a cache.
const BLOCK: usize = 1 << 20;
const SCANNED: usize = 4 << 30;
/// Wanted of one core.
const ZERO_GB_PER_S: f64 = 10.0;
/// A change, and a change in every so many of them: 1 %.
const PIECE: u64 = 64 << 10;
const EVERY: u64 = 100;

/// 5 % of the disk is data.
fn sparse_disk(dir: &Path, size: &Size) -> Result<Linked> {
    let file = dir.join("disk.raw");
    scattered(&file, size.sparse, 20)?;
    Linked::on(dir, file, Content { bytes: size.sparse, seed: 0, every: 0 }, true)
}

pub(super) fn sparse(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let linked = sparse_disk(dir, size)?;
    let wishes: [(&[&str], &str); 2] = [(&["--allocated"], "allocated"), (&[], "whole")];
    let names = ["5 % of a disk by its allocation map", "the whole disk"];
    versus(&linked, size, report, ("sparse", Goal::AtMost(0.08)), wishes, names)?;
    let rates: Vec<f64> = (0..size.rounds).map(|_| scan()).collect();
    let wanted = ("wanted of one core", ZERO_GB_PER_S);
    report.add(beside("zero scan, one core", "GB/s", &rates, wanted, Goal::AtLeast(1.0), "sparse"))
}

pub(super) async fn incremental(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let linked = sparse_disk(dir, size)?;
    let base = dir.join("base");
    backup(&linked.scene, &base, &[])?;
    let mut control = linked.scene.control().await?;
    for piece in (0..size.sparse / PIECE).filter(|piece| piece % EVERY == 7) {
        let write = json!({"cmd": "vm_write", "vm": TARGET, "disk": "0:0", "offset": piece * PIECE, "pattern": 9, "length": PIECE});
        control.call(write).await?;
    }
    let manifest = base.join("manifest.json");
    let wish = ["--incremental", "--base", manifest.to_str().context("not UTF-8")?];
    let names = ["1 % changed in pieces of 64 KiB", "the whole disk"];
    let wishes: [(&[&str], &str); 2] = [(&wish, "changed"), (&[], "whole")];
    versus(&linked, size, report, ("incremental", Goal::AtMost(0.03)), wishes, names)
}

/// Seconds of both reads of the same disk; each has to be the kind of read that it is called.
fn versus(
    linked: &Linked,
    size: &Size,
    report: &mut Report,
    (part, goal): (&str, Goal),
    wishes: [(&[&str], &str); 2],
    names: [&str; 2],
) -> Result<()> {
    let done = turns(size.rounds, 2, |side| {
        let (more, scope) = wishes[side];
        let done = dropped(&linked.scene, more)?;
        ensure!(done.scope == scope, "{scope} was asked for, {} came", done.scope);
        // Per gigabyte of the disk, however little of it was read.
        anyhow::Ok(Sample { stages: done.stages, ..Sample::new(size.sparse, done.transfer, done.cpu) })
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a time of far fewer than 2^52 bytes")]
    let seconds = |sample: &Sample| size.sparse as f64 / 1e6 / sample.mb_per_s;
    let side = |n: usize| {
        let cpu: Vec<f64> = done[n].iter().map(|sample| sample.cpu_s_per_gb).collect();
        Side::of(names[n], typed(wishes[n].0), &done[n].iter().map(seconds).collect::<Vec<_>>()).with_cpu(&cpu)
    };
    let mut record = Record::new(part, "s", (side(0), side(1)), Some(goal), size.rounds);
    record.bytes = size.sparse;
    record.note = format!("A disk of {} GiB, 5 % of it data. The time is the transfer's.", size.sparse >> 30);
    report.add(record)
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn scan() -> f64 {
    let (block, begun) = (vec![0_u8; BLOCK], Instant::now());
    let zeros = (0..SCANNED / BLOCK).filter(|_| is_zero(black_box(&block))).count();
    (zeros * BLOCK) as f64 / 1e9 / begun.elapsed().as_secs_f64()
}
