//! What a signal asks of a survey that runs, and what would be left if it ended this moment.
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// Shared by the survey and whoever waits for signals.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    owed: Mutex<Option<String>>,
}

impl Stop {
    /// No further step but undoing.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// What may be left in vCenter now, and how it is removed.
    #[must_use]
    pub fn owed(&self) -> Option<String> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn owe(&self, what: Option<String>) {
        *self.owed.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}
