//! Sessions and jobs: who may hold which disks, for how long, and the order of their beginning and end.
//!
//! ```text
//! session:  opening ──▶ open ──CloseDisks │ lease over │ drain──▶ closing ──▶ closed (proof)
//!              └── failed: everything is given back ──▶ closed         └────▶ owed ──settler──▶ closed
//! job:      preflight ▶ snapshot ▶ attach ▶ read ▶ detach ▶ remove snapshot ▶ done (OK │ failed)
//!              └────────────┴─────────┴───────┴── any failure, or the stream broke ─▶ detach
//! ```
//! [`opener`] holds the steps that both share, [`snapshot`] the ladder of consistency, [`manager`] the registry with
//! leases, [`job`] one BackupVm. A snapshot is never removed before its disks are proven detached.
pub mod job;
pub mod manager;
pub mod opener;
pub mod snapshot;

pub use self::{
    manager::{Manager, OpenRequest},
    opener::{Opener, Source},
};
