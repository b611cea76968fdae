//! Waiting for a task, or another object with a state, by property updates. Source: vSphere API 8.0, PropertyCollector.CreateFilter, WaitForUpdatesEx.
//!
//! ```text
//!  watch ──CreatePropertyCollector, CreateFilter──▶ poll ──WaitForUpdatesEx──┐
//!    ▲                                               ▲ idle, truncated, state not final │
//!    │                                               └──────────────────────────────────┤
//!    ├── session ended, collector gone, connection lost (back off) ◀────────────────────┤ error
//!    └── no answer in time: a task is read by itself; not ended (back off) ◀─────────────┤
//!        object gone, Deadline, Cancelled, anything else: give up ◀─────────────────────┤
//!                                                      final: read info, destroy ◀──────┘
//! ```
//! Every waiter has a collector of its own: updates of one collector come to one caller only, and a caller that goes away
//! must not take the updates of others with it. Destroying the collector destroys its filter.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::fault::FaultKind;
use crate::moref::MoRef;
use crate::property;
use crate::session::Scoped;
use crate::soap::Request;
use crate::task::{TaskInfo, TaskState};
use crate::xml::Node;

const OP: &str = "wait_task";
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An object, the path of its state, and which states are awaited.
#[derive(Clone, Copy)]
pub(crate) struct Watched<'a> {
    pub(crate) object: &'a MoRef,
    pub(crate) path: &'static str,
    pub(crate) is_final: fn(&str) -> bool,
    /// What it is called when the server forgot the object.
    pub(crate) gone: fn() -> ErrorKind,
}

impl Client {
    /// Waits until a task ends, at most `deadline`. Survives ended sessions and lost connections.
    ///
    /// A failed task is an `Ok` with [`TaskInfo::error`]. `cancel` ends the wait, not the task.
    ///
    /// # Errors
    /// `Deadline` and `Cancelled` (the task goes on), `TaskGone`, and what reading can meet.
    pub async fn wait_task(
        &self,
        task: &MoRef,
        deadline: Duration,
        cancel: Option<&CancellationToken>,
    ) -> Result<TaskInfo, Error> {
        let end = Instant::now() + deadline;
        let watched = Watched {
            object: task,
            path: "info.state",
            is_final: |s| TaskState::parse(s).is_some_and(TaskState::is_final),
            gone: || ErrorKind::TaskGone,
        };
        // The whole info in one read: an update may carry the state before the result.
        let attempt = || async move {
            match self.reach(watched, end).await {
                Ok(scoped) => Ok((self.task(task).await?, Some(scoped))),
                // The lost answer may have been the task's end.
                Err(error) if *error.kind() == ErrorKind::Deadline => {
                    let info = self.task(task).await?;
                    if info.state.is_final() { Ok((info, None)) } else { Err(error) }
                }
                Err(error) => Err(error),
            }
        };
        self.persist(OP, task, deadline, cancel, attempt).await
    }

    /// Tries until it is done, the deadline is over or the wait is cancelled.
    pub(crate) async fn persist<'a, T, F: Future<Output = Result<(T, Option<Scoped<'a>>), Error>>>(
        &'a self,
        op: &'static str,
        object: &MoRef,
        deadline: Duration,
        cancel: Option<&CancellationToken>,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        let last: Mutex<Option<Error>> = Mutex::default();
        let work = async {
            self.session.sweep().await;
            let mut pause = FIRST_PAUSE;
            loop {
                match attempt().await {
                    // A cloned session that has ended sees nothing ever again.
                    Err(error) if may_watch_again(&error) && !self.session.is_over() => {
                        tracing::debug!(%object, %error, "watching anew");
                        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    other => return other,
                }
            }
        };
        let cancelled = async {
            match cancel {
                Some(token) => token.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            result = tokio::time::timeout(deadline, work) => result.ok(),
            () = cancelled => return Err(Error::new(ErrorKind::Cancelled, op, format!("{object} goes on"))),
        };
        match done {
            Some(Ok((result, collector))) => {
                // After the deadline's reach: a slow clean-up must not turn a known end into an unknown one.
                if let Some(collector) = collector {
                    collector.discard().await;
                }
                Ok(result)
            }
            Some(Err(error)) => Err(error),
            None => {
                let late = Error::new(ErrorKind::Deadline, op, format!("{object} not done in {deadline:?}"));
                Err(match last.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    Some(cause) => late.with_source(cause),
                    None => late,
                })
            }
        }
    }

    /// One try: from a new collector to the awaited state.
    pub(crate) async fn reach(&self, watched: Watched<'_>, end: Instant) -> Result<Scoped<'_>, Error> {
        let s = &self.session;
        let object = watched.object;
        let create = Request::read("CreatePropertyCollector", &s.content.property_collector, |_| {});
        let collector = s.call_value(&create, s.timeout).await?.moref().map_err(|e| Error::shape(create.op, e))?;
        let scoped = Scoped::new(s, collector.clone());
        let filter = Request::read("CreateFilter", &collector, |w| {
            w.nest("spec", |w| property::object_spec(w, object, &[watched.path]));
            w.value("partialUpdates", false);
        });
        s.call(&filter, s.timeout).await.map_err(|e| gone(e, object, (watched.gone)()))?;
        let mut version: Option<String> = None;
        loop {
            let update = self.poll(&collector, version.as_deref(), end).await;
            let update = update.map_err(|e| gone(e, object, (watched.gone)()))?;
            let Some(update) = update else { continue };
            match seen(&update, watched) {
                Seen::Final => return Ok(scoped),
                Seen::Gone => return Err(Error::new((watched.gone)(), "WaitForUpdatesEx", object.to_string())),
                Seen::Nothing => {}
            }
            let next = update.string("version");
            if next.is_none() || (next == version && update.flag("truncated").ok().flatten() == Some(true)) {
                return Err(Error::protocol("WaitForUpdatesEx", "an update without a new version"));
            }
            version = next;
        }
    }

    /// One long poll; `None` when nothing happened.
    async fn poll(&self, collector: &MoRef, version: Option<&str>, end: Instant) -> Result<Option<Node>, Error> {
        let s = &self.session;
        let left = end.saturating_duration_since(Instant::now());
        // Below the idle limits of the proxies and firewalls between; the server takes whole seconds.
        let wait = left.min(s.poll).as_secs().max(1);
        let request = Request::read("WaitForUpdatesEx", collector, |w| {
            if let Some(version) = version {
                w.text("version", version);
            }
            w.nest("options", |w| w.value("maxWaitSeconds", wait));
        });
        let response = s.call(&request, Duration::from_secs(wait) * 2).await?;
        Ok(response.children.into_iter().find(|c| &*c.name == "returnval"))
    }
}

enum Seen {
    Nothing,
    Final,
    Gone,
}

/// Looks for the awaited state in an update set.
fn seen(update: &Node, watched: Watched<'_>) -> Seen {
    for object in update.all("filterSet").flat_map(|f| f.all("objectSet")) {
        if object.opt_ref("obj").ok().flatten().is_some_and(|o| o.value != watched.object.value) {
            continue;
        }
        if object.str("kind") == Some("leave") {
            return Seen::Gone;
        }
        let (head, tail) = watched.path.split_once('.').unwrap_or((watched.path, ""));
        let state = |c: &Node| match c.str("name") {
            Some(name) if name == watched.path => c.string("val"),
            // A server may tell the whole of which the state is a part.
            Some(name) if name == head => c.child("val").and_then(|v| v.string(tail)),
            _ => None,
        };
        if object.all("changeSet").filter_map(state).any(|s| (watched.is_final)(&s)) {
            return Seen::Final;
        }
    }
    Seen::Nothing
}

/// Turns "object not found" for the object itself into `kind`.
pub(crate) fn gone(error: Error, object: &MoRef, kind: ErrorKind) -> Error {
    let about_it = match error.fault().map(|f| &f.kind) {
        Some(FaultKind::ManagedObjectNotFound { object: named }) => {
            named.as_ref().is_none_or(|o| o.value == object.value)
        }
        _ => false,
    };
    if about_it { Error::new(kind, error.op(), object.to_string()).with_source(error) } else { error }
}

/// Whether a failed watch is worth another one: the collector or the way to it was lost, not the task.
fn may_watch_again(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unreachable | ErrorKind::Deadline => true,
        ErrorKind::Fault(fault) => matches!(
            fault.kind,
            FaultKind::NotAuthenticated
                | FaultKind::InvalidCollectorVersion
                | FaultKind::ManagedObjectNotFound { .. }
                | FaultKind::RequestCanceled
                | FaultKind::HostCommunication
        ),
        _ => false,
    }
}
