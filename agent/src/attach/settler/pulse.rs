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
    async fn a_question_is_kept_for_a_busy_loop_and_only_a_step_ends_the_silence() {
        let (pulse, long) = (Pulse::new(), Duration::from_secs(7));
        *pulse.last.lock().unwrap_or_else(PoisonError::into_inner) -= long;
        pulse.ask();
        assert!(pulse.silent_for() >= long, "a question alone is no step");
        pulse.asked().await;
        assert!(pulse.silent_for() >= long);
        pulse.beat();
        assert!(pulse.silent_for() < long);
    }
}
