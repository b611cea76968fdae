//! How far one disk is: a bar on a terminal, a JSON line or a plain line now and then elsewhere. Decides nothing.
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::json;

use crate::output::{Output, bytes};

/// JSON readers draw their own bars; faster than this helps nobody.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// A log is read later.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

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
}

impl DiskProgress {
    #[must_use]
    pub fn new(out: &Output, key: i32, label: &str, total: u64) -> Self {
        let bar = out.bar(label, total);
        Self { out: out.clone(), bar, key, label: label.to_owned(), total, done: 0, zero: 0, told: Instant::now() }
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
            if !self.bar.is_hidden() {
                self.bar.set_message(format!("zero {}", bytes(self.zero)));
            }
        }
        self.bar.inc(length);
        let every = if self.out.is_json() { JSON_EVERY } else { PLAIN_EVERY };
        if self.told.elapsed() >= every {
            self.told = Instant::now();
            self.tell();
        }
    }

    fn tell(&self) {
        self.out.event(|| {
            json!({"event": "progress", "device_key": self.key, "bytes": self.done, "zero_bytes": self.zero,
                "total_bytes": self.total})
        });
        if self.out.is_plain() {
            let share = self.done.saturating_mul(100) / self.total.max(1);
            self.out.line(&format!("{}: {share}% of {}", self.label, bytes(self.total)));
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
