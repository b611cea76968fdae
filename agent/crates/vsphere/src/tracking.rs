//! Changed block tracking: whether it is on, turning it on, and its maps, page by page. Source: vSphere API 8.0,
//! VirtualMachine.QueryChangedDiskAreas, DiskChangeInfo, VirtualMachineConfigSpec.changeTrackingEnabled.
//!
//! Turning it off can't be said here, and no other request of this crate names the setting.

use crate::client::Client;
use crate::error::Error;
use crate::moref::MoRef;
use crate::snapshot::{self, SnapshotTree};
use crate::soap::{Effect, Request};
use crate::xml::{Node, Shape};

/// What a VM says of change tracking. What the server did not give is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrackingInfo {
    /// `config.changeTrackingEnabled`: wanted; it works from the next stun on.
    pub enabled: Option<bool>,
    /// `capability.changeTrackingSupported`.
    pub supported: Option<bool>,
    /// `config.changeVersion` of the same moment.
    pub change_version: Option<String>,
    /// Snapshots; `None` when it has none.
    pub snapshots: Option<SnapshotTree>,
}

/// One area of a map, as the server gave it: nothing is checked, numbers may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskChangeExtent {
    /// First byte.
    pub start: i64,
    /// Bytes.
    pub length: i64,
}

/// One page of a map, as the server gave it: it speaks of `length` bytes from `start_offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskChangeInfo {
    /// Byte at which the page begins.
    pub start_offset: i64,
    /// Bytes that it speaks of.
    pub length: i64,
    /// Areas that changed, or with changeId `*` are in use.
    pub areas: Vec<DiskChangeExtent>,
}

impl Client {
    /// Reads whether changes are tracked and what stands in the way.
    ///
    /// # Errors
    /// `Fault(ManagedObjectNotFound)` when the VM does not exist; what is not shown is `None`, but for the snapshots: those
    /// that are not shown are an error, as one that can't be seen is not one that is not there.
    pub async fn tracking(&self, vm: &MoRef) -> Result<TrackingInfo, Error> {
        let op = "RetrievePropertiesEx";
        let paths =
            ["snapshot", "config.changeVersion", "config.changeTrackingEnabled", "capability.changeTrackingSupported"];
        let p = self.properties(vm, &paths).await?;
        if let Some(refused) = p.missing.iter().find(|missing| missing.path == "snapshot") {
            return Err(Error::fault_of(op, refused.fault.clone()));
        }
        let read = || {
            Ok(TrackingInfo {
                enabled: p.flag("config.changeTrackingEnabled")?,
                supported: p.flag("capability.changeTrackingSupported")?,
                change_version: p.string("config.changeVersion"),
                snapshots: p.get("snapshot").map(snapshot::tree).transpose()?.flatten(),
            })
        };
        read().map_err(|e| Error::shape(op, e))
    }

    /// Starts turning change tracking on, and changes nothing else. `change_version`: only while the VM's is still this
    /// one, else the fault `ConcurrentAccess`.
    ///
    /// # Errors
    /// `UnknownOutcome`: it may still be turned on.
    pub async fn enable_change_tracking(&self, vm: &MoRef, change_version: Option<&str>) -> Result<MoRef, Error> {
        let request = Request::new("ReconfigVM_Task", Effect::Mutation, vm, |w| {
            w.nest("spec", |w| {
                if let Some(version) = change_version {
                    w.text("changeVersion", version);
                }
                w.value("changeTrackingEnabled", true);
            });
        });
        self.session.start_task(&request).await
    }

    /// Asks for one page of a map: what of a disk changed between `change_id` and the snapshot; `*`: what is in use.
    /// `device_key` is the disk's on that VM. Never to be asked at or beyond the disk's capacity.
    ///
    /// # Errors
    /// `FileFault` (no such tracking data, damaged or older than tracking), `InvalidArgument`, `NotFound`, `NoPermission`.
    pub async fn changed_disk_areas(
        &self,
        vm: &MoRef,
        snapshot: &MoRef,
        device_key: i32,
        start_offset: u64,
        change_id: &str,
    ) -> Result<DiskChangeInfo, Error> {
        let request = Request::read("QueryChangedDiskAreas", vm, |w| {
            w.moref("snapshot", snapshot);
            w.value("deviceKey", device_key);
            w.value("startOffset", start_offset);
            w.text("changeId", change_id);
        });
        let value = self.session.call_value(&request, self.session.timeout).await?;
        page(&value).map_err(|e| Error::shape(request.op, e))
    }
}

fn page(node: &Node) -> Result<DiskChangeInfo, Shape> {
    let area = |n: &Node| Ok(DiskChangeExtent { start: n.need("start")?, length: n.need("length")? });
    Ok(DiskChangeInfo {
        start_offset: node.need("startOffset")?,
        length: node.need("length")?,
        areas: node.all("changedArea").map(area).collect::<Result<_, _>>()?,
    })
}
