//! The agent dies, or is told to stop, at any moment. Before it serves again, nothing is attached.
use anyhow::{Result, ensure};
use hotadd_api::v1::{JobState, OpenDisksRequest, Phase};
use hotadd_harness::{Scene, scene::TARGET};
use serde_json::json;

use crate::support::{
    MIB, Running, Seen, backup, calls, codes, control, dense, disks, eventually, images_equal_sources, nothing_is_left,
    nothing_stays, request, scene,
};

/// A moment in a job.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The client has this event and takes no more.
    Event(Seen),
    /// vCenter has got the n-th call whose name starts so; its task takes a while.
    Call(&'static str, usize),
}

const MOMENTS: [Moment; 13] = [
    Moment::Event(Seen::JobId),
    Moment::Event(Seen::Preflight),
    Moment::Call("CreateSnapshot", 1),
    Moment::Event(Seen::Snapshot),
    Moment::Call("ReconfigVM_Task", 1),
    Moment::Event(Seen::Phase(Phase::Attach, true)),
    Moment::Event(Seen::Opened),
    Moment::Event(Seen::Frame),
    Moment::Event(Seen::DiskRead),
    Moment::Call("ReconfigVM_Task", 2),
    Moment::Event(Seen::Phase(Phase::Detach, true)),
    Moment::Call("RemoveSnapshot_Task", 1),
    Moment::Event(Seen::Result),
];

/// Runs a job up to the moment. The handle keeps the client going, or at least there.
async fn run_to(scene: &Scene, dir: &tempfile::TempDir, moment: Moment) -> Result<tokio::task::JoinHandle<()>> {
    control(scene, json!({"cmd": "requests", "clear": true})).await?;
    let mut job = Running::start(scene, request(TARGET), dir.path()).await?;
    match moment {
        Moment::Event(seen) => {
            job.until(seen).await?;
            Ok(tokio::spawn(async move { drop(job.finish().await) }))
        }
        Moment::Call(method, count) => {
            let client = tokio::spawn(async move { drop(job.finish().await) });
            eventually(method, async || Ok(calls(scene, method).await?.len() >= count)).await?;
            Ok(client)
        }
    }
}

async fn works(scene: &Scene, dir: &tempfile::TempDir) -> Result<()> {
    control(scene, json!({"cmd": "set_task_ms", "ms": 0})).await?;
    let delivered = backup(scene, request(TARGET), dir.path()).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(scene, &delivered)?;
    nothing_is_left(scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_reading_nothing_is_attached_before_ready() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(96 * MIB, 1), dense(96 * MIB, 2)], |_| {})?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    scene.take_agent()?.kill()?;
    assert_eq!(scene.left_attached().await?.len(), 2, "the kill proves nothing: nothing was attached");
    assert_eq!(scene.snapshots().await?.len(), 1);
    ensure!(job.finish().await.is_err(), "a killed agent ended the stream in order");
    // Settling takes a while: READY must wait for it.
    control(&scene, json!({"cmd": "set_task_ms", "ms": 700})).await?;
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    works(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_is_attached_before_ready() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1)], |_| {})?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 300})).await?;
    for moment in MOMENTS {
        let client = run_to(&scene, &dir, moment).await?;
        scene.take_agent()?.kill()?;
        client.await?;
        scene.start_agent()?;
        nothing_is_left(&scene).await.map_err(|e| e.context(format!("{moment:?}")))?;
    }
    works(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_any_moment_it_exits_zero_with_nothing_left() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1)], |_| {})?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 300})).await?;
    for moment in MOMENTS {
        let client = run_to(&scene, &dir, moment).await?;
        let status = scene.take_agent()?.stop()?;
        ensure!(status.success(), "{moment:?}: {status}");
        nothing_is_left(&scene).await.map_err(|e| e.context(format!("{moment:?}")))?;
        client.await?;
        scene.start_agent()?;
    }
    works(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_stopped_is_told_why() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(96 * MIB, 1)], |_| {})?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    scene.agent()?.signal(nix::sys::signal::Signal::SIGTERM)?;
    let delivered = job.finish().await?;
    assert_eq!(codes(delivered.result()?), ["HA-SES-007"], "{:#?}", delivered.result);
    let mut agent = scene.take_agent()?;
    assert!(agent.wait(std::time::Duration::from_secs(60))?.success());
    nothing_is_left(&scene).await
}

/// No stream holds the exit here: only the drain does.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_with_an_open_session_it_detaches_first() -> Result<()> {
    let (_dir, mut scene) = scene(&[dense(4 * MIB, 1)], |_| {})?;
    let open = OpenDisksRequest { vm: TARGET.into(), ..OpenDisksRequest::default() };
    disks(&scene).await?.open_disks(open).await?;
    assert_eq!(scene.left_attached().await?.len(), 1);
    control(&scene, json!({"cmd": "set_task_ms", "ms": 700})).await?;
    let status = scene.take_agent()?.stop()?;
    ensure!(status.success(), "{status}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reap_does_what_the_next_start_would() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(96 * MIB, 1)], |_| {})?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    let refused = scene.reap()?;
    assert_eq!(refused.code, 1, "reap worked beside a living agent: {refused:?}");
    assert!(refused.stderr.contains("another agent runs"), "{refused:?}");
    scene.take_agent()?.kill()?;
    drop(job);
    let reaped = scene.reap()?;
    assert_eq!(reaped.code, 0, "{reaped:?}");
    nothing_is_left(&scene).await?;
    // With nothing owed vCenter is not asked: stopping never depends on the network.
    let logins = scene.control().await?.counters().await?["logins"].clone();
    assert_eq!(scene.reap()?.code, 0);
    assert_eq!(scene.control().await?.counters().await?["logins"], logins);
    scene.start_agent()?;
    works(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_at_any_moment_leaves_nothing() -> Result<()> {
    let (dir, scene) = scene(&[dense(48 * MIB, 1)], |_| {})?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 300})).await?;
    for moment in MOMENTS {
        let client = run_to(&scene, &dir, moment).await?;
        client.abort();
        drop(client.await);
        nothing_stays(&scene).await.map_err(|e| e.context(format!("{moment:?}")))?;
    }
    works(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_twice_while_it_settles_it_still_settles() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1), dense(48 * MIB, 2)], |_| {})?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    control(&scene, json!({"cmd": "set_task_ms", "ms": 500})).await?;
    for method in ["ReconfigVM_Task", "RemoveSnapshot_Task"] {
        control(&scene, json!({"cmd": "requests", "clear": true})).await?;
        let mut agent = scene.spawn_agent(None)?;
        eventually(method, async || Ok(!calls(&scene, method).await?.is_empty())).await?;
        agent.kill()?;
    }
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    works(&scene, &dir).await
}

/// Another configuration with another state folder: the journal's lock alone would let it in.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_proxy_is_refused() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    let text = std::fs::read_to_string(scene.config())?;
    let elsewhere = dir.path().join("elsewhere").display().to_string();
    std::fs::write(scene.config(), text.replace(&scene.dir.join("state").display().to_string(), &elsewhere))?;
    let mut second = scene.spawn_agent(None)?;
    let status = second.wait(std::time::Duration::from_secs(60))?;
    assert_eq!(status.code(), Some(1));
    std::fs::write(scene.config(), text)?;
    works(&scene, &dir).await
}
