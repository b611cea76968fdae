//! Everything that decides how a VM's disks may be read, in one read: proxy, target, a snapshot's disks, their hosts with
//! running tasks, clusters, datastores and what is above them.
//!
//! Source: vSphere API 8.0, PropertyCollector (TraversalSpec), ClusterConfigInfoEx.drsVmConfig,
//! StorageDrsConfigInfo.vmConfig, VirtualMachineRuntimeInfo.faultToleranceState.

use std::collections::BTreeMap;

use crate::client::Client;
use crate::datastore::{DatastoreInfo, datastore_info};
use crate::device::{self, Device};
use crate::error::Error;
use crate::host::{HOST_PRODUCT, HostState, STATE_PATHS, host_state};
use crate::moref::MoRef;
use crate::property::{MissingProperty, Properties, prop_set};
use crate::vm::{self, VmInfo, vm_info};
use crate::xml::{Node, Shape, Writer};

const OP: &str = "RetrievePropertiesEx";
const FAULT_TOLERANCE: &str = "runtime.faultToleranceState";
const CLUSTER: &str = "configurationEx";
const POD: &str = "podStorageDrsEntry.storageDrsConfig";
const DEVICES: &str = "config.hardware.device";
/// Deepest folder nesting followed upwards.
const MAX_ANCESTORS: usize = 64;

/// What one read gave. An object that the user may not see is not there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Planning {
    /// The proxy.
    pub proxy: PlannedVm,
    /// The target.
    pub target: PlannedVm,
    /// Devices of the snapshot, when one was asked for and its devices were given.
    pub snapshot_devices: Option<Vec<Device>>,
    /// Hosts of both.
    pub hosts: Vec<PlannedHost>,
    /// Compute resources of the hosts.
    pub computes: Vec<ComputeInfo>,
    /// Datastores of both.
    pub datastores: Vec<DatastoreInfo>,
    /// Datastore clusters above them.
    pub pods: Vec<PodInfo>,
    parents: BTreeMap<MoRef, MoRef>,
}

/// A VM with what only planning asks.
#[derive(Clone, Debug)]
pub struct PlannedVm {
    /// As [`Client::vm`] reads it.
    pub vm: VmInfo,
    /// `notConfigured`, `disabled`, `enabled`, `needSecondary`, `starting` or `running`.
    pub fault_tolerance: Option<String>,
}

/// A host with its release.
#[derive(Clone, Debug)]
pub struct PlannedHost {
    /// What it goes through; `None` when the server did not give all of it.
    pub state: Option<HostState>,
    /// The host.
    pub moref: MoRef,
    /// Its name.
    pub name: String,
    /// For example `8.0.2`.
    pub version: Option<String>,
    /// Build number.
    pub build: Option<String>,
    /// Properties that the server refused to give.
    pub missing: Vec<MissingProperty>,
}

/// A compute resource: a stand-alone host, or a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeInfo {
    /// `ComputeResource` or `ClusterComputeResource`.
    pub moref: MoRef,
    /// DRS of a cluster; `None` for a cluster that did not tell it.
    pub drs: Option<Automation>,
}

/// A datastore cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// A `StoragePod`.
    pub moref: MoRef,
    /// Storage DRS; `None` when it was not told.
    pub storage_drs: Option<Automation>,
}

/// Automatic moves, and what single VMs are exempted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Automation {
    /// Whether it works at all.
    pub enabled: bool,
    /// `manual`, `partiallyAutomated`, `fullyAutomated` (DRS), `manual`, `automated` (Storage DRS); empty: not told.
    pub behavior: String,
    /// Exceptions.
    pub overrides: Vec<Override>,
}

/// An exception for one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The VM.
    pub vm: MoRef,
    /// False: the VM is left alone. Unset: as everybody.
    pub enabled: Option<bool>,
    /// Behavior for this VM.
    pub behavior: Option<String>,
}

impl Planning {
    /// What is above an object, as far as it was read.
    pub fn parent(&self, object: &MoRef) -> Option<&MoRef> {
        self.parents.get(object)
    }

    /// The datacenter that holds an object; `None` when the user may not see what is between.
    pub fn datacenter(&self, object: &MoRef) -> Option<&MoRef> {
        let mut at = self.parents.get(object)?;
        for _ in 0..MAX_ANCESTORS {
            if at.type_name == "Datacenter" {
                return Some(at);
            }
            at = self.parents.get(at)?;
        }
        None
    }
}

impl Client {
    /// Reads everything that planning needs, in one call as long as it fits on one page.
    ///
    /// # Errors
    /// `Fault(ManagedObjectNotFound)` with the object, when proxy, target or snapshot do not exist. What may not be read is
    /// no error: it is absent, or in `missing`.
    pub async fn planning(&self, proxy: &MoRef, target: &MoRef, snapshot: Option<&MoRef>) -> Result<Planning, Error> {
        let rows = self.collect(|w| spec(w, proxy, target, snapshot)).await?;
        planning(rows, proxy, target, snapshot).map_err(|e| Error::shape(OP, e))
    }
}

fn spec(w: &mut Writer, proxy: &MoRef, target: &MoRef, snapshot: Option<&MoRef>) {
    let vm: Vec<&str> = vm::PATHS.iter().copied().chain(["parentVApp", FAULT_TOLERANCE]).collect();
    let host: Vec<&str> = STATE_PATHS.iter().copied().chain(["parent", HOST_PRODUCT]).collect();
    prop_set(w, "VirtualMachine", &vm);
    prop_set(w, "HostSystem", &host);
    prop_set(w, "Task", &["info.state", "info.descriptionId"]);
    prop_set(w, "ComputeResource", &["name", "parent"]);
    // Subtypes after their bases: a server may take the last that fits.
    prop_set(w, "ClusterComputeResource", &["name", "parent", CLUSTER]);
    prop_set(w, "Datastore", &["parent", "summary", "host", "info"]);
    prop_set(w, "Folder", &["parent"]);
    prop_set(w, "StoragePod", &["parent", POD]);
    prop_set(w, "ResourcePool", &["parent"]);
    prop_set(w, "VirtualApp", &["parent"]);
    prop_set(w, "Datacenter", &["name"]);
    if snapshot.is_some() {
        prop_set(w, "VirtualMachineSnapshot", &[DEVICES]);
    }
    let both = if proxy == target { vec![proxy] } else { vec![proxy, target] };
    for object in both {
        w.nest("objectSet", |w| {
            w.moref("obj", object);
            step(w, None, "VirtualMachine", "runtime.host", |w| {
                step(w, None, "HostSystem", "parent", |_| {});
                step(w, None, "HostSystem", "recentTask", |_| {});
            });
            step(w, None, "VirtualMachine", "datastore", |w| step(w, None, "Datastore", "parent", |_| {}));
            step(w, None, "VirtualMachine", "parentVApp", up_again);
            step(w, Some("up"), "ManagedEntity", "parent", up_again);
        });
    }
    if let Some(snapshot) = snapshot {
        w.nest("objectSet", |w| w.moref("obj", snapshot));
    }
}

/// Writes a `TraversalSpec` that takes what it reaches with it.
fn step(w: &mut Writer, name: Option<&str>, from: &str, path: &str, next: impl FnOnce(&mut Writer)) {
    w.typed("selectSet", "TraversalSpec", |w| {
        if let Some(name) = name {
            w.text("name", name);
        }
        w.text("type", from);
        w.text("path", path);
        w.value("skip", false);
        next(w);
    });
}

fn up_again(w: &mut Writer) {
    w.nest("selectSet", |w| w.text("name", "up"));
}

fn planning(rows: Vec<Properties>, proxy: &MoRef, target: &MoRef, snapshot: Option<&MoRef>) -> Result<Planning, Shape> {
    // An object that both VMs lead to may come twice.
    let mut all: BTreeMap<MoRef, Properties> = BTreeMap::new();
    for row in rows {
        all.entry(row.object.clone()).or_insert(row);
    }
    let mut parents = BTreeMap::new();
    for row in all.values() {
        let above = match row.moref("parent")? {
            Some(parent) => Some(parent),
            None => row.moref("parentVApp")?,
        };
        parents.extend(above.map(|above| (row.object.clone(), above)));
    }
    let snapshot_devices = match snapshot.and_then(|snapshot| all.get(snapshot)).and_then(|row| row.get(DEVICES)) {
        Some(array) => Some(device::devices(array)?),
        None => None,
    };
    let of = |kind: &'static str| all.values().filter(move |row| row.object.type_name == kind);
    let computes: Result<Vec<_>, Shape> =
        of("ComputeResource").chain(of("ClusterComputeResource")).map(compute).collect();
    let pods: Result<Vec<_>, Shape> = of("StoragePod").map(pod).collect();
    let (computes, pods) = (computes?, pods?);
    let hosts: Result<Vec<_>, Shape> = of("HostSystem").map(|row| host(row, &all)).collect();
    let hosts = hosts?;
    let is_target_proxy = proxy == target;
    let stores: Vec<MoRef> =
        of("Datastore").filter(|row| row.get("summary").is_some()).map(|row| row.object.clone()).collect();
    let datastores: Result<Vec<_>, Shape> =
        stores.iter().filter_map(|store| all.remove(store)).map(datastore_info).collect();
    let proxy = planned_vm(all.remove(proxy), proxy)?;
    let target = if is_target_proxy { proxy.clone() } else { planned_vm(all.remove(target), target)? };
    Ok(Planning { proxy, target, snapshot_devices, hosts, computes, datastores: datastores?, pods, parents })
}

fn planned_vm(row: Option<Properties>, vm: &MoRef) -> Result<PlannedVm, Shape> {
    let row = row.ok_or_else(|| Shape(format!("no answer for {vm}")))?;
    let fault_tolerance = row.string(FAULT_TOLERANCE);
    Ok(PlannedVm { vm: vm_info(row)?, fault_tolerance })
}

fn host(row: &Properties, all: &BTreeMap<MoRef, Properties>) -> Result<PlannedHost, Shape> {
    let tasks: Vec<&Properties> = row.morefs("recentTask")?.iter().filter_map(|task| all.get(task)).collect();
    let product = row.get(HOST_PRODUCT);
    Ok(PlannedHost {
        // Without all of its properties a host is not known to be calm.
        state: if row.missing.iter().any(|m| m.path != HOST_PRODUCT) { None } else { host_state(row, &tasks)? },
        name: row.string("name").map(|name| crate::inventory::decode_name(&name)).unwrap_or_default(),
        version: product.and_then(|p| p.string("version")),
        build: product.and_then(|p| p.string("build")),
        missing: row.missing.clone(),
        moref: row.object.clone(),
    })
}

fn compute(row: &Properties) -> Result<ComputeInfo, Shape> {
    let drs = match row.get(CLUSTER) {
        Some(config) => automation(config.child("drsConfig"), "defaultVmBehavior", config.all("drsVmConfig"), "key")?,
        None => None,
    };
    Ok(ComputeInfo { moref: row.object.clone(), drs })
}

fn pod(row: &Properties) -> Result<PodInfo, Shape> {
    let storage_drs = match row.get(POD) {
        Some(config) => automation(config.child("podConfig"), "defaultVmBehavior", config.all("vmConfig"), "vm")?,
        None => None,
    };
    Ok(PodInfo { moref: row.object.clone(), storage_drs })
}

fn automation<'a>(
    config: Option<&Node>,
    behavior: &str,
    overrides: impl Iterator<Item = &'a Node>,
    vm: &str,
) -> Result<Option<Automation>, Shape> {
    let Some(config) = config else { return Ok(None) };
    let mut list = Vec::new();
    for entry in overrides {
        let Some(vm) = entry.opt_ref(vm)? else { continue };
        list.push(Override { vm, enabled: entry.flag("enabled")?, behavior: entry.string("behavior") });
    }
    Ok(Some(Automation {
        enabled: config.flag("enabled")?.unwrap_or(false),
        behavior: config.string(behavior).unwrap_or_default(),
        overrides: list,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    fn row(text: &str) -> Properties {
        let text = format!("<objects xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'>{text}</objects>");
        Properties::parse(parse(&text).unwrap()).unwrap()
    }

    fn moref(kind: &str, value: &str) -> MoRef {
        MoRef::new(kind, value)
    }

    #[test]
    fn clusters_tell_drs_and_who_is_exempt() {
        let cluster = row("<obj type='ClusterComputeResource'>domain-c8</obj><propSet><name>configurationEx</name>\
             <val xsi:type='ClusterConfigInfoEx'><drsConfig><enabled>true</enabled>\
             <defaultVmBehavior>fullyAutomated</defaultVmBehavior></drsConfig>\
             <drsVmConfig><key type='VirtualMachine'>vm-1</key><enabled>false</enabled></drsVmConfig>\
             <drsVmConfig><key type='VirtualMachine'>vm-2</key><behavior>manual</behavior></drsVmConfig></val></propSet>");
        let drs = compute(&cluster).unwrap().drs.unwrap();
        assert_eq!((drs.enabled, drs.behavior.as_str()), (true, "fullyAutomated"));
        assert_eq!(
            drs.overrides[0],
            Override { vm: moref("VirtualMachine", "vm-1"), enabled: Some(false), behavior: None }
        );
        assert_eq!(drs.overrides[1].behavior.as_deref(), Some("manual"));
        let silent = row("<obj type='ClusterComputeResource'>domain-c8</obj>");
        assert_eq!(compute(&silent).unwrap().drs, None, "not told is not off");
    }

    #[test]
    fn datastore_clusters_tell_storage_drs() {
        let told =
            row("<obj type='StoragePod'>group-p1</obj><propSet><name>podStorageDrsEntry.storageDrsConfig</name>\
             <val xsi:type='StorageDrsConfigInfo'><podConfig><enabled>true</enabled><ioLoadBalanceEnabled>false\
             </ioLoadBalanceEnabled><defaultVmBehavior>automated</defaultVmBehavior></podConfig>\
             <vmConfig><vm type='VirtualMachine'>vm-1</vm><enabled>false</enabled></vmConfig></val></propSet>");
        let sdrs = pod(&told).unwrap().storage_drs.unwrap();
        assert_eq!((sdrs.enabled, sdrs.behavior.as_str(), sdrs.overrides.len()), (true, "automated", 1));
    }

    #[test]
    fn the_datacenter_is_found_upwards_and_loops_end() {
        let vm = |folder: &str| {
            row(&format!(
                "<obj type='VirtualMachine'>vm-1</obj><propSet><name>parent</name><val type='Folder'>{folder}</val></propSet>"
            ))
        };
        let folder = |name: &str, kind: &str, above: &str| {
            row(&format!(
                "<obj type='Folder'>{name}</obj><propSet><name>parent</name><val type='{kind}'>{above}</val></propSet>"
            ))
        };
        let me = moref("VirtualMachine", "vm-1");
        let plan = |rows| planning(rows, &me, &me, None).unwrap();
        let good = plan(vec![vm("a"), folder("a", "Folder", "b"), folder("b", "Datacenter", "dc"), vm("a")]);
        assert_eq!(good.datacenter(&me).unwrap().value, "dc");
        assert_eq!(good.parent(&me).unwrap().value, "a");
        assert_eq!(plan(vec![vm("a"), folder("a", "Folder", "a")]).datacenter(&me), None);
        assert_eq!(plan(vec![vm("a")]).datacenter(&me), None, "a folder that may not be seen");
    }
}
