//! The planner's facts from one read of vCenter. What was refused or is not set becomes unknown, with vCenter's words.
//!
//! Source: vSphere API 8.0; the paths are in hotadd-vsphere's `planning`.
use hotadd_vsphere as vim;

use super::{
    convert::{error, moref, proxy_facts, snapshot_ref, target_disk, vm_ref},
    facts::believable,
    surroundings::unrest,
    views::{
        Automation, Build, Bus, DiskView, Fact, HostView, Link, Mount, PlanFacts, ProxyView, Rdm, Site, StoreKind,
        StoreView, TargetView,
    },
    vsphere::{DEVICES, Vsphere},
};
use crate::{
    error::{Error, Result},
    id::{BackingPath, Moref},
    reason,
};

impl Vsphere {
    /// See [`super::Hypervisor::planning`].
    pub(super) async fn plan_facts(
        &self,
        proxy: &Moref,
        target: &Moref,
        snapshot: Option<&Moref>,
    ) -> Result<PlanFacts> {
        let wanted = snapshot.map(snapshot_ref);
        let read = self.client.planning(&vm_ref(proxy), &vm_ref(target), wanted.as_ref()).await;
        let read = read.map_err(|e| match (wanted.as_ref(), e.fault().map(|f| &f.kind)) {
            (Some(snapshot), Some(vim::FaultKind::ManagedObjectNotFound { object: Some(gone) }))
                if gone.value == snapshot.value =>
            {
                Error::new(&reason::SNAP_UNKNOWN, snapshot.value.clone())
            }
            _ => error(e),
        })?;
        let devices = match snapshot {
            None => {
                believable(&read.target.vm, &[DEVICES])?;
                &read.target.vm.devices
            }
            Some(snapshot) => read
                .snapshot_devices
                .as_ref()
                .ok_or_else(|| Error::new(&reason::VC_STALE, format!("{snapshot} does not show its devices")))?,
        };
        let vcenter = self.client.about().instance_uuid.clone();
        Ok(convert(&read, devices, vcenter, snapshot.is_some()))
    }
}

fn convert(read: &vim::Planning, devices: &[vim::Device], vcenter: Option<String>, snapshot_exists: bool) -> PlanFacts {
    let vcenter = Fact::from_option(vcenter, "the server has no instance UUID");
    let view = View { read };
    let disks: Vec<DiskView> =
        devices.iter().filter_map(vim::Device::as_disk).map(|disk| view.disk(disk, devices)).collect();
    let covered = disks.iter().filter(|view| !view.disk.independent);
    let stores = covered.filter_map(|view| view.disk.datastore.clone()).collect();
    let (proxy, target) = (view.proxy(), view.target(vcenter.clone()));
    PlanFacts { site: Site { vcenter, snapshot_exists }, proxy, target, disks, stores }
}

struct View<'a> {
    read: &'a vim::Planning,
}

impl View<'_> {
    fn proxy(&self) -> ProxyView {
        let planned = &self.read.proxy;
        let vm = &planned.vm;
        let setting = vm.extra("disk.EnableUUID").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        ProxyView {
            name: vm.name.clone(),
            vm: proxy_facts(vm, false),
            host: self.host(vm),
            home: self.home(vm),
            datacenter: self.datacenter(vm),
            enable_uuid: given(vm, "config.extraConfig", setting),
            // A VM without snapshots has no such property: only a refusal makes it unknown.
            snapshots: not_refused(vm, "snapshot", vm.snapshots.as_ref().map_or(0, |tree| tree.roots.len())),
            change_tracking: Fact::from_option(vm.change_tracking_enabled, why(vm, "config.changeTrackingEnabled")),
            fault_tolerant: fault_tolerant(planned),
            encrypted: given(vm, "config.uuid", vm.key_id.is_some()).and_not_refused(vm, "config.keyId"),
            drs: self.drs(vm),
            storage_drs: self.storage_drs(vm),
        }
    }

    fn target(&self, vcenter: Fact<String>) -> TargetView {
        let planned = &self.read.target;
        let vm = &planned.vm;
        TargetView {
            moref: moref(&vm.moref),
            name: vm.name.clone(),
            instance_uuid: vm.instance_uuid.clone(),
            vcenter,
            host: self.host(vm),
            datacenter: self.datacenter(vm),
            template: given(vm, "config.template", vm.is_template),
            fault_tolerant: fault_tolerant(planned),
            is_proxy: vm.moref == self.read.proxy.vm.moref,
        }
    }

    fn host(&self, vm: &vim::VmInfo) -> Fact<HostView> {
        let Some(wanted) = &vm.host else { return Fact::Unknown(why(vm, "runtime.host")) };
        let Some(host) = self.read.hosts.iter().find(|host| host.moref == *wanted) else {
            return Fact::Unknown(format!("{} is not shown to this account", wanted.value));
        };
        let refused = || {
            let first = host.missing.first().map(|missing| format!("{}: {}", missing.path, missing.fault));
            first.unwrap_or_else(|| "not told".to_owned())
        };
        let build = host.version.as_deref().zip(host.build.as_deref()).and_then(|(v, b)| Build::parse(v, b));
        Fact::Known(HostView {
            moref: moref(wanted),
            name: if host.name.is_empty() { wanted.value.clone() } else { host.name.clone() },
            build: Fact::from_option(build, refused()),
            unrest: Fact::from_option(host.state.as_ref().map(unrest), refused()),
        })
    }

    fn datacenter(&self, vm: &vim::VmInfo) -> Fact<Moref> {
        let found = self.read.datacenter(&vm.moref).map(moref);
        Fact::from_option(found, format!("a folder above {} is not shown to this account", vm.name))
    }

    fn store(&self, wanted: &vim::MoRef) -> Fact<StoreView> {
        let Some(info) = self.read.datastores.iter().find(|store| store.moref == *wanted) else {
            return Fact::Unknown(format!("{} is not shown to this account", wanted.value));
        };
        Fact::Known(StoreView {
            moref: moref(wanted),
            name: info.name.clone(),
            kind: kind(&info.kind),
            mount: self.mount(info),
            free_bytes: info.free_bytes,
        })
    }

    fn mount(&self, info: &vim::DatastoreInfo) -> Fact<Mount> {
        if !info.accessible {
            return Fact::Known(Mount::Inaccessible);
        }
        let Some(host) = &self.read.proxy.vm.host else {
            return Fact::Unknown("the proxy's host is unknown".to_owned());
        };
        match info.hosts.iter().find(|mount| mount.host == *host) {
            Some(mount) if mount.accessible == Some(false) => Fact::Known(Mount::Inaccessible),
            Some(mount) if mount.access_mode.as_deref() == Some("readOnly") => Fact::Known(Mount::ReadOnly),
            Some(_) => Fact::Known(Mount::Writable),
            None if info.hosts.is_empty() => Fact::Unknown(format!("the mounts of {} are not told", info.name)),
            None => Fact::Known(Mount::Absent),
        }
    }

    /// The datastore that the .vmx is on, by the name in its path.
    fn home(&self, vm: &vim::VmInfo) -> Fact<StoreView> {
        let Some(path) = &vm.vm_path_name else { return Fact::Unknown(why(vm, "config.files.vmPathName")) };
        let path = vim::BackingPath::new(path.clone());
        let name = path.datastore().unwrap_or_default();
        let found =
            self.read.datastores.iter().find(|store| store.name == name && vm.datastores.contains(&store.moref));
        match found {
            Some(store) => self.store(&store.moref),
            None => Fact::Unknown(format!("datastore {name} is not shown to this account")),
        }
    }

    fn drs(&self, vm: &vim::VmInfo) -> Fact<Automation> {
        let Some(compute) = vm.host.as_ref().and_then(|host| self.read.parent(host)) else {
            return Fact::Unknown("the host's cluster is not shown to this account".to_owned());
        };
        if compute.type_name == "ComputeResource" {
            return Fact::Known(Automation::Absent);
        }
        let told = self.read.computes.iter().find(|c| c.moref == *compute).and_then(|c| c.drs.as_ref());
        automation(told, vm, || format!("{} does not tell its configuration", compute.value))
    }

    fn storage_drs(&self, vm: &vim::VmInfo) -> Fact<Automation> {
        let store = match self.home(vm) {
            Fact::Known(store) => store,
            Fact::Unknown(why) => return Fact::Unknown(why),
        };
        let reference = super::convert::datastore_ref(&store.moref);
        match self.read.parent(&reference) {
            Some(pod) if pod.type_name == "StoragePod" => {
                let told = self.read.pods.iter().find(|p| p.moref == *pod).and_then(|p| p.storage_drs.as_ref());
                automation(told, vm, || format!("{} does not tell its configuration", pod.value))
            }
            Some(_) => Fact::Known(Automation::Absent),
            None => Fact::Unknown(format!("what is above {} is not shown to this account", store.name)),
        }
    }

    fn disk(&self, disk: &vim::Disk, devices: &[vim::Device]) -> DiskView {
        let holder = disk.controller_key.and_then(|key| devices.iter().find(|device| device.key() == key));
        let scsi = holder.and_then(vim::Device::as_scsi_controller);
        let backing = &disk.backing;
        let store = match &backing.datastore {
            Some(store) => self.store(store),
            None => Fact::Unknown("the backing names no datastore".to_owned()),
        };
        DiskView {
            disk: target_disk(disk, devices),
            bus: bus(holder),
            rdm: match backing.kind {
                vim::BackingKind::RdmVirtual => Some(Rdm::Virtual),
                vim::BackingKind::RdmPhysical => Some(Rdm::Physical),
                _ => None,
            },
            multi_writer: backing.sharing.as_deref() == Some("sharingMultiWriter"),
            bus_shared: scsi.and_then(|c| c.shared_bus.as_deref()).is_some_and(|mode| mode != "noSharing"),
            chain: chain(backing),
            store,
            encrypted: backing.chain().any(|link| link.key_id.is_some()),
            fcd: disk.v_disk_id.clone(),
            io_filters: disk.io_filters.clone(),
        }
    }
}

/// A delta without a parent has one that was not told: VMware shows chains of one class only.
fn chain(backing: &vim::Backing) -> Fact<Vec<Link>> {
    let links: Vec<&vim::Backing> = backing.chain().collect();
    let ends_in_delta =
        links.last().is_some_and(|last| super::surroundings::delta_stem(last.file_name.as_str()).is_some());
    if ends_in_delta {
        return Fact::Unknown("vCenter does not tell the parent of its lowest delta".to_owned());
    }
    let folder = |link: &&vim::Backing| Link { folder: BackingPath::new(link.file_name.as_str()).folder().to_owned() };
    Fact::Known(links.iter().map(folder).collect())
}

fn bus(holder: Option<&vim::Device>) -> Fact<Bus> {
    Fact::Known(match holder {
        Some(vim::Device::ScsiController(_)) => Bus::Scsi,
        Some(vim::Device::OtherController(c)) => match &c.kind {
            vim::OtherControllerKind::Ide => Bus::Ide,
            vim::OtherControllerKind::Sata => Bus::Sata,
            vim::OtherControllerKind::Nvme => Bus::Nvme,
            vim::OtherControllerKind::Other(name) => return Fact::Unknown(format!("it hangs on a {name}")),
        },
        _ => return Fact::Unknown("vCenter does not tell its controller".to_owned()),
    })
}

fn kind(kind: &vim::DatastoreKind) -> StoreKind {
    match kind {
        vim::DatastoreKind::Vmfs => StoreKind::Vmfs,
        vim::DatastoreKind::Nfs3 => StoreKind::Nfs3,
        vim::DatastoreKind::Nfs41 => StoreKind::Nfs41,
        vim::DatastoreKind::Vsan => StoreKind::Vsan,
        vim::DatastoreKind::Vvol => StoreKind::Vvol,
        vim::DatastoreKind::PMem => StoreKind::Other("PMem".to_owned()),
        vim::DatastoreKind::Other(name) => StoreKind::Other(name.clone()),
    }
}

fn fault_tolerant(planned: &vim::PlannedVm) -> Fact<bool> {
    let state = planned.fault_tolerance.as_deref().map(|state| state != "notConfigured");
    Fact::from_option(state, why(&planned.vm, "runtime.faultToleranceState"))
}

fn automation(told: Option<&vim::Automation>, vm: &vim::VmInfo, why: impl Fn() -> String) -> Fact<Automation> {
    let Some(told) = told else { return Fact::Unknown(why()) };
    if !told.enabled {
        return Fact::Known(Automation::Absent);
    }
    let mine = told.overrides.iter().find(|entry| entry.vm == vm.moref);
    let behavior = mine.and_then(|entry| entry.behavior.clone()).unwrap_or_else(|| told.behavior.clone());
    let left_alone = mine.is_some_and(|entry| entry.enabled == Some(false)) || behavior == "manual";
    Fact::Known(if left_alone { Automation::Exempt } else { Automation::Moves(behavior) })
}

fn refusal<'a>(vm: &'a vim::VmInfo, path: &str) -> Option<&'a vim::MissingProperty> {
    let covers =
        |refused: &str| path.strip_prefix(refused).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    vm.missing.iter().find(|missing| covers(&missing.path))
}

fn why(vm: &vim::VmInfo, path: &str) -> String {
    match refusal(vm, path) {
        Some(refused) => format!("{path} of {}: {}", vm.name, refused.fault),
        None => format!("{path} of {} is not told", vm.name),
    }
}

fn given<T>(vm: &vim::VmInfo, path: &str, value: T) -> Fact<T> {
    if vm.gave(path) { Fact::Known(value) } else { Fact::Unknown(why(vm, path)) }
}

fn not_refused<T>(vm: &vim::VmInfo, path: &str, value: T) -> Fact<T> {
    if refusal(vm, path).is_some() { Fact::Unknown(why(vm, path)) } else { Fact::Known(value) }
}

impl<T> Fact<T> {
    fn and_not_refused(self, vm: &vim::VmInfo, path: &str) -> Self {
        if refusal(vm, path).is_some() { Self::Unknown(why(vm, path)) } else { self }
    }
}
