//! The records and what they are about. Pure data: JSON inside the frames, so that a person can read them.
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    history::{End, JobBegan, LeaseBegan, Tried},
    untrusted::Untrusted,
};
use crate::id::{BackingPath, DiskUuid, DutyId, JobId, Moref, SessionId, Slot, TargetId};

/// One line of history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// An agent opened the journal.
    Started { at: String, version: String },
    /// Written before vSphere is asked.
    Began(Duty),
    /// vSphere did it: the device key of a disk, or the moref of a snapshot or an export lease.
    Confirmed {
        duty: DutyId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_key: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moref: Option<Moref>,
    },
    /// Proven gone. `proof` says what was seen, for people. `late_until` (RFC 3339): vSphere never confirmed it, so it is
    /// looked for again until then.
    Retired {
        duty: DutyId,
        at: String,
        proof: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        late_until: Option<String>,
    },
    /// What was retired unconfirmed has landed after all: it is owed again.
    Reopened { duty: DutyId, at: String },
    /// What was retired unconfirmed is no longer looked for.
    Lapsed { duty: DutyId },
    /// Somebody should look: a duty stays open. History only.
    Alarm { duty: DutyId, at: String, why: String },
    /// A snapshot of ours is to be kept until then (RFC 3339) for a job that resumes; `None`: no longer.
    Kept {
        duty: DutyId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<String>,
    },
    /// A job that resumes took a kept snapshot over. Under a new id, so that nothing that was meant for the old duty
    /// meets the new one.
    Adopted { duty: DutyId, into: DutyId, session: SessionId },
    /// A controller's lease began; history only, duties are what is settled.
    LeaseBegan(LeaseBegan),
    /// A lease ended, and why.
    LeaseEnded {
        session: SessionId,
        #[serde(flatten)]
        end: End,
    },
    /// HotAdd was tried against a rule, or such a try ended; history only. Fields and outcomes that this version does not
    /// know are kept apart or taken as unknown.
    Tried(Tried),
    /// The change tracking of a disk was found wrong; history only.
    Untrusted(Untrusted),
    /// A job was accepted; history only.
    JobBegan(JobBegan),
    /// A job ended, and how.
    JobEnded {
        job: JobId,
        #[serde(flatten)]
        end: End,
    },
}

impl Record {
    /// As a line for people: a vCenter session's key is nobody's business who reads along.
    ///
    /// # Errors
    /// Of JSON.
    pub fn shown(mut self) -> serde_json::Result<String> {
        if let Self::Began(duty) = &mut self
            && duty.login.is_some()
        {
            duty.login = Some("(hidden)".to_owned());
        }
        serde_json::to_string(&self)
    }
}

/// Something owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    pub id: DutyId,
    pub session: SessionId,
    /// Moref of the target VM.
    pub vm: Moref,
    pub vm_name: String,
    /// Its instance UUID, which outlives a new registration of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_uuid: Option<String>,
    /// Instance UUID of the vCenter and moref of the proxy VM under which it was begun: all morefs, keys and slots are
    /// theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcenter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Moref>,
    /// Key of the vCenter session under which it was asked for: ending that session fences a request that vCenter has
    /// not accepted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// That session was cloned from a job's ticket: it never logged in again, so nothing was sent anew under another.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ticket: bool,
    /// RFC 3339.
    pub since: String,
    #[serde(default)]
    pub phase: DutyPhase,
    pub kind: DutyKind,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DutyPhase {
    #[default]
    Intended,
    Held,
}

/// Attachments are settled before snapshots of the same session: a snapshot outlives what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DutyKind {
    Attach(AttachDuty),
    Snapshot(SnapshotDuty),
    Guard(GuardDuty),
    Export(ExportDuty),
}

/// An export lease of a snapshot that lives, or may live: it blocks power-on, destruction and migration of its VM. Settled
/// before the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportDuty {
    pub snapshot: Moref,
    /// Of the lease, once vCenter told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moref: Option<Moref>,
}

/// Methods of a VM that are disabled for us: nobody is to move, destroy or revert it while we hold something of it.
/// Settled last, when nothing else of that VM is owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardDuty {
    /// Names as AuthorizationManager.DisableMethods takes them, e.g. `RelocateVM_Task`.
    pub methods: Vec<String>,
    /// Under which source they were disabled; enabling needs the same.
    pub source: String,
    /// Disabled by the rights of a ticket: those of `methods` that nobody had disabled before. Whether the account enables what another
    /// has disabled is looked at by these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub free: Vec<String>,
}

/// A backing that is, or may be, attached to the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachDuty {
    pub backing: BackingPath,
    pub uuid: DiskUuid,
    pub capacity_bytes: u64,
    pub slot: Slot,
    /// VirtualDevice.key on the proxy, once vCenter told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_key: Option<i32>,
}

/// A snapshot of ours that exists, or may exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDuty {
    /// Unique name (it holds the duty's id), by which an unconfirmed snapshot is found again.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moref: Option<Moref>,
    /// Kept until then (RFC 3339) for a job that resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<String>,
    /// On which its deltas may be.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stores: BTreeSet<Moref>,
}

impl SnapshotDuty {
    /// Until when it is kept, if that is not over. A time that can't be read keeps nothing.
    #[must_use]
    pub fn kept(&self) -> Option<&str> {
        let until = self.keep_until.as_deref()?;
        until.parse().is_ok_and(|end: Timestamp| end > Timestamp::now()).then_some(until)
    }
}

impl Duty {
    /// The VM that it is about.
    #[must_use]
    pub fn target(&self) -> TargetId {
        TargetId { moref: self.vm.clone(), instance_uuid: self.vm_uuid.clone() }
    }

    /// Whether it was begun under another vCenter, or, for a disk, on another proxy. What was not recorded, or is not
    /// known now, does not contradict.
    #[must_use]
    pub fn is_of_another(&self, vcenter: Option<&str>, proxy: &Moref) -> bool {
        let differs = self.vcenter.as_deref().zip(vcenter).is_some_and(|(then, now)| then != now);
        differs || (self.attach().is_some() && self.proxy.as_ref().is_some_and(|then| then != proxy))
    }

    #[must_use]
    pub fn attach(&self) -> Option<&AttachDuty> {
        match &self.kind {
            DutyKind::Attach(attach) => Some(attach),
            DutyKind::Snapshot(_) | DutyKind::Guard(_) | DutyKind::Export(_) => None,
        }
    }

    #[must_use]
    pub fn snapshot(&self) -> Option<&SnapshotDuty> {
        match &self.kind {
            DutyKind::Snapshot(snapshot) => Some(snapshot),
            DutyKind::Attach(_) | DutyKind::Guard(_) | DutyKind::Export(_) => None,
        }
    }

    #[must_use]
    pub fn guard(&self) -> Option<&GuardDuty> {
        match &self.kind {
            DutyKind::Guard(guard) => Some(guard),
            DutyKind::Attach(_) | DutyKind::Snapshot(_) | DutyKind::Export(_) => None,
        }
    }

    #[must_use]
    pub fn export(&self) -> Option<&ExportDuty> {
        match &self.kind {
            DutyKind::Export(export) => Some(export),
            DutyKind::Attach(_) | DutyKind::Snapshot(_) | DutyKind::Guard(_) => None,
        }
    }

    /// Whether it uses a snapshot's disks: then that snapshot stays.
    #[must_use]
    pub fn uses_snapshot(&self) -> bool {
        self.attach().is_some() || self.export().is_some()
    }
}
