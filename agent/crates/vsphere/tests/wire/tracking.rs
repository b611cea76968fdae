//! Change tracking: the exact requests, pages as they come, typed faults, and that no other request names the setting.

use crate::support::{Reply, Server, vim};
use hotadd_vsphere::{Client, DiskChangeExtent, DiskChangeInfo, Error, ErrorKind, FaultKind, MoRef};

fn snapshot() -> MoRef {
    MoRef::new("VirtualMachineSnapshot", "snapshot-77")
}

async fn ask(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Result<DiskChangeInfo, Error> {
    let answer = move |seen: &crate::support::Seen| match seen.op.as_str() {
        "QueryChangedDiskAreas" => reply(),
        _ => vim::happy(seen, "8.0.2.0", &[]),
    };
    let server = Server::start(answer).await;
    let client = Client::connect(server.config()).await.unwrap();
    let asked = client.changed_disk_areas(&vim::vm_ref(), &snapshot(), 2000, 65536, "52 de & 1b/12").await;
    let body = server.last("QueryChangedDiskAreas").body;
    let expected = "<_this type=\"VirtualMachine\">vm-42</_this><snapshot type=\"VirtualMachineSnapshot\">snapshot-77</snapshot>\
        <deviceKey>2000</deviceKey><startOffset>65536</startOffset><changeId>52 de &amp; 1b/12</changeId>";
    assert!(body.contains(expected), "{body}");
    asked
}

fn page(inner: &str) -> Reply {
    vim::answer("QueryChangedDiskAreas", &format!("<returnval>{inner}</returnval>"))
}

#[tokio::test]
async fn a_page_is_given_as_it_came() {
    let areas = vec![
        DiskChangeExtent { start: 131_072, length: 65_536 },
        DiskChangeExtent { start: 1_048_576, length: 131_072 },
    ];
    let expected = DiskChangeInfo { start_offset: 65_536, length: 4 << 20, areas };
    assert_eq!(ask(|| vim::answer("QueryChangedDiskAreas", vim::CHANGES)).await.unwrap(), expected);
    let none = ask(|| page("<startOffset>65536</startOffset><length>0</length>")).await.unwrap();
    assert_eq!((none.length, none.areas.len()), (0, 0));
    let negative =
        "<startOffset>0</startOffset><length>9</length><changedArea><start>-5</start><length>-1</length></changedArea>";
    assert_eq!(
        ask(move || page(negative)).await.unwrap().areas,
        [DiskChangeExtent { start: -5, length: -1 }],
        "whoever uses it judges it"
    );
}

#[tokio::test]
async fn what_is_no_page_is_an_error() {
    for inner in [
        "",
        "<startOffset>0</startOffset>",
        "<startOffset>0</startOffset><length>18446744073709551616</length>",
        "<startOffset>0</startOffset><length>1</length><changedArea><start>1</start></changedArea>",
    ] {
        let error = ask(move || page(inner)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Protocol, "{inner}: {error}");
    }
    assert_eq!(*ask(|| vim::answer("QueryChangedDiskAreas", "")).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn faults_are_typed() {
    let cases = [
        ("FileFault", "<file>[ds1] web/web-000003.vmdk</file>", FaultKind::FileFault),
        ("InvalidArgument", "<invalidProperty>startOffset</invalidProperty>", FaultKind::InvalidArgument),
        ("NotFound", "", FaultKind::NotFound),
    ];
    for (name, inner, kind) in cases {
        let error = ask(move || vim::fault(name, inner, "no")).await.unwrap_err();
        assert_eq!(error.fault().unwrap().kind, kind, "{error}");
    }
}

#[tokio::test]
async fn it_is_turned_on_by_a_request_that_says_nothing_else_and_by_no_other() {
    let server = Server::start(|seen| vim::happy(seen, "8.0.2.0", &[])).await;
    let client = Client::connect(server.config()).await.unwrap();
    let info = client.tracking(&vim::vm_ref()).await.unwrap();
    assert_eq!(
        info.snapshots.map(|tree| tree.roots.len()),
        client.vm(&vim::vm_ref()).await.unwrap().snapshots.map(|t| t.roots.len())
    );
    client.enable_change_tracking(&vim::vm_ref(), Some("7 & 1")).await.unwrap();
    let body = server.last("ReconfigVM_Task").body;
    let expected = "<_this type=\"VirtualMachine\">vm-42</_this><spec><changeVersion>7 &amp; 1</changeVersion>\
        <changeTrackingEnabled>true</changeTrackingEnabled></spec>";
    assert!(body.contains(&format!("{expected}</ReconfigVM_Task>")), "{body}");
    server.seen.lock().unwrap().clear();
    vim::drive_all(&client).await;
    let seen = server.seen.lock().unwrap();
    let names = |body: &str| body.contains("changeTrackingEnabled>");
    let others = seen.iter().filter(|s| s.op.ends_with("_Task") && names(&s.body));
    assert!(
        others.clone().all(|s| !s.body.contains("deviceChange") && s.body.contains(">true<")),
        "turned off or mixed in"
    );
    assert_eq!(others.count(), 2, "those that drive_all makes to turn it on");
}
