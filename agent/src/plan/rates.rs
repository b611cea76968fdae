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
    /// Of transfers that were mostly data: zeros are told, not sent, and may not even lie on the datastore.
    pub hotadd_data_bytes_per_second: Option<f64>,
    /// What one more area costs beside its bytes, with others in flight.
    pub hotadd_area_seconds: Option<f64>,
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
    /// Those that were no zeros.
    pub data_bytes: u64,
    /// 0: not counted.
    pub reads: u64,
    pub transfer_seconds: f64,
    /// Of them, those for which the disk was waited for; `None`: a limit held it back.
    pub source_seconds: Option<f64>,
}

/// Transfers of longer ones on average tell a rate, of shorter ones what an area costs.
const LONG_READ: u64 = 256 << 10;
const SHORT_READ: u64 = 128 << 10;
/// Fewer tell more about the beginning and the end of their transfer.
const MIN_READS: u64 = 256;

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
        self.take_areas(sample);
        if let Some(rate) = rate(sample.bytes, sample.transfer_seconds) {
            mix(&mut self.hotadd_bytes_per_second, rate);
            let in_a_row = sample.bytes >= sample.reads.saturating_mul(LONG_READ);
            if sample.data_bytes >= sample.bytes / 2 && in_a_row {
                mix(&mut self.hotadd_data_bytes_per_second, rate);
            }
        }
    }

    /// Bytes a second of data.
    #[must_use]
    pub fn hotadd_data_rate(&self) -> Option<f64> {
        self.hotadd_data_bytes_per_second.or(self.hotadd_bytes_per_second)
    }

    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn take_areas(&mut self, sample: &Sample) {
        let short = sample.reads >= MIN_READS && sample.bytes <= sample.reads.saturating_mul(SHORT_READ);
        let known = self.hotadd_data_rate().zip(sample.source_seconds);
        if let Some((rate, source)) = known.filter(|_| short) {
            let each = (source - transfer(sample.bytes, rate)) / sample.reads as f64;
            // As quick as in a row: an area costs next to nothing, which is a figure too.
            mix(&mut self.hotadd_area_seconds, each.max(LEAST_AREA_SECONDS));
        }
    }
}

/// A request alone, without any device.
const LEAST_AREA_SECONDS: f64 = 2e-6;

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

    const SAMPLE: Sample = Sample {
        attach_seconds: 10.0,
        detach_seconds: 4.0,
        bytes: 1 << 30,
        data_bytes: 1 << 30,
        reads: 1 << 10,
        transfer_seconds: 8.0,
        source_seconds: Some(6.0),
    };

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
    fn a_disk_that_is_mostly_zeros_says_nothing_of_data() {
        let mut rates = Rates::default();
        rates.take(&Sample { data_bytes: 1 << 20, transfer_seconds: 0.1, ..SAMPLE });
        rates.take(&Sample { reads: 1 << 14, ..SAMPLE });
        assert_eq!(rates.hotadd_data_bytes_per_second, None, "zeros, and pieces");
        assert_eq!(rates.hotadd_data_rate(), rates.hotadd_bytes_per_second, "better than nothing");
        rates.take(&SAMPLE);
        assert_eq!(rates.hotadd_data_rate(), rate(SAMPLE.bytes, SAMPLE.transfer_seconds));
    }

    #[test]
    fn an_area_costs_what_its_bytes_do_not_explain() {
        let mut rates = Rates::default();
        let areas = Sample { bytes: 1000 << 16, reads: 1000, source_seconds: Some(2.0), ..SAMPLE };
        rates.take_areas(&areas);
        assert_eq!(rates.hotadd_area_seconds, None, "the rate is not known");
        rates.take(&SAMPLE);
        assert_eq!(rates.hotadd_area_seconds, None, "long reads");
        rates.take_areas(&Sample { source_seconds: None, ..areas });
        rates.take_areas(&Sample { reads: 255, bytes: 255 << 16, ..areas });
        assert_eq!(rates.hotadd_area_seconds, None, "held back, or too few");
        rates.take_areas(&areas);
        // 62.5 MiB at 128 MiB/s are 488 ms of the two seconds.
        assert!((rates.hotadd_area_seconds.unwrap() - 0.001_512).abs() < 1e-6, "{rates:?}");
        let mut quick = Rates { hotadd_area_seconds: None, ..rates };
        quick.take_areas(&Sample { source_seconds: Some(0.001), ..areas });
        assert_eq!(quick.hotadd_area_seconds, Some(LEAST_AREA_SECONDS), "never less than nothing");
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
