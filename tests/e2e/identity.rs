//! Which device is it: decoys in the guest, lost events, and disks on the proxy that are somebody else's.
use anyhow::{Context as _, Result};
use hotadd_api::v1::{Cleanup, JobState};
use hotadd_harness::{
    Content, Scene,
    scene::{FIRST_KEY, PROXY, TARGET, vm},
};
use hotadd_vsphere as vim;
use serde_json::{Value, json};
use std::time::Duration;
use vcenter_sim::inventory::DiskSpec;

use crate::support::{
    MIB, Running, Seen, backup, bytes_read, calls, codes, control, dense, devices_of, images_equal_sources,
    nothing_is_left, only_these_are_left, request, scene, vsphere,
};

const PATH: &str = "[ds1] web01/web01.vmdk";
const SIZE: u64 = 3 * MIB;

fn one_disk() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(SIZE, 1)], |spec| spec.set("deadlines", "discover_seconds", 3))
}

async fn uuid(scene: &Scene) -> Result<String> {
    let disks = scene.control().await?.attached(TARGET).await?;
    disks.into_iter().find(|d| d.key == FIRST_KEY).and_then(|d| d.uuid).context("no UUID")
}

/// The guest shows something else than vCenter attached: nothing is read, all is detached, the code tells.
async fn disguised(disguise: Value, code: &str) -> Result<()> {
    let (dir, scene) = one_disk()?;
    let mut command = disguise.clone();
    command["cmd"] = json!("attach_as");
    command["path"] = json!(PATH);
    if command.get("uuid").is_none() {
        command["uuid"] = json!(uuid(&scene).await?);
    }
    control(&scene, command).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), codes(result)), (JobState::Failed, vec![code]), "{disguise}: {result:#?}");
    assert!(delivered.images.is_empty(), "a decoy was read");
    assert_eq!(result.cleanup(), Cleanup::Done, "{disguise}");
    assert_eq!(calls(&scene, "ReconfigVM_Task").await?.len(), 2, "one attach and one detach were expected");
    nothing_is_left(&scene).await?;
    // The disguise was for once.
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_uuid_is_refused() -> Result<()> {
    disguised(json!({"uuid": "6000C290-dead-beef-dead-beefdeadbeef"}), "HA-DSC-002").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uuid_that_begins_alike_is_refused() -> Result<()> {
    let (_dir, scene) = one_disk()?;
    let real = uuid(&scene).await?;
    drop(scene);
    let last = if real.ends_with('0') { "1" } else { "0" };
    disguised(json!({"uuid": format!("{}{last}", &real[..real.len() - 1])}), "HA-DSC-002").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_identity_is_refused() -> Result<()> {
    disguised(json!({"uuid": null}), "HA-DSC-002").await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_is_refused() -> Result<()> {
    disguised(json!({"size": SIZE - 512}), "HA-DSC-002").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_disk_in_another_slot_is_not_found() -> Result<()> {
    disguised(json!({"bus": 1, "unit": 9}), "HA-DSC-001").await
}

/// A device with the same full UUID and size sits elsewhere from the start: it is neither read nor deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_twin_in_another_slot_is_never_touched() -> Result<()> {
    let (dir, mut scene) = one_disk()?;
    for (n, unit) in [(0, 6), (1, 1), (1, 12)] {
        let uuid = uuid(&scene).await?;
        let id = format!("raw-{n}-{unit}");
        control(&scene, json!({"cmd": "attach_raw", "bus": n, "unit": unit, "size": SIZE, "uuid": uuid, "id": id}))
            .await?;
    }
    let twins = async || -> Result<Vec<u64>> {
        let all = devices_of(&scene, SIZE).await?;
        let raw = all.iter().filter(|d| d["id"].as_str().is_some_and(|id| id.starts_with("raw")));
        raw.map(bytes_read).collect()
    };
    let before = twins().await?;
    assert_eq!(before.len(), 3);
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    assert_eq!(twins().await?, before, "a twin was read or deleted");
    nothing_is_left(&scene).await?;
    // Neither by an agent that settles what a killed one left.
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Opened).await?;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    let raw = devices_of(&scene, SIZE).await?;
    assert_eq!(raw.len(), 3, "a twin was deleted: {raw:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_nobody_announced_is_found_by_rescan() -> Result<()> {
    let (dir, mut scene) = scene(&[Content::new(SIZE, 1), Content::new(2 * SIZE, 2)], |_| {})?;
    control(&scene, json!({"cmd": "suppress_events", "on": true})).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    assert!(scene.agent()?.log_text().contains("scanning its target"), "it was found without a scan");
    nothing_is_left(&scene).await
}

const FOREIGN: &str = "[ds1] other01/other01.vmdk";

fn other_vm() -> DiskSpec {
    DiskSpec { capacity: Some(5 * MIB), ..DiskSpec::default() }
}

/// A scene in which another product has hot-added a disk of another VM to this proxy, just as the agent would.
async fn with_foreign(slot: (i32, i32)) -> Result<(tempfile::TempDir, Scene)> {
    let (dir, scene) = scene(&[dense(48 * MIB, 1)], |spec| {
        let mut other = vm("other01", vec![other_vm()]);
        other.snapshots = 1;
        spec.inventory.vms.push(other);
    })?;
    hot_add(&scene, FOREIGN, 5 * MIB, slot).await?;
    Ok((dir, scene))
}

async fn hot_add(scene: &Scene, path: &str, capacity_bytes: u64, (controller_key, unit): (i32, i32)) -> Result<()> {
    let client = vsphere(scene).await?;
    let proxy = client.find_vms_by_name(PROXY).await?.pop().context("no proxy")?;
    let disk = vim::AddDisk {
        temp_key: -1,
        controller_key,
        unit,
        capacity_bytes,
        backing_kind: vim::BackingKind::FlatV2,
        file_name: vim::BackingPath::new(path),
        datastore: None,
    };
    let change = vim::DeviceChanges::Add(vec![disk]);
    let task = client.reconfigure(&proxy, &vim::Reconfigure { change_version: None, change }).await?;
    let info = client.wait_task(&task, Duration::from_secs(30), None).await?;
    anyhow::ensure!(info.error.is_none(), "{:?}", info.error);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_disk_on_the_proxy_survives_start_job_crash_stop_and_reap() -> Result<()> {
    let (dir, mut scene) = with_foreign((1000, 1)).await?;
    let read = async |scene: &Scene| -> Result<u64> {
        let device = devices_of(scene, 5 * MIB).await?;
        bytes_read(device.first().context("the foreign device is gone from the guest")?)
    };
    let before = read(&scene).await?;
    only_these_are_left(&scene, &[FOREIGN], &[]).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    only_these_are_left(&scene, &[FOREIGN], &[]).await?;

    let kill = async |scene: &mut Scene| -> Result<()> {
        let mut job = Running::start(scene, request(TARGET), dir.path()).await?;
        job.until(Seen::Frame).await?;
        scene.take_agent()?.kill()?;
        assert_eq!(scene.left_attached().await?.len(), 2);
        Ok(())
    };
    kill(&mut scene).await?;
    scene.start_agent()?;
    only_these_are_left(&scene, &[FOREIGN], &[]).await?;
    kill(&mut scene).await?;
    assert_eq!(scene.reap()?.code, 0);
    only_these_are_left(&scene, &[FOREIGN], &[]).await?;
    scene.start_agent()?;
    assert!(scene.take_agent()?.stop()?.success());
    only_these_are_left(&scene, &[FOREIGN], &[]).await?;
    assert_eq!(read(&scene).await?, before, "the foreign disk was read");
    assert!(!calls(&scene, "ReconfigVM_Task").await?.iter().any(|b| b.contains("remove<") && b.contains("other01")));
    Ok(())
}

/// While the agent was dead somebody detached its disk and put another one into the very slot that the journal names.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_disk_in_the_slot_of_a_duty_is_not_touched() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1)], |spec| {
        let mut other = vm("other01", vec![other_vm()]);
        other.snapshots = 1;
        spec.inventory.vms.push(other);
    })?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    let mut admin = scene.control().await?;
    let ours = admin.attached(PROXY).await?.into_iter().find(|d| d.mode == "independent_nonpersistent");
    let ours = ours.context("nothing was attached")?;
    detach_all(&scene).await?;
    let (bus, unit) = (ours.bus.context("bus")?, ours.unit.context("unit")?);
    hot_add(&scene, FOREIGN, 5 * MIB, (1000 + i32::try_from(bus)?, unit)).await?;
    // vSphere gives a free key again, so slot and key are those of the duty; file, UUID and size say that it is another.
    scene.start_agent()?;
    only_these_are_left(&scene, &[FOREIGN], &[]).await?;
    let next = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(next.result()?.state(), JobState::Ok, "{:#?}", next.result);
    only_these_are_left(&scene, &[FOREIGN], &[]).await
}

/// As an administrator would.
async fn detach_all(scene: &Scene) -> Result<()> {
    let client = vsphere(scene).await?;
    let proxy = client.find_vms_by_name(PROXY).await?.pop().context("no proxy")?;
    let info = client.vm(&proxy).await?;
    let extra = |disk: &&vim::Disk| disk.backing.disk_mode.as_deref() == Some("independent_nonpersistent");
    let change = vim::DeviceChanges::Remove(info.disks().filter(extra).map(vim::RemoveDisk::new).collect());
    let task = client.reconfigure(&proxy, &vim::Reconfigure { change_version: None, change }).await?;
    client.wait_task(&task, Duration::from_secs(30), None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_can_not_be_identified_is_not_used() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(SIZE, 1)], |spec| {
        // No slot number and no anchor on the first: neither way speaks.
        let proxy = spec.proxy();
        proxy.controllers.as_mut().unwrap()[0].no_slot = true;
        proxy.disks.remove(0);
    })?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    let added = calls(&scene, "ReconfigVM_Task").await?.remove(0);
    assert!(added.contains("controllerKey>1001<") && !added.contains("controllerKey>1000<"), "{added}");
    nothing_is_left(&scene).await
}
