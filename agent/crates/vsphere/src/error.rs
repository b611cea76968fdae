//! The error of every operation: a stable kind for control flow, the operation, context for people, the source.

use std::error::Error as StdError;
use std::fmt;

use crate::fault::{Fault, FaultKind};
use crate::xml::Shape;

/// What went wrong, for control flow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No answer: name, route, refused or broken connection, or a status that says the service is not there.
    Unreachable,
    /// The server's certificate is not the trusted one, or no common protocol.
    Tls,
    /// User name or password refused, or the user may not log in.
    Unauthorized,
    /// A login was refused a short while ago and the next one waits: nothing was sent.
    LoginHeld,
    /// The server answered with a fault.
    Fault(Box<Fault>),
    /// The answer is not what the protocol promises (malformed XML, wrong type, missing field, redirect).
    Protocol,
    /// The answer exceeds a limit of the configuration or of the parser.
    TooLarge,
    /// Time ran out. For a task: it may still be running.
    Deadline,
    /// A change was asked for and the answer was lost: it may or may not have happened. Read before the next step.
    UnknownOutcome,
    /// The server no longer knows the task (it forgets them after a while, and when it restarts).
    TaskGone,
    /// The server no longer knows the export lease, or it has ended: its files can't be read any more.
    LeaseGone,
    /// The caller cancelled the wait. The task itself goes on.
    Cancelled,
    /// The configuration or the request cannot be served by this client or server version.
    Unsupported,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::Unreachable => f.write_str("vCenter is unreachable"),
            ErrorKind::Tls => f.write_str("TLS failed"),
            ErrorKind::Unauthorized => f.write_str("login refused"),
            ErrorKind::LoginHeld => f.write_str("not logged in"),
            ErrorKind::Fault(fault) => fault.fmt(f),
            ErrorKind::Protocol => f.write_str("unexpected answer"),
            ErrorKind::TooLarge => f.write_str("answer too large"),
            ErrorKind::Deadline => f.write_str("deadline exceeded"),
            ErrorKind::UnknownOutcome => f.write_str("outcome unknown, the answer was lost"),
            ErrorKind::TaskGone => f.write_str("the server no longer knows the task"),
            ErrorKind::LeaseGone => f.write_str("the export lease has ended"),
            ErrorKind::Cancelled => f.write_str("cancelled"),
            ErrorKind::Unsupported => f.write_str("not supported"),
        }
    }
}

/// Error of an operation. Holds no password, cookie or request body.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    op: &'static str,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, op: &'static str, context: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, op, context: context.into(), source: None }))
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn fault_of(op: &'static str, fault: Fault) -> Error {
        Error::new(ErrorKind::Fault(Box::new(fault)), op, "")
    }

    pub(crate) fn protocol(op: &'static str, context: impl Into<String>) -> Error {
        Error::new(ErrorKind::Protocol, op, context)
    }

    pub(crate) fn shape(op: &'static str, shape: Shape) -> Error {
        Error::protocol(op, shape.0)
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The vSphere operation, for example `ReconfigVM_Task`.
    pub fn op(&self) -> &'static str {
        self.0.op
    }

    /// Facts for a person; may be empty.
    pub fn context(&self) -> &str {
        &self.0.context
    }

    /// The server's fault, when that is what came back.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.0.kind {
            ErrorKind::Fault(f) => Some(f),
            _ => None,
        }
    }

    /// Whether the server answered that the session has ended; nothing was executed then.
    pub(crate) fn is_not_authenticated(&self) -> bool {
        matches!(self.fault().map(|f| &f.kind), Some(FaultKind::NotAuthenticated))
    }

    /// Whether the server answered that an object is not there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self.fault().map(|f| &f.kind), Some(FaultKind::ManagedObjectNotFound { .. }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.op, self.0.kind)?;
        if !self.0.context.is_empty() {
            write!(f, ": {}", self.0.context)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("op", &self.0.op)
            .field("kind", &self.0.kind)
            .field("context", &self.0.context)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}
