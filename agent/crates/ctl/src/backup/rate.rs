//! How fast the disks came: bytes and the time between the first opening and the last end of a disk. Attaching, detaching and
//! the snapshot are not part of it. Decides nothing.
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::output::bytes;

#[derive(Debug, Default)]
pub(super) struct Rate {
    span: Option<(Instant, Instant)>,
    /// Of all frames.
    total: u64,
    /// Of frames that are not zero.
    data: u64,
}

impl Rate {
    /// A disk was opened, or has come to its end.
    pub(super) fn mark(&mut self) {
        let now = Instant::now();
        let (first, _) = self.span.unwrap_or((now, now));
        self.span = Some((first, now));
    }

    pub(super) fn came(&mut self, length: u64, zero: bool) {
        self.total += length;
        self.data += if zero { 0 } else { length };
    }

    fn took(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// 10^6 bytes a second, of zero blocks, too: they were read. `None`: it took no time.
    fn megabytes_per_second(&self) -> Option<f64> {
        let seconds = self.took().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "three digits for a reader")]
        (seconds > 0.0).then(|| self.total as f64 / 1e6 / seconds)
    }

    /// "20.0 GiB (12.0 GiB data) in 11.2 s: 1917 MB/s".
    pub(super) fn line(&self) -> String {
        let (total, data, seconds) = (bytes(self.total), bytes(self.data), self.took().as_secs_f64());
        let rate = self.megabytes_per_second().map_or_else(String::new, |rate| format!(": {rate:.0} MB/s"));
        format!("{total} ({data} data) in {seconds:.1} s{rate}")
    }

    pub(super) fn json(&self) -> Value {
        json!({"bytes": self.total, "data_bytes": self.data, "seconds": self.took().as_secs_f64(),
            "mb_per_second": self.megabytes_per_second()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_count_as_read_and_no_time_has_no_rate() {
        let mut rate = Rate::default();
        rate.came(3_000_000, false);
        rate.came(1_000_000, true);
        assert_eq!(
            (rate.json()["mb_per_second"].as_f64(), rate.json()["data_bytes"].as_u64()),
            (None, Some(3_000_000))
        );
        let now = Instant::now();
        rate.span = Some((now, now + Duration::from_secs(2)));
        assert_eq!(rate.json()["mb_per_second"].as_f64(), Some(2.0));
        assert!(rate.line().ends_with("in 2.0 s: 2 MB/s"), "{}", rate.line());
    }
}
