//! The usual answers of a vCenter, in the shape of recorded ones, with values of our own.

use std::sync::atomic::{AtomicUsize, Ordering};

use hotadd_vsphere::{
    AddDisk, BackingKind, BackingPath, Client, DeviceChanges, Disk, MoRef, Quiesce, Reconfigure, RemoveDisk,
    SnapshotSpec,
};

use super::{Reply, Seen};

pub const VM: &str = include_str!("../fixtures/vm.xml");
pub const SNAPSHOT: &str = include_str!("../fixtures/snapshot.xml");
pub const DATASTORE: &str = include_str!("../fixtures/datastore.xml");
pub const HOST: &str = include_str!("../fixtures/host.xml");

pub const GRANTED: &str = "<returnval><entity type=\"VirtualMachine\">vm-42</entity><privAvailability><privId>VApp.Export</privId>\
    <isGranted>false</isGranted></privAvailability><privAvailability><privId>System.Read</privId><isGranted>true</isGranted>\
    </privAvailability></returnval>";

pub fn versions(own: &str, prior: &[&str]) -> String {
    let prior: String = prior.iter().map(|v| format!("<version>{v}</version>")).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\" ?><namespaces version=\"1.0\"><namespace><name>urn:vim25</name>\
         <version>{own}</version><priorVersions>{prior}</priorVersions></namespace></namespaces>\n\n"
    )
}

pub fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope \
         xmlns:soapenc=\"http://schemas.xmlsoap.org/soap/encoding/\"\n \
         xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"\n xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"\n \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n<soapenv:Body>\n{body}\n</soapenv:Body>\n\
         </soapenv:Envelope>"
    )
}

/// A response whose content is `inner`.
pub fn answer(op: &str, inner: &str) -> Reply {
    Reply::Xml(200, envelope(&format!("<{op}Response xmlns=\"urn:vim25\">{inner}</{op}Response>")))
}

pub fn fault(type_name: &str, inner: &str, message: &str) -> Reply {
    Reply::Xml(
        500,
        envelope(&format!(
            "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{message}</faultstring><detail>\
             <{type_name}Fault xmlns=\"urn:vim25\" xsi:type=\"{type_name}\">{inner}</{type_name}Fault></detail>\
             </soapenv:Fault>"
        )),
    )
}

pub fn not_authenticated() -> Reply {
    fault(
        "NotAuthenticated",
        "<object type=\"Folder\">group-d1</object><privilegeId>System.View</privilegeId>",
        "The session is not authenticated.",
    )
}

pub fn content(api: &str) -> String {
    format!(
        "<returnval><rootFolder type=\"Folder\">group-d1</rootFolder><propertyCollector type=\"PropertyCollector\">\
         propertyCollector</propertyCollector><viewManager type=\"ViewManager\">ViewManager</viewManager><about>\
         <name>VMware vCenter Server</name><fullName>VMware vCenter Server {api} build-1</fullName><vendor>VMware, Inc.\
         </vendor><version>8.0.2</version><build>22385739</build><apiType>VirtualCenter</apiType><apiVersion>{api}\
         </apiVersion><instanceUuid>aaaaaaaa-0000-4000-8000-000000000001</instanceUuid></about><sessionManager \
         type=\"SessionManager\">SessionManager</sessionManager><searchIndex type=\"SearchIndex\">SearchIndex</searchIndex>\
         <authorizationManager type=\"AuthorizationManager\">AuthorizationManager</authorizationManager><eventManager type=\"EventManager\">\
         EventManager</eventManager></returnval>"
    )
}

pub fn moref_value(op: &str, type_name: &str, value: &str) -> Reply {
    answer(op, &format!("<returnval type=\"{type_name}\">{value}</returnval>"))
}

pub fn login(number: usize) -> Reply {
    login_as(number, "52a8dea7")
}

/// A login whose session has this key.
pub fn login_as(number: usize, key: &str) -> Reply {
    let body = envelope(&format!(
        "<LoginResponse xmlns=\"urn:vim25\"><returnval><key>{key}</key><userName>backup</userName>\
         <fullName>backup </fullName><loginTime>2026-01-01T00:00:00.5Z</loginTime></returnval></LoginResponse>",
    ));
    let cookie = format!("Set-Cookie: vmware_soap_session=\"sess-{number}\"; Path=/; HttpOnly; Secure; \r\n");
    Reply::XmlWith(200, cookie, body)
}

/// An update set with the task's state.
pub fn update(version: &str, state: Option<&str>, truncated: bool) -> Reply {
    let set = state.map(|s| {
        format!(
            "<filterSet><filter type=\"PropertyFilter\">session[1]f</filter><objectSet><kind>modify</kind><obj \
             type=\"Task\">task-9</obj><changeSet><name>info.state</name><op>assign</op><val xsi:type=\"TaskInfoState\">\
             {s}</val></changeSet></objectSet></filterSet>"
        )
    });
    let truncated = if truncated { "<truncated>true</truncated>" } else { "" };
    let set = set.unwrap_or_default();
    answer("WaitForUpdatesEx", &format!("<returnval><version>{version}</version>{set}{truncated}</returnval>"))
}

pub fn task_info(state: &str, more: &str) -> Reply {
    answer(
        "RetrievePropertiesEx",
        &format!(
            "<returnval><objects><obj type=\"Task\">task-9</obj><propSet><name>info</name><val xsi:type=\"TaskInfo\">\
             <key>task-9</key><task type=\"Task\">task-9</task><name>ReconfigVM_Task</name><descriptionId>\
             VirtualMachine.reconfigure</descriptionId><entity type=\"VirtualMachine\">vm-42</entity><entityName>web01\
             </entityName><state>{state}</state><cancelled>false</cancelled><cancelable>false</cancelable>{more}<reason \
             xsi:type=\"TaskReasonUser\"><userName>backup</userName></reason><queueTime>2026-01-01T00:00:00.1Z</queueTime>\
             <startTime>2026-01-01T00:00:00.2Z</startTime><completeTime>2026-01-01T00:00:01Z</completeTime>\
             <eventChainId>7</eventChainId></val></propSet></objects></returnval>"
        ),
    )
}

static LOGINS: AtomicUsize = AtomicUsize::new(0);

pub const LEASE_FILES: &str = "<deviceUrl><key>/vm-42/ParaVirtualSCSIController0:1</key><importKey>k</importKey>\
    <url>https://esx1.lab/nfc/52d/disk-0.vmdk</url><sslThumbprint>00:11</sslThumbprint><disk>true</disk></deviceUrl>";

/// Events of a host that leaves service and of a VM that was on it; one is older than `CurrentTime` tells.
pub const EVENTS: &str = "<returnval xsi:type=\"EnteringMaintenanceModeEvent\"><key>6</key><chainId>6</chainId><createdTime>\
    2025-12-31T23:59:59.999999Z</createdTime><userName>root</userName><host><name>esx1</name><host type=\"HostSystem\">host-9\
    </host></host></returnval><returnval xsi:type=\"EnteringMaintenanceModeEvent\"><key>7</key><chainId>7</chainId><createdTime>\
    2026-01-01T00:00:00Z</createdTime><userName>root</userName><host><name>esx1</name><host type=\"HostSystem\">host-9</host>\
    </host></returnval><returnval xsi:type=\"VmMigratedEvent\"><key>8</key><chainId>8</chainId><createdTime>2026-01-01T00:00:05.25Z\
    </createdTime><userName>root</userName><host><name>esx2</name><host type=\"HostSystem\">host-10</host></host><vm><name>web01\
    </name><vm type=\"VirtualMachine\">vm-42</vm></vm><template>false</template><sourceHost><name>esx1</name><host \
    type=\"HostSystem\">host-9</host></sourceHost></returnval><returnval xsi:type=\"HostConnectedEvent\"><key>9</key><chainId>9\
    </chainId><createdTime>2026-01-01T00:00:06Z</createdTime><userName>root</userName></returnval>";

/// A page of a map with two areas.
pub const CHANGES: &str = "<returnval><startOffset>65536</startOffset><length>4194304</length><changedArea><start>131072</start>\
    <length>65536</length></changedArea><changedArea><start>1048576</start><length>131072</length></changedArea></returnval>";

pub fn lease_ref() -> MoRef {
    MoRef::new("HttpNfcLease", "session[1]lease")
}

fn object_update(type_name: &str, value: &str, path: &str, state: &str) -> String {
    format!(
        "<objectSet><kind>enter</kind><obj type=\"{type_name}\">{value}</obj><changeSet><name>{path}</name><op>assign</op>\
         <val xsi:type=\"xsd:string\">{state}</val></changeSet></objectSet>"
    )
}

/// An update set of a filter with these objects.
pub fn update_of(objects: &str) -> Reply {
    answer(
        "WaitForUpdatesEx",
        &format!(
            "<returnval><version>1</version><filterSet><filter type=\"PropertyFilter\">session[1]f</filter>{objects}\
             </filterSet></returnval>"
        ),
    )
}

pub fn lease_update(state: &str) -> Reply {
    update_of(&object_update("HttpNfcLease", "session[1]lease", "state", state))
}

/// A lease that is ready and a task that is done: whoever waits takes what is about its own object.
fn update_of_all() -> Reply {
    let lease = object_update("HttpNfcLease", "session[1]lease", "state", "ready");
    update_of(&(lease + &object_update("Task", "task-9", "info.state", "success")))
}

/// A lease in this state with these files.
pub fn lease(state: &str, files: &str) -> Reply {
    answer(
        "RetrievePropertiesEx",
        &format!(
            "<returnval><objects><obj type=\"HttpNfcLease\">session[1]lease</obj><propSet><name>info</name><val \
             xsi:type=\"HttpNfcLeaseInfo\"><lease type=\"HttpNfcLease\">session[1]lease</lease><entity \
             type=\"VirtualMachine\">vm-42</entity>{files}<totalDiskCapacityInKB>1024</totalDiskCapacityInKB><leaseTimeout>300\
             </leaseTimeout></val></propSet><propSet><name>state</name><val xsi:type=\"HttpNfcLeaseState\">{state}</val>\
             </propSet></objects></returnval>"
        ),
    )
}

/// The happy answer to every call that the client can make.
pub fn happy(seen: &Seen, own: &str, prior: &[&str]) -> Reply {
    let op = seen.op.as_str();
    let page = |fixture: &str| answer(op, fixture);
    match op {
        "" => Reply::Xml(200, versions(own, prior)),
        "RetrieveServiceContent" => answer(op, &content(own)),
        "Login" => login(LOGINS.fetch_add(1, Ordering::Relaxed)),
        "CurrentTime" => answer(op, "<returnval>2026-01-01T00:00:00Z</returnval>"),
        "QueryEvents" => answer(op, EVENTS),
        "HasPrivilegeOnEntities" => answer(op, GRANTED),
        "QueryChangedDiskAreas" => answer(op, CHANGES),
        "FindAllByUuid" => answer(op, "<returnval type=\"VirtualMachine\">vm-42</returnval>"),
        "CreateContainerView" => moref_value(op, "ContainerView", "session[1]view"),
        "CreatePropertyCollector" => moref_value(op, "PropertyCollector", "session[1]pc"),
        "CreateFilter" => moref_value(op, "PropertyFilter", "session[1]f"),
        "ExportSnapshot" => moref_value(op, "HttpNfcLease", "session[1]lease"),
        "WaitForUpdatesEx" => update_of_all(),
        _ if op.ends_with("_Task") => moref_value(op, "Task", "task-9"),
        "RetrievePropertiesEx" if seen.body.contains("type=\"ContainerView\"") => answer(
            op,
            "<returnval><token>t1</token><objects><obj type=\"VirtualMachine\">vm-1</obj><propSet><name>name</name><val \
             xsi:type=\"xsd:string\">a%2fb%25</val></propSet></objects></returnval>",
        ),
        "ContinueRetrievePropertiesEx" => answer(
            op,
            "<returnval><objects><obj type=\"VirtualMachine\">vm-2</obj><propSet><name>name</name><val \
             xsi:type=\"xsd:string\">web01</val></propSet></objects></returnval>",
        ),
        "RetrievePropertiesEx" if seen.body.contains("type=\"HttpNfcLease\"") => lease("ready", LEASE_FILES),
        "RetrievePropertiesEx" if seen.body.contains("type=\"Task\"") => task_info("success", ""),
        "RetrievePropertiesEx" if seen.body.contains("type=\"VirtualMachineSnapshot\"") => page(SNAPSHOT),
        "RetrievePropertiesEx" if seen.body.contains("type=\"Datastore\"") => page(DATASTORE),
        "RetrievePropertiesEx" if seen.body.contains("type=\"HostSystem\"") => page(HOST),
        "RetrievePropertiesEx" if seen.body.contains("<pathSet>parent</pathSet></propSet>") => parent_of(seen),
        "RetrievePropertiesEx" if seen.body.contains("<pathSet>parentVApp</pathSet>") => parent_of(seen),
        "RetrievePropertiesEx" => page(VM),
        _ => answer(op, ""),
    }
}

/// A VM inside a vApp inside a folder inside the datacenter.
fn parent_of(seen: &Seen) -> Reply {
    let (object, name, parent) = if seen.body.contains("type=\"VirtualMachine\"") {
        ("type=\"VirtualMachine\">vm-42", "parentVApp", "type=\"VirtualApp\">resgroup-v5")
    } else if seen.body.contains("type=\"VirtualApp\"") {
        ("type=\"VirtualApp\">resgroup-v5", "parent", "type=\"Folder\">group-v3")
    } else {
        ("type=\"Folder\">group-v3", "parent", "type=\"Datacenter\">datacenter-2")
    };
    let (kind, value) = parent.split_once('>').unwrap();
    answer(
        "RetrievePropertiesEx",
        &format!(
            "<returnval><objects><obj {object}</obj><propSet><name>{name}</name><val {kind} \
             xsi:type=\"ManagedObjectReference\">{value}</val></propSet></objects></returnval>"
        ),
    )
}

pub fn vm_ref() -> MoRef {
    MoRef::new("VirtualMachine", "vm-42")
}

pub fn task_ref() -> MoRef {
    MoRef::new("Task", "task-9")
}

pub fn add_disk(n: i32) -> AddDisk {
    AddDisk {
        temp_key: -101 - n,
        controller_key: 1001,
        unit: 3 + n,
        capacity_bytes: 40 << 30,
        backing_kind: BackingKind::FlatV2,
        file_name: BackingPath::new("[ds1] web 01 [x]/é & <b> 'q' \"d\" %2f#.vmdk"),
        datastore: Some(MoRef::new("Datastore", "datastore-11")),
    }
}

pub fn change(change: DeviceChanges) -> Reconfigure {
    Reconfigure { change_version: None, change }
}

/// Makes every request that the client can make, in every variant.
pub async fn drive_all(client: &Client) {
    let vm = vm_ref();
    let snapshot = MoRef::new("VirtualMachineSnapshot", "snapshot-77");
    client.keep_alive().await.unwrap();
    client.find_vms_by_uuid("421c827e-0915-aaf2-b154-1fad4a6297fb", false).await.unwrap();
    client.find_vms_by_uuid("501c827e-0915-aaf2-b154-1fad4a6297fb", true).await.unwrap();
    client.find_vms_by_name("web01").await.unwrap();
    let info = client.vm(&vm).await.unwrap();
    client.snapshot_devices(&snapshot).await.unwrap();
    client.snapshot_hardware(&snapshot).await.unwrap();
    client.datastore(&MoRef::new("Datastore", "datastore-11")).await.unwrap();
    client.host(&MoRef::new("HostSystem", "host-9")).await.unwrap();
    client.datacenter_of(&vm).await.unwrap();
    client.host_state(&MoRef::new("HostSystem", "host-9")).await.unwrap();
    let since = client.server_time().await.unwrap();
    client.events(&vm, since, &["VmMigratedEvent", "DrsVmMigratedEvent"]).await.unwrap();
    client.events(&MoRef::new("HostSystem", "host-9"), since, &["EnteringMaintenanceModeEvent"]).await.unwrap();
    client.datastore_vms(&MoRef::new("Datastore", "datastore-11")).await.unwrap();
    client.vm_disks(&[vm.clone(), MoRef::new("VirtualMachine", "vm-43")]).await.unwrap();
    client.all_vms().await.unwrap();
    client.survey_vms(std::slice::from_ref(&vm)).await.unwrap();
    client.vm_layout(&vm).await.unwrap();
    client.disable_methods(&vm, &["RelocateVM_Task", "Destroy_Task"], "job <1>", "hotadd-agent/p & q").await.unwrap();
    client.enable_methods(&vm, &["RelocateVM_Task", "Destroy_Task"], "hotadd-agent/p & q").await.unwrap();
    client.granted(&vm, &["VApp.Export", "System.Read"]).await.unwrap();
    client.consolidate_disks(&vm).await.unwrap();
    client.fence("52b0-another").await.unwrap();
    client.fence("52a8dea7").await.unwrap();
    for quiesce in [Quiesce::No, Quiesce::Yes, Quiesce::Timeout(15)] {
        let spec = SnapshotSpec { name: "hotadd & co".to_owned(), description: "Temporary.".to_owned(), quiesce };
        client.create_snapshot(&vm, &spec).await.unwrap();
    }
    client.tracking(&vm).await.unwrap();
    for version in [None, info.change_version.as_deref()] {
        client.enable_change_tracking(&vm, version).await.unwrap();
    }
    for id in ["*", "52 de 1b-0a/12"] {
        client.changed_disk_areas(&vm, &snapshot, 2000, 65536, id).await.unwrap();
    }
    client.remove_snapshot(&snapshot, true).await.unwrap();
    let kinds = [BackingKind::FlatV2, BackingKind::SeSparse, BackingKind::SparseV2, BackingKind::RdmVirtual];
    let adds: Vec<AddDisk> =
        (0..4).zip(kinds).map(|(n, backing_kind)| AddDisk { backing_kind, ..add_disk(n) }).collect();
    let spec = Reconfigure {
        change_version: Some("2026-01-01T00:00:00.000000Z".to_owned()),
        change: DeviceChanges::Add(adds),
    };
    client.reconfigure(&vm, &spec).await.unwrap();
    let bare = AddDisk { datastore: None, ..add_disk(0) };
    client.reconfigure(&vm, &change(DeviceChanges::Add(vec![bare]))).await.unwrap();
    // A type checker reads these: only kinds that every version knows.
    let old = |d: &&Disk| !matches!(d.backing.kind, BackingKind::Other(_) | BackingKind::LocalPMem);
    let removes = info.disks().filter(old).map(RemoveDisk::new).collect();
    client.reconfigure(&vm, &change(DeviceChanges::Remove(removes))).await.unwrap();
    let task = task_ref();
    client.task(&task).await.unwrap();
    client.tasks(std::slice::from_ref(&task)).await.unwrap();
    client.wait_task(&task, std::time::Duration::from_secs(60), None).await.unwrap();
    client.cancel_task(&task).await.unwrap();
    let lease = client.export_snapshot(&snapshot).await.unwrap();
    client.lease_ready(&lease, std::time::Duration::from_secs(60), None).await.unwrap();
    client.lease_progress(&lease, 50).await.unwrap();
    client.complete_lease(&lease).await.unwrap();
    client.abort_lease(&lease).await.unwrap();
    client.lease_state(&lease).await.unwrap();
    client.logout().await.unwrap();
}
