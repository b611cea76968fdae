//! What can go wrong between us and a server. Texts of the server are cut and cleaned before they get here.
use std::{io, time::Duration};

/// Why an NBD source can't be used (any more). Never a read that the server answered with an errno: that is the
/// completion's.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    #[error("{uri:?} is no NBD URI that can be used: {why}")]
    BadUri { uri: String, why: &'static str },
    #[error("TLS can't be set up: {0}")]
    TlsConfig(String),
    #[error("no connection to {target}")]
    Connect { target: String, source: io::Error },
    #[error("the connection broke")]
    Io(#[source] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("{what}: nothing within {after:?}")]
    Timeout { what: &'static str, after: Duration },
    #[error("what answers is not a usable NBD server: {0}")]
    NotNbd(&'static str),
    #[error("the server refuses {option}: {reason}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused { option: &'static str, reason: &'static str, message: String },
    #[error("TLS was asked for and the server has none; nothing is read in the clear")]
    TlsRefused,
    #[error("the server wants TLS")]
    TlsRequired,
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("the server breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("the server sends too much: {what} {got}, at most {most}")]
    TooMuch { what: &'static str, got: u64, most: u64 },
    #[error("after connecting again the export differs: {what} was {before}, is {after}")]
    Changed { what: &'static str, before: String, after: String },
    #[error("gave up after {attempts} lost connections in a row")]
    GaveUp { attempts: u32, source: Box<NbdError> },
    #[error("the server tells no block status")]
    NoBlockStatus,
    #[error("block status failed with {0}")]
    BlockStatus(io::Error),
    #[error("the range {start}..{end} is empty, outside the export of {size} bytes, or not aligned to {align}")]
    BadRange { start: u64, end: u64, size: u64, align: u32 },
    #[error("reads are in flight")]
    Busy,
    #[error("stopped from outside")]
    Stopped,
}

impl NbdError {
    /// A stable word for logs, metrics and tests.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadUri { .. } => "bad-uri",
            Self::TlsConfig(_) => "tls-config",
            Self::Connect { .. } => "connect",
            Self::Io(_) => "io",
            Self::Closed => "closed",
            Self::Timeout { .. } => "timeout",
            Self::NotNbd(_) => "not-nbd",
            Self::Refused { .. } => "refused",
            Self::TlsRefused => "tls-refused",
            Self::TlsRequired => "tls-required",
            Self::Tls(_) => "tls",
            Self::Protocol(_) => "protocol",
            Self::TooMuch { .. } => "too-much",
            Self::Changed { .. } => "changed",
            Self::GaveUp { .. } => "gave-up",
            Self::NoBlockStatus => "no-block-status",
            Self::BlockStatus(_) => "block-status",
            Self::BadRange { .. } => "bad-range",
            Self::Busy => "busy",
            Self::Stopped => "stopped",
        }
    }

    /// The NBD error inside an I/O error that an [`crate::ReadEngine`] returned.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether another connection may do better. What a server says on purpose is not asked twice.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Io(_) | Self::Closed | Self::Timeout { .. } => true,
            Self::Refused { reason, .. } => *reason == super::wire::SHUTTING_DOWN,
            _ => false,
        }
    }
}

impl From<NbdError> for io::Error {
    fn from(error: NbdError) -> Self {
        Self::other(error)
    }
}
