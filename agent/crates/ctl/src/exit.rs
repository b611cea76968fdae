//! Exit codes: the part of the contract that shell scripts see. `--help` and docs/hotaddctl.md print this table.
use std::{fmt::Write as _, process::ExitCode};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Internal = 1,
    Usage = 2,
    Unreachable = 3,
    Refused = 4,
    JobFailed = 5,
    CleanupOwed = 6,
    WriteFailed = 7,
    VerifyFailed = 8,
    DutiesOpen = 9,
    Partial = 10,
    Findings = 11,
    NotLookedAt = 12,
    Interrupted = 130,
}

/// Every code with its meaning, in order.
pub const TABLE: &[(Exit, &str)] = &[
    (
        Exit::Ok,
        "done; with prefer_app also when a lower consistency was reached (stated in the output and the manifest)",
    ),
    (Exit::Internal, "a defect of hotaddctl"),
    (Exit::Usage, "wrong usage or bad local input: options, certificates, target folder, manifest"),
    (Exit::Unreachable, "agent (doctor, survey: vCenter) unreachable, or TLS or login refused by either side"),
    (Exit::Refused, "refused by the agent or by vCenter before anything was attached"),
    (Exit::JobFailed, "the job failed after it began; nothing is left attached"),
    (Exit::CleanupOwed, "failed, and the agent still owes clean-up or nobody could say whether it does"),
    (Exit::WriteFailed, "writing on this machine failed (full file system, quota, limits, I/O error)"),
    (Exit::VerifyFailed, "verify, synthesize, export: an image, a base or a signature does not match its manifest"),
    (
        Exit::DutiesOpen,
        "duties: the agent owes vSphere something now (a running job does, too); drain: something still runs",
    ),
    (Exit::Partial, "partial backup: --allow-partial was given and at least one disk is missing"),
    (Exit::Findings, "doctor: at least one finding is critical or a warning"),
    (Exit::NotLookedAt, "doctor, survey: no such finding, but something was not looked at: never as good as clean"),
    (Exit::Interrupted, "interrupted by SIGINT, SIGTERM or SIGHUP"),
];

impl Exit {
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table as `--help` shows it.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in TABLE {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {:>3}  {meaning}", exit.code());
    }
    text.push_str(
        "\nEvery failure prints one line:\n  error: CODE message; next: STEP; cleanup: done|owed|unknown; help: PAGE\n\
         hotaddctl explain-error CODE shows that page.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_man_page_tells_every_code() {
        let page = crate::PROSE.replace("\\-", "-");
        for (exit, meaning) in TABLE {
            let entry = format!(".TP\n.B {}\n{meaning}\n", exit.code());
            assert!(page.contains(&entry), "{entry}");
        }
    }
}
