//! When two areas are read as one: while the gap takes no longer to read than an area of its own costs, at the rate that this
//! site's transfers had.
use hotadd_api::v1::Transport;

use crate::plan::rates::Rates;

/// What one more area costs: the time of a first byte, little of which a deep queue hides. An estimate for an array's cache
/// miss, and for one over the network.
const HOTADD_SECONDS: f64 = 0.001;
const NBD_SECONDS: f64 = 0.003;

/// Bytes of a gap that are read rather than left out; 0 as long as nothing was measured.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate; `as` saturates")]
pub fn worth(rates: &Rates, transport: Transport) -> u64 {
    let (rate, seconds) = match transport {
        Transport::Hotadd => (rates.hotadd_bytes_per_second, HOTADD_SECONDS),
        Transport::Nbd => (rates.nbd_bytes_per_second, NBD_SECONDS),
        // Always whole, or not there.
        Transport::Unspecified | Transport::Export | Transport::San => (None, 0.0),
    };
    rate.map_or(0, |rate| (rate * seconds) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_read_that_is_quicker_than_a_seek() {
        let rates =
            Rates { hotadd_bytes_per_second: Some(400e6), nbd_bytes_per_second: Some(100e6), ..Rates::default() };
        assert_eq!(worth(&rates, Transport::Hotadd), 400_000);
        assert_eq!(worth(&rates, Transport::Nbd), 300_000);
        assert_eq!(worth(&rates, Transport::Export), 0);
        assert_eq!(worth(&Rates::default(), Transport::Hotadd), 0, "nothing was measured");
    }
}
