//! Changed block tracking over hotadd-vsphere: what vCenter says of it, turning it on, and one page of a map. Pages are passed
//! on as they come; `areas` judges them.
use std::{collections::BTreeMap, time::Duration};

use hotadd_vsphere as vim;
use tokio::time::{Instant, sleep};

use super::{
    SnapshotNode,
    convert::{error, fault_error, snapshot_ref, vm_ref},
    views::Fact,
    vsphere::Vsphere,
};
use crate::{
    error::{Error, Result},
    id::Moref,
    reason,
};

/// Between two looks at a VM whose task has not ended.
const PAUSE: Duration = Duration::from_millis(250);

/// What vCenter says of a VM's change tracking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// `config.changeTrackingEnabled`.
    pub enabled: Fact<bool>,
    /// `capability.changeTrackingSupported`.
    pub supported: Fact<bool>,
    /// `config.changeVersion` of the same moment.
    pub change_version: Option<String>,
    pub snapshots: Vec<SnapshotNode>,
}

impl Tracking {
    /// The snapshots that this one stands on, nearest first.
    #[must_use]
    pub fn below(&self, snapshot: &Moref) -> Vec<&SnapshotNode> {
        let find = |moref: &Moref| self.snapshots.iter().find(|node| node.moref == *moref);
        let mut below: Vec<&SnapshotNode> = Vec::new();
        let mut at = find(snapshot);
        // A tree has no more levels than nodes, whatever a server says.
        while let Some(node) =
            at.and_then(|node| find(node.parent.as_ref()?)).filter(|_| below.len() < self.snapshots.len())
        {
            below.push(node);
            at = Some(node);
        }
        below
    }
}

/// Which page of which map.
#[derive(Debug, Clone, Copy)]
pub struct AreaQuestion<'a> {
    pub vm: &'a Moref,
    pub snapshot: &'a Moref,
    /// On that VM.
    pub device_key: i32,
    /// Below the disk's capacity.
    pub start: u64,
    /// `*`: what is in use.
    pub change_id: &'a str,
}

/// One page as vCenter gave it: start and length of what it speaks of, and of each area. Nothing is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AreaPage {
    pub start: i64,
    pub length: i64,
    pub areas: Vec<(i64, i64)>,
}

impl Vsphere {
    pub(super) async fn read_tracking(&self, vm: &Moref) -> Result<Tracking> {
        let info = self.client.tracking(&vm_ref(vm)).await.map_err(error)?;
        let told = |flag| Fact::from_option(flag, "vCenter does not tell it to this account");
        Ok(Tracking {
            enabled: told(info.enabled),
            supported: told(info.supported),
            change_version: info.change_version,
            snapshots: super::snapshots::nodes(info.snapshots.as_ref()),
        })
    }

    /// By device key; a disk that was not tracked then has an empty one.
    pub(super) async fn read_change_ids(&self, snapshot: &Moref) -> Result<BTreeMap<i32, String>> {
        let devices = self.client.snapshot_devices(&snapshot_ref(snapshot)).await.map_err(error)?;
        let disks = devices.iter().filter_map(vim::Device::as_disk);
        Ok(disks.map(|disk| (disk.key, disk.backing.change_id.clone().unwrap_or_default())).collect())
    }

    pub(super) async fn turn_tracking_on(&self, vm: &Moref, change_version: Option<&str>) -> Result<()> {
        let started = self.acting.enable_change_tracking(&vm_ref(vm), change_version).await;
        let task = match started {
            Ok(task) => task,
            Err(lost) if *lost.kind() == vim::ErrorKind::UnknownOutcome => {
                return self.is_on_now(vm, error(lost)).await;
            }
            Err(e) => return Err(error(e)),
        };
        match self.wait(&task, self.deadlines.reconfigure).await {
            Ok(vim::TaskInfo { error: Some(fault), .. }) => Err(fault_error(&fault, &reason::VC_FAULT)),
            Ok(_) => self.is_on_now(vm, Error::new(&reason::VC_STALE, "the task succeeded, and it is off")).await,
            Err(e) => self.is_on_now(vm, error(e)).await,
        }
    }

    /// What counts is the setting, once no task runs that may still change it.
    async fn is_on_now(&self, vm: &Moref, otherwise: Error) -> Result<()> {
        let end = Instant::now() + self.deadlines.settle;
        loop {
            // Tasks first: one that ends between the two reads has its effect in the second.
            let busy = self.is_busy(&self.client.vm(&vm_ref(vm)).await.map_err(error)?).await?;
            if self.read_tracking(vm).await?.enabled == Fact::Known(true) {
                return Ok(());
            }
            if !busy || Instant::now() >= end {
                return Err(otherwise);
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) async fn area_page(&self, question: AreaQuestion<'_>) -> Result<AreaPage> {
        let AreaQuestion { vm, snapshot, device_key, start, change_id } = question;
        let (vm, snapshot) = (vm_ref(vm), snapshot_ref(snapshot));
        let page = self.acting.changed_disk_areas(&vm, &snapshot, device_key, start, change_id).await;
        let page = page.map_err(error)?;
        let areas = page.areas.into_iter().map(|area| (area.start, area.length)).collect();
        Ok(AreaPage { start: page.start_offset, length: page.length, areas })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_stands_on() {
        let node = |name: &str, parent: Option<&str>| SnapshotNode {
            moref: Moref::new(name),
            name: name.into(),
            parent: parent.map(Moref::new),
        };
        let mut tracking = Tracking {
            enabled: Fact::Known(true),
            supported: Fact::Known(true),
            change_version: None,
            snapshots: vec![node("a", None), node("b", Some("a")), node("side", Some("a")), node("c", Some("b"))],
        };
        let names = |tracking: &Tracking, of| {
            tracking.below(&Moref::new(of)).iter().map(|node| node.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&tracking, "c"), ["b", "a"]);
        assert!(names(&tracking, "a").is_empty() && names(&tracking, "gone").is_empty());
        tracking.snapshots = vec![node("a", Some("b")), node("b", Some("a"))];
        assert!(names(&tracking, "a").len() <= 2, "a tree that is none ends too");
    }
}
