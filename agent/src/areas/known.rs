//! Blocks of the base that vSphere calls unchanged, and the frames that tell whether they are.
use std::ops::Range;

use super::{Areas, KnownBlock};

/// See the module. Frames come in order of offset.
#[derive(Debug)]
pub struct Known {
    blocks: Vec<KnownBlock>,
    /// The one whose bytes come now.
    at: usize,
    hasher: blake3::Hasher,
    hashed: u64,
    differs: Option<Range<u64>>,
}

impl Known {
    /// Those that lie wholly on the disk and outside of what changed; of two that overlap the first.
    #[must_use]
    pub fn unchanged(known: &[KnownBlock], changed: &Areas, capacity: u64) -> Self {
        let mut blocks: Vec<KnownBlock> = known.to_vec();
        blocks.retain(|block| block.range.end <= capacity && changed.misses(&block.range));
        blocks.sort_by_key(|block| block.range.start);
        let mut end = 0;
        blocks.retain(|block| {
            let free = block.range.start >= end;
            end = if free { block.range.end } else { end };
            free
        });
        Self { blocks, at: 0, hasher: blake3::Hasher::new(), hashed: 0, differs: None }
    }

    /// What to read.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.blocks.iter().map(|block| block.range.clone()).collect()
    }

    /// Takes what was read at an offset: bytes, or so many zeros.
    pub fn take(&mut self, offset: u64, length: u64, data: Option<&[u8]>) {
        let Some(block) = self.blocks.get(self.at) else { return };
        // A reader's pieces never cross a range; anything else counts as different in the end.
        if offset != block.range.start + self.hashed || offset + length > block.range.end {
            return;
        }
        match data {
            Some(data) => drop(self.hasher.update(data)),
            None => (0..length.div_ceil(ZEROS.len() as u64)).for_each(|piece| {
                let left = length - piece * ZEROS.len() as u64;
                self.hasher.update(&ZEROS[..usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len())]);
            }),
        }
        self.hashed += length;
        if offset + length == block.range.end {
            if self.differs.is_none() && self.hasher.finalize().as_bytes() != &block.blake3 {
                self.differs = Some(block.range.clone());
            }
            (self.at, self.hashed, self.hasher) = (self.at + 1, 0, blake3::Hasher::new());
        }
    }

    /// The first block that was read and is not as in the base.
    #[must_use]
    pub fn differs(&self) -> Option<Range<u64>> {
        self.differs.clone()
    }

    /// The first block that was not read; `None`: all were.
    #[must_use]
    pub fn unread(&self) -> Option<Range<u64>> {
        self.blocks.get(self.at).map(|block| block.range.clone())
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.blocks.len()
    }
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[cfg(test)]
mod tests {
    use super::*;

    fn block(start: u64, data: &[u8]) -> KnownBlock {
        KnownBlock { range: start..start + data.len() as u64, blake3: *blake3::hash(data).as_bytes() }
    }

    #[test]
    fn only_what_lies_wholly_in_unchanged_areas_is_asked_for() {
        let changed = Areas::of(vec![100..200]);
        let all = [
            block(300, &[1; 50]),
            block(50, &[1; 51]),
            block(199, &[1; 2]),
            block(0, &[1; 50]),
            block(40, &[1; 20]),
            block(980, &[1; 21]),
            block(150, &[1; 10]),
        ];
        assert_eq!(Known::unchanged(&all, &changed, 1000).ranges(), [0..50, 300..350]);
    }

    #[test]
    fn blocks_are_hashed_over_pieces_and_zeros() {
        let long = vec![0; 150_000];
        let all = [block(0, &[7; 100]), block(200_000, &long), block(500_000, &[9; 10])];
        let mut known = Known::unchanged(&all, &Areas::default(), 1 << 20);
        assert_eq!((known.differs(), known.unread()), (None, Some(0..100)), "nothing was read");
        known.take(0, 60, Some(&[7; 60]));
        known.take(60, 40, Some(&[7; 40]));
        known.take(200_000, 100_000, None);
        known.take(300_000, 50_000, Some(&long[..50_000]));
        assert_eq!((known.differs(), known.unread()), (None, Some(500_000..500_010)), "the last one did not come");
        known.take(500_000, 10, Some(&[9; 10]));
        assert_eq!((known.differs(), known.unread()), (None, None));
        assert_eq!(known.count(), 3);
    }

    #[test]
    fn a_block_that_differs_is_named() {
        let all = [block(0, &[1; 8]), block(8, &[2; 8])];
        let mut known = Known::unchanged(&all, &Areas::default(), 16);
        known.take(0, 8, Some(&[1; 8]));
        known.take(8, 8, Some(&[3; 8]));
        assert_eq!(known.differs(), Some(8..16));
    }
}
