//! How frames travel and what is told about them: compression, any order, progress, stages, commands.
use anyhow::{Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, Cleanup, Compression, DiskResult, JobState, Pace, ReadDiskRequest, SetLimitsRequest, Stages,
    proxy_service_client::ProxyServiceClient, set_limits_request::What,
};
use hotadd_harness::{
    Content,
    scene::{FIRST_KEY, TARGET},
};

use crate::{
    session::{close, open, read, read_request},
    support::{
        MIB, backup, dense, disks, images_equal_sources, jobs, nothing_is_left, open_request, refused, request, scene,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_compressed_as_asked_and_what_does_not_shrink_is_not() -> Result<()> {
    // Blocks of one third noise; and noise alone.
    let (dir, scene) = scene(&[Content::new(9 * MIB + 512, 1), dense(4 * MIB, 2)], |_| {})?;
    for method in [Compression::Zstd, Compression::Lz4] {
        let out = dir.path().join(method.as_str_name());
        std::fs::create_dir(&out)?;
        let wanted = BackupVmRequest { compression: method.into(), ..request(TARGET) };
        let done = backup(&scene, wanted, &out).await?;
        ensure!(done.result()?.state() == JobState::Ok, "{:#?}", done.result);
        images_equal_sources(&scene, &done)?;
        let (squeezed, plain) = (done.payloads[&method], done.payloads[&Compression::Unspecified]);
        ensure!((3 * MIB..5 * MIB).contains(&squeezed), "{squeezed} of 9 MiB, a third of them noise");
        ensure!(plain == 4 * MIB + 512, "noise, and the tail of noise, are sent as they are: {plain}");
        assert_eq!(done.payloads.len(), 2);
    }
    let odd = BackupVmRequest { compression: 77, ..request(TARGET) };
    refused(jobs(&scene).await?.backup_vm(odd).await, "HA-SES-006")?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_in_any_order_brings_each_byte_once() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(24 * MIB + 512, 1)], |_| {})?;
    let opened = open(&scene, open_request(TARGET)).await?;
    let source = std::fs::read(scene.source(0))?;
    let asked = ReadDiskRequest {
        any_order: true,
        compression: Compression::Zstd.into(),
        block_bytes: 64 << 10,
        ..read_request(&opened.session_id, FIRST_KEY, &[])
    };
    let (mut pieces, done) = read(&scene, asked.clone()).await?;
    assert!(done.ok, "{done:#?}");
    pieces.sort_by_key(|(offset, _)| *offset);
    let mut at = 0;
    for (offset, data) in pieces {
        ensure!(offset == at, "{offset} where {at} was due");
        let from = usize::try_from(offset)?;
        ensure!(source[from..from + data.len()] == data, "other bytes at {offset}");
        at += data.len() as u64;
    }
    assert_eq!(at, source.len() as u64);
    let odd = ReadDiskRequest { compression: 77, ..asked };
    refused(disks(&scene).await?.read_disk(odd).await, "HA-SES-006")?;
    assert_eq!(close(&scene, &opened.session_id).await?, Cleanup::Done);
    nothing_is_left(&scene).await
}

fn sum(stages: Stages) -> u64 {
    stages.source_us + stages.agent_us + stages.outlet_us + stages.paced_us
}

fn only(read: &[DiskResult]) -> (Stages, u64) {
    assert_eq!(read.len(), 1);
    (read[0].stages.unwrap_or_default(), read[0].timings.unwrap_or_default().transfer_us)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_tells_where_the_time_went_and_what_the_device_did() -> Result<()> {
    let (dir, scene) = scene(&[dense(64 * MIB, 1)], |_| {})?;
    let done = backup(&scene, request(TARGET), dir.path()).await?;
    let (stages, transfer) = only(&done.read);
    ensure!(stages.source_us > 0 && stages.agent_us > 0 && stages.paced_us == 0, "{stages:?}");
    // The clock of the frames begins before that of the transfer and ends after it.
    ensure!(sum(stages) >= transfer, "{stages:?} in {transfer} µs");
    let read = &done.read[0];
    assert_eq!(read.reads, 64);
    ensure!(read.commands >= read.reads, "{} commands for {} reads", read.commands, read.reads);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_tells_how_far_it_is_and_what_holds_it_up() -> Result<()> {
    const MIB_PER_SECOND: u64 = 2;
    let (dir, scene) = scene(&[dense(5 * MIB, 1)], |_| {})?;
    let pace = Pace { bytes_per_second: MIB_PER_SECOND * MIB, ..Pace::default() };
    let limit = SetLimitsRequest { what: Some(What::Disk(true)), pace: Some(pace), ttl_seconds: 600 };
    ProxyServiceClient::new(scene.channel().await?).set_limits(limit).await?;
    let done = backup(&scene, request(TARGET), dir.path()).await?;
    images_equal_sources(&scene, &done)?;
    ensure!(!done.progress.is_empty(), "nothing was told in seconds");
    for told in &done.progress {
        let stages = told.stages.unwrap_or_default();
        ensure!(told.device_key == FIRST_KEY && told.bytes_required == 5 * MIB && told.depth > 0, "{told:?}");
        ensure!(stages.paced_us > stages.source_us + stages.agent_us + stages.outlet_us, "{told:?}");
    }
    ensure!(done.progress.is_sorted_by_key(|told| told.bytes_read), "{:?}", done.progress);
    let (stages, _) = only(&done.read);
    ensure!(stages.paced_us > sum(stages) / 2, "{stages:?}");
    nothing_is_left(&scene).await
}
