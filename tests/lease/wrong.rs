//! What goes wrong: refused leases, broken and damaged streams, leases that end while they are read.

use std::time::Duration;

use hotadd_vsphere::{ErrorKind, FaultKind};
use serde_json::json;

use super::lab::{LONG, Lab};

#[tokio::test]
async fn a_broken_or_damaged_stream_is_never_a_disk() {
    let mut lab = Lab::new().await;
    for (cue, kind) in [
        (json!({"disconnect_after": 1_000_000}), "Unreachable"),
        (json!({"corrupt_grain": 7}), "grain"),
        (json!({"lose_grain": 7}), "tables"),
    ] {
        let mut command = cue.clone();
        command["cmd"] = json!("export");
        lab.control(command).await;
        let lease = lab.hold().await.unwrap();
        assert_eq!(lab.read_first(&lease).await.unwrap_err(), kind, "{cue}");
        lease.abort().await.unwrap();
    }
    lab.end().await;
}

#[tokio::test]
async fn a_host_that_sends_nothing_is_given_up() {
    let mut lab = Lab::new().await;
    lab.control(json!({"cmd": "export", "bps": 1})).await;
    let lease = lab.hold().await.unwrap();
    let file = lease.info().files.iter().find(|f| f.disk == Some(true)).unwrap();
    let error = match lease.download(file, Duration::from_millis(300)).await {
        Ok(mut stream) => stream.chunk().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(*error.kind(), ErrorKind::Deadline, "{error}");
    lease.abort().await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn a_lease_that_ends_ends_its_reader() {
    let mut lab = Lab::new().await;
    for by_host in [false, true] {
        lab.control(json!({"cmd": "export", "bps": 200_000, "timeout_s": 1})).await;
        let lease = lab.hold().await.unwrap();
        let file = lease.info().files.iter().find(|f| f.key.ends_with("Controller1:0")).unwrap();
        let mut stream = lease.download(file, LONG).await.unwrap();
        stream.chunk().await.unwrap().expect("the first bytes");
        if by_host {
            lab.control(json!({"cmd": "host", "name": "esx1", "entering": true})).await;
        } else {
            let live = lab.lease_until(|l| l["state"] == "ready").await;
            lab.control(json!({"cmd": "end_lease", "lease": live["lease"]})).await;
        }
        let error = loop {
            match stream.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a clean end"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::LeaseGone), "{error}");
        let until = std::time::Instant::now() + LONG;
        while lease.lost().is_none() {
            assert!(std::time::Instant::now() < until, "the keeper never noticed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(lease.lost().unwrap().contains("lease"), "{:?}", lease.lost());
        assert_eq!(*lease.complete().await.unwrap_err().kind(), ErrorKind::LeaseGone);
    }
    lab.end().await;
}

#[tokio::test]
async fn leases_that_never_get_ready() {
    let mut lab = Lab::new().await;
    lab.control(json!({"cmd": "export", "error": "FileLocked", "ready_ms": 50})).await;
    let error = lab.hold().await.unwrap_err();
    assert_eq!(error.fault().unwrap().kind, FaultKind::FileLocked, "{error}");
    lab.control(json!({"cmd": "export", "ready_ms": 600_000})).await;
    let lease = lab.client.export_snapshot(&lab.snapshot).await.unwrap();
    let error = hotadd_vsphere::ExportLease::hold(&lab.client, &lease, Duration::from_millis(300), None).await;
    assert_eq!(*error.unwrap_err().kind(), ErrorKind::Deadline);
    lab.lease_until(|l| l["fault"] == "RequestCanceled").await;
    lab.control(json!({"cmd": "restart"})).await;
    // A caller that goes away while it waits.
    let lease = lab.client.export_snapshot(&lab.snapshot).await.unwrap();
    let waiting = hotadd_vsphere::ExportLease::hold(&lab.client, &lease, LONG, None);
    tokio::time::timeout(Duration::from_millis(300), waiting).await.expect_err("never ready");
    lab.lease_until(|l| l["fault"] == "RequestCanceled").await;
    lab.end().await;
}

#[tokio::test]
async fn who_may_not_export() {
    let mut lab = Lab::new().await;
    lab.control(json!({"cmd": "set_privileges", "privileges": ["System.Read", "System.View"]})).await;
    let error = lab.hold().await.unwrap_err();
    let privilege = Some("VApp.Export".to_owned());
    assert_eq!(error.fault().unwrap().kind, FaultKind::NoPermission { object: Some(lab.vm.clone()), privilege });
    lab.end().await;
    let lab = Lab::with(|vm| vm["key_id"] = json!("key-1")).await;
    let error = lab.hold().await.unwrap_err();
    assert_eq!(error.fault().unwrap().kind, FaultKind::NotSupported);
    lab.end().await;
}
