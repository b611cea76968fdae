//! A client that stops reading: the source's reads stop, memory stays bounded, and the job ends when its patience does.
use anyhow::Result;
use hotadd_api::v1::{BackupVmRequest, Compression, GetJobRequest, JobState, get_job_request::By};
use hotadd_harness::{Spec, scene::TARGET};

use crate::support::{
    MIB, Running, Seen, bytes_read, codes, dense, devices_of, eventually, jobs, loop_counts, nothing_is_left, request,
    scene,
};

/// 16 blocks of the arena, 8 events, and the windows of HTTP/2 on both sides; a quarter of the disk.
const IN_FLIGHT: u64 = 64 * MIB;

fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_stops_the_source_and_loses_the_job() -> Result<()> {
    stops(|_| {}, Compression::Unspecified).await
}

/// So few buffers that they are all on their way before the queue is full.
#[tokio::test(flavor = "multi_thread")]
async fn with_few_buffers_too() -> Result<()> {
    stops(|spec| spec.set("limits", "depth", 2), Compression::Unspecified).await
}

/// Noise: what is compressed holds its buffer all the same.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_crew_that_holds_half_of_the_buffers_too() -> Result<()> {
    stops(|spec| spec.agent_toml.push_str("[reading]\nworkers = 8\n"), Compression::Zstd).await
}

async fn stops(change: impl FnOnce(&mut Spec), compression: Compression) -> Result<()> {
    let size = 256 * MIB;
    let (dir, mut scene) = scene(&[dense(size, 1)], |spec| {
        spec.set("limits", "lease_default_seconds", 4);
        change(spec);
    })?;
    let before = resident(scene.agent()?.pid())?;
    let counts = loop_counts()?;
    let wanted = BackupVmRequest { compression: compression.into(), ..request(TARGET) };
    let mut job = Running::start(&scene, wanted.clone(), dir.path()).await?;
    job.until(Seen::Frame).await?;
    let device = devices_of(&scene, size).await?.remove(0);
    let start = counts.get(device["node"].as_str().unwrap_or_default()).copied().unwrap_or(0);
    // Until the kernel's count stands still.
    let mut last = (0, 0);
    eventually("the reads stop", async || {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let read = bytes_read(&device)?.saturating_sub(start);
        last = if last.0 == read { (read, last.1 + 1) } else { (read, 0) };
        Ok(last.1 == 10)
    })
    .await?;
    assert!(last.0 > 0 && last.0 < IN_FLIGHT, "{} MiB were read for a client that took one frame", last.0 / MIB);
    let grown = resident(scene.agent()?.pid())?.saturating_sub(before);
    assert!(grown < 2 * IN_FLIGHT, "the agent grew by {} MiB", grown / MIB);
    eventually("the job ends", async || {
        let by = Some(By::RequestId(wanted.request_id.clone()));
        let result = jobs(&scene).await?.get_job(GetJobRequest { by }).await?.into_inner();
        if result.state() == JobState::Running {
            return Ok(false);
        }
        assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-JOB-003"]), "{result:#?}");
        Ok(true)
    })
    .await?;
    nothing_is_left(&scene).await?;
    drop(job);
    Ok(())
}
