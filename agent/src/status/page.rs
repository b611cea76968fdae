//! The page's files, its headers, and the paths under which they are served. Nothing here knows a network: [`crate::metrics::server`] does.
//! The page loads nothing from elsewhere, and its policy lets it do nothing else, so that a name of a VM that gets into it as markup can't
//! either.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hotadd_api::roles::{Role, needed};
use hyper::{
    HeaderMap,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
};

use super::Snapshot;

/// A snapshot is shared among those who ask that soon after each other: a client that hammers costs no more than one that does not.
const SHARED: Duration = Duration::from_millis(500);

/// Calls of the API whose answers are in the page: who may not call one of them may not see it here.
const SHOWN: [&str; 6] = [
    "/hotadd.v1.DiskService/ListSessions",
    "/hotadd.v1.DiskService/ListDuties",
    "/hotadd.v1.JobService/ListJobs",
    "/hotadd.v1.ProxyService/WatchEvents",
    "/hotadd.v1.ProxyService/GetCapacity",
    "/hotadd.v1.ProxyService/GetInfo",
];

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// One of the page's paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Page,
    Style,
    Script,
    Snapshot,
}

impl Path {
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Page),
            "/status.css" => Some(Self::Style),
            "/status.js" => Some(Self::Script),
            "/status.json" => Some(Self::Snapshot),
            _ => None,
        }
    }

    #[must_use]
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Page => "text/html; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Snapshot => "application/json",
        })
    }
}

/// The role that the page asks for.
#[must_use]
pub fn role() -> Role {
    SHOWN.iter().map(|path| needed(path).unwrap_or(Role::Admin)).max().unwrap_or(Role::Admin)
}

/// What every answer of the page says to a browser, refusals included.
pub fn protect(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The last snapshot, as text. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Option<(Instant, Bytes)>>>);

impl Shared {
    /// What is at this path. `look` is asked only when the last look is too old.
    pub fn body(&self, path: Path, look: impl FnOnce() -> Snapshot) -> Bytes {
        match path {
            Path::Page => Bytes::from_static(include_bytes!("page.html")),
            Path::Style => Bytes::from_static(include_bytes!("page.css")),
            Path::Script => Bytes::from_static(include_bytes!("page.js")),
            Path::Snapshot => self.snapshot(look),
        }
    }

    fn snapshot(&self, look: impl FnOnce() -> Snapshot) -> Bytes {
        // Under the lock: who comes meanwhile waits for this look instead of taking one.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = last.as_ref().filter(|(at, _)| at.elapsed() < SHARED) {
            return text.clone();
        }
        // Names of fields are text and numbers are whole: this can't fail.
        let text = Bytes::from(serde_json::to_vec(&look()).unwrap_or_default());
        *last = Some((Instant::now(), text.clone()));
        text
    }
}
