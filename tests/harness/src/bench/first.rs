//! From the opened device to its first byte, over many disks.
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use hotadd_api::{
    MAX_MESSAGE_BYTES,
    v1::{BackupVmRequest, DiskResult, JobState, job_event::Item, job_service_client::JobServiceClient},
};
use hotadd_bench::{Goal, Record, Side, stats::percentile};

use super::{Report, disk::quiet};
use crate::{Content, Scene, scene::TARGET};

/// Of which percentiles are told.
const SEEN: u64 = 100;
const WANTED_MS: f64 = 20.0;

pub(super) async fn run(dir: &Path, report: &mut Report) -> Result<()> {
    let wanted = Some(Goal::AtMost(1.0));
    many(dir, report, 1, wanted).await?;
    // More reads begin than there are processors: they wait for each other.
    many(dir, report, 10, None).await
}

async fn many(dir: &Path, report: &mut Report, disks: u64, goal: Option<Goal>) -> Result<()> {
    let dir = dir.join(format!("{disks}"));
    std::fs::create_dir(&dir)?;
    let contents: Vec<Content> = (0..disks).map(|seed| Content { every: 1, ..Content::new(4 << 20, seed) }).collect();
    let scene = Scene::start(&dir, quiet(&dir, &contents))?;
    let mut micros = Vec::new();
    for _ in 0..SEEN / disks {
        for disk in disks_of_a_job(&scene).await? {
            micros.push(disk.timings.context("a disk without timings")?.first_byte_us);
        }
    }
    ensure!(micros.len() as u64 >= SEEN, "{} disks", micros.len());
    let ms =
        |us: Option<u64>| us.and_then(|us| u32::try_from(us).ok()).map(|us| f64::from(us) / 1000.0).context("no disk");
    let (p50, p99) = (ms(percentile(&mut micros, 0.50))?, ms(percentile(&mut micros, 0.99))?);
    let name = format!("first byte, 99th percentile, disks at once: {disks}");
    let sides = (Side::of(&name, "", &[p99]), Side::of("wanted", "", &[WANTED_MS]));
    let mut record = Record::new("first", "ms", sides, goal, 1);
    record.note = format!(
        "Over {} disks; the median is {p50:.3} ms. From the open of the proven device to the end of its first read (first_byte_us of the \
         contract), so with the choice of an engine and the first read itself, without the wait for a turn to read.",
        micros.len()
    );
    report.add(record)
}

/// Results of a job that takes every disk of the target and keeps nothing.
pub(super) async fn disks_of_a_job(scene: &Scene) -> Result<Vec<DiskResult>> {
    let mut client = JobServiceClient::new(scene.channel().await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let request = BackupVmRequest { vm: TARGET.into(), ..BackupVmRequest::default() };
    let mut stream = client.backup_vm(request).await?.into_inner();
    let (mut disks, mut result) = (Vec::new(), None);
    while let Some(event) = stream.message().await? {
        match event.item {
            Some(Item::DiskRead(disk)) => disks.push(disk),
            Some(Item::Result(last)) => result = Some(last),
            _ => {}
        }
    }
    let result = result.context("a stream without a result")?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    Ok(disks)
}
