//! What is read of each disk, for whoever looks on: bytes as they are handed over, times about once a second. In memory only and bounded;
//! nothing is decided by it.
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hotadd_api::v1::{Stages, Transport};

use crate::{hypervisor::TargetDisk, id::SessionId};

/// Disks that are remembered; one that is being read is never forgotten.
const KEPT: usize = 1024;

/// Ways by which bytes come, in the order of [`Tally::bytes`].
pub const WAYS: [Transport; 3] = [Transport::Hotadd, Transport::Nbd, Transport::Export];

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    disks: Mutex<VecDeque<Line>>,
    bytes: [AtomicU64; 3],
    stages: Mutex<Stages>,
}

#[derive(Debug)]
struct Line {
    session: SessionId,
    device_key: i32,
    told: Arc<Mutex<DiskTally>>,
}

/// One disk of one session or job.
#[derive(Debug, Clone)]
pub struct DiskTally {
    pub session: SessionId,
    /// VirtualDevice.key on the target.
    pub device_key: i32,
    pub label: String,
    pub backing: String,
    pub capacity_bytes: u64,
    /// Of the read that began last.
    pub transport: Transport,
    /// Handed over, zeros included, by all reads of it.
    pub bytes: u64,
    /// Handed over by reads that ended, and asked for by those that run.
    pub required: u64,
    /// Reads that run.
    pub reading: u32,
    pub stages: Stages,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// A read begins; it has ended when the answer is dropped.
    pub(super) fn begin(&self, session: SessionId, disk: &TargetDisk, transport: Transport) -> Arc<Running> {
        let mut disks = lock(&self.0.disks);
        let known = disks.iter().find(|line| line.session == session && line.device_key == disk.device_key);
        let told = match known {
            Some(line) => Arc::clone(&line.told),
            None => {
                if disks.len() >= KEPT
                    && let Some(idle) = disks.iter().position(|line| lock(&line.told).reading == 0)
                {
                    disks.remove(idle);
                }
                let told = Arc::new(Mutex::new(DiskTally::new(session, disk, transport)));
                disks.push_back(Line { session, device_key: disk.device_key, told: Arc::clone(&told) });
                told
            }
        };
        let mut now = lock(&told);
        (now.reading, now.transport) = (now.reading + 1, transport);
        drop(now);
        Arc::new(Running { tally: self.clone(), disk: told, way: way(transport), own: Mutex::default() })
    }

    /// Disks of this session that were or are read.
    #[must_use]
    pub fn of(&self, session: SessionId) -> Vec<DiskTally> {
        let disks = lock(&self.0.disks);
        disks.iter().filter(|line| line.session == session).map(|line| lock(&line.told).clone()).collect()
    }

    /// Handed over since the agent started, by [`WAYS`].
    #[must_use]
    pub fn bytes(&self) -> [u64; 3] {
        self.0.bytes.each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Where the time of all reads went since the agent started; of one that runs, until about a second ago.
    #[must_use]
    pub fn stages(&self) -> Stages {
        *lock(&self.0.stages)
    }

    /// Reads that run.
    #[must_use]
    pub fn running(&self) -> u32 {
        lock(&self.0.disks).iter().map(|line| lock(&line.told).reading).sum()
    }
}

impl DiskTally {
    fn new(session: SessionId, disk: &TargetDisk, transport: Transport) -> Self {
        Self {
            session,
            device_key: disk.device_key,
            label: disk.label.clone(),
            backing: disk.backing.to_string(),
            capacity_bytes: disk.capacity_bytes,
            transport,
            bytes: 0,
            required: 0,
            reading: 0,
            stages: Stages::default(),
        }
    }
}

fn way(transport: Transport) -> Option<usize> {
    WAYS.iter().position(|known| *known == transport)
}

/// A read that runs.
#[derive(Debug)]
pub(super) struct Running {
    tally: Tally,
    disk: Arc<Mutex<DiskTally>>,
    way: Option<usize>,
    own: Mutex<Own>,
}

/// What this read has told so far.
#[derive(Debug, Default)]
struct Own {
    bytes: u64,
    required: u64,
    stages: Stages,
}

impl Running {
    pub(super) fn opened(&self, required: u64) {
        lock(&self.own).required += required;
        lock(&self.disk).required += required;
    }

    pub(super) fn handed_over(&self, bytes: u32) {
        let bytes = u64::from(bytes);
        lock(&self.own).bytes += bytes;
        lock(&self.disk).bytes += bytes;
        if let Some(way) = self.way {
            self.tally.0.bytes[way].fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Where the time went since this read began.
    pub(super) fn took(&self, now: &Stages) {
        let more = less(now, &std::mem::replace(&mut lock(&self.own).stages, *now));
        add(&mut lock(&self.disk).stages, &more);
        add(&mut lock(&self.tally.0.stages), &more);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let own = lock(&self.own);
        let mut disk = lock(&self.disk);
        disk.reading = disk.reading.saturating_sub(1);
        // What it did not deliver comes by another read, or never.
        disk.required = disk.required.saturating_sub(own.required.saturating_sub(own.bytes));
    }
}

fn less(now: &Stages, before: &Stages) -> Stages {
    Stages {
        source_us: now.source_us.saturating_sub(before.source_us),
        agent_us: now.agent_us.saturating_sub(before.agent_us),
        outlet_us: now.outlet_us.saturating_sub(before.outlet_us),
        paced_us: now.paced_us.saturating_sub(before.paced_us),
    }
}

fn add(sum: &mut Stages, more: &Stages) {
    sum.source_us += more.source_us;
    sum.agent_us += more.agent_us;
    sum.outlet_us += more.outlet_us;
    sum.paced_us += more.paced_us;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hypervisor::BackingKind, id::BackingPath};

    fn disk(device_key: i32) -> TargetDisk {
        TargetDisk {
            device_key,
            label: format!("Hard disk {device_key}"),
            place: "scsi0:0".into(),
            backing: BackingPath::new("[ds1] web01/web01.vmdk"),
            backing_kind: BackingKind::FlatV2,
            datastore: None,
            datastore_name: "ds1".into(),
            capacity_bytes: 1000,
            uuid: None,
            change_id: String::new(),
            independent: false,
            shared: false,
        }
    }

    #[test]
    fn a_disk_that_goes_on_by_another_way_needs_no_more_than_its_size() {
        let (tally, session) = (Tally::default(), SessionId::new());
        let first = tally.begin(session, &disk(2000), Transport::Hotadd);
        first.opened(1000);
        first.handed_over(400);
        first.took(&Stages { source_us: 7, ..Stages::default() });
        first.took(&Stages { source_us: 9, outlet_us: 1, ..Stages::default() });
        assert_eq!(tally.running(), 1);
        drop(first);
        let second = tally.begin(session, &disk(2000), Transport::Nbd);
        second.opened(600);
        second.handed_over(100);
        let told = tally.of(session);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].bytes, told[0].required, told[0].reading), (500, 1000, 1));
        assert_eq!(told[0].transport, Transport::Nbd);
        assert_eq!(tally.bytes(), [400, 100, 0]);
        assert_eq!((tally.stages().source_us, tally.stages().outlet_us), (9, 1));
        assert!(tally.of(SessionId::new()).is_empty());
    }

    #[test]
    fn what_is_not_read_any_more_makes_room() {
        let (tally, session) = (Tally::default(), SessionId::new());
        let running = tally.begin(session, &disk(1), Transport::Hotadd);
        for key in 2..=i32::try_from(KEPT).unwrap() + 5 {
            drop(tally.begin(session, &disk(key), Transport::Hotadd));
        }
        let told = tally.of(session);
        assert_eq!(told.len(), KEPT);
        assert!(told.iter().any(|disk| disk.device_key == 1), "one that runs was forgotten");
        assert!(!told.iter().any(|disk| disk.device_key == 2));
        drop(running);
    }
}
