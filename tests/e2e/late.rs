//! Requests that vCenter carries out long after everybody stopped believing in them, and the fence that is meant to stop
//! them. How vCenter treats a request whose session has ended is not known: both ways are tried.
use anyhow::{Result, ensure};
use hotadd_api::v1::JobState;
use hotadd_harness::{Content, Scene, scene::TARGET};
use serde_json::json;

use crate::support::{
    Delivered, MIB, backup, calls, control, eventually, fault, images_equal_sources, nothing_stays, request, scene,
};

/// The wait that believes an absence is shorter than what `late_land` takes: the mistake is made on purpose. The target
/// is off: a running VM locks its disk again as soon as our snapshot is removed, and the late attach would be refused.
pub fn hasty() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(3 * MIB, 1)], |spec| {
        for (key, value) in [("call_seconds", 2.0), ("settle_seconds", 2.1), ("sweep_seconds", 0.2)] {
            spec.set("deadlines", key, value);
        }
        spec.target().power = "off".into();
    })
}

pub const LATE_MS: u32 = 8000;

async fn removed(scene: &Scene) -> Result<bool> {
    Ok(calls(scene, "ReconfigVM_Task").await?.iter().any(|body| body.contains("operation>remove<")))
}

fn failed(delivered: &Delivered) -> Result<()> {
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Failed && delivered.images.is_empty(), "{result:#?}");
    Ok(())
}

async fn whole(scene: &Scene, dir: &tempfile::TempDir) -> Result<()> {
    let delivered = backup(scene, request(TARGET), dir.path()).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(scene, &delivered)?;
    nothing_stays(scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lands_after_its_duty_was_retired_is_still_given_back() -> Result<()> {
    let (dir, scene) = hasty()?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": LATE_MS})).await?;
    failed(&backup(&scene, request(TARGET), dir.path()).await?)?;
    nothing_stays(&scene).await?;
    ensure!(!removed(&scene).await?, "it landed before its duty was retired; nothing is tested");
    eventually("it lands and is removed", async || removed(&scene).await).await?;
    nothing_stays(&scene).await?;
    whole(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lands_while_the_agent_is_down_is_found_by_the_next_run() -> Result<()> {
    let (dir, mut scene) = hasty()?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": LATE_MS})).await?;
    failed(&backup(&scene, request(TARGET), dir.path()).await?)?;
    nothing_stays(&scene).await?;
    scene.take_agent()?.kill()?;
    eventually("it lands", async || Ok(!scene.left_attached().await?.is_empty())).await?;
    scene.start_agent()?;
    eventually("it is removed", async || removed(&scene).await).await?;
    nothing_stays(&scene).await?;
    whole(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lands_while_the_agent_is_down_for_good_is_given_back_by_reap() -> Result<()> {
    let (dir, mut scene) = hasty()?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": LATE_MS})).await?;
    failed(&backup(&scene, request(TARGET), dir.path()).await?)?;
    nothing_stays(&scene).await?;
    scene.take_agent()?.kill()?;
    let early = scene.reap()?;
    ensure!(early.code == 0 && !removed(&scene).await?, "nothing landed yet: {early:?}");
    eventually("it lands", async || Ok(!scene.left_attached().await?.is_empty())).await?;
    let reaped = scene.reap()?;
    ensure!(reaped.code == 0 && removed(&scene).await?, "{reaped:?}");
    ensure!(scene.left_attached().await?.is_empty(), "it is still attached");
    scene.start_agent()?;
    whole(&scene, &dir).await
}

/// The next job puts the same backing into the same slot: the late duty must not take that for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_duty_leaves_the_next_sessions_disk_alone() -> Result<()> {
    let (dir, scene) = hasty()?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "drop_reply"})).await?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": 60_000})).await?;
    backup(&scene, request(TARGET), dir.path()).await?;
    nothing_stays(&scene).await?;
    control(&scene, json!({"cmd": "clear_faults"})).await?;
    for _ in 0..3 {
        whole(&scene, &dir).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_request_never_lands() -> Result<()> {
    let (dir, mut scene) = hasty()?;
    let late = json!({"kind": "late_land", "ms": LATE_MS, "fenced": true});
    fault(&scene, "ReconfigVM_Task", late.clone()).await?;
    failed(&backup(&scene, request(TARGET), dir.path()).await?)?;
    ensure!(!calls(&scene, "Logout").await?.is_empty(), "the session was not ended");
    nothing_stays(&scene).await?;

    // An agent that died can't log out: its session is ended by its key.
    fault(&scene, "ReconfigVM_Task", late).await?;
    let before = calls(&scene, "ReconfigVM_Task").await?.len();
    let job = crate::support::Running::start(&scene, request(TARGET), dir.path()).await?;
    eventually("the attach is asked for", async || Ok(calls(&scene, "ReconfigVM_Task").await?.len() > before)).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    scene.start_agent()?;
    eventually("both were looked at", async || Ok(control(&scene, json!({"cmd": "landings"})).await?["pending"] == 0))
        .await?;
    ensure!(!calls(&scene, "TerminateSession").await?.is_empty(), "the dead agent's session was not ended");
    nothing_stays(&scene).await?;
    let landings = control(&scene, json!({"cmd": "landings"})).await?;
    let faults: Vec<_> = landings["landings"].as_array().into_iter().flatten().map(|l| l["fault"].clone()).collect();
    assert_eq!(faults, ["NotAuthenticated", "NotAuthenticated"]);
    ensure!(!removed(&scene).await?, "a fenced request landed");
    whole(&scene, &dir).await
}
