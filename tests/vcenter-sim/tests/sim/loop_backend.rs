//! Attached disks as loop devices. Needs root and /dev/loop-control, else it says so and ends.

use std::os::unix::fs::FileExt;

use crate::common::{Lab, add, remove};
use serde_json::{Value, json};
use vcenter_sim::Backend;
use vcenter_sim::control::Control;

fn able() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let ok = root && std::path::Path::new("/dev/loop-control").exists();
    if !ok {
        eprintln!("skipped: needs root and /dev/loop-control");
    }
    ok
}

async fn lab() -> Lab {
    Lab::with(|o, _| o.backend = Backend::Loop { proxy: "proxy".into(), direct: false }).await
}

fn first_byte(node: &str, at: u64) -> u8 {
    let mut b = [0u8; 1];
    std::fs::File::open(node).unwrap().read_exact_at(&mut b, at).unwrap();
    b[0]
}

#[tokio::test]
async fn a_disk_appears_where_its_controller_is_and_goes() {
    if !able() {
        return;
    }
    let mut lab = lab().await;
    let mut watch = Control::connect(&lab.running.as_ref().unwrap().control).await.unwrap();
    watch.call(json!({"cmd": "watch_devices"})).await.unwrap();
    let reply = lab.ctl.call(json!({"cmd": "devices"})).await.unwrap();
    assert_eq!(reply["devices"].as_array().unwrap().len(), 2, "the anchors are there from the start");
    assert_eq!(reply["slots"][1], json!({"slot": 192, "pci_address": "0000:0b:00"}));
    assert!(reply["dmi"]["product_serial"].as_str().unwrap().starts_with("VMware-42 "));

    lab.ctl.vm_write("old", "0:0", 512, 7, 512).await.unwrap();
    lab.snapshot("old").await;
    lab.ctl.vm_write("old", "0:0", 512, 8, 512).await.unwrap();
    // The disk as of the second snapshot: a delta over its base, flattened.
    lab.reconfig("proxy", &add("[ds1] old/old-000001.vmdk", 1001, 3)).await.unwrap();
    let event = watch.next_line().await.unwrap();
    let device = &event["device"];
    assert_eq!(
        (&event["event"], &device["pci_address"], &device["target"]),
        (&json!("add"), &json!("0000:0b:00.0"), &json!(3))
    );
    let disks = lab.ctl.attached("proxy").await.unwrap();
    let uuid = disks.iter().find(|d| d.unit == Some(3)).unwrap().uuid.clone().unwrap();
    assert_eq!(device["serial"], json!(uuid.replace('-', "").to_lowercase()));
    assert_eq!(device["size_bytes"], 4194304);
    let node = device["node"].as_str().unwrap().to_owned();
    assert_eq!(first_byte(&node, 512), 7, "the snapshot's content, not the running VM's");

    // The guest deletes it, then vCenter detaches it: one remove event.
    lab.ctl.call(json!({"cmd": "device_delete", "id": device["id"]})).await.unwrap();
    assert_eq!(watch.next_line().await.unwrap()["event"], "remove");
    assert_eq!(lab.ctl.devices().await.unwrap().len(), 2);
    lab.reconfig("proxy", &remove(2002)).await.unwrap();
    let backing = std::fs::read_to_string(format!("/sys/block/{}/loop/backing_file", node.trim_start_matches("/dev/")));
    assert!(backing.is_err() || !backing.unwrap().contains(lab.dir.path().to_str().unwrap()), "loop device left");
    lab.shutdown().await;
}

#[tokio::test]
async fn suppressed_events_come_by_rescan_and_decoys_disagree() {
    if !able() {
        return;
    }
    let mut lab = lab().await;
    let mut watch = Control::connect(&lab.running.as_ref().unwrap().control).await.unwrap();
    watch.call(json!({"cmd": "watch_devices"})).await.unwrap();
    lab.ctl.call(json!({"cmd": "suppress_events", "on": true})).await.unwrap();
    lab.ctl
        .call(json!({"cmd": "attach_as", "path": "[ds1] off/off.vmdk", "uuid": null, "size": 524288}))
        .await
        .unwrap();
    lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1000, 4)).await.unwrap();
    let found = lab.ctl.call(json!({"cmd": "device_rescan", "pci_address": "0000:03:00"})).await.unwrap();
    assert_eq!(found["found"], 1);
    let event = watch.next_line().await.unwrap();
    assert_eq!((&event["device"]["serial"], &event["device"]["size_bytes"]), (&Value::Null, &json!(524288)));
    let raw = json!({"cmd": "attach_raw", "bus": 1, "unit": 9, "size": 65536, "uuid": "6000C29a-0000-0000-0000-000000000000"});
    lab.ctl.call(json!({"cmd": "suppress_events", "on": false})).await.unwrap();
    lab.ctl.call(raw).await.unwrap();
    assert_eq!(watch.next_line().await.unwrap()["device"]["target"], 9);
    lab.shutdown().await;
}

/// Files below `dir` that loop devices of this machine have open.
fn loops_below(dir: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let files = names.filter_map(|path| std::fs::read_to_string(path.join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(dir.to_str().unwrap())).collect()
}

#[tokio::test]
async fn a_killed_simulator_leaves_no_loop_device() {
    if !able() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let inventory = file("inventory.json", &crate::common::inventory(dir.path()).to_string());
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_vcenter-sim"))
        .arg("--inventory")
        .arg(inventory)
        .arg("--password-file")
        .arg(file("password", "secret"))
        .arg("--control")
        .arg(dir.path().join("control.sock"))
        .arg("--work")
        .arg(dir.path().join("work"))
        .args(["--backend", "loop:proxy"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut ready = tokio::io::BufReader::new(child.stdout.take().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut ready, &mut String::new()).await.unwrap();
    assert_eq!(loops_below(dir.path()).len(), 2, "the anchors");
    child.kill().await.unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !loops_below(dir.path()).is_empty() {
        assert!(std::time::Instant::now() < end, "left: {:?}", loops_below(dir.path()));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
