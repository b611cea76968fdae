//! One request_id, one job; its result outlives the stream.
use anyhow::Result;
use hotadd_api::v1::{Cleanup, GetJobRequest, JobResult, JobState, get_job_request::By};
use hotadd_harness::{Content, Scene, scene::TARGET};

use crate::support::{
    MIB, Running, Seen, backup, calls, codes, dense, eventually, images_equal_sources, jobs, nothing_is_left, refused,
    request, scene,
};

async fn job(scene: &Scene, by: By) -> Result<JobResult> {
    Ok(jobs(scene).await?.get_job(GetJobRequest { by: Some(by) }).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_id_never_starts_a_second_job() -> Result<()> {
    let (dir, scene) = scene(&[dense(64 * MIB, 1)], |_| {})?;
    let wanted = request(TARGET);
    let mut running = Running::start(&scene, wanted.clone(), dir.path()).await?;
    running.until(Seen::Frame).await?;
    refused(jobs(&scene).await?.backup_vm(wanted.clone()).await, "HA-JOB-002")?;
    let first = running.finish().await?;
    images_equal_sources(&scene, &first)?;
    // Again, after its end: the same result, nothing is done.
    let replay = backup(&scene, wanted, &dir.path().join("nowhere")).await?;
    assert_eq!(replay.job_id, first.job_id);
    assert_eq!(replay.result, first.result);
    assert_eq!(first.result()?.state(), JobState::Ok);
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), 1);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_broken_stream_is_readable_by_both_ids() -> Result<()> {
    let (dir, scene) = scene(&[dense(96 * MIB, 1)], |_| {})?;
    let wanted = request(TARGET);
    let mut running = Running::start(&scene, wanted.clone(), dir.path()).await?;
    running.until(Seen::Frame).await?;
    let id = running.delivered.job_id.clone();
    drop(running);
    eventually("the job ends", async || Ok(job(&scene, By::JobId(id.clone())).await?.state() != JobState::Running))
        .await?;
    let by_job = job(&scene, By::JobId(id)).await?;
    assert_eq!(by_job, job(&scene, By::RequestId(wanted.request_id)).await?);
    assert_eq!((by_job.state(), by_job.cleanup()), (JobState::Failed, Cleanup::Done), "{by_job:#?}");
    assert_eq!(codes(&by_job), ["HA-JOB-003"], "{by_job:#?}");
    assert!(!by_job.disks[0].ok);
    nothing_is_left(&scene).await?;
    let unknown = GetJobRequest { by: Some(By::JobId("no such job".into())) };
    refused(jobs(&scene).await?.get_job(unknown).await, "HA-JOB-001")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vm_has_one_job_at_a_time() -> Result<()> {
    let (dir, scene) = scene(&[dense(64 * MIB, 1), Content::new(MIB * 2, 2)], |_| {})?;
    let mut running = Running::start(&scene, request(TARGET), dir.path()).await?;
    running.until(Seen::Frame).await?;
    let second = backup(&scene, request(TARGET), &dir.path().join("nowhere")).await?;
    assert_eq!(codes(second.result()?), ["HA-SES-005"]);
    assert_eq!(running.finish().await?.result()?.state(), JobState::Ok);
    nothing_is_left(&scene).await
}
