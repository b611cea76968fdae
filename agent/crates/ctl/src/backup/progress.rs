//! How far one disk is: a bar on a terminal, a JSON line or a plain line now and then elsewhere. Decides nothing.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use serde_json::json;

use crate::output::{Output, bytes};

/// JSON readers draw their own bars; faster than this helps nobody.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// A log is read later.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

/// What is shown beside the bytes; written by whom the agent tells it.
#[derive(Debug, Clone, Default)]
pub struct Aside(Arc<Mutex<Option<String>>>);

impl Aside {
    pub fn show(&self, text: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Progress of one disk; lives in the thread that writes it.
#[derive(Debug)]
pub struct DiskProgress {
    out: Output,
    bar: ProgressBar,
    key: i32,
    label: String,
    /// Bytes that are to come.
    total: u64,
    done: u64,
    zero: u64,
    told: Instant,
    aside: Aside,
}

impl DiskProgress {
    #[must_use]
    pub fn new(out: &Output, key: i32, label: &str, total: u64) -> Self {
        let bar = out.bar(label, total);
        let (out, label, told) = (out.clone(), label.to_owned(), Instant::now());
        Self { out, bar, key, label, total, done: 0, zero: 0, told, aside: Aside::default() }
    }

    #[must_use]
    pub fn aside(&self) -> Aside {
        self.aside.clone()
    }

    /// Something about this disk that does not fail it.
    pub fn remark(&self, what: &str) {
        self.out.warning(&format!("{}: {what}", self.label));
    }

    /// `length` more bytes are in the image.
    pub fn advance(&mut self, length: u64, zero: bool) {
        self.done += length;
        if zero {
            self.zero += length;
        }
        if !self.bar.is_hidden() {
            self.bar.set_message(self.beside());
        }
        self.bar.inc(length);
        let every = if self.out.is_json() { JSON_EVERY } else { PLAIN_EVERY };
        if self.told.elapsed() >= every {
            self.told = Instant::now();
            self.tell();
        }
    }

    fn beside(&self) -> String {
        let zero = (self.zero > 0).then(|| format!("zero {}", bytes(self.zero)));
        zero.into_iter().chain(self.aside.text()).collect::<Vec<_>>().join("; ")
    }

    fn tell(&self) {
        self.out.event(|| {
            json!({"event": "progress", "device_key": self.key, "bytes": self.done, "zero_bytes": self.zero,
                "total_bytes": self.total})
        });
        if self.out.is_plain() {
            let share = self.done.saturating_mul(100) / self.total.max(1);
            let aside = self.aside.text().map_or_else(String::new, |text| format!("; {text}"));
            self.out.line(&format!("{}: {share}% of {}{aside}", self.label, bytes(self.total)));
        }
    }
}

impl Drop for DiskProgress {
    fn drop(&mut self) {
        // A disk that was given up must not leave a bar that looks alive.
        if self.done == self.total {
            self.bar.finish();
        } else {
            self.bar.abandon();
        }
    }
}
