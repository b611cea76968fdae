//! The inventory file turned into state, with the files on disk that it names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail};

use super::vm::{controller_key_base, disk_key_base, lowest_free_key};
use super::{Counters, Datastore, Device, Disk, Host, Kind, Knobs, Origin, State, Vm, now};
use crate::inventory::{
    ControllerKind, ControllerSpec, DatastoreKind, DatastoreSpec, DiskSpec, HostSpec, Inventory, VmSpec, stable_uuid,
};
use crate::ops::snapshot;
use crate::schema::{SCHEMA, Ver};
use crate::store::{Extents, Store, Vmdk, create_sparse, host_file, split_path};

/// A new file needs at least this much on its datastore: one block of VMFS.
const NEED: u64 = 1 << 20;

/// Slots of the four PVSCSI controllers of a VM on ESXi.
const PCI_SLOTS: [u32; 4] = [160, 192, 224, 256];

impl State {
    pub(crate) fn build(
        inv: &Inventory,
        profile: crate::Profile,
        api_version: &str,
        user: &str,
        password: &str,
        work: &std::path::Path,
    ) -> Result<State> {
        let api = Ver::parse(api_version).with_context(|| format!("api version '{api_version}'"))?;
        let mut s = State {
            api,
            api_text: spelled(api, api_version),
            user: user.into(),
            password: password.into(),
            accounts: crate::permit::Accounts::new(),
            instance_uuid: stable_uuid("7a11", user),
            datacenter: inv.datacenter.clone(),
            hosts: Vec::new(),
            datastores: Vec::new(),
            vms: BTreeMap::new(),
            store: Store::default(),
            tasks: BTreeMap::new(),
            events: Vec::new(),
            under_way: 0,
            sessions: HashMap::new(),
            tickets: HashMap::new(),
            views: BTreeMap::new(),
            pcs: HashMap::new(),
            tokens: HashMap::new(),
            cues: Vec::new(),
            knobs: Knobs {
                write_through: false,
                wrap_locked: false,
                show_redo: profile.show_redo.unwrap_or(false),
                shared_reads: false,
                suppress_events: false,
                fence: false,
                removal_fails: false,
                need_snapshot: NEED,
                need_attach: NEED,
                permissions: inv.privileges.as_deref().and_then(crate::permit::everywhere),
                task_ms: 0,
                ticket_ms: 60_000,
                enable_across: true,
                controller_hotplug: true,
                told_slot: None,
            },
            profile,
            telling: crate::ops::areas::Telling::default(),
            counters: Counters::default(),
            requests: Vec::new(),
            landing: 0,
            landings: Vec::new(),
            problems: BTreeSet::new(),
            locked: BTreeSet::new(),
            attach_as: HashMap::new(),
            disk_faults: HashMap::new(),
            denied: BTreeSet::new(),
            page_max: usize::MAX,
            seq: 100,
            leases: BTreeMap::new(),
            exports: crate::export::Cues::default(),
            thumbprint: String::new(),
        };
        let mut datastores = inv.datastores.clone();
        if datastores.is_empty() {
            datastores.push(DatastoreSpec {
                name: "ds1".into(),
                kind: DatastoreKind::Vmfs,
                dir: work.join("ds1"),
                accessible: true,
                access_mode: "readWrite".into(),
                free: 1 << 40,
            });
        }
        for d in &datastores {
            s.add_datastore(d)?;
        }
        let mut hosts = inv.hosts.clone();
        if hosts.is_empty() {
            hosts.push(HostSpec { name: "esx1.lab".into(), datastores: None, version: None, build: None, drs: None });
        }
        for h in hosts {
            let id = format!("host-{}", s.next());
            s.hosts.push(Host {
                id,
                name: h.name,
                datastores: h.datastores,
                version: h.version.or_else(|| s.profile.host_version.clone()),
                build: h.build.or_else(|| s.profile.host_build.clone()),
                drs: h.drs,
                in_maintenance: false,
                entering: None,
                block: None,
                blocked: vec!["ReconfigVM_Task".into()],
                conflict: false,
                in_quarantine: false,
                standby: "none".into(),
                connection: "connected".into(),
                silent: false,
                cluster_task: None,
            });
        }
        for v in &inv.vms {
            s.add_vm(v)?;
        }
        Ok(s)
    }

    pub(crate) fn add_datastore(&mut self, d: &DatastoreSpec) -> Result<()> {
        std::fs::create_dir_all(&d.dir).with_context(|| d.dir.display().to_string())?;
        let id = format!("datastore-{}", self.next());
        self.datastores.push(Datastore {
            id,
            name: d.name.clone(),
            kind: d.kind,
            dir: d.dir.clone(),
            accessible: d.accessible,
            access_mode: d.access_mode.clone(),
            free: d.free,
        });
        Ok(())
    }

    pub(crate) fn add_vm(&mut self, v: &VmSpec) -> Result<String> {
        let datastore = v.datastore.clone().unwrap_or_else(|| self.datastores[0].name.clone());
        if self.datastore(&datastore).is_none() {
            bail!("vm {}: no datastore {datastore}", v.name);
        }
        let host = match &v.host {
            None => self.hosts[0].id.clone(),
            Some(n) => self.hosts.iter().find(|h| h.name == *n).with_context(|| format!("no host {n}"))?.id.clone(),
        };
        let id = format!("vm-{}", self.next());
        let mut vm = Vm {
            id: id.clone(),
            name: v.name.clone(),
            datastore,
            host,
            on: v.power == "on",
            hardware_version: v.hardware_version,
            uuid: v.uuid.clone().unwrap_or_else(|| stable_uuid("42", &format!("bios {}", v.name))),
            instance_uuid: v.instance_uuid.clone().unwrap_or_else(|| stable_uuid("50", &format!("vc {}", v.name))),
            working_dir: v.working_dir.clone(),
            disabled: Vec::new(),
            template: v.template,
            tools: v.tools,
            change_tracking: v.change_tracking,
            key_id: v.key_id.clone(),
            fault_tolerance: v.fault_tolerance.clone(),
            elsewhere: v.elsewhere,
            efi: v.efi,
            product: v.product.clone(),
            strays: Vec::new(),
            extra_config: v.extra_config.clone(),
            devices: fixed_devices(),
            snapshots: Vec::new(),
            current: None,
            change_version: now(),
            consolidation_needed: false,
            busy: None,
            pending: Vec::new(),
            next_snapshot: 1,
        };
        self.add_controllers(&mut vm, v);
        let macs = if v.macs.is_empty() { vec![mac_of(&vm.uuid)] } else { v.macs.clone() };
        for (i, mac) in macs.into_iter().enumerate() {
            let n = i32::try_from(i).unwrap_or(0);
            vm.devices.push(Device {
                key: 4000 + n,
                controller: Some(100),
                unit: Some(7 + n),
                kind: Kind::Nic { mac },
            });
        }
        for (i, d) in v.disks.iter().enumerate() {
            self.add_disk(&mut vm, d, i)?;
        }
        self.vms.insert(id.clone(), vm);
        for n in 0..v.snapshots {
            snapshot::create(self, &id, &format!("foreign {}", n + 1), "made before the job", false)
                .map_err(|f| anyhow::anyhow!(f.text))?;
        }
        Ok(id)
    }

    fn add_controllers(&mut self, vm: &mut Vm, v: &VmSpec) {
        let default = vec![ControllerSpec::default()];
        let mut wanted = v.controllers.clone().unwrap_or(default);
        // A disk on a bus that the file does not name gets a PVSCSI controller there.
        for d in &v.disks {
            let have = wanted
                .iter()
                .any(|c| c.bus == d.bus && (c.kind == d.controller || c.kind.is_scsi() && d.controller.is_scsi()));
            if !have && d.controller != ControllerKind::Ide {
                wanted.push(ControllerSpec { kind: d.controller, bus: d.bus, ..ControllerSpec::default() });
            }
        }
        for c in wanted {
            if c.kind == ControllerKind::Ide {
                continue; // every VM has both
            }
            let key = controller_key_base(c.kind) + i32::try_from(c.bus).unwrap_or(0);
            let pci_slot = c.pci_slot.or(self.profile.slot(c.bus)).or(PCI_SLOTS.get(c.bus as usize).copied());
            if let (Some(slot), true) = (pci_slot, c.in_extra_config_only) {
                vm.extra_config.insert(format!("scsi{}.pciSlotNumber", c.bus), slot.to_string());
            }
            let kind = Kind::Controller {
                kind: c.kind,
                bus: c.bus,
                pci_slot,
                hidden_slot: c.in_extra_config_only || c.no_slot,
                guest_slot: None,
                sharing: c.sharing.unwrap_or_else(|| "noSharing".into()),
            };
            vm.devices.push(Device {
                key,
                controller: Some(100),
                unit: Some(3 + i32::try_from(c.bus).unwrap_or(0)),
                kind,
            });
        }
    }

    fn add_disk(&mut self, vm: &mut Vm, d: &DiskSpec, index: usize) -> Result<()> {
        let suffix = if index == 0 { String::new() } else { format!("_{index}") };
        let path = d.path.clone().unwrap_or_else(|| format!("[{}] {}/{}{suffix}.vmdk", vm.datastore, vm.name, vm.name));
        self.add_file(&path, d)?;
        let scsi = d.controller.is_scsi();
        let ctl = vm
            .devices
            .iter()
            .find(|x| matches!(x.kind, Kind::Controller { kind, bus, .. } if bus == d.bus && (kind == d.controller || scsi && kind.is_scsi())))
            .map(|x| (x.key, vm.controller(x.key).map(|c| c.0).unwrap_or_default()))
            .with_context(|| format!("{path}: no controller"))?;
        let used: Vec<i32> = vm.devices.iter().filter(|x| x.controller == Some(ctl.0)).filter_map(|x| x.unit).collect();
        let unit = match d.unit {
            Some(u) => u,
            None => (0..64)
                .find(|u| vm.unit_ok(ctl.1, *u) && !used.contains(u))
                .with_context(|| format!("{path}: controller full"))?,
        };
        let key = self.disk_key(&vm.devices, ctl.1, d.bus, unit);
        let mode = d.mode.clone().unwrap_or_else(|| "persistent".into());
        let disk = Disk { path, mode, sharing: d.sharing.clone(), redo: None, origin: Origin::Own, by: None };
        vm.devices.push(Device { key, controller: Some(ctl.0), unit: Some(unit), kind: Kind::Disk(disk) });
        Ok(())
    }

    /// The key of a new disk: by its place where the site's were, and free, else the lowest free one of its family.
    pub(crate) fn disk_key(&self, devices: &[Device], kind: ControllerKind, bus: u32, unit: i32) -> i32 {
        let free = |key: &i32| !devices.iter().any(|device| device.key == *key);
        let by_place = self.profile.key(bus, unit).filter(|_| kind.is_scsi()).filter(free);
        by_place.unwrap_or_else(|| lowest_free_key(devices, disk_key_base(kind)))
    }

    /// Registers a vmdk; its data file is made if it is missing.
    pub(crate) fn add_file(&mut self, path: &str, d: &DiskSpec) -> Result<()> {
        if self.store.files.contains_key(path) {
            return Ok(());
        }
        let (ds, rel) = split_path(path).with_context(|| format!("'{path}' is no datastore path"))?;
        let dir = self.datastore(ds).with_context(|| format!("{path}: no such datastore"))?.dir.clone();
        let host = d.source.clone().unwrap_or_else(|| host_file(&dir, rel, "flat"));
        let size = std::fs::metadata(&host).map(|m| m.len()).unwrap_or(0);
        let capacity = d.capacity.unwrap_or(if size > 0 { size } else { 16 << 20 });
        create_sparse(&host, capacity)?;
        if let Some(parent) = dir.join(rel).parent() {
            std::fs::create_dir_all(parent)?;
        }
        let uuid = d.uuid.clone().unwrap_or_else(|| stable_uuid("6000C29", path));
        let content_id = u32::from_str_radix(&stable_uuid("", path)[..8], 16).unwrap_or(1);
        self.store.files.insert(
            path.into(),
            Vmdk {
                path: path.into(),
                host,
                capacity,
                uuid,
                content_id,
                change_id: None,
                track: None,
                backing: d.backing,
                parent: d.linked_to.clone(),
                extents: Extents::default(),
                grown: 0,
                borrowed: d.source.is_some(),
                clone: d.linked_to.is_some(),
                key_id: d.key_id.clone(),
                fcd: d.fcd.clone(),
                io_filters: d.io_filters.clone(),
            },
        );
        Ok(())
    }
}

/// The version as the server spells it (6.7 stays 6.7, 8.0.2 becomes 8.0.2.0).
fn spelled(api: Ver, given: &str) -> String {
    let known = SCHEMA.versions.iter().find(|v| Ver::parse(v) == Some(api));
    known.map(|v| (*v).to_owned()).unwrap_or_else(|| given.to_owned())
}

pub(crate) fn mac_of(uuid: &str) -> String {
    let h = &uuid[uuid.len() - 6..];
    format!("00:50:56:{}:{}:{}", &h[..2], &h[2..4], &h[4..])
}

fn fixed_devices() -> Vec<Device> {
    let fixed =
        |key, controller, unit, ty, label, bus| Device { key, controller, unit, kind: Kind::Fixed { ty, label, bus } };
    let ide = |bus: u32| Device {
        key: 200 + i32::try_from(bus).unwrap_or(0),
        controller: None,
        unit: None,
        kind: Kind::Controller {
            kind: ControllerKind::Ide,
            bus,
            pci_slot: None,
            hidden_slot: false,
            guest_slot: None,
            sharing: String::new(),
        },
    };
    vec![
        ide(0),
        ide(1),
        fixed(300, None, None, "VirtualPS2Controller", "PS2 controller 0", Some(0)),
        fixed(100, None, None, "VirtualPCIController", "PCI controller 0", Some(0)),
        fixed(400, None, None, "VirtualSIOController", "SIO controller 0", Some(0)),
        fixed(600, Some(300), Some(0), "VirtualKeyboard", "Keyboard", None),
        fixed(700, Some(300), Some(1), "VirtualPointingDevice", "Pointing device", None),
        fixed(500, Some(100), Some(0), "VirtualMachineVideoCard", "Video card", None),
        fixed(12000, Some(100), Some(17), "VirtualMachineVMCIDevice", "VMCI device", None),
    ]
}
