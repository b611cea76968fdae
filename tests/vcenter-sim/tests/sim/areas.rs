//! Changed block tracking: true maps of what a VM wrote, in pages; when tracking begins; refusals; lies on cue.

use crate::common::{Lab, between};
use serde_json::json;

const BLOCK: u64 = 64 << 10;
const ON: &str = "<changeTrackingEnabled>true</changeTrackingEnabled>";

/// The map's answer for a snapshot of `web`, from `start` on.
async fn ask(lab: &mut Lab, snapshot: &str, start: u64, id: &str) -> (u16, String) {
    let vm = lab.vm("web").await;
    let args = format!(
        "<snapshot type=\"VirtualMachineSnapshot\">{snapshot}</snapshot><deviceKey>2000</deviceKey>\
         <startOffset>{start}</startOffset><changeId>{id}</changeId>"
    );
    lab.call("VirtualMachine", &vm, "QueryChangedDiskAreas", &args).await.unwrap()
}

fn numbers(text: &str, tag: &str) -> Vec<u64> {
    let open = format!("<{tag}>");
    text.split(&open).skip(1).map(|rest| rest[..rest.find('<').unwrap()].parse().unwrap()).collect()
}

/// The whole map in blocks of 64 KiB, and in how many pages it came.
async fn map(lab: &mut Lab, snapshot: &str, id: &str) -> (Vec<u64>, usize) {
    let (mut blocks, mut at, mut pages) = (Vec::new(), 0, 0);
    while at < 4 << 20 {
        let (status, text) = ask(lab, snapshot, at, id).await;
        assert_eq!(status, 200, "{text}");
        let areas = text.split("<changedArea>").skip(1);
        for area in areas {
            let (start, length) = (numbers(area, "start")[0], numbers(area, "length")[0]);
            blocks.extend((start / BLOCK)..((start + length) / BLOCK));
        }
        let head = text.split("<changedArea>").next().unwrap();
        assert_eq!(numbers(head, "startOffset"), [at]);
        at += numbers(head, "length")[0];
        pages += 1;
    }
    assert_eq!(at, 4 << 20);
    (blocks, pages)
}

async fn change_id(lab: &mut Lab, snapshot: &str) -> Option<String> {
    let devices = lab.fetch("VirtualMachineSnapshot", snapshot, "config.hardware.device").await;
    devices.contains("<changeId>").then(|| between(&devices, "<changeId>", "<").to_owned())
}

async fn remove(lab: &mut Lab, snapshot: &str) {
    let args = "<removeChildren>false</removeChildren>";
    lab.task("VirtualMachineSnapshot", snapshot, "RemoveSnapshot_Task", args).await.unwrap();
}

async fn write(lab: &mut Lab, block: u64) {
    lab.ctl.vm_write("web", "0:0", block * BLOCK + 7, 9, 100).await.unwrap();
}

fn refused(answer: &(u16, String), fault: &str) {
    assert_eq!(answer.0, 500, "{}", answer.1);
    assert!(answer.1.contains(&format!("xsi:type=\"{fault}\"")), "{}", answer.1);
}

#[tokio::test]
async fn maps_are_what_was_written_between_two_snapshots() {
    let mut lab = Lab::new().await;
    write(&mut lab, 3).await;
    lab.reconfig("web", ON).await.unwrap();
    let first = lab.snapshot("web").await;
    let base = change_id(&mut lab, &first).await.unwrap();
    assert_eq!(map(&mut lab, &first, "*").await, (vec![3], 1), "in use before tracking began");
    assert_eq!(map(&mut lab, &first, &base).await, (vec![], 1));
    for block in [9, 20, 21, 40] {
        write(&mut lab, block).await;
    }
    remove(&mut lab, &first).await;
    write(&mut lab, 60).await;
    let second = lab.snapshot("web").await;
    write(&mut lab, 1).await;
    let id = change_id(&mut lab, &second).await.unwrap();
    assert!(base.split_once('/').unwrap().0 == id.split_once('/').unwrap().0 && base != id, "{base} {id}");
    assert_eq!(map(&mut lab, &second, &base).await, (vec![9, 20, 21, 40, 60], 1), "not what was written after it");
    lab.ctl.call(json!({"cmd": "areas", "page": 2})).await.unwrap();
    assert_eq!(map(&mut lab, &second, &base).await, (vec![9, 20, 21, 40, 60], 2));
    assert_eq!(map(&mut lab, &second, "*").await, (vec![3, 9, 20, 21, 40, 60], 3));
    lab.shutdown().await;
}

#[tokio::test]
async fn a_revert_brings_the_history_back_and_a_reset_begins_a_new_one() {
    let mut lab = Lab::new().await;
    lab.reconfig("web", ON).await.unwrap();
    let first = lab.snapshot("web").await;
    write(&mut lab, 5).await;
    let second = lab.snapshot("web").await;
    let (base, lost) = (change_id(&mut lab, &first).await.unwrap(), change_id(&mut lab, &second).await.unwrap());
    lab.task("VirtualMachineSnapshot", &first, "RevertToSnapshot_Task", "").await.unwrap();
    write(&mut lab, 6).await;
    let third = lab.snapshot("web").await;
    assert_eq!(change_id(&mut lab, &third).await.unwrap(), lost, "the sequence goes back");
    assert_eq!(map(&mut lab, &third, &base).await.0, [6]);
    lab.ctl.call(json!({"cmd": "reset_tracking", "vm": "web"})).await.unwrap();
    let fourth = lab.snapshot("web").await;
    assert_ne!(change_id(&mut lab, &fourth).await.unwrap().split_once('/').unwrap().0, base.split_once('/').unwrap().0);
    refused(&ask(&mut lab, &fourth, 0, &base).await, "FileFault");
    lab.shutdown().await;
}

#[tokio::test]
async fn what_is_refused() {
    let mut lab = Lab::new().await;
    let untracked = lab.snapshot("web").await;
    assert_eq!(change_id(&mut lab, &untracked).await, None);
    refused(&ask(&mut lab, &untracked, 0, "*").await, "FileFault");
    lab.reconfig("web", ON).await.unwrap();
    refused(&ask(&mut lab, &untracked, 0, "*").await, "FileFault");
    let snapshot = lab.snapshot("web").await;
    let id = change_id(&mut lab, &snapshot).await.unwrap();
    for start in [4 << 20, 5 << 20] {
        refused(&ask(&mut lab, &snapshot, start, &id).await, "InvalidArgument");
    }
    refused(&ask(&mut lab, &snapshot, 0, "nothing").await, "FileFault");
    lab.ctl.call(json!({"cmd": "set_privileges", "privileges": ["System.Read"]})).await.unwrap();
    let denied = ask(&mut lab, &snapshot, 0, &id).await;
    refused(&denied, "NoPermission");
    assert!(denied.1.contains("VirtualMachine.Provisioning.DiskRandomRead"), "{}", denied.1);
    lab.shutdown().await;
}

#[tokio::test]
async fn lies_on_cue() {
    let mut lab = Lab::new().await;
    lab.reconfig("web", ON).await.unwrap();
    for block in [2, 3, 4] {
        write(&mut lab, block).await;
    }
    let snapshot = lab.snapshot("web").await;
    let lies = [
        ("stuck", "<length>0</length>"),
        ("beyond", "<start>1077936128</start>"),
        ("elsewhere", "<startOffset>65536<"),
        ("overlap", "<start>0</start><length>131072</length>"),
        ("negative", "<length>-65536</length>"),
    ];
    for (lie, sign) in lies {
        assert!(!ask(&mut lab, &snapshot, 0, "*").await.1.contains(sign), "{lie} without being told to");
        lab.ctl.call(json!({"cmd": "areas", "lie": lie})).await.unwrap();
        let (status, text) = ask(&mut lab, &snapshot, 0, "*").await;
        assert!(status == 200 && text.contains(sign), "{lie}: {text}");
        lab.ctl.call(json!({"cmd": "areas"})).await.unwrap();
    }
    lab.ctl.call(json!({"cmd": "areas", "lie": "miss", "offset": 3 * BLOCK + 5, "length": 1})).await.unwrap();
    assert_eq!(map(&mut lab, &snapshot, "*").await.0, [2, 4]);
    lab.shutdown().await;
}
