//! When the settler took its last step: one look, one request, one record. Asked for, an idle loop takes one at once.
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

#[derive(Debug)]
pub(super) struct Pulse {
    last: Mutex<Instant>,
    asked: Notify,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { last: Mutex::new(Instant::now()), asked: Notify::new() }
    }

    pub(super) fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Resolves when somebody asked.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    pub(super) fn silent_for(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_grows_until_a_step_and_a_question_is_kept_for_a_loop_that_is_busy() {
        const LONG: Duration = Duration::from_secs(7000);
        let pulse = Pulse::new();
        *pulse.last.lock().unwrap_or_else(PoisonError::into_inner) -= LONG;
        pulse.ask();
        assert!(pulse.silent_for() >= LONG, "a question alone is no step");
        pulse.asked().await;
        pulse.beat();
        assert!(pulse.silent_for() < LONG);
    }
}
