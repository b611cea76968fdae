//! The simulator from outside, as a client of vSphere sees it: one file a subject, `common` holds what they share. No agent.
#![allow(clippy::unwrap_used, reason = "tests; their helpers too")]

mod areas;
mod common;
mod guards;
mod loop_backend;
mod operator;
mod permissions;
mod protocol;
mod qemu_backend;
mod reconfigure;
mod snapshots;
mod tickets;
