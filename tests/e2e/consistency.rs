//! The ladder of consistency, and that its level and fault are told.
use anyhow::Result;
use hotadd_api::v1::{BackupVmRequest, Consistency, JobState, SnapshotRequest};
use hotadd_harness::{Content, Scene, Spec, scene::TARGET};
use serde_json::json;

use crate::support::{
    Delivered, MIB, backup, calls, codes, fault, images_equal_sources, nothing_is_left, request, scene,
};

fn small(change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(2 * MIB, 1)], change)
}

async fn with(scene: &Scene, dir: &tempfile::TempDir, consistency: Consistency) -> Result<Delivered> {
    let wish = SnapshotRequest { consistency: consistency.into(), timeout_seconds: 300 };
    backup(scene, BackupVmRequest { snapshot: Some(wish), ..request(TARGET) }, dir.path()).await
}

async fn quiescing_fails(scene: &Scene, count: u32) -> Result<()> {
    let spec = json!({"kind": "task_fault", "fault": "ApplicationQuiesceFault", "count": count,
        "fields": {"message": "VSS writer timed out"}});
    fault(scene, "CreateSnapshotEx_Task", spec).await
}

#[tokio::test(flavor = "multi_thread")]
async fn quiescing_that_fails_once_is_tried_again() -> Result<()> {
    let (dir, scene) = small(|_| {})?;
    quiescing_fails(&scene, 1).await?;
    let delivered = with(&scene, &dir, Consistency::RequiredApp).await?;
    let snapshot = delivered.result()?.snapshot.clone().unwrap();
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    assert_eq!((snapshot.reached(), snapshot.fault), (Consistency::RequiredApp, None));
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), 2);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn prefer_app_ends_crash_consistent_and_tells_the_fault() -> Result<()> {
    let (dir, scene) = small(|_| {})?;
    quiescing_fails(&scene, 2).await?;
    let delivered = with(&scene, &dir, Consistency::PreferApp).await?;
    let snapshot = delivered.result()?.snapshot.clone().unwrap();
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    assert_eq!(snapshot.reached(), Consistency::Crash);
    let told = snapshot.fault.unwrap();
    assert_eq!(told.code, "HA-SNP-001");
    assert!(told.message.contains("VSS writer timed out"), "{told:?}");
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn required_app_and_filesystem_fail_after_the_second_try() -> Result<()> {
    let (dir, scene) = small(|_| {})?;
    for consistency in [Consistency::RequiredApp, Consistency::Filesystem] {
        quiescing_fails(&scene, 2).await?;
        let delivered = with(&scene, &dir, consistency).await?;
        assert_eq!(delivered.result()?.state(), JobState::Failed);
        assert_eq!(codes(delivered.result()?), ["HA-SNP-001"], "{:#?}", delivered.result);
        assert!(delivered.images.is_empty());
        nothing_is_left(&scene).await?;
    }
    assert_eq!(calls(&scene, "ReconfigVM_Task").await?.len(), 0, "something was attached");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_tools_is_never_called_quiesced() -> Result<()> {
    let (dir, scene) = small(|spec| spec.target().tools = false)?;
    let delivered = with(&scene, &dir, Consistency::RequiredApp).await?;
    assert_eq!(codes(delivered.result()?), ["HA-SNP-001"], "{:#?}", delivered.result);
    nothing_is_left(&scene).await?;
    let delivered = with(&scene, &dir, Consistency::PreferApp).await?;
    let snapshot = delivered.result()?.snapshot.clone().unwrap();
    assert_eq!(snapshot.reached(), Consistency::Crash);
    assert!(snapshot.fault.is_some_and(|f| f.message.contains("Tools")));
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}
