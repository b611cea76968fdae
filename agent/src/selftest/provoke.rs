//! Tools that somebody may run on a proxy at any time, run on purpose: none of them may see the trap.
use std::io;

use super::{command, image};
use crate::{quarantine::Finding, reason};

/// Program and arguments; each only looks.
const TOOLS: [(&str, &[&str]); 4] = [
    ("pvs", &["--noheadings", "-o", "pv_name,vg_name"]),
    ("mdadm", &["--examine", "--scan"]),
    ("multipath", &["-d"]),
    ("multipath", &["-ll"]),
];

/// What was run, and what it found.
#[derive(Debug, Default)]
pub(super) struct Provoked {
    pub(super) ran: Vec<String>,
    pub(super) missing: Vec<String>,
    pub(super) findings: Vec<Finding>,
}

/// Runs those that are installed. `names`: kernel names of the trap and its partitions.
pub(super) fn provoke(names: &[String]) -> io::Result<Provoked> {
    let mut provoked = Provoked::default();
    for (program, args) in TOOLS {
        let line = format!("{program} {}", args.join(" "));
        if command::find(program).is_none() {
            provoked.missing.push(program.to_owned());
            continue;
        }
        let (_, text) = command::output(program, args)?;
        if let Some(shown) = text.lines().find(|line| shows(line, names)) {
            provoked
                .findings
                .push(Finding::new(&reason::QUA_TOOLS, format!("`{line}` shows the trap: {}", shown.trim())));
        }
        provoked.ran.push(line);
    }
    provoked.missing.dedup();
    Ok(provoked)
}

fn shows(line: &str, names: &[String]) -> bool {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric());
    line.contains(image::NAME)
        || line.contains(image::ARRAY)
        || words.into_iter().any(|word| names.iter().any(|name| name == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_is_seen_by_its_node_group_or_array() {
        let names = ["sdb".to_owned(), "sdb1".to_owned()];
        for line in [
            "  /dev/sdb1 hotadd_trap",
            "ARRAY /dev/md/x metadata=1.2 UUID=686f7461:64642d74:7261702d:61727279",
            "|- 3:0:0:0 sdb 8:16 undef",
        ] {
            assert!(shows(line, &names), "{line}");
        }
        for line in ["  /dev/vda2 system", "3:0:0:0 sdba 65:0", ""] {
            assert!(!shows(line, &names), "{line}");
        }
    }
}
