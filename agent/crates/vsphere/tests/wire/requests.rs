//! Golden requests: exact bytes of every body, so that element order can't change by accident.

use crate::support::{Seen, Server, vim};
use hotadd_vsphere::{
    AddController, AddDisk, BackingKind, BackingPath, Client, DeviceChanges, ErrorKind, MoRef, Quiesce, Reconfigure,
    RemoveDisk, SnapshotSpec,
};

async fn start() -> (Server, Client) {
    let server = Server::start(|seen| vim::happy(seen, "8.0.2.0", &[])).await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

/// What is between the method's tags.
fn inner(seen: &Seen) -> String {
    let internal = matches!(seen.op.as_str(), "DisableMethods" | "EnableMethods");
    let open = format!("<{} xmlns=\"urn:{}\">", seen.op, if internal { "internalvim25" } else { "vim25" });
    let close = format!("</{}></soapenv:Body></soapenv:Envelope>", seen.op);
    let text = seen.body.split_once(&open).unwrap().1;
    text.strip_suffix(&close).unwrap().to_owned()
}

const ATTACH: &str = "<_this type=\"VirtualMachine\">vm-42</_this><spec><changeVersion>v &amp; 1</changeVersion><deviceChange>\
    <operation>add</operation><device xsi:type=\"VirtualDisk\"><key>-101</key><backing \
    xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName>[ds1] web 01 [x]/é &amp; &lt;b&gt; &apos;q&apos; \
    &quot;d&quot; %2f#.vmdk</fileName><datastore type=\"Datastore\">datastore-11</datastore><diskMode>\
    independent_nonpersistent</diskMode></backing><controllerKey>1001</controllerKey><unitNumber>3</unitNumber>\
    <capacityInKB>41943040</capacityInKB></device></deviceChange><deviceChange><operation>add</operation><device \
    xsi:type=\"VirtualDisk\"><key>-102</key><backing xsi:type=\"VirtualDiskSeSparseBackingInfo\"><fileName>[d] s.vmdk\
    </fileName><diskMode>independent_nonpersistent</diskMode></backing><controllerKey>1001</controllerKey><unitNumber>4\
    </unitNumber><capacityInKB>41943040</capacityInKB></device></deviceChange></spec>";

#[tokio::test]
async fn attach() {
    let (server, client) = start().await;
    let second = AddDisk {
        backing_kind: BackingKind::SeSparse,
        file_name: BackingPath::new("[d] s.vmdk"),
        datastore: None,
        ..vim::add_disk(1)
    };
    let spec = Reconfigure {
        change_version: Some("v & 1".to_owned()),
        change: DeviceChanges::Add(vec![vim::add_disk(0), second]),
    };
    client.reconfigure(&vim::vm_ref(), &spec).await.unwrap();
    assert_eq!(inner(&server.last("ReconfigVM_Task")), ATTACH);
}

#[tokio::test]
async fn a_controller() {
    let (server, client) = start().await;
    let controller = |bus| vim::change(DeviceChanges::AddController(AddController { bus }));
    client.reconfigure(&vim::vm_ref(), &controller(2)).await.unwrap();
    let expected = "<_this type=\"VirtualMachine\">vm-42</_this><spec><deviceChange><operation>add</operation><device \
        xsi:type=\"ParaVirtualSCSIController\"><key>-1</key><controllerKey>100</controllerKey><busNumber>2</busNumber>\
        <sharedBus>noSharing</sharedBus></device></deviceChange></spec>";
    assert_eq!(inner(&server.last("ReconfigVM_Task")), expected);
    for bus in [-1, 4] {
        let refused = client.reconfigure(&vim::vm_ref(), &controller(bus)).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unsupported), "{bus}: {refused}");
    }
    assert_eq!(server.count("ReconfigVM_Task"), 1);
}

#[tokio::test]
async fn detach_sends_the_device_back_as_it_was_read() {
    let (server, client) = start().await;
    let vm = client.vm(&vim::vm_ref()).await.unwrap();
    let disk = vm.disks().find(|d| d.key == 2005).unwrap();
    assert_eq!(RemoveDisk::from(disk).key(), 2005);
    client.reconfigure(&vim::vm_ref(), &vim::change(DeviceChanges::Remove(vec![disk.into()]))).await.unwrap();
    let expected = "<_this type=\"VirtualMachine\">vm-42</_this><spec><deviceChange><operation>remove</operation><device \
        xsi:type=\"VirtualDisk\"><key>2005</key><deviceInfo><label>Hard disk</label><summary>1,024 KB</summary></deviceInfo>\
        <backing xsi:type=\"VirtualDiskLocalPMemBackingInfo\"><fileName>[PMemDS] p.vmdk</fileName><diskMode>persistent\
        </diskMode><uuid>u5</uuid></backing><controllerKey>1000</controllerKey><unitNumber>5</unitNumber><capacityInKB>1024\
        </capacityInKB><shares><shares>1000</shares><level>normal</level></shares></device></deviceChange></spec>";
    assert_eq!(inner(&server.last("ReconfigVM_Task")), expected);
}

#[tokio::test]
async fn snapshots() {
    let (server, client) = start().await;
    let head = "<_this type=\"VirtualMachine\">vm-42</_this><name>n &lt;1&gt;</name><description>d</description><memory>false</memory>";
    let spec = |quiesce| SnapshotSpec { name: "n <1>".to_owned(), description: "d".to_owned(), quiesce };
    for (quiesce, op, tail) in [
        (Quiesce::No, "CreateSnapshot_Task", "<quiesce>false</quiesce>"),
        (Quiesce::Yes, "CreateSnapshot_Task", "<quiesce>true</quiesce>"),
        (Quiesce::Timeout(1), "CreateSnapshotEx_Task", TIMEOUT_5),
    ] {
        client.create_snapshot(&vim::vm_ref(), &spec(quiesce)).await.unwrap();
        assert_eq!(inner(&server.last(op)), format!("{head}{tail}"));
    }
    client.remove_snapshot(&MoRef::new("VirtualMachineSnapshot", "snapshot-77"), true).await.unwrap();
    assert_eq!(
        inner(&server.last("RemoveSnapshot_Task")),
        "<_this type=\"VirtualMachineSnapshot\">snapshot-77</_this><removeChildren>false</removeChildren><consolidate>true</consolidate>"
    );
}

const TIMEOUT_5: &str = "<quiesceSpec xsi:type=\"VirtualMachineGuestQuiesceSpec\"><timeout>5</timeout></quiesceSpec>";

#[tokio::test]
async fn reads() {
    let (server, client) = start().await;
    vim::drive_all(&client).await;
    let view = "<_this type=\"PropertyCollector\">propertyCollector</_this><specSet><propSet><type>VirtualMachine</type>\
        <pathSet>name</pathSet></propSet><objectSet><obj type=\"ContainerView\">session[1]view</obj><skip>true</skip>\
        <selectSet xsi:type=\"TraversalSpec\"><type>ContainerView</type><path>view</path></selectSet></objectSet></specSet>\
        <options><maxObjects>250</maxObjects></options>";
    let filter = "<_this type=\"PropertyCollector\">session[1]pc</_this><spec><propSet><type>Task</type><pathSet>info.state\
        </pathSet></propSet><objectSet><obj type=\"Task\">task-9</obj></objectSet></spec><partialUpdates>false</partialUpdates>";
    for (op, expected) in [
        ("Login", LOGIN),
        ("FindAllByUuid", FIND),
        ("CreateContainerView", VIEW),
        ("RetrievePropertiesEx", view),
        ("RetrievePropertiesEx", MANY),
        (
            "ContinueRetrievePropertiesEx",
            "<_this type=\"PropertyCollector\">propertyCollector</_this><token>t1</token>",
        ),
        ("DestroyView", "<_this type=\"ContainerView\">session[1]view</_this>"),
        ("CreatePropertyCollector", "<_this type=\"PropertyCollector\">propertyCollector</_this>"),
        ("CreateFilter", filter),
        ("DestroyPropertyCollector", "<_this type=\"PropertyCollector\">session[1]pc</_this>"),
        ("CancelTask", "<_this type=\"Task\">task-9</_this>"),
        ("CurrentTime", "<_this type=\"ServiceInstance\">ServiceInstance</_this>"),
        ("Logout", "<_this type=\"SessionManager\">SessionManager</_this>"),
    ] {
        let seen = server.seen.lock().unwrap();
        let bodies: Vec<String> = seen.iter().filter(|s| s.op == op).map(inner).collect();
        assert!(bodies.iter().any(|b| b == expected), "{op}: {bodies:#?}");
    }
    let wait = inner(&server.last("WaitForUpdatesEx"));
    let open = "<_this type=\"PropertyCollector\">session[1]pc</_this><options><maxWaitSeconds>";
    assert!(wait.starts_with(open) && wait.ends_with("</maxWaitSeconds></options>"), "{wait}");
}

/// Element order as in the type table; the filter's time is the server's.
#[tokio::test]
async fn events() {
    let (server, client) = start().await;
    vim::drive_all(&client).await;
    let expected = "<_this type=\"EventManager\">EventManager</_this><filter><entity><entity type=\"HostSystem\">host-9</entity>\
        <recursion>self</recursion></entity><time><beginTime>2026-01-01T00:00:00.000000Z</beginTime></time>\
        <disableFullMessage>true</disableFullMessage><eventTypeId>EnteringMaintenanceModeEvent</eventTypeId><maxCount>100\
        </maxCount></filter>";
    assert_eq!(inner(&server.last("QueryEvents")), expected);
}

const LOGIN: &str = "<_this type=\"SessionManager\">SessionManager</_this><userName>backup@vsphere.local</userName>\
    <password>s3cret &lt;&amp;&gt; &quot;pass&quot;</password>";
const FIND: &str = "<_this type=\"SearchIndex\">SearchIndex</_this><uuid>421c827e-0915-aaf2-b154-1fad4a6297fb</uuid>\
    <vmSearch>true</vmSearch><instanceUuid>false</instanceUuid>";
const VIEW: &str = "<_this type=\"ViewManager\">ViewManager</_this><container type=\"Folder\">group-d1</container>\
    <type>VirtualMachine</type><recursive>true</recursive>";

/// Element order as in govmomi; the namespace is not the public one.
#[tokio::test]
async fn guards() {
    let (server, client) = start().await;
    vim::drive_all(&client).await;
    let head = "<_this type=\"AuthorizationManager\">AuthorizationManager</_this><entity type=\"VirtualMachine\">vm-42</entity>";
    let one = |name: &str| format!("<method><method>{name}</method><reasonId>job &lt;1&gt;</reasonId></method>");
    let source = "<sourceId>hotadd-agent/p &amp; q</sourceId>";
    assert_eq!(
        inner(&server.last("DisableMethods")),
        format!("{head}{}{}{source}", one("RelocateVM_Task"), one("Destroy_Task"))
    );
    assert_eq!(
        inner(&server.last("EnableMethods")),
        format!("{head}<method>RelocateVM_Task</method><method>Destroy_Task</method>{source}")
    );
    assert_eq!(server.last("EnableMethods").action, "\"urn:vim25/8.0.2.0\"");
    let this = "<_this type=\"SessionManager\">SessionManager</_this>";
    assert_eq!(inner(&server.last("TerminateSession")), format!("{this}<sessionId>52b0-another</sessionId>"));
    assert_eq!(inner(&server.last("ConsolidateVMDisks_Task")), "<_this type=\"VirtualMachine\">vm-42</_this>");
}

const MANY: &str = "<_this type=\"PropertyCollector\">propertyCollector</_this><specSet><propSet><type>VirtualMachine</type>\
    <pathSet>name</pathSet><pathSet>config.hardware.device</pathSet></propSet><objectSet><obj type=\"VirtualMachine\">vm-42</obj>\
    </objectSet><objectSet><obj type=\"VirtualMachine\">vm-43</obj></objectSet></specSet><options><maxObjects>250</maxObjects>\
    </options>";

#[tokio::test]
async fn no_request_holds_an_empty_element_or_touches_files() {
    let (server, client) = start().await;
    vim::drive_all(&client).await;
    for seen in server.seen.lock().unwrap().iter() {
        // What the server itself sent empty goes back as it came.
        let body = seen.body.replace("<backingObjectId></backingObjectId>", "");
        assert!(!body.contains("></") || !has_empty(&body), "{}: {body}", seen.op);
        assert!(!body.to_ascii_lowercase().contains("fileoperation"), "{body}");
        assert!(!body.contains("/>"), "{body}");
    }
}

fn has_empty(body: &str) -> bool {
    body.split('<').collect::<Vec<_>>().windows(2).any(|w| {
        let (open, close) = (w[0], w[1]);
        !open.starts_with('/') && open.ends_with('>') && close.starts_with('/')
    })
}

#[tokio::test]
async fn changes_that_make_no_sense_are_refused_before_sending() {
    let (server, client) = start().await;
    let add = |f: fn(&mut AddDisk)| {
        let mut disk = vim::add_disk(0);
        f(&mut disk);
        DeviceChanges::Add(vec![disk])
    };
    for change in [
        DeviceChanges::Add(vec![]),
        DeviceChanges::Remove(vec![]),
        DeviceChanges::Add(vec![vim::add_disk(0), vim::add_disk(0)]),
        add(|d| d.temp_key = 2000),
        add(|d| d.backing_kind = BackingKind::RdmPhysical),
        add(|d| d.backing_kind = BackingKind::LocalPMem),
        add(|d| d.backing_kind = BackingKind::Other("X".to_owned())),
        add(|d| d.file_name = BackingPath::new("/vmfs/volumes/x.vmdk")),
    ] {
        let error = client.reconfigure(&vim::vm_ref(), &vim::change(change)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unsupported, "{error}");
    }
    assert_eq!(server.count("ReconfigVM_Task"), 0);
}

#[test]
fn the_sources_have_no_word_for_operations_on_files() {
    let mut open = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap().to_ascii_lowercase().replace('_', "");
            assert!(!text.contains("fileoperation"), "{}", path.display());
        }
    }
    assert!(files > 20, "the sources were found");
}
