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

/// How fast the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speed {
    /// A sparse file: what was never written comes at the speed of memory, and the full read is nearly free.
    Holes,
    /// As a datastore that takes as long for zeros as for data: the agent's own limit of a disk, [`DATASTORE_MB_PER_S`].
    Datastore,
}

const DATASTORE_MB_PER_S: u64 = 500;
/// At that speed a full read takes nine seconds.
const PACED_BYTES: u64 = 4 << 30;

/// 5 % of the disk is data.
fn sparse_disk(dir: &Path, size: &Size, speed: Speed) -> Result<(Linked, u64)> {
    let (bytes, pace) = match speed {
        Speed::Holes => (size.sparse, String::new()),
        Speed::Datastore => {
            let limit = format!("[pace.disk]\nbytes_per_second = {}\n", DATASTORE_MB_PER_S * 1_000_000);
            (size.sparse.min(PACED_BYTES), limit)
        }
    };
    let file = dir.join("disk.raw");
    scattered(&file, bytes, 20)?;
    Ok((Linked::with(dir, file, Content { bytes, seed: 0, every: 0 }, true, &pace)?, bytes))
}

pub(super) fn sparse(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let wishes: [(&[&str], &str); 2] = [(&["--allocated"], "allocated"), (&[], "whole")];
    for speed in [Speed::Holes, Speed::Datastore] {
        let dir = dir.join(format!("{speed:?}"));
        std::fs::create_dir(&dir)?;
        let (linked, bytes) = sparse_disk(&dir, size, speed)?;
        let names = ["5 % of a disk by its allocation map", "the whole disk"];
        versus(&linked, (speed, bytes, size.rounds), report, ("sparse", Goal::AtMost(0.08)), wishes, names)?;
    }
    let rates: Vec<f64> = (0..size.rounds).map(|_| scan()).collect();
    let wanted = ("wanted of one core", ZERO_GB_PER_S);
    report.add(beside("zero scan, one core", "GB/s", &rates, wanted, Goal::AtLeast(1.0), "sparse"))
}

pub(super) async fn incremental(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    for speed in [Speed::Holes, Speed::Datastore] {
        let dir = dir.join(format!("{speed:?}"));
        std::fs::create_dir(&dir)?;
        changed(&dir, size, speed, report).await?;
    }
    Ok(())
}

async fn changed(dir: &Path, size: &Size, speed: Speed, report: &mut Report) -> Result<()> {
    let (linked, bytes) = sparse_disk(dir, size, speed)?;
    let base = dir.join("base");
    backup(&linked.scene, &base, &[])?;
    let mut control = linked.scene.control().await?;
    for piece in (0..bytes / PIECE).filter(|piece| piece % EVERY == 7) {
        let write = json!({"cmd": "vm_write", "vm": TARGET, "disk": "0:0", "offset": piece * PIECE, "pattern": 9, "length": PIECE});
        control.call(write).await?;
    }
    let manifest = base.join("manifest.json");
    let wish = ["--incremental", "--base", manifest.to_str().context("not UTF-8")?];
    let names = ["1 % changed in pieces of 64 KiB", "the whole disk"];
    let wishes: [(&[&str], &str); 2] = [(&wish, "changed"), (&[], "whole")];
    versus(&linked, (speed, bytes, size.rounds), report, ("incremental", Goal::AtMost(0.03)), wishes, names)
}

/// Seconds of both reads of the same disk; each has to be the kind of read that it is called.
fn versus(
    linked: &Linked,
    (speed, bytes, rounds): (Speed, u64, usize),
    report: &mut Report,
    (part, goal): (&str, Goal),
    wishes: [(&[&str], &str); 2],
    names: [&str; 2],
) -> Result<()> {
    let done = turns(rounds, 2, |side| {
        let (more, scope) = wishes[side];
        let done = dropped(&linked.scene, more)?;
        ensure!(done.scope == scope, "{scope} was asked for, {} came", done.scope);
        // Per gigabyte of the disk, however little of it was read.
        anyhow::Ok(Sample { stages: done.stages, ..Sample::new(bytes, done.transfer, done.cpu) })
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a time of far fewer than 2^52 bytes")]
    let seconds = |sample: &Sample| bytes as f64 / 1e6 / sample.mb_per_s;
    let side = |n: usize| {
        let cpu: Vec<f64> = done[n].iter().map(|sample| sample.cpu_s_per_gb).collect();
        let name = match speed {
            Speed::Holes => names[n].to_owned(),
            Speed::Datastore => format!("{DATASTORE_MB_PER_S} MB/s: {}", names[n]),
        };
        Side::of(&name, typed(wishes[n].0), &done[n].iter().map(seconds).collect::<Vec<_>>()).with_cpu(&cpu)
    };
    let mut record = Record::new(part, "s", (side(0), side(1)), Some(goal), rounds);
    record.bytes = bytes;
    let pace = match speed {
        Speed::Holes => "What was never written comes at the speed of memory.".to_owned(),
        Speed::Datastore => {
            format!("The disk gives {DATASTORE_MB_PER_S} MB/s, of zeros as of data (the agent's limit of a disk).")
        }
    };
    record.stages = done[0].last().and_then(|sample| sample.stages);
    record.note = format!("A disk of {} GiB, 5 % of it data. {pace} The time is the transfer's.", bytes >> 30);
    report.add(record)
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn scan() -> f64 {
    let (block, begun) = (vec![0_u8; BLOCK], Instant::now());
    let zeros = (0..SCANNED / BLOCK).filter(|_| is_zero(black_box(&block))).count();
    (zeros * BLOCK) as f64 / 1e9 / begun.elapsed().as_secs_f64()
}
