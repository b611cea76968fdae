//! How the payload of one frame is compressed and expanded, for both ends of `hotadd.v1`. Knows one block at a time: nothing of
//! frames, streams, or when compression is worth its time.
//!
//! What is expanded comes from the other side and is not believed: it has to be one Zstandard frame or one LZ4 block that
//! holds exactly the bytes that the frame speaks of, and no more than those are ever allocated.
use std::cell::RefCell;

use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe,
};

use crate::{MAX_BLOCK_BYTES, v1::Compression};

/// Faster than most sources; higher levels gain a few per cent for a multiple of the time.
const ZSTD_LEVEL: i32 = 1;

thread_local! {
    // Their tables are as large as a block: made once a thread, not once a frame.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(ZSTD_LEVEL).ok());
    static EXPANDER: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// Why a payload is not the block that it is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("it is not compressed by a method of this version")]
    Method,
    #[error("a block of {0} bytes is larger than any that can be asked for")]
    TooLong(usize),
    #[error("it is not one {0} of the length that it tells")]
    Damaged(&'static str),
    #[error("it holds {holds} bytes instead of {told}")]
    Length { holds: usize, told: usize },
}

/// Replaces the content of `out` by the compressed `block`. False: it did not get smaller, and has to be sent as it is; what
/// `out` holds means nothing then.
#[must_use]
pub fn compress(method: Compression, block: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let size = match method {
        Compression::Unspecified => None,
        Compression::Zstd => zstd_into(block, out),
        Compression::Lz4 => lz4_into(block, out),
    };
    size.is_some_and(|size| size < block.len())
}

fn zstd_into(block: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    out.reserve(zstd_safe::compress_bound(block.len()));
    COMPRESSOR.with_borrow_mut(|one| one.as_mut()?.compress_to_buffer(block, out).ok())
}

fn lz4_into(block: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    out.resize(lz4_flex::block::get_maximum_output_size(block.len()), 0);
    let size = lz4_flex::block::compress_into(block, out).ok()?;
    out.truncate(size);
    Some(size)
}

/// The block of exactly `exact_len` bytes that `payload` holds.
///
/// # Errors
/// Anything else than that.
pub fn expand(method: Compression, payload: &[u8], exact_len: usize) -> Result<Vec<u8>, Flaw> {
    if exact_len > MAX_BLOCK_BYTES as usize {
        return Err(Flaw::TooLong(exact_len));
    }
    let block = match method {
        Compression::Unspecified => Err(Flaw::Method),
        Compression::Zstd => zstd_from(payload, exact_len),
        Compression::Lz4 => lz4_from(payload, exact_len),
    }?;
    if block.len() == exact_len { Ok(block) } else { Err(Flaw::Length { holds: block.len(), told: exact_len }) }
}

fn zstd_from(payload: &[u8], exact_len: usize) -> Result<Vec<u8>, Flaw> {
    let flaw = Flaw::Damaged("Zstandard frame");
    // A second frame behind the first would be expanded, too.
    if zstd_safe::find_frame_compressed_size(payload) != Ok(payload.len()) {
        return Err(flaw);
    }
    let mut block = Vec::with_capacity(exact_len);
    EXPANDER
        .with_borrow_mut(|one| one.as_mut().and_then(|one| one.decompress_to_buffer(payload, &mut block).ok()))
        .ok_or(flaw)?;
    Ok(block)
}

fn lz4_from(payload: &[u8], exact_len: usize) -> Result<Vec<u8>, Flaw> {
    let mut block = vec![0; exact_len];
    let size = lz4_flex::block::decompress_into(payload, &mut block).map_err(|_| Flaw::Damaged("LZ4 block"))?;
    block.truncate(size);
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [Compression; 2] = [Compression::Zstd, Compression::Lz4];

    /// Text that repeats itself, of any length.
    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|at| b"a line of a log file, "[at % 22] ^ u8::from(at % 1000 == 0)).collect()
    }

    /// Bytes that no method makes smaller.
    fn noise(length: usize) -> Vec<u8> {
        let mut noise = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
        noise
    }

    fn compressed(method: Compression, block: &[u8]) -> Vec<u8> {
        let mut out = vec![7; 3];
        assert!(compress(method, block, &mut out), "{method:?}");
        out
    }

    #[test]
    fn a_block_survives_and_is_smaller() {
        for method in METHODS {
            for length in [512, 64 << 10, 1 << 20, MAX_BLOCK_BYTES as usize] {
                let (block, mut out) = (text(length), Vec::new());
                assert!(compress(method, &block, &mut out) && out.len() < block.len() / 2, "{method:?}");
                assert_eq!(expand(method, &out, length), Ok(block));
            }
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_told() {
        for method in METHODS {
            for block in [noise(1 << 20), noise(1), Vec::new()] {
                assert!(!compress(method, &block, &mut Vec::new()), "{method:?}");
            }
        }
        assert!(!compress(Compression::Unspecified, &text(1 << 20), &mut Vec::new()));
    }

    #[test]
    fn every_other_length_is_a_flaw() {
        for method in METHODS {
            let packed = compressed(method, &text(4096));
            for told in [0, 1, 4095, 4097, 1 << 20] {
                assert!(expand(method, &packed, told).is_err(), "{method:?} {told}");
            }
            assert_eq!(expand(method, &packed, 4097), Err(Flaw::Length { holds: 4096, told: 4097 }));
        }
    }

    #[test]
    fn a_bomb_is_not_expanded() {
        for method in METHODS {
            let bomb = compressed(method, &vec![0; MAX_BLOCK_BYTES as usize]);
            assert!(matches!(expand(method, &bomb, 512), Err(Flaw::Damaged(_))), "{method:?}");
            assert_eq!(expand(method, &bomb, usize::MAX), Err(Flaw::TooLong(usize::MAX)));
        }
    }

    #[test]
    fn two_frames_are_not_one() {
        let half = compressed(Compression::Zstd, &text(2048));
        let both = [half.clone(), half].concat();
        assert_eq!(expand(Compression::Zstd, &both, 4096), Err(Flaw::Damaged("Zstandard frame")));
    }

    #[test]
    fn damage_is_a_flaw_or_other_bytes_and_never_a_panic() {
        for method in METHODS {
            let block = text(8192);
            let good = compressed(method, &block);
            for at in 0..good.len() {
                assert!(expand(method, &good[..at], 8192).is_err(), "{method:?} cut at {at}");
                let mut bad = good.clone();
                bad[at] ^= 0xff;
                // The hash of the block finds what is not found here.
                if let Ok(other) = expand(method, &bad, 8192) {
                    assert_eq!(other.len(), 8192);
                }
            }
            assert!(expand(method, &[], 8192).is_err());
        }
        assert_eq!(expand(Compression::Unspecified, &[1], 1), Err(Flaw::Method));
    }
}
