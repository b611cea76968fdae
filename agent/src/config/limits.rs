//! Counts and sizes: how much at once, how long a lease, how large a delta. Deadlines are in [`super::deadlines`], what one client may in
//! [`super::shares`].
use std::time::Duration;

use serde::Deserialize;

use super::shares::{ClientLimits, RawShares};

/// Counts and sizes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Disks in one reconfigure task. 15: what one LSI controller holds, and small enough to bisect quickly.
    pub attach_batch: usize,
    /// Whether a PVSCSI controller is added to the proxy when every unit is taken.
    pub add_controllers: bool,
    /// Disks read at the same time by one job.
    pub parallel_reads: usize,
    /// Disks read at the same time by all jobs and sessions; 0: any number.
    pub reads: usize,
    /// Snapshots of ours on one datastore at the same time; 0: any number.
    pub snapshots_per_datastore: usize,
    /// Reads in flight per disk.
    pub depth: u32,
    /// Bytes that the buffers of all reads together may take.
    pub memory_bytes: u64,
    /// Shortest and longest lease that a controller may ask for, and what it gets without asking.
    pub lease_min: Duration,
    pub lease_max: Duration,
    pub lease_default: Duration,
    /// Longest window for which a snapshot is kept for a job that resumes.
    pub resume_max: Duration,
    /// A snapshot of ours that is older ends its job or session; `None`: any age.
    pub snapshot_max_age: Option<Duration>,
    /// A delta of more bytes ends the job or session that caused it; `None`: any size.
    pub delta_max_bytes: Option<u64>,
    /// A delta's datastore with less free ends the job or session; `None`: not looked at.
    pub datastore_min_free_bytes: Option<u64>,
    /// Of each client of the gRPC port.
    pub client: ClientLimits,
}

/// As written in `[limits]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    attach_batch: usize,
    add_controllers: bool,
    parallel_reads: usize,
    reads: usize,
    snapshots_per_datastore: usize,
    depth: u32,
    memory_mib: u64,
    lease_min_seconds: f64,
    lease_max_seconds: f64,
    lease_default_seconds: f64,
    resume_max_seconds: f64,
    snapshot_max_age_seconds: f64,
    delta_max_bytes: u64,
    datastore_min_free_bytes: u64,
    client: RawShares,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            attach_batch: 15,
            add_controllers: true,
            parallel_reads: 4,
            reads: 16,
            snapshots_per_datastore: 4,
            depth: 16,
            memory_mib: 1024,
            lease_min_seconds: 10.0,
            lease_max_seconds: 3600.0,
            lease_default_seconds: 120.0,
            resume_max_seconds: 3600.0,
            snapshot_max_age_seconds: 0.0,
            delta_max_bytes: 100 << 30,
            datastore_min_free_bytes: 4 << 30,
            client: RawShares::default(),
        }
    }
}

impl RawLimits {
    /// Checks all; faults are added to `faults`, one line each.
    pub(super) fn check(&self, faults: &mut Vec<String>) -> Limits {
        let raw = self;
        let mut range = |key: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                faults.push(format!("limits.{key}: {value} is not between {low} and {high}"));
            }
        };
        range("attach_batch", raw.attach_batch as u64, 1, 60);
        range("parallel_reads", raw.parallel_reads as u64, 1, 64);
        range("reads", raw.reads as u64, 0, 4096);
        range("snapshots_per_datastore", raw.snapshots_per_datastore as u64, 0, 4096);
        range("depth", raw.depth.into(), 1, 256);
        // At least one read of the largest block: two buffers of 4 MiB.
        range("memory_mib", raw.memory_mib, 8, 1 << 20);
        let mut seconds = |key: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                return Duration::from_secs_f64(value);
            }
            faults.push(format!("limits.{key}: {value} is not between {low} and {high}"));
            Duration::ZERO
        };
        let lease_min = seconds("lease_min_seconds", raw.lease_min_seconds, 0.1, raw.lease_default_seconds);
        let (low, high) = (raw.lease_min_seconds, raw.lease_max_seconds);
        let lease_default = seconds("lease_default_seconds", raw.lease_default_seconds, low, high);
        let lease_max = seconds("lease_max_seconds", raw.lease_max_seconds, raw.lease_default_seconds, 86_400.0);
        let resume_max = seconds("resume_max_seconds", raw.resume_max_seconds, 0.0, 7.0 * 86_400.0);
        let max_age = seconds("snapshot_max_age_seconds", raw.snapshot_max_age_seconds, 0.0, 365.0 * 86_400.0);
        let client = raw.client.check(faults);
        let above_zero = |value: u64| (value > 0).then_some(value);
        Limits {
            attach_batch: raw.attach_batch,
            add_controllers: raw.add_controllers,
            parallel_reads: raw.parallel_reads,
            reads: raw.reads,
            snapshots_per_datastore: raw.snapshots_per_datastore,
            depth: raw.depth,
            memory_bytes: raw.memory_mib << 20,
            lease_min,
            lease_max,
            lease_default,
            resume_max,
            snapshot_max_age: (!max_age.is_zero()).then_some(max_age),
            delta_max_bytes: above_zero(raw.delta_max_bytes),
            datastore_min_free_bytes: above_zero(raw.datastore_min_free_bytes),
            client,
        }
    }
}
