//! What the rules give: findings and what was not looked at, and what that means for the exit code. The JSON form is a contract
//! (docs/doctor.md): fields are added, never changed.
use serde::Serialize;

use crate::{
    codes::Code,
    facts::{Blind, Object, Server},
};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Data or a running VM is in danger.
    Critical,
    /// It will be, or something does not work.
    Warning,
    /// Nothing is wrong, most likely: a backup runs.
    Info,
}

impl Severity {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One fact as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    pub fact: String,
    pub value: String,
}

/// Why a disk is provably one of hotadd-agent's: a snapshot of the agent of this very proxy froze this very file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The VM that has the disk attached, and the one that owns it.
    pub proxy: String,
    pub owner: String,
    pub snapshot: String,
    pub duty: String,
    pub disk_key: i32,
    pub file: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    pub object: Object,
    pub evidence: Vec<Fact>,
    pub risk: String,
    /// Exact steps; the first that can be done is enough.
    pub fix: Vec<String>,
    pub ours: Option<Proof>,
}

impl Finding {
    pub(crate) fn new(code: Code, severity: Severity, object: &Object, risk: impl Into<String>) -> Self {
        let (evidence, fix) = (Vec::new(), Vec::new());
        Self { code, severity, object: object.clone(), evidence, risk: risk.into(), fix, ours: None }
    }

    pub(crate) fn fact(mut self, fact: &str, value: impl Into<String>) -> Self {
        self.evidence.push(Fact { fact: fact.to_owned(), value: value.into() });
        self
    }

    pub(crate) fn step(mut self, step: impl Into<String>) -> Self {
        self.fix.push(step.into());
        self
    }
}

/// What one look gave.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub server: Server,
    /// When, by the server's clock.
    pub at: jiff::Timestamp,
    pub vms: usize,
    /// The worst first.
    pub findings: Vec<Finding>,
    pub not_looked_at: Vec<Blind>,
}

/// How the program `hotadd-doctor` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Clean = 0,
    Findings = 1,
    Usage = 2,
    CouldNotLook = 3,
}

/// Every code with its meaning.
pub const EXITS: &[(Exit, &str)] = &[
    (Exit::Clean, "everything was looked at, and nothing is critical or a warning"),
    (Exit::Findings, "at least one finding is critical or a warning"),
    (Exit::Usage, "wrong usage or bad local input: options, certificate, password file"),
    (
        Exit::CouldNotLook,
        "vCenter could not be asked, or no finding but something was not looked at: never as good as clean",
    ),
];

impl Report {
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.findings.iter().any(|finding| finding.severity != Severity::Info) {
            Exit::Findings
        } else if self.not_looked_at.is_empty() {
            Exit::Clean
        } else {
            Exit::CouldNotLook
        }
    }

    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    fn report(severities: &[Severity], blind: usize) -> Report {
        let finding = |severity: &Severity| Finding::new(codes::CHAIN, *severity, &Object::default(), "");
        let unseen = Blind { what: String::new(), object: Object::default(), why: String::new() };
        let findings = severities.iter().map(finding).collect();
        Report { findings, not_looked_at: vec![unseen; blind], ..Report::default() }
    }

    #[test]
    fn what_was_not_seen_is_never_clean_and_never_hides_a_finding() {
        use Severity::{Critical, Info, Warning};
        assert_eq!(report(&[], 0).exit(), Exit::Clean);
        assert_eq!(report(&[Info], 0).exit(), Exit::Clean);
        assert_eq!(report(&[], 1).exit(), Exit::CouldNotLook);
        assert_eq!(report(&[Info], 1).exit(), Exit::CouldNotLook);
        assert_eq!(report(&[Info, Warning], 1).exit(), Exit::Findings);
        assert_eq!(report(&[Critical], 0).exit(), Exit::Findings);
    }

    #[test]
    fn the_documented_exit_codes_are_the_coded_ones() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/doctor.md")).unwrap();
        let man = include_str!("../man/hotadd-doctor.roff").replace("\\-", "-");
        for (exit, meaning) in EXITS {
            let row = format!("| `{}` | {meaning} |", *exit as u8);
            assert!(page.contains(&row), "{row}");
            let entry = format!(".TP\n.B {}\n{meaning}\n", *exit as u8);
            assert!(man.contains(&entry), "{entry}");
        }
    }
}
