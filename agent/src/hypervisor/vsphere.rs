//! The port's implementation over hotadd-vsphere. Taking a failed batch apart is in [`super::batch`]; conversions are
//! in [`super::convert`]; what is done by a session that was cloned from a ticket in [`super::ticket`].
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use hotadd_vsphere as vim;
use jiff::Timestamp;
use secrecy::SecretString;
use vim::FaultKind;

use super::{
    About, AreaPage, AreaQuestion, AttachOutcome, AttachRequest, ControllerOutcome, ExportOutcome, Exported, Guarding,
    Happening, Hypervisor, LeaseEnd, Machine, Mounted, On, OurDisk, PlanFacts, ProxyFacts, Quiesce, Site,
    SnapshotOutcome, SnapshotTree, TargetFacts, TargetSite, Tracking, batch, controllers,
    convert::{self, datastore_ref, error, fault_error, moref, vm_ref},
    facts::{believable, macs_agree, uuid_candidates},
    ticket::{Cloned, Clones},
};
use crate::{
    audit,
    config::{Deadlines, Trust, Vcenter},
    discover::HostIdentity,
    error::{Error, Result},
    id::{Moref, TargetId},
    reason,
};

pub(super) const DEVICES: &str = "config.hardware.device";

/// See the module.
#[derive(Debug, Clone)]
pub struct Vsphere {
    /// By the account of the configuration: what reads the inventory and what gives back.
    pub(super) client: vim::Client,
    /// What needs a job's rights: the same, or a session that was cloned.
    pub(super) acting: vim::Client,
    pub(super) clones: Clones,
    pub(super) deadlines: Deadlines,
}

impl Vsphere {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`reason::VC_UNREACHABLE`], [`reason::VC_TLS`], [`reason::VC_LOGIN`] or [`reason::VC_PROTOCOL`].
    pub async fn connect(vcenter: &Vcenter, deadlines: &Deadlines, observer: Option<vim::Observer>) -> Result<Self> {
        let trust = match &vcenter.trust {
            Trust::Ca(pem) => vim::Trust::Ca(pem.clone()),
            Trust::Pin(pin) => vim::Trust::Pin(*pin),
        };
        let mut config = vim::Config::new(&vcenter.url, &vcenter.user, vcenter.password.clone(), trust);
        config.observer = observer;
        config.request_timeout = deadlines.call;
        config.poll = deadlines.poll;
        config.login_pause = deadlines.login;
        config.login_pause_last = deadlines.login_last;
        let source = vcenter.clone();
        config.password_source = Some(Arc::new(move || source.read_password()));
        let client = vim::Client::connect(config).await.map_err(error)?;
        Ok(Self { acting: client.clone(), client, clones: Clones::default(), deadlines: deadlines.clone() })
    }

    pub(super) async fn wait(&self, task: &vim::MoRef, deadline: Duration) -> Result<vim::TaskInfo, vim::Error> {
        audit::note_task(&task.value);
        self.acting.wait_task(task, deadline, None).await
    }

    /// Whether any task on this VM has not ended. A task that the server forgot has ended.
    pub(super) async fn is_busy(&self, vm: &vim::VmInfo) -> Result<bool> {
        believable(vm, &[])?;
        let tasks = self.client.tasks(&vm.recent_tasks).await.map_err(error)?;
        Ok(tasks.iter().any(|task| !task.state.is_final()))
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

    fn certificate(&self) -> Option<Vec<u8>> {
        self.client.certificate()
    }

    async fn proven_password(&self) -> Result<SecretString> {
        self.acting.proven_password().await.map_err(error)
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

    async fn may_see(&self, vm: &Moref) -> Result<()> {
        self.shows(vm).await
    }

    async fn planning(&self, proxy: &Moref, target: &Moref, snapshot: Option<&Moref>) -> Result<PlanFacts> {
        self.plan_facts(proxy, target, snapshot).await
    }

    async fn datastores_of(&self, host: &Moref) -> Result<Vec<Mounted>> {
        let host = vim::MoRef::new("HostSystem", host.as_str());
        let stores = self.client.host_datastores(&host).await.map_err(error)?;
        let mounted = |(of, name, free_bytes)| Mounted { moref: moref(&of), name, free_bytes };
        Ok(stores.into_iter().map(mounted).collect())
    }

    async fn serving_hosts(&self, datastores: &[Moref]) -> Result<Vec<String>> {
        let mut hosts = BTreeSet::new();
        for datastore in datastores {
            let store = self.client.datastore(&datastore_ref(datastore)).await.map_err(error)?;
            let writes = |mount: &vim::HostMount| {
                mount.accessible != Some(false) && mount.access_mode.as_deref() != Some("readOnly")
            };
            hosts.extend(store.hosts.into_iter().filter(writes).map(|mount| mount.host));
        }
        let mut names = Vec::new();
        for host in &hosts {
            let info = self.client.host(host).await.map_err(error)?;
            let serves =
                info.connection_state.as_deref() == Some("connected") && info.in_maintenance_mode != Some(true);
            names.extend(serves.then_some(info.name));
        }
        Ok(names)
    }

    async fn export(&self, snapshot: &Moref) -> ExportOutcome {
        self.ask_export(snapshot).await
    }

    async fn hold_export(&self, lease: &Moref, snapshot: &Moref) -> Result<Exported> {
        Self::hold_export(self, lease, snapshot).await
    }

    async fn end_export(&self, lease: &Moref) -> Result<LeaseEnd> {
        self.abort_export(lease).await
    }

    async fn create_snapshot(&self, vm: &Moref, name: &str, marker: &str, quiesce: Quiesce) -> SnapshotOutcome {
        self.take_snapshot(vm, name, marker, quiesce).await
    }

    async fn snapshots(&self, vm: &TargetId) -> Result<Option<SnapshotTree>> {
        self.snapshot_tree(vm).await
    }

    async fn has_snapshot(&self, vm: &Moref, snapshot: &Moref) -> Result<bool> {
        let tree = self.snapshot_tree(&TargetId { moref: vm.clone(), instance_uuid: None }).await?;
        Ok(tree.is_some_and(|tree| tree.nodes.iter().any(|node| node.moref == *snapshot)))
    }

    async fn remove_snapshot(&self, vm: &TargetId, snapshot: &Moref, name: &str) -> Result<()> {
        self.take_out(vm, snapshot, name).await
    }

    async fn tracking(&self, vm: &Moref) -> Result<Tracking> {
        self.read_tracking(vm).await
    }

    async fn change_ids(&self, snapshot: &Moref) -> Result<BTreeMap<i32, String>> {
        self.read_change_ids(snapshot).await
    }

    async fn machine(&self, snapshot: &Moref) -> Result<Machine> {
        self.read_machine(snapshot).await
    }

    async fn enable_tracking(&self, vm: &Moref, change_version: Option<&str>) -> Result<()> {
        self.turn_tracking_on(vm, change_version).await
    }

    async fn changed_areas(&self, question: AreaQuestion<'_>) -> Result<AreaPage> {
        self.area_page(question).await
    }

    async fn holders(&self, vm: &TargetId, snapshot: Option<&Moref>) -> Result<Vec<String>> {
        self.foreign_holders(vm, snapshot).await
    }

    async fn consolidate(&self, vm: &TargetId) -> Result<()> {
        self.consolidate_disks(vm).await
    }

    async fn disable_methods(&self, vm: &TargetId, methods: &[&str], source: &str, why: &str) -> Guarding {
        self.guard(vm, methods, source, why).await
    }

    async fn enable_methods(&self, vm: &TargetId, methods: &[String], source: &str) -> Result<()> {
        self.unguard(vm, methods, source).await
    }

    async fn disabled_methods(&self, vm: &TargetId) -> Result<BTreeSet<String>> {
        self.disabled_now(vm).await
    }

    async fn account_may(&self, on: On<'_>, privilege: &str) -> Result<bool> {
        self.account_holds(on, privilege).await
    }

    fn login(&self) -> Option<String> {
        self.acting.session_key()
    }

    async fn clone_session(&self, ticket: &SecretString) -> Result<Cloned> {
        self.cloned(ticket).await
    }

    fn has_ended(&self, login: &str) -> bool {
        self.clone_has_ended(login)
    }

    async fn fence(&self, login: &str) -> Result<()> {
        self.end_session(login).await
    }

    async fn attach(&self, proxy: &Moref, requests: &[AttachRequest]) -> Vec<AttachOutcome> {
        batch::attach(self, proxy, requests).await
    }

    async fn add_controller(&self, proxy: &Moref, bus: i32) -> ControllerOutcome {
        controllers::add(self, proxy, bus).await
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

    async fn proxy_site(&self, proxy: &Moref) -> Result<Site> {
        self.see_proxy(proxy).await
    }

    async fn clock(&self) -> Result<Timestamp> {
        self.server_clock().await
    }

    async fn happenings(&self, proxy: &Moref, host: Option<&Moref>, since: Timestamp) -> Vec<Happening> {
        self.recorded(proxy, host, since).await
    }

    async fn target_site(&self, target: &Moref) -> Result<Option<TargetSite>> {
        self.see_target(target).await
    }

    async fn host_blocks_removal(&self, target: &TargetId) -> Option<String> {
        self.blocks_removal(target).await
    }

    async fn conflict_report(&self, target: &TargetId) -> Option<String> {
        self.report_conflict(target).await
    }

    async fn keep_alive(&self) -> Result<()> {
        self.acting.keep_alive().await.map_err(error)
    }

    async fn login_change(&self, known: Option<&str>) -> Option<String> {
        let mut refused = self.acting.login_refused();
        let told = |refused: &Option<vim::LoginRefused>| {
            refused.as_ref().map(|r| format!("{}; the next try is in {} s", r.why, r.pause.as_secs()))
        };
        let change = refused.wait_for(|now| told(now).as_deref() != known).await.map(|now| told(&now));
        match change {
            Ok(now) => now,
            // The client is gone, and with it what could change.
            Err(_) => std::future::pending().await,
        }
    }

    async fn logout(&self) {
        if let Err(error) = self.acting.logout().await {
            tracing::debug!(%error, "logout failed; the session ends by itself");
        }
    }
}
