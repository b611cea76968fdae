//! Controllers that vanish: the cable is cut, the agent is killed. Everything is detached, and who comes back is told what
//! happened.
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use hotadd_api::{
    MAX_MESSAGE_BYTES,
    v1::{
        Cleanup, CloseDisksRequest, JobState, KeepAliveRequest, OpenDisksRequest, ReadDiskRequest,
        disk_service_client::DiskServiceClient, job_service_client::JobServiceClient,
    },
};
use hotadd_harness::{
    Scene, Spec,
    scene::{FIRST_KEY, TARGET},
};
use tonic::transport::Channel;

use crate::{
    relay::Relay,
    support::{
        MIB, backup, by_request, calls, codes, dense, disks, ended, eventually, job, jobs, nothing_is_left,
        nothing_stays, open_request, reading, refused, request, scene, session,
    },
};

/// Pings after a second of silence; a lease that alone would take much longer.
fn pinged(spec: &mut Spec) {
    spec.set("deadlines", "ping_seconds", 1);
    spec.set("deadlines", "ping_timeout_seconds", 1);
    spec.set("limits", "lease_default_seconds", 600);
}

/// A scene whose controller sits behind a cable that can be cut.
async fn wired() -> Result<(tempfile::TempDir, Scene, Relay)> {
    let (dir, scene) = scene(&[dense(256 * MIB, 1)], pinged)?;
    let relay = Relay::start(&scene).await?;
    Ok((dir, scene, relay))
}

async fn wired_jobs(scene: &Scene, relay: &Relay) -> Result<JobServiceClient<Channel>> {
    Ok(JobServiceClient::new(relay.channel(scene).await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// The lease is ten minutes: only pings can tell in time that nobody is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_cable_was_cut_ends_without_a_fin() -> Result<()> {
    let (_dir, scene, relay) = wired().await?;
    let mut client = wired_jobs(&scene, &relay).await?;
    let wanted = request(TARGET);
    let mut stream = client.backup_vm(wanted.clone()).await?.into_inner();
    let reader = tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    eventually("frames come", async || Ok(relay.from_agent.load(Ordering::Relaxed) > 4 * MIB)).await?;
    relay.cut();
    let result = ended(&scene, by_request(&wanted)).await?;
    assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-JOB-003"]), "{result:#?}");
    nothing_stays(&scene).await?;
    reader.abort();
    Ok(())
}

/// The client had stopped reading before: everything between is full, so that not even a ping can be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_client_was_deaf_before_the_cut_ends_too() -> Result<()> {
    let (_dir, scene, relay) = wired().await?;
    let mut client = wired_jobs(&scene, &relay).await?;
    let wanted = request(TARGET);
    let mut stream = client.backup_vm(wanted.clone()).await?.into_inner();
    stream.message().await?;
    let mut last = (0, 0);
    eventually("the stream is full", async || {
        let now = relay.from_agent.load(Ordering::Relaxed);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        Ok(last.1 == 8)
    })
    .await?;
    assert_eq!(
        job(&scene, by_request(&wanted)).await?.state(),
        JobState::Running,
        "a deaf client alone ends nothing yet"
    );
    relay.cut();
    let result = ended(&scene, by_request(&wanted)).await?;
    assert_eq!(codes(&result), ["HA-JOB-003"], "{result:#?}");
    nothing_stays(&scene).await?;
    drop(stream);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_cable_was_cut_ends_by_its_lease_and_tells_why() -> Result<()> {
    let (_dir, scene, relay) = wired().await?;
    let mut client = DiskServiceClient::new(relay.channel(&scene).await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let wanted = OpenDisksRequest { lease_seconds: 3, ..open_request(TARGET) };
    let id = client.open_disks(wanted.clone()).await?.into_inner().session_id;
    let read = ReadDiskRequest { session_id: id.clone(), device_key: FIRST_KEY, ..ReadDiskRequest::default() };
    let mut stream = client.read_disk(read.clone()).await?.into_inner();
    stream.message().await?;
    relay.cut();
    eventually("the session is closed", async || Ok(session(&scene, &id).await?.state == "closed")).await?;
    nothing_is_left(&scene).await?;
    // The controller that returns, on a new connection.
    let mut back = disks(&scene).await?;
    let told = session(&scene, &id).await?.ended.context("no reason")?;
    assert_eq!((told.code.as_str(), told.cleanup()), ("HA-SES-004", Cleanup::Done));
    refused(back.keep_alive(KeepAliveRequest { session_id: id.clone() }).await, "HA-SES-004")?;
    refused(back.read_disk(read).await, "HA-SES-004")?;
    let closed = back.close_disks(CloseDisksRequest { session_id: id.clone() }).await?.into_inner();
    assert_eq!((closed.cleanup(), closed.reasons[0].code.as_str()), (Cleanup::Done, "HA-SES-004"), "{closed:?}");
    // The dead session is not given out as if it lived.
    refused(back.open_disks(wanted.clone()).await, "HA-SES-004")?;
    let other = OpenDisksRequest { device_keys: vec![FIRST_KEY], ..wanted };
    refused(back.open_disks(other).await, "HA-SES-003")?;
    let fresh = back.open_disks(open_request(TARGET)).await?.into_inner().session_id;
    back.close_disks(CloseDisksRequest { session_id: fresh }).await?;
    drop(stream);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_jobs_and_sessions_are_known_as_ended_by_it() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(32 * MIB, 1)], |_| {})?;
    // One that is OK, one that ended with its stream, then a session and then a job that die with the agent.
    let good = request(TARGET);
    assert_eq!(backup(&scene, good.clone(), dir.path()).await?.result()?.state(), JobState::Ok);
    let broken = request(TARGET);
    let run = reading(&scene, &dir, broken.clone()).await?;
    drop(run);
    assert_eq!(codes(&ended(&scene, by_request(&broken)).await?), ["HA-JOB-003"]);
    nothing_stays(&scene).await?;
    let opening = open_request(TARGET);
    let id = disks(&scene).await?.open_disks(opening.clone()).await?.into_inner().session_id;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    let killed = request(TARGET);
    let run = reading(&scene, &dir, killed.clone()).await?;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    nothing_is_left(&scene).await?;

    let result = job(&scene, by_request(&killed)).await?;
    assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-JOB-005"]), "{result:#?}");
    assert_eq!((result.cleanup(), result.job_id.as_str()), (Cleanup::Done, run.delivered.job_id.as_str()));
    assert_eq!(codes(&job(&scene, by_request(&broken)).await?), ["HA-JOB-003"]);
    let snapshots = calls(&scene, "CreateSnapshot").await?.len();
    let replayed = backup(&scene, good.clone(), dir.path()).await?;
    let result = replayed.result()?;
    assert_eq!((result.state(), result.cleanup(), result.disks.len()), (JobState::Ok, Cleanup::Done, 0), "{result:#?}");
    assert!(replayed.images.is_empty());
    let mut other = good;
    other.block_bytes = 1 << 16;
    let status = jobs(&scene).await?.backup_vm(other).await;
    refused(status.map(|_| ()), "HA-SES-003")?;

    let mut client = disks(&scene).await?;
    let told = session(&scene, &id).await?;
    assert_eq!((told.state.as_str(), told.ended.context("no reason")?.code.as_str()), ("closed", "HA-SES-008"));
    refused(client.keep_alive(KeepAliveRequest { session_id: id.clone() }).await, "HA-SES-008")?;
    refused(client.open_disks(opening).await, "HA-SES-008")?;
    let closed = client.close_disks(CloseDisksRequest { session_id: id }).await?.into_inner();
    assert_eq!((closed.cleanup(), closed.reasons[0].code.as_str()), (Cleanup::Done, "HA-SES-008"), "{closed:?}");
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), snapshots, "something was begun again");
    nothing_is_left(&scene).await
}
