//! Whether the end of a job is a backup: pure rules over what the agent said last, what was seen on the stream, and what
//! was asked. Opens no file, asks nobody.
use std::collections::{BTreeMap, BTreeSet};

use hotadd_api::{
    status::cleanup_name,
    v1::{Cleanup, Consistency, DiskFacts, DiskResult, JobResult, JobState, Phase},
};

use super::report;
use crate::{cli::BackupArgs, error::Failure, exit::Exit, reasons};

/// What the command line asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) vm: String,
    keys: BTreeSet<i32>,
    allow_partial: bool,
    consistency: Consistency,
    /// With rights of its own.
    ticket: bool,
}

impl Asked {
    pub(super) fn new(args: &BackupArgs) -> Self {
        Self {
            vm: args.vm.clone(),
            keys: args.disks.iter().copied().collect(),
            allow_partial: args.allow_partial,
            consistency: args.consistency.into(),
            ticket: args.clone_ticket_file.is_some() || args.clone_ticket_fd.is_some(),
        }
    }

    pub(super) fn wants(&self, key: i32) -> bool {
        self.keys.is_empty() || self.keys.contains(&key)
    }
}

/// What the stream showed.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) job_id: Option<String>,
    /// A disk was attached.
    pub(super) began: bool,
    /// Disks of the preflight by key.
    pub(super) planned: BTreeMap<i32, DiskFacts>,
    /// Capacity in bytes of every disk that was opened, by key.
    pub(super) opened: BTreeMap<i32, u64>,
}

/// A backup, possibly without some disks.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Disks that are in it, by key.
    pub(super) kept: BTreeMap<i32, DiskResult>,
    /// One line for each disk that is not; empty unless a partial backup was allowed.
    pub(super) missing: Vec<String>,
}

/// Judges the result of a job.
pub(super) fn judge(result: &JobResult, seen: &Seen, asked: &Asked) -> Result<Verdict, Failure> {
    if result.state() != JobState::Ok {
        return Err(failed(result, seen));
    }
    let fail = |code, what: String| Err(Failure::new(Exit::JobFailed, code, what).cleanup(result.cleanup()).judged());
    if seen.job_id.as_ref().is_some_and(|id| *id != result.job_id) {
        return fail(reasons::CONTRACT, format!("the result is of another job, {}", result.job_id));
    }
    if result.cleanup() != Cleanup::Done {
        let state = cleanup_name(result.cleanup());
        return fail(reasons::CONTRACT, format!("the job claims success while its clean-up is {state}"));
    }
    if asked.ticket && result.acting_user.is_empty() {
        return fail(reasons::CONTRACT, "the job does not tell that it had the rights of its ticket".to_owned());
    }
    let reached = result.snapshot.as_ref().map_or(Consistency::Unspecified, |snapshot| snapshot.reached());
    if !suffices(asked.consistency, reached) {
        let (reached, wanted) = (report::reached_name(reached), report::asked_name(asked.consistency));
        return fail(reasons::CONSISTENCY, format!("the snapshot is {reached}-consistent, asked was {wanted}"));
    }
    let (kept, missing) = sort(result, seen, asked);
    if kept.is_empty() || (!missing.is_empty() && !asked.allow_partial) {
        let missing = if missing.is_empty() { "the job has no disk".to_owned() } else { missing.join(", ") };
        return fail(reasons::INCOMPLETE, format!("the job ended OK without every disk: {missing}"));
    }
    Ok(Verdict { kept, missing })
}

/// Every disk that was asked for either came whole or is missing.
fn sort(result: &JobResult, seen: &Seen, asked: &Asked) -> (BTreeMap<i32, DiskResult>, Vec<String>) {
    let told: BTreeMap<i32, &DiskResult> =
        result.disks.iter().filter_map(|told| Some((told.disk.as_ref()?.device_key, told))).collect();
    let known = asked.keys.iter().chain(seen.planned.keys()).chain(seen.opened.keys()).chain(told.keys());
    let wanted: BTreeSet<i32> = known.copied().filter(|key| asked.wants(*key)).collect();
    let (mut kept, mut missing) = (BTreeMap::new(), Vec::new());
    for key in wanted {
        let told = told.get(&key).copied();
        let capacity = told.and_then(|told| told.disk.as_ref()).map(|facts| facts.capacity_bytes);
        match told {
            Some(told) if told.ok && seen.opened.contains_key(&key) && seen.opened.get(&key) == capacity.as_ref() => {
                kept.insert(key, told.clone());
            }
            _ => missing.push(why_missing(key, told, seen)),
        }
    }
    (kept, missing)
}

fn why_missing(key: i32, told: Option<&DiskResult>, seen: &Seen) -> String {
    let facts = told.and_then(|told| told.disk.as_ref()).or_else(|| seen.planned.get(&key));
    let name = facts.map_or_else(|| format!("disk {key}"), report::disk_name);
    let why = match told {
        None => "the agent does not speak of it".to_owned(),
        Some(told) => match told.reasons.first() {
            Some(reason) if !told.ok => format!("{} {}", reason.code, reason.message),
            _ if !told.ok => "no reason given".to_owned(),
            _ if !seen.opened.contains_key(&key) => "called OK, and no frame of it came on this stream".to_owned(),
            _ => "its capacity changed during the job".to_owned(),
        },
    };
    format!("{name}: {why}")
}

fn suffices(asked: Consistency, reached: Consistency) -> bool {
    use Consistency::{Crash, Filesystem, PreferApp, RequiredApp, Unspecified};
    match asked {
        RequiredApp => matches!(reached, RequiredApp | PreferApp),
        Filesystem => matches!(reached, RequiredApp | PreferApp | Filesystem),
        PreferApp | Crash | Unspecified => true,
    }
}

/// The agent's reason for a job that is not OK.
fn failed(result: &JobResult, seen: &Seen) -> Failure {
    let exit = if began(result, seen) { Exit::JobFailed } else { Exit::Refused };
    let mut reasons = result.reasons.iter().chain(result.disks.iter().flat_map(|disk| &disk.reasons));
    let Some(reason) = reasons.next() else {
        let what = format!("the job ended as {:?} in phase {}", result.state(), report::phase_name(result.phase()));
        return Failure::new(exit, reasons::UNEXPLAINED, what).cleanup(result.cleanup()).judged();
    };
    // The job's clean-up state is the later word.
    Failure { exit, ..Failure::from_reason(exit, reason) }.cleanup(result.cleanup()).judged()
}

/// True when at least one disk was attached. The phase alone does not tell: a job that is refused at the attach also
/// goes through detach and removal of its snapshot.
fn began(result: &JobResult, seen: &Seen) -> bool {
    let attached = |disk: &DiskResult| {
        let detached = disk.timings.is_some_and(|t| t.discover_us > 0 || t.first_byte_us > 0 || t.detach_us > 0);
        detached || disk.bytes_read > 0 || !disk.engine.is_empty()
    };
    seen.began || result.phase() == Phase::Read || result.disks.iter().any(attached)
}

#[cfg(test)]
mod tests {
    use hotadd_api::v1::{Reason, SnapshotResult, Timings};

    use super::*;

    fn facts(key: i32) -> DiskFacts {
        DiskFacts { device_key: key, label: format!("Hard disk {key}"), capacity_bytes: 512, ..Default::default() }
    }

    fn disk(key: i32, ok: bool) -> DiskResult {
        DiskResult { disk: Some(facts(key)), ok, ..Default::default() }
    }

    fn ok(disks: Vec<DiskResult>) -> JobResult {
        JobResult {
            job_id: "j".into(),
            state: JobState::Ok.into(),
            cleanup: Cleanup::Done.into(),
            phase: Phase::Done.into(),
            disks,
            ..Default::default()
        }
    }

    fn seen(keys: &[i32]) -> Seen {
        Seen {
            job_id: Some("j".into()),
            began: true,
            planned: keys.iter().map(|&key| (key, facts(key))).collect(),
            opened: keys.iter().map(|&key| (key, 512)).collect(),
        }
    }

    fn asked(keys: &[i32], allow_partial: bool, consistency: Consistency) -> Asked {
        Asked { vm: "a".into(), keys: keys.iter().copied().collect(), allow_partial, consistency, ticket: false }
    }

    fn failure(result: &JobResult, seen: &Seen, asked: &Asked) -> (Exit, String) {
        let failure = judge(result, seen, asked).unwrap_err();
        (failure.exit, failure.code)
    }

    #[test]
    fn a_job_with_a_ticket_tells_whose_rights_it_had() {
        let asked = Asked { ticket: true, ..asked(&[], false, Consistency::Crash) };
        let silent = ok(vec![disk(1, true)]);
        assert_eq!(failure(&silent, &seen(&[1]), &asked), (Exit::JobFailed, reasons::CONTRACT.id.into()));
        let told = JobResult { acting_user: "jobs".into(), ..silent };
        assert!(judge(&told, &seen(&[1]), &asked).is_ok());
    }

    #[test]
    fn every_disk_or_a_partial_backup_that_was_allowed() {
        let (strict, lax) = (asked(&[], false, Consistency::Crash), asked(&[], true, Consistency::Crash));
        let verdict = judge(&ok(vec![disk(1, true), disk(2, true)]), &seen(&[1, 2]), &strict).unwrap();
        assert_eq!((verdict.kept.len(), verdict.missing.len()), (2, 0));
        let half = ok(vec![disk(1, true), disk(2, false)]);
        assert_eq!(failure(&half, &seen(&[1, 2]), &strict), (Exit::JobFailed, reasons::INCOMPLETE.id.into()));
        let verdict = judge(&half, &seen(&[1, 2]), &lax).unwrap();
        assert_eq!((verdict.kept.len(), verdict.missing.len()), (1, 1));
        let none = ok(vec![disk(1, false)]);
        assert_eq!(failure(&none, &seen(&[1]), &lax).1, reasons::INCOMPLETE.id);
        assert_eq!(failure(&ok(vec![]), &seen(&[]), &lax).1, reasons::INCOMPLETE.id);
    }

    #[test]
    fn a_disk_that_is_called_ok_but_never_came_is_missing() {
        let strict = asked(&[], false, Consistency::Crash);
        let mut unopened = seen(&[1]);
        unopened.opened.clear();
        assert_eq!(failure(&ok(vec![disk(1, true)]), &unopened, &strict).1, reasons::INCOMPLETE.id);
        assert_eq!(failure(&ok(vec![disk(1, true)]), &seen(&[1, 2]), &strict).1, reasons::INCOMPLETE.id);
        let only = asked(&[1, 3], false, Consistency::Crash);
        assert_eq!(failure(&ok(vec![disk(1, true)]), &seen(&[1]), &only).1, reasons::INCOMPLETE.id);
        let mut grown = seen(&[1]);
        grown.opened.insert(1, 1024);
        assert_eq!(failure(&ok(vec![disk(1, true)]), &grown, &strict).1, reasons::INCOMPLETE.id);
    }

    #[test]
    fn disks_that_were_not_asked_for_are_not_missed() {
        let only = asked(&[1], false, Consistency::Crash);
        assert_eq!(judge(&ok(vec![disk(1, true)]), &seen(&[1, 2]), &only).unwrap().kept.len(), 1);
    }

    #[test]
    fn consistency_is_a_floor_except_for_preferences() {
        use Consistency::{Crash, Filesystem, PreferApp, RequiredApp};
        let run = |wanted, reached: Consistency| {
            let mut result = ok(vec![disk(1, true)]);
            result.snapshot = Some(SnapshotResult { reached: reached.into(), ..Default::default() });
            judge(&result, &seen(&[1]), &asked(&[], false, wanted)).map(|_| ()).map_err(|f| f.code)
        };
        for (wanted, reached) in
            [(RequiredApp, RequiredApp), (PreferApp, Crash), (Filesystem, RequiredApp), (Crash, Crash)]
        {
            assert_eq!(run(wanted, reached), Ok(()));
        }
        for (wanted, reached) in [(RequiredApp, Crash), (RequiredApp, Filesystem), (Filesystem, Crash)] {
            assert_eq!(run(wanted, reached), Err(reasons::CONSISTENCY.id.into()));
        }
    }

    #[test]
    fn success_needs_proof_of_clean_up_and_the_right_job() {
        let strict = asked(&[], false, Consistency::Crash);
        let mut owed = ok(vec![disk(1, true)]);
        owed.cleanup = Cleanup::Owed.into();
        assert_eq!(failure(&owed, &seen(&[1]), &strict).0, Exit::CleanupOwed);
        let mut other = ok(vec![disk(1, true)]);
        other.job_id = "k".into();
        assert_eq!(failure(&other, &seen(&[1]), &strict).1, reasons::CONTRACT.id);
    }

    #[test]
    fn refused_before_and_failed_after_the_attach_differ() {
        let strict = asked(&[], false, Consistency::Crash);
        let reason = Reason { code: "HA-X-1".into(), ..Default::default() };
        let mut early = Seen { began: false, ..seen(&[]) };
        let mut result = JobResult {
            state: JobState::Failed.into(),
            cleanup: Cleanup::Done.into(),
            phase: Phase::RemoveSnapshot.into(),
            reasons: vec![reason],
            ..ok(vec![disk(1, false)])
        };
        assert_eq!(failure(&result, &early, &strict), (Exit::Refused, "HA-X-1".into()));
        result.disks[0].timings = Some(Timings { discover_us: 1, ..Default::default() });
        assert_eq!(failure(&result, &early, &strict).0, Exit::JobFailed);
        result.disks.clear();
        early.began = true;
        assert_eq!(failure(&result, &early, &strict).0, Exit::JobFailed);
        result.cleanup = Cleanup::Owed.into();
        assert_eq!(failure(&result, &early, &strict).0, Exit::CleanupOwed);
        result.reasons.clear();
        assert_eq!(failure(&result, &early, &strict).1, reasons::UNEXPLAINED.id);
    }
}
