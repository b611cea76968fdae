//! The table `[reading]`: how the threads of reads run. The defaults suit a proxy that does nothing else.
use hotadd_api::v1::Compression;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Deserialize;

/// Most CPUs that Linux counts here (CPU_SETSIZE).
const MOST_CPUS: usize = 1024;
/// More threads than any link is worth.
const MOST_WORKERS: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct ReadTuning {
    /// See [`hotadd_blockio::Tuning`].
    pub sqpoll: bool,
    /// CPUs on which reads run; empty: any.
    pub cpus: Vec<usize>,
    /// Threads that compress, of each read; `None`: one for each CPU but one, at most four.
    pub workers: Option<usize>,
}

impl ReadTuning {
    /// Binds the calling thread to the CPUs that are set. One that can't be had is told, and reads go on anywhere.
    pub fn settle_down(&self) {
        if self.cpus.is_empty() {
            return;
        }
        let mut set = CpuSet::new();
        let bound = self.cpus.iter().try_for_each(|cpu| set.set(*cpu));
        if let Err(error) = bound.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)) {
            tracing::warn!(%error, cpus = ?self.cpus, "a read is not bound to its CPUs");
        }
    }

    /// Beside the thread that reads. One thread hashes more than a link carries; compression is slower.
    #[must_use]
    pub fn workers(&self, compression: Compression) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match compression {
            Compression::Unspecified => 0,
            Compression::Zstd | Compression::Lz4 => self.workers.unwrap_or(cores.saturating_sub(1).min(4)),
        }
    }
}

/// As written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReading {
    sqpoll: bool,
    cpus: Vec<usize>,
    workers: usize,
}

impl RawReading {
    pub(super) fn check(self, faults: &mut Vec<String>) -> ReadTuning {
        if let Some(cpu) = self.cpus.iter().find(|cpu| **cpu >= MOST_CPUS) {
            faults.push(format!("reading.cpus: {cpu} is not below {MOST_CPUS}"));
        }
        if self.workers > MOST_WORKERS {
            faults.push(format!("reading.workers: {} is not between 0 and {MOST_WORKERS}", self.workers));
        }
        ReadTuning { sqpoll: self.sqpoll, cpus: self.cpus, workers: (self.workers > 0).then_some(self.workers) }
    }
}
