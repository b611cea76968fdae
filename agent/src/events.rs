//! What happens, for whoever watches: sent when a record is durable, so that nothing is told that a crash takes back. Slow
//! readers lose events and are told how many; nobody is waited for.
use futures_util::{Stream, StreamExt as _, stream};
use hotadd_api::v1::{Event, EventKind};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tokio_util::sync::CancellationToken;

use crate::{
    attach::now,
    error::Error,
    journal::{Record, State, history::End},
    reason,
};

/// Events that a reader may be behind. A job has about ten.
const BACKLOG: usize = 1024;

/// See the module.
#[derive(Debug, Clone)]
pub struct Events {
    tell: broadcast::Sender<Event>,
    closed: CancellationToken,
}

impl Default for Events {
    fn default() -> Self {
        Self { tell: broadcast::Sender::new(BACKLOG), closed: CancellationToken::new() }
    }
}

impl Events {
    /// Tells one thing.
    pub fn send(&self, kind: EventKind, id: impl ToString, vm: &str, why: Option<&Error>) {
        let reason = why.map(Error::to_reason);
        let event = Event { time: now(), kind: kind.into(), id: id.to_string(), vm: vm.to_owned(), reason, missed: 0 };
        // Nobody watches: fine.
        self.tell.send(event).ok();
    }

    /// Tells what these records mean. `before`: the state that they were folded into.
    pub fn tell(&self, records: &[Record], before: &State) {
        for record in records {
            match record {
                Record::Began(duty) => self.send(EventKind::DutyOpened, duty.id, &duty.vm_name, None),
                Record::Retired { duty, .. } => {
                    let vm = before.get(*duty).map(|duty| duty.vm_name.as_str()).unwrap_or_default();
                    self.send(EventKind::DutyRetired, duty, vm, None);
                }
                Record::Kept { duty, .. } | Record::Adopted { duty, .. } => {
                    let vm = before.get(*duty).map(|duty| duty.vm_name.as_str()).unwrap_or_default();
                    self.send(EventKind::DutyKept, duty, vm, None);
                }
                Record::Reopened { duty, .. } => {
                    let late = before.late().find(|late| late.duty.id == *duty);
                    self.send(EventKind::DutyOpened, duty, late.map_or("", |late| &late.duty.vm_name), None);
                }
                Record::Alarm { duty, why, .. } => {
                    let vm = before.get(*duty).map(|duty| duty.vm_name.as_str()).unwrap_or_default();
                    self.send(EventKind::DutyAlarm, duty, vm, Some(&Error::new(&reason::DUTY_OWED, why).owing()));
                }
                Record::JobBegan(began) => self.send(EventKind::JobBegan, began.job, &began.vm, None),
                Record::JobEnded { job, end } => {
                    let past = before.history().jobs().find(|past| past.began.job == *job);
                    let vm = past.map(|past| past.began.vm.as_str()).unwrap_or_default();
                    self.send(EventKind::JobEnded, job, vm, why(end).as_ref());
                }
                Record::Untrusted(entry) => {
                    let why = Error::new(&reason::CBT_FALSE, &entry.why);
                    self.send(EventKind::DutyAlarm, entry.disk, &entry.vm, Some(&why));
                }
                Record::LeaseEnded { session, end } => {
                    let past = before.history().sessions().find(|past| past.began.session == *session);
                    let vm = past.map(|past| past.began.vm.as_str()).unwrap_or_default();
                    self.send(EventKind::SessionEnded, session, vm, why(end).as_ref());
                }
                Record::Started { .. }
                | Record::Confirmed { .. }
                | Record::Lapsed { .. }
                | Record::LeaseBegan(_)
                | Record::Tried(_) => {}
            }
        }
    }

    /// Everything from now on, until the agent stops.
    pub fn watch(&self) -> impl Stream<Item = Event> + Send + use<> {
        let heard = BroadcastStream::new(self.tell.subscribe()).map(|event| match event {
            Ok(event) => event,
            Err(BroadcastStreamRecvError::Lagged(missed)) => Event { missed, ..notice(EventKind::Missed) },
        });
        let first = stream::once(async { notice(EventKind::Watching) });
        first.chain(heard).take_until(self.closed.clone().cancelled_owned())
    }

    /// Ends every watch: the port closes.
    pub fn close(&self) {
        self.closed.cancel();
    }
}

fn notice(kind: EventKind) -> Event {
    Event { time: now(), kind: kind.into(), ..Event::default() }
}

fn why(end: &End) -> Option<Error> {
    let known = reason::by_code(&end.code)?;
    let facts = end.reason.strip_prefix(known.summary).unwrap_or(&end.reason);
    Some(Error::new(known, facts.trim_start_matches(": ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed_and_a_closed_port_ends_it() {
        let events = Events::default();
        let mut watch = Box::pin(events.watch());
        for n in 0..BACKLOG + 3 {
            events.send(EventKind::DutyOpened, n, "web01", None);
        }
        assert_eq!(watch.next().await.unwrap().kind(), EventKind::Watching);
        let missed = watch.next().await.unwrap();
        assert_eq!((missed.kind(), missed.missed), (EventKind::Missed, 3));
        assert_eq!(watch.next().await.unwrap().id, "3");
        events.close();
        let rest: Vec<_> = watch.collect().await;
        assert!(rest.len() < BACKLOG + 3);
    }
}
