//! The shipped daemon in a guest with the real kernel driver, udev and systemd; vCenter is simulated, disks are
//! hot-added by QEMU. One guest a test; `support` holds what they share. Needs what ci/part-lab sets up.
#![forbid(unsafe_code)]

mod decoys;
mod engines;
mod job;
mod killed;
mod many;
mod mixed;
mod quarantine;
mod reading;
mod support;
mod units;
