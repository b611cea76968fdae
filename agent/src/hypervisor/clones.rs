//! Which sessions this run has cloned. One that lives is never forgotten, however many there are: whoever fences it needs its client.
//! Of those that have ended only the last are known. Nothing here asks vSphere.
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

/// Ended ones that are known. Nobody asks for older ones but a duty that is owed for long; then vCenter tells that they have ended.
const MOST: usize = 1024;

/// By key. `C`: what acts by one.
pub(super) struct Known<C> {
    lives: BTreeMap<String, C>,
    /// Oldest first.
    ended: VecDeque<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State<C> {
    Lives(C),
    Ended,
}

impl<C> Default for Known<C> {
    fn default() -> Self {
        Self { lives: BTreeMap::new(), ended: VecDeque::new() }
    }
}

impl<C> fmt::Debug for Known<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("lives", &self.lives.len()).finish_non_exhaustive()
    }
}

impl<C: Clone> Known<C> {
    /// One more. Others that are over by themselves, as `is_over` tells, have ended.
    pub(super) fn insert(&mut self, key: String, client: C, is_over: impl Fn(&C) -> bool) {
        let over = self.lives.iter().filter(|&(_, client)| is_over(client));
        let over: Vec<String> = over.map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| self.end(key));
        self.lives.insert(key, client);
    }

    /// It has ended for good.
    pub(super) fn end(&mut self, key: &str) {
        self.lives.remove(key);
        if self.has_ended(key) {
            return;
        }
        if self.ended.len() >= MOST {
            self.ended.pop_front();
        }
        self.ended.push_back(key.to_owned());
    }

    pub(super) fn has_ended(&self, key: &str) -> bool {
        self.ended.iter().any(|ended| ended == key)
    }

    /// `None`: none of this run, or one that ended long ago.
    pub(super) fn state(&self, key: &str) -> Option<State<C>> {
        match self.lives.get(key) {
            Some(client) => Some(State::Lives(client.clone())),
            None => self.has_ended(key).then_some(State::Ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of the first sorts before all others.
    fn many(count: usize) -> Known<usize> {
        let mut known = Known::default();
        for n in 0..count {
            known.insert(format!("key-{n:06}"), n, |_| false);
        }
        known
    }

    #[test]
    fn one_that_lives_is_never_forgotten() {
        let mut known = many(2 * MOST);
        assert_eq!(known.state("key-000000"), Some(State::Lives(0)));
        for n in 1..2 * MOST {
            known.end(&format!("key-{n:06}"));
        }
        assert_eq!(known.state("key-000000"), Some(State::Lives(0)));
        assert_eq!((known.lives.len(), known.ended.len()), (1, MOST));
    }

    #[test]
    fn of_those_that_have_ended_the_last_are_known() {
        let mut known = many(MOST + 1);
        for n in 0..=MOST {
            known.end(&format!("key-{n:06}"));
            // Twice is once.
            known.end(&format!("key-{n:06}"));
        }
        assert_eq!(known.state("key-000000"), None);
        assert_eq!(known.state("key-000001"), Some(State::Ended));
        assert_eq!(known.state(&format!("key-{MOST:06}")), Some(State::Ended));
    }

    #[test]
    fn one_that_is_over_by_itself_makes_room() {
        let mut known = many(3);
        known.insert("key-more".into(), 3, |client| *client == 1);
        assert_eq!(known.state("key-000001"), Some(State::Ended));
        assert_eq!(known.state("key-000002"), Some(State::Lives(2)));
        assert_eq!(known.lives.len(), 3);
    }
}
