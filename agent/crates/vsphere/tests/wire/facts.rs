//! Facts of VMs, snapshots, datastores and hosts, from answers in the shape of a vCenter's.

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{
    Client, DatastoreKind, Device, ErrorKind, FaultKind, GuestInfo, HostMount, MoRef, NasVolume, PowerState,
};

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

async fn start() -> (Server, Client) {
    let server = Server::start(happy).await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

/// A server that answers every property read with `inner`.
async fn answering(inner: String) -> (Server, Client) {
    let server = Server::start(move |seen| match seen.op.as_str() {
        "RetrievePropertiesEx" => vim::answer(&seen.op, &inner),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn a_vm_with_everything() {
    let (_server, client) = start().await;
    let vm = client.vm(&vim::vm_ref()).await.unwrap();
    assert_eq!((vm.moref.clone(), vm.name.as_str()), (vim::vm_ref(), "web/01 & co"));
    assert_eq!(vm.uuid.as_deref(), Some("421c827e-0915-aaf2-b154-1fad4a6297fb"));
    assert_eq!(vm.instance_uuid.as_deref(), Some("501c827e-0915-aaf2-b154-1fad4a6297fb"));
    assert_eq!((vm.hardware_version, vm.change_version.as_deref()), (Some(19), Some("2026-01-01T00:00:00.000000Z")));
    assert_eq!((vm.power_state.clone(), vm.connection_state.as_deref()), (Some(PowerState::On), Some("connected")));
    assert_eq!(
        (vm.host.clone(), vm.parent.clone()),
        (Some(MoRef::new("HostSystem", "host-9")), Some(MoRef::new("Folder", "group-v3")))
    );
    assert_eq!((vm.is_template, vm.change_tracking_enabled, vm.consolidation_needed), (false, Some(true), Some(false)));
    assert_eq!(vm.vm_path_name.as_deref(), Some("[ds1] web01/web01.vmx"));
    assert_eq!(
        (vm.extra("DISK.enableuuid"), vm.extra("guestinfo.x"), vm.extra("empty")),
        (Some("TRUE"), Some("a < b"), Some(""))
    );
    assert_eq!(vm.datastores, [MoRef::new("Datastore", "datastore-11"), MoRef::new("Datastore", "datastore-12")]);
    assert_eq!(
        (vm.disabled_methods.clone(), vm.recent_tasks.clone()),
        (vec!["RelocateVM_Task".to_owned()], vec![vim::task_ref()])
    );
    assert_eq!(vm.question.as_deref(), Some("msg.disk.noSpace: no space"));
    assert_eq!(
        (vm.tools_running_status.as_deref(), vm.tools_status.as_deref()),
        (Some("guestToolsRunning"), Some("toolsOk"))
    );
    let guest = GuestInfo {
        host_name: Some("web01.example".to_owned()),
        ip_address: Some("192.0.2.7".to_owned()),
        guest_id: Some("debian12_64Guest".to_owned()),
    };
    assert_eq!(vm.guest, guest);
    assert_eq!((vm.disks().count(), vm.scsi_controllers().count()), (8, 6));
}

#[tokio::test]
async fn what_may_not_be_read_is_named_with_its_privilege() {
    let (_server, client) = start().await;
    let vm = client.vm(&vim::vm_ref()).await.unwrap();
    assert_eq!((vm.key_id, vm.missing.len()), (None, 1));
    assert_eq!(vm.missing[0].path, "config.keyId");
    let expected =
        FaultKind::NoPermission { object: Some(vim::vm_ref()), privilege: Some("Cryptographer.Access".to_owned()) };
    assert_eq!(vm.missing[0].fault.kind, expected);
}

#[tokio::test]
async fn the_snapshot_tree() {
    let (_server, client) = start().await;
    let tree = client.vm(&vim::vm_ref()).await.unwrap().snapshots.unwrap();
    let child = MoRef::new("VirtualMachineSnapshot", "snapshot-78");
    assert_eq!(tree.current.as_ref(), Some(&child));
    assert_eq!((tree.roots.len(), tree.roots[0].name.as_str()), (1, "before & after"));
    let found = tree.find(&child).unwrap();
    assert!(found.quiesced && found.children.is_empty());
    assert_eq!((found.name.as_str(), found.description.as_str()), ("child", "d of child"));
    assert_eq!(found.create_time.unwrap().to_string(), "2026-01-02T03:04:05.678901Z");
    assert!(tree.find(&MoRef::new("VirtualMachineSnapshot", "snapshot-1")).is_none());
}

#[tokio::test]
async fn a_vm_with_nothing() {
    let (_server, client) =
        answering("<returnval><objects><obj type=\"VirtualMachine\">vm-42</obj></objects></returnval>".to_owned())
            .await;
    let vm = client.vm(&vim::vm_ref()).await.unwrap();
    assert_eq!((vm.name.as_str(), vm.uuid, vm.power_state, vm.host), ("", None, None, None));
    assert!(vm.devices.is_empty() && vm.snapshots.is_none() && vm.missing.is_empty() && !vm.is_template);
}

#[tokio::test]
async fn a_vm_that_is_not_there() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "RetrievePropertiesEx" => vim::fault(
            "ManagedObjectNotFound",
            "<obj type=\"VirtualMachine\">vm-42</obj>",
            "The object has already been deleted or has not been completely created",
        ),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let error = client.vm(&vim::vm_ref()).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("already been deleted"), "{error}");
}

#[tokio::test]
async fn devices_of_a_snapshot() {
    let (_server, client) = start().await;
    let snapshot = MoRef::new("VirtualMachineSnapshot", "snapshot-77");
    let devices = client.snapshot_devices(&snapshot).await.unwrap();
    assert_eq!(devices.iter().filter_map(|d| d.as_disk()).count(), 8);
    let refused = "<returnval><objects><obj type=\"VirtualMachineSnapshot\">snapshot-77</obj><missingSet><path>\
                   config.hardware.device</path><fault><fault xsi:type=\"NoPermission\"><privilegeId>System.Read\
                   </privilegeId></fault></fault></missingSet></objects></returnval>";
    let (_server, client) = answering(refused.to_owned()).await;
    let error = client.snapshot_devices(&snapshot).await.unwrap_err();
    assert!(error.to_string().contains("System.Read"), "{error}");
    let none = "<returnval><objects><obj type=\"VirtualMachineSnapshot\">snapshot-77</obj></objects></returnval>";
    let (_server, client) = answering(none.to_owned()).await;
    assert_eq!(*client.snapshot_devices(&snapshot).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn hardware_of_a_snapshot() {
    let (server, client) = start().await;
    let snapshot = MoRef::new("VirtualMachineSnapshot", "snapshot-77");
    let hardware = client.snapshot_hardware(&snapshot).await.unwrap();
    assert_eq!((hardware.cpus, hardware.cores_per_socket, hardware.memory_mib), (4, Some(2), 8192));
    assert_eq!((hardware.guest_id.as_deref(), hardware.version.as_deref()), (Some("debian12_64Guest"), Some("vmx-19")));
    assert_eq!((hardware.firmware.as_deref(), hardware.secure_boot), (Some("efi"), Some(true)));
    let networks: Vec<_> = hardware
        .devices
        .iter()
        .filter_map(|device| match device {
            Device::Nic { type_name, network, .. } => Some((type_name.as_str(), network.as_deref())),
            _ => None,
        })
        .collect();
    assert_eq!(networks, [("VirtualVmxnet3", Some("VM Network"))]);
    let asked = server.last("RetrievePropertiesEx").body;
    assert!(!asked.contains("annotation") && !asked.contains("extraConfig") && !asked.contains("files"), "{asked}");

    let object = "<obj type=\"VirtualMachineSnapshot\">snapshot-77</obj>";
    let refused = format!(
        "<returnval><objects>{object}<missingSet><path>config</path><fault><fault xsi:type=\"NoPermission\">\
         <privilegeId>System.Read</privilegeId></fault></fault></missingSet></objects></returnval>"
    );
    let (_server, client) = answering(refused).await;
    let error = client.snapshot_hardware(&snapshot).await.unwrap_err();
    assert!(error.to_string().contains("System.Read"), "{error}");
    let (_server, client) = answering(format!("<returnval><objects>{object}</objects></returnval>")).await;
    assert_eq!(*client.snapshot_hardware(&snapshot).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn names_are_compared_decoded_over_all_pages() {
    let (server, client) = start().await;
    assert_eq!(client.find_vms_by_name("a/b%").await.unwrap(), [MoRef::new("VirtualMachine", "vm-1")]);
    assert_eq!(client.find_vms_by_name("web01").await.unwrap(), [MoRef::new("VirtualMachine", "vm-2")]);
    assert!(client.find_vms_by_name("a%2fb%25").await.unwrap().is_empty());
    assert_eq!((server.count("CreateContainerView"), server.count("DestroyView")), (3, 3));
}

#[tokio::test]
async fn no_hit_is_an_empty_list() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "FindAllByUuid" | "RetrievePropertiesEx" => vim::answer(&seen.op, ""),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    assert!(client.find_vms_by_uuid("x", true).await.unwrap().is_empty());
    assert!(client.find_vms_by_name("x").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_datacenter_above_a_vapp() {
    let (_server, client) = start().await;
    let datacenter = Some(MoRef::new("Datacenter", "datacenter-2"));
    assert_eq!(client.datacenter_of(&vim::vm_ref()).await.unwrap(), datacenter);
    assert_eq!(client.datacenter_of(datacenter.as_ref().unwrap()).await.unwrap(), datacenter);
    let (_server, client) =
        answering("<returnval><objects><obj type=\"Folder\">group-d1</obj></objects></returnval>".to_owned()).await;
    assert_eq!(client.datacenter_of(&MoRef::new("Folder", "group-d1")).await.unwrap(), None);
}

#[tokio::test]
async fn a_vmfs_datastore() {
    let (_server, client) = start().await;
    let ds = client.datastore(&MoRef::new("Datastore", "datastore-11")).await.unwrap();
    assert_eq!((ds.name.as_str(), &ds.kind, ds.accessible), ("ds/1", &DatastoreKind::Vmfs, true));
    assert_eq!((ds.capacity_bytes, ds.free_bytes), (100 << 30, 50 << 30));
    assert_eq!((ds.url.as_str(), ds.vmfs_version.as_deref()), ("ds:///vmfs/volumes/5f/", Some("6.82")));
    assert_eq!((ds.maintenance_mode.as_deref(), ds.nas), (Some("normal"), None));
    let mount = |host, accessible, mode: &str| HostMount {
        host: MoRef::new("HostSystem", host),
        accessible: Some(accessible),
        access_mode: Some(mode.to_owned()),
    };
    assert_eq!(ds.hosts, [mount("host-9", true, "readWrite"), mount("host-10", false, "readOnly")]);
}

#[tokio::test]
async fn other_kinds_of_datastores() {
    for (text, kind) in [
        ("NFS", DatastoreKind::Nfs3),
        ("NFS41", DatastoreKind::Nfs41),
        ("vsan", DatastoreKind::Vsan),
        ("VVOL", DatastoreKind::Vvol),
        ("PMEM", DatastoreKind::PMem),
        ("vsanD", DatastoreKind::Other("vsanD".to_owned())),
    ] {
        let inner = format!(
            "<returnval><objects><obj type=\"Datastore\">datastore-11</obj><propSet><name>info</name><val \
             xsi:type=\"NasDatastoreInfo\"><name>n</name><nas><type>NFS</type><remoteHost>nas.example</remoteHost>\
             <remotePath>/vol/1</remotePath></nas></val></propSet><propSet><name>summary</name><val \
             xsi:type=\"DatastoreSummary\"><name>n</name><url>ds:///x/</url><capacity>1</capacity><freeSpace>1</freeSpace>\
             <accessible>false</accessible><type>{text}</type></val></propSet></objects></returnval>"
        );
        let (_server, client) = answering(inner).await;
        let ds = client.datastore(&MoRef::new("Datastore", "datastore-11")).await.unwrap();
        let nas = NasVolume { remote_host: "nas.example".to_owned(), remote_path: "/vol/1".to_owned() };
        assert_eq!((ds.kind, ds.accessible, ds.nas, ds.vmfs_version), (kind, false, Some(nas), None));
    }
}

#[tokio::test]
async fn a_host() {
    let (_server, client) = start().await;
    let host = client.host(&MoRef::new("HostSystem", "host-9")).await.unwrap();
    assert_eq!(host.name, "esx1.example");
    assert_eq!((host.version.as_deref(), host.build.as_deref()), (Some("8.0.2"), Some("22380479")));
    assert_eq!((host.in_maintenance_mode, host.in_quarantine_mode), (Some(false), Some(false)));
    assert_eq!(host.connection_state.as_deref(), Some("connected"));
    assert_eq!(host.parent, Some(MoRef::new("ClusterComputeResource", "domain-c7")));
    assert_eq!((host.datastores.len(), host.recent_tasks.len()), (1, 1));
}

#[test]
fn references_print_and_parse() {
    let vm = vim::vm_ref();
    assert_eq!(
        (vm.to_string().as_str(), vm.to_string().parse::<MoRef>().unwrap()),
        ("VirtualMachine:vm-42", vm.clone())
    );
    for bad in ["", "vm-42", ":vm-42", "VirtualMachine:"] {
        assert!(bad.parse::<MoRef>().is_err(), "{bad}");
    }
}
