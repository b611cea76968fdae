//! Replies that never come: what was asked for may have happened, may still happen, or not. A lost reply is unknown,
//! never failed; in the end nothing is attached.
use anyhow::{Result, ensure};
use hotadd_api::v1::{Cleanup, JobState};
use hotadd_harness::{Content, Scene, scene::TARGET};
use serde_json::json;

use crate::support::{
    Delivered, MIB, Running, Seen, backup, calls, codes, control, dense, eventually, fault, images_equal_sources,
    nothing_is_left, nothing_stays, request, scene,
};

/// A whole job that went well after all that.
async fn whole(scene: &Scene, dir: &tempfile::TempDir) -> Result<()> {
    let delivered = backup(scene, request(TARGET), dir.path()).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(scene, &delivered)?;
    nothing_is_left(scene).await
}

fn ok_or_unknown(delivered: &Delivered, scene: &Scene) -> Result<()> {
    let result = delivered.result()?;
    match result.state() {
        JobState::Ok => images_equal_sources(scene, delivered),
        _ => {
            let told = ["HA-VC-006", "HA-ATT-005"];
            ensure!(codes(result).iter().all(|code| told.contains(code)), "{result:#?}");
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_the_attach_is_read_back() -> Result<()> {
    for ms in [0, 700] {
        let (dir, scene) = scene(&[Content::new(3 * MIB, 1), Content::new(2 * MIB, 2)], |_| {})?;
        control(&scene, json!({"cmd": "set_task_ms", "ms": ms})).await?;
        fault(&scene, "ReconfigVM_Task", json!({"kind": "drop_reply"})).await?;
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        ok_or_unknown(&delivered, &scene)?;
        assert_eq!(delivered.result()?.cleanup(), Cleanup::Done, "{:#?}", delivered.result);
        nothing_is_left(&scene).await?;
        whole(&scene, &dir).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_the_detach_is_read_back() -> Result<()> {
    for ms in [0, 700] {
        let (dir, scene) = scene(&[Content::new(3 * MIB, 1), Content::new(2 * MIB, 2)], |_| {})?;
        control(&scene, json!({"cmd": "set_task_ms", "ms": ms})).await?;
        fault(&scene, "ReconfigVM_Task", json!({"kind": "drop_reply", "nth": 2})).await?;
        whole(&scene, &dir).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_of_snapshot_calls_leave_no_snapshot() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(3 * MIB, 1)], |_| {})?;
    for ms in [0, 700] {
        control(&scene, json!({"cmd": "set_task_ms", "ms": ms})).await?;
        for method in ["CreateSnapshot_Task", "CreateSnapshotEx_Task"] {
            fault(&scene, method, json!({"kind": "drop_reply"})).await?;
        }
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        assert_eq!(codes(delivered.result()?), ["HA-VC-006"], "{:#?}", delivered.result);
        nothing_stays(&scene).await?;
        control(&scene, json!({"cmd": "clear_faults"})).await?;
        fault(&scene, "RemoveSnapshot_Task", json!({"kind": "drop_reply"})).await?;
        whole(&scene, &dir).await?;
    }
    Ok(())
}

/// No answer of any long poll ever comes; the tasks may take a day. They are asked one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_answers_are_lost_does_not_hold_a_job() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(3 * MIB, 1)], |spec| {
        spec.set("deadlines", "poll_seconds", 1);
        spec.set("deadlines", "reconfigure_seconds", 86_400);
        spec.set("deadlines", "snapshot_seconds", 86_400);
    })?;
    fault(&scene, "WaitForUpdatesEx", json!({"kind": "hang", "count": 100_000})).await?;
    whole(&scene, &dir).await?;
    // Create, attach, detach, remove: each poll was given up once.
    assert_eq!(calls(&scene, "WaitForUpdatesEx").await?.len(), 4);
    Ok(())
}

/// The connection broke, the agent looked and saw nothing, and then the attach lands all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_attach_that_lands_late_does_not_stay() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(3 * MIB, 1), Content::new(2 * MIB, 2)], |spec| {
        spec.set("deadlines", "settle_seconds", 6);
    })?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": 2500})).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!(result.state(), JobState::Failed, "{result:#?}");
    assert!(delivered.images.is_empty());
    // Done may only be said after it landed and was removed.
    let detached = calls(&scene, "ReconfigVM_Task").await?.iter().filter(|b| b.contains("operation>remove<")).count();
    assert!(result.cleanup() != Cleanup::Done || detached == 1, "done was said too early");
    eventually("it lands and is removed", async || {
        Ok(calls(&scene, "ReconfigVM_Task").await?.iter().any(|b| b.contains("operation>remove<")))
    })
    .await?;
    nothing_stays(&scene).await?;
    whole(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lands_late_does_not_stay() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(3 * MIB, 1)], |spec| spec.set("deadlines", "settle_seconds", 6))?;
    for method in ["CreateSnapshot_Task", "CreateSnapshotEx_Task"] {
        fault(&scene, method, json!({"kind": "late_land", "ms": 2500})).await?;
    }
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Failed, "{:#?}", delivered.result);
    eventually("it lands and is removed", async || Ok(!calls(&scene, "RemoveSnapshot_Task").await?.is_empty())).await?;
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_that_lands_while_the_agent_is_down_is_settled_at_its_start() -> Result<()> {
    let (dir, mut scene) = scene(&[Content::new(3 * MIB, 1)], |_| {})?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "delay_ms", "ms": 2000})).await?;
    let job = Running::start(&scene, request(TARGET), dir.path()).await?;
    eventually("the attach is asked for", async || Ok(!calls(&scene, "ReconfigVM_Task").await?.is_empty())).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    assert!(scene.left_attached().await?.is_empty(), "it landed before the kill; nothing is tested");
    eventually("it lands", async || Ok(scene.left_attached().await?.len() == 1)).await?;
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    whole(&scene, &dir).await
}

/// The agent is back before the task has begun: nothing is attached yet, and it must not believe that.
#[tokio::test(flavor = "multi_thread")]
async fn an_attach_that_lands_after_the_agents_start_holds_its_port_closed() -> Result<()> {
    let (dir, mut scene) = scene(&[Content::new(3 * MIB, 1)], |_| {})?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "delay_ms", "ms": 5000})).await?;
    let job = Running::start(&scene, request(TARGET), dir.path()).await?;
    eventually("the attach is asked for", async || Ok(!calls(&scene, "ReconfigVM_Task").await?.is_empty())).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    let bodies = calls(&scene, "ReconfigVM_Task").await?;
    assert!(bodies.iter().any(|b| b.contains("operation>remove<")), "READY came before the attach landed");
    whole(&scene, &dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_end_between_the_steps_are_renewed() -> Result<()> {
    use hotadd_api::v1::Phase;
    let (dir, scene) = scene(&[dense(48 * MIB, 1)], |_| {})?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    for seen in [Seen::JobId, Seen::Snapshot, Seen::Opened, Seen::DiskRead, Seen::Phase(Phase::Detach, true)] {
        job.until(seen).await?;
        scene.control().await?.end_sessions().await?;
    }
    let delivered = job.finish().await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_a_task_runs_takes_the_task_up_again() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(3 * MIB, 1)], |_| {})?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 1200})).await?;
    for (method, count) in
        [("CreateSnapshot", 1), ("ReconfigVM_Task", 1), ("ReconfigVM_Task", 2), ("RemoveSnapshot_Task", 1)]
    {
        control(&scene, json!({"cmd": "requests", "clear": true})).await?;
        let job = Running::start(&scene, request(TARGET), dir.path()).await?;
        let job = tokio::spawn(job.finish());
        eventually(method, async || Ok(calls(&scene, method).await?.len() >= count)).await?;
        scene.control().await?.end_sessions().await?;
        let delivered = job.await??;
        assert_eq!(delivered.result()?.state(), JobState::Ok, "{method}: {:#?}", delivered.result);
        images_equal_sources(&scene, &delivered)?;
        nothing_is_left(&scene).await?;
    }
    Ok(())
}

/// A restarted vCenter forgets sessions, filters and tasks; a task that ran still ends its work.
#[tokio::test(flavor = "multi_thread")]
async fn a_vcenter_restart_in_any_task_leaves_nothing() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(3 * MIB, 1)], |spec| spec.set("deadlines", "settle_seconds", 6))?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 1500})).await?;
    for (method, count) in
        [("CreateSnapshot", 1), ("ReconfigVM_Task", 1), ("ReconfigVM_Task", 2), ("RemoveSnapshot_Task", 1)]
    {
        control(&scene, json!({"cmd": "requests", "clear": true})).await?;
        let job = Running::start(&scene, request(TARGET), dir.path()).await?;
        let job = tokio::spawn(job.finish());
        eventually(method, async || Ok(calls(&scene, method).await?.len() >= count)).await?;
        scene.control().await?.restart().await?;
        let delivered = job.await??;
        let result = delivered.result()?;
        match result.state() {
            JobState::Ok => images_equal_sources(&scene, &delivered)?,
            _ => assert!(!result.reasons.is_empty(), "{method}: {result:#?}"),
        }
        // Work that is still under way has to be over before anybody can say that nothing is left.
        eventually("no work is under way", async || {
            Ok(control(&scene, json!({"cmd": "state"})).await?["under_way"] == 0)
        })
        .await?;
        nothing_stays(&scene).await?;
    }
    control(&scene, json!({"cmd": "set_task_ms", "ms": 0})).await?;
    whole(&scene, &dir).await
}

/// Whatever answer is unreadable or missing once, at any call of the job: it ends, it is right or it says why, and
/// nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_answer_at_any_call_is_survived() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1)], |spec| {
        spec.set("deadlines", "call_seconds", 5);
        spec.set("deadlines", "settle_seconds", 6);
    })?;
    for kind in ["drop_reply", "http_500", "bad_xml"] {
        for nth in (1..=25).step_by(2) {
            fault(&scene, "*", json!({"kind": kind, "nth": nth})).await?;
            let delivered = backup(&scene, request(TARGET), dir.path()).await?;
            control(&scene, json!({"cmd": "clear_faults"})).await?;
            let result = delivered.result()?;
            match result.state() {
                JobState::Ok => images_equal_sources(&scene, &delivered)?,
                _ => assert!(!result.reasons.is_empty(), "{kind} {nth}: {result:#?}"),
            }
            nothing_stays(&scene).await.map_err(|e| e.context(format!("{kind} at call {nth}: {result:#?}")))?;
        }
    }
    whole(&scene, &dir).await
}
