//! How a job ends: everything is given back in order, the snapshot is kept where that was asked, the end is journalled and told.
use std::{sync::atomic::Ordering, time::Duration};

use hotadd_api::v1::{self, Cleanup, JobState, Phase, job_event::Item as Event};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{Holding, Job};
use crate::{
    attach::{Settled, now},
    error::Error,
    id::DutyId,
    journal::{End, Record},
    plan::rates::Sample,
    reason,
    session::{planned::Measured, registry::lock, snapshot::HeldSnapshot},
    traces::Ended,
    transport::{SERVER_LOST, micros},
};

impl Job {
    /// Detach, then remove the snapshot; both by the settler, which goes on after our patience.
    pub(super) async fn end(&self, holding: Holding, error: Option<&Error>) -> Settled {
        let Holding { target: _, claim, snapshot, disks } = holding;
        drop(lock(&self.watch).take());
        let kept = match snapshot.as_deref().and_then(HeldSnapshot::duty) {
            Some(duty) => self.keep(duty, error).await,
            None => false,
        };
        let manager = &self.jobs.manager;
        let keys: Vec<i32> = disks.iter().map(|disk| disk.now().facts().device_key).collect();
        let held = manager.opener().vm.journal.duties_of(self.session).iter().any(|duty| duty.attach().is_some());
        let clock = if !held { None } else { Some(self.begin(Phase::Detach).await) };
        let start = Instant::now();
        // To the settler, which begins with them.
        drop(disks);
        // What is attached once the duties are read would be missed.
        self.attaching.close();
        self.attaching.wait().await;
        let mut settled = manager.give_back_disks(self.session).await;
        let detach_us = micros(start.elapsed());
        self.note(|job| {
            let of_ours = |r: &&mut v1::DiskResult| r.disk.as_ref().is_some_and(|d| keys.contains(&d.device_key));
            job.disks
                .iter_mut()
                .filter(of_ours)
                .filter_map(|r| r.timings.as_mut())
                .for_each(|t| t.detach_us = detach_us);
        });
        if let Some(clock) = clock {
            self.trace_owed(&settled);
            self.finish(Phase::Detach, clock).await;
        }
        if kept {
            // To the settler, which waits for its time.
            drop(snapshot);
            if matches!(settled, Settled::Done) {
                settled = manager.give_back_guards(self.session).await;
            }
        } else if let (Some(snapshot), Settled::Done) = (snapshot, &settled) {
            let clock = self.begin(Phase::RemoveSnapshot).await;
            drop(snapshot);
            settled = manager.give_back_rest(self.session).await;
            self.finish(Phase::RemoveSnapshot, clock).await;
        }
        drop(claim);
        settled
    }

    /// Keeps the snapshot for a job that resumes, if that was asked and makes sense for this end.
    async fn keep(&self, duty: DutyId, error: Option<&Error>) -> bool {
        let resumable =
            [&reason::JOB_STREAM, &reason::HST_PROXY, &reason::HST_MOVED, &reason::READ_GONE, &reason::READ_IO];
        let window = self.request.resume_window;
        let resumes = |error: &Error| resumable.contains(&error.reason()) || SERVER_LOST.contains(&error.reason());
        let wanted = error.is_some_and(resumes) && !window.is_zero();
        if !wanted || self.jobs.manager.draining().is_cancelled() {
            return false;
        }
        let window = SignedDuration::try_from(window).unwrap_or_default();
        let Ok(until) = Timestamp::now().checked_add(window) else { return false };
        let until = Some(format!("{until:.0}"));
        let record = Record::Kept { duty, until: until.clone() };
        match self.jobs.manager.opener().vm.record(vec![record]).await {
            Ok(()) => {
                tracing::warn!(%duty, until, "the snapshot is kept for a job that resumes");
                true
            }
            Err(error) => {
                tracing::warn!(%duty, %error, "the snapshot can't be kept");
                false
            }
        }
    }

    pub(in crate::session) async fn conclude(&self, errors: Vec<Error>) {
        // The journal decides what is owed, not the errors.
        let owed = self.jobs.manager.hand_over_all(self.session);
        let errors: Vec<Error> = errors.into_iter().map(|e| if owed { e.owing() } else { e }).collect();
        let partial = self.request.partial;
        let (mut delivered, mut all) = (false, false);
        self.note(|job| {
            delivered = job.disks.iter().any(|disk| disk.ok);
            all = job.disks.iter().all(|disk| disk.ok || partial);
        });
        let complete = errors.is_empty() && delivered && all && !owed;
        self.measure().await;
        self.record_end(complete, errors.first()).await;
        self.note(|job| {
            job.state = if complete { JobState::Ok } else { JobState::Failed }.into();
            job.reasons = errors.iter().map(Error::to_reason).collect();
            job.cleanup = if owed { Cleanup::Owed } else { Cleanup::Done }.into();
            job.ended = now();
            if complete {
                job.phase = Phase::Done.into();
            }
        });
        let code = errors.first().map(|error| error.reason().code);
        self.trace(code.or_else(|| (!complete).then_some(reason::JOB_PARTIAL.code)));
        for error in &errors {
            tracing::error!(reason = error.reason().code, %error, "job failed");
        }
        let id = self.id.to_string();
        if let Ok(result) = self.jobs.get(|job| job.job_id == id, &id) {
            tracing::info!(state = ?result.state(), cleanup = ?result.cleanup(), "job ended");
            self.jobs.ring();
            // Nothing is held any more, so a slow client may have its time.
            self.deaf.store(false, Ordering::Relaxed);
            self.emit(Event::Result(result)).await;
        }
    }

    fn trace_owed(&self, settled: &Settled) {
        if let Settled::Owed(why) = settled {
            self.jobs.manager.opener().vm.traces.stage_broke(self.session, why);
        }
    }

    fn trace(&self, code: Option<&'static str>) {
        let mut ended = Ended { code, ..Ended::default() };
        self.note(|job| {
            let v1::JobResult { vm_moref, vm_name, disks, .. } = job.clone();
            ended = Ended { vm_moref, vm_name, disks, code, cleanup: job.cleanup() };
        });
        self.jobs.manager.opener().vm.traces.end(self.session, &ended);
    }

    /// What the disks cost, for the planner.
    async fn measure(&self) {
        let mut samples = Vec::new();
        let limited = self.jobs.manager.opener().vm.throttle.is_limited();
        self.note(|job| {
            // One that went on by another transport says nothing of either.
            let whole = job.disks.iter().filter(|disk| disk.ok && disk.parts.len() <= 1);
            samples =
                whole.filter_map(|disk| Some(measured(disk, disk.timings.as_ref()?, limited))).flatten().collect();
        });
        if !samples.is_empty() {
            self.jobs.manager.opener().measured(samples).await;
        }
    }

    /// Before the end is told: who asks after a crash gets the same answer.
    async fn record_end(&self, complete: bool, error: Option<&Error>) {
        let none = Error::new(&reason::JOB_PARTIAL, "no disk was delivered");
        let end = match error {
            None if complete => End::new(now(), "", ""),
            error => {
                let error = error.unwrap_or(&none);
                End::new(now(), error.reason().code, &error.message())
            }
        };
        let record = Record::JobEnded { job: self.id, end };
        if let Err(error) = self.jobs.manager.opener().vm.record(vec![record]).await {
            tracing::warn!(%error, "the end of a job could not be journalled");
        }
    }
}

/// `limited`: a limit of bytes, reads or latency holds somewhere.
fn measured(disk: &v1::DiskResult, timings: &v1::Timings, limited: bool) -> Option<Measured> {
    let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
    let (bytes, transfer) = (disk.bytes_read, seconds(timings.transfer_us));
    match disk.transport() {
        v1::Transport::Hotadd => Some(Measured::HotAdd(Sample {
            attach_seconds: seconds(timings.attach_us + timings.discover_us),
            detach_seconds: seconds(timings.detach_us),
            bytes,
            data_bytes: disk.bytes_sent,
            reads: disk.reads,
            transfer_seconds: transfer,
            source_seconds: disk.stages.filter(|stages| !limited && stages.paced_us == 0).map(|s| seconds(s.source_us)),
        })),
        v1::Transport::Nbd => Some(Measured::Nbd(bytes, transfer)),
        v1::Transport::Export => Some(Measured::Export(bytes, transfer)),
        _ => None,
    }
}
