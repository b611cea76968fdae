//! How a lease lives and ends: progress, timeout, abort on drop, what it blocks meanwhile.

use std::time::Duration;

use hotadd_vsphere::{ErrorKind, LeaseState};
use serde_json::json;

use super::lab::{LONG, Lab};

#[tokio::test]
async fn progress_keeps_it_alive_and_a_drop_aborts_it() {
    let mut lab = Lab::new().await;
    lab.control(json!({"cmd": "export", "timeout_s": 1})).await;
    let lease = lab.hold().await.unwrap();
    lease.set_percent(42);
    // Six reports, four a second, take longer than the timeout.
    let seen = lab.lease_until(|l| l["reports"].as_u64() >= Some(8)).await;
    assert_eq!((seen["state"].as_str(), seen["percent"].as_u64()), (Some("ready"), Some(42)));
    assert!(lease.lost().is_none());
    drop(lease);
    let seen = lab.lease_until(|l| l["state"] == "error").await;
    assert_eq!(seen["fault"], "RequestCanceled");
    lab.end().await;
}

#[tokio::test]
async fn without_progress_it_ends() {
    let mut lab = Lab::new().await;
    lab.control(json!({"cmd": "export", "timeout_s": 1})).await;
    let lease = lab.client.export_snapshot(&lab.snapshot).await.unwrap();
    let info = lab.client.lease_ready(&lease, LONG, None).await.unwrap();
    assert_eq!(info.timeout, Duration::from_secs(1));
    let seen = lab.lease_until(|l| l["state"] == "error").await;
    assert_eq!(seen["fault"], "Timedout");
    let LeaseState::Error(Some(fault)) = lab.client.lease_state(&lease).await.unwrap() else { panic!("no fault") };
    assert_eq!(fault.type_name, "Timedout");
    assert_eq!(*lab.client.lease_progress(&lease, 1).await.unwrap_err().kind(), ErrorKind::LeaseGone);
    assert_eq!(*lab.client.complete_lease(&lease).await.unwrap_err().kind(), ErrorKind::LeaseGone);
    let error = lab.client.lease_download(&info.files[1], LONG).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::LeaseGone, "{error}");
    lab.control(json!({"cmd": "restart"})).await;
    assert_eq!(lab.client.lease_state(&lease).await.unwrap(), LeaseState::Gone);
    lab.client.abort_lease(&lease).await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn one_a_vm_and_the_vm_stays_as_it_is() {
    let mut lab = Lab::new().await;
    let lease = lab.hold().await.unwrap();
    let second = lab.client.export_snapshot(&lab.snapshot).await.unwrap_err();
    assert_eq!(second.fault().unwrap().type_name, "TaskInProgress");
    let calls = ["Migrate", "Destroy", "PowerOn", "PowerOff", "Unregister"];
    for call in calls {
        let refused = lab.control(json!({"cmd": "operator", "call": call, "vm": "web"})).await;
        assert_eq!(refused["fault"], "TaskInProgress", "{call}");
    }
    lease.abort().await.unwrap();
    let moved = lab.control(json!({"cmd": "operator", "call": "Migrate", "vm": "web"})).await;
    assert!(moved["fault"].is_null(), "{moved}");
    lab.end().await;
}

#[tokio::test]
async fn a_lost_answer_of_the_end_is_read_back() {
    let mut lab = Lab::new().await;
    let lease = lab.hold().await.unwrap();
    lab.control(json!({"cmd": "fault", "method": "HttpNfcLeaseComplete", "kind": "drop_reply"})).await;
    lease.complete().await.unwrap();
    lab.lease_until(|l| l["state"] == "done").await;
    let lease = lab.hold().await.unwrap();
    lab.control(json!({"cmd": "fault", "method": "HttpNfcLeaseAbort", "kind": "drop_reply", "count": 2})).await;
    lease.abort().await.unwrap();
    lab.control(json!({"cmd": "fault", "method": "ExportSnapshot", "kind": "drop_reply"})).await;
    let error = lab.client.export_snapshot(&lab.snapshot).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::UnknownOutcome);
    // Nobody can name that one: it ends by its timeout, here by hand.
    let orphan = lab.lease_until(|l| l["state"] == "ready").await;
    lab.control(json!({"cmd": "end_lease", "lease": orphan["lease"], "fault": "Timedout"})).await;
    lab.end().await;
}

#[tokio::test]
async fn an_ended_session_is_no_end_of_the_lease() {
    let mut lab = Lab::new().await;
    let lease = lab.hold().await.unwrap();
    lab.control(json!({"cmd": "end_sessions"})).await;
    lab.read_first(&lease).await.unwrap();
    lease.complete().await.unwrap();
    lab.end().await;
}
