//! The end of our snapshot when others are in its way: holders, younger snapshots, a VM that needs consolidation.
use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{Cleanup, JobState, ListDutiesRequest};
use hotadd_harness::{
    Scene,
    scene::{TARGET, vm},
};
use serde_json::{Value, json};

use crate::support::{
    MIB, calls, control, dense, disks, eventually, images_equal_sources, nothing_stays, reading, request, scene,
};

const OTHER: &str = "other-proxy";
const BASE: &str = "[ds1] web01/web01.vmdk";

fn with_another_product(holder_seconds: f64) -> Result<(tempfile::TempDir, Scene)> {
    scene(&[dense(32 * MIB, 1)], |spec| {
        spec.inventory.vms.push(vm(OTHER, Vec::new()));
        for (key, value) in [
            ("holder_seconds", holder_seconds),
            ("consolidate_seconds", 0.5),
            ("cleanup_seconds", 3.0),
            ("retry_last_seconds", 1.0),
        ] {
            spec.set("deadlines", key, value);
        }
    })
}

async fn must(scene: &Scene, command: Value) -> Result<Value> {
    let reply = control(scene, command.clone()).await?;
    ensure!(reply["fault"].is_null(), "{command}: {reply}");
    Ok(reply)
}

async fn hold(scene: &Scene, on: bool) -> Result<()> {
    let command = if on { "attach_foreign" } else { "detach_foreign" };
    must(scene, json!({"cmd": command, "vm": OTHER, "path": BASE, "mode": "independent_nonpersistent"})).await?;
    Ok(())
}

async fn why(scene: &Scene) -> Result<String> {
    let duties = disks(scene).await?.list_duties(ListDutiesRequest {}).await?.into_inner().duties;
    Ok(duties.into_iter().find(|duty| duty.kind == "snapshot").map(|duty| duty.last_error).unwrap_or_default())
}

async fn needs_consolidation(scene: &Scene) -> Result<bool> {
    let state = control(scene, json!({"cmd": "state"})).await?;
    let vms = state["vms"].as_array().context("vms")?;
    let target = vms.iter().find(|vm| vm["name"] == TARGET).context("target")?;
    Ok(target["consolidation_needed"] == true)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_removed_under_another_proxy() -> Result<()> {
    let (dir, scene) = with_another_product(3600.0)?;
    let job = reading(&scene, &dir, request(TARGET)).await?;
    hold(&scene, true).await?;
    let delivered = job.finish().await?;
    assert_eq!(delivered.result()?.cleanup(), Cleanup::Owed, "{:#?}", delivered.result);
    ensure!(calls(&scene, "RemoveSnapshot_Task").await?.is_empty(), "removed under a holder");
    let told = why(&scene).await?;
    ensure!(told.contains(OTHER) && told.contains(BASE), "{told}");
    hold(&scene, false).await?;
    nothing_stays(&scene).await?;
    ensure!(!needs_consolidation(&scene).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_younger_snapshot_of_somebody_else_is_waited_for_and_stays() -> Result<()> {
    let (dir, scene) = with_another_product(2.0)?;
    let job = reading(&scene, &dir, request(TARGET)).await?;
    must(&scene, json!({"cmd": "operator", "call": "CreateSnapshot", "vm": TARGET, "name": "before the update"}))
        .await?;
    let delivered = job.finish().await?;
    images_equal_sources(&scene, &delivered)?;
    eventually("only theirs is left", async || {
        let left = control(&scene, json!({"cmd": "snapshots", "vm": TARGET})).await?;
        let names: Vec<_> = left["snapshots"].as_array().into_iter().flatten().map(|s| s["name"].clone()).collect();
        Ok(names == ["before the update"])
    })
    .await?;
    ensure!(scene.left_attached().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_needs_it_is_consolidated_once_when_nobody_holds_it() -> Result<()> {
    let (dir, scene) = with_another_product(3600.0)?;
    let job = reading(&scene, &dir, request(TARGET)).await?;
    hold(&scene, true).await?;
    let ours = scene.snapshots().await?;
    let remove = json!({"cmd": "operator", "call": "RemoveSnapshot", "vm": TARGET, "snapshot": ours[0]});
    must(&scene, remove).await?;
    let delivered = job.finish().await?;
    assert_ne!(delivered.result()?.state(), JobState::Ok, "its snapshot was taken away");
    ensure!(needs_consolidation(&scene).await?, "nothing is tested");
    eventually("the holder is told", async || Ok(why(&scene).await?.contains(OTHER))).await?;
    ensure!(calls(&scene, "ConsolidateVMDisks_Task").await?.is_empty(), "consolidated under a holder");
    hold(&scene, false).await?;
    nothing_stays(&scene).await?;
    ensure!(!needs_consolidation(&scene).await?);
    assert_eq!(calls(&scene, "ConsolidateVMDisks_Task").await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_from_vcenter_alone_whose_it_is() -> Result<()> {
    let (dir, scene) = with_another_product(3600.0)?;
    let job = reading(&scene, &dir, request(TARGET)).await?;
    let listed = control(&scene, json!({"cmd": "snapshots", "vm": TARGET})).await?;
    let text = listed["snapshots"][0]["description"].as_str().context("description")?.to_owned();
    let proxy = &scene.spec.inventory.vms[0];
    let instance = proxy.instance_uuid.as_deref().context("instance UUID")?;
    ensure!(text.contains(&format!("hotadd-agent/{instance}")) && text.contains("duty="), "{text}");
    job.finish().await?;
    nothing_stays(&scene).await
}
