//! How a [`Reason`] travels in a `google.rpc.Status`: ErrorInfo{reason, domain, metadata} for machines, RetryInfo
//! where waiting helps, Help-like text in metadata for people. Both directions live here so that they can't drift.
use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::v1::{Cleanup, Reason};

/// `ErrorInfo.domain` of every error of this project.
pub const DOMAIN: &str = "hotadd";

/// Builds the status for a reason. `retry_after` fills RetryInfo.
#[must_use]
pub fn to_status(code: Code, reason: &Reason, retry_after: Option<Duration>) -> Status {
    let mut metadata = HashMap::from([
        ("next_step".to_owned(), reason.next_step.clone()),
        ("cleanup".to_owned(), cleanup_name(reason.cleanup()).to_owned()),
    ]);
    if reason.queue_position > 0 {
        metadata.insert("queue_position".to_owned(), reason.queue_position.to_string());
    }
    let mut details = ErrorDetails::with_error_info(reason.code.clone(), DOMAIN, metadata);
    if let Some(delay) = retry_after {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code, reason.message.clone(), details)
}

/// Reads the reason back. `None`: the status did not come from this project's code (a proxy, a TLS failure, …).
#[must_use]
pub fn from_status(status: &Status) -> Option<Reason> {
    let details = status.get_error_details();
    let info = details.error_info()?;
    if info.domain != DOMAIN {
        return None;
    }
    let field = |name: &str| info.metadata.get(name).cloned().unwrap_or_default();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    Some(Reason {
        code: info.reason.clone(),
        message: status.message().to_owned(),
        next_step: field("next_step"),
        cleanup: cleanup_from_name(&field("cleanup")).into(),
        retry_after_seconds: retry.map_or(0, |after| u32::try_from(after.as_secs()).unwrap_or(u32::MAX)),
        queue_position: field("queue_position").parse().unwrap_or(0),
    })
}

/// `done` | `owed` | `unknown`.
#[must_use]
pub fn cleanup_name(cleanup: Cleanup) -> &'static str {
    match cleanup {
        Cleanup::Done => "done",
        Cleanup::Owed => "owed",
        Cleanup::Unspecified => "unknown",
    }
}

fn cleanup_from_name(name: &str) -> Cleanup {
    match name {
        "done" => Cleanup::Done,
        "owed" => Cleanup::Owed,
        _ => Cleanup::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_trip() {
        let reason = Reason {
            code: "HA-ATT-004".into(),
            message: "no free unit".into(),
            next_step: "close a session".into(),
            cleanup: Cleanup::Owed.into(),
            retry_after_seconds: 3,
            queue_position: 2,
        };
        let status = to_status(Code::ResourceExhausted, &reason, Some(Duration::from_secs(3)));
        assert_eq!(from_status(&status), Some(reason));
        assert_eq!(status.get_error_details().retry_info().and_then(|r| r.retry_delay), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_foreign_status_has_no_reason() {
        assert_eq!(from_status(&Status::unavailable("gone")), None);
        let foreign = ErrorDetails::with_error_info("X", "elsewhere", HashMap::new());
        assert_eq!(from_status(&Status::with_error_details(Code::Internal, "x", foreign)), None);
    }
}
