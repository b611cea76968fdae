//! The port to vSphere: what the agent needs of it, in the agent's own words. Three verbs that change the proxy or a
//! target (attach, detach, snapshots) and the facts to decide. Its only implementation is [`vsphere`].
//!
//! A batch of adds is atomic in vSphere; the adapter takes it apart on a fault, so that one bad disk costs only
//! itself. A lost reply is *unknown*, never *failed*. Nothing here can ask for the deletion of a file.
mod batch;
mod clones;
mod controllers;
pub mod convert;
mod export;
mod facts;
pub mod granted;
mod guards;
mod happenings;
pub mod machine;
mod planning;
mod snapshots;
mod surroundings;
#[cfg(test)]
mod testing;
mod ticket;
mod tracking;
mod tree;
pub mod views;
pub mod vsphere;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

pub use self::export::{ExportStream, Exported};
pub use self::machine::Machine;
pub use self::ticket::Cloned;
pub use self::tracking::{AreaPage, AreaQuestion, Tracking};
pub use self::tree::{SNAPSHOT_NAME, SnapshotNode, SnapshotTree};
pub use self::views::PlanFacts;

use crate::{
    discover::HostIdentity,
    error::{Error, Result},
    id::{BackingPath, DiskUuid, Moref, Slot, TargetId},
};

/// A SCSI controller of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerFacts {
    pub key: i32,
    pub bus: i32,
    /// `pvscsi`, `lsilogic`, …
    pub kind: String,
    pub pvscsi: bool,
    /// slotInfo.pciSlotNumber, else extraConfig `scsiN.pciSlotNumber`.
    pub pci_slot: Option<u32>,
    /// scsiCtlrUnitNumber; 7 by convention.
    pub reserved_unit: u32,
}

/// A disk on the proxy, whoever's it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyDisk {
    pub device_key: i32,
    /// `None`: not on a SCSI controller, or without a unit.
    pub slot: Option<Slot>,
    /// The backing's file and its parents: a nonpersistent disk may be shown under its redo log's name.
    pub chain: Vec<BackingPath>,
    pub uuid: Option<DiskUuid>,
    pub capacity_bytes: u64,
    /// diskMode is independent_nonpersistent.
    pub nonpersistent: bool,
}

/// The proxy now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyFacts {
    pub moref: Moref,
    pub instance_uuid: Option<String>,
    pub name: String,
    /// Folder of its .vmx, `[ds] folder/`.
    pub home: String,
    /// The number of `vmx-NN`.
    pub hardware_version: u32,
    pub controllers: Vec<ControllerFacts>,
    pub disks: Vec<ProxyDisk>,
    /// A task on this VM is queued or running: what it will do is not in `disks` yet.
    pub busy: bool,
}

impl ProxyFacts {
    /// As a VM that a duty can be about.
    #[must_use]
    pub fn as_target(&self) -> TargetFacts {
        TargetFacts {
            moref: self.moref.clone(),
            instance_uuid: self.instance_uuid.clone(),
            name: self.name.clone(),
            power_state: "poweredOn".into(),
            template: false,
        }
    }

    /// The disk that vCenter lists in a slot, whoever's it is.
    #[must_use]
    pub fn disk_at(&self, slot: Slot) -> Option<&ProxyDisk> {
        self.disks.iter().find(|disk| disk.slot == Some(slot))
    }
}

/// The target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFacts {
    pub moref: Moref,
    pub instance_uuid: Option<String>,
    pub name: String,
    /// `poweredOn`, `poweredOff`, `suspended`.
    pub power_state: String,
    pub template: bool,
}

impl TargetFacts {
    #[must_use]
    pub fn id(&self) -> TargetId {
        TargetId { moref: self.moref.clone(), instance_uuid: self.instance_uuid.clone() }
    }
}

/// A disk of the target, from its live configuration or from a snapshot's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetDisk {
    pub device_key: i32,
    pub label: String,
    /// `scsi0:1`.
    pub place: String,
    pub backing: BackingPath,
    pub backing_kind: BackingKind,
    pub datastore: Option<Moref>,
    pub datastore_name: String,
    pub capacity_bytes: u64,
    pub uuid: Option<DiskUuid>,
    pub change_id: String,
    pub independent: bool,
    pub shared: bool,
}

/// What kind of backing it is, as far as attaching cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackingKind {
    FlatV2,
    SeSparse,
    SparseV2,
    /// Named as the server names it.
    Other(String),
}

/// One disk to attach, always independent_nonpersistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    pub slot: Slot,
    pub backing: BackingPath,
    pub backing_kind: BackingKind,
    pub datastore: Option<Moref>,
    pub capacity_bytes: u64,
    pub uuid: DiskUuid,
}

/// What became of one request.
#[derive(Debug)]
pub enum AttachOutcome {
    /// It is attached under this device key.
    Attached { device_key: i32 },
    /// vCenter refused it and its device list, read afterwards with no task running, does not have it.
    Refused(Error),
    /// It may be attached, or may still become so.
    Unknown(Error),
}

impl AttachOutcome {
    /// Why it is not attached, as far as is known.
    #[must_use]
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Attached { .. } => None,
            Self::Refused(error) | Self::Unknown(error) => Some(error),
        }
    }
}

/// What became of a wish for a controller.
#[derive(Debug)]
pub enum ControllerOutcome {
    /// There is a PVSCSI controller on the bus.
    Added { key: i32 },
    /// vCenter refused it and there is none.
    Refused(Error),
    /// It may still come.
    Unknown(Error),
}

impl ControllerOutcome {
    /// Why there is none, as far as is known.
    #[must_use]
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Added { .. } => None,
            Self::Refused(error) | Self::Unknown(error) => Some(error),
        }
    }
}

/// A disk on the proxy that is proven, on vCenter's side, to be the one that a duty names. Made by
/// [`crate::attach::claim`] only, so nothing else can be detached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurDisk(pub(crate) ProxyDisk);

/// How consistent a snapshot has to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiesce {
    None,
    Yes { timeout: Option<Duration> },
}

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub moref: Moref,
    /// What vCenter says it did: a quiesce is silently ignored when the VM is off or has no running Tools.
    pub quiesced: bool,
}

/// What became of a wish for a snapshot.
#[derive(Debug)]
pub enum SnapshotOutcome {
    Made(Snapshot),
    /// vCenter refused it, or its task ended with a fault that leaves none behind.
    Refused(Error),
    /// It may exist, or may still come.
    Unknown(Error),
}

impl SnapshotOutcome {
    /// Why there is none, as far as is known.
    #[must_use]
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Made(_) => None,
            Self::Refused(error) | Self::Unknown(error) => Some(error),
        }
    }
}

/// What became of a wish for an export lease.
#[derive(Debug)]
pub enum ExportOutcome {
    Made(Moref),
    /// vCenter refused it.
    Refused(Error),
    /// One may live that nobody can name.
    Unknown(Error),
}

impl ExportOutcome {
    /// Why there is none, as far as is known.
    #[must_use]
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Made(_) => None,
            Self::Refused(error) | Self::Unknown(error) => Some(error),
        }
    }
}

/// How a lease was found after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// vCenter says that it is done, or ended.
    Over,
    /// vCenter does not know it. It may be known to the session alone that asked for it.
    Unknown,
}

/// What became of a wish to disable methods.
#[derive(Debug)]
pub enum Guarding {
    Disabled,
    /// Somebody else has disabled one of them; what of ours was disabled is unknown.
    Others(Error),
    Refused(Error),
    /// They may be disabled, or may still become so.
    Unknown(Error),
}

impl Guarding {
    /// Why they are not disabled, as far as is known.
    #[must_use]
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Disabled => None,
            Self::Others(error) | Self::Refused(error) | Self::Unknown(error) => Some(error),
        }
    }
}

/// Why a host is no good place to begin something on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrest {
    /// The description id of the task that empties it.
    Entering(String),
    Maintenance,
    Quarantine,
    /// HostSystem.runtime.standbyMode.
    Standby(String),
    /// HostSystem.runtime.connectionState.
    Connection(String),
}

impl fmt::Display for Unrest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entering(task) => write!(f, "is entering maintenance mode ({task})"),
            Self::Maintenance => f.write_str("is in maintenance mode"),
            Self::Quarantine => f.write_str("is in quarantine"),
            Self::Standby(mode) => write!(f, "goes to standby ({mode})"),
            Self::Connection(state) => write!(f, "is {state}"),
        }
    }
}

/// Where a VM runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    pub host: Option<Moref>,
    pub host_name: String,
    pub unrest: Option<Unrest>,
    /// Description id of a running task that moves the VM.
    pub moving: Option<String>,
    /// Description id of a running task of the host's cluster that takes one of its hosts out of service, which is not told.
    pub cluster: Option<String>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The proxy's host left service, or began to.
    HostLeaves,
    /// The proxy was moved to another host, or its move began.
    Move,
}

/// An event that vCenter recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub what: Happened,
    /// VMware's name of its type.
    pub event: String,
    /// By vCenter's clock.
    pub at: Timestamp,
}

/// A datastore that a host mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub moref: Moref,
    pub name: String,
    pub free_bytes: u64,
}

/// A datastore that holds a delta of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub name: String,
    /// `None`: not told.
    pub free_bytes: Option<u64>,
    /// Size of the current deltas there.
    pub delta_bytes: u64,
}

/// The target while it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSite {
    pub site: Site,
    /// Every snapshot of its tree.
    pub snapshots: Vec<Moref>,
    /// The snapshot that its current state stands on, and those below it.
    pub stands_on: Vec<Moref>,
    /// Description id of a running task that changes its disks' chains.
    pub reshaping: Option<String>,
    pub stores: Vec<Store>,
}

/// What matters around disks that are held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub proxy: Site,
    /// `None`: the VM is gone.
    pub target: Option<TargetSite>,
}

/// On what a privilege is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On<'a> {
    Vcenter,
    Vm(&'a Moref),
}

/// Who answers, for GetInfo.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    pub name: String,
    pub api_version: String,
    pub negotiated: String,
    /// Identity of the vCenter; absent on a bare host.
    pub instance_uuid: Option<String>,
}

/// See the module.
#[async_trait]
pub trait Hypervisor: fmt::Debug + Send + Sync + 'static {
    fn about(&self) -> About;
    /// DER of vCenter's certificate, as it was believed last.
    fn certificate(&self) -> Option<Vec<u8>>;
    /// A password that vCenter takes now, for a program that logs in by itself.
    async fn proven_password(&self) -> Result<SecretString>;
    /// Finds the VM in which this agent runs.
    async fn identify(&self, host: &HostIdentity) -> Result<Moref>;
    /// The proxy's controllers, disks and running tasks, read now.
    async fn proxy(&self, proxy: &Moref) -> Result<ProxyFacts>;
    /// By moref, UUID or exact name.
    async fn find_target(&self, what: &str) -> Result<TargetFacts>;
    /// Refuses a VM whose hardware is not shown to the session that acts: what this one reads is not to be told then.
    async fn may_see(&self, vm: &Moref) -> Result<()>;
    /// Everything that decides how disks may be read, with the disks of the live configuration (for preflight) or of a
    /// snapshot (for attaching). Reads only, in one call.
    async fn planning(&self, proxy: &Moref, target: &Moref, snapshot: Option<&Moref>) -> Result<PlanFacts>;
    /// Names of the connected hosts that may write to one of these datastores: vCenter lets the first of them serve a
    /// snapshot's disk.
    async fn serving_hosts(&self, datastores: &[Moref]) -> Result<Vec<String>>;
    /// Datastores that a host mounts.
    async fn datastores_of(&self, host: &Moref) -> Result<Vec<Mounted>>;
    /// Asks for an export lease on a snapshot's disks.
    async fn export(&self, snapshot: &Moref) -> ExportOutcome;
    /// Waits until it is ready and keeps it alive.
    async fn hold_export(&self, lease: &Moref, snapshot: &Moref) -> Result<Exported>;
    /// Ends it without success, unless it has ended.
    async fn end_export(&self, lease: &Moref) -> Result<LeaseEnd>;
    /// `marker`: put into the description, for whoever finds the snapshot.
    async fn create_snapshot(&self, vm: &Moref, name: &str, marker: &str, quiesce: Quiesce) -> SnapshotOutcome;
    /// All snapshots of the VM; `None` when the VM itself is proven gone.
    async fn snapshots(&self, vm: &TargetId) -> Result<Option<SnapshotTree>>;
    /// Whether the VM's tree holds this snapshot.
    async fn has_snapshot(&self, vm: &Moref, snapshot: &Moref) -> Result<bool>;
    /// Removes one snapshot, keeping its children; `Ok` when it is proven gone. Already gone is `Ok`. A snapshot of
    /// another name is never touched.
    async fn remove_snapshot(&self, vm: &TargetId, snapshot: &Moref, name: &str) -> Result<()>;
    /// Whether the VM's changes are tracked, and what stands in the way.
    async fn tracking(&self, vm: &Moref) -> Result<Tracking>;
    /// changeId of each disk as of a snapshot, by device key; empty: not tracked.
    async fn change_ids(&self, snapshot: &Moref) -> Result<BTreeMap<i32, String>>;
    /// The VM's hardware as of a snapshot, as it is shown to the session that acts.
    async fn machine(&self, snapshot: &Moref) -> Result<Machine>;
    /// Turns change tracking on and changes nothing else; only while the VM's changeVersion is this one.
    async fn enable_tracking(&self, vm: &Moref, change_version: Option<&str>) -> Result<()>;
    /// One page of a disk's map, unchecked.
    async fn changed_areas(&self, question: AreaQuestion<'_>) -> Result<AreaPage>;
    /// Other VMs that have a file attached which removing this snapshot (`None`: consolidating) merges, for people. Files
    /// below those may be shared for good: linked clones stand on them.
    async fn holders(&self, vm: &TargetId, snapshot: Option<&Moref>) -> Result<Vec<String>>;
    /// Merges deltas that no snapshot needs any more.
    async fn consolidate(&self, vm: &TargetId) -> Result<()>;
    /// Disables methods of a VM for everybody, under our source.
    async fn disable_methods(&self, vm: &TargetId, methods: &[&str], source: &str, why: &str) -> Guarding;
    /// Undoes that. What was not disabled, or a VM that is gone, is `Ok`.
    async fn enable_methods(&self, vm: &TargetId, methods: &[String], source: &str) -> Result<()>;
    /// Methods of a VM that are disabled now, by whomever and for whatever reason: some are by its state alone. None of a VM that is gone.
    async fn disabled_methods(&self, vm: &TargetId) -> Result<BTreeSet<String>>;
    /// Whether the account of the configuration, by which everything is given back, holds a privilege.
    async fn account_may(&self, on: On<'_>, privilege: &str) -> Result<bool>;
    /// Key of the vCenter session in use.
    fn login(&self) -> Option<String>;
    /// Turns a ticket into a session of whoever acquired it: what it gives asks by that session for what needs a job's rights, and
    /// reads by this one. Nothing in vSphere is changed by it.
    ///
    /// # Errors
    /// [`crate::reason::VC_TICKET`]; of a vCenter that does not answer. None holds the ticket.
    async fn clone_session(&self, ticket: &SecretString) -> Result<Cloned>;
    /// Whether this is the key of a session that this run cloned, and that has ended.
    fn has_ended(&self, login: &str) -> bool;
    /// Ends the vCenter session with this key, ours or one of an earlier run; one that has ended is `Ok`. What was sent
    /// under it and not accepted yet can only fail.
    async fn fence(&self, login: &str) -> Result<()>;
    /// Adds all in one task; on a fault the batch is taken apart. One outcome per request, in order.
    async fn attach(&self, proxy: &Moref, batch: &[AttachRequest]) -> Vec<AttachOutcome>;
    /// Adds an empty ParaVirtualSCSIController on a free bus, in a task of its own. Nothing can remove one.
    async fn add_controller(&self, proxy: &Moref, bus: i32) -> ControllerOutcome;
    /// Removes all in one task, keeping their files. `Ok` means that the task succeeded, not yet that they are gone:
    /// the caller reads the proxy again.
    async fn detach(&self, proxy: &Moref, batch: &[OurDisk]) -> Result<()>;
    /// The proxy's host, and whether it is being moved.
    async fn proxy_site(&self, proxy: &Moref) -> Result<Site>;
    /// vCenter's time now.
    async fn clock(&self) -> Result<Timestamp>;
    /// What was recorded from `since` (vCenter's clock) on of the proxy's moves, and of `host` leaving service. What can't be
    /// read is not there: events only add to what tasks and flags tell.
    async fn happenings(&self, proxy: &Moref, host: Option<&Moref>, since: Timestamp) -> Vec<Happening>;
    /// Host, running tasks, snapshots and the deltas' datastores; `None`: the VM is gone.
    async fn target_site(&self, target: &Moref) -> Result<Option<TargetSite>>;
    /// Why a snapshot of the target must not be removed now: its host is being emptied. `None` also when that can't be told.
    async fn host_blocks_removal(&self, target: &TargetId) -> Option<String>;
    /// If the target needs consolidation: every snapshot and delta, and in which order an operator removes them.
    async fn conflict_report(&self, target: &TargetId) -> Option<String>;
    /// Keeps the session alive.
    async fn keep_alive(&self) -> Result<()>;
    /// Returns when what is known of the login is no longer so: why it is refused, `None` while it is taken.
    async fn login_change(&self, known: Option<&str>) -> Option<String>;
    async fn logout(&self);
}
