//! The appliance: what its OVA asks of whoever deploys it (`properties`, used by `hotadd-ova pack`), and what its first boot makes of
//! the answers (`hotadd-firstboot`). Knows nothing of the agent but its configuration file, which the agent itself checks.
//!
//! ```text
//! guestinfo ─▶ environment (XML, hostile) ─▶ settings (typed, or faults) ─▶ apply (files, the agent's check) ─▶ state ─▶ console
//!      └──────────── redacted: passwords are taken once ◀──────────────────────────┘
//! ```
#![forbid(unsafe_code)]

pub mod apply;
pub mod certificate;
pub mod config;
mod configure;
pub mod console;
pub mod environment;
mod files;
pub mod identity;
mod leave;
pub mod machine;
pub mod own_disks;
pub mod properties;
mod reach;
pub mod reasons;
pub mod settings;
pub mod setup;
pub mod source;
pub mod state;
