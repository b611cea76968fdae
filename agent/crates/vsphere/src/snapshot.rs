//! Snapshots: create, read, remove. Source: vSphere API 8.0, VirtualMachine.CreateSnapshotEx_Task, VirtualMachineSnapshot.

use crate::client::Client;
use crate::device::{self, Device};
use crate::error::Error;
use crate::moref::MoRef;
use crate::soap::{Effect, Request};
use crate::xml::{Node, Shape};

/// Whether and how to quiesce the guest's file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiesce {
    /// Crash-consistent.
    No,
    /// Quiesced by VMware Tools with the server's own time limit. Ignored by the server without Tools or powered off.
    Yes,
    /// Quiesced, the guest has this many minutes (the API takes 5 to 240; outside is moved to the nearest).
    Timeout(u32),
}

/// A snapshot to take. Memory is never part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// Name; need not be unique.
    pub name: String,
    /// For people.
    pub description: String,
    /// Consistency.
    pub quiesce: Quiesce,
}

/// All snapshots of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTree {
    /// The snapshot that the VM's current state stands on.
    pub current: Option<MoRef>,
    /// Oldest snapshots, each with what was taken after it.
    pub roots: Vec<SnapshotNode>,
}

impl SnapshotTree {
    /// Finds a snapshot by reference.
    pub fn find(&self, snapshot: &MoRef) -> Option<&SnapshotNode> {
        let mut open: Vec<&SnapshotNode> = self.roots.iter().collect();
        while let Some(node) = open.pop() {
            if node.moref == *snapshot {
                return Some(node);
            }
            open.extend(&node.children);
        }
        None
    }
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotNode {
    /// The snapshot.
    pub moref: MoRef,
    /// Name as given.
    pub name: String,
    /// Description as given.
    pub description: String,
    /// When it was taken, by the server's clock.
    pub create_time: Option<jiff::Timestamp>,
    /// Whether the guest was quiesced.
    pub quiesced: bool,
    /// Snapshots taken after it.
    pub children: Vec<SnapshotNode>,
}

impl Client {
    /// Starts taking a snapshot of a VM; the task's result is the snapshot.
    ///
    /// # Errors
    /// `UnknownOutcome`: a task may be running; read the VM's recent tasks and snapshots.
    pub async fn create_snapshot(&self, vm: &MoRef, spec: &SnapshotSpec) -> Result<MoRef, Error> {
        let request = match spec.quiesce {
            // CreateSnapshotEx_Task came with 6.5, the oldest version that is ever negotiated.
            Quiesce::Timeout(minutes) => Request::new("CreateSnapshotEx_Task", Effect::Mutation, vm, |w| {
                w.text("name", &spec.name);
                w.text("description", &spec.description);
                w.value("memory", false);
                w.typed("quiesceSpec", "VirtualMachineGuestQuiesceSpec", |w| w.value("timeout", minutes.clamp(5, 240)));
            }),
            Quiesce::No | Quiesce::Yes => Request::new("CreateSnapshot_Task", Effect::Mutation, vm, |w| {
                w.text("name", &spec.name);
                w.text("description", &spec.description);
                w.value("memory", false);
                w.value("quiesce", spec.quiesce == Quiesce::Yes);
            }),
        };
        self.session.start_task(&request).await
    }

    /// Starts removing one snapshot. Snapshots taken after it always stay.
    ///
    /// # Errors
    /// `UnknownOutcome`: the removal may be running; read the VM's snapshots.
    pub async fn remove_snapshot(&self, snapshot: &MoRef, consolidate: bool) -> Result<MoRef, Error> {
        let request = Request::new("RemoveSnapshot_Task", Effect::Mutation, snapshot, |w| {
            w.value("removeChildren", false);
            w.value("consolidate", consolidate);
        });
        self.session.start_task(&request).await
    }

    /// Starts merging deltas that no snapshot needs, as `runtime.consolidationNeeded` asks for
    /// (vSphere API 8.0, VirtualMachine.ConsolidateVMDisks_Task).
    ///
    /// # Errors
    /// `UnknownOutcome`: it may be running. The task fails with `FileLocked` while another VM holds a file of the chain.
    pub async fn consolidate_disks(&self, vm: &MoRef) -> Result<MoRef, Error> {
        self.session.start_task(&Request::new("ConsolidateVMDisks_Task", Effect::Mutation, vm, |_| {})).await
    }

    /// Reads the devices of the VM as of the snapshot: these backings are what may be attached elsewhere.
    pub async fn snapshot_devices(&self, snapshot: &MoRef) -> Result<Vec<Device>, Error> {
        let op = "RetrievePropertiesEx";
        let props = self.properties(snapshot, &["config.hardware.device"]).await?;
        match (props.get("config.hardware.device"), props.missing.first()) {
            (Some(array), _) => device::devices(array).map_err(|e| Error::shape(op, e)),
            (None, Some(refused)) => Err(Error::fault_of(op, refused.fault.clone())),
            (None, None) => Err(Error::protocol(op, format!("{snapshot} shows no devices"))),
        }
    }
}

/// Reads a `VirtualMachineSnapshotInfo`; `None` when it lists nothing.
pub(crate) fn tree(node: &Node) -> Result<Option<SnapshotTree>, Shape> {
    let roots: Vec<SnapshotNode> = node.all("rootSnapshotList").map(snapshot).collect::<Result<_, _>>()?;
    let current = node.opt_ref("currentSnapshot")?;
    Ok((!roots.is_empty()).then_some(SnapshotTree { current, roots }))
}

fn snapshot(node: &Node) -> Result<SnapshotNode, Shape> {
    Ok(SnapshotNode {
        moref: node.required("snapshot")?.moref()?,
        name: node.string("name").unwrap_or_default(),
        description: node.string("description").unwrap_or_default(),
        create_time: node.opt_time("createTime")?,
        quiesced: node.flag("quiesced")?.unwrap_or(false),
        children: node.all("childSnapshotList").map(snapshot).collect::<Result<_, _>>()?,
    })
}
