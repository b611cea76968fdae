//! Everything that the simulated vCenter knows, behind one lock: inventory objects, sessions, tasks, knobs, counters.
//! Here live data and small look-ups; operations are in ops/, answers are built in render/.

pub(crate) mod build;
pub(crate) mod vm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::collector::PcState;
use crate::cue::Cue;
use crate::fault::{Fault, Res};
use crate::inventory::{DatastoreKind, DrsSpec};
use crate::schema::Ver;
use crate::store::Store;
use crate::value::{MoRef, Val};
pub(crate) use vm::{Device, Disabled, Disk, Kind, Origin, Snapshot, Vm};

#[derive(Debug)]
pub(crate) struct Host {
    pub id: String,
    pub name: String,
    /// None: sees all datastores.
    pub datastores: Option<Vec<String>>,
    pub version: Option<String>,
    pub build: Option<String>,
    pub drs: Option<DrsSpec>,
    pub in_maintenance: bool,
    /// The task that takes it into maintenance mode.
    pub entering: Option<String>,
    /// Fault with which calls on its VMs are refused while it enters or is in maintenance mode, and which calls.
    pub block: Option<String>,
    pub blocked: Vec<String>,
    /// Removing a snapshot while it enters leaves the delta behind.
    pub conflict: bool,
    pub in_quarantine: bool,
    /// `none`, `entering`, `in`, `exiting`.
    pub standby: String,
    /// `connected`, `disconnected`, `notResponding`.
    pub connection: String,
    /// Tasks and flags of it are not told; events are.
    pub silent: bool,
    /// A task of its cluster.
    pub cluster_task: Option<String>,
}

/// Something that the server recorded; ids of objects.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub key: u64,
    pub ty: &'static str,
    pub at: String,
    pub host: Option<String>,
    pub vm: Option<String>,
    /// The other end of a move.
    pub other: Option<String>,
}

impl Event {
    pub(crate) fn new(ty: &'static str) -> Event {
        Event { key: 0, ty, at: String::new(), host: None, vm: None, other: None }
    }

    /// What it is about: the VM if there is one.
    pub(crate) fn subject(&self) -> Option<MoRef> {
        let vm = self.vm.as_ref().map(|id| MoRef::new("VirtualMachine", id.clone()));
        vm.or_else(|| self.host.as_ref().map(|id| MoRef::new("HostSystem", id.clone())))
    }
}

/// What became of a request that landed late.
#[derive(Clone, Debug)]
pub(crate) struct Landing {
    pub method: String,
    /// Type of the fault; None when it was executed.
    pub fault: Option<String>,
    pub task: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Datastore {
    pub id: String,
    pub name: String,
    pub kind: DatastoreKind,
    pub dir: PathBuf,
    pub accessible: bool,
    pub access_mode: String,
    pub free: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub key: String,
    pub user: String,
    pub login: String,
    pub user_agent: String,
    pub calls: u64,
}

/// For one clone of a session.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub cookie: String,
    pub until: std::time::Instant,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TaskState {
    Queued,
    Running,
    Success,
    Error,
}

#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub id: String,
    pub name: &'static str,
    pub description: String,
    pub entity: MoRef,
    pub entity_name: String,
    /// The object whose recentTask has it.
    pub listed: MoRef,
    pub state: TaskState,
    pub cancelable: bool,
    pub cancelled: bool,
    pub progress: Option<i32>,
    pub result: Option<Val>,
    pub error: Option<Fault>,
    pub queued: String,
    pub started: Option<String>,
    pub completed: Option<String>,
    pub user: String,
    pub ended: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub logins: u64,
    pub clones: u64,
    pub file_operations: u64,
    /// Files deleted with a VM that had another one's disk attached.
    pub foreign_destroyed: Vec<String>,
    /// Snapshots whose removal a client asked for while another VM read their disks on behalf of the same user.
    pub removed_under_reader: Vec<String>,
    pub calls: BTreeMap<String, u64>,
}

/// Behaviours that a test switches.
#[derive(Debug)]
pub(crate) struct Knobs {
    pub write_through: bool,
    /// Locked files are told as GenericVmConfigFault around the text, as ESXi often does.
    pub wrap_locked: bool,
    /// independent_nonpersistent disks are shown with the redo log as fileName and the real file as its parent.
    pub show_redo: bool,
    /// A second VM may attach a disk that is attached nonpersistent elsewhere.
    pub shared_reads: bool,
    pub suppress_events: bool,
    /// Late requests of an ended session are refused when they land.
    pub fence: bool,
    /// RemoveSnapshot_Task fails with FileLocked when a file is held, instead of leaving the VM in need of consolidation.
    pub removal_fails: bool,
    /// Free bytes that a new delta, and a redo log of an attached disk, needs on its datastore.
    pub need_snapshot: u64,
    pub need_attach: u64,
    /// Of the account of the command line.
    pub permissions: crate::permit::Permissions,
    pub task_ms: u64,
    /// How long a clone ticket serves.
    pub ticket_ms: u64,
    /// EnableMethods undoes what another user has disabled under the same source; else it has no effect then, and no error.
    pub enable_across: bool,
    /// A running VM takes a new controller.
    pub controller_hotplug: bool,
    /// The slot that is told of a controller that comes to a running VM, whatever its real one is.
    pub told_slot: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub method: String,
    /// Whose session it was; empty: none.
    pub user: String,
    pub body: String,
}

#[derive(Debug)]
pub(crate) struct State {
    pub api: Ver,
    pub api_text: String,
    pub user: String,
    pub password: String,
    /// Others than that one.
    pub accounts: crate::permit::Accounts,
    pub instance_uuid: String,
    pub datacenter: String,
    pub hosts: Vec<Host>,
    pub datastores: Vec<Datastore>,
    pub vms: BTreeMap<String, Vm>,
    pub store: Store,
    pub tasks: BTreeMap<u64, Task>,
    /// Oldest first.
    pub events: Vec<Event>,
    /// Tasks whose work has not ended, those that a restart forgot included.
    pub under_way: u64,
    pub sessions: HashMap<String, Session>,
    pub tickets: HashMap<String, Ticket>,
    pub views: BTreeMap<String, (String, Vec<String>, String)>,
    pub pcs: HashMap<String, PcState>,
    /// What is left of a paged answer, and the page size.
    pub tokens: HashMap<String, (usize, Vec<crate::value::Obj>)>,
    pub cues: Vec<Cue>,
    pub knobs: Knobs,
    /// What a site showed.
    pub profile: crate::Profile,
    pub counters: Counters,
    pub requests: Vec<Recorded>,
    /// Requests on their way, and those that landed.
    pub landing: u64,
    pub landings: Vec<Landing>,
    pub problems: BTreeSet<String>,
    /// Manually locked vmdk paths.
    pub locked: BTreeSet<String>,
    /// Overrides for the next attaches: path → what the backend shows instead (decoys).
    pub attach_as: HashMap<String, Value>,
    pub disk_faults: HashMap<String, Value>,
    /// Property paths that are answered in missingSet with NoPermission.
    pub denied: BTreeSet<String>,
    /// The server's own page limit.
    pub page_max: usize,
    pub seq: u64,
    pub leases: BTreeMap<String, crate::export::Lease>,
    pub exports: crate::export::Cues,
    pub telling: crate::ops::areas::Telling,
    /// Of the server's certificate.
    pub thumbprint: String,
}

pub(crate) const ROOT: &str = "group-d1";
pub(crate) const DC: &str = "datacenter-2";
pub(crate) const VM_FOLDER: &str = "group-v3";
/// A second datacenter, with nothing but a folder for VMs.
pub(crate) const DC2: &str = "datacenter-12";
pub(crate) const VM_FOLDER2: &str = "group-v13";
pub(crate) const HOST_FOLDER: &str = "group-h4";
pub(crate) const DS_FOLDER: &str = "group-s5";
pub(crate) const NET_FOLDER: &str = "group-n6";

/// Ended tasks vanish after a while, as on a real vCenter.
const TASK_KEEP: Duration = Duration::from_secs(600);

impl State {
    pub(crate) fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(crate) fn vm(&self, id: &str) -> Res<&Vm> {
        self.vms.get(id).ok_or_else(|| Fault::gone(&MoRef::new("VirtualMachine", id)))
    }

    pub(crate) fn vm_mut(&mut self, id: &str) -> Res<&mut Vm> {
        self.vms.get_mut(id).ok_or_else(|| Fault::gone(&MoRef::new("VirtualMachine", id)))
    }

    /// A VM by name or by moref id: what the control socket uses.
    pub(crate) fn find_vm(&self, name: &str) -> Option<String> {
        self.vms.values().find(|v| v.name == name || v.id == name).map(|v| v.id.clone())
    }

    pub(crate) fn datastore(&self, name: &str) -> Option<&Datastore> {
        self.datastores.iter().find(|d| d.name == name)
    }

    pub(crate) fn host(&self, id: &str) -> Option<&Host> {
        self.hosts.iter().find(|h| h.id == id)
    }

    /// Deletes a vmdk; what it had grown by is free again.
    pub(crate) fn delete_file(&mut self, path: &str) -> Res<()> {
        self.give_back(path);
        self.store.delete(path).map_err(|e| Fault::new("SystemError", e.to_string()).with("reason", e.to_string()))
    }

    /// Takes what a delta has grown by as free again: it is about to vanish.
    pub(crate) fn give_back(&mut self, path: &str) {
        let grown = self.store.files.get_mut(path).map(|f| std::mem::take(&mut f.grown)).unwrap_or(0);
        let name = crate::store::split_path(path).map(|(ds, _)| ds.to_owned());
        if let Some(d) = self.datastores.iter_mut().find(|d| Some(&d.name) == name.as_ref()) {
            d.free += grown;
        }
    }

    pub(crate) fn host_sees(&self, host: &str, ds: &str) -> bool {
        self.hosts
            .iter()
            .filter(|h| h.id == host)
            .any(|h| h.datastores.as_ref().is_none_or(|l| l.iter().any(|n| n == ds)))
    }

    /// The VM that a snapshot belongs to.
    pub(crate) fn snapshot(&self, id: &str) -> Res<(&Vm, &Snapshot)> {
        self.vms
            .values()
            .find_map(|v| v.snapshots.iter().find(|s| s.id == id).map(|s| (v, s)))
            .ok_or_else(|| Fault::gone(&MoRef::new("VirtualMachineSnapshot", id)))
    }

    pub(crate) fn task(&self, id: &str) -> Res<&Task> {
        let n: u64 = id.strip_prefix("task-").and_then(|n| n.parse().ok()).unwrap_or(0);
        self.tasks.get(&n).ok_or_else(|| Fault::gone(&MoRef::new("Task", id)))
    }

    pub(crate) fn task_mut(&mut self, id: &str) -> Option<&mut Task> {
        let n: u64 = id.strip_prefix("task-").and_then(|n| n.parse().ok())?;
        self.tasks.get_mut(&n)
    }

    pub(crate) fn forget_old_tasks(&mut self) {
        self.tasks.retain(|_, t| t.ended.is_none_or(|e| e.elapsed() < TASK_KEEP));
    }

    /// Newest first, as ManagedEntity.recentTask.
    pub(crate) fn recent_tasks(&self, entity: &MoRef) -> Vec<MoRef> {
        self.tasks
            .values()
            .rev()
            .filter(|t| t.listed == *entity)
            .take(16)
            .map(|t| MoRef::new("Task", t.id.clone()))
            .collect()
    }

    /// VMs other than `except` that have `path` anywhere in the chain of a disk attached to them.
    pub(crate) fn holders(&self, path: &str, except: &str) -> Vec<String> {
        self.vms
            .values()
            .filter(|v| v.id != except && v.opened().any(|d| self.store.chain(d).iter().any(|p| p == path)))
            .map(|v| v.id.clone())
            .collect()
    }

    /// Somebody (not `except`) has `path` open for writing: a running VM whose disk is `path`, or a lock on cue.
    pub(crate) fn write_locked(&self, path: &str, except: &str) -> bool {
        self.locked.contains(path)
            || self
                .vms
                .values()
                .any(|v| v.id != except && v.on && v.disks().any(|(_, d)| d.path == path && !d.nonpersistent()))
    }

    /// FileLocked, in the dress that the knob asks for.
    pub(crate) fn locked_fault(&self, path: &str) -> Fault {
        if !self.knobs.wrap_locked {
            return Fault::file_locked(path);
        }
        let (ds, rel) = crate::store::split_path(path).unwrap_or(("", path));
        Fault::vm_config(&format!(
            "Cannot open the disk '/vmfs/volumes/{ds}/{rel}' or one of the snapshot disks it depends on. Failed to lock the file"
        ))
    }
}

pub(crate) fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}
