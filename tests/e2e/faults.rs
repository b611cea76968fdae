//! vCenter says no, and says why: one cause, one reason, one bad disk costs only itself.
use anyhow::Result;
use hotadd_api::v1::{BackupVmRequest, Cleanup, JobState};
use hotadd_harness::{
    Content, Scene,
    content::same,
    scene::{FIRST_KEY, TARGET, datastore_spec},
};
use serde_json::json;
use vcenter_sim::inventory::DiskSpec;

use crate::support::{
    Delivered, MIB, Running, Seen, adds, backup, calls, codes, control, eventually, fault, images_equal_sources,
    nothing_is_left, nothing_stays, request, scene,
};

const LOCKED: usize = 3;

fn fourteen() -> Vec<Content> {
    (0..14).map(|n| Content::new(2 * MIB + n * 512, n)).collect()
}

async fn locked_disk_path(scene: &Scene) -> Result<String> {
    let disks = scene.control().await?.attached(TARGET).await?;
    Ok(disks.into_iter().find(|d| d.key == FIRST_KEY + i32::try_from(LOCKED).unwrap()).map(|d| d.path).unwrap())
}

/// Thirteen are whole, the locked one is refused with this code.
fn thirteen(scene: &Scene, delivered: &Delivered, code: &str) -> Result<()> {
    let result = delivered.result()?;
    assert_eq!(result.state(), JobState::Ok, "{result:#?}");
    assert_eq!(delivered.images.len(), 13);
    for n in (0..14).filter(|n| *n != LOCKED) {
        same(&delivered.images[&(FIRST_KEY + i32::try_from(n)?)], &scene.source(n))?;
    }
    let bad: Vec<_> = result.disks.iter().filter(|d| !d.ok).collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].disk.as_ref().unwrap().device_key, FIRST_KEY + i32::try_from(LOCKED)?);
    assert_eq!(bad[0].reasons[0].code, code, "{bad:#?}");
    Ok(())
}

/// `wrapped`: GenericVmConfigFault with a text about the lock, as many versions tell it; else FileLocked.
async fn one_locked(wrapped: bool) -> Result<()> {
    let (dir, scene) = scene(&fourteen(), |_| {})?;
    let path = locked_disk_path(&scene).await?;
    scene.control().await?.locked(&path, true).await?;
    control(&scene, json!({"cmd": "set_wrap_locked", "on": wrapped})).await?;
    let wanted = BackupVmRequest { allow_partial: true, ..request(TARGET) };
    let mut job = Running::start(&scene, wanted, dir.path()).await?;
    job.until(Seen::Opened).await?;
    scene.control().await?.locked(&path, false).await?;
    thirteen(&scene, &job.finish().await?, "HA-ATT-002")?;
    let adds = adds(&scene).await?;
    assert!(adds[0] == 14 && adds.len() <= 9, "not a bisection: {adds:?}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_locked_disk_among_fourteen_costs_only_itself() -> Result<()> {
    one_locked(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_told_only_by_text_costs_only_its_disk() -> Result<()> {
    one_locked(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_names_the_device_is_not_bisected() -> Result<()> {
    let (dir, scene) = scene(&fourteen(), |_| {})?;
    let fields = json!({"property": format!("virtualDeviceSpec[{LOCKED}].device"), "deviceIndex": LOCKED});
    let spec = json!({"kind": "task_fault", "fault": "InvalidDeviceBacking", "fields": fields});
    fault(&scene, "ReconfigVM_Task", spec).await?;
    let wanted = BackupVmRequest { allow_partial: true, ..request(TARGET) };
    thirteen(&scene, &backup(&scene, wanted, dir.path()).await?, "HA-ATT-003")?;
    assert_eq!(adds(&scene).await?, [14, 13]);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_allow_partial_a_refused_disk_ends_the_job_before_any_read() -> Result<()> {
    let (dir, scene) = scene(&fourteen(), |_| {})?;
    let path = locked_disk_path(&scene).await?;
    scene.control().await?.locked(&path, true).await?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Phase(hotadd_api::v1::Phase::Attach, true)).await?;
    scene.control().await?.locked(&path, false).await?;
    let delivered = job.finish().await?;
    assert!(delivered.images.is_empty(), "something was read");
    assert_eq!((delivered.result()?.state(), codes(delivered.result()?)), (JobState::Failed, vec!["HA-ATT-002"]));
    assert!(delivered.result()?.reasons[0].message.contains(&path), "the disk is not named");
    nothing_is_left(&scene).await
}

const EVERYTHING: [&str; 6] = [
    "Datastore.AllocateSpace",
    "System.Read",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.Config.AddExistingDisk",
    "VirtualMachine.Config.RemoveDisk",
];

pub async fn may_not(scene: &Scene, privilege: &str) -> Result<()> {
    let rest: Vec<_> = EVERYTHING.iter().filter(|p| **p != privilege).collect();
    control(scene, json!({"cmd": "set_privileges", "privileges": rest})).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_privilege_is_named_with_its_object() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    for privilege in ["VirtualMachine.State.CreateSnapshot", "VirtualMachine.Config.AddExistingDisk"] {
        may_not(&scene, privilege).await?;
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        let result = delivered.result()?;
        assert_eq!(codes(result), ["HA-VC-004"], "{result:#?}");
        let message = &result.reasons[0].message;
        assert!(message.contains(privilege) && message.contains("vm-"), "{message}");
        nothing_is_left(&scene).await?;
    }
    Ok(())
}

/// The worst role: it may attach but not detach. What is owed is told, kept, and done as soon as it can be.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_detached_is_owed_until_it_may() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1)], |spec| spec.set("deadlines", "cleanup_seconds", 1))?;
    for privilege in ["VirtualMachine.Config.RemoveDisk", "VirtualMachine.State.RemoveSnapshot"] {
        may_not(&scene, privilege).await?;
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        let result = delivered.result()?;
        assert_eq!((result.state(), result.cleanup()), (JobState::Failed, Cleanup::Owed), "{result:#?}");
        assert_eq!(codes(result), ["HA-DUT-001"]);
        // The settler goes on; two more tries show that it does not take the snapshot from under the disk.
        let method = if privilege.ends_with("RemoveDisk") { "ReconfigVM_Task" } else { "RemoveSnapshot_Task" };
        let tried = calls(&scene, method).await?.len();
        eventually("two more tries", async || Ok(calls(&scene, method).await?.len() >= tried + 2)).await?;
        assert_eq!(scene.snapshots().await?.len(), 1, "a snapshot went before its disks");
        assert_eq!(scene.left_attached().await?.len(), usize::from(privilege.ends_with("RemoveDisk")));
        control(&scene, json!({"cmd": "set_privileges", "privileges": null})).await?;
        nothing_stays(&scene).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_datastore_is_refused_before_any_snapshot() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1), Content::new(2 * MIB, 2)], |spec| {
        let at = spec.inventory.datastores[0].dir.with_file_name("ds2");
        spec.inventory.datastores.push(datastore_spec("ds2", at));
        spec.target().disks[1].path = Some("[ds2] web01/data.vmdk".into());
    })?;
    control(&scene, json!({"cmd": "datastore", "name": "ds2", "accessible": false})).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!(codes(result), ["HA-PLAN-003"], "{result:#?}");
    let message = &result.reasons[0].message;
    assert!(message.contains("ds2"), "{message}");
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "a snapshot was taken for nothing");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn full_controllers_are_refused_before_any_snapshot() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1), Content::new(2 * MIB, 2)], |spec| {
        spec.set("limits", "add_controllers", false);
        let proxy = spec.proxy();
        proxy.controllers.as_mut().unwrap().truncate(1);
        proxy.disks.truncate(1);
        let filler = |unit| DiskSpec {
            unit: Some(unit),
            capacity: Some(1 << 16),
            mode: Some("independent_persistent".into()),
            ..DiskSpec::default()
        };
        // One unit stays free: not enough for two disks.
        proxy.disks.extend((1..15).filter(|unit| *unit != 7).map(filler));
    })?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(codes(delivered.result()?), ["HA-ATT-001"], "{:#?}", delivered.result);
    assert!(delivered.result()?.reasons[0].message.contains("2 disks, 1 free"), "{:#?}", delivered.result);
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "a snapshot was taken for nothing");
    let one = BackupVmRequest { device_keys: vec![FIRST_KEY], ..request(TARGET) };
    assert_eq!(backup(&scene, one, dir.path()).await?.result()?.state(), JobState::Ok);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_proxy_is_waited_for_on_both_ways() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    // The first and second reconfigure (add), the fourth (remove) find another task on the VM.
    fault(&scene, "ReconfigVM_Task", json!({"fault": "TaskInProgress", "nth": 1, "count": 2})).await?;
    fault(&scene, "ReconfigVM_Task", json!({"fault": "TaskInProgress", "nth": 4, "count": 1})).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    assert_eq!(calls(&scene, "ReconfigVM_Task").await?.len(), 5);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_removal_that_fails_is_repeated() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    let spec = json!({"kind": "task_fault", "fault": "FileLocked", "fields": {"file": "[ds1] web01/web01.vmdk"}});
    fault(&scene, "RemoveSnapshot_Task", spec).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    assert_eq!(calls(&scene, "RemoveSnapshot_Task").await?.len(), 2);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_tasks_are_waited_for() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1), Content::new(3 * MIB, 2)], |_| {})?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 1500})).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_somebody_detaches_behind_our_back_is_settled() -> Result<()> {
    let (dir, scene) = scene(&[crate::support::dense(96 * MIB, 1)], |_| {})?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    let path = scene.left_attached().await?.remove(0);
    control(&scene, json!({"cmd": "remove_disk", "vm": "proxy01", "disk": path})).await?;
    // The guest goes on showing it; the agent deletes the device, which is proven to be its own.
    let delivered = job.finish().await?;
    assert_eq!(delivered.result()?.cleanup(), Cleanup::Done, "{:#?}", delivered.result);
    eventually("the guest forgets it", async || Ok(crate::support::devices_of(&scene, 96 * MIB).await?.is_empty()))
        .await?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_can_not_succeed_touch_nothing() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1)], |spec| {
        spec.inventory.vms.push(hotadd_harness::scene::vm("empty01", Vec::new()));
        let twin = hotadd_harness::scene::vm("twin01", vec![DiskSpec::default()]);
        spec.inventory.vms.push(vcenter_sim::inventory::VmSpec { uuid: spec.inventory.vms[1].uuid.clone(), ..twin });
    })?;
    let uuid = scene.spec.inventory.vms[1].uuid.clone().unwrap();
    for (vm, code) in [
        ("nobody", "HA-VM-001"),
        ("vm-999999", "HA-VM-001"),
        ("empty01", "HA-VM-003"),
        ("proxy01", "HA-VM-004"),
        (uuid.as_str(), "HA-VM-002"),
    ] {
        let delivered = backup(&scene, request(vm), dir.path()).await?;
        assert_eq!(codes(delivered.result()?), [code], "{vm}: {:#?}", delivered.result);
        assert!(!delivered.result()?.reasons[0].next_step.is_empty());
    }
    let wanted = BackupVmRequest { device_keys: vec![4711], ..request(TARGET) };
    assert_eq!(codes(backup(&scene, wanted, dir.path()).await?.result()?), ["HA-VM-005"]);
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty());
    nothing_is_left(&scene).await
}
