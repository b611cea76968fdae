//! What `/status.json` looks like. Data only; docs/status.md says what it means.
use serde::Serialize;

use super::{slots::Controller, verdict::Finding};

/// What is so now. Fields are only added.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    pub agent: Agent,
    pub state: State,
    /// Whether somebody has to do something, the worst first; never empty.
    pub findings: Vec<Finding>,
    pub work: List<Row>,
    pub reads: Reads,
    pub duties: List<Duty>,
    /// Requests without an answer that are still looked for.
    pub late: usize,
    pub slots: Slots,
    pub events: List<Event>,
}

/// Who tells it, and when.
#[derive(Debug, Serialize)]
pub struct Agent {
    pub version: &'static str,
    /// Name of the machine.
    pub host: String,
    /// Name of the proxy in vCenter.
    pub proxy: String,
    pub moref: String,
    pub vcenter: String,
    /// RFC 3339, of the agent's clock.
    pub time: String,
    /// Milliseconds since the agent began, by a clock that only goes on.
    pub up_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Gives back what an earlier run left; takes no work.
    Starting,
    Serving,
    Draining,
    Refused,
}

/// A bounded list.
#[derive(Debug, Serialize)]
pub struct List<T> {
    pub items: Vec<T>,
    pub left_out: u64,
}

/// A session or job.
#[derive(Debug, Serialize)]
pub struct Row {
    pub kind: &'static str,
    pub id: String,
    pub session: String,
    pub vm: String,
    pub client: String,
    pub stage: String,
    /// Since it began.
    pub seconds: u64,
    pub lease_seconds_left: Option<u32>,
    pub bytes: u64,
    pub required: u64,
    pub disks: List<Disk>,
}

#[derive(Debug, Serialize)]
pub struct Disk {
    pub label: String,
    pub backing: String,
    pub transport: &'static str,
    pub capacity_bytes: u64,
    /// Handed over, zeros included.
    pub bytes: u64,
    /// Of what was asked for until now; 0: nothing was.
    pub required: u64,
    /// Reads that run.
    pub reading: u32,
}

/// Of all reads since the agent began.
#[derive(Debug, Serialize)]
pub struct Reads {
    pub running: u32,
    /// Handed over, by transport.
    pub bytes: [Bytes; 3],
    /// Where the time went; of reads that run, until about a second ago.
    pub stages: StageTimes,
}

#[derive(Debug, Serialize)]
pub struct Bytes {
    pub transport: &'static str,
    pub bytes: u64,
}

/// As `Stages` of the API: microseconds.
#[derive(Debug, Serialize)]
pub struct StageTimes {
    pub source_us: u64,
    pub agent_us: u64,
    pub outlet_us: u64,
    pub paced_us: u64,
}

/// What is owed to vSphere.
#[derive(Debug, Serialize)]
pub struct Duty {
    pub id: String,
    pub kind: &'static str,
    pub vm: String,
    /// `intended`, `held`, `kept`, `settling`.
    pub state: &'static str,
    pub seconds: u64,
    /// Of one that is being settled: since nothing uses it any more.
    pub settling_seconds: Option<u64>,
    pub tries: u32,
    /// Until it is looked at again; `None`: now, or nothing has to be done.
    pub next_seconds: Option<u64>,
    pub doubtful: bool,
    /// What kept it from being settled; empty: nothing did.
    pub why: String,
    pub what: String,
}

#[derive(Debug, Serialize)]
pub struct Slots {
    /// Since vCenter was last asked by somebody who needed it.
    pub seen_seconds: u64,
    /// Kept by reservations: counted, no unit is named.
    pub reserved: usize,
    pub controllers: Vec<Controller>,
}

#[derive(Debug, Serialize)]
pub struct Event {
    pub number: u64,
    pub time: String,
    pub kind: String,
    pub vm: String,
    pub id: String,
    pub code: String,
    pub message: String,
}
