//! Which blocks of what is not read are read after all, to test that they are zero: one in a thousand, drawn at random by a
//! seed, so that a test and an inquiry can draw the same ones.
use std::{collections::BTreeSet, ops::Range};

use super::Areas;

/// Size of a block that is tested: what vSphere's maps are made of at the finest.
pub const SAMPLE_BYTES: u32 = 64 << 10;
/// One of so many.
const SHARE: u64 = 1000;
/// A gap in a small map is found all the same; reading of a large one is bounded (256 MiB).
const LEAST: u64 = 64;
const MOST: u64 = 4096;

/// Blocks of `rest`, ascending; all of them when there are few. `what` keeps disks of one job apart.
#[must_use]
pub fn sample(rest: &Areas, seed: u64, what: &str) -> Vec<Range<u64>> {
    let unit = u64::from(SAMPLE_BYTES);
    let blocks_of = |range: &Range<u64>| (range.end - range.start).div_ceil(unit);
    let all: u64 = rest.ranges().iter().map(blocks_of).sum();
    let count = all.div_ceil(SHARE).clamp(LEAST, MOST).min(all);
    let drawn = draw(all, count, seed, what);
    let (mut blocks, mut before) = (Vec::new(), 0);
    for range in rest.ranges() {
        let here = blocks_of(range);
        for number in drawn.range(before..before + here) {
            let start = range.start + (number - before) * unit;
            blocks.push(start..(start + unit).min(range.end));
        }
        before += here;
    }
    blocks
}

/// `count` different numbers below `all` (R. W. Floyd's sampling). BLAKE3's output is the source of chance; the bias of the
/// remainder is below 2^-20 for any disk.
fn draw(all: u64, count: u64, seed: u64, what: &str) -> BTreeSet<u64> {
    let mut chance = blake3::Hasher::new().update(&seed.to_le_bytes()).update(what.as_bytes()).finalize_xof();
    let mut drawn = BTreeSet::new();
    for last in all - count..all {
        let mut bytes = [0; 8];
        chance.fill(&mut bytes);
        let number = u64::from_le_bytes(bytes) % (last + 1);
        if !drawn.insert(number) {
            drawn.insert(last);
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = SAMPLE_BYTES as u64;

    fn rest(blocks: u64) -> Areas {
        // A hole in it, and a last block that is not full.
        Areas::of(vec![0..10 * UNIT, 20 * UNIT..(blocks + 10) * UNIT - 512])
    }

    #[test]
    fn a_few_blocks_are_all_read() {
        let rest = rest(40);
        let blocks = sample(&rest, 1, "disk");
        assert_eq!(blocks.len(), 40);
        assert_eq!(Areas::of(blocks), rest);
        assert!(sample(&Areas::default(), 1, "disk").is_empty());
    }

    #[test]
    fn of_many_one_in_a_thousand_within_bounds() {
        for (blocks, count) in [(65, 64), (64_000, 64), (200_000, 200), (100_000_000, 4096)] {
            let rest = rest(blocks);
            let drawn = sample(&rest, 7, "disk");
            assert_eq!(drawn.len(), count, "of {blocks}");
            assert!(drawn.windows(2).all(|pair| pair[0].end <= pair[1].start), "ascending, and each once");
            let left = rest.rest(u64::MAX);
            assert!(drawn.iter().all(|block| left.misses(block) && block.end - block.start <= UNIT));
        }
    }

    #[test]
    fn the_seed_decides_and_reaches_everywhere() {
        let rest = rest(1000);
        assert_eq!(sample(&rest, 1, "a"), sample(&rest, 1, "a"));
        assert_ne!(sample(&rest, 1, "a"), sample(&rest, 2, "a"));
        assert_ne!(sample(&rest, 1, "a"), sample(&rest, 1, "b"));
        let seen: BTreeSet<u64> = (0..500).flat_map(|seed| sample(&rest, seed, "a")).map(|block| block.start).collect();
        assert_eq!(seen.len(), 1000, "each block is drawn sooner or later");
    }
}
