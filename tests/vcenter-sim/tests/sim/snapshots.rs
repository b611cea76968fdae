//! Snapshots: deltas, merges, consolidation, and what a running VM writes meanwhile.

use std::os::unix::fs::FileExt;

use crate::common::{Lab, add, between, remove};
use serde_json::json;

fn read(path: &std::path::Path, at: u64) -> u8 {
    let mut b = [0u8];
    std::fs::File::open(path).unwrap().read_exact_at(&mut b, at).unwrap();
    b[0]
}

#[tokio::test]
async fn writes_go_to_the_delta_and_merge_at_removal() {
    let mut lab = Lab::new().await;
    let base = lab.ctl.disk_file("web", "0:0").await.unwrap();
    lab.ctl.vm_write("web", "0:0", 4096, 1, 512).await.unwrap();
    assert_eq!(read(&base, 4096), 1, "without a snapshot the base is written");
    let snap = lab.snapshot("web").await;
    lab.ctl.vm_write("web", "0:0", 4096, 2, 512).await.unwrap();
    assert_eq!(read(&base, 4096), 1, "the base is frozen");
    lab.task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", "<removeChildren>false</removeChildren>")
        .await
        .unwrap();
    assert_eq!(read(&base, 4096), 2, "merged");
    assert_eq!(lab.ctl.attached("web").await.unwrap()[0].path, "[ds1] web/web.vmdk");
    assert_eq!(
        lab.fault("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", "<removeChildren>false</removeChildren>")
            .await
            .0,
        "ManagedObjectNotFound"
    );
    lab.shutdown().await;
}

#[tokio::test]
async fn write_through_breaks_the_frozen_base() {
    let mut lab = Lab::new().await;
    let base = lab.ctl.disk_file("web", "0:0").await.unwrap();
    lab.snapshot("web").await;
    lab.ctl.set_write_through(true).await.unwrap();
    lab.ctl.vm_write("web", "0:0", 0, 9, 512).await.unwrap();
    assert_eq!(read(&base, 0), 9);
    lab.shutdown().await;
}

#[tokio::test]
async fn a_held_parent_leaves_the_vm_in_need_of_consolidation() {
    let mut lab = Lab::new().await;
    lab.ctl.call(json!({"cmd": "set_removal_fails", "on": true})).await.unwrap();
    let snap = lab.snapshot("web").await;
    lab.reconfig("proxy", &add("[ds1] web/web.vmdk", 1000, 3)).await.unwrap();
    lab.ctl.vm_write("web", "0:0", 0, 5, 512).await.unwrap();
    let info = lab
        .task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", "<removeChildren>false</removeChildren>")
        .await
        .unwrap_err();
    assert!(info.contains("FileLocked"), "{info}");
    let id = lab.vm("web").await;
    assert!(lab.fetch("VirtualMachine", &id, "runtime.consolidationNeeded").await.contains(">true<"));
    assert!(lab.ctl.snapshots("web").await.unwrap().is_empty(), "gone from the tree all the same");
    assert!(lab.task("VirtualMachine", &id, "ConsolidateVMDisks_Task", "").await.is_err());
    let base = lab.ctl.disk_file("web", "0:0").await.unwrap();
    assert_eq!(read(&base, 0), 0, "an attached base is never written");
    lab.reconfig("proxy", &remove(2002)).await.unwrap();
    lab.task("VirtualMachine", &id, "ConsolidateVMDisks_Task", "").await.unwrap();
    assert_eq!(read(&base, 0), 5);
    assert!(lab.fetch("VirtualMachine", &id, "runtime.consolidationNeeded").await.contains(">false<"));
    lab.shutdown().await;
}

/// Who removes a snapshot that another VM reads at his own request is counted; an operator is not, nor who reads another
/// disk or reads no more.
#[tokio::test]
async fn a_removal_under_the_same_users_reader_is_counted() {
    let mut lab = Lab::new().await;
    let counted = async |lab: &mut Lab| lab.ctl.counters().await.unwrap()["removed_under_reader"].clone();
    let remove_it = "<removeChildren>false</removeChildren>";
    // Nobody reads; then another VM's disk is read.
    let snap = lab.snapshot("web").await;
    lab.task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", remove_it).await.unwrap();
    lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1000, 3)).await.unwrap();
    let snap = lab.snapshot("web").await;
    lab.task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", remove_it).await.unwrap();
    lab.reconfig("proxy", &remove(2002)).await.unwrap();
    // An operator does it.
    let snap = lab.snapshot("web").await;
    lab.reconfig("proxy", &add("[ds1] web/web.vmdk", 1000, 3)).await.unwrap();
    let request = json!({"cmd": "operator", "call": "RemoveSnapshot", "vm": "web", "snapshot": snap});
    assert!(lab.ctl.call(request).await.unwrap()["fault"].is_null());
    lab.reconfig("proxy", &remove(2002)).await.unwrap();
    lab.ctl.call(json!({"cmd": "operator", "call": "Consolidate", "vm": "web"})).await.unwrap();
    assert_eq!(counted(&mut lab).await, json!([]));
    let snap = lab.snapshot("web").await;
    lab.reconfig("proxy", &add("[ds1] web/web.vmdk", 1000, 3)).await.unwrap();
    lab.task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", remove_it).await.unwrap();
    assert_eq!(counted(&mut lab).await, json!([format!("{snap}: [ds1] web/web.vmdk")]));
    lab.shutdown().await;
}

#[tokio::test]
async fn a_foreign_snapshot_stays_and_its_chain_is_told() {
    let mut lab = Lab::new().await;
    assert_eq!(lab.ctl.snapshots("old").await.unwrap().len(), 1);
    let snap = lab.snapshot("old").await;
    let config = lab.fetch("VirtualMachineSnapshot", &snap, "config.hardware.device[2000].backing").await;
    assert_eq!(between(&config, "<fileName>", "<"), "[ds1] old/old-000001.vmdk");
    assert!(config.contains("<parent><fileName>[ds1] old/old.vmdk</fileName>"), "{config}");
    lab.task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", "<removeChildren>false</removeChildren>")
        .await
        .unwrap();
    assert_eq!(lab.ctl.attached("old").await.unwrap()[0].path, "[ds1] old/old-000001.vmdk");
    lab.shutdown().await;
}

#[tokio::test]
async fn power_on_works_beside_an_attached_base_only_with_a_snapshot() {
    let mut lab = Lab::new().await;
    lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1000, 3)).await.unwrap();
    let err = lab.ctl.power("off", true).await.unwrap_err();
    assert!(err.to_string().contains("FileLocked"), "{err}");
    lab.reconfig("proxy", &remove(2002)).await.unwrap();
    lab.snapshot("off").await;
    lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1000, 3)).await.unwrap();
    lab.ctl.power("off", true).await.unwrap();
    lab.shutdown().await;
}

#[tokio::test]
async fn a_writer_rewrites_until_it_is_stopped() {
    let mut lab = Lab::new().await;
    let base = lab.ctl.disk_file("web", "0:0").await.unwrap();
    lab.snapshot("web").await;
    let request = json!({"cmd": "writer_start", "vm": "web", "disk": "0:0", "ranges": [[0, 512]], "interval_ms": 1});
    let writer = lab.ctl.call(request).await.unwrap()["writer"].clone();
    let done = lab.ctl.call(json!({"cmd": "writer_stop", "writer": writer})).await.unwrap();
    assert!(done["passes"].as_u64().unwrap() >= 1);
    assert_eq!(read(&base, 0), 0);
    lab.shutdown().await;
}

#[tokio::test]
async fn quiesce_faults_come_on_cue() {
    let mut lab = Lab::new().await;
    lab.ctl
        .fault("CreateSnapshot_Task", json!({"kind": "task_fault", "fault": "ApplicationQuiesceFault"}))
        .await
        .unwrap();
    let id = lab.vm("web").await;
    let args = "<name>s</name><memory>false</memory><quiesce>true</quiesce>";
    let info = lab.task("VirtualMachine", &id, "CreateSnapshot_Task", args).await.unwrap_err();
    assert!(info.contains("ApplicationQuiesceFault"));
    lab.task("VirtualMachine", &id, "CreateSnapshot_Task", args).await.unwrap();
    lab.shutdown().await;
}

#[tokio::test]
async fn a_queued_snapshot_can_be_cancelled() {
    let mut lab = Lab::new().await;
    lab.ctl.fault("CreateSnapshot_Task", json!({"kind": "delay_ms", "ms": 60_000})).await.unwrap();
    let id = lab.vm("web").await;
    let text = lab
        .ok(
            "VirtualMachine",
            &id,
            "CreateSnapshot_Task",
            "<name>s</name><memory>false</memory><quiesce>false</quiesce>",
        )
        .await;
    let task = between(&text, "<returnval type=\"Task\">", "<").to_owned();
    lab.ok("Task", &task, "CancelTask", "").await;
    assert!(lab.wait(&task).await.unwrap_err().contains("RequestCanceled"));
    assert!(lab.ctl.snapshots("web").await.unwrap().is_empty());
    lab.shutdown().await;
}

#[tokio::test]
async fn destroy_deletes_attached_disks_of_others() {
    let mut lab = Lab::with(|_, inv| inv["vms"][0]["power"] = json!("off")).await;
    lab.snapshot("web").await;
    lab.reconfig("proxy", &add("[ds1] web/web.vmdk", 1000, 3)).await.unwrap();
    let file = lab.ctl.disk_file("web", "0:0").await.unwrap();
    let id = lab.vm("proxy").await;
    lab.task("VirtualMachine", &id, "Destroy_Task", "").await.unwrap();
    assert!(!file.exists());
    lab.shutdown().await;
}

#[tokio::test]
async fn a_removal_beside_a_holder_succeeds_and_leaves_the_delta() {
    let mut lab = Lab::new().await;
    let snap = lab.snapshot("web").await;
    // Another product's proxy, not ours.
    let held = json!({"cmd": "attach_foreign", "vm": "off", "path": "[ds1] web/web.vmdk"});
    let done = lab.ctl.call(held).await.unwrap();
    assert!(done["fault"].is_null() && done["key"] == 2001, "{done}");
    let text = lab.fetch("Datastore", "datastore-101", "vm").await;
    assert!(text.contains(&lab.vm("off").await));
    lab.task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", "<removeChildren>false</removeChildren>")
        .await
        .unwrap();
    let id = lab.vm("web").await;
    assert!(lab.fetch("VirtualMachine", &id, "runtime.consolidationNeeded").await.contains(">true<"));
    assert!(lab.ctl.snapshots("web").await.unwrap().is_empty());
    assert_eq!(lab.ctl.attached("web").await.unwrap()[0].path, "[ds1] web/web-000001.vmdk", "the delta stays");
    let info = lab.task("VirtualMachine", &id, "ConsolidateVMDisks_Task", "").await.unwrap_err();
    assert!(info.contains("FileLocked"), "{info}");
    let done = lab.ctl.call(json!({"cmd": "detach_foreign", "vm": "off", "path": "[ds1] web/web.vmdk"})).await.unwrap();
    assert!(done["fault"].is_null(), "{done}");
    lab.task("VirtualMachine", &id, "ConsolidateVMDisks_Task", "").await.unwrap();
    assert_eq!(lab.ctl.attached("web").await.unwrap()[0].path, "[ds1] web/web.vmdk");
    assert!(lab.fetch("VirtualMachine", &id, "runtime.consolidationNeeded").await.contains(">false<"));
    lab.shutdown().await;
}

#[tokio::test]
async fn a_full_datastore_refuses_snapshots_and_attaches_by_name() {
    let mut lab = Lab::new().await;
    lab.snapshot("old").await;
    let grown = lab.ctl.call(json!({"cmd": "delta_growth", "vm": "old", "bytes": 5_368_709_120u64})).await.unwrap();
    assert_eq!((&grown["path"], &grown["size"]), (&json!("[ds1] old/old-000002.vmdk"), &json!(5_368_709_120u64)));
    assert_eq!(grown["free"], json!((1u64 << 40) - 5_368_709_120));
    let id = lab.vm("old").await;
    let layout = lab.fetch("VirtualMachine", &id, "layoutEx.file").await;
    let delta =
        between(&layout, "<name>[ds1] old/old-000002-delta.vmdk</name>", "</VirtualMachineFileLayoutExFileInfo>");
    assert!(delta.contains("<type>diskExtent</type><size>5368709120</size>"), "{delta}");
    lab.ctl.call(json!({"cmd": "datastore", "name": "ds1", "free": 100_000})).await.unwrap();
    let id = lab.vm("web").await;
    let args = "<name>s</name><memory>false</memory><quiesce>false</quiesce>";
    let info = lab.task("VirtualMachine", &id, "CreateSnapshot_Task", args).await.unwrap_err();
    assert!(info.contains("xsi:type=\"NoDiskSpace\"") && info.contains("<datastore>ds1</datastore>"), "{info}");
    assert!(lab.ctl.attached("web").await.unwrap()[0].path == "[ds1] web/web.vmdk", "nothing was made");
    let info = lab.reconfig("proxy", &add("[ds1] old/old.vmdk", 1000, 3)).await.unwrap_err();
    assert!(info.contains("xsi:type=\"NoDiskSpace\"") && info.contains("<file>[ds1] old/old.vmdk</file>"), "{info}");
    lab.ctl.call(json!({"cmd": "set_space_need", "snapshot": 0, "attach": 0})).await.unwrap();
    lab.task("VirtualMachine", &id, "CreateSnapshot_Task", args).await.unwrap();
    lab.shutdown().await;
}

#[tokio::test]
async fn deltas_go_to_the_working_folder() {
    let mut lab = Lab::with(|_, inv| {
        inv["datastores"][1]["accessible"] = json!(true);
        inv["vms"][1]["working_dir"] = json!("[far] scratch/");
    })
    .await;
    lab.snapshot("web").await;
    assert_eq!(lab.ctl.attached("web").await.unwrap()[0].path, "[far] scratch/web-000001.vmdk");
    let id = lab.vm("web").await;
    let text = lab.fetch("VirtualMachine", &id, "config.files.snapshotDirectory").await;
    assert!(text.contains("[far] scratch/"), "{text}");
    let grown = lab.ctl.call(json!({"cmd": "delta_growth", "vm": "web", "bytes": 1024})).await.unwrap();
    assert_eq!(grown["free"], json!((1u64 << 40) - 1024), "of the delta's datastore");
    lab.shutdown().await;
}
