//! Change tracking of a job's VM: turned on where the request asks for it, and what is to be known of it before a map is
//! believed.
use std::collections::BTreeMap;

use super::Job;
use crate::{
    areas::{ChangeId, Scope},
    audit::{Entry, tasks_of},
    error::{Error, Result},
    hypervisor::{
        TargetDisk, TargetFacts, Tracking,
        views::{Build, Fact},
    },
    id::Moref,
    reason,
    session::opener::Opener,
};

/// What the maps of a job's disks are of.
pub(super) struct Origin {
    pub(super) vm: Moref,
    pub(super) vm_name: String,
    pub(super) snapshot: Moref,
    /// Of the host that runs the VM.
    pub(super) build: Option<Build>,
    pub(super) enabled: Fact<bool>,
    /// By device key: snapshots below ours and the disk's changeId in each.
    below: BTreeMap<i32, Vec<(String, String)>>,
    /// Why that can't be told.
    unseen: Option<String>,
}

impl Origin {
    /// Reads it, after the snapshot was taken; nothing when no map is wanted.
    pub(super) async fn look(
        opener: &Opener,
        scope: Scope,
        target: &TargetFacts,
        snapshot: &Moref,
        build: Option<Build>,
    ) -> Self {
        let mut origin = Self {
            vm: target.moref.clone(),
            vm_name: target.name.clone(),
            snapshot: snapshot.clone(),
            build,
            enabled: Fact::Unknown("not asked for".into()),
            below: BTreeMap::new(),
            unseen: None,
        };
        if scope == Scope::Whole {
            return origin;
        }
        match opener.vm.hypervisor.tracking(&target.moref).await {
            Ok(tracking) => origin.look_below(opener, tracking).await,
            Err(error) => origin.enabled = Fact::Unknown(error.message()),
        }
        origin
    }

    /// A map counts from where tracking began: every snapshot below has to have been taken with it.
    async fn look_below(&mut self, opener: &Opener, tracking: Tracking) {
        if !tracking.snapshots.iter().any(|node| node.moref == self.snapshot) {
            self.unseen = Some(format!("{} is not listed", self.snapshot));
        }
        for node in tracking.below(&self.snapshot) {
            match opener.vm.hypervisor.change_ids(&node.moref).await {
                Ok(ids) => {
                    for (key, id) in ids {
                        self.below.entry(key).or_default().push((node.name.clone(), id));
                    }
                }
                Err(error) => self.unseen = Some(format!("snapshot {:?} can't be looked at: {error}", node.name)),
            }
        }
        self.enabled = tracking.enabled;
    }

    /// Snapshots below ours, and the disk's changeId in each.
    pub(super) fn below(&self, disk: &TargetDisk) -> &[(String, String)] {
        self.below.get(&disk.device_key).map_or(&[], |below| below)
    }

    /// Why this tracking of the disk may have begun while it had snapshots.
    pub(super) fn untracked_before(&self, disk: &TargetDisk) -> Option<String> {
        let now = ChangeId::parse(&disk.change_id)?.tracking;
        let other = |id: &str| ChangeId::parse(id).is_none_or(|then| then.tracking != now);
        let found = self.below(disk).iter().find(|(_, id)| other(id));
        found.map(|(name, id)| format!("in snapshot {name:?} its changeId is {id:?}")).or_else(|| self.unseen.clone())
    }
}

impl Job {
    /// Turns change tracking on if the request asks for it and it is off. It works from the job's own snapshot on. Gives what
    /// is to be told of it.
    pub(super) async fn enable_tracking(&self, opener: &Opener, target: &TargetFacts) -> Result<&'static str> {
        if !self.request.wanted.enable {
            return Ok("");
        }
        let hypervisor = &opener.vm.hypervisor;
        let tracking = hypervisor.tracking(&target.moref).await?;
        if !may_enable(&tracking, &target.name)? {
            return Ok("");
        }
        let step = self.actor()?.hypervisor().enable_tracking(&target.moref, tracking.change_version.as_deref());
        let (enabled, tasks) = tasks_of(step).await;
        let entry = Entry {
            what: "enable change tracking",
            session: self.session.to_string(),
            vm: target.name.clone(),
            moref: target.moref.to_string(),
            ..Entry::default()
        }
        .by(&tasks);
        opener.vm.traces.tasks(self.session, entry.what, &tasks, enabled.as_ref().err());
        opener.vm.audit.tell(&opener.vm.client_of(self.session), entry.ended(&enabled));
        enabled?;
        tracing::warn!(vm = target.name, "change tracking was turned on, as the request asks");
        Ok("changed block tracking of the VM was turned on")
    }
}

/// Whether it has to be turned on.
fn may_enable(tracking: &Tracking, vm: &str) -> Result<bool> {
    if tracking.enabled == Fact::Known(true) {
        return Ok(false);
    }
    if tracking.supported == Fact::Known(false) {
        return Err(Error::new(&reason::CBT_UNSUPPORTED, vm));
    }
    match tracking.snapshots.first() {
        None => Ok(true),
        Some(node) => {
            let detail = format!("{vm} has {}, {:?} for one", tracking.snapshots.len(), node.name);
            Err(Error::new(&reason::CBT_ENABLE, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::SnapshotNode;

    #[test]
    fn it_is_turned_on_only_where_no_snapshot_is_and_the_vm_can() {
        let node = SnapshotNode { moref: Moref::new("snapshot-1"), name: "before".into(), parent: None };
        let tracking = |enabled: Fact<bool>, supported: Fact<bool>, snapshots: &[SnapshotNode]| Tracking {
            enabled,
            supported,
            change_version: None,
            snapshots: snapshots.to_vec(),
        };
        let (on, off, unknown) = (Fact::Known(true), Fact::Known(false), Fact::Unknown("no permission".to_owned()));
        let code = |tracking: Tracking| may_enable(&tracking, "web01").map_err(|e| e.reason().code);
        let nodes = std::slice::from_ref(&node);
        assert_eq!(code(tracking(on.clone(), off.clone(), nodes)), Ok(false), "it is on");
        assert_eq!(code(tracking(off.clone(), on.clone(), &[])), Ok(true));
        assert_eq!(code(tracking(unknown.clone(), unknown, &[])), Ok(true));
        assert_eq!(code(tracking(off.clone(), on, nodes)), Err(reason::CBT_ENABLE.code));
        assert_eq!(code(tracking(off.clone(), off, &[])), Err(reason::CBT_UNSUPPORTED.code));
    }
}
