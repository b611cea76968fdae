//! Who may open a foreign disk, and what that needs; pure. Everybody else is a finding.
//!
//! - `blockdev`, run by our rule to set it read-only: opens, never reads.
//! - udev's worker: takes a lock on the whole disk while it handles an event (systemd, "Locking Block Device Access"): opens, never reads.
//! - the agent itself.
use std::path::Path;

use super::watch::Opener;
use crate::{quarantine::Finding, reason};

/// Names of udev's program: newer systems have one program for daemon and tool.
const UDEV: [&str; 2] = ["systemd-udevd", "udevadm"];

/// One finding for each opener that may not. `disk`: name of the whole disk; `agent`: this program.
#[must_use]
pub fn judge(openers: &[Opener], disk: &str, agent: &Path) -> Vec<Finding> {
    let foreign = openers.iter().filter(|opener| !allowed(opener, disk, agent));
    foreign.map(|opener| Finding::new(&reason::QUA_OPENED, told(opener))).collect()
}

fn allowed(opener: &Opener, disk: &str, agent: &Path) -> bool {
    if opener.program == agent {
        return !opener.wrote;
    }
    let program = opener.program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let locks = UDEV.contains(&program) && opener.device == disk;
    (program == "blockdev" || locks) && !opener.read && !opener.wrote
}

fn told(opener: &Opener) -> String {
    let Opener { pid, name, program, device, read, wrote } = opener;
    let more = [(*read, ", read"), (*wrote, ", wrote")].map(|(did, what)| if did { what } else { "" }).concat();
    format!("{device}: {name} (pid {pid}, {}) opened{more} it", program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opener(program: &str, device: &str) -> Opener {
        Opener { pid: 7, name: "x".into(), program: program.into(), device: device.into(), ..Opener::default() }
    }

    fn count(openers: &[Opener]) -> usize {
        judge(openers, "sdb", Path::new("/usr/bin/hotadd-agent")).len()
    }

    #[test]
    fn our_rule_udevs_lock_and_the_agent_may() {
        let agent = Opener { read: true, ..opener("/usr/bin/hotadd-agent", "sdb") };
        let rule = opener("/usr/sbin/blockdev", "sdb1");
        assert_eq!(
            count(&[agent, rule, opener("/usr/bin/udevadm", "sdb"), opener("/lib/systemd/systemd-udevd", "sdb")]),
            0
        );
    }

    #[test]
    fn everybody_else_is_named() {
        for program in ["/usr/sbin/lvm", "/usr/sbin/mdadm", "", "/tmp/hotadd-agent"] {
            assert_eq!(count(&[opener(program, "sdb")]), 1, "{program}");
        }
        let found = judge(&[Opener { read: true, ..opener("/usr/sbin/lvm", "sdb1") }], "sdb", Path::new("/a"));
        assert_eq!(found[0].what, "sdb1: x (pid 7, /usr/sbin/lvm) opened, read it");
    }

    #[test]
    fn who_may_open_may_not_read_or_write() {
        let reading = |program: &str| Opener { read: true, ..opener(program, "sdb") };
        let writing = |program: &str| Opener { wrote: true, ..opener(program, "sdb") };
        let all = [
            reading("/bin/udevadm"),
            reading("/sbin/blockdev"),
            writing("/usr/bin/hotadd-agent"),
            writing("/sbin/blockdev"),
        ];
        assert_eq!(count(&all), 4);
        // There is nothing to lock on a partition.
        assert_eq!(count(&[opener("/usr/bin/udevadm", "sdb1")]), 1);
    }
}
