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

    #[tokio::test(start_paused = true)]
    async fn silence_grows_until_a_step_and_a_question_is_kept_for_a_loop_that_is_busy() {
        let pulse = Pulse::new();
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(pulse.silent_for(), Duration::from_secs(7));
        pulse.ask();
        assert_eq!(pulse.silent_for(), Duration::from_secs(7), "a question alone is no step");
        pulse.asked().await;
        pulse.beat();
        assert_eq!(pulse.silent_for(), Duration::ZERO);
    }
}
