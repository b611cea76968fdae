//! Places that are counted by who takes them: so many of all, so many of one. Handshakes and connections by address, connections by
//! client. Knows neither TLS nor sockets.
use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Places<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    all: usize,
    each: usize,
}

/// Gives its place back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    places: Places<K>,
    of: K,
}

/// Whoever has one IPv6 address usually has a /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            v6.to_ipv4_mapped().map_or_else(|| IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()), IpAddr::V4)
        }
    }
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { taken: Arc::default(), all, each }
    }

    /// How many one may take.
    pub(super) fn each(&self) -> usize {
        self.each
    }

    pub(super) fn take(&self, of: K) -> Option<Place<K>> {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = all.values().sum();
        let own = all.get(&of).copied().unwrap_or(0);
        if total >= self.all || own >= self.each {
            return None;
        }
        all.insert(of.clone(), own + 1);
        Some(Place { places: self.clone(), of })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut all = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_host_are_one() {
        let places = Places::new(100, 3);
        let take = |address: &str| places.take(network(address.parse().unwrap()));
        let held: Vec<_> = (0..3).map(|n| take(&format!("2001:db8::{n:x}")).unwrap()).collect();
        assert!(take("2001:db8::ffff").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), network("10.0.0.1".parse().unwrap()));
        drop(held);
    }

    #[test]
    fn one_can_not_take_every_place() {
        let (all, each) = (50, 6);
        let places = Places::new(all, each);
        let mut held: Vec<_> = (0..each).map(|_| places.take(0).unwrap()).collect();
        assert!(places.take(0).is_none() && places.take(1).is_some());
        held.pop();
        held.push(places.take(0).unwrap());
        for n in 1..=all {
            held.extend(places.take(n));
        }
        assert_eq!(held.len(), all);
        drop(held);
        assert!(places.taken.lock().unwrap().is_empty(), "what ended is not remembered");
    }
}
