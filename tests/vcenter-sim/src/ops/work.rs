//! What can be asked of a VM, by whomever: the calls of clients and the operator's of the control socket meet here.
//!
//! ```text
//! privileges -> disabled method? -> the host's state -> at once, or a task (one a VM)
//! ```

use std::sync::Arc;

use crate::Sim;
use crate::cue::CueKind;
use crate::export;
use crate::fault::{Fault, Res};
use crate::ops::task::{self, OpFuture, TaskSpec};
use crate::ops::{clone, guard, hosts, moves, power, reconfig, revert, snapshot};
use crate::permit;
use crate::state::{State, Vm};
use crate::value::{MoRef, Val};
use crate::xml::Node;

#[derive(Debug)]
pub(crate) enum Work {
    Reconfigure { spec: Node, who: reconfig::Who },
    CreateSnapshot { ex: bool, name: String, text: String, quiesce: bool },
    RemoveSnapshot { id: String, children: bool, merge: bool },
    RemoveAllSnapshots,
    Revert { id: Option<String> },
    Consolidate,
    Power { on: bool },
    Destroy,
    Unregister,
    MarkAsTemplate,
    Relocate { datastore: Option<String>, host: Option<String> },
    Migrate { host: Option<String> },
    Clone { name: String, datastore: Option<String>, same_uuid: bool },
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct By {
    pub user: String,
    /// The operator: may do everything.
    pub admin: bool,
    /// The request lands when nobody waits for it any more.
    pub late: bool,
    /// The task runs at least this long before its effect.
    pub run_ms: u64,
}

impl By {
    /// The user whose doing it is: no operator's, and nothing that happens behind his back.
    fn client(&self) -> Option<String> {
        (!self.admin && !self.late).then(|| self.user.clone())
    }
}

impl Work {
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Work::Reconfigure { .. } => "ReconfigVM_Task",
            Work::CreateSnapshot { ex: false, .. } => "CreateSnapshot_Task",
            Work::CreateSnapshot { ex: true, .. } => "CreateSnapshotEx_Task",
            Work::RemoveSnapshot { .. } => "RemoveSnapshot_Task",
            Work::RemoveAllSnapshots => "RemoveAllSnapshots_Task",
            Work::Revert { id: Some(_) } => "RevertToSnapshot_Task",
            Work::Revert { id: None } => "RevertToCurrentSnapshot_Task",
            Work::Consolidate => "ConsolidateVMDisks_Task",
            Work::Power { on: true } => "PowerOnVM_Task",
            Work::Power { on: false } => "PowerOffVM_Task",
            Work::Destroy => "Destroy_Task",
            Work::Unregister => "UnregisterVM",
            Work::MarkAsTemplate => "MarkAsTemplate",
            Work::Relocate { .. } => "RelocateVM_Task",
            Work::Migrate { .. } => "MigrateVM_Task",
            Work::Clone { .. } => "CloneVM_Task",
        }
    }

    /// `TaskInfo.descriptionId`, as VMware's task catalogue has it.
    fn description(&self) -> &'static str {
        match self {
            Work::Reconfigure { .. } => "VirtualMachine.reconfigure",
            Work::CreateSnapshot { .. } => "VirtualMachine.createSnapshot",
            Work::RemoveSnapshot { .. } => "vm.Snapshot.remove",
            Work::RemoveAllSnapshots => "VirtualMachine.removeAllSnapshots",
            Work::Revert { id: Some(_) } => "vm.Snapshot.revert",
            Work::Revert { id: None } => "VirtualMachine.revertToCurrentSnapshot",
            Work::Consolidate => "VirtualMachine.consolidateDisks",
            Work::Power { on: true } => "VirtualMachine.powerOn",
            Work::Power { on: false } => "VirtualMachine.powerOff",
            Work::Destroy => "VirtualMachine.destroy",
            Work::Unregister => "VirtualMachine.unregister",
            Work::MarkAsTemplate => "VirtualMachine.markAsTemplate",
            Work::Relocate { .. } => "VirtualMachine.relocate",
            Work::Migrate { .. } => "VirtualMachine.migrate",
            Work::Clone { .. } => "VirtualMachine.clone",
        }
    }

    /// Snapshots of the VM that this takes away.
    fn removed(&self, vm: &Vm) -> Vec<String> {
        match self {
            Work::RemoveSnapshot { id, children, .. } => snapshot::subtree(vm, id, *children),
            Work::RemoveAllSnapshots => vm.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Privileges on the VM, and on others where the change needs some (vSphere API 8.0, the methods' own pages).
    fn privileges(&self, s: &State, vm: &Vm) -> Vec<(MoRef, &'static str)> {
        match self {
            Work::Reconfigure { spec, .. } => reconfig::privileges(s, vm, spec),
            _ => self.on_vm(vm.on).into_iter().map(|privilege| (vm.moref(), privilege)).collect(),
        }
    }

    fn on_vm(&self, on: bool) -> Vec<&'static str> {
        match self {
            Work::Reconfigure { .. } => Vec::new(),
            Work::CreateSnapshot { .. } => vec!["VirtualMachine.State.CreateSnapshot"],
            Work::RemoveSnapshot { .. } | Work::RemoveAllSnapshots | Work::Consolidate => {
                vec!["VirtualMachine.State.RemoveSnapshot"]
            }
            Work::Revert { .. } => vec!["VirtualMachine.State.RevertToSnapshot"],
            Work::Power { on: true } => vec!["VirtualMachine.Interact.PowerOn"],
            Work::Power { on: false } => vec!["VirtualMachine.Interact.PowerOff"],
            Work::Destroy => vec!["VirtualMachine.Inventory.Delete"],
            Work::Unregister => vec!["VirtualMachine.Inventory.Unregister"],
            Work::MarkAsTemplate => vec!["VirtualMachine.Provisioning.MarkAsTemplate"],
            Work::Relocate { .. } | Work::Migrate { .. } if on => vec!["Resource.HotMigrate"],
            Work::Relocate { .. } | Work::Migrate { .. } => vec!["Resource.ColdMigrate"],
            Work::Clone { .. } => vec!["VirtualMachine.Provisioning.Clone"],
        }
    }
}

/// A closure over the locked state as the work of a task.
fn locked(f: impl FnOnce(&mut State) -> Res<Option<Val>> + Send + 'static) -> Op {
    Box::new(move |sim| {
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || f(&mut sim.lock())).await;
            done.unwrap_or_else(|e| Err(Fault::new("SystemError", e.to_string()).with("reason", e.to_string())))
        })
    })
}

type Op = Box<dyn FnOnce(Arc<Sim>) -> OpFuture + Send>;

/// Starts the work; a task's reference, or None when it is done at once.
pub(crate) fn submit(
    sim: &Arc<Sim>,
    s: &mut State,
    vm: &str,
    work: Work,
    by: By,
    cues: &[CueKind],
) -> Res<Option<MoRef>> {
    if let Some(user) = by.client() {
        let read = snapshot::read_by(s, &work.removed(s.vm(vm)?), &user);
        s.counters.removed_under_reader.extend(read);
    }
    let v = s.vm(vm)?;
    if !by.admin {
        for (object, privilege) in work.privileges(s, v) {
            permit::need(s, &by.user, object, privilege)?;
        }
    }
    let method = work.method();
    guard::check(v, method)?;
    hosts::check(s, v, method)?;
    export::check(s, v, &work)?;
    if matches!(work, Work::Unregister | Work::MarkAsTemplate) {
        return power::at_once(s, vm, matches!(work, Work::Unregister)).map(|()| None);
    }
    let client = by.client();
    let spec = TaskSpec {
        name: method,
        description: work.description(),
        vm: vm.to_owned(),
        cancelable: matches!(work, Work::CreateSnapshot { .. }),
        user: by.user,
        run_ms: by.run_ms,
    };
    task::start(sim, s, spec, cues, op(vm.to_owned(), work, client)).map(Some)
}

fn op(id: String, work: Work, client: Option<String>) -> Op {
    match work {
        Work::Reconfigure { spec, who } => Box::new(move |sim: Arc<Sim>| -> OpFuture {
            Box::pin(async move { reconfig::run(&sim, &id, &spec, who, client).await.map(|()| None) })
        }),
        Work::Destroy => Box::new(move |sim: Arc<Sim>| -> OpFuture {
            Box::pin(async move { power::destroy(&sim, &id).await.map(|()| None) })
        }),
        Work::Revert { id: snap } => Box::new(move |sim: Arc<Sim>| -> OpFuture {
            Box::pin(async move { revert::run(&sim, &id, snap.as_deref()).await.map(|()| None) })
        }),
        Work::CreateSnapshot { name, text, quiesce, .. } => {
            locked(move |s| snapshot::create(s, &id, &name, &text, quiesce).map(Some))
        }
        Work::RemoveSnapshot { id: snap, children, merge } => {
            locked(move |s| snapshot::remove(s, &snap, children, merge).map(|()| None))
        }
        Work::RemoveAllSnapshots => locked(move |s| snapshot::remove_all(s, &id).map(|()| None)),
        Work::Consolidate => locked(move |s| snapshot::consolidate(s, &id).map(|()| None)),
        Work::Power { on } => locked(move |s| power::set(s, &id, on).map(|()| None)),
        Work::Relocate { datastore, host } => {
            locked(move |s| moves::relocate(s, &id, datastore.as_deref(), host.as_deref()).map(|()| None))
        }
        Work::Migrate { host } => locked(move |s| moves::migrate(s, &id, host.as_deref()).map(|()| None)),
        Work::Clone { name, datastore, same_uuid } => {
            locked(move |s| clone::run(s, &id, &name, datastore.as_deref(), same_uuid).map(Some))
        }
        // Done at once by `submit`.
        Work::Unregister | Work::MarkAsTemplate => locked(|_| Ok(None)),
    }
}
