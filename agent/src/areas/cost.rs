//! When two areas are read as one: while the gap takes no longer to read than an area of its own costs, both as this site's
//! reads had it.
use hotadd_api::v1::Transport;

use crate::plan::rates::Rates;

/// What one more area costs where no transfer of short areas has measured it: an array's cache miss, and one over the network, of
/// which a queue of sixteen hides most.
const HOTADD_SECONDS: f64 = 0.000_1;
const NBD_SECONDS: f64 = 0.000_3;

/// A longer gap is worth a read of its own whatever an area costs: leaving it out costs no read more.
const MOST: u64 = 1 << 20;

/// Bytes of a gap that are read rather than left out; 0 as long as nothing was measured.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate; `as` saturates")]
pub fn worth(rates: &Rates, transport: Transport) -> u64 {
    let (rate, seconds) = match transport {
        Transport::Hotadd => (rates.hotadd_data_rate(), rates.hotadd_area_seconds.unwrap_or(HOTADD_SECONDS)),
        Transport::Nbd => (rates.nbd_bytes_per_second, NBD_SECONDS),
        // Always whole, or not there.
        Transport::Unspecified | Transport::Export | Transport::San => (None, 0.0),
    };
    rate.map_or(0, |rate| (rate * seconds).round() as u64).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates {
        attach_seconds: None,
        detach_seconds: None,
        hotadd_bytes_per_second: Some(400e6),
        hotadd_data_bytes_per_second: None,
        hotadd_area_seconds: None,
        nbd_bytes_per_second: Some(100e6),
        export_bytes_per_second: None,
    };

    #[test]
    fn a_gap_is_read_that_is_quicker_than_an_area() {
        assert_eq!(worth(&RATES, Transport::Hotadd), 40_000);
        assert_eq!(worth(&RATES, Transport::Nbd), 30_000);
        assert_eq!(worth(&RATES, Transport::Export), 0);
        assert_eq!(worth(&Rates::default(), Transport::Hotadd), 0, "nothing was measured");
        let measured = Rates { hotadd_area_seconds: Some(0.002), ..RATES };
        assert_eq!(worth(&measured, Transport::Hotadd), 800_000);
    }

    #[test]
    fn holes_that_are_read_at_memory_speed_do_not_join_everything() {
        let holes = Rates { hotadd_bytes_per_second: Some(14e9), hotadd_area_seconds: Some(0.001), ..RATES };
        assert_eq!(worth(&holes, Transport::Hotadd), MOST);
        let both = Rates { hotadd_data_bytes_per_second: Some(400e6), ..holes };
        assert_eq!(worth(&both, Transport::Hotadd), 400_000);
    }
}
