//! The export lease end to end: our client and decoder against the simulator's lease and encoder. No agent runs here.

mod ends;
mod lab;
mod wrong;

use hotadd_vsphere::{DiskAddress, LeaseState, Trust};
use lab::{Lab, STALL};
use serde_json::json;

#[tokio::test]
async fn every_disk_is_exported_as_the_snapshot_has_it() {
    let lab = Lab::new().await;
    let lease = lab.hold().await.unwrap();
    let devices = lab.client.snapshot_devices(&lab.snapshot).await.unwrap();
    assert_eq!(lease.info().files.len(), 4, "three disks and the nvram");
    assert_eq!(lease.info().entity, lab.vm);
    let mut seen = Vec::new();
    for disk in devices.iter().filter_map(|d| d.as_disk()) {
        let file = lease.info().file_of(&devices, disk).unwrap();
        let address = DiskAddress::of_disk(&devices, disk).unwrap().to_string();
        let stream = lease.download(file, STALL).await.unwrap();
        let got = lab::decode(stream, disk.capacity_bytes).await.unwrap();
        assert!(got == lab.content[&address], "{address} differs");
        seen.push(address);
    }
    seen.sort();
    assert_eq!(seen, ["ParaVirtualSCSIController0:0", "ParaVirtualSCSIController0:3", "VirtualLsiLogicController1:0"]);
    let moref = lease.info().lease.clone();
    lease.complete().await.unwrap();
    assert_eq!(lab.client.lease_state(&moref).await.unwrap(), LeaseState::Done);
    lab.client.complete_lease(&moref).await.expect("a lost answer: asked again, it is done");
    lab.client.abort_lease(&moref).await.expect("nothing to end any more");
    lab.end().await;
}

#[tokio::test]
async fn a_star_in_the_url_is_the_vcenter_itself() {
    let mut lab = Lab::new().await;
    for thumbprint in [None, Some("")] {
        lab.control(json!({"cmd": "export", "star": true, "thumbprint": thumbprint})).await;
        let lease = lab.hold().await.unwrap();
        assert!(lease.info().files.iter().all(|f| f.host().is_none()));
        let got = lab.read_first(&lease).await.unwrap();
        assert!(got == lab.content["ParaVirtualSCSIController0:0"]);
        lease.complete().await.unwrap();
    }
    lab.end().await;
}

#[tokio::test]
async fn the_thumbprint_of_the_lease_names_the_host() {
    let mut lab = Lab::new().await;
    // Trusted by its name in the lease alone: the client's own trust is another certificate.
    let lease = lab.hold().await.unwrap();
    assert!(lease.info().files[0].host().is_some_and(|h| h.starts_with("127.0.0.1:")));
    lab.read_first(&lease).await.unwrap();
    lease.complete().await.unwrap();
    for (thumbprint, kind) in [("AB".repeat(20), "Tls"), ("AB".repeat(32), "Tls"), ("AB".into(), "Protocol")] {
        lab.control(json!({"cmd": "export", "thumbprint": thumbprint})).await;
        let lease = lab.hold().await.unwrap();
        let error = lab.read_first(&lease).await.unwrap_err();
        assert_eq!(error, kind);
        lease.abort().await.unwrap();
    }
    let pinned = Trust::Pin(lab.pin());
    let client = lab.client_with(pinned).await;
    lab.control(json!({"cmd": "export", "thumbprint": lab.sha256()})).await;
    lab.client = client;
    let lease = lab.hold().await.unwrap();
    lab.read_first(&lease).await.expect("a SHA-256 thumbprint");
    lease.complete().await.unwrap();
    lab.end().await;
}
