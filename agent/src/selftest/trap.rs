//! The trap: a disk that every storage tool would like, shown to this system as a hot-added one, and watched.
//!
//! ```text
//! disk shown, udev held ─▶ watch its nodes ─▶ udev on: add ─▶ change ─▶ tools by hand ─▶ openers, holders, links, udev's word
//! ```
//! udev is held only until the watch stands, so that no opener of the first event is missed. An operator's disk is neither deleted nor written:
//! its events are sent again.
use std::{io, path::Path};

use serde::Serialize;

use super::{
    command::{self, Held},
    debug::{Debug, Disk},
    judge,
    provoke::{self, Provoked},
    watch::{Opener, Watcher},
};
use crate::quarantine::{Finding, disks};

/// What was seen of the trap.
#[derive(Debug, Serialize)]
pub(super) struct Trapped {
    pub(super) disk: String,
    /// Tools that were run by hand.
    pub(super) ran: Vec<String>,
    /// Tools that are not installed here.
    pub(super) missing: Vec<String>,
    /// Everybody who opened it, those who may included.
    pub(super) openers: Vec<Opener>,
    #[serde(skip)]
    pub(super) findings: Vec<Finding>,
}

/// Sets the kernel's own trap disk up and takes it away again.
pub(super) fn scsi_debug() -> io::Result<Trapped> {
    let mut debug = Debug::fill()?;
    let held = Held::new()?;
    let disk = debug.show()?;
    let watcher = Watcher::start(&disk.names()?)?;
    drop(held);
    observe(&disk, watcher)
}

/// Takes a disk that the operator attached. It has to be in quarantine already, so that nothing of the proxy's own is meddled with.
pub(super) fn attached(path: &Path) -> io::Result<Trapped> {
    let wrong = |what: &str| io::Error::other(format!("{}: {what}", path.display()));
    let node = std::fs::canonicalize(path)?;
    let name = node.file_name().and_then(|name| name.to_str()).filter(|_| node.parent() == Some(Path::new("/dev")));
    let disk = name.map(Disk::of).transpose()?.flatten().ok_or_else(|| wrong("no whole SCSI disk of this system"))?;
    let known = disks::scan(Path::new("/"))?.into_iter().find(|block| block.name == disk.name);
    match known {
        Some(block) if block.own => return Err(wrong("one of the proxy's own disks")),
        Some(block) if !disks::faults(&block).is_empty() => return Err(wrong(&disks::faults(&block).join(", "))),
        Some(_) => {}
        None => return Err(wrong("udev does not know it")),
    }
    let watcher = Watcher::start(&disk.names()?)?;
    disk.event("add")?;
    observe(&disk, watcher)
}

fn observe(disk: &Disk, watcher: Watcher) -> io::Result<Trapped> {
    let seen = provocations(disk);
    let openers = watcher.finish();
    let (Provoked { ran, missing, mut findings }, names) = seen?;
    let agent = std::env::current_exe()?;
    findings.extend(judge::judge(&openers, &disk.name, &agent));
    let blocks: Vec<_> = disks::scan(Path::new("/"))?.into_iter().filter(|block| names.contains(&block.name)).collect();
    if blocks.len() != names.len() {
        return Err(io::Error::other("the trap disk went away while it was watched"));
    }
    findings.extend(disks::judge(&blocks, true));
    Ok(Trapped { disk: disk.name.clone(), ran, missing, openers, findings })
}

fn provocations(disk: &Disk) -> io::Result<(Provoked, Vec<String>)> {
    command::settle()?;
    disk.event("change")?;
    command::settle()?;
    let names = disk.names()?;
    let provoked = provoke::provoke(&names)?;
    // What the tools set off.
    command::settle()?;
    Ok((provoked, names))
}
