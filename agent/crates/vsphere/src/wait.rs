//! Waiting for a task by property updates. Source: vSphere API 8.0, PropertyCollector.CreateFilter, WaitForUpdatesEx.
//!
//! ```text
//!  watch ──CreatePropertyCollector, CreateFilter──▶ poll ──WaitForUpdatesEx──┐
//!    ▲                                               ▲ idle, truncated, state not final │
//!    │                                               └──────────────────────────────────┤
//!    ├── session ended, collector gone, connection lost (back off) ◀────────────────────┤ error
//!    └── no answer in time: the task is read by itself; not ended (back off) ◀───────────┤
//!        TaskGone, Deadline, Cancelled, anything else: give up ◀────────────────────────┤
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
use crate::task::{TaskInfo, TaskState, gone};
use crate::xml::Node;

const OP: &str = "wait_task";
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
        let last: Mutex<Option<Error>> = Mutex::default();
        let remember = |error| *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        let work = async {
            self.session.sweep().await;
            let mut pause = FIRST_PAUSE;
            loop {
                match self.watch(task, end).await {
                    Err(error) if may_watch_again(&error) => {
                        tracing::debug!(%task, %error, "watching the task anew");
                        // The lost answer may have been the task's end.
                        let ask = *error.kind() == ErrorKind::Deadline;
                        remember(error);
                        match if ask { Some(self.task(task).await) } else { None } {
                            Some(Ok(info)) if info.state.is_final() => return Ok((info, None)),
                            Some(Err(error)) if !may_watch_again(&error) => return Err(error),
                            Some(Err(error)) => remember(error),
                            _ => {}
                        }
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
            () = cancelled => return Err(Error::new(ErrorKind::Cancelled, OP, format!("{task} goes on"))),
        };
        match done {
            Some(Ok((info, collector))) => {
                // After the deadline's reach: a slow clean-up must not turn a known end into an unknown one.
                if let Some(collector) = collector {
                    collector.discard().await;
                }
                Ok(info)
            }
            Some(Err(error)) => Err(error),
            None => {
                let late = Error::new(ErrorKind::Deadline, OP, format!("{task} not done in {deadline:?}"));
                Err(match last.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    Some(cause) => late.with_source(cause),
                    None => late,
                })
            }
        }
    }

    /// One try: from a new collector to the task's end.
    async fn watch(&self, task: &MoRef, end: Instant) -> Result<(TaskInfo, Option<Scoped<'_>>), Error> {
        let s = &self.session;
        let create = Request::read("CreatePropertyCollector", &s.content.property_collector, |_| {});
        let collector = s.call_value(&create, s.timeout).await?.moref().map_err(|e| Error::shape(create.op, e))?;
        let scoped = Scoped::new(s, collector.clone());
        let filter = Request::read("CreateFilter", &collector, |w| {
            w.nest("spec", |w| property::object_spec(w, task, &["info.state"]));
            w.value("partialUpdates", false);
        });
        s.call(&filter, s.timeout).await.map_err(|e| gone(e, task))?;
        let mut version: Option<String> = None;
        loop {
            let update = self.poll(&collector, version.as_deref(), end).await.map_err(|e| gone(e, task))?;
            let Some(update) = update else { continue };
            match seen(&update, task) {
                Seen::Final => break,
                Seen::Gone => return Err(Error::new(ErrorKind::TaskGone, "WaitForUpdatesEx", task.to_string())),
                Seen::Nothing => {}
            }
            let next = update.string("version");
            if next.is_none() || (next == version && update.flag("truncated").ok().flatten() == Some(true)) {
                return Err(Error::protocol("WaitForUpdatesEx", "an update without a new version"));
            }
            version = next;
        }
        // The whole info in one read: an update may carry the state before the result.
        Ok((self.task(task).await?, Some(scoped)))
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

/// Looks for the end of the task in an update set.
fn seen(update: &Node, task: &MoRef) -> Seen {
    for object in update.all("filterSet").flat_map(|f| f.all("objectSet")) {
        if object.opt_ref("obj").ok().flatten().is_some_and(|o| o.value != task.value) {
            continue;
        }
        if object.str("kind") == Some("leave") {
            return Seen::Gone;
        }
        let state = |c: &Node| match c.str("name") {
            Some("info.state") => c.str("val").and_then(TaskState::parse),
            Some("info") => c.child("val").and_then(|v| v.str("state")).and_then(TaskState::parse),
            _ => None,
        };
        if object.all("changeSet").filter_map(state).any(TaskState::is_final) {
            return Seen::Final;
        }
    }
    Seen::Nothing
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
