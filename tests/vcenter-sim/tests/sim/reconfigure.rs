//! ReconfigVM: slots, locks, atomicity, keys, files.

use crate::common::{Lab, add, add_mode, between, remove};
use serde_json::json;

const OLD: &str = "[ds1] old/old.vmdk";

fn fault_of(info: &str) -> &str {
    between(info, "<fault xsi:type=\"", "\"")
}

#[tokio::test]
async fn slot_rules_are_vmwares() {
    let mut lab = Lab::new().await;
    for (spec, fault) in [
        (add(OLD, 1000, 7), "InvalidDeviceSpec"),
        (add(OLD, 1000, 0), "InvalidDeviceSpec"),
        (add(OLD, 1000, 64), "TooManyDevices"),
        (add(OLD, 4711, 3), "InvalidController"),
        (add("[ds1] no/no.vmdk", 1000, 3), "FileNotFound"),
        (add("[nods] no/no.vmdk", 1000, 3), "InvalidDatastore"),
        (add("no brackets", 1000, 3), "InvalidDatastorePath"),
        (add("[far] gone/gone.vmdk", 1000, 3), "InaccessibleDatastore"),
        (add("[ds1] web/web.vmdk", 1000, 3), "FileLocked"),
        (add_mode(OLD, 1000, 3, "persistent"), "FileLocked"),
        (add_mode(OLD, 1000, 3, "rubbish"), "InvalidDeviceBacking"),
        (remove(9999), "DeviceNotFound"),
    ] {
        let info = lab.reconfig("proxy", &spec).await.unwrap_err();
        assert_eq!(fault_of(&info), fault, "{spec}");
    }
    assert_eq!(lab.ctl.attached("proxy").await.unwrap().len(), 2);
    lab.shutdown().await;
}

#[tokio::test]
async fn old_hardware_has_sixteen_units_and_new_has_sixty_four() {
    let mut lab = Lab::with(|_, inv| inv["vms"][0]["hardware_version"] = json!(13)).await;
    assert_eq!(fault_of(&lab.reconfig("proxy", &add(OLD, 1000, 16)).await.unwrap_err()), "TooManyDevices");
    lab.reconfig("proxy", &add(OLD, 1000, 15)).await.unwrap();
    lab.shutdown().await;
    let mut lab = Lab::new().await;
    lab.reconfig("proxy", &add(OLD, 1000, 63)).await.unwrap();
    lab.shutdown().await;
}

#[tokio::test]
async fn one_bad_disk_fails_the_batch_and_is_named() {
    let mut lab = Lab::new().await;
    let spec = format!("{}{}", add(OLD, 1001, -1), add("[ds1] off/off.vmdk", 1001, 7));
    let info = lab.reconfig("proxy", &spec).await.unwrap_err();
    assert_eq!(between(&info, "<deviceIndex>", "<"), "1");
    assert_eq!(lab.ctl.attached("proxy").await.unwrap().len(), 2);
    lab.shutdown().await;
}

#[tokio::test]
async fn a_missing_unit_is_assigned_and_keys_are_used_again() {
    let mut lab = Lab::new().await;
    lab.reconfig("proxy", &add(OLD, 1001, -1)).await.unwrap();
    let disks = lab.ctl.attached("proxy").await.unwrap();
    let disk = disks.iter().find(|d| d.path == OLD).unwrap();
    assert_eq!(
        (disk.key, disk.bus, disk.unit, disk.mode.as_str()),
        (2002, Some(1), Some(1), "independent_nonpersistent")
    );
    lab.reconfig("proxy", &remove(2002)).await.unwrap();
    lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1001, 5)).await.unwrap();
    assert!(lab.ctl.attached("proxy").await.unwrap().iter().any(|d| d.key == 2002 && d.path == "[ds1] off/off.vmdk"));
    lab.shutdown().await;
}

#[tokio::test]
async fn controller_and_its_disk_in_one_spec() {
    let mut lab = Lab::new().await;
    let ctl = "<deviceChange><operation>add</operation><device xsi:type=\"ParaVirtualSCSIController\"><key>-9</key>\
               <controllerKey>100</controllerKey><busNumber>2</busNumber><sharedBus>noSharing</sharedBus></device></deviceChange>";
    lab.reconfig("proxy", &format!("{ctl}{}", add(OLD, -9, 3))).await.unwrap();
    let disks = lab.ctl.attached("proxy").await.unwrap();
    assert!(disks.iter().any(|d| d.path == OLD && d.bus == Some(2) && d.unit == Some(3)));
    lab.shutdown().await;
}

#[tokio::test]
async fn same_disk_twice_and_a_second_vm_are_refused() {
    let mut lab = Lab::with(|_, inv| {
        let proxy = json!({"name": "proxy2", "disks": []});
        inv["vms"].as_array_mut().unwrap().push(proxy);
    })
    .await;
    lab.reconfig("proxy", &add(OLD, 1000, 3)).await.unwrap();
    assert_eq!(fault_of(&lab.reconfig("proxy", &add(OLD, 1000, 4)).await.unwrap_err()), "InvalidDeviceSpec");
    assert_eq!(fault_of(&lab.reconfig("proxy2", &add(OLD, 1000, 3)).await.unwrap_err()), "FileLocked");
    lab.ctl.call(json!({"cmd": "set_wrap_locked", "on": true})).await.unwrap();
    let info = lab.reconfig("proxy2", &add(OLD, 1000, 3)).await.unwrap_err();
    assert_eq!(fault_of(&info), "GenericVmConfigFault");
    assert!(info.contains("Failed to lock the file"));
    lab.shutdown().await;
}

#[tokio::test]
async fn file_operations_are_honoured_and_counted() {
    let mut lab = Lab::new().await;
    let file = lab.ctl.disk_file("old", "0:0").await.unwrap();
    assert!(file.exists());
    lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1000, 3)).await.unwrap();
    let gone = lab.ctl.disk_file("off", "0:0").await.unwrap();
    let destroy = remove(2002).replace("</operation>", "</operation><fileOperation>destroy</fileOperation>");
    lab.reconfig("proxy", &destroy).await.unwrap();
    assert!(!gone.exists(), "destroy deletes the customer's disk, as VMware's does");
    assert_eq!(lab.ctl.counters().await.unwrap()["file_operation_count"], 1);
    lab.shutdown().await;
}

#[tokio::test]
async fn change_version_is_compared() {
    let mut lab = Lab::new().await;
    let id = lab.vm("proxy").await;
    let text = lab.fetch("VirtualMachine", &id, "config.changeVersion").await;
    let version = between(&text, "xsi:type=\"xsd:string\">", "<").to_owned();
    let spec = format!("<changeVersion>{version}</changeVersion>{}", add(OLD, 1000, 3));
    lab.reconfig("proxy", &spec).await.unwrap();
    assert_eq!(fault_of(&lab.reconfig("proxy", &spec).await.unwrap_err()), "ConcurrentAccess");
    assert_eq!(
        fault_of(&lab.reconfig("proxy", "<changeVersion></changeVersion>").await.unwrap_err()),
        "ConcurrentAccess"
    );
    lab.shutdown().await;
}

#[tokio::test]
async fn a_second_task_is_refused_while_one_runs() {
    let mut lab = Lab::new().await;
    lab.ctl.fault("ReconfigVM_Task", json!({"kind": "delay_ms", "ms": 60_000})).await.unwrap();
    let id = lab.vm("proxy").await;
    let args = format!("<spec>{}</spec>", add(OLD, 1000, 3));
    let text = lab.ok("VirtualMachine", &id, "ReconfigVM_Task", &args).await;
    let first = between(&text, "<returnval type=\"Task\">", "<").to_owned();
    let (ty, text) = lab.fault("VirtualMachine", &id, "ReconfigVM_Task", &args).await;
    assert_eq!(ty, "TaskInProgress");
    assert_eq!(between(&text, "<task type=\"Task\">", "<"), first);
    assert!(lab.fetch("Task", &first, "info.state").await.contains("queued"));
    assert_eq!(lab.fault("Task", &first, "CancelTask", "").await.0, "NotSupported");
    lab.shutdown().await;
}

#[tokio::test]
async fn maintenance_of_the_host_blocks_reconfigure() {
    let mut lab = Lab::new().await;
    lab.ctl.call(json!({"cmd": "host", "name": "esx1", "in_maintenance": true})).await.unwrap();
    assert_eq!(fault_of(&lab.reconfig("proxy", &add(OLD, 1000, 3)).await.unwrap_err()), "InvalidState");
    lab.shutdown().await;
}
