//! A line in the log that anybody on the network can cause: so many a minute, and then only their number.
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Over which lines are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Lines in it.
const LINES: u32 = 20;

/// See the module.
#[derive(Debug)]
pub struct Rare(Mutex<State>);

#[derive(Debug)]
struct State {
    begun: Instant,
    told: u32,
    kept_back: u64,
}

impl Default for Rare {
    fn default() -> Self {
        Self(Mutex::new(State { begun: Instant::now(), told: 0, kept_back: 0 }))
    }
}

impl Rare {
    /// Whether to write this one, and how many were not written since the last.
    pub fn ask(&self) -> Option<u64> {
        self.ask_at(Instant::now())
    }

    fn ask_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.begun) >= WINDOW {
            (state.begun, state.told) = (now, 0);
        }
        if state.told == LINES {
            state.kept_back += 1;
            return None;
        }
        state.told += 1;
        Some(std::mem::take(&mut state.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_their_number() {
        let (rare, start) = (Rare::default(), Instant::now());
        let told = (0..1000).filter(|_| rare.ask_at(start).is_some()).count();
        assert_eq!(told, LINES as usize);
        assert_eq!(rare.ask_at(start + WINDOW), Some(1000 - u64::from(LINES)));
        assert_eq!(rare.ask_at(start + WINDOW), Some(0));
    }
}
