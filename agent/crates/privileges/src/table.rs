//! The privileges that are needed, on which objects. Sources: the pages of the methods in VMware's vSphere API 8.0 reference, for
//! ReconfigVM_Task its list by kind of change; the names are those of the vSphere Client 8.0 ("Defined Privileges").
use clap::ValueEnum;
use serde::Serialize;

use crate::Feature;

/// Who holds a privilege, where jobs bring a clone ticket with rights of their own. Without tickets one account holds all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The account that is stored on the proxy: it reads the inventory and gives back
    Stored,
    /// The account whose ticket a job brings
    Job,
}

/// On which objects a privilege is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// vCenter itself: the root folder, not propagating.
    Vcenter,
    /// Each datacenter with what the account works with, propagating.
    Everywhere,
    /// The VMs that are backed up; best on their folder, propagating.
    Target,
    /// The VM that the agent runs in.
    Proxy,
    /// The datastores of the targets' disks.
    Datastore,
}

impl Scope {
    /// In the order in which roles are given.
    pub const ALL: [Self; 5] = [Self::Vcenter, Self::Everywhere, Self::Target, Self::Proxy, Self::Datastore];

    /// Where the permission is given.
    #[must_use]
    pub fn place(self) -> &'static str {
        match self {
            Self::Vcenter => "vCenter itself (the root folder), not propagating",
            Self::Everywhere => "every datacenter, propagating",
            Self::Target => "the target VMs, best their folder, propagating",
            Self::Proxy => "the proxy VM",
            Self::Datastore => "the datastores of the targets' disks",
        }
    }

    /// Name of the role; those of the parts are other roles.
    fn role(self, part: Option<Part>) -> &'static str {
        match (self, part) {
            (Self::Vcenter, None) => "hotadd-vcenter",
            (Self::Vcenter, Some(Part::Stored)) => "hotadd-stored-vcenter",
            (Self::Vcenter, Some(Part::Job)) => "hotadd-job-vcenter",
            (Self::Everywhere, None) => "hotadd-everywhere",
            (Self::Everywhere, Some(Part::Stored)) => "hotadd-stored-everywhere",
            (Self::Everywhere, Some(Part::Job)) => "hotadd-job-everywhere",
            (Self::Target, None) => "hotadd-target",
            (Self::Target, Some(Part::Stored)) => "hotadd-stored-target",
            (Self::Target, Some(Part::Job)) => "hotadd-job-target",
            (Self::Proxy, None) => "hotadd-proxy",
            (Self::Proxy, Some(Part::Stored)) => "hotadd-stored-proxy",
            (Self::Proxy, Some(Part::Job)) => "hotadd-job-proxy",
            (Self::Datastore, None) => "hotadd-datastore",
            (Self::Datastore, Some(Part::Stored)) => "hotadd-stored-datastore",
            (Self::Datastore, Some(Part::Job)) => "hotadd-job-datastore",
        }
    }
}

/// What is given on one kind of object.
pub(crate) struct Role {
    pub(crate) scope: Scope,
    /// `None`: vSphere's own role Read-only does.
    pub(crate) name: Option<&'static str>,
    pub(crate) rows: Vec<&'static Privilege>,
}

impl Role {
    /// Of every kind of object that has some of these privileges.
    pub(crate) fn all(privileges: &[&'static Privilege], part: Option<Part>) -> Vec<Self> {
        let one = |scope: Scope| {
            let rows: Vec<_> = privileges.iter().copied().filter(|p| p.scope == scope).collect();
            let name = rows.iter().any(|p| !p.is_in_every_role()).then(|| scope.role(part));
            Self { scope, name, rows }
        };
        Scope::ALL.map(one).into_iter().filter(|role| !role.rows.is_empty()).collect()
    }

    /// The ids to make it with.
    pub(crate) fn ids(&self) -> Vec<&'static str> {
        self.rows.iter().filter(|p| !p.is_in_every_role()).map(|p| p.id).collect()
    }
}

/// One privilege on one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Privilege {
    pub id: &'static str,
    /// As the vSphere Client shows it.
    pub name: &'static str,
    pub scope: Scope,
    pub features: &'static [Feature],
    pub parts: &'static [Part],
    /// What happens when it is missing.
    pub without: &'static str,
}

impl Privilege {
    /// vCenter adds it to every role itself.
    #[must_use]
    pub fn is_in_every_role(&self) -> bool {
        self.id.starts_with("System.")
    }
}

const fn row(
    scope: Scope,
    id: &'static str,
    name: &'static str,
    features: &'static [Feature],
    parts: &'static [Part],
    without: &'static str,
) -> Privilege {
    Privilege { id, name, scope, features, parts, without }
}

const STORED: &[Part] = &[Part::Stored];
const JOB: &[Part] = &[Part::Job];
const BOTH: &[Part] = &[Part::Stored, Part::Job];

/// Everything that the agent ever asks vCenter to allow.
pub const NEEDED: &[Privilege] = &[
    row(
        Scope::Vcenter,
        "System.View",
        "(in every role, as in Read-only)",
        &[Feature::Inventory],
        BOTH,
        "no VM is found, the agent does not start (HA-VC-004)",
    ),
    row(
        Scope::Everywhere,
        "System.Read",
        "(in every role, as in Read-only)",
        &[Feature::Inventory],
        BOTH,
        "what lies around the VMs is unknown, which Explain tells (HA-PLAN-013 and others), and hosts that leave service are not seen",
    ),
    row(
        Scope::Target,
        "VirtualMachine.State.CreateSnapshot",
        "Snapshot management: Create snapshot",
        &[Feature::Snapshot],
        JOB,
        "the job fails (HA-VC-004)",
    ),
    row(
        Scope::Target,
        "VirtualMachine.State.RemoveSnapshot",
        "Snapshot management: Remove snapshot",
        &[Feature::RemoveSnapshot],
        STORED,
        "the snapshot stays, and is owed (HA-DUT-001), until it is granted",
    ),
    row(
        Scope::Proxy,
        "VirtualMachine.Config.AddExistingDisk",
        "Change Configuration: Add existing disk",
        &[Feature::Attach],
        JOB,
        "the job fails (HA-VC-004)",
    ),
    row(
        Scope::Datastore,
        "Datastore.AllocateSpace",
        "Datastore: Allocate space",
        &[Feature::Attach],
        JOB,
        "the job fails (HA-VC-004): a nonpersistent disk gets a redo log beside its base disk",
    ),
    row(
        Scope::Proxy,
        "VirtualMachine.Config.RemoveDisk",
        "Change Configuration: Remove disk",
        &[Feature::Detach],
        STORED,
        "disks stay attached, and are owed (HA-DUT-001), until it is granted",
    ),
    row(
        Scope::Proxy,
        "VirtualMachine.Config.AddRemoveDevice",
        "Change Configuration: Add or remove device",
        &[Feature::AddController],
        JOB,
        "a proxy whose units are all taken refuses (HA-VC-004, afterwards HA-ATT-001)",
    ),
    row(
        Scope::Target,
        "VirtualMachine.Provisioning.DiskRandomRead",
        "Provisioning: Allow read-only disk access",
        &[Feature::ChangedBlocks],
        JOB,
        "everything is read instead of what is allocated or changed (HA-CBT-007)",
    ),
    row(
        Scope::Target,
        "VirtualMachine.Config.ChangeTracking",
        "Change Configuration: Toggle disk change tracking",
        &[Feature::EnableTracking],
        JOB,
        "a job that asks for it fails (HA-VC-004)",
    ),
    row(
        Scope::Target,
        "VApp.Export",
        "vApp: Export",
        &[Feature::Export],
        JOB,
        "a disk that only an export could bring fails (HA-VC-004)",
    ),
    row(
        Scope::Vcenter,
        "Global.DisableMethods",
        "Global: Disable methods",
        &[Feature::Guards],
        JOB,
        "vCenter speaks of a licence; a warning in the log, or the job is refused (HA-GRD-001 with guards = \"refuse\")",
    ),
    row(
        Scope::Vcenter,
        "Global.EnableMethods",
        "Global: Enable methods",
        &[Feature::Guards],
        STORED,
        "methods stay disabled, and are owed (HA-DUT-001), until it is granted: give both or none of the two",
    ),
    row(
        Scope::Vcenter,
        "Sessions.TerminateSession",
        "Sessions: View and stop sessions",
        &[Feature::Fence],
        STORED,
        "a warning in the log; the wait alone protects from requests that land late",
    ),
    row(
        Scope::Target,
        "Cryptographer.Access",
        "Cryptographic operations: Direct Access",
        &[Feature::Encrypted],
        JOB,
        "an encrypted VM's job fails (HA-VC-004)",
    ),
    row(
        Scope::Proxy,
        "Cryptographer.AddDisk",
        "Cryptographic operations: Add disk",
        &[Feature::Encrypted],
        JOB,
        "an encrypted VM's job fails (HA-VC-004)",
    ),
];

/// What every job and these features need; `None`: what all features need.
#[must_use]
pub fn wanted(features: Option<&[Feature]>) -> Vec<&'static Privilege> {
    let asked = |feature: &Feature| feature.is_core() || features.is_none_or(|some| some.contains(feature));
    NEEDED.iter().filter(|privilege| privilege.features.iter().any(asked)).collect()
}

/// Those of one part; `None`: of one account that does all.
#[must_use]
pub fn part_of(privileges: Vec<&'static Privilege>, part: Option<Part>) -> Vec<&'static Privilege> {
    let held = |privilege: &&Privilege| part.is_none_or(|part| privilege.parts.contains(&part));
    privileges.into_iter().filter(held).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_privilege_is_told_twice_for_one_kind_of_object() {
        for (n, one) in NEEDED.iter().enumerate() {
            let again = NEEDED[n + 1..].iter().any(|other| (other.id, other.scope) == (one.id, one.scope));
            assert!(!again, "{} on {:?}", one.id, one.scope);
        }
    }

    #[test]
    fn every_feature_needs_something_and_every_privilege_has_a_feature() {
        for feature in Feature::value_variants() {
            assert!(NEEDED.iter().any(|p| p.features.contains(feature)), "{feature:?}");
            assert!(!feature.meaning().is_empty(), "{feature:?}");
        }
        assert!(NEEDED.iter().all(|p| !p.features.is_empty()));
    }

    #[test]
    fn both_parts_together_are_the_whole_and_only_reading_is_in_both() {
        let of = |part| part_of(wanted(None), Some(part));
        let (stored, job) = (of(Part::Stored), of(Part::Job));
        for privilege in NEEDED {
            let held = (stored.contains(&privilege), job.contains(&privilege));
            assert_ne!(held, (false, false), "{}", privilege.id);
            assert_eq!(held == (true, true), privilege.is_in_every_role(), "{}", privilege.id);
        }
        assert_eq!(part_of(wanted(None), None).len(), NEEDED.len());
    }

    #[test]
    fn a_choice_of_features_keeps_what_every_job_needs() {
        let core: Vec<_> = wanted(Some(&[])).iter().map(|p| p.id).collect();
        assert!(core.contains(&"VirtualMachine.Config.RemoveDisk") && !core.contains(&"VApp.Export"), "{core:?}");
        let export = wanted(Some(&[Feature::Export]));
        assert_eq!(export.len(), core.len() + 1);
        assert_eq!(wanted(None).len(), NEEDED.len());
    }
}
