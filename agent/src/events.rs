//! What happens, for whoever watches: sent when a record is durable, so that nothing is told that a crash takes back. Events are numbered
//! and the last ones kept, so that a watch that broke off goes on where it was. Slow readers lose events and are told how many; nobody is
//! waited for.
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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

/// Events that a reader may be behind, and that are kept for one that comes back. A job has about ten.
const BACKLOG: usize = 1024;

/// See the module.
#[derive(Debug, Clone)]
pub struct Events {
    tell: broadcast::Sender<Event>,
    kept: Arc<Mutex<Kept>>,
    /// Numbers mean something within one run only.
    run: Arc<str>,
    closed: CancellationToken,
}

/// The last events, in order; their numbers have no gaps.
#[derive(Debug, Default)]
struct Kept {
    /// Number of the last one; 0: there was none.
    last: u64,
    events: VecDeque<Event>,
}

/// Where a watch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    Now,
    /// After the event of this number of that run.
    After {
        run: String,
        sequence: u64,
    },
}

impl Default for Events {
    fn default() -> Self {
        let run = uuid::Uuid::new_v4().to_string().into();
        Self { tell: broadcast::Sender::new(BACKLOG), kept: Arc::default(), run, closed: CancellationToken::new() }
    }
}

impl Events {
    /// Tells one thing.
    pub fn send(&self, kind: EventKind, id: impl ToString, vm: &str, why: Option<&Error>) {
        let reason = why.map(Error::to_reason);
        let event = Event { id: id.to_string(), vm: vm.to_owned(), reason, ..notice(kind) };
        // Under the lock: whoever begins to watch sees each event either kept or sent.
        let mut kept = self.kept();
        kept.last += 1;
        let event = Event { sequence: kept.last, ..event };
        if kept.events.len() == BACKLOG {
            kept.events.pop_front();
        }
        kept.events.push_back(event.clone());
        // Nobody watches: fine.
        self.tell.send(event).ok();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what these records mean. `before`: the state that they were folded into.
    pub fn tell(&self, records: &[Record], before: &State) {
        for record in records {
            match record {
                Record::Began(duty) => self.send(EventKind::DutyOpened, duty.id, &duty.vm_name, None),
                Record::Confirmed { duty, .. } => {
                    let vm = before.get(*duty).map(|duty| duty.vm_name.as_str()).unwrap_or_default();
                    self.send(EventKind::DutyHeld, duty, vm, None);
                }
                Record::LeaseBegan(began) => self.send(EventKind::SessionOpened, began.session, &began.vm, None),
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
                Record::Started { .. } | Record::Lapsed { .. } | Record::Tried(_) => {}
            }
        }
    }

    /// Everything since then, until the agent stops.
    pub fn watch(&self, since: &Since) -> impl Stream<Item = Event> + Send + use<> {
        let (first, receiver) = {
            let kept = self.kept();
            (self.first(&kept, since), self.tell.subscribe())
        };
        let mut last = first.last().map_or(0, |event| event.sequence);
        let heard = BroadcastStream::new(receiver).map(move |event| match event {
            Ok(event) => {
                last = event.sequence;
                event
            }
            Err(BroadcastStreamRecvError::Lagged(missed)) => {
                last += missed;
                Event { missed, sequence: last, ..notice(EventKind::Missed) }
            }
        });
        stream::iter(first).chain(heard).take_until(self.closed.clone().cancelled_owned())
    }

    /// WATCHING, MISSED if something was, and what is kept since then.
    fn first(&self, kept: &Kept, since: &Since) -> Vec<Event> {
        let before = kept.last - kept.events.len() as u64;
        let (from, missed) = match since {
            Since::Now => (kept.last, None),
            Since::After { run, .. } if **run != *self.run => (before, Some(0)),
            Since::After { sequence, .. } if *sequence < before => (before, Some(before - sequence)),
            // A number that was never given: from now on.
            Since::After { sequence, .. } => ((*sequence).min(kept.last), None),
        };
        let watching = Event { run: self.run.to_string(), sequence: from, ..notice(EventKind::Watching) };
        let missed = missed.map(|missed| Event { missed, sequence: from, ..notice(EventKind::Missed) });
        let rest = kept.events.iter().filter(|event| event.sequence > from).cloned();
        std::iter::once(watching).chain(missed).chain(rest).collect()
    }

    /// The newest, newest first, and how many older ones of this run are not among them.
    #[must_use]
    pub fn newest(&self, most: usize) -> (Vec<Event>, u64) {
        let kept = self.kept();
        let newest: Vec<Event> = kept.events.iter().rev().take(most).cloned().collect();
        let older = kept.last.saturating_sub(newest.len() as u64);
        (newest, older)
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
        let mut watch = Box::pin(events.watch(&Since::Now));
        for n in 0..BACKLOG + 3 {
            events.send(EventKind::DutyOpened, n, "web01", None);
        }
        assert_eq!(watch.next().await.unwrap().kind(), EventKind::Watching);
        let missed = watch.next().await.unwrap();
        assert_eq!((missed.kind(), missed.missed, missed.sequence), (EventKind::Missed, 3, 3));
        let next = watch.next().await.unwrap();
        assert_eq!((next.id.as_str(), next.sequence), ("3", 4));
        events.close();
        let rest: Vec<_> = watch.collect().await;
        assert!(rest.len() < BACKLOG + 3);
    }

    #[test]
    fn the_newest_come_first_and_older_ones_are_counted() {
        let events = Events::default();
        assert_eq!(events.newest(3), (Vec::new(), 0));
        for n in 0..BACKLOG + 5 {
            events.send(EventKind::DutyOpened, n, "web01", None);
        }
        let (newest, older) = events.newest(3);
        let last = (BACKLOG + 5) as u64;
        assert_eq!(newest.iter().map(|event| event.sequence).collect::<Vec<_>>(), [last, last - 1, last - 2]);
        assert_eq!(older, last - 3);
    }

    async fn seen(events: &Events, run: &str, sequence: u64, count: usize) -> Vec<Event> {
        let since = Since::After { run: run.to_owned(), sequence };
        events.watch(&since).take(count).collect().await
    }

    #[tokio::test]
    async fn a_watch_goes_on_where_it_broke_off_and_tells_what_is_no_longer_kept() {
        let events = Events::default();
        let run = events.watch(&Since::Now).take(1).collect::<Vec<_>>().await[0].run.clone();
        for n in 0..5 {
            events.send(EventKind::DutyOpened, n, "web01", None);
        }
        let numbers = |seen: &[Event]| seen.iter().map(|event| event.sequence).collect::<Vec<_>>();
        let some = seen(&events, &run, 3, 3).await;
        assert_eq!((numbers(&some), some[0].kind()), (vec![3, 4, 5], EventKind::Watching));
        assert_eq!(numbers(&seen(&events, &run, 99, 1).await), [5], "a number that was never given");
        for n in 5..BACKLOG + 5 {
            events.send(EventKind::DutyOpened, n, "web01", None);
        }
        // Five are gone; two of them were seen.
        let late = seen(&events, &run, 2, 3).await;
        assert_eq!((late[1].kind(), late[1].missed, numbers(&late)), (EventKind::Missed, 3, vec![5, 5, 6]));
        let restarted = seen(&events, "another run", 2, 3).await;
        assert_eq!((restarted[1].kind(), restarted[1].missed, restarted[2].sequence), (EventKind::Missed, 0, 6));
    }
}
