//! The built hotaddctl as its user sees it: one file a subject, `common` holds what they share: an agent that follows a
//! script. No real agent.
#![allow(clippy::unwrap_used, reason = "tests; their helpers too")]

mod backup;
mod common;
mod incremental;
mod interrupted;
mod watch;
mod ways_in;
