//! One disk that a job reads: what it is read from now, and what it may be read from next. Changed only by the job's own
//! task; its reads see one state each ([`Turn`]).
use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use hotadd_api::v1;

use super::tracking::Origin;
use crate::{
    areas::KnownBlock,
    attach::Attached,
    error::Error,
    id::DutyId,
    session::registry::lock,
    transport::{Disk, Remote},
};

/// How often a disk is attached again, or tried to be.
const RETURNS: u32 = 3;

pub(super) struct HeldDisk {
    now: Mutex<Turn>,
    /// Where it goes on when it can't be read attached.
    next: Option<Arc<Remote>>,
    /// Its thread reads it attached.
    reading: AtomicBool,
    /// It was left, and that thread has not ended.
    leaving: AtomicBool,
    /// The attachment that was left and is to be proven gone; `true` as long as its server waits for that.
    left: Mutex<Option<(DutyId, bool)>>,
    /// Why it was not attached at first.
    pub(super) remarks: Vec<Error>,
    /// What its map is of.
    pub(super) origin: Arc<Origin>,
    returns: AtomicU32,
}

/// What one read reads, and the flag that ends it between two blocks.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) disk: Disk,
    pub(super) stop: Arc<AtomicBool>,
}

impl HeldDisk {
    /// `returns`: a disk that was to be attached goes back to that when it can.
    pub(super) fn new(
        disk: Disk,
        next: Option<Arc<Remote>>,
        remarks: Vec<Error>,
        origin: Arc<Origin>,
        returns: bool,
    ) -> Self {
        Self {
            now: Mutex::new(Turn { disk, stop: Arc::default() }),
            next,
            reading: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            left: Mutex::default(),
            remarks,
            origin,
            returns: AtomicU32::new(if returns { RETURNS } else { 0 }),
        }
    }

    pub(super) fn now(&self) -> Disk {
        lock(&self.now).disk.clone()
    }

    pub(super) fn turn(&self) -> Turn {
        lock(&self.now).clone()
    }

    pub(super) fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// The attachment that has to be proven gone before its server is read; told once.
    pub(super) fn take_owed(&self) -> Option<DutyId> {
        let mut left = lock(&self.left);
        let (duty, due) = left.as_mut()?;
        std::mem::take(due).then_some(*duty)
    }

    /// The attachment that has to be proven gone before there is another.
    pub(super) fn left(&self) -> Option<DutyId> {
        lock(&self.left).map(|(duty, _)| duty)
    }

    pub(super) fn set_reading(&self, reading: bool) {
        self.reading.store(reading, Ordering::Relaxed);
        self.leaving.fetch_and(reading, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Ends the read that runs.
    pub(super) fn stop(&self) {
        lock(&self.now).stop.store(true, Ordering::Relaxed);
    }

    /// From now on by its server, if it has one; what was attached is given back when its read has ended.
    pub(super) fn leave(&self) {
        let Some(next) = &self.next else { return };
        let mut now = lock(&self.now);
        if let Disk::Attached(attached) = &now.disk {
            *lock(&self.left) = Some((attached.duty(), true));
            self.leaving.store(self.reading.load(Ordering::Relaxed), Ordering::Relaxed);
            now.go_on(Disk::Remote(Arc::clone(next)));
        }
    }

    /// From now on attached again; the read of its server ends between two blocks.
    pub(super) fn come_back(&self, attached: Arc<Attached>) {
        lock(&self.now).go_on(Disk::Attached(attached));
    }

    /// Whether it is read from elsewhere since.
    pub(super) fn has_left(&self, turn: &Turn) -> bool {
        !Arc::ptr_eq(&lock(&self.now).stop, &turn.stop)
    }

    /// One more try to attach it again; `false`: there were enough.
    pub(super) fn may_return(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.returns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Turn {
    fn go_on(&mut self, disk: Disk) {
        self.stop.store(true, Ordering::Relaxed);
        *self = Self { disk, stop: Arc::default() };
    }
}

/// A block that was sent.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) range: Range<u64>,
    pub(super) blake3: Bytes,
}

/// The first and the last block with content that were sent of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Arc<Mutex<Option<(Sample, Sample)>>>);

impl Samples {
    /// Those of an earlier job, ascending.
    pub(super) fn of_before(blocks: &[KnownBlock]) -> Self {
        let sample =
            |block: &KnownBlock| Sample { range: block.range.clone(), blake3: Bytes::copy_from_slice(&block.blake3) };
        Self(Arc::new(Mutex::new(blocks.first().map(sample).zip(blocks.last().map(sample)))))
    }

    pub(super) fn take(&self, frame: &v1::Frame) {
        if frame.zero {
            return;
        }
        let range = frame.offset..frame.offset + u64::from(frame.length);
        let last = Sample { range, blake3: frame.blake3.clone() };
        let mut kept = lock(&self.0);
        let first = kept.take().map_or_else(|| last.clone(), |(first, _)| first);
        *kept = Some((first, last));
    }

    /// In order of offset.
    pub(super) fn of(&self) -> Vec<Sample> {
        match lock(&self.0).clone() {
            None => Vec::new(),
            Some((first, last)) if first.range == last.range => vec![first],
            Some((first, last)) => vec![first, last],
        }
    }
}
