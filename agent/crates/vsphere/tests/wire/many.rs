//! Facts of many objects at once, of a host that is leaving, and of a VM's files.

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{BackingPath, Client, Entering, ErrorKind, FaultKind, LayoutFile, MoRef};

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

/// A server that answers property reads by `script`, where that has an answer.
async fn reading(script: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> (Server, Client) {
    let server = Server::start(move |seen| match seen.op.as_str() {
        "RetrievePropertiesEx" => script(&seen.body).unwrap_or_else(|| happy(seen)),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

fn page(objects: &str) -> Reply {
    vim::answer("RetrievePropertiesEx", &format!("<returnval>{objects}</returnval>"))
}

fn object(kind: &str, id: &str, props: &[(&str, &str)]) -> String {
    let sets: String = props.iter().map(|(name, val)| format!("<propSet><name>{name}</name>{val}</propSet>")).collect();
    format!("<objects><obj type=\"{kind}\">{id}</obj>{sets}</objects>")
}

fn vms(ids: &[&str]) -> Vec<MoRef> {
    ids.iter().map(|id| MoRef::new("VirtualMachine", *id)).collect()
}

/// A VM with one disk.
fn with_disk(id: &str) -> String {
    let disk = format!(
        "<val xsi:type=\"ArrayOfVirtualDevice\"><VirtualDevice xsi:type=\"VirtualDisk\"><key>2000</key><backing \
         xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName>[ds1] {id}/d.vmdk</fileName><diskMode>persistent</diskMode>\
         </backing><capacityInKB>1024</capacityInKB></VirtualDevice><VirtualDevice xsi:type=\"VirtualKeyboard\"><key>600\
         </key></VirtualDevice></val>"
    );
    let name = format!("<val xsi:type=\"xsd:string\">a%2f{id}</val>");
    object("VirtualMachine", id, &[("config.hardware.device", &disk), ("name", &name)])
}

fn asked(body: &str) -> Vec<String> {
    let after = body.split("<obj type=\"VirtualMachine\">").skip(1);
    after.map(|t| t.split('<').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn disks_of_many_vms_in_one_call() {
    let (server, client) =
        reading(|body| Some(page(&asked(body).iter().map(|id| with_disk(id)).collect::<String>()))).await;
    let found = client.vm_disks(&vms(&["vm-1", "vm-2"])).await.unwrap();
    let short: Vec<_> = found
        .iter()
        .map(|of| (of, of.disks.as_ref().unwrap()))
        .map(|(of, disks)| (of.vm.value.as_str(), of.name.as_str(), disks[0].backing.file_name.as_str(), disks.len()))
        .collect();
    assert_eq!(short, [("vm-1", "a/vm-1", "[ds1] vm-1/d.vmdk", 1), ("vm-2", "a/vm-2", "[ds1] vm-2/d.vmdk", 1)]);
    assert_eq!(server.count("RetrievePropertiesEx"), 1);
    assert!(client.vm_disks(&[]).await.unwrap().is_empty());
    assert_eq!(server.count("RetrievePropertiesEx"), 1, "nothing to ask");
}

#[tokio::test]
async fn a_vm_that_vanished_is_left_out() {
    // The fault names the object, as VMware's does; a server that does not is asked by halves.
    for named in [true, false] {
        let (_server, client) = reading(move |body| {
            let ids = asked(body);
            Some(if ids.iter().any(|id| id == "vm-2") {
                let inner = if named { "<obj type=\"VirtualMachine\">vm-2</obj>" } else { "" };
                vim::fault("ManagedObjectNotFound", inner, "already deleted")
            } else {
                page(&ids.iter().map(|id| with_disk(id)).collect::<String>())
            })
        })
        .await;
        let mut found: Vec<String> =
            client.vm_disks(&vms(&["vm-1", "vm-2", "vm-3"])).await.unwrap().into_iter().map(|of| of.vm.value).collect();
        found.sort();
        assert_eq!(found, ["vm-1", "vm-3"], "fault names the object: {named}");
    }
}

#[tokio::test]
async fn another_object_that_is_gone_is_an_error() {
    let (_server, client) = reading(|_| {
        let inner = "<obj type=\"PropertyCollector\">propertyCollector</obj>";
        Some(vim::fault("ManagedObjectNotFound", inner, "gone"))
    })
    .await;
    let error = client.vm_disks(&vms(&["vm-1"])).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn a_vm_that_does_not_show_its_devices_is_an_error_that_names_it() {
    let refused = "<objects><obj type=\"VirtualMachine\">vm-2</obj><missingSet><path>config.hardware.device</path><fault>\
                   <fault xsi:type=\"NoPermission\"><privilegeId>System.Read</privilegeId></fault></fault></missingSet>\
                   </objects>";
    let (_server, client) = reading(move |_| Some(page(&format!("{}{refused}", with_disk("vm-1"))))).await;
    let mut found = client.vm_disks(&vms(&["vm-1", "vm-2"])).await.unwrap();
    let error = found.pop().unwrap().disks.unwrap_err();
    assert_eq!(found.pop().unwrap().disks.unwrap().len(), 1, "it costs only itself");
    assert!(matches!(error.fault().unwrap().kind, FaultKind::NoPermission { .. }));
    assert!(error.to_string().contains("vm-2"), "{error}");
    let (_server, client) = reading(|_| Some(page(&object("VirtualMachine", "vm-2", &[])))).await;
    let error = client.vm_disks(&vms(&["vm-2"])).await.unwrap().remove(0).disks.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("vm-2"), "{error}");
}

/// One VM that makes the server refuse a whole read costs a search, not a call for each of the others.
#[tokio::test]
async fn a_vm_that_spoils_a_read_is_found_by_halves() {
    let (server, client) = reading(|body| {
        let ids = asked(body);
        let denied = "<object type=\"Folder\">group-v3</object><privilegeId>System.View</privilegeId>";
        Some(match ids.iter().any(|id| id == "vm-37") {
            true => vim::fault("NoPermission", denied, "denied"),
            false => page(&ids.iter().map(|id| with_disk(id)).collect::<String>()),
        })
    })
    .await;
    let names: Vec<String> = (0..64).map(|n| format!("vm-{n}")).collect();
    let all = vms(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let found = client.vm_disks(&all).await.unwrap();
    let bad: Vec<_> = found.iter().filter(|of| of.disks.is_err()).map(|of| of.vm.value.as_str()).collect();
    assert_eq!((found.len(), bad), (64, vec!["vm-37"]));
    assert_eq!(server.count("RetrievePropertiesEx"), 13, "one, and two for each of six halvings");
}

/// A whole estate is read in pieces; one VM with an answer that is too large, or that is refused, costs only itself.
#[tokio::test]
async fn a_survey_loses_no_vm_to_another() {
    let (_server, client) = reading(|body| {
        let ids = asked(body);
        let has = |name: &str| ids.iter().any(|id| id == name);
        let flood = || "<propSet><name>x</name><val/></propSet>".repeat(200_000);
        Some(match () {
            () if has("vm-9") => vim::fault("NoPermission", "<privilegeId>System.View</privilegeId>", "denied"),
            () if has("vm-5") => {
                page(&format!("<objects><obj type=\"VirtualMachine\">vm-5</obj>{}</objects>", flood()))
            }
            () => page(&ids.iter().map(|id| with_disk(id)).collect::<String>()),
        })
    })
    .await;
    let names: Vec<String> = (0..16).map(|n| format!("vm-{n}")).collect();
    let all = vms(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let found = client.survey_vms(&all).await.unwrap();
    assert_eq!(found.len(), 16);
    for one in &found {
        match (one.moref.value.as_str(), &one.facts) {
            ("vm-5", Err(e)) => assert_eq!(*e.kind(), ErrorKind::TooLarge),
            ("vm-9", Err(e)) => assert!(e.fault().is_some(), "{e}"),
            (_, Ok(facts)) => assert_eq!((facts.vm.disks().count(), &facts.files, &facts.product), (1, &None, &None)),
            (id, Err(e)) => panic!("{id}: {e}"),
        }
    }
}

#[tokio::test]
async fn what_a_survey_gives_and_what_the_server_refused() {
    let files = "<val xsi:type=\"ArrayOfVirtualMachineFileLayoutExFileInfo\"><VirtualMachineFileLayoutExFileInfo><key>0</key>\
                 <name>[ds1] a/a-REDO_1.vmdk</name><type>diskExtent</type><size>7</size></VirtualMachineFileLayoutExFileInfo></val>";
    let product = "<val xsi:type=\"VAppProductInfo\"><key>0</key><name>hotadd-proxy</name><version>1</version></val>";
    let refused = "<objects><obj type=\"VirtualMachine\">vm-2</obj><missingSet><path>config</path><fault><fault \
                   xsi:type=\"NoPermission\"><privilegeId>System.Read</privilegeId></fault></fault></missingSet></objects>";
    let given = object("VirtualMachine", "vm-1", &[("layoutEx.file", files), ("summary.config.product", product)]);
    let (_server, client) = reading(move |_| Some(page(&format!("{given}{refused}")))).await;
    let mut found = client.survey_vms(&vms(&["vm-1", "vm-2"])).await.unwrap();
    let hidden = found.pop().unwrap().facts.unwrap();
    assert!(hidden.refused("config.hardware.device").is_some() && hidden.refused("configuration").is_none());
    let shown = found.pop().unwrap().facts.unwrap();
    let file = &shown.files.as_ref().unwrap()[0];
    assert_eq!((file.name.as_str(), file.size_bytes), ("[ds1] a/a-REDO_1.vmdk", 7));
    assert_eq!(shown.product.as_ref().unwrap().name, "hotadd-proxy");
    assert!(shown.refused("config.hardware.device").is_none() && !shown.vm.gave("config.hardware.device"));
}

#[tokio::test]
async fn many_tasks_in_one_call_and_silence_is_no_end() {
    let info = |id: &str, state: &str| {
        let val = format!(
            "<val xsi:type=\"TaskInfo\"><key>{id}</key><task type=\"Task\">{id}</task><state>{state}</state></val>"
        );
        object("Task", id, &[("info", &val)])
    };
    let (server, client) = reading(move |body| {
        let all = ["task-1", "task-2", "task-3"];
        let some: Vec<_> = all.iter().copied().filter(|id| body.contains(&format!(">{id}<"))).collect();
        Some(match some[..] {
            // Forgotten, as VMware tells it for the whole read.
            [_, "task-2", ..] => vim::fault("ManagedObjectNotFound", "<obj type=\"Task\">task-2</obj>", "gone"),
            ["task-2"] => vim::fault("ManagedObjectNotFound", "<obj type=\"Task\">task-2</obj>", "gone"),
            // Not told, without a word.
            [_, "task-3"] => page(&info("task-1", "success")),
            ["task-3"] => page(&info("task-3", "running")),
            _ => return None,
        })
    })
    .await;
    let tasks: Vec<MoRef> = ["task-1", "task-2", "task-3"].iter().map(|id| MoRef::new("Task", *id)).collect();
    let told = client.tasks(&tasks).await.unwrap();
    let short: Vec<_> = told.iter().map(|task| (task.moref.value.as_str(), task.state.is_final())).collect();
    assert_eq!(short, [("task-1", true), ("task-3", false)]);
    server.seen.lock().unwrap().clear();
    assert!(client.tasks(&[]).await.unwrap().is_empty());
    assert_eq!(server.count("RetrievePropertiesEx"), 0, "nothing to ask");
}

#[tokio::test]
async fn vms_on_a_datastore() {
    let datastore = MoRef::new("Datastore", "datastore-11");
    let list = "<val xsi:type=\"ArrayOfManagedObjectReference\"><ManagedObjectReference type=\"VirtualMachine\">vm-1\
                </ManagedObjectReference></val>";
    let (_server, client) = reading(move |_| Some(page(&object("Datastore", "datastore-11", &[("vm", list)])))).await;
    assert_eq!(client.datastore_vms(&datastore).await.unwrap(), vms(&["vm-1"]));
    let (_server, client) = reading(|_| {
        Some(page(
            "<objects><obj type=\"Datastore\">datastore-11</obj><missingSet><path>vm</path><fault><fault \
             xsi:type=\"NoPermission\"/></fault></missingSet></objects>",
        ))
    })
    .await;
    let error = client.datastore_vms(&datastore).await.unwrap_err();
    assert!(
        matches!(error.fault().unwrap().kind, FaultKind::NoPermission { .. }),
        "a list that is hidden is not empty"
    );
}

/// A host with these tasks: (id, state, descriptionId). Asked for a task that it has forgotten, it refuses.
async fn host_with(tasks: &'static [(&str, &str, &str)], flags: &'static str) -> (Server, Client) {
    reading(move |body| {
        if body.contains("type=\"HostSystem\"") {
            let refs: String = tasks
                .iter()
                .map(|(id, ..)| format!("<ManagedObjectReference type=\"Task\">{id}</ManagedObjectReference>"))
                .collect();
            let refs = format!("<val xsi:type=\"ArrayOfManagedObjectReference\">{refs}</val>");
            let text = |t: &str| format!("<val xsi:type=\"xsd:string\">{t}</val>");
            let flag = |on: bool| format!("<val xsi:type=\"xsd:boolean\">{on}</val>");
            return Some(page(&object(
                "HostSystem",
                "host-9",
                &[
                    ("name", &text("esx1")),
                    ("recentTask", &refs),
                    ("runtime.connectionState", &text("connected")),
                    ("runtime.powerState", &text("poweredOn")),
                    ("runtime.standbyMode", &text("none")),
                    ("runtime.inMaintenanceMode", &flag(flags.contains('m'))),
                    ("runtime.inQuarantineMode", &flag(flags.contains('q'))),
                ],
            )));
        }
        let gone = |id: &str| body.contains(&format!(">{id}<"));
        if let Some((id, ..)) = tasks.iter().find(|(id, state, _)| state.is_empty() && gone(id)) {
            return Some(vim::fault("ManagedObjectNotFound", &format!("<obj type=\"Task\">{id}</obj>"), "gone"));
        }
        let live = tasks.iter().filter(|(_, state, _)| !state.is_empty());
        let all = live.map(|(id, state, what)| {
            let val = |v: &str| format!("<val xsi:type=\"xsd:string\">{v}</val>");
            object("Task", id, &[("info.descriptionId", &val(what)), ("info.state", &val(state))])
        });
        Some(page(&all.collect::<String>()))
    })
    .await
}

#[tokio::test]
async fn a_host_that_is_leaving_is_known_by_its_task() {
    let host = MoRef::new("HostSystem", "host-9");
    for (what, state, leaving) in [
        ("HostSystem.enterMaintenanceMode", "running", true),
        ("HostSystem.enterMaintenanceMode", "queued", true),
        ("HostSystem.enterMaintenanceMode", "success", false),
        ("HostSystem.enterMaintenanceMode", "error", false),
        ("HostSystem.exitMaintenanceMode", "running", false),
        ("ClusterComputeResource.enterMaintenanceMode", "running", true),
        ("Drm.TrackEnterMaintenanceLRO", "running", true),
        ("HostSystem.enterStandbyMode", "running", true),
        ("VirtualMachine.migrate", "running", false),
    ] {
        let tasks = [("task-1", "", ""), ("task-2", "running", "HostSystem.reconnect"), ("task-3", state, what)];
        let tasks: &'static [(&str, &str, &str)] = Vec::leak(tasks.to_vec());
        let (_server, client) = host_with(tasks, "").await;
        let found = client.host_state(&host).await.unwrap();
        let expected = Entering { task: MoRef::new("Task", "task-3"), description_id: what.to_owned() };
        assert_eq!(found.entering, leaving.then_some(expected), "{what} {state}");
        assert_eq!((found.name.as_str(), found.in_maintenance, found.in_quarantine), ("esx1", false, false));
        assert_eq!(
            (found.connection_state.as_deref(), found.power_state.as_deref(), found.standby.as_deref()),
            (Some("connected"), Some("poweredOn"), Some("none"))
        );
    }
}

#[tokio::test]
async fn flags_of_a_host() {
    let host = MoRef::new("HostSystem", "host-9");
    let (server, client) = host_with(&[], "mq").await;
    let found = client.host_state(&host).await.unwrap();
    assert_eq!((found.in_maintenance, found.in_quarantine, found.entering), (true, true, None));
    assert_eq!(server.count("RetrievePropertiesEx"), 1, "no task, no second read");
}

#[tokio::test]
async fn a_host_that_may_not_be_read_is_not_calm() {
    let (_server, client) = reading(|_| {
        Some(page(
            "<objects><obj type=\"HostSystem\">host-9</obj><missingSet><path>recentTask</path><fault><fault \
             xsi:type=\"NoPermission\"><privilegeId>System.View</privilegeId></fault></fault></missingSet></objects>",
        ))
    })
    .await;
    let error = client.host_state(&MoRef::new("HostSystem", "host-9")).await.unwrap_err();
    assert!(error.to_string().contains("System.View"), "{error}");
    let (_server, client) = reading(|_| Some(page(&object("HostSystem", "host-9", &[])))).await;
    let error = client.host_state(&MoRef::new("HostSystem", "host-9")).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn files_of_a_vm() {
    let files = "<val xsi:type=\"ArrayOfVirtualMachineFileLayoutExFileInfo\"><VirtualMachineFileLayoutExFileInfo><key>0</key>\
        <name>[ds1] web01/web01.vmx</name><type>config</type><size>2000</size><uniqueSize>2000</uniqueSize></VirtualMachineFileLayoutExFileInfo>\
        <VirtualMachineFileLayoutExFileInfo><key>4</key><name>[ds1] web01/web01-000001-delta.vmdk</name><type>diskExtent</type>\
        <size>5368709120</size></VirtualMachineFileLayoutExFileInfo></val>";
    let folder = "<val xsi:type=\"xsd:string\">[ds2] elsewhere/</val>";
    let (_server, client) = reading(move |_| {
        let sets = [("config.files.snapshotDirectory", folder), ("layoutEx.file", files)];
        Some(page(&object("VirtualMachine", "vm-42", &sets)))
    })
    .await;
    let layout = client.vm_layout(&vim::vm_ref()).await.unwrap();
    assert_eq!(layout.snapshot_directory.as_deref(), Some("[ds2] elsewhere/"));
    let file = |name: &str, kind: &str, size_bytes| LayoutFile {
        name: BackingPath::new(name),
        kind: kind.to_owned(),
        size_bytes,
    };
    assert_eq!(
        layout.files,
        [
            file("[ds1] web01/web01.vmx", "config", 2000),
            file("[ds1] web01/web01-000001-delta.vmdk", "diskExtent", 5 << 30)
        ]
    );
    let (_server, client) = reading(|_| {
        Some(page(
            "<objects><obj type=\"VirtualMachine\">vm-42</obj><missingSet><path>layoutEx.file</path><fault><fault \
             xsi:type=\"NoPermission\"/></fault></missingSet></objects>",
        ))
    })
    .await;
    assert!(client.vm_layout(&vim::vm_ref()).await.unwrap_err().fault().is_some());
}

#[tokio::test]
async fn a_full_datastore_is_named() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "CreateSnapshot_Task" => vim::fault(
            "NoDiskSpace",
            "<file>[ds1] web01/web01-000001.vmdk</file><datastore>ds1</datastore>",
            "Insufficient disk space on datastore 'ds1'.",
        ),
        "ConsolidateVMDisks_Task" => vim::fault(
            "InaccessibleDatastore",
            "<datastore type=\"Datastore\">datastore-11</datastore><name>ds1</name>",
            "not accessible",
        ),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let spec = hotadd_vsphere::SnapshotSpec {
        name: "n".to_owned(),
        description: "d".to_owned(),
        quiesce: hotadd_vsphere::Quiesce::No,
    };
    let error = client.create_snapshot(&vim::vm_ref(), &spec).await.unwrap_err();
    let fault = error.fault().unwrap();
    assert_eq!(fault.kind, FaultKind::NoDiskSpace);
    assert_eq!(
        (fault.file.as_deref(), fault.datastore.as_deref()),
        (Some("[ds1] web01/web01-000001.vmdk"), Some("ds1"))
    );
    let error = client.consolidate_disks(&vim::vm_ref()).await.unwrap_err();
    assert_eq!(error.fault().unwrap().datastore, None, "a reference is no name");
}
