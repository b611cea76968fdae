//! Which map may be asked for, and why it is less than was wanted: a pure function over what vCenter, the journal and the
//! caller say of one disk. Whoever is in doubt reads more.
use std::{collections::BTreeMap, fmt, ops::Range};

use crate::{
    error::Error,
    hypervisor::{
        TargetDisk,
        views::{Build, Fact},
    },
    reason::{self, ReasonCode},
};

/// What is read of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Whole,
    Allocated,
    Changed,
}

/// What a request wants of its disks.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub scope: Scope,
    pub bases: BTreeMap<i32, Base>,
    /// Change tracking is turned on where it is off.
    pub enable: bool,
    /// Of the samples that test the maps.
    pub seed: u64,
}

/// The earlier backup of a disk, as the caller tells it.
#[derive(Debug, Clone, Default)]
pub struct Base {
    pub change_id: String,
    /// Empty: not known then.
    pub uuid: String,
    pub capacity_bytes: u64,
    pub known: Vec<KnownBlock>,
}

/// A block of the base and its content's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBlock {
    pub range: Range<u64>,
    pub blake3: [u8; 32],
}

/// `UUID/sequence` of backing.changeId: the UUID is that of the tracking, a snapshot raises the sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeId {
    pub tracking: String,
    pub sequence: u64,
}

impl ChangeId {
    /// `None`: not of this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (tracking, sequence) = text.rsplit_once('/')?;
        let sequence = sequence.trim().parse().ok()?;
        (!tracking.trim().is_empty()).then(|| Self { tracking: tracking.trim().to_owned(), sequence })
    }
}

/// What is known of one disk.
#[derive(Debug)]
pub struct Facts<'a> {
    pub disk: &'a TargetDisk,
    /// It comes as a stream that is always whole.
    pub exported: bool,
    /// `config.changeTrackingEnabled` of its VM now.
    pub enabled: &'a Fact<bool>,
    /// A snapshot below the one that is read in which this disk was not tracked, or that could not be looked at.
    pub untracked_before: Option<&'a str>,
    /// Snapshots below the one that is read, and the disk's changeId in each.
    pub below: &'a [(String, String)],
    /// Of the host that runs the VM.
    pub build: Option<Build>,
    /// Why its tracking is not believed, if an earlier job found it wrong.
    pub untrusted: Option<&'a str>,
}

/// What to do next for a disk.
#[derive(Debug)]
pub enum Step {
    /// Everything; with the reason, unless that was wanted.
    Whole(Option<Error>),
    /// Ask for the map from this changeId, or `*`; with the reason if it is not the wanted one.
    Map { scope: Scope, change_id: String, wider: Option<Error> },
}

/// Releases whose maps are known to be wrong: below this build of this version, for disks of at least so many bytes. vsphere-facts
/// have the sources: VMware KB 2090639 (extended past 128 GiB, 4.x and 5.x), Broadcom KB 317933 (consolidation, 6.0 before
/// ESXi600-201511001).
const KNOWN_BAD: [([u32; 3], Build, u64); 2] =
    [([0, 0, 0], Build::new([6, 0, 0], 0), 128 << 30), ([6, 0, 0], Build::new([6, 0, 0], 3_247_720), 0)];

/// The first step for a disk.
#[must_use]
pub fn first(asked: Scope, base: Option<&Base>, facts: &Facts<'_>) -> Step {
    if asked == Scope::Whole {
        return Step::Whole(None);
    }
    if let Some(why) = no_map(facts) {
        return Step::Whole(Some(why));
    }
    if asked == Scope::Allocated {
        return Step::Map { scope: Scope::Allocated, change_id: "*".into(), wider: None };
    }
    match no_base(base, facts) {
        Ok(base) => Step::Map { scope: Scope::Changed, change_id: base.change_id.clone(), wider: None },
        // Its size is what the map is made for: one that grew has been reported to have wrong maps.
        Err(why) if *why.reason() == reason::CBT_CAPACITY => Step::Whole(Some(why)),
        Err(why) => Step::Map { scope: Scope::Allocated, change_id: "*".into(), wider: Some(why) },
    }
}

/// The step after a map that could not be had: `why`. What vCenter refused to tell since the base it may still tell of what is
/// in use; a map that is impossible, or did not come, is not asked for again.
#[must_use]
pub fn after(scope: Scope, why: Error, wider: Option<&Error>) -> Step {
    if scope == Scope::Changed && why.fault().is_some() {
        return Step::Map { scope: Scope::Allocated, change_id: "*".into(), wider: Some(why) };
    }
    Step::Whole(Some(match wider {
        Some(before) => why.about(before.message()),
        None => why,
    }))
}

/// Why no map of this disk may be used at all.
fn no_map(facts: &Facts<'_>) -> Option<Error> {
    let error = |reason: &'static ReasonCode, detail: &dyn fmt::Display| {
        Some(Error::new(reason, format!("{}: {detail}", facts.disk.label)))
    };
    if facts.exported {
        return error(&reason::CBT_EXPORT, &"its stream is always whole");
    }
    match facts.enabled {
        Fact::Known(true) => {}
        Fact::Known(false) => return error(&reason::CBT_OFF, &"changeTrackingEnabled is false"),
        Fact::Unknown(why) => return error(&reason::CBT_OFF, why),
    }
    if facts.disk.change_id.is_empty() {
        return error(&reason::CBT_OFF, &"its snapshot has no changeId");
    }
    if facts.disk.uuid.is_none() || ChangeId::parse(&facts.disk.change_id).is_none() {
        // A mark against it could not be kept, nor a base be compared.
        return error(&reason::CBT_OFF, &format!("no UUID, or a changeId of another form ({})", facts.disk.change_id));
    }
    if let Some(why) = facts.untracked_before {
        return error(&reason::CBT_SNAPSHOTS, &why);
    }
    let bad = |build: &Build| {
        let matches = |(from, below, bytes): &([u32; 3], Build, u64)| {
            build.version >= *from && build < below && facts.disk.capacity_bytes >= *bytes
        };
        KNOWN_BAD.iter().any(matches)
    };
    if let Some(build) = facts.build.filter(bad) {
        return error(&reason::CBT_KNOWN_BAD, &build);
    }
    facts.untrusted.and_then(|why| error(&reason::CBT_UNTRUSTED, &why))
}

/// The base to build on, or why there is none.
fn no_base<'a>(base: Option<&'a Base>, facts: &Facts<'_>) -> Result<&'a Base, Error> {
    let disk = facts.disk;
    let error = |reason, detail: String| Err(Error::new(reason, format!("{}: {detail}", disk.label)));
    let Some(base) = base else { return error(&reason::CBT_NO_BASE, "none was given".into()) };
    if base.capacity_bytes != disk.capacity_bytes {
        return error(
            &reason::CBT_CAPACITY,
            format!("{} bytes then, {} now", base.capacity_bytes, disk.capacity_bytes),
        );
    }
    let now = disk.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    if !base.uuid.is_empty() && base.uuid != now {
        return error(&reason::CBT_DISK, format!("UUID {} then, {now} now", base.uuid));
    }
    if base.change_id.is_empty() {
        return error(&reason::CBT_BASE_EMPTY, "it was read without change tracking".into());
    }
    match (ChangeId::parse(&base.change_id), ChangeId::parse(&disk.change_id)) {
        (Some(then), Some(now)) if then.tracking == now.tracking => {
            if then.sequence >= now.sequence {
                // Each snapshot raises it: the disk's present state was there before the base.
                let detail = format!("changeId {} then, {} now", base.change_id, disk.change_id);
                return error(&reason::CBT_REVERTED, detail);
            }
            // After a revert to an older snapshot the sequence goes on from there, and passes the base's again: what was undone
            // would be called unchanged. Whether there was one, the sequence does not tell.
            let older = |id: &str| ChangeId::parse(id).is_none_or(|below| below.sequence < then.sequence);
            match facts.below.iter().find(|(_, id)| older(id)) {
                None => Ok(base),
                Some((name, id)) => error(
                    &reason::CBT_REVERTED,
                    format!(
                        "snapshot {name:?} is older than the base ({id} and {}): the VM may have been reverted to it since",
                        base.change_id
                    ),
                ),
            }
        }
        _ => error(&reason::CBT_RESET, format!("changeId {:?} then, {:?} now", base.change_id, disk.change_id)),
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
