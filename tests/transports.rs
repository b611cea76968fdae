//! The transports beside HotAdd, each alone against what serves it: no session and no agent runs here.
#![allow(clippy::unwrap_used, reason = "tests; their helpers too")]

mod lease;
mod vddk;
