//! What attaching, detaching and transferring cost at this site, measured by jobs: for the cost model and for what Explain
//! expects. A small file of its own in the state folder; losing it costs nothing but the figures.
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

const FILE: &str = "rates.json";
/// Weight of a new figure: the last ten or so decide.
const WEIGHT: f64 = 0.2;
/// A transfer of less says more about its beginning than about the rate.
const MIN_BYTES: u64 = 16 << 20;

/// Seconds, and bytes a second; `None`: never measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    pub attach_seconds: Option<f64>,
    pub detach_seconds: Option<f64>,
    pub hotadd_bytes_per_second: Option<f64>,
    pub nbd_bytes_per_second: Option<f64>,
    /// Bytes of the disk, not of its stream.
    pub export_bytes_per_second: Option<f64>,
}

/// One disk by HotAdd.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Reconfigure to proven device.
    pub attach_seconds: f64,
    /// 0: not measured.
    pub detach_seconds: f64,
    pub bytes: u64,
    pub transfer_seconds: f64,
}

impl Rates {
    /// Attach, transfer and detach of so many bytes.
    #[must_use]
    pub fn hotadd_seconds(&self, bytes: u64) -> Option<f64> {
        Some(self.attach_seconds? + transfer(bytes, self.hotadd_bytes_per_second?) + self.detach_seconds?)
    }

    #[must_use]
    pub fn nbd_seconds(&self, bytes: u64) -> Option<f64> {
        Some(transfer(bytes, self.nbd_bytes_per_second?))
    }

    #[must_use]
    pub fn export_seconds(&self, bytes: u64) -> Option<f64> {
        Some(transfer(bytes, self.export_bytes_per_second?))
    }

    fn take(&mut self, sample: &Sample) {
        mix(&mut self.attach_seconds, sample.attach_seconds);
        mix(&mut self.detach_seconds, sample.detach_seconds);
        if let Some(rate) = rate(sample.bytes, sample.transfer_seconds) {
            mix(&mut self.hotadd_bytes_per_second, rate);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn transfer(bytes: u64, rate: f64) -> f64 {
    bytes as f64 / rate.max(1.0)
}

#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn rate(bytes: u64, seconds: f64) -> Option<f64> {
    (bytes >= MIN_BYTES && seconds > 0.0).then(|| bytes as f64 / seconds)
}

fn mix(known: &mut Option<f64>, new: f64) {
    if new > 0.0 && new.is_finite() {
        *known = Some(known.map_or(new, |old| old + WEIGHT * (new - old)));
    }
}

/// The file.
#[derive(Debug)]
pub struct RateBook {
    path: PathBuf,
    rates: Mutex<Rates>,
}

impl RateBook {
    /// A file that is missing or can't be read is an empty one.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let read = || serde_json::from_slice(&fs::read(&path).ok()?).ok();
        let rates = Mutex::new(read().unwrap_or_default());
        Self { path, rates }
    }

    #[must_use]
    pub fn now(&self) -> Rates {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a disk by HotAdd cost; blocking.
    pub fn hotadd(&self, sample: &Sample) {
        self.change(|rates| rates.take(sample));
    }

    /// Takes what a transfer by NBD cost; blocking.
    pub fn nbd(&self, bytes: u64, seconds: f64) {
        self.change(|rates| {
            if let Some(rate) = rate(bytes, seconds) {
                mix(&mut rates.nbd_bytes_per_second, rate);
            }
        });
    }

    /// Takes what a disk by an export cost; blocking.
    pub fn export(&self, bytes: u64, seconds: f64) {
        self.change(|rates| {
            if let Some(rate) = rate(bytes, seconds) {
                mix(&mut rates.export_bytes_per_second, rate);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Rates)) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut rates);
        if let Err(error) = self.write(&rates) {
            tracing::debug!(%error, path = %self.path.display(), "measured rates could not be kept");
        }
    }

    fn write(&self, rates: &Rates) -> io::Result<()> {
        let next = self.path.with_extension("json.new");
        fs::write(&next, serde_json::to_vec(rates)?)?;
        fs::rename(&next, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sample = Sample { attach_seconds: 10.0, detach_seconds: 4.0, bytes: 1 << 30, transfer_seconds: 8.0 };

    #[test]
    fn nothing_is_expected_before_it_was_measured() {
        assert_eq!(Rates::default().hotadd_seconds(1), None);
        assert_eq!(Rates::default().nbd_seconds(1), None);
        let mut rates = Rates::default();
        rates.take(&Sample { detach_seconds: 0.0, ..SAMPLE });
        assert_eq!(rates.hotadd_seconds(1), None, "the detach is not known");
        rates.take(&SAMPLE);
        let expected = rates.hotadd_seconds(1 << 30).unwrap();
        assert!((expected - 22.0).abs() < 0.01, "{expected}");
    }

    #[test]
    fn small_transfers_do_not_count_and_new_figures_pull_slowly() {
        let mut rates = Rates::default();
        rates.take(&Sample { bytes: 4096, transfer_seconds: 1.0, ..SAMPLE });
        assert_eq!(rates.hotadd_bytes_per_second, None);
        rates.take(&Sample { attach_seconds: 20.0, ..SAMPLE });
        assert!((rates.attach_seconds.unwrap() - 12.0).abs() < 0.01, "{rates:?}");
    }

    #[test]
    fn they_outlive_the_agent_and_a_broken_file_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let book = RateBook::open(dir.path());
        book.hotadd(&SAMPLE);
        book.nbd(1 << 30, 4.0);
        assert_eq!(RateBook::open(dir.path()).now(), book.now());
        assert!(book.now().nbd_seconds(1 << 30).is_some());
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(RateBook::open(dir.path()).now(), Rates::default());
    }
}
