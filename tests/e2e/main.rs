//! The agent from outside, on the simulated host: real processes, real TLS, real loop devices; vCenter is simulated.
//! One file a subject; `support` and `stream` hold what they share.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests; their helpers too")]

mod areas;
mod around;
mod audit;
mod backpressure;
mod bench;
mod bundle;
mod canary;
mod capacity;
mod certificates;
mod chains;
mod cli;
mod consistency;
mod controllers;
mod crash;
mod doctor;
mod events;
mod examples;
mod export;
mod faults;
mod frames;
mod guards;
mod hardware;
mod huge;
mod identity;
mod ids;
mod job;
mod journal;
mod late;
mod leases;
mod limits;
mod login;
mod lost;
mod many;
mod metrics;
mod names;
mod nbd;
mod pace;
mod plan;
mod privileges;
mod relay;
mod resume;
mod role;
mod roles;
mod security;
mod session;
mod snapshots;
mod stream;
mod support;
mod survey;
mod tickets;
mod tls;
mod vddk;
mod watchdog;
