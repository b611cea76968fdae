//! Zero detection. Safe code that the compiler vectorises; nothing else lives here.

/// Bytes that are ORed together before the next branch: long enough to run at memory speed, short enough to stop early.
const STRIDE: usize = 4096;

/// True if every byte is zero (also for an empty slice).
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    // Most blocks with content differ from zero in the first bytes.
    data.iter().take(16).all(|&byte| byte == 0)
        && data.chunks(STRIDE).all(|chunk| chunk.iter().fold(0, |seen, &byte| seen | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_bit_anywhere_is_found() {
        for len in [1, 15, 16, 17, 4095, 4096, 4097, 70_000] {
            let mut data = vec![0_u8; len];
            assert!(is_zero(&data));
            for at in [0, len / 3, len / 2, len - 1] {
                data[at] = 0x80;
                assert!(!is_zero(&data), "len {len} at {at}");
                data[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }
}
