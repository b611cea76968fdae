//! A proxy that is full gets a controller, which holds one disk until that one is proven.
use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{Cleanup, JobState};
use hotadd_harness::{
    Content, Scene,
    scene::{PROXY, TARGET},
};
use serde_json::json;
use vcenter_sim::inventory::DiskSpec;

use crate::support::{
    MIB, Running, adds, backup, calls, codes, control, dense, fault, images_equal_sources, nothing_is_left, request,
    scene,
};

/// Disks of the target.
const DISKS: usize = 5;

/// One controller with two free units, and five disks to attach.
fn nearly_full(change: impl FnOnce(&mut hotadd_harness::Spec)) -> Result<(tempfile::TempDir, Scene)> {
    let disks: Vec<Content> = (1..=DISKS as u64).map(|seed| dense(2 * MIB, seed)).collect();
    scene(&disks, |spec| {
        let proxy = spec.proxy();
        proxy.controllers.as_mut().unwrap().truncate(1);
        proxy.disks.truncate(1);
        let filler = |unit| DiskSpec {
            unit: Some(unit),
            capacity: Some(1 << 16),
            mode: Some("independent_persistent".into()),
            ..DiskSpec::default()
        };
        proxy.disks.extend((1..14).filter(|unit| *unit != 7).map(filler));
        spec.set("deadlines", "discover_seconds", 3);
        change(spec);
    })
}

/// Reconfigures that add a controller.
async fn added(scene: &Scene) -> Result<usize> {
    let bodies = calls(scene, "ReconfigVM_Task").await?;
    Ok(bodies.iter().filter(|body| body.contains("ParaVirtualSCSIController")).count())
}

async fn all_equal(scene: &Scene, dir: &tempfile::TempDir) -> Result<()> {
    let delivered = backup(scene, request(TARGET), dir.path()).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(scene, &delivered)?;
    nothing_is_left(scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_proxy_gets_a_controller_and_its_first_disk_goes_alone() -> Result<()> {
    let (dir, scene) = nearly_full(|_| {})?;
    all_equal(&scene, &dir).await?;
    // Two on the old one, the controller, one on trial, the rest.
    assert_eq!(adds(&scene).await?, [2, 1, 1, 2]);
    assert_eq!(added(&scene).await?, 1);
    // The next job finds it proven.
    control(&scene, json!({"cmd": "requests", "clear": true})).await?;
    all_equal(&scene, &dir).await?;
    assert_eq!(adds(&scene).await?, [5]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_left_empty_by_a_crash_is_used_by_the_next_run_under_the_same_rule() -> Result<()> {
    let (dir, mut scene) = nearly_full(|_| {})?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "hang", "nth": 3})).await?;
    let job = Running::start(&scene, request(TARGET), dir.path()).await?;
    crate::support::eventually("a controller", async || Ok(added(&scene).await? == 1)).await?;
    crate::support::eventually("its first disk", async || Ok(adds(&scene).await?.len() == 3)).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    control(&scene, json!({"cmd": "clear_faults"})).await?;
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    control(&scene, json!({"cmd": "requests", "clear": true})).await?;
    all_equal(&scene, &dir).await?;
    assert_eq!((adds(&scene).await?, added(&scene).await?), (vec![2, 1, 2], 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_number_that_lies_costs_one_disk_and_the_controller() -> Result<()> {
    let (dir, scene) = nearly_full(|_| {})?;
    control(&scene, json!({"cmd": "set_controllers", "told_slot": 1280})).await?;
    for _ in 0..2 {
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        let result = delivered.result()?;
        assert_eq!((result.state(), result.cleanup()), (JobState::Failed, Cleanup::Done), "{result:#?}");
        assert!(delivered.images.is_empty(), "something was read");
        nothing_is_left(&scene).await?;
        // The second time it is known before anything is touched.
        assert_eq!(adds(&scene).await?, [2, 1, 1], "two old units, the controller, one disk on trial");
    }
    let last = backup(&scene, request(TARGET), dir.path()).await?;
    let reason = last.result()?.reasons.first().context("no reason")?.clone();
    assert_eq!(reason.code, "HA-ATT-001", "{reason:?}");
    assert_eq!(scene.control().await?.attached(PROXY).await?.len(), 13, "a disk of the proxy is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_the_addition_is_read_back() -> Result<()> {
    let (dir, scene) = nearly_full(|_| {})?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "drop_reply", "nth": 2})).await?;
    all_equal(&scene, &dir).await?;
    assert_eq!(added(&scene).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_addition_is_told_and_not_counted_as_room_again() -> Result<()> {
    let (dir, scene) = nearly_full(|_| {})?;
    control(&scene, json!({"cmd": "set_controllers", "hotplug": false})).await?;
    let first = backup(&scene, request(TARGET), dir.path()).await?;
    let result = first.result()?;
    assert_eq!((result.state(), result.cleanup()), (JobState::Failed, Cleanup::Done), "{result:#?}");
    let why: Vec<&str> = result.disks.iter().flat_map(|d| &d.reasons).map(|r| r.code.as_str()).collect();
    assert!(why.contains(&"HA-ATT-007"), "{result:#?}");
    nothing_is_left(&scene).await?;
    control(&scene, json!({"cmd": "requests", "clear": true})).await?;
    let second = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(codes(second.result()?), ["HA-ATT-001"]);
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "a snapshot was taken for nothing");
    nothing_is_left(&scene).await
}
