//! The journal: what is owed to vSphere, durable before vSphere is asked for it.
//!
//! ```text
//!            begin (fsync)            confirm (fsync)              retire (fsync)
//! nothing ───────────────▶ Intended ─────────────────▶ Held ─────────────────────▶ nothing
//!                             └───────────────── retire ──────────────────────────▲   (needs a proof)
//!                             │ ◀────────────── reopen ─────── late ── lapse ─────┘
//!                             └── retire unconfirmed, late_until ─▲
//! ```
//! The same edges hold for an attached disk, a snapshot of ours, methods that we disabled and an export lease. What was retired without
//! ever having been confirmed is *late* for a while: it is not owed, but looked for, because vSphere may yet do it. A held
//! snapshot may be kept for a job that resumes, and taken over by it (held → held). State is a pure fold over the records
//! ([`State::apply`]); an edge that is not drawn is an error. Files, frames and fsync live in [`mod@file`], the records in
//! [`record`], what is remembered of jobs and sessions in [`history`], of disks in
//! [`untrusted`].
pub mod file;
pub mod history;
pub mod record;
pub mod untrusted;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use self::file::JournalFile;
pub use self::{
    file::{JournalError, Opened},
    history::{End, History, JobBegan, LeaseBegan, Tried, TryOutcome},
    record::{AttachDuty, Duty, DutyKind, DutyPhase, ExportDuty, GuardDuty, Record, SnapshotDuty},
    untrusted::Untrusted,
};
use crate::id::{DutyId, SessionId, Slot};

/// Everything that is open, by duty, and what is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    duties: BTreeMap<DutyId, Duty>,
    late: BTreeMap<DutyId, Late>,
    history: History,
}

/// Retired, never confirmed, and still looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    pub duty: Duty,
    /// RFC 3339.
    pub until: String,
    retired: Record,
}

/// A record that does not fit the state before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("duty {duty}: {what}")]
pub struct IllegalEdge {
    pub duty: DutyId,
    pub what: &'static str,
}

impl State {
    /// Folds one record in.
    ///
    /// # Errors
    /// [`IllegalEdge`]; the state is unchanged then.
    pub fn apply(&mut self, record: &Record) -> Result<(), IllegalEdge> {
        match record {
            Record::Began(duty) => {
                if self.duties.contains_key(&duty.id) || self.late.contains_key(&duty.id) {
                    return Err(IllegalEdge { duty: duty.id, what: "begun twice" });
                }
                self.duties.insert(duty.id, duty.clone());
            }
            Record::Confirmed { duty, device_key, moref } => {
                let entry = self.duties.get_mut(duty).ok_or(IllegalEdge { duty: *duty, what: "confirmed unbegun" })?;
                match (&mut entry.kind, device_key, moref) {
                    (DutyKind::Attach(attach), Some(key), None) => attach.device_key = Some(*key),
                    (DutyKind::Snapshot(snapshot), None, Some(moref)) => snapshot.moref = Some(moref.clone()),
                    (DutyKind::Export(export), None, Some(moref)) => export.moref = Some(moref.clone()),
                    (DutyKind::Guard(_), None, None) => {}
                    _ => return Err(IllegalEdge { duty: *duty, what: "confirmed as another kind" }),
                }
                entry.phase = DutyPhase::Held;
            }
            Record::Retired { duty: id, late_until, .. } => {
                let duty = self.duties.remove(id).ok_or(IllegalEdge { duty: *id, what: "retired unbegun" })?;
                if let Some(until) = late_until.clone() {
                    self.late.insert(*id, Late { duty, until, retired: record.clone() });
                }
            }
            Record::Reopened { duty: id, .. } => {
                let late = self.late.remove(id).ok_or(IllegalEdge { duty: *id, what: "reopened, but was not late" })?;
                self.duties.insert(*id, late.duty);
            }
            Record::Lapsed { duty } => {
                self.late.remove(duty).ok_or(IllegalEdge { duty: *duty, what: "lapsed, but was not late" })?;
            }
            Record::Alarm { .. } => {}
            Record::Kept { duty, until } => {
                let held = DutyPhase::Held;
                let entry = self.duties.get_mut(duty).filter(|d| d.phase == held).and_then(snapshot_mut);
                entry
                    .ok_or(IllegalEdge { duty: *duty, what: "kept and not a held snapshot" })?
                    .keep_until
                    .clone_from(until);
            }
            Record::Adopted { duty, into, session } => {
                let kept = |d: &&Duty| d.snapshot().is_some_and(|s| s.keep_until.is_some());
                let known = self.duties.get(duty).filter(kept);
                let mut adopted = known.ok_or(IllegalEdge { duty: *duty, what: "adopted and not kept" })?.clone();
                if self.duties.contains_key(into) {
                    return Err(IllegalEdge { duty: *into, what: "begun twice" });
                }
                self.duties.remove(duty);
                (adopted.id, adopted.session) = (*into, *session);
                if let Some(snapshot) = snapshot_mut(&mut adopted) {
                    snapshot.keep_until = None;
                }
                self.duties.insert(*into, adopted);
            }
            Record::Started { at, .. } => self.restart(at),
            Record::LeaseBegan(_)
            | Record::LeaseEnded { .. }
            | Record::JobBegan(_)
            | Record::JobEnded { .. }
            | Record::Tried(_)
            | Record::Untrusted(_) => {
                self.history.apply(record);
            }
        }
        Ok(())
    }

    /// An agent that died broke its jobs: their snapshots are kept as long as they asked for.
    fn restart(&mut self, at: &str) {
        for (session, seconds) in self.history.restart(at) {
            let window = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0));
            let Some(end) = at.parse::<Timestamp>().ok().and_then(|at| at.checked_add(window).ok()) else { continue };
            let held = self.duties.values_mut().filter(|d| d.session == session && d.phase == DutyPhase::Held);
            held.filter_map(snapshot_mut).for_each(|snapshot| snapshot.keep_until = Some(format!("{end:.0}")));
        }
    }

    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Slots that a disk of ours has, may have, or may still come to.
    #[must_use]
    pub fn reserved_slots(&self) -> BTreeSet<Slot> {
        let all = self.duties.values().chain(self.late.values().map(|late| &late.duty));
        all.filter_map(|duty| duty.attach().map(|attach| attach.slot)).collect()
    }

    /// As records, to start a new file from. A confirmed duty is begun as what it became: its key or moref and its phase
    /// are part of it.
    fn records(&self) -> Vec<Record> {
        let duties = self.duties.values().cloned().map(Record::Began);
        let late = self.late.values().flat_map(|late| [Record::Began(late.duty.clone()), late.retired.clone()]);
        self.history.records().into_iter().chain(duties).chain(late).collect()
    }

    pub fn duties(&self) -> impl Iterator<Item = &Duty> {
        self.duties.values()
    }

    #[must_use]
    pub fn get(&self, id: DutyId) -> Option<&Duty> {
        self.duties.get(&id)
    }

    /// Not owed, but looked for.
    pub fn late(&self) -> impl Iterator<Item = &Late> {
        self.late.values()
    }

    /// Nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.duties.is_empty()
    }

    /// Nothing is owed, and nothing may still land.
    #[must_use]
    pub fn nothing_is_pending(&self) -> bool {
        self.is_empty() && self.late.is_empty()
    }
}

fn snapshot_mut(duty: &mut Duty) -> Option<&mut SnapshotDuty> {
    match &mut duty.kind {
        DutyKind::Snapshot(snapshot) => Some(snapshot),
        DutyKind::Attach(_) | DutyKind::Guard(_) | DutyKind::Export(_) => None,
    }
}

/// The open journal. Cheap to clone. Writing returns only when its records are on disk, so call it off the runtime's
/// threads; reading the state never waits for a disk.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Held over an append; taken before `state`.
    file: Arc<Mutex<JournalFile>>,
    /// What is durable.
    state: Arc<Mutex<Arc<State>>>,
}

impl Journal {
    /// Opens or creates the journal in `dir` and folds what is there.
    ///
    /// # Errors
    /// See [`JournalError`]; a journal that is locked by another agent, or can't be read, is one.
    pub fn open(dir: &Path) -> Result<(Self, Opened), JournalError> {
        let (file, state, opened) = JournalFile::open(dir)?;
        let this = Self { file: Arc::new(Mutex::new(file)), state: Arc::new(Mutex::new(Arc::new(state))) };
        Ok((this, opened))
    }

    /// Appends all records with one fsync. Nothing is folded unless everything is durable.
    ///
    /// # Errors
    /// An illegal edge (nothing written), or a write that failed: the next append starts a new file from the
    /// state, because what the disk holds of this one is unknown.
    pub fn append(&self, records: &[Record]) -> Result<(), JournalError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state();
        let mut next = State::clone(&before);
        for record in records {
            next.apply(record)?;
        }
        file.append(records, &before)?;
        let next = Arc::new(next);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        // The records are durable; a file that stays large is no reason to say otherwise.
        if let Err(error) = file.compact_if_large(&next) {
            tracing::warn!(%error, "the journal could not be made smaller");
        }
        Ok(())
    }

    /// Appends all that can be appended: a record that is refused costs only itself. Gives those back, with their place in
    /// `records`.
    pub fn append_each(&self, records: &[Record]) -> Vec<(usize, JournalError)> {
        if records.is_empty() || self.append(records).is_ok() {
            return Vec::new();
        }
        let one = |(at, record): (usize, &Record)| Some((at, self.append(std::slice::from_ref(record)).err()?));
        records.iter().enumerate().filter_map(one).collect()
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Open duties of one session.
    #[must_use]
    pub fn duties_of(&self, session: SessionId) -> Vec<Duty> {
        self.state().duties().filter(|duty| duty.session == session).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
