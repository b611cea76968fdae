//! What an operator does to a VM, hosts that leave service, and other programs' disks on the same VMs.

use crate::common::{Lab, add, between};
use serde_json::{Value, json};

/// Runs an operator's call; the fault's type or null.
async fn operator(lab: &mut Lab, call: &str, vm: &str, more: Value) -> Value {
    let mut request = json!({"cmd": "operator", "call": call, "vm": vm});
    for (k, v) in more.as_object().into_iter().flatten() {
        request[k] = v.clone();
    }
    lab.ctl.call(request).await.unwrap()["fault"].clone()
}

async fn two_hosts() -> Lab {
    Lab::with(|_, inv| {
        inv["hosts"] = json!([{"name": "esx1"}, {"name": "esx2"}, {"name": "poor", "datastores": []}]);
        inv["datastores"][1]["accessible"] = json!(true);
    })
    .await
}

#[tokio::test]
async fn destroy_needs_power_off_and_counts_what_was_not_its_own() {
    let mut lab = Lab::new().await;
    let snap = lab.snapshot("web").await;
    lab.reconfig("off", &add("[ds1] web/web.vmdk", 1000, 3)).await.unwrap();
    assert_eq!(operator(&mut lab, "Destroy", "proxy", json!({})).await, "InvalidPowerState");
    assert_eq!(operator(&mut lab, "Destroy", "off", json!({})).await, Value::Null);
    let counters = lab.ctl.counters().await.unwrap();
    assert_eq!(counters["foreign_destroyed"], json!(["[ds1] web/web.vmdk"]));
    assert_eq!(counters["file_operation_count"], 0);
    let config = lab.fetch("VirtualMachineSnapshot", &snap, "config.hardware.device").await;
    assert!(
        config.contains("[ds1] web/web.vmdk") && !config.contains("<uuid>"),
        "the configuration names what is gone: {config}"
    );
    // A VM with a disk that has vanished does not start.
    assert_eq!(operator(&mut lab, "PowerOff", "web", json!({})).await, Value::Null);
    lab.ctl.call(json!({"cmd": "delete_file", "path": "[ds1] web/web-000001.vmdk"})).await.unwrap();
    assert_eq!(operator(&mut lab, "PowerOn", "web", json!({})).await, "FileNotFound");
    lab.shutdown().await;
}

#[tokio::test]
async fn a_guarded_vm_refuses_the_operator() {
    let mut lab = Lab::new().await;
    let snap = lab.snapshot("off").await;
    for (call, method, more) in [
        ("Destroy", "Destroy_Task", json!({})),
        ("Unregister", "UnregisterVM", json!({})),
        ("Relocate", "RelocateVM_Task", json!({"datastore": "far"})),
        ("Migrate", "MigrateVM_Task", json!({})),
        ("Clone", "CloneVM_Task", json!({"name": "twin"})),
        ("CreateSnapshot", "CreateSnapshot_Task", json!({})),
        ("RevertToSnapshot", "RevertToSnapshot_Task", json!({"snapshot": snap})),
        ("RevertToCurrentSnapshot", "RevertToCurrentSnapshot_Task", json!({})),
        ("RemoveSnapshot", "RemoveSnapshot_Task", json!({"snapshot": snap})),
        ("RemoveAllSnapshots", "RemoveAllSnapshots_Task", json!({})),
        ("Consolidate", "ConsolidateVMDisks_Task", json!({})),
        ("MarkAsTemplate", "MarkAsTemplate", json!({})),
    ] {
        let switch =
            |on: bool| json!({"cmd": "disable_method", "vm": "off", "method": method, "source": "x", "on": on});
        lab.ctl.call(switch(true)).await.unwrap();
        assert_eq!(operator(&mut lab, call, "off", more).await, "MethodDisabled", "{call}");
        lab.ctl.call(switch(false)).await.unwrap();
    }
    assert_eq!(operator(&mut lab, "MarkAsTemplate", "off", json!({})).await, Value::Null);
    assert_eq!(operator(&mut lab, "PowerOn", "off", json!({})).await, "NotSupported", "a template does not run");
    assert_eq!(operator(&mut lab, "Unregister", "off", json!({})).await, Value::Null);
    assert!(lab.ctl.attached("off").await.is_err());
    assert_eq!(operator(&mut lab, "Unregister", "web", json!({})).await, "InvalidPowerState");
    assert!(lab.ctl.call(json!({"cmd": "operator", "call": "Dance", "vm": "web"})).await.is_err());
    lab.shutdown().await;
}

#[tokio::test]
async fn relocation_moves_paths_and_leaves_what_others_hold() {
    let mut lab = two_hosts().await;
    lab.snapshot("web").await;
    lab.reconfig("proxy", &add("[ds1] web/web.vmdk", 1000, 3)).await.unwrap();
    lab.ctl.vm_write("web", "0:0", 0, 7, 512).await.unwrap();
    assert_eq!(operator(&mut lab, "Relocate", "web", json!({"datastore": "far", "host": "esx2"})).await, Value::Null);
    let web = &lab.ctl.attached("web").await.unwrap()[0];
    assert_eq!(web.chain, ["[far] web/web-000001.vmdk", "[far] web/web.vmdk"]);
    let held = lab.ctl.attached("proxy").await.unwrap();
    assert_eq!(held.iter().filter(|d| d.path == "[ds1] web/web.vmdk" && d.origin == "attached").count(), 1);
    let id = lab.vm("web").await;
    let host = lab.fetch("VirtualMachine", &id, "runtime.host").await;
    assert!(host.contains("host-104"), "{host}");
    // Merging into the copy does not touch what the proxy reads.
    let old = lab.ctl.disk_file("proxy", "[ds1] web/web.vmdk").await.unwrap();
    assert_eq!(operator(&mut lab, "RemoveAllSnapshots", "web", json!({})).await, Value::Null);
    let new = lab.ctl.disk_file("web", "0:0").await.unwrap();
    assert_eq!((std::fs::read(&old).unwrap()[0], std::fs::read(&new).unwrap()[0]), (0, 7));
    lab.shutdown().await;
}

#[tokio::test]
async fn migration_is_a_task_of_the_vm_and_needs_a_host_that_can() {
    let mut lab = two_hosts().await;
    assert_eq!(operator(&mut lab, "Migrate", "web", json!({"host": "poor"})).await, "InaccessibleDatastore");
    lab.ctl.call(json!({"cmd": "host", "name": "esx2", "entering": true})).await.unwrap();
    assert_eq!(operator(&mut lab, "Migrate", "web", json!({"host": "esx2"})).await, "InvalidState");
    lab.ctl.call(json!({"cmd": "host", "name": "esx2", "entering": false})).await.unwrap();
    let request =
        json!({"cmd": "operator", "call": "Migrate", "vm": "web", "host": "esx2", "ms": 60_000, "wait": false});
    let task = lab.ctl.call(request).await.unwrap()["task"].as_str().unwrap().to_owned();
    let info = loop {
        let info = lab.fetch("Task", &task, "info").await;
        if !info.contains("<state>queued<") {
            break info;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert!(info.contains("<descriptionId>VirtualMachine.migrate<") && info.contains("<state>running<"), "{info}");
    let id = lab.vm("web").await;
    assert!(lab.fetch("VirtualMachine", &id, "recentTask").await.contains(&task));
    assert_eq!(operator(&mut lab, "Destroy", "web", json!({})).await, "TaskInProgress");
    assert_eq!(operator(&mut lab, "Migrate", "old", json!({})).await, Value::Null, "any other host");
    let id = lab.vm("old").await;
    assert!(lab.fetch("VirtualMachine", &id, "runtime.host").await.contains("host-104"));
    lab.shutdown().await;
}

#[tokio::test]
async fn revert_replaces_the_current_delta_and_keeps_later_snapshots() {
    let mut lab = Lab::new().await;
    let first = lab.snapshot("web").await;
    lab.ctl.vm_write("web", "0:0", 0, 1, 512).await.unwrap();
    let second = lab.snapshot("web").await;
    lab.ctl.vm_write("web", "0:0", 0, 2, 512).await.unwrap();
    assert_eq!(operator(&mut lab, "RevertToSnapshot", "web", json!({"snapshot": first})).await, Value::Null);
    assert_eq!(lab.ctl.snapshots("web").await.unwrap(), [first.clone(), second.clone()]);
    let chain = lab.ctl.attached("web").await.unwrap()[0].chain.clone();
    assert_eq!(chain[1..], ["[ds1] web/web.vmdk"], "a new delta on the base");
    assert!(!lab.dir.path().join("ds1/web/web-000002-delta.vmdk").exists() || chain[0].contains("000002"));
    let id = lab.vm("web").await;
    let tree = lab.fetch("VirtualMachine", &id, "snapshot").await;
    assert!(tree.contains(&format!("<currentSnapshot type=\"VirtualMachineSnapshot\">{first}<")), "{tree}");
    // Over SOAP, to the one that is current; and the later one is still good.
    lab.task("VirtualMachineSnapshot", &second, "RevertToSnapshot_Task", "").await.unwrap();
    let chain = lab.ctl.attached("web").await.unwrap()[0].chain.clone();
    assert_eq!((chain.len(), chain[1].as_str()), (3, "[ds1] web/web-000001.vmdk"));
    assert_eq!(operator(&mut lab, "RemoveSnapshot", "web", json!({"snapshot": first})).await, Value::Null);
    assert_eq!(operator(&mut lab, "RevertToCurrentSnapshot", "proxy", json!({})).await, "NotFound");
    lab.shutdown().await;
}

#[tokio::test]
async fn reverting_a_proxy_takes_its_attached_disks_away() {
    let mut lab = Lab::new().await;
    let snap = lab.snapshot("proxy").await;
    lab.reconfig("proxy", &add("[ds1] old/old.vmdk", 1000, 3)).await.unwrap();
    assert_eq!(operator(&mut lab, "RevertToSnapshot", "proxy", json!({"snapshot": snap})).await, Value::Null);
    assert_eq!(lab.ctl.attached("proxy").await.unwrap().len(), 2);
    lab.shutdown().await;
}

#[tokio::test]
async fn a_clone_has_disks_of_its_own() {
    let mut lab = Lab::new().await;
    lab.ctl.vm_write("web", "0:0", 4096, 3, 512).await.unwrap();
    let id = lab.vm("web").await;
    let args = "<folder type=\"Folder\">group-v3</folder><name>twin</name><spec><location/><template>false</template>\
                <powerOn>false</powerOn></spec>";
    let info = lab.task("VirtualMachine", &id, "CloneVM_Task", args).await.unwrap();
    assert!(info.contains("<result type=\"VirtualMachine\""), "{info}");
    let (web, twin) = (lab.ctl.attached("web").await.unwrap(), lab.ctl.attached("twin").await.unwrap());
    assert_eq!((twin[0].path.as_str(), &twin[0].uuid), ("[ds1] twin/web.vmdk", &web[0].uuid), "the disk's UUID stays");
    assert_eq!(std::fs::read(lab.ctl.disk_file("twin", "0:0").await.unwrap()).unwrap()[4096], 3);
    assert_eq!(operator(&mut lab, "Clone", "web", json!({"name": "twin"})).await, "DuplicateName");
    assert_eq!(operator(&mut lab, "Clone", "proxy", json!({"name": "proxy2", "same_uuid": true})).await, Value::Null);
    let state = lab.ctl.call(json!({"cmd": "state"})).await.unwrap();
    let of = |name: &str| state["vms"].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap().clone();
    assert_eq!(of("proxy")["uuid"], of("proxy2")["uuid"]);
    assert_ne!(of("proxy")["instance_uuid"], of("proxy2")["instance_uuid"]);
    assert_ne!(of("web")["uuid"], of("twin")["uuid"]);
    lab.shutdown().await;
}

#[tokio::test]
async fn a_host_enters_maintenance_mode_in_two_steps() {
    let mut lab = Lab::new().await;
    let set = |lab: &mut Lab, mut v: Value| {
        v["cmd"] = json!("host");
        v["name"] = json!("esx1");
        let control = lab.running.as_ref().unwrap().control.clone();
        async move { vcenter_sim::control::Control::connect(control).await.unwrap().call(v).await.unwrap() }
    };
    let told = set(&mut lab, json!({"entering": true})).await;
    let (host, task) = (told["id"].as_str().unwrap().to_owned(), told["task"].as_str().unwrap().to_owned());
    let info = lab.fetch("Task", &task, "info").await;
    assert!(
        info.contains("<descriptionId>HostSystem.enterMaintenanceMode<") && info.contains("<state>running<"),
        "{info}"
    );
    assert!(lab.fetch("HostSystem", &host, "recentTask").await.contains(&task));
    assert!(
        lab.fetch("HostSystem", &host, "runtime.inMaintenanceMode").await.contains(">false<"),
        "not while entering"
    );
    let vm = lab.vm("proxy").await;
    let spec = format!("<spec>{}</spec>", add("[ds1] old/old.vmdk", 1000, 3));
    lab.task("VirtualMachine", &vm, "ReconfigVM_Task", &spec).await.expect("nothing is blocked unless told");
    for fault in ["InvalidState", "TaskInProgress", "MethodDisabled"] {
        set(&mut lab, json!({"block": fault})).await;
        assert_eq!(lab.fault("VirtualMachine", &vm, "ReconfigVM_Task", &spec).await.0, fault);
    }
    lab.snapshot("web").await;
    set(&mut lab, json!({"block_methods": ["*"]})).await;
    assert_eq!(operator(&mut lab, "CreateSnapshot", "web", json!({})).await, "MethodDisabled");
    set(&mut lab, json!({"entering": false})).await;
    assert!(lab.fetch("Task", &task, "info").await.contains("RequestCanceled"));
    lab.reconfig("proxy", &crate::common::remove(2002)).await.unwrap();
    let told = set(&mut lab, json!({"entering": true, "block": null, "description": "Drm.EnterStandbyLRO"})).await;
    let task = told["task"].as_str().unwrap().to_owned();
    set(&mut lab, json!({"in_maintenance": true, "quarantine": true, "standby": "in"})).await;
    let info = lab.fetch("Task", &task, "info").await;
    assert!(info.contains("<state>success<") && info.contains("<descriptionId>Drm.EnterStandbyLRO<"), "{info}");
    let runtime = lab.fetch("HostSystem", &host, "runtime").await;
    for part in ["<inMaintenanceMode>true<", "<inQuarantineMode>true<", "<standbyMode>in<", "<powerState>standBy<"] {
        assert!(runtime.contains(part), "{part} in {runtime}");
    }
    set(&mut lab, json!({"in_maintenance": false, "connection": "disconnected"})).await;
    assert!(lab.fetch("VirtualMachine", &vm, "runtime.connectionState").await.contains(">disconnected<"));
    assert_eq!(lab.fault("VirtualMachine", &vm, "ReconfigVM_Task", &spec).await.0, "HostNotConnected");
    lab.shutdown().await;
}

#[tokio::test]
async fn a_removal_beside_an_entering_host_may_conflict() {
    let mut lab = Lab::new().await;
    lab.snapshot("web").await;
    let snap = lab.ctl.snapshots("web").await.unwrap().remove(0);
    lab.ctl.call(json!({"cmd": "host", "name": "esx1", "entering": true, "conflict": true})).await.unwrap();
    assert_eq!(operator(&mut lab, "RemoveSnapshot", "web", json!({"snapshot": snap})).await, Value::Null);
    let id = lab.vm("web").await;
    assert!(lab.fetch("VirtualMachine", &id, "runtime.consolidationNeeded").await.contains(">true<"));
    assert_eq!(lab.ctl.attached("web").await.unwrap()[0].path, "[ds1] web/web-000001.vmdk");
    lab.ctl.call(json!({"cmd": "host", "name": "esx1", "entering": false})).await.unwrap();
    assert_eq!(operator(&mut lab, "Consolidate", "web", json!({})).await, Value::Null);
    assert_eq!(lab.ctl.attached("web").await.unwrap()[0].path, "[ds1] web/web.vmdk");
    lab.shutdown().await;
}

#[tokio::test]
async fn another_program_uses_the_proxy_too() {
    let mut lab = Lab::new().await;
    let own = json!({"cmd": "attach_foreign", "vm": "proxy", "path": "[ds1] other/o.vmdk", "size": 1_048_576, "mode": "persistent"});
    let done = lab.ctl.call(own).await.unwrap();
    assert_eq!((&done["fault"], &done["bus"], &done["unit"]), (&Value::Null, &json!(0), &json!(1)), "{done}");
    lab.reconfig("proxy", &add("[ds1] old/old.vmdk", 1000, 3)).await.unwrap();
    let list = lab.ctl.attached("proxy").await.unwrap();
    let of = |path: &str| list.iter().find(|d| d.path == path).map(|d| (d.origin.clone(), d.mode.clone())).unwrap();
    assert_eq!(of("[ds1] other/o.vmdk"), ("actor".into(), "persistent".into()));
    assert_eq!(of("[ds1] old/old.vmdk"), ("attached".into(), "independent_nonpersistent".into()));
    // The client's disk is not the other program's to detach, and a second reader needs no leave.
    assert!(lab.ctl.call(json!({"cmd": "detach_foreign", "vm": "proxy", "path": "[ds1] old/old.vmdk"})).await.is_err());
    let second = json!({"cmd": "attach_foreign", "vm": "off", "path": "[ds1] old/old.vmdk"});
    assert_eq!(lab.ctl.call(second).await.unwrap()["fault"], Value::Null);
    let running = json!({"cmd": "attach_foreign", "vm": "off", "path": "[ds1] web/web.vmdk"});
    assert_eq!(lab.ctl.call(running.clone()).await.unwrap()["fault"], "FileLocked");
    let mut forced = running;
    forced["force"] = json!(true);
    assert_eq!(lab.ctl.call(forced).await.unwrap()["fault"], Value::Null);
    let done =
        lab.ctl.call(json!({"cmd": "detach_foreign", "vm": "proxy", "path": "[ds1] other/o.vmdk"})).await.unwrap();
    assert_eq!(done["fault"], Value::Null);
    assert_eq!(lab.ctl.attached("proxy").await.unwrap().len(), 3);
    assert!(between(&format!("{:?}", lab.ctl.attached("off").await.unwrap()), "web/web", "\"").starts_with(".vmdk"));
    lab.shutdown().await;
}
