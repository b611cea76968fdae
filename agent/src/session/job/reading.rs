//! How a job reads its disks: some at a time, each by its transport, and by the next one where the first breaks.
//!
//! ```text
//! attached ──came whole──▶ done
//!    │ ▲ device lost, or the proxy's host leaves service
//!    │ └────────────────────────────── attached again, if that is asked (returning) ─────────────────────────┐
//!    ▼  (only a disk with a server; else the job fails)                                                      │
//! given back ──proof, or patience over──▶ server, from the first byte that was not delivered ──▶ done        │
//!                                           └── lost, or the hosts are at rest again ────────────────────────┘
//! ```
//! Before the first new byte the next transport has to show what was sent last. What was delivered is not sent again: pieces are handed over in order, so their sum tells where the rest begins.
use std::{
    ops::{ControlFlow, Range},
    pin::pin,
    sync::{Arc, Mutex, atomic::Ordering},
};

use futures_util::future::{FusedFuture as _, FutureExt as _};
use hotadd_api::v1::{self, job_event::Item as Event};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Holding, Job,
    held::{HeldDisk, Samples, Turn},
    mapping::{Reads, short},
};
use crate::{
    error::{Error, Result},
    plan::facts_to_api,
    reason,
    session::{opener::Opener, registry::lock},
    transport::{Disk, Item, Outlet, ReadOrder, Reading, Report, SERVER_LOST},
};

/// What another transport may heal. Not an unreadable sector, nor a device that is not what was proven: those are told.
const HEALED: [&reason::ReasonCode; 5] =
    [&reason::READ_GONE, &reason::READ_IO, &reason::READ_SHORT, &reason::READ_ENGINE, &reason::DSC_OPEN];

/// What is still to be read of a disk, and the map that it is told with.
struct Left {
    ranges: Vec<Range<u64>>,
    map: Option<v1::ReadMap>,
}

impl Job {
    pub(super) async fn read_all(&self, opener: &Opener, holding: &Holding) -> Result<()> {
        let disks = holding.disks.as_slice();
        let turns = Semaphore::new(opener.vm.limits.parallel_reads);
        // What is exported blocks its VM; attached ones do not wait behind one whose server has a queue.
        let mut order: Vec<&HeldDisk> = disks.iter().collect();
        order.sort_by_key(|disk| match disk.now() {
            Disk::Exported(_) => 0,
            Disk::Attached(_) => 1,
            Disk::Remote(_) => 2,
        });
        let turns = &turns;
        let reads = order.into_iter().map(|disk| async move {
            // Never closed, so the only way on is a permit.
            let _turn = turns.acquire().await;
            self.go_on_reading(disks)?;
            self.read_disk(opener, disk, holding).await
        });
        let mut reads = pin!(futures_util::future::join_all(reads));
        // Until when attached disks have to be free of their reads.
        let mut left_by = None;
        let results = loop {
            tokio::select! {
                // A trouble that is known is looked at before what it did to the reads.
                biased;
                () = self.abort() => {}
                () = at(left_by) => {
                    left_by = None;
                    if !disks.iter().any(HeldDisk::is_leaving) {
                        continue;
                    }
                }
                results = &mut reads => break results,
            }
            if let (Some(why), Some(seen)) = (self.may_leave(disks), self.watch_now()) {
                tracing::warn!(reason = why.reason().code, %why, "the proxy's host leaves service: disks go on by their servers");
                self.watch_by(seen.without_proxy());
                // Those that were read to their end are given back as well.
                disks.iter().for_each(HeldDisk::leave);
                left_by = left_by.or_else(|| Some(Instant::now() + opener.vm.deadlines.cleanup));
                continue;
            }
            // The threads end between two blocks; their descriptors are closed when they have.
            self.cancel.store(true, Ordering::Relaxed);
            disks.iter().for_each(HeldDisk::stop);
            // Nor does the client's pace hold the detaching up.
            self.deaf.store(true, Ordering::Relaxed);
            // One that hangs in the kernel must not keep the disks attached.
            if timeout(opener.vm.deadlines.cleanup, reads).await.is_err() {
                tracing::error!("a read does not end; detaching under it");
            }
            let hangs = || Error::new(&reason::READ_STOPPED, "an attached disk could not be left in time");
            return Err(self.abort_reason().unwrap_or_else(hangs));
        };
        let Some(error) = results.into_iter().find_map(Result::err) else { return Ok(()) };
        // A read stops, or fails, because the stream broke, the agent drains, or the disk is in trouble: that is the cause
        // to tell.
        self.go_on()?;
        if *error.reason() == reason::READ_STOPPED && self.deaf.load(Ordering::Relaxed) {
            let patience = opener.vm.limits.lease_default.as_secs();
            return Err(Error::new(&reason::JOB_STREAM, format!("it took nothing for {patience} s")));
        }
        Err(error)
    }

    /// Ends when the client is gone, the agent drains, what is read from is in trouble, or the job has lost its rights.
    async fn abort(&self) {
        let troubled = async {
            loop {
                let changed = self.rewatched.notified();
                let trouble = async {
                    match self.watch_now() {
                        // A watch that ends without any says nothing.
                        Some(watch) if watch.trouble().wait().await.is_some() => {}
                        _ => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = trouble => return,
                    () = changed => {}
                }
            }
        };
        let over = async {
            match self.actor.get() {
                Some(actor) => actor.wait_ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            () = self.tx.closed() => {}
            () = self.jobs.manager.draining().cancelled() => {}
            () = troubled => {}
        }
    }

    /// Why every attached disk should go on by its server now; `None`: nothing of the kind, or one has none.
    fn may_leave(&self, disks: &[HeldDisk]) -> Option<Error> {
        let why = self.watch_now()?.trouble().now()?;
        let of_proxy = [&reason::HST_PROXY, &reason::HST_MOVED].contains(&why.reason());
        let able = disks.iter().all(|disk| !disk.now().is_attached() || disk.has_next());
        let wanted = !self.tx.is_closed() && !self.jobs.manager.draining().is_cancelled();
        (of_proxy && able && wanted).then_some(why)
    }

    /// As [`Job::go_on`], but for trouble that only moves the disks to their servers.
    pub(super) fn go_on_reading(&self, disks: &[HeldDisk]) -> Result<()> {
        self.abort_reason().filter(|_| self.may_leave(disks).is_none()).map_or(Ok(()), Err)
    }

    async fn read_disk(&self, opener: &Opener, held: &HeldDisk, holding: &Holding) -> Result<()> {
        let (facts, began) = (held.now().facts().clone(), std::time::Instant::now());
        let reads = self.reads_now(opener, held).await;
        let mut remarks: Vec<v1::Reason> = held.remarks.iter().map(Error::to_reason).collect();
        remarks.extend(reads.wider().cloned());
        let (mut rest, map) = (reads.ranges, reads.map);
        let mut sum = v1::DiskResult::default();
        let before = self.request.shown.get(&facts.device_key);
        let samples = before.map_or_else(Samples::default, |blocks| Samples::of_before(blocks));
        let error = loop {
            let turn = held.turn();
            let left = Left { ranges: rest.clone(), map: map.clone() };
            let report = self.read_turn(opener, held, &turn, left, &samples, holding).await?;
            let (came, left) = split(&rest, report.bytes_read);
            add(&mut sum, report.to_api(&turn.disk), came);
            if let Disk::Remote(remote) = &turn.disk {
                // A server of ours is not kept for disks that are read; its end is waited for at the end.
                remote.rest().await;
            }
            let Some(error) = report.error else { break None };
            if left.is_empty() || !self.goes_on(&error, held, &turn, &holding.disks) {
                break Some(error);
            }
            if turn.disk.is_attached() {
                tracing::warn!(disk = facts.label, reason = error.reason().code, %error, "going on by the disk's server");
                held.leave();
                remarks.push(error.to_reason());
            } else if *error.reason() != reason::READ_STOPPED {
                remarks.push(error.to_reason());
            }
            rest = left;
        };
        if let Disk::Exported(exported) = held.now() {
            exported.lease.read(error.is_none()).await;
        }
        sum.reasons = error.iter().map(Error::to_reason).chain(remarks).collect();
        opener.vm.traces.read(self.session, began, &sum, error.as_ref());
        self.tell(opener, sum, error).await
    }

    /// What is read, as found out by what it is read from now: a disk that is left meanwhile is not kept for that.
    async fn reads_now(&self, opener: &Opener, held: &HeldDisk) -> Reads {
        loop {
            let turn = held.turn();
            held.set_reading(turn.disk.is_attached());
            let reads = self.reads(opener, held, &turn).await;
            held.set_reading(false);
            if !held.has_left(&turn) || self.cancel.load(Ordering::Relaxed) {
                return reads;
            }
        }
    }

    /// One read by one transport. It ends early when the disk is attached again meanwhile.
    async fn read_turn(
        &self,
        opener: &Opener,
        held: &HeldDisk,
        turn: &Turn,
        left: Left,
        samples: &Samples,
        holding: &Holding,
    ) -> Result<Report> {
        if !turn.disk.is_attached()
            && let Some(duty) = held.take_owed()
        {
            // Detached first: it may hold the file that the server opens. A detach that is refused does not hold the data.
            opener.settler.settle(&[duty], opener.vm.deadlines.cleanup).await;
        }
        let back = async {
            match self.request.back {
                true => self.attached_again(opener, held, holding).await,
                false => None,
            }
        };
        let mut back = pin!(back.fuse());
        held.set_reading(turn.disk.is_attached());
        let mut read = pin!(self.read_by(opener, turn, left, samples));
        let report = tokio::select! {
            report = &mut read => report,
            Some(attached) = &mut back => {
                held.come_back(attached);
                read.await
            }
        };
        held.set_reading(false);
        let lost = |report: &Report| report.error.as_ref().is_some_and(|e| SERVER_LOST.contains(&e.reason()));
        if report.as_ref().is_ok_and(lost) && !back.is_terminated() {
            tracing::warn!(disk = turn.disk.name(), "its server is lost; it waits to be attached again");
            if let Ok(Some(attached)) = timeout(opener.vm.deadlines.hold, back).await {
                held.come_back(attached);
            }
        }
        report
    }

    /// Whether a disk that was not read to its end goes on: by its server, or attached again.
    fn goes_on(&self, error: &Error, held: &HeldDisk, turn: &Turn, all: &[HeldDisk]) -> bool {
        let (left, deaf) = (held.has_left(turn), self.deaf.load(Ordering::Relaxed));
        let stopped = *error.reason() == reason::READ_STOPPED && left && !deaf;
        let healed = if turn.disk.is_attached() {
            HEALED.contains(&error.reason()) && held.has_next()
        } else {
            SERVER_LOST.contains(&error.reason()) && left
        };
        (stopped || healed) && !self.cancel.load(Ordering::Relaxed) && self.go_on_reading(all).is_ok()
    }

    /// Reads again what was sent by the transport before: a server of another disk, or of another state, is found out before
    /// its bytes are mixed in.
    async fn differs(&self, opener: &Opener, turn: &Turn, samples: &Samples) -> Option<Error> {
        let due = samples.of();
        if due.is_empty() {
            return None;
        }
        let ranges = due.iter().map(|sample| sample.range.clone()).collect();
        let found = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&found);
        let sink = Box::new(move |item| {
            if let Item::Frame(frame) = item {
                lock(&into).push(frame.blake3);
            }
            ControlFlow::Continue(())
        });
        let (disk, stop) = (turn.disk.clone(), Arc::clone(&turn.stop));
        let order = self.order(opener, ranges);
        let report =
            match Reading::start(disk, opener.platform(), order, sink, stop, opener.vm.means(self.session)).await {
                Ok(reading) => reading.join().await,
                Err(error) => return Some(error),
            };
        let same = lock(&found).iter().eq(due.iter().map(|sample| &sample.blake3));
        let other = || Error::new(&reason::NBD_DIFFERS, turn.disk.name());
        report.error.or_else(|| (!same).then(other))
    }

    pub(super) fn order(&self, opener: &Opener, ranges: Vec<Range<u64>>) -> ReadOrder {
        ReadOrder {
            ranges: Some(ranges),
            block_bytes: self.request.block_bytes,
            depth: opener.vm.limits.depth,
            engines: self.request.engines.clone(),
            compression: v1::Compression::Unspecified,
            any_order: false,
            patience: Some(opener.vm.limits.lease_default),
        }
    }

    async fn read_by(&self, opener: &Opener, turn: &Turn, left: Left, samples: &Samples) -> Result<Report> {
        if let Some(error) = self.differs(opener, turn, samples).await {
            return Ok(Report::failed(error));
        }
        let Left { ranges, map } = left;
        let order = ReadOrder { compression: self.request.compression, ..self.order(opener, ranges) };
        let Turn { disk, stop } = turn.clone();
        let mut outlet = Outlet::new(self.tx.clone(), Arc::clone(&stop), opener.vm.limits.lease_default);
        let (facts, transport) = (facts_to_api(disk.facts()), disk.transport());
        let (flag, deaf, samples) = (Arc::clone(&stop), Arc::clone(&self.deaf), samples.clone());
        let sink = Box::new(move |item| {
            let event = match item {
                Item::Opened { engine, bytes_required } => {
                    let (disk, engine) = (Some(facts.clone()), engine.to_owned());
                    let (transport, map) = (transport.into(), map.clone());
                    Event::Opened(v1::DiskOpened { disk, engine, bytes_required, transport, map })
                }
                Item::Frame(frame) => {
                    samples.take(&frame);
                    Event::Frame(frame)
                }
                Item::Progress(progress) => Event::Progress(progress),
            };
            let flow = outlet.push(Ok(v1::JobEvent { item: Some(event) }));
            if flow.is_break() && !flag.load(Ordering::Relaxed) {
                deaf.store(true, Ordering::Relaxed);
            }
            flow
        });
        match Reading::start(disk, opener.platform(), order, sink, stop, opener.vm.means(self.session)).await {
            Ok(reading) => {
                let report = reading.join().await;
                if report.starved {
                    self.deaf.store(true, Ordering::Relaxed);
                }
                Ok(report)
            }
            Err(error) if *error.reason() == reason::READ_STOPPED => Ok(Report::failed(error)),
            Err(error) => Err(error),
        }
    }

    async fn tell(&self, opener: &Opener, result: v1::DiskResult, error: Option<Error>) -> Result<()> {
        self.note(|job| job.disks.push(short(&result)));
        // As patient as with a frame: without this event the job is not OK.
        let told = self.emit_within(Event::DiskRead(result), opener.vm.limits.lease_default).await;
        match error {
            Some(error) => Err(error),
            None if !told => Err(self.gone("a disk's result was not taken")),
            None => Ok(()),
        }
    }
}

/// Never, without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The first `bytes` of the ranges, and what is left of them.
fn split(ranges: &[Range<u64>], mut bytes: u64) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let (mut came, mut left) = (Vec::new(), Vec::new());
    for range in ranges {
        let here = bytes.min(range.end.saturating_sub(range.start));
        let middle = range.start + here;
        bytes -= here;
        if middle > range.start {
            came.push(range.start..middle);
        }
        if middle < range.end {
            left.push(middle..range.end);
        }
    }
    (came, left)
}

/// The last transport is the disk's; bytes and times are of all.
fn add(sum: &mut v1::DiskResult, last: v1::DiskResult, came: Vec<Range<u64>>) {
    let mut parts = std::mem::take(&mut sum.parts);
    if !came.is_empty() {
        let range = |r: Range<u64>| v1::Range { offset: r.start, length: r.end - r.start };
        let ranges = came.into_iter().map(range).collect();
        parts.push(v1::TransportPart { transport: last.transport, engine: last.engine.clone(), ranges });
    }
    let before = std::mem::replace(sum, last);
    sum.parts = parts;
    sum.bytes_read += before.bytes_read;
    sum.bytes_sent += before.bytes_sent;
    sum.zero_bytes += before.zero_bytes;
    sum.engine_refusals.splice(0..0, before.engine_refusals);
    (sum.reads, sum.commands) = (sum.reads + before.reads, sum.commands + before.commands);
    if let (Some(sum), Some(before)) = (sum.stages.as_mut(), before.stages) {
        sum.source_us += before.source_us;
        sum.agent_us += before.agent_us;
        sum.outlet_us += before.outlet_us;
        sum.paced_us += before.paced_us;
    }
    if let (Some(sum), Some(before)) = (sum.timings.as_mut(), before.timings) {
        sum.attach_us += before.attach_us;
        sum.discover_us += before.discover_us;
        sum.first_byte_us = before.first_byte_us;
        sum.transfer_us += before.transfer_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_is_left_are_the_ranges_again() {
        let ranges = [0..10, 20..30];
        assert_eq!(split(&ranges, 0), (vec![], ranges.to_vec()));
        assert_eq!(split(&ranges, 10), (vec![0..10], vec![20..30]));
        assert_eq!(split(&ranges, 13), (vec![0..10, 20..23], vec![23..30]));
        assert_eq!(split(&ranges, 20), (ranges.to_vec(), vec![]));
    }
}
