//! What is around the disks that are held: hosts, moves, the target's chain, its deltas. Facts only; what they mean is
//! judged in [`crate::session::watch`].
//!
//! Source: vSphere API 8.0, HostSystem.recentTask and .runtime, ClusterComputeResource.recentTask, VirtualMachine.layoutEx; description ids from the task
//! catalogue of the API reference.
use std::collections::BTreeMap;

use hotadd_vsphere as vim;

use super::{
    Site, Store, TargetSite, Unrest,
    convert::{error, moref, vm_ref},
    vsphere::Vsphere,
};
use crate::{
    error::Result,
    id::{Moref, TargetId},
};

/// Tasks that move a VM.
const MOVES: [&str; 3] = ["VirtualMachine.migrate", "VirtualMachine.relocate", "Drm.ExecuteVMotionLRO"];
/// Tasks that change the chains of a VM's disks. A new snapshot only adds to them.
const RESHAPES: [&str; 7] = [
    "VirtualMachine.consolidateDisks",
    "VirtualMachine.relocate",
    "VirtualMachine.removeAllSnapshots",
    "VirtualMachine.revertToCurrentSnapshot",
    "vm.Snapshot.remove",
    "vm.Snapshot.revert",
    "VirtualMachineSnapshot.",
];

impl Vsphere {
    pub(super) async fn see_proxy(&self, proxy: &Moref) -> Result<Site> {
        let vm = self.client.vm(&vm_ref(proxy)).await.map_err(error)?;
        let running = self.running(&vm).await?;
        Ok(Site { moving: first(&running, &MOVES), ..self.site(&vm).await })
    }

    pub(super) async fn see_target(&self, target: &Moref) -> Result<Option<TargetSite>> {
        match self.client.vm(&vm_ref(target)).await {
            Ok(vm) => self.target_site(&vm).await.map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(error(e)),
        }
    }

    async fn target_site(&self, vm: &vim::VmInfo) -> Result<TargetSite> {
        super::facts::believable(vm, &[])?;
        let running = self.running(vm).await?;
        let site = Site { moving: first(&running, &MOVES), ..self.site(vm).await };
        let tree = vm.snapshots.as_ref();
        let snapshots =
            tree.map(|tree| nodes(tree).iter().map(|node| moref(&node.moref)).collect()).unwrap_or_default();
        let stands_on = tree.map(stands_on).unwrap_or_default();
        Ok(TargetSite {
            site,
            snapshots,
            stands_on,
            reshaping: first(&running, &RESHAPES),
            stores: self.stores(vm).await,
        })
    }

    /// A host that can't be read is not known to be in trouble.
    async fn site(&self, vm: &vim::VmInfo) -> Site {
        let Some(host) = &vm.host else { return Site::default() };
        let mut site = Site { host: Some(moref(host)), host_name: host.value.clone(), ..Site::default() };
        match self.client.host_state(host).await {
            Ok(state) => {
                site.unrest = unrest(&state);
                site.cluster = state.cluster_entering.map(|task| task.description_id);
                site.host_name = state.name;
            }
            Err(e) => tracing::debug!(host = host.value, error = %e, "the host's state can't be read"),
        }
        site
    }

    /// Description ids of the tasks that run or wait on a VM.
    async fn running(&self, vm: &vim::VmInfo) -> Result<Vec<String>> {
        let tasks = self.client.tasks(&vm.recent_tasks).await.map_err(error)?;
        Ok(tasks.into_iter().filter(|task| !task.state.is_final()).map(|task| task.description_id).collect())
    }

    /// Sizes of the deltas that the VM writes into, by datastore, and the space left there.
    async fn stores(&self, vm: &vim::VmInfo) -> Vec<Store> {
        let tops: Vec<String> = vm.disks().map(|disk| disk.backing.file_name.to_string()).collect();
        let deltas: Vec<&str> = tops.iter().filter_map(|top| delta_stem(top)).collect();
        let mut sizes: BTreeMap<String, u64> = deltas.iter().map(|stem| (datastore_of(stem).to_owned(), 0)).collect();
        // Without the sizes the free space still counts.
        let files = self.client.vm_layout(&vm.moref).await.map(|layout| layout.files).unwrap_or_default();
        for file in &files {
            let name = file.name.to_string();
            if deltas.iter().any(|stem| is_of(&name, stem)) {
                *sizes.entry(datastore_of(&name).to_owned()).or_default() += file.size_bytes;
            }
        }
        let free: BTreeMap<String, u64> =
            self.client.free_space(&vm.datastores).await.unwrap_or_default().into_iter().collect();
        let store =
            |(name, delta_bytes): (String, u64)| Store { free_bytes: free.get(&name).copied(), name, delta_bytes };
        sizes.into_iter().map(store).collect()
    }

    pub(super) async fn blocks_removal(&self, target: &TargetId) -> Option<String> {
        let vm = self.client.vm(&vm_ref(&target.moref)).await.ok()?;
        let site = self.site(&vm).await;
        let why = site.unrest.filter(|unrest| !matches!(unrest, Unrest::Quarantine))?;
        Some(format!("{}, the host of {}, {why}", site.host_name, vm.name))
    }

    /// See [`super::Hypervisor::conflict_report`].
    pub(super) async fn report_conflict(&self, target: &TargetId) -> Option<String> {
        let vm = self.client.vm(&vm_ref(&target.moref)).await.ok()?;
        if vm.consolidation_needed != Some(true) {
            return None;
        }
        let layout = self.client.vm_layout(&vm.moref).await.ok();
        let mut youngest: Vec<&vim::SnapshotNode> = vm.snapshots.as_ref().map(nodes).unwrap_or_default();
        youngest.sort_by(|a, b| b.create_time.cmp(&a.create_time).then_with(|| b.moref.value.cmp(&a.moref.value)));
        let snapshots: Vec<String> =
            youngest.iter().map(|node| format!("{} {:?}", node.moref.value, node.name)).collect();
        let files = layout.iter().flat_map(|layout| &layout.files);
        let mut deltas: Vec<String> = files
            .filter(|file| is_delta(&file.name.to_string()))
            .map(|file| format!("{} ({} bytes)", file.name, file.size_bytes))
            .collect();
        deltas.sort_by(|a, b| b.cmp(a));
        let list = |all: Vec<String>| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        Some(format!(
            "{} needs consolidation. Wait until no host is being emptied and no proxy holds a disk of it; then remove \
             snapshots, youngest first: {}; then consolidate its disks, after which these deltas are gone: {}. Snapshots \
             that this agent did not make are never removed by it",
            vm.name,
            list(snapshots),
            list(deltas)
        ))
    }
}

pub(super) fn unrest(host: &vim::HostState) -> Option<Unrest> {
    if let Some(entering) = &host.entering {
        return Some(Unrest::Entering(entering.description_id.clone()));
    }
    if host.in_maintenance {
        return Some(Unrest::Maintenance);
    }
    if host.in_quarantine {
        return Some(Unrest::Quarantine);
    }
    // HostStandbyMode: entering, exiting, in, none.
    if let Some(mode) = host.standby.as_deref().filter(|mode| *mode != "none") {
        return Some(Unrest::Standby(mode.to_owned()));
    }
    let state = host.connection_state.as_deref().filter(|state| *state != "connected")?;
    Some(Unrest::Connection(state.to_owned()))
}

/// The first running task that is one of these; an entry that ends with a dot stands for all that begin so.
fn first(running: &[String], known: &[&str]) -> Option<String> {
    let is = |task: &&String| {
        known.iter().any(|id| if id.ends_with('.') { task.starts_with(id) } else { task.eq_ignore_ascii_case(id) })
    };
    running.iter().find(is).cloned()
}

fn nodes(tree: &vim::SnapshotTree) -> Vec<&vim::SnapshotNode> {
    let mut open: Vec<&vim::SnapshotNode> = tree.roots.iter().collect();
    let mut all = Vec::new();
    while let Some(node) = open.pop() {
        all.push(node);
        open.extend(&node.children);
    }
    all
}

/// The path from the current snapshot down to its root.
fn stands_on(tree: &vim::SnapshotTree) -> Vec<Moref> {
    fn path(node: &vim::SnapshotNode, to: &vim::MoRef, found: &mut Vec<Moref>) -> bool {
        let here = node.moref == *to || node.children.iter().any(|child| path(child, to, found));
        if here {
            found.push(moref(&node.moref));
        }
        here
    }
    let mut found = Vec::new();
    if let Some(current) = &tree.current {
        tree.roots.iter().any(|root| path(root, current, &mut found));
    }
    found
}

/// `[ds] vm/vm-000001` of `[ds] vm/vm-000001.vmdk`; `None`: not the descriptor of a delta.
pub(super) fn delta_stem(file: &str) -> Option<&str> {
    let stem = file.strip_suffix(".vmdk")?;
    let (_, number) = stem.rsplit_once('-')?;
    (number.len() == 6 && number.bytes().all(|b| b.is_ascii_digit())).then_some(stem)
}

/// The descriptor itself or one of its extents (`-delta`, `-sesparse`).
fn is_of(file: &str, stem: &str) -> bool {
    file.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('-'))
}

fn is_delta(file: &str) -> bool {
    let extent = file.replace("-delta.vmdk", ".vmdk").replace("-sesparse.vmdk", ".vmdk");
    delta_stem(&extent).is_some()
}

fn datastore_of(file: &str) -> &str {
    file.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, children: Vec<vim::SnapshotNode>) -> vim::SnapshotNode {
        vim::SnapshotNode {
            moref: vim::MoRef::new("VirtualMachineSnapshot", name),
            name: name.into(),
            description: String::new(),
            create_time: None,
            quiesced: false,
            children,
        }
    }

    #[test]
    fn the_current_chain_is_the_path_to_the_current_snapshot() {
        let branch = node("snapshot-2", vec![node("snapshot-3", vec![]), node("snapshot-4", vec![])]);
        let tree = vim::SnapshotTree {
            current: Some(vim::MoRef::new("VirtualMachineSnapshot", "snapshot-4")),
            roots: vec![node("snapshot-1", vec![branch])],
        };
        let path: Vec<_> = stands_on(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(path, ["snapshot-4", "snapshot-2", "snapshot-1"]);
        assert_eq!(nodes(&tree).len(), 4);
        assert!(stands_on(&vim::SnapshotTree { current: None, ..tree }).is_empty());
    }

    #[test]
    fn deltas_and_their_extents_are_told_from_bases() {
        assert_eq!(delta_stem("[ds 1] a/a-000002.vmdk"), Some("[ds 1] a/a-000002"));
        for base in ["[ds] a/a.vmdk", "[ds] a/a-1.vmdk", "[ds] a/a-00000x.vmdk", "[ds] a/a-000001.vmx"] {
            assert_eq!(delta_stem(base), None, "{base}");
        }
        assert!(is_of("[ds] a/a-000001-sesparse.vmdk", "[ds] a/a-000001"));
        assert!(!is_of("[ds] a/a-0000010.vmdk", "[ds] a/a-000001"));
        assert!(is_delta("[ds] a/a-000001-delta.vmdk") && !is_delta("[ds] a/a-flat.vmdk"));
        assert_eq!(datastore_of("[ds 1] a/a.vmdk"), "ds 1");
    }

    #[test]
    fn tasks_are_known_by_their_description() {
        let running = ["VirtualMachine.reconfigure".to_owned(), "Drm.ExecuteVMotionLRO".to_owned()];
        assert_eq!(first(&running, &MOVES).as_deref(), Some("Drm.ExecuteVMotionLRO"));
        assert_eq!(first(&running[..1], &MOVES), None);
        assert_eq!(first(&["VirtualMachine.createSnapshot".to_owned()], &RESHAPES), None);
        assert!(first(&["VirtualMachineSnapshot.revert".to_owned()], &RESHAPES).is_some());
    }
}
