//! Slots that a controller reserved for work that it will send: others are not admitted for them. Counted, never chosen: which unit a
//! disk gets is decided when it is attached, so a reservation can be in nobody's way but at admission. In memory only: it owes nothing.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    reason,
};

/// See the module.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<BTreeMap<String, Reserved>>);

#[derive(Debug)]
struct Reserved {
    slots: usize,
    end: Instant,
    /// The client that reserved them.
    owner: Arc<str>,
}

impl Reservations {
    /// Reserves in place of what this id had; none: gives it up. Tells how many of `room` are free then. `may`: whether the client may
    /// touch what belongs to this owner. It is asked under the lock: of two clients that take one new id at the same moment the second
    /// meets the first.
    ///
    /// # Errors
    /// What `may` says; [`reason::ATT_NO_SLOT`]. Nothing was changed then.
    pub fn set(
        &self,
        id: &str,
        owner: &Arc<str>,
        slots: usize,
        ttl: Duration,
        room: usize,
        may: impl FnOnce(&str) -> Result<()>,
    ) -> Result<usize> {
        let mut all = self.alive();
        // Who may change it does not take it over.
        let owner = match all.get(id) {
            Some(known) => {
                may(&known.owner)?;
                Arc::clone(&known.owner)
            }
            None => Arc::clone(owner),
        };
        let others: usize = all.iter().filter(|(other, _)| *other != id).map(|(_, one)| one.slots).sum();
        if slots > 0 && others.saturating_add(slots) > room {
            let detail = format!("{slots} slots, {room} free units, {others} reserved");
            return Err(Error::new(&reason::ATT_NO_SLOT, detail));
        }
        all.remove(id);
        if slots > 0 {
            all.insert(id.to_owned(), Reserved { slots, end: Instant::now() + ttl, owner });
        }
        Ok(room.saturating_sub(others + slots))
    }

    /// Whose reservation this is; `None`: there is none.
    #[must_use]
    pub fn owner(&self, id: &str) -> Option<Arc<str>> {
        self.alive().get(id).map(|one| Arc::clone(&one.owner))
    }

    /// How many slots are kept from work that names this reservation, or none.
    #[must_use]
    pub fn kept_from(&self, id: Option<&str>) -> usize {
        self.alive().iter().filter(|(other, _)| Some(other.as_str()) != id).map(|(_, one)| one.slots).sum()
    }

    /// So many of its disks are attached: they hold real slots now.
    pub fn used(&self, id: &str, disks: usize) {
        let mut all = self.alive();
        if let Some(one) = all.get_mut(id) {
            one.slots = one.slots.saturating_sub(disks);
        }
        all.retain(|_, one| one.slots > 0);
    }

    fn alive(&self) -> MutexGuard<'_, BTreeMap<String, Reserved>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, one| one.end > now);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// As an operator, who may touch only what is his own.
    fn set(all: &Reservations, id: &str, who: &str, slots: usize, room: usize) -> Result<usize> {
        let may = |owner: &str| if owner == who { Ok(()) } else { Err(Error::new(&reason::AUT_OWNER, owner)) };
        all.set(id, &who.into(), slots, LONG, room, may)
    }

    fn code(answer: Result<usize>) -> &'static str {
        answer.unwrap_err().reason().code
    }

    #[test]
    fn what_is_reserved_is_kept_from_others_and_used_up() {
        let all = Reservations::default();
        let set = |id: &str, slots, room| set(&all, id, "DNS:b1", slots, room);
        assert_eq!(set("a", 3, 5).unwrap(), 2);
        assert_eq!(code(set("b", 3, 5)), "HA-ATT-001");
        assert_eq!(set("b", 2, 5).unwrap(), 0);
        assert_eq!((all.owner("a").as_deref(), all.owner("c")), (Some("DNS:b1"), None));
        assert_eq!((all.kept_from(None), all.kept_from(Some("a")), all.kept_from(Some("b"))), (5, 2, 3));
        assert_eq!(set("a", 1, 5).unwrap(), 2, "in place of its three");
        assert_eq!(all.kept_from(None), 3);
        all.used("b", 1);
        assert_eq!(all.kept_from(Some("a")), 1);
        all.used("b", 5);
        all.used("unknown", 5);
        assert_eq!(set("a", 0, 0).unwrap(), 0);
        assert_eq!(all.kept_from(None), 0);
    }

    #[test]
    fn one_that_is_over_keeps_nothing() {
        let all = Reservations::default();
        assert_eq!(all.set("a", &"".into(), 3, Duration::ZERO, 5, |_| Ok(())).unwrap(), 2);
        assert_eq!(all.kept_from(None), 0);
    }

    #[test]
    fn what_belongs_to_another_is_neither_replaced_nor_given_up() {
        let all = Reservations::default();
        set(&all, "a", "DNS:b1", 3, 5).unwrap();
        for slots in [0, 1, 9] {
            assert_eq!(code(set(&all, "a", "DNS:b2", slots, 5)), "HA-AUT-002", "{slots} slots");
        }
        assert_eq!((all.owner("a").as_deref(), all.kept_from(None)), (Some("DNS:b1"), 3));
        // Who may all changes it, and does not take it over.
        assert_eq!(all.set("a", &"DNS:admin".into(), 2, LONG, 5, |_| Ok(())).unwrap(), 3);
        assert_eq!(all.owner("a").as_deref(), Some("DNS:b1"));
    }

    #[test]
    fn of_two_clients_that_take_one_id_at_the_same_moment_one_gets_it() {
        for _ in 0..100 {
            let (all, start) = (Reservations::default(), Barrier::new(2));
            let take = |who: &'static str, slots: usize| {
                start.wait();
                set(&all, "a", who, slots, 5).is_ok().then_some((who, slots))
            };
            let got = thread::scope(|scope| {
                let (one, two) = (scope.spawn(|| take("DNS:b1", 1)), scope.spawn(|| take("DNS:b2", 2)));
                [one.join().unwrap(), two.join().unwrap()]
            });
            let mut won = got.into_iter().flatten();
            let (who, slots) = won.next().unwrap();
            assert!(won.next().is_none(), "both were told that they have it");
            assert_eq!((all.owner("a").as_deref(), all.kept_from(None)), (Some(who), slots));
        }
    }
}
