//! Sessions and jobs: who may hold which disks, for how long, and the order of their beginning and end.
//!
//! ```text
//! session:  opening ──▶ open ──CloseDisks │ lease over │ drain──▶ closing ──▶ closed (proof)
//!              └── failed: everything is given back ──▶ closed         └────▶ owed ──settler──▶ closed
//! job:      preflight ▶ snapshot ▶ attach ▶ read ▶ detach ▶ remove snapshot ▶ done (OK │ failed)
//!              └────────────┴─────────┴───────┴── any failure, or the stream broke ─▶ detach
//!                                                   └─ with a resume window ─▶ snapshot kept ─▶ adopted │ time over ▶ removed
//! ```
//! [`opener`] holds the steps that both share, [`snapshot`] the ladder of consistency, [`registry`] what lives and what
//! ended, [`opening`] and [`closing`] the two ends of a session, [`live`] one session in between, [`jobs`] the registry of jobs,
//! [`job`] one BackupVm, [`exporting`] its export lease, [`watch`] what happens around disks that are held, [`recorded`] what vCenter's events tell of it, [`work`] what a person is shown of all that runs. A
//! snapshot is never removed before its disks are proven detached.
mod closing;
mod exporting;
mod job;
pub mod jobs;
pub mod live;
pub mod opener;
mod opening;
mod planned;
pub mod recorded;
pub mod registry;
pub mod snapshot;
pub mod watch;
mod work;

pub use self::{
    opener::{Opener, Source},
    opening::OpenRequest,
    registry::Manager,
    work::{Work, WorkDisk},
};
