//! Properties of datastores, hosts, compute resources, pools, the datacenter and its folders.

use super::service::about;
use super::{obj, shown_name};
use crate::inventory::{DatastoreKind, DrsSpec, stable_uuid};
use crate::state::{DC, DC2, DS_FOLDER, Datastore, HOST_FOLDER, Host, NET_FOLDER, ROOT, State, VM_FOLDER, VM_FOLDER2};
use crate::value::{MoRef, Obj, Val};

pub(crate) fn compute_id(h: &Host) -> String {
    h.id.replace("host-", if h.drs.is_some() { "domain-c" } else { "domain-s" })
}

/// The compute resource of a host: a cluster where there is DRS.
pub(crate) fn compute_ref(h: &Host) -> MoRef {
    MoRef::new(if h.drs.is_some() { "ClusterComputeResource" } else { "ComputeResource" }, compute_id(h))
}

pub(crate) fn pool_id(h: &Host) -> String {
    h.id.replace("host-", "resgroup-")
}

pub(crate) fn top(s: &State, r: &MoRef, name: &str) -> Option<Val> {
    match name {
        "overallStatus" | "configStatus" => return Some(Val::Str("green".into())),
        "recentTask" if silent(s, r) => return Some(Val::List(Vec::new())),
        "recentTask" => return Some(Val::List(s.recent_tasks(r).into_iter().map(Val::Ref).collect())),
        "alarmActionsEnabled" => return Some(Val::Bool(true)),
        _ => {}
    }
    match r.ty.as_str() {
        "Datastore" => datastore(s, s.datastores.iter().find(|d| d.id == r.id)?, name),
        "HostSystem" => host(s, s.hosts.iter().find(|h| h.id == r.id)?, name),
        "ComputeResource" | "ClusterComputeResource" => {
            compute(s, s.hosts.iter().find(|h| compute_id(h) == r.id)?, name)
        }
        "ResourcePool" => pool(s, s.hosts.iter().find(|h| pool_id(h) == r.id)?, name),
        "Datacenter" if r.id == DC2 => elsewhere(name),
        "Datacenter" => datacenter(s, name),
        _ => folder(s, &r.id, name),
    }
}

/// Neither tasks nor flags of this host are told.
fn silent(s: &State, r: &MoRef) -> bool {
    r.ty == "HostSystem" && s.host(&r.id).is_some_and(|h| h.silent)
}

fn list(refs: Vec<MoRef>) -> Option<Val> {
    Some(Val::List(refs.into_iter().map(Val::Ref).collect()))
}

fn folder_ref(id: &str) -> Option<Val> {
    Some(Val::Ref(MoRef::new("Folder", id)))
}

fn all_datastores(s: &State) -> Vec<MoRef> {
    s.datastores.iter().map(|d| MoRef::new("Datastore", d.id.clone())).collect()
}

fn seen(s: &State, h: &Host) -> Vec<MoRef> {
    s.datastores.iter().filter(|d| s.host_sees(&h.id, &d.name)).map(|d| MoRef::new("Datastore", d.id.clone())).collect()
}

fn vms_of(s: &State, pick: impl Fn(&crate::state::Vm) -> bool) -> Vec<MoRef> {
    s.vms.values().filter(|v| pick(v)).map(crate::state::Vm::moref).collect()
}

fn kind_name(k: DatastoreKind) -> &'static str {
    match k {
        DatastoreKind::Vmfs => "VMFS",
        DatastoreKind::Nfs3 => "NFS",
        DatastoreKind::Nfs41 => "NFS41",
        DatastoreKind::Vsan => "vsan",
        DatastoreKind::Vvol => "VVOL",
    }
}

fn ds_url(d: &Datastore) -> String {
    format!("ds:///vmfs/volumes/{}/", stable_uuid("5f", &d.name))
}

const CAPACITY: u64 = 4 << 40;

fn datastore(s: &State, d: &Datastore, name: &str) -> Option<Val> {
    let some = |o: Obj| Some(Val::Obj(o));
    match name {
        "name" => Some(Val::Str(shown_name(&d.name))),
        "parent" => folder_ref(DS_FOLDER),
        "summary" => some(
            obj("DatastoreSummary")
                .with("datastore", MoRef::new("Datastore", d.id.clone()))
                .with("name", shown_name(&d.name))
                .with("url", ds_url(d))
                .with("capacity", CAPACITY)
                .with("freeSpace", d.free)
                .with("accessible", d.accessible)
                .with("multipleHostAccess", s.hosts.iter().filter(|h| s.host_sees(&h.id, &d.name)).count() > 1)
                .with("type", kind_name(d.kind))
                .with("maintenanceMode", "normal"),
        ),
        "info" => some(datastore_info(s, d)),
        "host" => {
            let mounts = s.hosts.iter().filter(|h| s.host_sees(&h.id, &d.name)).map(|h| {
                let info = obj("HostMountInfo")
                    .with("path", format!("/vmfs/volumes/{}", stable_uuid("5f", &d.name)))
                    .with("accessMode", d.access_mode.as_str())
                    .with("mounted", true)
                    .with("accessible", d.accessible);
                Val::Obj(
                    obj("DatastoreHostMount")
                        .with("key", MoRef::new("HostSystem", h.id.clone()))
                        .with("mountInfo", info),
                )
            });
            Some(Val::List(mounts.collect()))
        }
        "vm" => list(vms_of(s, |v| super::vm::datastores(s, v).iter().any(|r| r.id == d.id))),
        "capability" => {
            let mut o = obj("DatastoreCapability");
            for p in crate::schema::SCHEMA.props("DatastoreCapability") {
                o = o.with(
                    p.name,
                    matches!(
                        p.name,
                        "directoryHierarchySupported" | "perFileThinProvisioningSupported" | "seSparseSupported"
                    ),
                );
            }
            some(o)
        }
        _ => None,
    }
}

fn datastore_info(s: &State, d: &Datastore) -> Obj {
    let ty = match d.kind {
        DatastoreKind::Vmfs => "VmfsDatastoreInfo",
        DatastoreKind::Nfs3 | DatastoreKind::Nfs41 => "NasDatastoreInfo",
        DatastoreKind::Vsan if s.api >= crate::schema::Ver([7, 0, 1, 0]) => "VsanDatastoreInfo",
        DatastoreKind::Vsan => "DatastoreInfo",
        DatastoreKind::Vvol => "VvolDatastoreInfo",
    };
    let o = obj(ty)
        .with("name", shown_name(&d.name))
        .with("url", ds_url(d))
        .with("freeSpace", d.free)
        .with("maxFileSize", 62u64 << 40)
        .with("maxVirtualDiskCapacity", 62u64 << 40)
        .with("maxMemoryFileSize", 62u64 << 40);
    match ty {
        "VmfsDatastoreInfo" => {
            let vmfs = obj("HostVmfsVolume")
                .with("type", "VMFS")
                .with("name", shown_name(&d.name))
                .with("capacity", CAPACITY)
                .with("blockSizeMb", 1)
                .with("maxBlocks", 63 * 1024 * 1024)
                .with("majorVersion", 6)
                .with("version", "6.82")
                .with("uuid", stable_uuid("5f", &d.name))
                .with("extent", vec![obj("HostScsiDiskPartition").with("diskName", "naa.6000").with("partition", 1)])
                .with("vmfsUpgradable", false);
            o.with("maxPhysicalRDMFileSize", 64u64 << 40).with("maxVirtualRDMFileSize", 62u64 << 40).with("vmfs", vmfs)
        }
        "NasDatastoreInfo" => {
            let nas = obj("HostNasVolume")
                .with("type", kind_name(d.kind))
                .with("name", shown_name(&d.name))
                .with("capacity", CAPACITY)
                .with("remoteHost", "nas.lab")
                .with("remotePath", "/export");
            o.with("nas", nas)
        }
        _ => o,
    }
}

fn host_runtime(h: &Host) -> Obj {
    if h.silent {
        return obj("HostRuntimeInfo")
            .with("connectionState", "connected")
            .with("powerState", "poweredOn")
            .with("standbyMode", "none")
            .with("inMaintenanceMode", false)
            .with("inQuarantineMode", false)
            .with("bootTime", "2024-01-01T00:00:00Z");
    }
    obj("HostRuntimeInfo")
        .with("connectionState", h.connection.as_str())
        .with("powerState", if h.standby == "in" { "standBy" } else { "poweredOn" })
        .with("standbyMode", h.standby.as_str())
        .with("inMaintenanceMode", h.in_maintenance)
        .with("inQuarantineMode", h.in_quarantine)
        .with("bootTime", "2024-01-01T00:00:00Z")
}

fn esx(s: &State, h: &Host) -> Obj {
    let mut a = about(s);
    for (n, v) in &mut a.fields {
        match *n {
            "name" => *v = Val::Str("VMware ESXi".into()),
            "fullName" => *v = Val::Str(format!("VMware ESXi {} build-1", s.api_text)),
            "productLineId" => *v = Val::Str("embeddedEsx".into()),
            "osType" => *v = Val::Str("vmnix-x86".into()),
            "version" => *v = h.version.clone().map_or_else(|| v.clone(), Val::Str),
            "build" => *v = h.build.clone().map_or_else(|| v.clone(), Val::Str),
            "apiType" => *v = Val::Str("HostAgent".into()),
            _ => {}
        }
    }
    a.fields.retain(|(n, _)| *n != "instanceUuid");
    a
}

fn host(s: &State, h: &Host, name: &str) -> Option<Val> {
    let me = MoRef::new("HostSystem", h.id.clone());
    match name {
        "name" => Some(Val::Str(shown_name(&h.name))),
        "parent" => Some(Val::Ref(compute_ref(h))),
        "runtime" => Some(Val::Obj(host_runtime(h))),
        "config" => Some(Val::Obj(obj("HostConfigInfo").with("host", me).with("product", esx(s, h)))),
        "summary" => {
            let config = obj("HostConfigSummary")
                .with("name", shown_name(&h.name))
                .with("port", 902)
                .with("product", esx(s, h))
                .with("vmotionEnabled", true)
                .with("faultToleranceEnabled", false);
            let o = obj("HostListSummary")
                .with("host", me)
                .with("runtime", host_runtime(h))
                .with("config", config)
                .with("quickStats", obj("HostListSummaryQuickStats"))
                .with("overallStatus", "green")
                .with("rebootRequired", false);
            Some(Val::Obj(o))
        }
        "datastore" => list(seen(s, h)),
        "network" => list(Vec::new()),
        "vm" => list(vms_of(s, |v| v.host == h.id)),
        _ => None,
    }
}

fn compute(s: &State, h: &Host, name: &str) -> Option<Val> {
    match name {
        "name" => Some(Val::Str(shown_name(&h.name))),
        "parent" => folder_ref(HOST_FOLDER),
        "host" => list(vec![MoRef::new("HostSystem", h.id.clone())]),
        "resourcePool" => Some(Val::Ref(MoRef::new("ResourcePool", pool_id(h)))),
        "datastore" => list(seen(s, h)),
        "network" => list(Vec::new()),
        "configurationEx" => h.drs.as_ref().map(|drs| Val::Obj(cluster(s, drs))),
        _ => None,
    }
}

fn cluster(s: &State, drs: &DrsSpec) -> Obj {
    let exempt = |(name, behavior): (&String, &String)| {
        let vm = s.find_vm(name)?;
        let alone = behavior == "disabled";
        let o = obj("ClusterDrsVmConfigInfo").with("key", MoRef::new("VirtualMachine", vm)).with("enabled", !alone);
        Some(Val::Obj(o.with("behavior", (!alone).then_some(behavior.as_str()))))
    };
    let config =
        obj("ClusterDrsConfigInfo").with("enabled", drs.enabled).with("defaultVmBehavior", drs.behavior.as_str());
    let overrides: Vec<Val> = drs.overrides.iter().filter_map(exempt).collect();
    obj("ClusterConfigInfoEx")
        .with("vmSwapPlacement", "vmDirectory")
        .with("dasConfig", obj("ClusterDasConfigInfo"))
        .with("drsConfig", config)
        .with("drsVmConfig", (!overrides.is_empty()).then_some(overrides))
}

fn elsewhere(name: &str) -> Option<Val> {
    match name {
        "name" => Some(Val::Str("elsewhere".into())),
        "parent" => folder_ref(ROOT),
        "vmFolder" => folder_ref(VM_FOLDER2),
        "datastore" | "network" => list(Vec::new()),
        "configuration" => Some(Val::Obj(obj("DatacenterConfigInfo"))),
        _ => None,
    }
}

fn pool(s: &State, h: &Host, name: &str) -> Option<Val> {
    let owner = || Some(Val::Ref(compute_ref(h)));
    match name {
        "name" => Some(Val::Str("Resources".into())),
        "parent" | "owner" => owner(),
        "vm" => list(vms_of(s, |v| v.host == h.id)),
        "resourcePool" => list(Vec::new()),
        _ => None,
    }
}

fn datacenter(s: &State, name: &str) -> Option<Val> {
    match name {
        "name" => Some(Val::Str(shown_name(&s.datacenter))),
        "parent" => folder_ref(ROOT),
        "vmFolder" => folder_ref(VM_FOLDER),
        "hostFolder" => folder_ref(HOST_FOLDER),
        "datastoreFolder" => folder_ref(DS_FOLDER),
        "networkFolder" => folder_ref(NET_FOLDER),
        "datastore" => list(all_datastores(s)),
        "network" => list(Vec::new()),
        "configuration" => Some(Val::Obj(obj("DatacenterConfigInfo"))),
        _ => None,
    }
}

fn folder(s: &State, id: &str, name: &str) -> Option<Val> {
    let (label, types): (&str, &[&str]) = match id {
        ROOT => ("Datacenters", &["Folder", "Datacenter"]),
        VM_FOLDER | VM_FOLDER2 => ("vm", &["Folder", "VirtualMachine", "VirtualApp"]),
        HOST_FOLDER => ("host", &["Folder", "ComputeResource"]),
        DS_FOLDER => ("datastore", &["Folder", "Datastore", "StoragePod"]),
        _ => ("network", &["Folder", "Network", "DistributedVirtualSwitch"]),
    };
    match name {
        "name" => Some(Val::Str(label.into())),
        "parent" if id == ROOT => None,
        "parent" => Some(Val::Ref(MoRef::new("Datacenter", if id == VM_FOLDER2 { DC2 } else { DC }))),
        "childType" => Some(Val::List(types.iter().map(|t| Val::Str((*t).to_owned())).collect())),
        "childEntity" => list(children(s, id)),
        _ => None,
    }
}

pub(crate) fn children(s: &State, id: &str) -> Vec<MoRef> {
    match id {
        ROOT if s.vms.values().any(|vm| vm.elsewhere) => {
            vec![MoRef::new("Datacenter", DC), MoRef::new("Datacenter", DC2)]
        }
        ROOT => vec![MoRef::new("Datacenter", DC)],
        DC2 => vec![MoRef::new("Folder", VM_FOLDER2)],
        VM_FOLDER2 => vms_of(s, |v| v.elsewhere),
        DC => [VM_FOLDER, HOST_FOLDER, DS_FOLDER, NET_FOLDER].iter().map(|f| MoRef::new("Folder", *f)).collect(),
        VM_FOLDER => vms_of(s, |v| !v.elsewhere),
        DS_FOLDER => all_datastores(s),
        HOST_FOLDER => s.hosts.iter().map(compute_ref).collect(),
        other => match s.hosts.iter().find(|h| compute_id(h) == other) {
            Some(h) => vec![MoRef::new("HostSystem", h.id.clone()), MoRef::new("ResourcePool", pool_id(h))],
            None => Vec::new(),
        },
    }
}
