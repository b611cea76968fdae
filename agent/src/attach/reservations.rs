//! Slots that a controller reserved for work that it will send: others are not admitted for them. Counted, never chosen: which unit a
//! disk gets is decided when it is attached, so a reservation can be in nobody's way but at admission. In memory only: it owes nothing.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
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
    /// Reserves in place of what this id had; none: gives it up. False: of `room` fewer are free, and nothing was changed.
    #[must_use]
    pub fn set(&self, id: &str, owner: &Arc<str>, slots: usize, ttl: Duration, room: usize) -> bool {
        let mut all = self.alive();
        let others: usize = all.iter().filter(|(other, _)| *other != id).map(|(_, one)| one.slots).sum();
        if slots > 0 && others + slots > room {
            return false;
        }
        // Who may change it does not take it over.
        let owner = all.remove(id).map_or_else(|| Arc::clone(owner), |known| known.owner);
        if slots > 0 {
            all.insert(id.to_owned(), Reserved { slots, end: Instant::now() + ttl, owner });
        }
        true
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
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn what_is_reserved_is_kept_from_others_and_used_up() {
        let (all, own) = (Reservations::default(), "DNS:b1".into());
        let set = |id: &str, slots, room| all.set(id, &own, slots, LONG, room);
        assert!(set("a", 3, 5) && !set("b", 3, 5) && set("b", 2, 5));
        assert_eq!((all.owner("a"), all.owner("c")), (Some(Arc::clone(&own)), None));
        assert_eq!((all.kept_from(None), all.kept_from(Some("a")), all.kept_from(Some("b"))), (5, 2, 3));
        assert!(set("a", 1, 5), "in place of its three");
        assert_eq!(all.kept_from(None), 3);
        all.used("b", 1);
        assert_eq!(all.kept_from(Some("a")), 1);
        all.used("b", 5);
        all.used("unknown", 5);
        assert!(set("a", 0, 0));
        assert_eq!(all.kept_from(None), 0);
    }

    #[test]
    fn one_that_is_over_keeps_nothing() {
        let all = Reservations::default();
        assert!(all.set("a", &"".into(), 3, Duration::ZERO, 5));
        assert_eq!(all.kept_from(None), 0);
    }
}
