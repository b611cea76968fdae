//! Whether this system keeps its hands off attached disks: the udev rules are in force ([`rules`]), every foreign disk shows it
//! ([`disks`]), and storage tools have been told ([`tools`]). Only looks; nothing is opened, run or changed here. The judges are
//! pure functions over a folder that stands for `/`, or over facts; [`look`] brings the facts of this host.
//!
//! [`crate::selftest`] proves the same with a disk that would be tempting.
pub mod disks;
pub mod rules;
pub mod tools;

use std::{
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::reason::{self, ReasonCode};

/// At a start the kernel may show disks whose events udev has not handled yet: they get this long. A system without fault never waits.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two looks while it has not settled.
const POLL: Duration = Duration::from_millis(100);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `HA-QUA-nnn`
    pub code: &'static str,
    pub what: String,
    pub next_step: &'static str,
}

impl Finding {
    pub(crate) fn new(reason: &'static ReasonCode, what: impl Into<String>) -> Self {
        Self { code: reason.code, what: what.into(), next_step: reason.next_step }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.what)
    }
}

/// Everything that is wrong on this host. Blocks for some seconds at most, and only if something of a disk is.
#[must_use]
pub fn look() -> Vec<Finding> {
    let root = Path::new("/");
    let end = Instant::now() + SETTLE;
    // Whoever named no own disks has to do so; waiting brings nothing.
    let named = rules::own_disks_named(root);
    let disks = loop {
        let found = match disks::scan(root) {
            Ok(blocks) => disks::judge(&blocks, named),
            Err(error) => vec![Finding::new(&reason::QUA_DISK, format!("the disks can't be listed: {error}"))],
        };
        if found.is_empty() || !named || Instant::now() >= end {
            break found;
        }
        std::thread::sleep(POLL);
    };
    rules::judge(root).into_iter().chain(disks).chain(tools::judge(root)).collect()
}
