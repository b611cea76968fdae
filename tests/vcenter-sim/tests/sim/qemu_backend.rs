//! The QMP backend against a real QEMU without a guest. Needs qemu-system-x86_64 ($QEMU or PATH) and qemu-img, else it says so.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Lab, add, remove};
use serde_json::json;
use vcenter_sim::Backend;

struct Qemu {
    child: Child,
    socket: PathBuf,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn program() -> Option<String> {
    let name = std::env::var("QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let runs = |p: &str| {
        Command::new(p).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if runs(&name) && runs("qemu-img") {
        return Some(name);
    }
    eprintln!("skipped: needs {name} and qemu-img");
    None
}

/// Two pvscsi controllers, CPUs stopped: enough for attach, detach and statistics.
fn qemu(program: &str, dir: &Path) -> Qemu {
    let socket = dir.join("qmp.sock");
    let child = Command::new(program)
        .args(["-machine", "q35", "-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-m", "64"])
        .args(["-device", "pvscsi,id=pvscsi0", "-device", "pvscsi,id=pvscsi1", "-qmp"])
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < until, "QEMU's monitor did not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    Qemu { child, socket }
}

#[tokio::test]
async fn disks_come_and_go_by_qmp() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().unwrap();
    let machine = qemu(&program, dir.path());
    let qmp = machine.socket.clone();
    let mut lab = Lab::with(|o, _| o.backend = Backend::Qemu { proxy: "proxy".into(), qmp }).await;
    assert_eq!(lab.ctl.devices().await.unwrap().len(), 2, "anchors");
    lab.reconfig("proxy", &add("[ds1] old/old.vmdk", 1001, 3)).await.unwrap();
    let devices = lab.ctl.devices().await.unwrap();
    let disk = devices.iter().find(|d| d["target"] == 3).unwrap();
    assert_eq!((&disk["bus"], disk["serial"].as_str().unwrap().len()), (&json!(1), 32));
    assert_eq!(lab.ctl.guest_writes().await.unwrap(), 0);

    // Something else sits in the slot: QEMU refuses, vCenter's list is as before.
    lab.ctl.call(json!({"cmd": "attach_raw", "bus": 1, "unit": 5, "size": 1_048_576, "id": "decoy"})).await.unwrap();
    let info = lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1001, 5)).await.unwrap_err();
    assert!(info.contains("GenericVmConfigFault"), "{info}");
    assert_eq!(lab.ctl.attached("proxy").await.unwrap().len(), 3);
    lab.ctl.call(json!({"cmd": "detach_raw", "id": "decoy"})).await.unwrap();

    lab.ctl
        .call(json!({"cmd": "disk_fault", "path": "[ds1] off/off.vmdk", "eio_sector": 100, "bps": 1_000_000}))
        .await
        .unwrap();
    lab.reconfig("proxy", &add("[ds1] off/off.vmdk", 1001, 5)).await.unwrap();
    // Surprise removal: the guest loses it, vCenter does not know, detaching still works.
    let id = disk["id"].clone();
    lab.ctl.call(json!({"cmd": "device_remove", "id": id})).await.unwrap();
    assert_eq!(lab.ctl.attached("proxy").await.unwrap().len(), 4);
    lab.reconfig("proxy", &format!("{}{}", remove(2002), remove(2003))).await.unwrap();
    assert_eq!(lab.ctl.devices().await.unwrap().len(), 2);
    // A power cut of the proxy: the new machine gets what vCenter has on it.
    lab.reconfig("proxy", &add("[ds1] old/old.vmdk", 1001, 3)).await.unwrap();
    drop(machine);
    let second = tempfile::tempdir().unwrap();
    let machine = qemu(&program, second.path());
    let again = lab.ctl.call(json!({"cmd": "backend_reconnect", "qmp": machine.socket})).await.unwrap();
    assert_eq!(again["attached"], 3);
    lab.reconfig("proxy", &remove(2002)).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(lab.dir.path().join("work"))
        .unwrap()
        .filter_map(Result::ok)
        .filter(|e| e.path().extension().is_some_and(|x| x == "qcow2"))
        .collect();
    assert!(left.is_empty(), "redo logs left: {left:?}");
    lab.shutdown().await;
}
