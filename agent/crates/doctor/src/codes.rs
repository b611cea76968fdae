//! Registry of what the doctor finds and of what stops it (HA-DOC-nnn). A number is never used again. docs/doctor.md holds the same
//! table, each has a page in docs/reasons (one without does not compile); tests keep them equal.

pub use hotadd_reasons::Code;

hotadd_reasons::registry! {
    ATTACHED = "HA-DOC-001", "a disk of another VM is attached to a VM",
        "end the backup that uses it, or detach it keeping its files, as the finding says";
    SNAPSHOT = "HA-DOC-002", "a snapshot of a backup is left behind",
        "let its product remove it; else remove it when no disk of its VM is attached elsewhere";
    METHODS = "HA-DOC-003", "Storage vMotion of a VM is left disabled",
        "let the product that disabled it enable it: one more backup, or its clean-up";
    CONSOLIDATION = "HA-DOC-004", "a VM needs consolidation",
        "detach its disks from other VMs, then consolidate";
    CHAIN = "HA-DOC-005", "the deltas of a disk are many, large, or soon fill the datastore",
        "remove snapshots that nobody needs, the ones of backups by their product";
    REDO = "HA-DOC-006", "a redo file is left beside a disk that is attached to nobody",
        "make sure that no VM uses the disk nonpersistent, then let an administrator delete the file";
    DUPLICATE = "HA-DOC-007", "several VMs have one BIOS UUID",
        "give all but one a new UUID while they are powered off";
    CONTROLLER = "HA-DOC-008", "a proxy lacks a SCSI controller that it had or should have",
        "add the controller again while no backup runs, with a small disk of the proxy's own on it";
    GONE = "HA-DOC-009", "an attached disk has no VM that owns it: its file may be gone, and then its VM does not power on",
        "remove the disk from the VM, keeping files";
    VERSIONS = "HA-DOC-010", "proxies of one vCenter have different versions",
        "bring them to one version";
    USAGE = "HA-DOC-020", "wrong usage or bad local input",
        "see --help; the message names the option or file";
    UNREACHABLE = "HA-DOC-021", "vCenter can't be reached or is not trusted",
        "check --vcenter, port 443, and --vcenter-ca or --vcenter-pin against its certificate";
    LOGIN = "HA-DOC-022", "vCenter refused user name or password",
        "correct --user and the password before you try again: repeated refusals lock accounts";
    ANSWER = "HA-DOC-023", "vCenter's answer can't be used",
        "see the message; a missing privilege is named: Read-only on the root folder, propagating, is enough";
    NOT_FIXED = "HA-DOC-024", "nothing was changed: it is not proven to be ours, or not proven to be at rest",
        "see the message for what stands against it; the finding tells how to do it by hand";
    HALF_FIXED = "HA-DOC-025", "a change was asked for and is not proven to be done",
        "look at the VM's tasks in the vSphere Client, then run doctor again: it reads everything anew";
}

#[cfg(test)]
mod tests {
    use hotadd_reasons::check::{Entry, faults};

    use super::*;

    fn page() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/doctor.md")).unwrap()
    }

    #[test]
    fn the_documented_codes_are_the_coded_ones() {
        let coded: Vec<_> =
            ALL.iter().map(|c| format!("| [{0}](reasons/{0}.md) | {1} | {2} |", c.id, c.meaning, c.next)).collect();
        let page = page();
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| [HA-DOC-")).collect();
        assert_eq!(rows, coded);
    }

    #[test]
    fn the_pages_tell_what_this_table_tells() {
        // The way to vCenter is the survey's as well.
        let shared = [USAGE, UNREACHABLE, LOGIN, ANSWER];
        let survey = |c: &Code| if shared.contains(c) { ", hotaddctl survey" } else { "" };
        let told_by = |c: &Code| format!("hotadd-doctor, hotaddctl doctor{}", survey(c));
        let entry = |c: &Code| Entry { code: c.id, meaning: c.meaning, next_step: c.next, told_by: told_by(c) };
        let entries: Vec<Entry> = ALL.iter().map(entry).collect();
        let pages: Vec<_> = hotadd_reasons::all().collect();
        let faults = faults(&entries, &pages, |code| code.starts_with("HA-DOC-"));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn ids_are_unique_and_ascending() {
        assert!(ALL.windows(2).all(|pair| pair[0].id < pair[1].id));
    }
}
