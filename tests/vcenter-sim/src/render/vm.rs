//! Properties of VirtualMachine and VirtualMachineSnapshot, devices and disk backings included.

use super::{obj, shown_name};
use crate::inventory::{BackingKind, ControllerKind};
use crate::state::{Device, Disk, Kind, Snapshot, State, VM_FOLDER, VM_FOLDER2, Vm};
use crate::store::Vmdk;
use crate::value::{MoRef, Obj, Val};

const CREATED: &str = "2024-01-01T00:00:00Z";

pub(crate) fn top(s: &State, vm: &Vm, name: &str) -> Option<Val> {
    let some = |o: Obj| Some(Val::Obj(o));
    match name {
        "name" => Some(Val::Str(shown_name(&vm.name))),
        "parent" => Some(Val::Ref(MoRef::new("Folder", if vm.elsewhere { VM_FOLDER2 } else { VM_FOLDER }))),
        "overallStatus" | "configStatus" | "guestHeartbeatStatus" => Some(Val::Str("green".into())),
        "recentTask" => Some(Val::List(s.recent_tasks(&vm.moref()).into_iter().map(Val::Ref).collect())),
        "disabledMethod" => {
            let mut all: Vec<&str> = vm.disabled.iter().map(|d| d.method.as_str()).collect();
            all.sort_unstable();
            all.dedup();
            Some(Val::List(all.into_iter().map(|m| Val::Str(m.to_owned())).collect()))
        }
        "config" => some(config(s, vm, &vm.devices)),
        "runtime" => some(runtime(s, vm)),
        "layoutEx" => some(super::layout::layout(s, vm)),
        "capability" => some(capability()),
        "guest" => some(guest(vm)),
        "summary" => some(summary(s, vm)),
        "resourcePool" => {
            let host = s.hosts.iter().find(|h| h.id == vm.host)?;
            Some(Val::Ref(MoRef::new("ResourcePool", super::entity::pool_id(host))))
        }
        "datastore" => Some(Val::List(datastores(s, vm).into_iter().map(Val::Ref).collect())),
        "network" => Some(Val::List(Vec::new())),
        "snapshot" => snapshot_info(vm).map(Val::Obj),
        "rootSnapshot" => Some(Val::List(vm.snapshots.iter().filter(|x| x.parent.is_none()).map(snap_ref).collect())),
        "alarmActionsEnabled" => Some(Val::Bool(true)),
        "storage" => some(obj("VirtualMachineStorageInfo").with("timestamp", vm.change_version.as_str())),
        _ => None,
    }
}

pub(crate) fn snapshot_top(s: &State, vm: &Vm, snap: &Snapshot, name: &str) -> Option<Val> {
    match name {
        "config" => Some(Val::Obj(config(s, vm, &snap.devices))),
        "childSnapshot" => {
            Some(Val::List(vm.snapshots.iter().filter(|x| x.parent.as_ref() == Some(&snap.id)).map(snap_ref).collect()))
        }
        "vm" => Some(Val::Ref(vm.moref())),
        _ => None,
    }
}

fn snap_ref(s: &Snapshot) -> Val {
    Val::Ref(MoRef::new("VirtualMachineSnapshot", s.id.clone()))
}

pub(crate) fn datastores(s: &State, vm: &Vm) -> Vec<MoRef> {
    let mut names = vec![vm.datastore.clone()];
    names.extend(vm.disks().filter_map(|(_, d)| crate::store::split_path(&d.path).map(|p| p.0.to_owned())));
    // A chain may go on elsewhere: deltas in a working folder on another datastore.
    let chains = vm.disks().flat_map(|(_, d)| s.store.chain(&d.path));
    names.extend(chains.filter_map(|p| crate::store::split_path(&p).map(|p| p.0.to_owned())));
    names.sort();
    names.dedup();
    names.iter().filter_map(|n| s.datastore(n)).map(|d| MoRef::new("Datastore", d.id.clone())).collect()
}

fn config(s: &State, vm: &Vm, devices: &[Device]) -> Obj {
    let dir = vm.home();
    let files = obj("VirtualMachineFileInfo")
        .with("vmPathName", format!("{dir}{}.vmx", vm.name))
        .with("snapshotDirectory", vm.working_dir.as_deref().unwrap_or(&dir))
        .with("suspendDirectory", dir.as_str())
        .with("logDirectory", dir.as_str());
    let flags = obj("VirtualMachineFlagInfo")
        .with("disableAcceleration", false)
        .with("enableLogging", true)
        .with("snapshotDisabled", false)
        .with("snapshotLocked", false)
        .with("diskUuidEnabled", vm.extra_config.get("disk.EnableUUID").is_some_and(|v| v.eq_ignore_ascii_case("true")))
        .with("snapshotPowerOffBehavior", "powerOff");
    let list: Vec<Val> = devices.iter().map(|d| Val::Obj(device(s, vm, devices, d))).collect();
    let hardware = obj("VirtualHardware")
        .with("numCPU", 2)
        .with("numCoresPerSocket", 1)
        .with("memoryMB", 2048)
        .with("device", list);
    let extra: Vec<Val> = vm
        .extra_config
        .iter()
        .map(|(k, v)| Val::Obj(obj("OptionValue").with("key", k.as_str()).with("value", v.as_str())))
        .collect();
    obj("VirtualMachineConfigInfo")
        .with("changeVersion", vm.change_version.as_str())
        .with("modified", "1970-01-01T00:00:00Z")
        .with("name", shown_name(&vm.name))
        .with("guestFullName", "Other 5.x Linux (64-bit)")
        .with("version", format!("vmx-{:02}", vm.hardware_version))
        .with("uuid", vm.uuid.as_str())
        .with("createDate", CREATED)
        .with("instanceUuid", vm.instance_uuid.as_str())
        .with("npivTemporaryDisabled", true)
        .with("template", vm.template)
        .with("guestId", "other5xLinux64Guest")
        .with("alternateGuestName", "")
        .with("files", files)
        .with("tools", obj("ToolsConfigInfo").with("toolsVersion", i32::from(vm.tools) * 12389))
        .with("flags", flags)
        .with(
            "defaultPowerOps",
            obj("VirtualMachineDefaultPowerOpInfo").with("powerOffType", "soft").with("resetType", "soft"),
        )
        .with("hardware", hardware)
        .with("memoryHotAddEnabled", false)
        .with("cpuHotAddEnabled", false)
        .with("extraConfig", extra)
        .with("swapPlacement", "inherit")
        .with("vAssertsEnabled", false)
        .with("changeTrackingEnabled", vm.change_tracking)
        .with("firmware", if vm.efi { "efi" } else { "bios" })
        .with("bootOptions", obj("VirtualMachineBootOptions").with("efiSecureBootEnabled", vm.efi))
        .with("keyId", vm.key_id.as_deref().map(crypto_key))
}

fn crypto_key(id: &str) -> Obj {
    obj("CryptoKeyId").with("keyId", id).with("providerId", obj("KeyProviderId").with("id", "lab-kms"))
}

fn device(s: &State, vm: &Vm, all: &[Device], d: &Device) -> Obj {
    match &d.kind {
        Kind::Controller { .. } => controller(all, d),
        Kind::Disk(disk) => disk_device(s, vm, all, d, disk),
        Kind::Nic { mac } => {
            let backing = obj("VirtualEthernetCardNetworkBackingInfo")
                .with("deviceName", "VM Network")
                .with("useAutoDetect", false);
            let connect = obj("VirtualDeviceConnectInfo")
                .with("migrateConnect", "unset")
                .with("startConnected", true)
                .with("allowGuestControl", true)
                .with("connected", vm.on)
                .with("status", if vm.on { "ok" } else { "untried" });
            base(d, "VirtualVmxnet3", &format!("Network adapter {}", d.key - 3999), "VM Network")
                .with("backing", backing)
                .with("connectable", connect)
                .with("slotInfo", obj("VirtualDevicePciBusSlotInfo").with("pciSlotNumber", 384 + (d.key - 4000) * 32))
                .with("addressType", "assigned")
                .with("macAddress", mac.as_str())
                .with("wakeOnLanEnabled", true)
                .with("uptCompatibilityEnabled", true)
        }
        Kind::Fixed { ty, label, bus } => {
            let mut o = base(d, ty, label, label);
            if let Some(bus) = bus {
                o = o.with("busNumber", *bus).with("device", child_keys(all, d.key));
            }
            o
        }
    }
}

fn base(d: &Device, ty: &'static str, label: &str, summary: &str) -> Obj {
    obj(ty)
        .with("key", d.key)
        .with("deviceInfo", obj("Description").with("label", label).with("summary", summary))
        .with("controllerKey", d.controller)
        .with("unitNumber", d.unit)
}

fn child_keys(all: &[Device], key: i32) -> Vec<i32> {
    all.iter().filter(|d| d.controller == Some(key)).map(|d| d.key).collect()
}

fn controller(all: &[Device], d: &Device) -> Obj {
    let Kind::Controller { kind, bus, pci_slot, hidden_slot, sharing, .. } = &d.kind else {
        return obj("VirtualController");
    };
    let (ty, label, summary) = match kind {
        ControllerKind::Pvscsi => {
            ("ParaVirtualSCSIController", format!("SCSI controller {bus}"), "VMware paravirtual SCSI")
        }
        ControllerKind::Lsilogic => ("VirtualLsiLogicController", format!("SCSI controller {bus}"), "LSI Logic"),
        ControllerKind::Lsisas => ("VirtualLsiLogicSASController", format!("SCSI controller {bus}"), "LSI Logic SAS"),
        ControllerKind::Buslogic => ("VirtualBusLogicController", format!("SCSI controller {bus}"), "BusLogic"),
        ControllerKind::Ide => ("VirtualIDEController", format!("IDE {bus}"), "IDE"),
        ControllerKind::Sata => ("VirtualAHCIController", format!("SATA controller {bus}"), "AHCI"),
        ControllerKind::Nvme => ("VirtualNVMEController", format!("NVME controller {bus}"), "NVME controller"),
    };
    let mut o = base(d, ty, &label, summary).with("busNumber", *bus).with("device", child_keys(all, d.key));
    if let (Some(slot), false) = (pci_slot, hidden_slot) {
        o = o.with("slotInfo", obj("VirtualDevicePciBusSlotInfo").with("pciSlotNumber", *slot));
    }
    if kind.is_scsi() {
        o = o.with("hotAddRemove", true).with("sharedBus", sharing.as_str()).with("scsiCtlrUnitNumber", 7);
    }
    o
}

fn disk_device(s: &State, vm: &Vm, all: &[Device], d: &Device, disk: &Disk) -> Obj {
    let file = s.store.files.get(&disk.path);
    let capacity = file.map(|f| f.capacity).unwrap_or(0);
    let number = 1 + all.iter().filter(|x| matches!(x.kind, Kind::Disk(_))).position(|x| x.key == d.key).unwrap_or(0);
    let kb = i64::try_from(capacity / 1024).unwrap_or(0);
    let shares = obj("SharesInfo").with("shares", 1000).with("level", "normal");
    base(d, "VirtualDisk", &format!("Hard disk {number}"), &format!("{} KB", grouped(kb)))
        .with("backing", file.map_or_else(|| lost_backing(disk), |f| shown_backing(s, disk, f)))
        .with("capacityInKB", kb)
        .with("capacityInBytes", capacity)
        .with("shares", shares.clone())
        .with(
            "storageIOAllocation",
            obj("StorageIOAllocationInfo").with("limit", -1).with("shares", shares).with("reservation", 0),
        )
        .with("diskObjectId", format!("{}-{}", vm.id.trim_start_matches("vm-"), d.key))
        .with("iofilter", file.map(|f| f.io_filters.clone()).filter(|names| !names.is_empty()))
        .with("vDiskId", file.and_then(|f| f.fcd.as_deref()).map(|id| obj("ID").with("id", id)))
        .with("nativeUnmanagedLinkedClone", false)
        .with("guestReadOnly", false)
}

/// The backing as it is shown: plain, or (knob show_redo) as the redo log with the real file as its parent.
fn shown_backing(s: &State, disk: &Disk, file: &Vmdk) -> Obj {
    let real = backing(s, disk, file, disk.sharing.as_deref());
    let Some(redo) = disk.redo.as_deref().filter(|_| s.knobs.show_redo) else { return real };
    let mut top = Obj {
        ty: real.ty,
        fields: real.fields.iter().filter(|(n, _)| *n != "parent" && *n != "fileName").cloned().collect(),
    };
    top = top.with("fileName", redo).with("parent", real);
    top
}

fn backing(s: &State, disk: &Disk, f: &Vmdk, sharing: Option<&str>) -> Obj {
    let delta = f.parent.is_some();
    let ty = match f.backing {
        BackingKind::Flat => "VirtualDiskFlatVer2BackingInfo",
        BackingKind::Sesparse => "VirtualDiskSeSparseBackingInfo",
        BackingKind::RdmVirtual | BackingKind::RdmPhysical => "VirtualDiskRawDiskMappingVer1BackingInfo",
    };
    let (ds, _) = crate::store::split_path(&f.path).unwrap_or(("", ""));
    let parent = f.parent.as_ref().and_then(|p| s.store.files.get(p)).map(|p| backing(s, disk, p, None));
    let mut o = obj(ty)
        .with("fileName", f.path.as_str())
        .with("datastore", s.datastore(ds).map(|d| MoRef::new("Datastore", d.id.clone())))
        .with("diskMode", disk.mode.as_str())
        .with("uuid", f.uuid.as_str())
        .with("contentId", format!("{:032x}", f.content_id))
        .with("changeId", f.change_id.as_deref())
        .with("digestEnabled", (ty != "VirtualDiskRawDiskMappingVer1BackingInfo").then_some(false));
    // A parent of another class can't be told in the class of its child: VMware shows chains of one class.
    if let Some(p) = parent.filter(|p| p.ty == ty) {
        o = o.with("parent", p);
    }
    match f.backing {
        BackingKind::Flat => o
            .with("split", false)
            .with("writeThrough", false)
            .with("thinProvisioned", true)
            .with("deltaDiskFormat", delta.then_some("redoLogFormat"))
            .with("sharing", sharing.unwrap_or("sharingNone"))
            .with("keyId", f.key_id.as_deref().map(crypto_key)),
        BackingKind::Sesparse => o
            .with("writeThrough", false)
            .with("deltaDiskFormat", delta.then_some("seSparseFormat"))
            .with("grainSize", 4)
            .with("keyId", f.key_id.as_deref().map(crypto_key)),
        kind => o
            .with("lunUuid", f.uuid.replace('-', ""))
            .with("deviceName", "vml.0200000000")
            .with("compatibilityMode", if kind == BackingKind::RdmVirtual { "virtualMode" } else { "physicalMode" })
            .with("sharing", sharing.unwrap_or("sharingNone")),
    }
}

/// The file is gone; the VM's configuration still names it (UNVERIFIED, as is that no size is told).
fn lost_backing(disk: &Disk) -> Obj {
    obj("VirtualDiskFlatVer2BackingInfo").with("fileName", disk.path.as_str()).with("diskMode", disk.mode.as_str())
}

fn grouped(n: i64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn runtime(s: &State, vm: &Vm) -> Obj {
    let reachable = s.host(&vm.host).is_none_or(|h| h.connection == "connected");
    obj("VirtualMachineRuntimeInfo")
        .with("host", MoRef::new("HostSystem", vm.host.clone()))
        .with("connectionState", if reachable { "connected" } else { "disconnected" })
        .with("powerState", power(vm.on))
        .with("faultToleranceState", vm.fault_tolerance.as_deref().unwrap_or("notConfigured"))
        .with("toolsInstallerMounted", false)
        .with("bootTime", vm.on.then_some(CREATED))
        .with("numMksConnections", 0)
        .with("recordReplayState", "inactive")
        .with("onlineStandby", false)
        .with("consolidationNeeded", vm.consolidation_needed)
}

pub(crate) fn power(on: bool) -> &'static str {
    if on { "poweredOn" } else { "poweredOff" }
}

fn capability() -> Obj {
    let mut o = obj("VirtualMachineCapability");
    for p in crate::schema::SCHEMA.props("VirtualMachineCapability") {
        let no = ["npiv", "Npiv", "recordReplay", "consolePref", "sev", "sgx", "Sgx", "tdx", "pmem", "PMC"]
            .iter()
            .any(|x| p.name.contains(x));
        o = o.with(p.name, !no);
    }
    o
}

fn guest(vm: &Vm) -> Obj {
    let running = vm.tools && vm.on;
    obj("GuestInfo")
        .with(
            "toolsStatus",
            if !vm.tools {
                "toolsNotInstalled"
            } else if running {
                "toolsOk"
            } else {
                "toolsNotRunning"
            },
        )
        .with("toolsVersionStatus2", if vm.tools { "guestToolsCurrent" } else { "guestToolsNotInstalled" })
        .with("toolsRunningStatus", if running { "guestToolsRunning" } else { "guestToolsNotRunning" })
        .with("guestState", if running { "running" } else { "notRunning" })
        .with("hostName", running.then_some(vm.name.as_str()))
        .with("guestOperationsReady", running)
}

fn summary(s: &State, vm: &Vm) -> Obj {
    let count = |n: usize| i32::try_from(n).unwrap_or(0);
    let config = obj("VirtualMachineConfigSummary")
        .with("name", shown_name(&vm.name))
        .with("template", vm.template)
        .with("vmPathName", format!("{}{}.vmx", vm.home(), vm.name))
        .with("memorySizeMB", 2048)
        .with("numCpu", 2)
        .with("numEthernetCards", count(vm.devices.iter().filter(|d| matches!(d.kind, Kind::Nic { .. })).count()))
        .with("numVirtualDisks", count(vm.disks().count()))
        .with("uuid", vm.uuid.as_str())
        .with("instanceUuid", vm.instance_uuid.as_str())
        .with("product", vm.product.as_ref().map(product))
        .with("hwVersion", format!("vmx-{:02}", vm.hardware_version));
    let committed: u64 = vm.disks().filter_map(|(_, d)| s.store.files.get(&d.path)).map(|f| f.capacity).sum();
    obj("VirtualMachineSummary")
        .with("vm", vm.moref())
        .with("runtime", runtime(s, vm))
        .with("config", config)
        .with(
            "storage",
            obj("VirtualMachineStorageSummary")
                .with("committed", committed)
                .with("uncommitted", 0)
                .with("unshared", committed)
                .with("timestamp", CREATED),
        )
        .with("quickStats", obj("VirtualMachineQuickStats").with("guestHeartbeatStatus", "green"))
        .with("overallStatus", "green")
}

fn product([name, version]: &[String; 2]) -> Obj {
    obj("VAppProductInfo").with("key", 0).with("name", name.as_str()).with("version", version.as_str())
}

fn snapshot_info(vm: &Vm) -> Option<Obj> {
    if vm.snapshots.is_empty() {
        return None;
    }
    let current = vm.current.as_ref().map(|c| MoRef::new("VirtualMachineSnapshot", c.clone()));
    Some(obj("VirtualMachineSnapshotInfo").with("currentSnapshot", current).with("rootSnapshotList", tree(vm, None)))
}

fn tree(vm: &Vm, parent: Option<&str>) -> Vec<Obj> {
    let of = vm.snapshots.iter().filter(|x| x.parent.as_deref() == parent);
    of.map(|x| {
        let kids = tree(vm, Some(&x.id));
        obj("VirtualMachineSnapshotTree")
            .with("snapshot", MoRef::new("VirtualMachineSnapshot", x.id.clone()))
            .with("vm", vm.moref())
            .with("name", x.name.as_str())
            .with("description", x.description.as_str())
            .with("id", x.number)
            .with("createTime", x.created.as_str())
            .with("state", power(x.on))
            .with("quiesced", x.quiesced)
            .with("childSnapshotList", (!kids.is_empty()).then_some(kids))
            .with("replaySupported", false)
    })
    .collect()
}
