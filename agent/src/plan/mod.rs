//! What may be hot-added and what not, and why: pure functions over facts. Per disk, never per VM.
use hotadd_api::v1;

use crate::{
    attach::Wanted,
    error::Error,
    hypervisor::{BackingKind, TargetDisk},
    id::DiskUuid,
    reason,
};

/// The decision for one disk.
#[derive(Debug)]
pub struct Decision {
    pub disk: TargetDisk,
    /// Empty: HotAdd. Otherwise every rule that refuses it.
    pub refusals: Vec<Error>,
}

impl Decision {
    #[must_use]
    pub fn is_hotadd(&self) -> bool {
        self.refusals.is_empty()
    }

    /// What to attach, if nothing refuses it.
    #[must_use]
    pub fn wanted(&self) -> Option<Wanted> {
        let uuid: DiskUuid = self.disk.uuid.filter(|_| self.is_hotadd())?;
        Some(Wanted { disk: self.disk.clone(), uuid })
    }
}

/// A rule: the refusal, or nothing.
type Rule = fn(&TargetDisk) -> Option<Error>;

const RULES: &[Rule] = &[kind, independent, shared, datastore, identity];

/// Applies every rule; all that speak are reported.
#[must_use]
pub fn decide(disk: TargetDisk) -> Decision {
    let refusals = RULES.iter().filter_map(|rule| rule(&disk)).collect();
    Decision { disk, refusals }
}

/// Raw device mappings and unknown backings have no file that could be added by path.
fn kind(disk: &TargetDisk) -> Option<Error> {
    match &disk.backing_kind {
        BackingKind::FlatV2 | BackingKind::SeSparse | BackingKind::SparseV2 => None,
        BackingKind::Other(kind) => Some(Error::new(&reason::PLAN_KIND, format!("{}: {kind}", disk.label))),
    }
}

/// vSphere API 8.0, VirtualDiskMode: independent disks are not affected by snapshots.
fn independent(disk: &TargetDisk) -> Option<Error> {
    disk.independent.then(|| Error::new(&reason::PLAN_INDEPENDENT, disk.label.clone()))
}

fn shared(disk: &TargetDisk) -> Option<Error> {
    disk.shared.then(|| Error::new(&reason::PLAN_SHARED, disk.label.clone()))
}

/// The proxy's host opens the backing and writes a redo log beside it: it needs the datastore, writable. Facts that
/// could not be read do not refuse; vCenter will.
fn datastore(disk: &TargetDisk) -> Option<Error> {
    (disk.reachable == Some(false))
        .then(|| Error::new(&reason::PLAN_DATASTORE, format!("{} on {}", disk.label, disk.datastore_name)))
}

/// Without a UUID nothing could prove in the guest which device it is.
fn identity(disk: &TargetDisk) -> Option<Error> {
    (disk.uuid.is_none() && kind(disk).is_none())
        .then(|| Error::new(&reason::PLAN_NO_UUID, format!("{}: {}", disk.label, disk.backing)))
}

/// The decision as the API shows it.
#[must_use]
pub fn to_api(decision: &Decision) -> v1::DiskPlan {
    let transport = if decision.is_hotadd() { v1::Transport::Hotadd } else { v1::Transport::Unspecified };
    v1::DiskPlan {
        disk: Some(facts_to_api(&decision.disk)),
        transport: transport.into(),
        reasons: decision.refusals.iter().map(Error::to_reason).collect(),
    }
}

#[must_use]
pub fn facts_to_api(disk: &TargetDisk) -> v1::DiskFacts {
    v1::DiskFacts {
        device_key: disk.device_key,
        label: disk.label.clone(),
        backing: disk.backing.to_string(),
        capacity_bytes: disk.capacity_bytes,
        uuid: disk.uuid.map(|u| u.to_string()).unwrap_or_default(),
        change_id: disk.change_id.clone(),
        datastore: disk.datastore_name.clone(),
        controller: disk.place.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BackingPath;

    fn disk() -> TargetDisk {
        TargetDisk {
            device_key: 2000,
            label: "Hard disk 1".into(),
            place: "scsi0:0".into(),
            backing: BackingPath::new("[ds] web/web.vmdk"),
            backing_kind: BackingKind::FlatV2,
            datastore: None,
            datastore_name: "ds".into(),
            reachable: None,
            capacity_bytes: 1 << 30,
            uuid: "6000c29abcdef0123456789abcdef012".parse().ok(),
            change_id: String::new(),
            independent: false,
            shared: false,
        }
    }

    fn codes(disk: TargetDisk) -> Vec<&'static str> {
        decide(disk).refusals.iter().map(|e| e.reason().code).collect()
    }

    #[test]
    fn a_plain_disk_is_hot_added_also_when_the_datastore_is_unknown() {
        assert!(codes(disk()).is_empty());
        assert!(decide(disk()).wanted().is_some());
        assert!(codes(TargetDisk { reachable: Some(true), ..disk() }).is_empty());
    }

    #[test]
    fn each_rule_speaks_for_itself() {
        let rdm = BackingKind::Other("RdmPhysical".into());
        assert_eq!(codes(TargetDisk { backing_kind: rdm, ..disk() }), ["HA-PLAN-001"]);
        assert_eq!(codes(TargetDisk { independent: true, ..disk() }), ["HA-PLAN-002"]);
        assert_eq!(codes(TargetDisk { reachable: Some(false), ..disk() }), ["HA-PLAN-003"]);
        assert_eq!(codes(TargetDisk { shared: true, ..disk() }), ["HA-PLAN-004"]);
        for kind in [BackingKind::FlatV2, BackingKind::SeSparse, BackingKind::SparseV2] {
            assert_eq!(codes(TargetDisk { uuid: None, backing_kind: kind, ..disk() }), ["HA-PLAN-005"]);
        }
    }

    #[test]
    fn all_refusals_are_told_and_nothing_is_wanted() {
        let bad = TargetDisk { independent: true, shared: true, ..disk() };
        assert_eq!(codes(bad.clone()), ["HA-PLAN-002", "HA-PLAN-004"]);
        assert!(decide(bad).wanted().is_none());
    }
}
