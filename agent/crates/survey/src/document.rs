//! The document of a survey: a contract (docs/survey.md), and what the simulator replays. Fields are added within a schema, never changed.
//! No field holds a name, address, path or UUID of a site.
use serde::{Deserialize, Serialize};

/// Version of the JSON form.
pub const SCHEMA: &str = "hotadd-survey/1";

/// What one survey found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    pub schema: String,
    /// Version of the program.
    pub program: String,
    /// Whether anything was done to the VM; else all of it was read.
    pub ran: bool,
    pub vcenter: Vcenter,
    pub host: Option<Host>,
    pub datastores: Vec<Datastore>,
    pub vm: Option<Vm>,
    pub snapshot: Option<Snapshot>,
    pub faults: Vec<Fault>,
    pub steps: Vec<Step>,
    pub events: Vec<Event>,
    pub stun: Option<Stun>,
    /// What is left of the survey, by kind; empty when it is proven that nothing is.
    pub left: Vec<String>,
    pub questions: Vec<Question>,
    pub not_read: Vec<NotRead>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vcenter {
    pub product: String,
    pub version: String,
    pub build: String,
    pub api_version: String,
    pub negotiated: String,
    pub api_type: String,
}

/// The host of the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub version: Option<String>,
    pub build: Option<String>,
    pub in_maintenance: Option<bool>,
}

/// A datastore of the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datastore {
    pub id: String,
    pub kind: String,
    pub vmfs_version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    pub hardware_version: Option<u32>,
    pub power: Option<String>,
    pub tools: Option<String>,
    pub change_tracking: Option<bool>,
    pub encrypted: bool,
    pub consolidation_needed: Option<bool>,
    pub disabled_methods: Vec<String>,
    /// How many, and how deep.
    pub snapshots: usize,
    pub snapshot_depth: usize,
    /// Where new deltas go; a working folder of its own is another one than the home folder.
    pub home: Option<String>,
    pub snapshot_directory: Option<String>,
    pub devices: Vec<Device>,
    pub controllers: Vec<Controller>,
    pub disks: Vec<Disk>,
    pub files: Vec<File>,
}

/// Neither a disk nor a SCSI controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub key: i32,
    #[serde(rename = "type")]
    pub kind: String,
}

/// A SCSI controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    pub key: i32,
    #[serde(rename = "type")]
    pub kind: String,
    pub bus: i32,
    pub pci_slot: Option<u32>,
    pub own_unit: u32,
    pub sharing: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    pub key: i32,
    pub controller_key: Option<i32>,
    pub unit: Option<i32>,
    pub backing: String,
    pub mode: Option<String>,
    pub sharing: Option<String>,
    pub thin: Option<bool>,
    /// Their forms: each digit or letter that could tell the disk is an `x`.
    pub uuid: Option<String>,
    pub change_id: Option<String>,
    /// Files, top first.
    pub chain: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// The snapshot that the survey took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Disks as it froze them.
    pub frozen: Vec<Disk>,
    /// Disks of the VM meanwhile.
    pub live: Vec<Disk>,
    /// Files that were not there before.
    pub new_files: Vec<File>,
    /// Of those, what vCenter still listed after the removal.
    pub files_after: Vec<File>,
    pub consolidation_needed_after: Option<bool>,
}

/// What was answered to a question that can't be answered well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Stable name of the question (docs/survey.md).
    pub question: String,
    pub call: String,
    /// Type of the fault; none: it was answered.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// vCenter's words, names replaced.
    pub message: String,
    pub causes: Vec<String>,
}

/// A step of the run. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub step: String,
    /// From the request to the end of its task, as seen from here.
    pub ms: u64,
    /// By vCenter's clock: waiting, and working.
    pub queue_ms: Option<u64>,
    pub run_ms: Option<u64>,
    pub fault: Option<Fault>,
}

/// Something that vCenter recorded of the VM meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub after_ms: u64,
}

/// How long the VM stood still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stun {
    /// Whether the VM ran at all.
    pub powered_on: bool,
    /// Events whose name speaks of a stun.
    pub events: Vec<Event>,
    /// No stun of the snapshot's creation was longer than its task.
    pub at_most_ms: Option<u64>,
}

/// An open question of the project, and what this survey tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub question: String,
    /// `facts`: the named fields bear on it. `not_asked`.
    pub state: String,
    pub why: String,
}

/// What vCenter did not give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotRead {
    pub what: String,
    pub why: String,
}
