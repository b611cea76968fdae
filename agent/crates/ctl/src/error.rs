//! The one error type of the program: what a person and a script need to know about a failure, nothing else.
use std::io;

use hotadd_api::{
    status::cleanup_name,
    v1::{Cleanup, Reason},
};
use hotadd_reasons::help;
use serde_json::json;

use crate::{
    exit::Exit,
    output::clean,
    reasons::{self, Code},
};

/// Why the command did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} {message}")]
pub struct Failure {
    pub exit: Exit,
    /// HA-xxx-nnn; ours or the agent's.
    pub code: String,
    pub message: String,
    pub next: String,
    /// A library's own text, where `message` says it in other words; for `--json`.
    pub detail: Option<String>,
    /// What the agent still owes vSphere because of this command.
    pub cleanup: Cleanup,
}

impl Failure {
    /// A failure of this side. Nothing was asked of the agent yet, so nothing is owed.
    pub fn new(exit: Exit, code: Code, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.id.to_owned(),
            message: message.into(),
            next: code.next.to_owned(),
            detail: None,
            cleanup: Cleanup::Done,
        }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, reasons::INTERNAL, message)
    }

    /// The agent broke the contract while a job ran: the clean-up state has to be asked.
    pub fn contract(message: impl Into<String>) -> Self {
        Self::new(Exit::JobFailed, reasons::CONTRACT, message).cleanup(Cleanup::Unspecified)
    }

    /// A write on this machine failed. Full file systems, quotas and file size limits share one reason.
    #[must_use]
    pub fn write(what: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let full = matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        let code = if full { reasons::NO_SPACE } else { reasons::WRITE };
        Self::new(Exit::WriteFailed, code, format!("{what}: {error}"))
    }

    /// The agent's own words. Owed clean-up decides the exit code.
    #[must_use]
    pub fn from_reason(exit: Exit, reason: &Reason) -> Self {
        Self {
            exit,
            code: reason.code.clone(),
            message: reason.message.clone(),
            next: reason.next_step.clone(),
            detail: None,
            cleanup: reason.cleanup(),
        }
        .judged()
    }

    /// Keeps a library's own text.
    #[must_use]
    pub fn detail(self, text: impl Into<String>) -> Self {
        Self { detail: Some(text.into()), ..self }
    }

    /// Sets the clean-up state.
    #[must_use]
    pub fn cleanup(self, cleanup: Cleanup) -> Self {
        Self { cleanup, ..self }
    }

    /// Raises "refused" and "failed" to "clean-up owed" unless the clean-up is proven. Other codes say what has to be
    /// mended on this side and stay; the line tells the clean-up state anyway.
    #[must_use]
    pub fn judged(self) -> Self {
        let exit = match self.exit {
            Exit::Refused | Exit::JobFailed if self.cleanup != Cleanup::Done => Exit::CleanupOwed,
            exit => exit,
        };
        Self { exit, ..self }
    }

    /// `error: CODE message; next: STEP; cleanup: STATE; help: PAGE`, always one line. Without the last for a code that only a
    /// newer agent knows.
    #[must_use]
    pub fn line(&self) -> String {
        let next = if self.next.is_empty() { "read the agent's journal" } else { &self.next };
        let help = help(&self.code).map(|page| format!("; help: {page}")).unwrap_or_default();
        clean(&format!(
            "error: {} {}; next: {next}; cleanup: {}{help}",
            self.code,
            self.message.trim_end_matches(['.', ';', ' ', '\n']),
            cleanup_name(self.cleanup)
        ))
    }

    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json!({
            "event": "error",
            "code": self.code,
            "message": self.message,
            "next_step": self.next,
            "detail": self.detail,
            "cleanup": cleanup_name(self.cleanup),
            "exit": self.exit.code(),
            "help": help(&self.code),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(cleanup: Cleanup) -> Reason {
        Reason {
            code: "HA-VIM-001".into(),
            message: "no VM\n\x1b[31mnamed \"x\".".into(),
            next_step: "list the VMs".into(),
            cleanup: cleanup.into(),
            ..Reason::default()
        }
    }

    #[test]
    fn a_hostile_message_stays_one_line_without_escapes() {
        let failure = Failure::from_reason(Exit::Refused, &reason(Cleanup::Done));
        assert_eq!(failure.line(), "error: HA-VIM-001 no VM  [31mnamed \"x\"; next: list the VMs; cleanup: done");
    }

    #[test]
    fn a_failure_names_the_page_of_a_code_that_is_known() {
        let failure = Failure::new(Exit::Usage, reasons::USAGE, "no VM");
        assert!(failure.line().ends_with("; cleanup: done; help: docs/reasons/HA-CTL-002.md"), "{}", failure.line());
        assert_eq!(failure.json()["help"], "docs/reasons/HA-CTL-002.md");
        assert!(Failure::from_reason(Exit::Refused, &reason(Cleanup::Done)).json()["help"].is_null());
    }

    #[test]
    fn unproven_clean_up_is_never_called_refused() {
        for cleanup in [Cleanup::Owed, Cleanup::Unspecified] {
            assert_eq!(Failure::from_reason(Exit::Refused, &reason(cleanup)).exit, Exit::CleanupOwed);
        }
        assert_eq!(Failure::from_reason(Exit::Refused, &reason(Cleanup::Done)).exit, Exit::Refused);
        let full = Failure::write("x", &io::Error::from_raw_os_error(28)).cleanup(Cleanup::Owed).judged();
        assert_eq!((full.exit, full.code.as_str()), (Exit::WriteFailed, reasons::NO_SPACE.id));
    }
}
