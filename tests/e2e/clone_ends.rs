//! A cloned session that dies, at every stage of its job: the job ends with that as its cause, and nothing of it stays. One test a stage,
//! since each waits until its absence is believed.
use anyhow::{Result, ensure};
use hotadd_api::v1::{BackupVmRequest, JobState, Scope as Areas};
use hotadd_harness::scene::TARGET;
use serde_json::json;

use crate::{
    support::{MIB, backup, codes, control, dense, eventually, fault, reading, scene},
    tickets::{ALIVE, ALL, JOBS, nobody_did_the_others_work, nothing_of_it_stays, split, tracked, with_ticket},
};

/// It ends at the `nth` call of `method`; that by which it is kept alive is met while the job reads.
async fn dies_at(method: &str, nth: u32) -> Result<()> {
    let late = method == ALIVE;
    let (dir, scene) = scene(&[dense(if late { 96 * MIB } else { 2 * MIB }, 1)], |spec| {
        tracked(spec);
        spec.set("deadlines", "keep_alive_seconds", if late { 0.5 } else { 300.0 });
    })?;
    split(&scene, ALL).await?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 100})).await?;
    let dies = json!({"kind": "end_session", "user": JOBS, "nth": nth});
    let wanted = BackupVmRequest { scope: Areas::Allocated.into(), ..with_ticket(&scene, TARGET).await? };
    let delivered = if late {
        let job = reading(&scene, &dir, wanted).await?;
        fault(&scene, method, dies).await?;
        let over = async || {
            let log = std::fs::read_to_string(scene.dir.join("agent.log"))?;
            Ok(log.contains("HA-VC-014"))
        };
        eventually("its end is told", over).await?;
        job.finish().await?
    } else {
        fault(&scene, method, dies).await?;
        backup(&scene, wanted, dir.path()).await?
    };
    let result = delivered.result()?;
    ensure!(codes(result).first() == Some(&"HA-VC-014"), "{result:#?}");
    ensure!(result.reasons[0].message.contains(JOBS), "{result:#?}");
    nobody_did_the_others_work(&scene).await?;
    nothing_of_it_stays(&scene).await?;
    // What comes then is no worse for it.
    control(&scene, json!({"cmd": "clear_faults"})).await?;
    let whole = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
    ensure!(whole.result()?.state() == JobState::Ok, "{:#?}", whole.result);
    nothing_of_it_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_target_is_guarded() -> Result<()> {
    dies_at("DisableMethods", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_snapshot_is_asked_for() -> Result<()> {
    dies_at("CreateSnapshot_Task", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_snapshot_is_made() -> Result<()> {
    dies_at("CreateFilter", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_proxy_is_guarded() -> Result<()> {
    dies_at("DisableMethods", 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_attach_is_asked_for() -> Result<()> {
    dies_at("ReconfigVM_Task", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_attached() -> Result<()> {
    dies_at("CreateFilter", 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_map_is_asked_for() -> Result<()> {
    dies_at("QueryChangedDiskAreas", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_read() -> Result<()> {
    dies_at(ALIVE, 1).await
}
