//! The agent from outside, on the simulated host: real processes, real TLS, real loop devices; vCenter is simulated.
//! One file a subject; `support` holds what they share.
#![forbid(unsafe_code)]

mod job;
mod support;
