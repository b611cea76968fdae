//! Registry of what ends a survey (HA-SVY-nnn). A number is never used again. docs/survey.md holds the same table, each has a page in
//! docs/reasons (one without does not compile); tests keep them equal. What concerns the way to vCenter has the doctor's codes.
use hotadd_doctor::{codes as doctor, connect::Trouble};

pub use hotadd_reasons::Code;

hotadd_reasons::registry! {
    UNFIT = "HA-SVY-001", "the VM is not taken for a survey: nothing was changed",
        "see the message for what stands against it; take a VM without snapshots that nobody needs";
    FAILED = "HA-SVY-002", "a step of the survey failed: what it had done is undone",
        "see vCenter's words in the message, and run the survey again when the cause is gone";
    LEFT = "HA-SVY-003", "the survey could not prove that nothing of it is left",
        "remove the snapshot that the message names in the vSphere Client, without its children, and consolidate the VM if it asks for that";
}

/// How the survey ends, for an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Usage,
    /// vCenter could not be asked.
    Unreachable,
    /// Nothing was changed.
    Refused,
    /// Undone.
    Failed,
    /// Something may be left.
    Left,
}

/// Why a survey did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub end: End,
    pub code: &'static str,
    pub next: &'static str,
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let end = match code {
            UNFIT => End::Refused,
            FAILED => End::Failed,
            _ => End::Left,
        };
        Self { end, code: code.id, next: code.next, message: message.into() }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        let end = if trouble.code == doctor::USAGE { End::Usage } else { End::Unreachable };
        Self { end, code: trouble.code.id, next: trouble.code.next, message: trouble.message }
    }
}

#[cfg(test)]
mod tests {
    use hotadd_reasons::check::{Entry, faults};

    use super::*;

    #[test]
    fn the_documented_codes_are_the_coded_ones() {
        let coded: Vec<_> =
            ALL.iter().map(|c| format!("| [{0}](reasons/{0}.md) | {1} | {2} |", c.id, c.meaning, c.next)).collect();
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/survey.md")).unwrap();
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| [HA-SVY-")).collect();
        assert_eq!(rows, coded);
    }

    #[test]
    fn the_pages_tell_what_this_table_tells() {
        let entry = |c: &Code| Entry {
            code: c.id,
            meaning: c.meaning,
            next_step: c.next,
            told_by: "hotaddctl survey".to_owned(),
        };
        let entries: Vec<Entry> = ALL.iter().map(entry).collect();
        let pages: Vec<_> = hotadd_reasons::all().collect();
        let faults = faults(&entries, &pages, |code| code.starts_with("HA-SVY-"));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
