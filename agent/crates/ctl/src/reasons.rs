//! Registry of the reasons that hotaddctl gives by itself (HA-CTL-nnn). Reasons of the agent pass through unchanged.
//! A number is never used again. docs/hotaddctl.md holds the same table, each has a page in docs/reasons (one without does not
//! compile); tests keep them equal.

pub use hotadd_reasons::Code;

hotadd_reasons::registry! {
    INTERNAL = "HA-CTL-001", "a defect of hotaddctl",
        "report it with the command line and this message";
    USAGE = "HA-CTL-002", "wrong usage",
        "see hotaddctl --help";
    CREDENTIALS = "HA-CTL-003", "CA, certificate or key can't be read or used",
        "check the paths given by --ca, --cert and --key (or HOTADD_CA, HOTADD_CERT, HOTADD_KEY)";
    FOLDER = "HA-CTL-004", "the target folder can't be used",
        "give a folder that exists or can be created, is writable and is not in use by another backup";
    OCCUPIED = "HA-CTL-005", "the target folder already holds a backup",
        "give an empty folder, or --force to replace the old backup once the new one is proven";
    UNREACHABLE = "HA-CTL-006", "the agent does not answer",
        "check --agent, the network, and systemctl status hotadd-agent on the proxy";
    SERVER_CERT = "HA-CTL-007", "the agent's certificate is not accepted here",
        "check --ca and --server-name against the certificate of the agent";
    CLIENT_CERT = "HA-CTL-008", "the agent refused the client certificate",
        "use a certificate signed by the client CA of the agent, and check that it has not expired";
    STATUS = "HA-CTL-009", "the agent answered with an error that carries no reason",
        "check that --agent is a hotadd-agent, and its journal";
    BROKEN = "HA-CTL-010", "the stream of the job broke before its result",
        "check the network and the agent's journal, then run the backup again";
    CONTRACT = "HA-CTL-011", "the agent sent something that hotadd.v1 forbids",
        "report it; do the versions of hotaddctl and the agent match?";
    HASH = "HA-CTL-012", "a block does not match its hash",
        "run the backup again; if it returns, check the memory of both machines and what lies between them";
    COVERAGE = "HA-CTL-013", "blocks are missing, come twice, or lie outside the disk",
        "run the backup again; if it returns, report it with the agent's journal";
    CONSISTENCY = "HA-CTL-014", "the snapshot is less consistent than required",
        "check VMware Tools in the guest, or ask for prefer_app";
    NO_SPACE = "HA-CTL-015", "no room for the images",
        "free space or raise the quota or limit at the target folder, then run the backup again";
    WRITE = "HA-CTL-016", "an image or the manifest can't be written",
        "check the file system of the target folder (dmesg), then run the backup again";
    INTERRUPTED = "HA-CTL-017", "interrupted",
        "run the backup again";
    MANIFEST = "HA-CTL-018", "the manifest can't be read or can't be believed",
        "give the manifest.json that backup wrote, unchanged";
    MISMATCH = "HA-CTL-019", "an image does not match its manifest",
        "do not restore from this image; take a new backup and check the storage that held it";
    INCOMPLETE = "HA-CTL-020", "the agent reported success without delivering every disk",
        "use a fresh --request-id (the same id never starts a second job), or --allow-partial";
    UNEXPLAINED = "HA-CTL-021", "the job failed and the agent gave no reason",
        "read the agent's journal for this job";
    SILENT = "HA-CTL-022", "the agent sent nothing for too long",
        "read the agent's journal for this job; is a vCenter task stuck?";
    CHAIN_MISSING = "HA-CTL-023", "a base of the backup can't be read",
        "bring the base back to where the manifest names it; without it the incremental is worth nothing";
    CHAIN_CHANGED = "HA-CTL-024", "a base is not the one that the backup was made on",
        "bring the old manifest back, unchanged; else take a full backup and begin a new chain";
    CHAIN_CIRCLE = "HA-CTL-025", "the bases of the backup go in a circle or have no end",
        "restore the manifests from where they were copied; no backup of hotaddctl writes this";
    CHAIN_MISFIT = "HA-CTL-026", "a base is of another VM, disk, size or state",
        "give the base that the incremental was made on; for a VM or disk that was replaced take a full backup";
    SIGN_KEY = "HA-CTL-027", "a key file can't be read or used, or others may use it",
        "give an Ed25519 key (openssl genpkey -algorithm ed25519) in a file of mode 600";
    SIGNATURE = "HA-CTL-028", "the manifest is not signed by the given key",
        "do not trust this backup until you know who changed it; is it the right public key?";
    EXPORT = "HA-CTL-029", "the file can't be written, or the backup can't be described in it",
        "give a file that does not exist in a folder that does; an OVA holds at most 2 TiB of compressed data a disk";
    NO_TICKETS = "HA-CTL-030", "the agent does not use clone tickets",
        "bring the agent to a release that does, or leave the ticket out if its own account may do the job";
}

#[cfg(test)]
mod tests {
    use hotadd_reasons::check::{Entry, faults};

    use super::*;
    use crate::exit;

    fn page() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/hotaddctl.md")).unwrap()
    }

    fn rows(page: &str, first: &str) -> Vec<String> {
        let rows = page.lines().filter(|line| line.starts_with(first));
        rows.map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_documented_reasons_are_the_coded_ones() {
        let coded: Vec<_> = ALL.iter().map(|c| format!("| {} | {} | {} |", c.id, c.meaning, c.next)).collect();
        assert_eq!(rows(&page(), "| HA-CTL-"), coded);
    }

    #[test]
    fn the_pages_tell_what_this_table_tells() {
        let entry =
            |c: &Code| Entry { code: c.id, meaning: c.meaning, next_step: c.next, told_by: "hotaddctl".to_owned() };
        let entries: Vec<Entry> = ALL.iter().map(entry).collect();
        let pages: Vec<_> = hotadd_reasons::all().collect();
        let faults = faults(&entries, &pages, |code| code.starts_with("HA-CTL-"));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn ids_are_unique_and_ascending() {
        assert!(ALL.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn the_documented_exit_codes_are_the_coded_ones() {
        let coded: Vec<_> = exit::TABLE.iter().map(|(e, what)| format!("| `{}` | {what} |", e.code())).collect();
        assert_eq!(
            rows(&page(), "| `").into_iter().filter(|r| r.as_bytes()[3].is_ascii_digit()).collect::<Vec<_>>(),
            coded
        );
    }
}
