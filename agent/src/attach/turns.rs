//! Whose turn it is to take a snapshot: at most so many of ours stand on one datastore at a time, since each one's delta grows there
//! and its removal costs the datastore's time.
//!
//! ```text
//! asks ─▶ waits ── a place on each of its datastores, and nobody who asked before waits for one of them ─▶ has its turn ─▶ over
//!           └── patience over, or nobody wants it any more ─▶ refused
//! ```
//! What stands is what the journal owes: a snapshot that is kept for a job that resumes, or that can't be removed yet, counts. A turn
//! counts until its holder's snapshot is in the journal. In order of asking, per datastore: one that is full holds up nobody elsewhere.
use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::ProxyVm;
use crate::{
    error::{Error, Result},
    id::{Moref, SessionId},
    reason,
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns {
    /// Zero: any number.
    most: usize,
    /// In order of asking.
    places: Arc<Mutex<Vec<Place>>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Clone)]
struct Place {
    session: SessionId,
    stores: BTreeSet<Moref>,
    granted: bool,
}

/// A snapshot of ours that stands.
#[derive(Debug)]
struct Standing {
    session: SessionId,
    stores: BTreeSet<Moref>,
}

/// A place in the queue, then the turn; over when dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    session: SessionId,
    /// What was known of the VM before may be old.
    pub waited: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.places().retain(|place| place.session != self.session);
        self.turns.ring();
    }
}

impl Turns {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, places: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// A snapshot of ours may be gone.
    pub(super) fn ring(&self) {
        self.changed.send_replace(());
    }

    fn ask(&self, session: SessionId, stores: BTreeSet<Moref>) -> Turn {
        self.places().push(Place { session, stores, granted: false });
        Turn { turns: self.clone(), session, waited: false }
    }

    /// How many wait for their turn on a datastore.
    #[must_use]
    pub fn waiting(&self, store: &Moref) -> usize {
        self.places().iter().filter(|place| !place.granted && place.stores.contains(store)).count()
    }

    /// Place in the queue, 1 is next: who asked before and waits for one of the same datastores goes first.
    fn position(&self, session: SessionId) -> usize {
        let places = self.places();
        let Some(at) = places.iter().position(|place| place.session == session) else { return 1 };
        let same = |other: &&Place| !other.granted && !other.stores.is_disjoint(&places[at].stores);
        1 + places[..at].iter().filter(same).count()
    }

    /// Grants the turn, or tells the datastore that is full.
    fn grant(&self, session: SessionId, standing: &[Standing]) -> Option<Moref> {
        let mut places = self.places();
        let full = full(&places, session, standing, self.most);
        if full.is_none() {
            places.iter_mut().filter(|place| place.session == session).for_each(|place| place.granted = true);
            // Who waits behind it may be next.
            self.ring();
        }
        full
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The datastore on which this session has to wait.
fn full(places: &[Place], session: SessionId, standing: &[Standing], most: usize) -> Option<Moref> {
    let at = places.iter().position(|place| place.session == session)?;
    let (before, place) = (places.get(..at)?, places.get(at)?);
    let awaited = |store: &Moref| before.iter().any(|other| !other.granted && other.stores.contains(store));
    let taken = |store: &Moref| {
        let journalled = |other: &Place| standing.iter().any(|snapshot| snapshot.session == other.session);
        let granted = places.iter().filter(|p| p.granted && !journalled(p) && p.stores.contains(store)).count();
        granted + standing.iter().filter(|snapshot| snapshot.stores.contains(store)).count()
    };
    place.stores.iter().find(|store| awaited(store) || taken(store) >= most).cloned()
}

impl ProxyVm {
    /// Waits for the session's turn to take a snapshot on these datastores; `waiting` is told why it has to, again when its place in the
    /// queue is another.
    ///
    /// # Errors
    /// [`reason::SNAP_TURN`] when patience is over; whatever `go_on` refuses with.
    pub async fn snapshot_turn<F: Future<Output = ()>>(
        &self,
        session: SessionId,
        stores: &BTreeSet<Moref>,
        patience: Duration,
        waiting: impl Fn(Error) -> F,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<Turn> {
        let mut turn = self.turns.ask(session, stores.clone());
        if self.turns.most == 0 {
            return Ok(turn);
        }
        let (end, mut told) = (Instant::now() + patience, None);
        let mut changed = self.turns.changed.subscribe();
        loop {
            go_on()?;
            changed.mark_unchanged();
            let Some(full) = self.turns.grant(session, &self.standing()) else { return Ok(turn) };
            let position = self.turns.position(session);
            let detail = || format!("{full}: {} at a time, place {position} in the queue", self.turns.most);
            let why = || Error::new(&reason::SNAP_TURN, detail()).at_position(position);
            let now = Instant::now();
            if now >= end {
                return Err(why().about(format!("waited {} s", patience.as_secs())));
            }
            turn.waited = true;
            if told.replace(position) != Some(position) {
                waiting(why()).await;
            }
            // Looks at who asked as often as hosts are looked at.
            timeout(self.deadlines.watch.min(end - now), changed.changed()).await.ok();
        }
    }

    /// How many snapshots of ours stand, or may, on a datastore, and how many wait for their turn there.
    #[must_use]
    pub fn snapshots_on(&self, store: &Moref) -> (usize, usize) {
        let stands = self.standing().iter().filter(|snapshot| snapshot.stores.contains(store)).count();
        (stands, self.turns.waiting(store))
    }

    fn standing(&self) -> Vec<Standing> {
        let state = self.journal.state();
        let snapshots = state.duties().filter_map(|duty| Some((duty.session, duty.snapshot()?)));
        snapshots.map(|(session, snapshot)| Standing { session, stores: snapshot.stores.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(names: &[&str]) -> BTreeSet<Moref> {
        names.iter().map(|name| Moref::new(*name)).collect()
    }

    fn standing(session: SessionId, names: &[&str]) -> Standing {
        Standing { session, stores: stores(names) }
    }

    #[test]
    fn a_datastore_holds_so_many_and_the_next_in_order_gets_the_place() {
        let turns = Turns::new(2);
        let ids: Vec<SessionId> = (0..4).map(|_| SessionId::new()).collect();
        let mut asked: Vec<Turn> = ids.iter().map(|id| turns.ask(*id, stores(&["ds1"]))).collect();
        assert_eq!((turns.grant(ids[0], &[]), turns.grant(ids[1], &[])), (None, None));
        assert_eq!(turns.grant(ids[2], &[]), Some(Moref::new("ds1")), "two turns are out");
        // Journalled meanwhile: counted once, also after its turn is over.
        let first = [standing(ids[0], &["ds1"])];
        assert_eq!(turns.grant(ids[2], &first), Some(Moref::new("ds1")));
        drop(asked.remove(0));
        assert_eq!(turns.grant(ids[2], &first), Some(Moref::new("ds1")));
        assert_eq!([1, 2, 3].map(|n: usize| turns.position(ids[n])), [1, 1, 2]);
        assert_eq!(turns.waiting(&Moref::new("ds1")), 2);
        // The first is gone: the third's, not the fourth's, whoever looks first.
        assert_eq!(turns.grant(ids[3], &[]), Some(Moref::new("ds1")));
        assert_eq!(turns.grant(ids[2], &[]), None);
        // One that gives up leaves its place.
        drop(asked);
        assert_eq!(turns.places().len(), 0);
    }

    #[test]
    fn one_that_waits_holds_up_nobody_elsewhere_but_those_after_it_on_all_of_its_datastores() {
        let turns = Turns::new(1);
        let (kept, both, other, third) = (SessionId::new(), SessionId::new(), SessionId::new(), SessionId::new());
        let stands = [standing(kept, &["ds1"])];
        let _asked = (turns.ask(both, stores(&["ds1", "ds2"])), turns.ask(other, stores(&["ds2"])));
        let _third = turns.ask(third, stores(&["ds3"]));
        assert_eq!(turns.grant(both, &stands), Some(Moref::new("ds1")), "a snapshot that is kept counts");
        assert_eq!(turns.grant(other, &stands), Some(Moref::new("ds2")), "no overtaking");
        assert_eq!(turns.grant(third, &stands), None);
        assert_eq!((turns.position(both), turns.position(other), turns.position(third)), (1, 2, 1));
    }
}
