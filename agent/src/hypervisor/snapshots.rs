//! Snapshots of a target over hotadd-vsphere: taking, reading, removing one, consolidating, and who else holds its files.
use std::collections::BTreeSet;

use hotadd_vsphere as vim;
use vim::FaultKind;

use super::{
    Quiesce, Snapshot, SnapshotNode, SnapshotOutcome, SnapshotTree, batch,
    convert::{error, fault_error, moref, snapshot_ref, vm_ref},
    facts::believable,
    vsphere::{DEVICES, Vsphere},
};
use crate::{
    error::{Error, Result},
    id::{Moref, TargetId},
    reason,
};

/// Shown in the vSphere Client beside the snapshot, before the marker that tells whose it is.
const SNAPSHOT_TEXT: &str = "Temporary. Made by hotadd-agent, which removes it. Do not remove it while a backup runs.";

impl Vsphere {
    /// Journalled by the caller before.
    pub(super) async fn take_snapshot(
        &self,
        vm: &Moref,
        name: &str,
        marker: &str,
        quiesce: Quiesce,
    ) -> SnapshotOutcome {
        let quiesce = match quiesce {
            Quiesce::None => vim::Quiesce::No,
            Quiesce::Yes { timeout: None } => vim::Quiesce::Yes,
            Quiesce::Yes { timeout: Some(limit) } => {
                vim::Quiesce::Timeout(u32::try_from(limit.as_secs().div_ceil(60)).unwrap_or(u32::MAX))
            }
        };
        let spec =
            vim::SnapshotSpec { name: name.to_owned(), description: format!("{SNAPSHOT_TEXT} {marker}"), quiesce };
        let task = match self.acting.create_snapshot(&vm_ref(vm), &spec).await {
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

    /// Removes one snapshot, keeping its children; `Ok` when it is proven gone.
    pub(super) async fn take_out(&self, vm: &TargetId, snapshot: &Moref, name: &str) -> Result<()> {
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

    /// `None`: the VM itself is proven gone, its snapshots with it.
    pub(super) async fn snapshot_tree(&self, vm: &TargetId) -> Result<Option<SnapshotTree>> {
        let reference = vm_ref(&vm.moref);
        // Tasks first, as for the proxy.
        let info = match self.client.vm(&reference).await {
            Err(e) if e.is_not_found() => return self.really_gone(vm).await.map(|()| None),
            other => other.map_err(error)?,
        };
        let busy = self.is_busy(&info).await?;
        let info = self.client.vm(&reference).await.map_err(error)?;
        believable(&info, &[])?;
        let nodes = nodes(info.snapshots.as_ref());
        Ok(Some(SnapshotTree { nodes, busy, consolidation_needed: info.consolidation_needed == Some(true) }))
    }

    /// Other VMs with a disk whose file, or a file of whose parents, belongs to this VM: `name (file)`. A VM whose devices
    /// can't be read with our privileges holds nothing that we could wait for.
    pub(super) async fn foreign_holders(&self, vm: &TargetId, snapshot: Option<&Moref>) -> Result<Vec<String>> {
        let target = vm_ref(&vm.moref);
        let info = match self.client.vm(&target).await {
            Err(e) if e.is_not_found() => return Ok(Vec::new()),
            other => other.map_err(error)?,
        };
        believable(&info, &[DEVICES])?;
        let frozen = match snapshot {
            Some(snapshot) => self.client.snapshot_devices(&snapshot_ref(snapshot)).await.map_err(error)?,
            None => Vec::new(),
        };
        let frozen: BTreeSet<&str> =
            frozen.iter().filter_map(vim::Device::as_disk).map(|disk| disk.backing.file_name.as_str()).collect();
        let mut files = BTreeSet::new();
        for disk in info.disks() {
            let chain: Vec<&str> = disk.backing.chain().map(|link| link.file_name.as_str()).collect();
            // What is merged, and into what: without a snapshot to tell, the top and the file below it.
            let into = chain.iter().position(|file| frozen.contains(file)).unwrap_or(1);
            files.extend(chain.into_iter().take(into + 1));
        }
        files.extend(frozen);
        let mut others = BTreeSet::new();
        for datastore in &info.datastores {
            others.extend(self.client.datastore_vms(datastore).await.map_err(error)?);
        }
        others.remove(&target);
        let others: Vec<_> = others.into_iter().collect();
        let mut holders = Vec::new();
        for vim::VmDisks { vm, name, disks, .. } in self.client.vm_disks(&others).await.map_err(error)? {
            let disks = disks.unwrap_or_else(|error| {
                // What such a VM holds is the host's to refuse: its locks stand in the way of a removal too.
                tracing::warn!(vm = vm.value, %error, "can't tell whether this VM holds a file");
                Vec::new()
            });
            let mut chain = disks.iter().flat_map(|disk| disk.backing.chain());
            let held = chain.find(|link| files.contains(link.file_name.as_str()));
            holders.extend(held.map(|link| format!("{name} ({})", link.file_name.as_str())));
        }
        Ok(holders)
    }

    pub(super) async fn consolidate_disks(&self, vm: &TargetId) -> Result<()> {
        let refused = |e: vim::Error| match e.fault() {
            Some(fault) => fault_error(fault, &reason::SNAP_CONSOLIDATE),
            None => error(e),
        };
        let task = self.client.consolidate_disks(&vm_ref(&vm.moref)).await.map_err(refused)?;
        let info = self.wait(&task, self.deadlines.snapshot).await.map_err(error)?;
        info.error.map_or(Ok(()), |fault| Err(fault_error(&fault, &reason::SNAP_CONSOLIDATE)))
    }

    /// Unreadable counts as not quiesced: nothing is promised that was not seen.
    async fn was_quiesced(&self, vm: &Moref, snapshot: &vim::MoRef) -> bool {
        let info = self.client.vm(&vm_ref(vm)).await.ok();
        info.and_then(|info| info.snapshots?.find(snapshot).map(|node| node.quiesced)).unwrap_or(false)
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
        let Some(tree) = self.snapshot_tree(vm).await? else { return Ok(false) };
        let there = tree.holds(snapshot, name)?;
        if !there && tree.busy {
            let detail = format!("{snapshot} is not listed, but a task runs on the VM");
            return Err(Error::new(&reason::SNAP_REMOVE, detail));
        }
        Ok(there)
    }
}

/// All snapshots of a tree.
pub(super) fn nodes(tree: Option<&vim::SnapshotTree>) -> Vec<SnapshotNode> {
    let roots = tree.into_iter().flat_map(|tree| &tree.roots);
    let mut open: Vec<(Option<Moref>, &vim::SnapshotNode)> = roots.map(|root| (None, root)).collect();
    let mut nodes = Vec::new();
    while let Some((parent, node)) = open.pop() {
        let own = moref(&node.moref);
        open.extend(node.children.iter().map(|child| (Some(own.clone()), child)));
        nodes.push(SnapshotNode { moref: own, name: node.name.clone(), parent });
    }
    nodes
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
