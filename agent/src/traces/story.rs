//! What is noted of one job or session while it runs: stages, vCenter's tasks, reads and waits with their times, bounded. Made into spans at
//! its end by [`super::spans`]. Times are of the monotonic clock, counted from one look at the wall clock at the beginning: a clock that is
//! set meanwhile makes no span that ends before it begins.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hotadd_api::v1;

use super::parent::Parent;
use crate::id::{JobId, SessionId};

/// Most that is noted of each kind: a session may read for days.
pub(super) const MOST: usize = 128;

/// What the root span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Job(JobId),
    Session,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) of: Of,
    pub(super) session: SessionId,
    pub(super) parent: Option<Parent>,
    pub(super) stages: Vec<Stage>,
    pub(super) tasks: Vec<Task>,
    pub(super) reads: Vec<Read>,
    pub(super) waits: Vec<Wait>,
    last_wait: Option<&'static str>,
    /// Moref and name, once the VM was found.
    pub(super) vm: (String, String),
    /// Of all reads: bytes read, and sent.
    pub(super) bytes: (u64, u64),
    /// How much was not noted, beyond [`MOST`].
    pub(super) left_out: u64,
    pub(super) began: Instant,
    /// The wall clock's time then, since the epoch.
    wall: Duration,
}

/// A phase of the work. One without an end was broken off by what came next.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) name: &'static str,
    pub(super) began: Instant,
    pub(super) ended: Option<Instant>,
    /// Code of the reason, if it ended, but not as it should.
    pub(super) code: Option<&'static str>,
}

/// A task of vCenter that was waited for.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) what: &'static str,
    pub(super) id: String,
    /// Duties of this job or session that it was for: the disks of a batch share one.
    pub(super) duties: u64,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// Code of the reason, if it did not succeed.
    pub(super) code: Option<&'static str>,
}

/// A read of a disk.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) result: v1::DiskResult,
    pub(super) code: Option<&'static str>,
}

/// Something that was waited for before the snapshot.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) at: Instant,
    pub(super) code: &'static str,
}

impl Story {
    pub(super) fn new(of: Of, session: SessionId, parent: Option<Parent>, began: Instant) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (stages, tasks, reads, waits) = Default::default();
        let vm = Default::default();
        Self {
            of,
            session,
            parent,
            stages,
            tasks,
            reads,
            waits,
            last_wait: None,
            vm,
            bytes: (0, 0),
            left_out: 0,
            began,
            wall,
        }
    }

    pub(super) fn stage(&mut self, name: &'static str, at: Instant) {
        self.left_out += push(&mut self.stages, Stage { name, began: at, ended: None, code: None });
    }

    /// What the stage that runs came to.
    pub(super) fn stage_broke(&mut self, code: &'static str) {
        if let Some(stage) = self.stages.last_mut().filter(|stage| stage.ended.is_none()) {
            stage.code.get_or_insert(code);
        }
    }

    /// The stage that was begun last has ended.
    pub(super) fn stage_over(&mut self, at: Instant) {
        if let Some(stage) = self.stages.last_mut() {
            stage.ended.get_or_insert(at);
        }
    }

    pub(super) fn task(&mut self, task: Task) {
        if let Some(same) = self.tasks.iter_mut().find(|known| known.id == task.id && known.what == task.what) {
            same.duties += task.duties;
            same.ended = task.ended;
            same.code = same.code.or(task.code);
        } else {
            self.left_out += push(&mut self.tasks, task);
        }
    }

    pub(super) fn read(&mut self, read: Read) {
        let (all, sent) = self.bytes;
        self.bytes = (all.saturating_add(read.result.bytes_read), sent.saturating_add(read.result.bytes_sent));
        self.left_out += push(&mut self.reads, read);
    }

    pub(super) fn wait(&mut self, wait: Wait) {
        // A place in a queue is told again and again.
        if self.last_wait.replace(wait.code) != Some(wait.code) {
            self.left_out += push(&mut self.waits, wait);
        }
    }

    /// Nanoseconds since the epoch.
    pub(super) fn time(&self, at: Instant) -> u64 {
        let time = self.wall + at.saturating_duration_since(self.began);
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Tells how many were left out.
fn push<T>(noted: &mut Vec<T>, more: T) -> u64 {
    let room = noted.len() < MOST;
    if room {
        noted.push(more);
    }
    u64::from(!room)
}
