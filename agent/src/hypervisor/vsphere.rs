//! The port's implementation over hotadd-vsphere. Taking a failed batch apart is in [`super::batch`]; conversions are
//! in [`super::convert`].
use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use hotadd_vsphere as vim;
use vim::{ErrorKind, FaultKind};

use super::{
    About, AttachOutcome, AttachRequest, Hypervisor, OurDisk, ProxyFacts, Quiesce, Snapshot, SnapshotOutcome,
    TargetDisk, TargetFacts, batch,
    convert::{self, datastore_ref, error, fault_error, moref, snapshot_ref, vm_ref},
};
use crate::{
    config::{Deadlines, Trust, Vcenter},
    discover::HostIdentity,
    error::{Error, Result},
    id::{Moref, TargetId},
    reason,
};

/// Shown in the vSphere Client beside the snapshot.
const SNAPSHOT_TEXT: &str = "Temporary. Made by hotadd-agent, which removes it. Do not remove it while a backup runs.";

const DEVICES: &str = "config.hardware.device";

/// See the module.
#[derive(Debug, Clone)]
pub struct Vsphere {
    pub(super) client: vim::Client,
    pub(super) deadlines: Deadlines,
}

impl Vsphere {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`reason::VC_UNREACHABLE`], [`reason::VC_TLS`], [`reason::VC_LOGIN`] or [`reason::VC_PROTOCOL`].
    pub async fn connect(vcenter: &Vcenter, deadlines: &Deadlines) -> Result<Self> {
        let trust = match &vcenter.trust {
            Trust::Ca(pem) => vim::Trust::Ca(pem.clone()),
            Trust::Pin(pin) => vim::Trust::Pin(*pin),
        };
        let mut config = vim::Config::new(&vcenter.url, &vcenter.user, vcenter.password.clone(), trust);
        config.request_timeout = deadlines.call;
        let client = vim::Client::connect(config).await.map_err(error)?;
        Ok(Self { client, deadlines: deadlines.clone() })
    }

    pub(super) async fn wait(&self, task: &vim::MoRef, deadline: Duration) -> Result<vim::TaskInfo, vim::Error> {
        self.client.wait_task(task, deadline, None).await
    }

    /// Whether any task on this VM has not ended. A task that the server forgot has ended.
    pub(super) async fn is_busy(&self, vm: &vim::VmInfo) -> Result<bool> {
        believable(vm, &[])?;
        for task in &vm.recent_tasks {
            match self.client.task(task).await {
                Ok(info) if !info.state.is_final() => return Ok(true),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::TaskGone) => {}
                Err(e) => return Err(error(e)),
            }
        }
        Ok(false)
    }

    async fn candidates(&self, what: &str) -> Result<Vec<vim::MoRef>> {
        if what.starts_with("vm-") && what[3..].bytes().all(|b| b.is_ascii_digit()) && what.len() > 3 {
            let reference = vim::MoRef::new("VirtualMachine", what);
            match self.client.vm(&reference).await {
                Ok(_) => return Ok(vec![reference]),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(error(e)),
            }
        }
        if uuid::Uuid::parse_str(what).is_ok() {
            let mut found = self.client.find_vms_by_uuid(what, true).await.map_err(error)?;
            found.extend(self.client.find_vms_by_uuid(what, false).await.map_err(error)?);
            found.sort();
            found.dedup();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        self.client.find_vms_by_name(what).await.map_err(error)
    }

    /// Whether the proxy's host can use a datastore; `None` when that can't be read.
    async fn reachable(&self, datastore: &Moref, host: Option<&vim::MoRef>) -> Option<bool> {
        let info = self.client.datastore(&datastore_ref(datastore)).await.ok()?;
        if !info.accessible {
            return Some(false);
        }
        let mount = info.hosts.iter().find(|mount| Some(&mount.host) == host);
        match mount {
            Some(mount) => Some(mount.accessible != Some(false) && mount.access_mode.as_deref() != Some("readOnly")),
            None if info.hosts.is_empty() || host.is_none() => None,
            None => Some(false),
        }
    }
}

#[async_trait]
impl Hypervisor for Vsphere {
    fn about(&self) -> About {
        let about = self.client.about();
        About {
            name: format!("{} {} build-{}", about.name, about.version, about.build),
            api_version: about.api_version.clone(),
            negotiated: about.negotiated.to_string(),
            instance_uuid: about.instance_uuid.clone(),
        }
    }

    async fn identify(&self, host: &HostIdentity) -> Result<Moref> {
        let mut found = Vec::new();
        for uuid in uuid_candidates(host) {
            found = self.client.find_vms_by_uuid(&uuid, false).await.map_err(error)?;
            if !found.is_empty() {
                break;
            }
        }
        let mut matching = Vec::new();
        for vm in &found {
            let info = self.client.vm(vm).await.map_err(error)?;
            // A copied VM may carry the UUID alone; where both sides know MACs they have to agree.
            let matches = match macs_agree(&info, host) {
                Some(agree) => agree,
                None => found.len() == 1,
            };
            if matches {
                matching.push(moref(vm));
            }
        }
        match (matching.pop(), matching.is_empty()) {
            (Some(proxy), true) => Ok(proxy),
            (Some(_), false) => Err(Error::new(
                &reason::CFG_IDENTITY,
                format!("{} VMs share this BIOS UUID and their MAC addresses do not decide", found.len()),
            )),
            (None, _) if !found.is_empty() => Err(Error::new(
                &reason::CFG_IDENTITY,
                format!(
                    "{} VMs have this BIOS UUID, none of them has one of the MAC addresses {:?}",
                    found.len(),
                    host.macs
                ),
            )),
            (None, _) => Err(Error::new(
                &reason::CFG_IDENTITY,
                format!("no VM of this vCenter has the UUID of {:?} / {:?}", host.serial, host.uuid),
            )),
        }
    }

    async fn proxy(&self, proxy: &Moref) -> Result<ProxyFacts> {
        // Tasks first: one that ends between the two reads has its effect in the device list that is read after it.
        let busy = self.is_busy(&self.client.vm(&vm_ref(proxy)).await.map_err(error)?).await?;
        let vm = self.client.vm(&vm_ref(proxy)).await.map_err(error)?;
        // The home folder tells which disks are the proxy's own.
        believable(&vm, &[DEVICES, "config.files.vmPathName"])?;
        Ok(convert::proxy_facts(&vm, busy))
    }

    async fn find_target(&self, what: &str) -> Result<TargetFacts> {
        let found = self.candidates(what).await?;
        match &found[..] {
            [] => Err(Error::new(&reason::VM_UNKNOWN, format!("{what:?}"))),
            [vm] => {
                let info = self.client.vm(vm).await.map_err(error)?;
                Ok(TargetFacts {
                    moref: moref(vm),
                    instance_uuid: info.instance_uuid,
                    name: info.name,
                    power_state: info.power_state.as_ref().map(convert::power_state).unwrap_or_default().to_owned(),
                    template: info.is_template,
                })
            }
            many => {
                let morefs: Vec<_> = many.iter().map(|m| m.value.as_str()).collect();
                Err(Error::new(&reason::VM_AMBIGUOUS, format!("{what:?}: {}", morefs.join(", "))))
            }
        }
    }

    async fn target_disks(&self, vm: &Moref, snapshot: Option<&Moref>, proxy: &Moref) -> Result<Vec<TargetDisk>> {
        let devices = match snapshot {
            Some(snapshot) => self.client.snapshot_devices(&snapshot_ref(snapshot)).await.map_err(|e| {
                let gone = e.is_not_found();
                if gone { Error::new(&reason::SNAP_UNKNOWN, snapshot.to_string()) } else { error(e) }
            })?,
            None => {
                let info = self.client.vm(&vm_ref(vm)).await.map_err(error)?;
                believable(&info, &[DEVICES])?;
                info.devices
            }
        };
        let host = self.client.vm(&vm_ref(proxy)).await.map_err(error)?.host;
        let mut disks: Vec<TargetDisk> =
            devices.iter().filter_map(vim::Device::as_disk).map(|disk| convert::target_disk(disk, &devices)).collect();
        let mut known: BTreeMap<Moref, Option<bool>> = BTreeMap::new();
        for disk in &mut disks {
            let Some(datastore) = disk.datastore.clone() else { continue };
            if !known.contains_key(&datastore) {
                let reachable = self.reachable(&datastore, host.as_ref()).await;
                known.insert(datastore.clone(), reachable);
            }
            disk.reachable = known.get(&datastore).copied().flatten();
        }
        Ok(disks)
    }

    async fn create_snapshot(&self, vm: &Moref, name: &str, quiesce: Quiesce) -> SnapshotOutcome {
        let quiesce = match quiesce {
            Quiesce::None => vim::Quiesce::No,
            Quiesce::Yes { timeout: None } => vim::Quiesce::Yes,
            Quiesce::Yes { timeout: Some(limit) } => {
                vim::Quiesce::Timeout(u32::try_from(limit.as_secs().div_ceil(60)).unwrap_or(u32::MAX))
            }
        };
        let spec = vim::SnapshotSpec { name: name.to_owned(), description: SNAPSHOT_TEXT.to_owned(), quiesce };
        let task = match self.client.create_snapshot(&vm_ref(vm), &spec).await {
            Ok(task) => task,
            Err(e) => {
                return match e.fault() {
                    Some(fault) => snapshot_refused(fault),
                    None => SnapshotOutcome::Unknown(error(e)),
                };
            }
        };
        // A fault of the waiting says nothing about the task.
        let info = match self.wait(&task, self.deadlines.snapshot).await {
            Ok(info) => info,
            Err(e) => return SnapshotOutcome::Unknown(error(e)),
        };
        match (info.error, info.result) {
            (Some(fault), _) => snapshot_refused(&fault),
            (None, Some(vim::TaskResult::MoRef(snapshot))) => {
                let quiesced = spec.quiesce != vim::Quiesce::No && self.was_quiesced(vm, &snapshot).await;
                SnapshotOutcome::Made(Snapshot { moref: moref(&snapshot), quiesced })
            }
            (None, _) => {
                SnapshotOutcome::Unknown(Error::new(&reason::VC_PROTOCOL, "the snapshot task gave no snapshot"))
            }
        }
    }

    async fn find_snapshots(&self, vm: &TargetId, name: &str) -> Result<Vec<Moref>> {
        let Some((nodes, busy)) = self.snapshot_nodes(vm).await? else { return Ok(Vec::new()) };
        let found: Vec<_> = nodes.iter().filter(|(_, given)| given == name).map(|(moref, _)| moref.clone()).collect();
        if found.is_empty() && busy {
            return Err(Error::new(&reason::SNAP_REMOVE, "a task runs on the VM; a snapshot may still appear"));
        }
        Ok(found)
    }

    async fn has_snapshot(&self, vm: &Moref, snapshot: &Moref) -> Result<bool> {
        let nodes = self.snapshot_nodes(&TargetId { moref: vm.clone(), instance_uuid: None }).await?;
        Ok(nodes.is_some_and(|(nodes, _)| nodes.iter().any(|(moref, _)| moref == snapshot)))
    }

    async fn remove_snapshot(&self, vm: &TargetId, snapshot: &Moref, name: &str) -> Result<()> {
        if !self.holds(vm, snapshot, name).await? {
            return Ok(());
        }
        let started = self.client.remove_snapshot(&snapshot_ref(snapshot), true).await;
        let task = match started {
            // Gone, or unknown for another reason: the tree decides.
            Err(e) if e.is_not_found() => None,
            other => Some(other.map_err(removal_error)?),
        };
        if let Some(task) = task {
            let info = self.wait(&task, self.deadlines.snapshot).await.map_err(error)?;
            if let Some(fault) = info.error {
                return Err(fault_error(&fault, &reason::SNAP_REMOVE));
            }
        }
        if self.holds(vm, snapshot, name).await? {
            return Err(Error::new(&reason::SNAP_REMOVE, format!("{snapshot} is still listed")));
        }
        Ok(())
    }

    async fn attach(&self, proxy: &Moref, requests: &[AttachRequest]) -> Vec<AttachOutcome> {
        batch::attach(self, proxy, requests).await
    }

    async fn detach(&self, proxy: &Moref, disks: &[OurDisk]) -> Result<()> {
        let vm = self.client.vm(&vm_ref(proxy)).await.map_err(error)?;
        believable(&vm, &[DEVICES])?;
        // The full device as the server describes it now, and only if it still is the disk that was claimed.
        let scsi: Vec<i32> = vm.scsi_controllers().map(|c| c.key).collect();
        let remove: Vec<vim::RemoveDisk> = vm
            .disks()
            .filter(|disk| disks.iter().any(|OurDisk(ours)| *ours == convert::proxy_disk(disk, &scsi)))
            .map(vim::RemoveDisk::new)
            .collect();
        if remove.is_empty() {
            return Ok(());
        }
        let spec = vim::Reconfigure { change_version: vm.change_version, change: vim::DeviceChanges::Remove(remove) };
        let task = self.client.reconfigure(&vm_ref(proxy), &spec).await.map_err(error)?;
        let info = self.wait(&task, self.deadlines.reconfigure).await.map_err(error)?;
        match info.error {
            Some(fault) if matches!(fault.kind, FaultKind::DeviceNotFound) => Ok(()),
            Some(fault) => Err(fault_error(&fault, &reason::VC_FAULT)),
            None => Ok(()),
        }
    }

    async fn keep_alive(&self) -> Result<()> {
        self.client.keep_alive().await.map_err(error)
    }

    async fn logout(&self) {
        if let Err(error) = self.client.logout().await {
            tracing::debug!(%error, "logout failed; the session ends by itself");
        }
    }
}

impl Vsphere {
    /// Unreadable counts as not quiesced: nothing is promised that was not seen.
    async fn was_quiesced(&self, vm: &Moref, snapshot: &vim::MoRef) -> bool {
        let info = self.client.vm(&vm_ref(vm)).await.ok();
        info.and_then(|info| info.snapshots?.find(snapshot).map(|node| node.quiesced)).unwrap_or(false)
    }

    /// Every snapshot with its name, and whether a task runs on the VM; `None`: the VM itself is proven gone, its
    /// snapshots with it.
    async fn snapshot_nodes(&self, vm: &TargetId) -> Result<Option<(Vec<(Moref, String)>, bool)>> {
        let reference = vm_ref(&vm.moref);
        // Tasks first, as for the proxy.
        let info = match self.client.vm(&reference).await {
            Err(e) if e.is_not_found() => return self.really_gone(vm).await.map(|()| None),
            other => other.map_err(error)?,
        };
        let busy = self.is_busy(&info).await?;
        let info = self.client.vm(&reference).await.map_err(error)?;
        believable(&info, &[])?;
        if info.consolidation_needed == Some(true) && !busy {
            tracing::error!(
                vm = info.name,
                reason = reason::SNAP_CONSOLIDATE.code,
                "{}: {}",
                reason::SNAP_CONSOLIDATE.summary,
                reason::SNAP_CONSOLIDATE.next_step
            );
        }
        let mut open: Vec<&vim::SnapshotNode> = info.snapshots.iter().flat_map(|tree| &tree.roots).collect();
        let mut nodes = Vec::new();
        while let Some(node) = open.pop() {
            nodes.push((moref(&node.moref), node.name.clone()));
            open.extend(&node.children);
        }
        Ok(Some((nodes, busy)))
    }

    /// A VM that was registered anew has another moref, and still its snapshots.
    async fn really_gone(&self, vm: &TargetId) -> Result<()> {
        let Some(uuid) = &vm.instance_uuid else { return Ok(()) };
        let found = self.client.find_vms_by_uuid(uuid, true).await.map_err(error)?;
        match found.first() {
            None => Ok(()),
            Some(now) => {
                let detail = format!("{} is registered as {} now; remove our snapshot by hand", vm.moref, now.value);
                Err(Error::new(&reason::SNAP_DOUBT, detail))
            }
        }
    }

    /// Whether the snapshot is there. Its absence counts only when no task runs on the VM.
    async fn holds(&self, vm: &TargetId, snapshot: &Moref, name: &str) -> Result<bool> {
        let Some((nodes, busy)) = self.snapshot_nodes(vm).await? else { return Ok(false) };
        match nodes.iter().find(|(moref, _)| moref == snapshot) {
            Some((_, given)) if given != name => {
                let detail = format!("not touched: {snapshot} is named {given:?}, not {name:?}");
                Err(Error::new(&reason::SNAP_DOUBT, detail))
            }
            Some(_) => Ok(true),
            None if busy => {
                Err(Error::new(&reason::SNAP_REMOVE, format!("{snapshot} is not listed, but a task runs on the VM")))
            }
            None => Ok(false),
        }
    }
}

/// Refuses facts that would be read as "nothing is there" although vCenter only could not tell: what was refused, what
/// has to be set and is not, and everything of a VM whose host vCenter has lost.
fn believable(vm: &vim::VmInfo, required: &[&str]) -> Result<()> {
    let told = Told { missing: &vm.missing, connection: vm.connection_state.as_deref(), name: &vm.name };
    told.believable(required, |path| vm.gave(path))
}

struct Told<'a> {
    missing: &'a [vim::MissingProperty],
    connection: Option<&'a str>,
    name: &'a str,
}

impl Told<'_> {
    fn believable(&self, required: &[&str], gave: impl Fn(&str) -> bool) -> Result<()> {
        const DECIDE: [&str; 4] = ["recentTask", "snapshot", "runtime.connectionState", "runtime.consolidationNeeded"];
        // A refusal may name a parent of the path that was asked for.
        let covers = |refused: &str, path: &str| {
            path.strip_prefix(refused).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let matters = |refused: &str| DECIDE.iter().chain(required).any(|path| covers(refused, path));
        if let Some(refused) = self.missing.iter().find(|missing| matters(&missing.path)) {
            return Err(fault_error(&refused.fault, &reason::VC_STALE));
        }
        if let Some(state) = self.connection.filter(|state| *state != "connected") {
            return Err(Error::new(&reason::VC_STALE, format!("{} is {state}", self.name)));
        }
        match required.iter().find(|path| !gave(path)) {
            Some(path) => Err(Error::new(&reason::VC_STALE, format!("{}: no {path} was given", self.name))),
            None => Ok(()),
        }
    }
}

fn snapshot_refused(fault: &vim::Fault) -> SnapshotOutcome {
    let error = snapshot_fault(fault);
    if batch::proves_refusal(fault) { SnapshotOutcome::Refused(error) } else { SnapshotOutcome::Unknown(error) }
}

fn snapshot_fault(fault: &vim::Fault) -> Error {
    let quiescing = matches!(
        fault.kind,
        FaultKind::FilesystemQuiesceFault | FaultKind::ApplicationQuiesceFault | FaultKind::ToolsUnavailable
    );
    fault_error(fault, if quiescing { &reason::SNAP_QUIESCE } else { &reason::SNAP_FAILED })
}

fn removal_error(e: vim::Error) -> Error {
    match e.fault() {
        Some(fault) => fault_error(fault, &reason::SNAP_REMOVE),
        None => error(e),
    }
}

/// UUIDs under which vCenter may know this VM, best first: the serial number is in vCenter's byte order on every
/// hardware version; product_uuid has its first three fields swapped on most VMs from version 13, but not on all.
fn uuid_candidates(host: &HostIdentity) -> Vec<String> {
    let serial = host
        .serial
        .as_deref()
        .and_then(|text| text.strip_prefix("VMware-"))
        .map(|text| text.chars().filter(char::is_ascii_hexdigit).collect::<String>());
    let from_serial = serial.and_then(|hex| uuid::Uuid::parse_str(&hex).ok());
    let as_is = host.uuid.as_deref().and_then(|text| uuid::Uuid::parse_str(text).ok());
    let swapped = as_is.map(|uuid| uuid::Uuid::from_bytes(uuid.to_bytes_le()));
    let mut all: Vec<String> = Vec::new();
    for uuid in [from_serial, as_is, swapped].into_iter().flatten() {
        let text = uuid.to_string();
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// `None`: one side knows none.
fn macs_agree(vm: &vim::VmInfo, host: &HostIdentity) -> Option<bool> {
    let told = vm.devices.iter().filter_map(|device| match device {
        vim::Device::Nic { mac: Some(mac), .. } => Some(mac.as_str()),
        _ => None,
    });
    any_common(told, &host.macs)
}

fn any_common<'a>(told: impl Iterator<Item = &'a str>, seen: &[String]) -> Option<bool> {
    let told: Vec<String> = told.map(str::to_lowercase).collect();
    (!told.is_empty() && !seen.is_empty()).then(|| told.iter().any(|mac| seen.contains(mac)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_never_taken_for_empty() {
        let fault = |type_name: &str, kind| vim::Fault {
            kind,
            type_name: type_name.into(),
            message: String::new(),
            fault_messages: Vec::new(),
            device_index: None,
            file: None,
            datastore: None,
            source: None,
        };
        let refused = |path: &str| {
            vec![vim::MissingProperty {
                path: path.into(),
                fault: fault(
                    "NoPermission",
                    FaultKind::NoPermission { object: None, privilege: Some("System.Read".into()) },
                ),
            }]
        };
        let code = |missing: &[vim::MissingProperty], connection, gave: bool| {
            let told = Told { missing, connection, name: "p" };
            told.believable(&[DEVICES], |_| gave).map_err(|e| e.reason().code)
        };
        assert_eq!(code(&[], Some("connected"), true), Ok(()));
        assert_eq!(code(&[], None, true), Ok(()));
        assert_eq!(code(&refused("guest.hostName"), Some("connected"), true), Ok(()));
        assert_eq!(code(&[], Some("connected"), false), Err("HA-VC-009"), "unset devices are no empty list");
        assert_eq!(code(&[], Some("disconnected"), true), Err("HA-VC-009"));
        for path in [DEVICES, "config.hardware", "config", "recentTask", "snapshot"] {
            assert_eq!(code(&refused(path), Some("connected"), true), Err("HA-VC-004"), "{path}");
        }
    }

    #[test]
    fn macs_decide_where_both_sides_know_some() {
        let seen = ["00:50:56:aa:00:01".to_owned()];
        assert_eq!(any_common(["00:50:56:AA:00:01"].into_iter(), &seen), Some(true));
        assert_eq!(any_common(["00:50:56:aa:00:02"].into_iter(), &seen), Some(false));
        assert_eq!(any_common([].into_iter(), &seen), None);
        assert_eq!(any_common(["00:50:56:aa:00:02"].into_iter(), &[]), None);
    }

    #[test]
    fn both_byte_orders_are_tried_after_the_serial() {
        let host = HostIdentity {
            vendor: "VMware, Inc.".into(),
            serial: Some("VMware-42 1c 82 7e 09 15 aa f2-b1 54 1f ad 4a 62 97 fb".into()),
            uuid: Some("8ac43342-7478-0792-f6c6-131b895335ba".into()),
            macs: Vec::new(),
        };
        assert_eq!(
            uuid_candidates(&host),
            [
                "421c827e-0915-aaf2-b154-1fad4a6297fb",
                "8ac43342-7478-0792-f6c6-131b895335ba",
                "4233c48a-7874-9207-f6c6-131b895335ba"
            ]
        );
        assert!(uuid_candidates(&HostIdentity::default()).is_empty());
    }
}
