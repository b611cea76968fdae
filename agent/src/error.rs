//! The agent's error: a registered reason, the facts of this case, what is still owed, and the chain of causes. What
//! crosses the API is built from this and nothing else.
use std::{error::Error as StdError, fmt, time::Duration};

use hotadd_api::{
    status,
    v1::{Cleanup, Reason},
};

use crate::reason::{self, ReasonCode};

/// How long a controller should wait before it repeats a request that met an unavailable vCenter or an open duty.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Unavailable, and stays so until a person does something: a controller that repeats them wakes nobody.
const HEALED_BY_A_PERSON: [&ReasonCode; 1] = [&reason::VC_TLS];
/// What others use now and will give back.
const PASSES: [&ReasonCode; 4] = [&reason::SES_BUSY, &reason::ATT_NO_SLOT, &reason::PLAN_NO_SLOT, &reason::LIM_CLIENT];

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// See the module. Boxed inside: it travels through many results.
pub struct Error(Box<Inner>);

struct Inner {
    reason: &'static ReasonCode,
    detail: String,
    cleanup: Cleanup,
    /// Type of the vSphere fault, where one was the cause.
    fault: Option<String>,
    /// The place in the queue that it is about; 1 is next, 0 none.
    position: u32,
    /// When waiting has helped, where that is known; in whole seconds.
    retry: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// `detail` holds the facts of this case: names, numbers, the server's text.
    pub fn new(reason: &'static ReasonCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            detail: detail.into(),
            cleanup: Cleanup::Done,
            fault: None,
            position: 0,
            retry: None,
            source: None,
        }))
    }

    /// Notes the place in the queue, 1 is next: waiting helps.
    #[must_use]
    pub fn at_position(mut self, position: usize) -> Self {
        self.0.position = u32::try_from(position).unwrap_or(u32::MAX);
        self
    }

    /// Notes when the same may be done again. Whole seconds, rounded up and at least one: clients count in them, and who comes too early
    /// is refused once more.
    #[must_use]
    pub fn retry_in(mut self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.0.retry = Some(Duration::from_secs(seconds.max(1)));
        self
    }

    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// Notes the type of the vSphere fault that was the cause.
    #[must_use]
    pub fn with_fault(mut self, type_name: &str) -> Self {
        self.0.fault = Some(type_name.to_owned());
        self
    }

    /// Type of the vSphere fault that was the cause, e.g. `FileLocked`.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.0.fault.as_deref()
    }

    /// Puts what it is about before the facts.
    #[must_use]
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        self.0.detail = format!("{what}: {}", self.0.detail);
        self
    }

    /// Marks that a duty stays open although the request ended.
    #[must_use]
    pub fn owing(mut self) -> Self {
        self.0.cleanup = Cleanup::Owed;
        self
    }

    #[must_use]
    pub fn reason(&self) -> &'static ReasonCode {
        self.0.reason
    }

    #[must_use]
    pub fn cleanup(&self) -> Cleanup {
        self.0.cleanup
    }

    /// The message as the API shows it.
    #[must_use]
    pub fn to_reason(&self) -> Reason {
        Reason {
            code: self.0.reason.code.to_owned(),
            message: self.message(),
            next_step: self.0.reason.next_step.to_owned(),
            cleanup: self.0.cleanup.into(),
            retry_after_seconds: self
                .retry_after()
                .map_or(0, |after| u32::try_from(after.as_secs()).unwrap_or(u32::MAX)),
            queue_position: self.0.position,
        }
    }

    /// When to do the same again; `None`: waiting does not help.
    fn retry_after(&self) -> Option<Duration> {
        if self.0.retry.is_some() {
            return self.0.retry;
        }
        let told = self.0.reason;
        let unavailable = told.grpc == tonic::Code::Unavailable && !HEALED_BY_A_PERSON.contains(&told);
        let passes = PASSES.contains(&told);
        let waiting_helps = unavailable || passes || self.0.cleanup == Cleanup::Owed || self.0.position > 0;
        waiting_helps.then_some(RETRY_AFTER)
    }

    /// The same failure for somebody else who waits for it; the chain of causes becomes text.
    #[must_use]
    pub fn copy(&self) -> Self {
        let Inner { reason, cleanup, ref fault, position, retry, .. } = *self.0;
        let (detail, fault) = (self.facts(), fault.clone());
        Self(Box::new(Inner { reason, detail, cleanup, fault, position, retry, source: None }))
    }

    /// Summary, facts and the chain of causes on one line.
    #[must_use]
    pub fn message(&self) -> String {
        let facts = self.facts();
        if facts.is_empty() { self.0.reason.summary.to_owned() } else { format!("{}: {facts}", self.0.reason.summary) }
    }

    /// Facts and the chain of causes, without the summary.
    #[must_use]
    pub fn facts(&self) -> String {
        let mut parts = vec![self.0.detail.clone()];
        let mut cause = self.0.source.as_deref().map(|s| s as &dyn StdError);
        while let Some(error) = cause {
            parts.push(error.to_string());
            cause = error.source();
        }
        parts.retain(|part| !part.is_empty());
        parts.join(": ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.reason.code, self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [cleanup {}]", status::cleanup_name(self.0.cleanup))
    }
}

impl StdError for Error {}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        status::to_status(error.0.reason.grpc, &error.to_reason(), error.retry_after())
    }
}

/// A task of ours panicked or was aborted: a bug, told as such.
impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::new(&reason::INTERNAL, "a task ended without an answer").with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_told_once_and_the_status_carries_everything() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::new(&reason::ATT_LOCKED, "[ds] a/b.vmdk").with_source(cause).owing();
        assert_eq!(error.message(), "the disk is locked: [ds] a/b.vmdk: disk on fire");
        assert_eq!(error.copy().message(), error.message());
        assert_eq!(error.copy().cleanup(), Cleanup::Owed);
        let back = status::from_status(&tonic::Status::from(error)).unwrap();
        assert_eq!((back.code.as_str(), back.cleanup()), ("HA-ATT-002", Cleanup::Owed));
        assert!(!back.next_step.is_empty());
    }

    #[test]
    fn a_time_that_is_known_is_told_in_whole_seconds_and_never_too_early() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (9500, 10)] {
            let error = Error::new(&reason::LIM_CLIENT, "").retry_in(Duration::from_millis(millis));
            assert_eq!(error.copy().to_reason().retry_after_seconds, seconds, "{millis} ms");
        }
    }

    #[test]
    fn a_time_to_retry_is_given_where_waiting_helps_and_nowhere_else() {
        let seconds = |code| Error::new(code, "").to_reason().retry_after_seconds;
        for code in [&reason::VC_UNREACHABLE, &reason::SES_BUSY, &reason::ATT_NO_SLOT, &reason::PLAN_NO_SLOT] {
            assert!(seconds(code) > 0, "{}", code.code);
        }
        for code in [&reason::VC_TLS, &reason::VM_UNKNOWN, &reason::SES_REQUEST] {
            assert_eq!(seconds(code), 0, "{}", code.code);
        }
        assert!(
            Error::new(&reason::VM_UNKNOWN, "").owing().to_reason().retry_after_seconds > 0,
            "it is settled meanwhile"
        );
    }
}
