//! One trace for each job and session, for a collector that speaks OTLP over gRPC (`[traces]`). Made at its end from what it measures anyway:
//! there is no layer that records whatever the code says, so nothing gets out that [`spans`] does not name. Nobody waits for the collector:
//! what it does not take is dropped and counted.
//!
//! ```text
//! begin ─▶ stage, task, read, wait … (story) ─▶ end ─▶ spans ─▶ queue ─full─▶ dropped
//!                                                                 └─▶ batch ─▶ collector ─ not taken, in several tries ─▶ dropped
//! ```
//! What settles after the end of its job or session is in no trace.
mod client;
pub mod otlp;
mod parent;
mod queue;
mod spans;
mod story;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use hotadd_api::v1;

use self::{
    client::Collector,
    queue::Queue,
    story::{Read, Story, Task, Wait},
};
pub use self::{parent::Parent, spans::Ended, story::Of};
use crate::{audit, config::TracesSettings, error::Error, id::SessionId, metrics::Meter};

/// Jobs and sessions at the same time that are noted; of more, the trace is dropped.
const OPEN: usize = 1024;

/// See the module. Cheap to clone; without a configuration it notes nothing.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    open: Mutex<HashMap<SessionId, Story>>,
    queue: Queue,
    meter: Meter,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<SessionId, Story>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traces {
    /// Starts the task that sends. `proxy`: which of the agents it is.
    #[must_use]
    pub fn start(settings: Option<&TracesSettings>, proxy: &str, meter: &Meter) -> Self {
        let Some(settings) = settings else { return Self::default() };
        let queue = Queue::start(Collector::new(settings), settings.timeout, proxy, meter.clone());
        Self(Some(Arc::new(Shared { open: Mutex::default(), queue, meter: meter.clone() })))
    }

    /// A job or session begins. `parent`: the span of who asked.
    pub fn begin(&self, of: Of, session: SessionId, parent: Option<Parent>) {
        let Some(shared) = &self.0 else { return };
        if parent.is_some_and(|parent| !parent.sampled) {
            return;
        }
        let mut open = shared.open();
        if open.len() < OPEN {
            open.insert(session, Story::new(of, session, parent, Instant::now()));
        } else {
            shared.meter.traces_dropped(1);
        }
    }

    /// What is not noted any more, or never was, notes nothing.
    fn note(&self, session: SessionId, note: impl FnOnce(&mut Story, Instant)) {
        let Some(shared) = &self.0 else { return };
        if let Some(story) = shared.open().get_mut(&session) {
            note(story, Instant::now());
        }
    }

    /// A stage begins; one that did not end until then was broken off.
    pub fn stage(&self, session: SessionId, name: &'static str) {
        self.note(session, |story, now| story.stage(name, now));
    }

    /// The VM was found.
    pub fn about(&self, session: SessionId, moref: &str, name: &str) {
        self.note(session, |story, _| story.vm = (moref.to_owned(), name.to_owned()));
    }

    /// The stage that runs will not end as it should.
    pub fn stage_broke(&self, session: SessionId, why: &Error) {
        let code = why.reason().code;
        self.note(session, |story, _| story.stage_broke(code));
    }

    /// It has ended.
    pub fn stage_over(&self, session: SessionId) {
        self.note(session, |story, now| story.stage_over(now));
    }

    /// It has ended, and another begins.
    pub fn next_stage(&self, session: SessionId, name: &'static str) {
        self.stage_over(session);
        self.stage(session, name);
    }

    /// A step on vCenter has just ended. `why`: it did not succeed.
    pub fn tasks(&self, session: SessionId, what: &'static str, tasks: &[audit::Task], why: Option<&Error>) {
        self.note(session, |story, now| {
            for task in tasks {
                let code = why.map(|error| error.reason().code);
                story.task(Task { what, id: task.id.clone(), duties: 1, began: task.began, ended: now, code });
            }
        });
    }

    /// A read of a disk has just ended.
    pub fn read(&self, session: SessionId, began: Instant, result: &v1::DiskResult, why: Option<&Error>) {
        let code = why.map(|error| error.reason().code);
        self.note(session, |story, now| {
            let (parts, reasons, engine_refusals) = Default::default();
            let result = v1::DiskResult { parts, reasons, engine_refusals, ..result.clone() };
            story.read(Read { began, ended: now, result, code });
        });
    }

    /// It waits before its snapshot.
    pub fn waits(&self, session: SessionId, why: &Error) {
        let code = why.reason().code;
        self.note(session, |story, at| story.wait(Wait { at, code }));
    }

    /// The job or session has ended.
    pub fn end(&self, session: SessionId, ended: &Ended) {
        let Some(shared) = &self.0 else { return };
        let story = shared.open().remove(&session);
        if let Some(story) = story {
            shared.queue.push(spans::of(&story, ended, Instant::now()));
        }
    }

    /// What is queued gets a last chance, for a short time.
    pub async fn flush(&self) {
        if let Some(shared) = &self.0 {
            shared.queue.flush().await;
        }
    }
}
