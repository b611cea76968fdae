//! hotadd-agent: attaches snapshot disks of other VMs to the VM it runs in, proves which devices they are, reads them,
//! and always detaches.
//!
//! In reading order: [`config`] and [`app`] (what starts in which order) → [`access`] (who gets in, and for what) → [`api`] (gRPC) → [`session`] (who holds
//! which disks) → [`plan`] (what may be attached) → [`attach`] (the invariant) → [`journal`] (what is owed) →
//! [`hypervisor`] (vSphere as a port) and [`discover`] (the host as a port) → [`transport`] (bytes out).
//! Aside: [`metrics`] and [`status`] (what is told of it), [`mod@bench`] (how fast this site reads one device), [`quarantine`] and [`selftest`] (whether this system leaves disks alone), `role` (what the account may do), [`traces`] (a trace of each job, for a collector), `support` (what support needs to know, without secrets). Leaves: [`id`], [`reason`], [`error`], [`telemetry`], [`systemd`], [`watchdog`].
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod app;
pub mod areas;
pub mod attach;
pub mod audit;
pub mod bench;
pub mod cli;
pub mod config;
pub mod discover;
pub mod error;
pub mod events;
pub mod hypervisor;
pub mod id;
pub mod journal;
pub mod metrics;
pub mod plan;
pub mod quarantine;
pub mod reason;
mod role;
pub mod selftest;
pub mod session;
mod setup;
pub mod status;
mod support;
pub mod systemd;
pub mod telemetry;
pub mod traces;
pub mod transport;
pub mod watchdog;
