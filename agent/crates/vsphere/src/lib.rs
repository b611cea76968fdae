//! hotadd-vsphere: a hand-written vim25 SOAP client for the calls that a HotAdd proxy makes.
//!
//! Lives here: VMware's wire (SOAP, property collector, tasks, device specs, faults) and its meaning as plain types.
//! May not live here: anything about agents, sessions of ours, journals, policies or block devices; `unsafe`.
//!
//! ```text
//! Client ─ inventory, vm, layout, snapshot, hardware, reconfigure, guard, authorization, task, datastore, host, event, planning, survey, tracking, lease, ticket   one file per subject
//!    └── session   one login, re-login when it ended, who may be retried
//!          └── soap, xml   envelope, bounded tree, writer
//!                └── http, tls   deadline, size limit, CA or pinned certificate
//! ```
//!
//! Rules that hold everywhere:
//! * every call has a deadline; an answer has a size, depth and node limit; no entity is expanded;
//! * a read may be repeated, a mutation never: a mutation whose answer was lost is [`ErrorKind::UnknownOutcome`];
//! * a device change attaches or detaches a disk; nothing in this crate can ask the server to touch the disk's files.

#![forbid(unsafe_code)]

mod authorization;
mod client;
mod config;
mod content;
mod datastore;
mod device;
mod error;
mod event;
mod fault;
mod guard;
mod hardware;
mod host;
mod http;
mod inventory;
mod layout;
mod lease;
mod login;
mod moref;
mod planning;
mod property;
mod reconfigure;
mod session;
mod snapshot;
mod soap;
mod survey;
mod task;
mod ticket;
mod tls;
mod tracking;
mod version;
mod vm;
mod wait;
mod xml;

pub use client::Client;
pub use config::{Call, Config, Observer, Trust};
pub use content::About;
pub use datastore::{DatastoreInfo, DatastoreKind, HostMount, NasVolume};
pub use device::{
    Backing, BackingKind, BackingPath, Device, Disk, KeyId, OtherController, OtherControllerKind, ScsiController,
    ScsiKind,
};
pub use error::{Error, ErrorKind};
pub use event::EventInfo;
pub use fault::{Fault, FaultKind};
pub use guard::Fenced;
pub use hardware::SnapshotHardware;
pub use host::{Entering, HostInfo, HostState};
pub use layout::{LayoutFile, VmLayout};
pub use lease::{DiskAddress, ExportLease, LeaseFile, LeaseInfo, LeaseState, LeaseStream};
pub use login::{LoginRefused, PasswordSource};
pub use moref::{MoRef, ParseMoRefError};
pub use planning::{Automation, ComputeInfo, Override, PlannedHost, PlannedVm, Planning, PodInfo};
pub use property::MissingProperty;
pub use reconfigure::{AddController, AddDisk, DeviceChanges, Reconfigure, RemoveDisk};
pub use snapshot::{Quiesce, SnapshotNode, SnapshotSpec, SnapshotTree};
pub use survey::{Surveyed, SurveyedVm, VmProduct};
pub use task::{TaskInfo, TaskResult, TaskState};
pub use ticket::Cloned;
pub use tracking::{DiskChangeExtent, DiskChangeInfo, TrackingInfo};
pub use version::ApiVersion;
pub use vm::{GuestInfo, PowerState, VmDisks, VmInfo};

#[cfg(test)]
mod damage_tests;
