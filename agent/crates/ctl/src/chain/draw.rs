//! Blocks of a disk drawn at random, with the hashes that are known of them: what an agent reads again to test the map of
//! changed areas. The same seed draws the same blocks.
//!
//! A block is drawn only if one hash covers it as it is now: a data block of which a later layer replaced a part is not
//! known as a whole. A quarter of the draw is zero blocks, because writes into what was empty get lost, too; the rest is
//! data, because of a sparse disk nearly everything is zero.
use std::collections::{BTreeSet, HashMap};

use hotadd_api::v1::KnownBlock;

use super::{
    ChainDisk,
    effective::{Segment, Source},
};

/// hotadd.v1, DiskBase.known.
pub const MOST_OF_DISK: usize = 16_384;
/// Of one request: a message of 4 MiB is what gRPC servers take, a block is 48 bytes of it.
pub const MOST_OF_REQUEST: usize = 49_152;
/// At least so many are to be compared, or this share of all blocks.
const LEAST: u64 = 64;
const ONE_OF: u64 = 1000;
/// Some of the drawn lie in areas that did change and test nothing.
const MORE: u64 = 4;

/// A place that can be drawn.
#[derive(Debug, Clone, Copy)]
struct Cells {
    offset: u64,
    length: u32,
    count: u64,
    /// `None`: zero.
    hash: Option<[u8; 32]>,
}

/// Draws at most `most` blocks, in order of offset.
#[must_use]
pub fn draw(disk: &ChainDisk<'_>, seed: u64, most: usize) -> Vec<KnownBlock> {
    let cells: Vec<Cells> = disk.effective().iter().filter_map(|segment| cells(disk, segment)).collect();
    let (zero, data): (Vec<Cells>, Vec<Cells>) = cells.into_iter().partition(|cells| cells.hash.is_none());
    let (zeros, datas) = (count(&zero), count(&data));
    let wanted = (LEAST.max((zeros + datas) / ONE_OF) * MORE).min(most as u64).min(zeros + datas);
    // What one kind lacks the other gives.
    let of_zero = (wanted / 4).max(wanted.saturating_sub(datas)).min(zeros);
    let mut numbers = Numbers::new(seed, disk.top().device_key);
    let mut zero_hashes = HashMap::new();
    let mut drawn = Vec::new();
    for (cells, wanted) in [(zero, of_zero), (data, wanted - of_zero)] {
        for index in numbers.distinct(wanted, count(&cells)) {
            drawn.extend(at(&cells, index, &mut zero_hashes));
        }
    }
    drawn.sort_unstable_by_key(|block| block.offset);
    drawn
}

fn count(cells: &[Cells]) -> u64 {
    cells.iter().map(|cells| cells.count).sum()
}

fn cells(disk: &ChainDisk<'_>, segment: &Segment) -> Option<Cells> {
    let (Source::Data { layer, .. } | Source::Zero { layer }) = segment.source;
    let record = disk.layers.get(layer)?.1;
    let size = u64::from(record.block_bytes);
    let end = segment.offset + segment.length;
    match segment.source {
        Source::Data { block, hash, .. } => {
            let whole = size.min(record.capacity_bytes - block);
            let length = u32::try_from(whole).ok()?;
            let is_whole = segment.offset == block && segment.length == whole && length.is_multiple_of(512);
            is_whole.then_some(Cells { offset: block, length, count: 1, hash: Some(*hash.as_bytes()) })
        }
        Source::Zero { .. } => {
            let offset = segment.offset.next_multiple_of(size);
            let count = end.saturating_sub(offset) / size;
            (count > 0).then_some(Cells { offset, length: record.block_bytes, count, hash: None })
        }
    }
}

/// The cell with this number over all.
fn at(cells: &[Cells], mut index: u64, zero_hashes: &mut HashMap<u32, [u8; 32]>) -> Option<KnownBlock> {
    for cells in cells {
        if index < cells.count {
            let zero = || *blake3::hash(&vec![0; cells.length as usize]).as_bytes();
            let hash = cells.hash.unwrap_or_else(|| *zero_hashes.entry(cells.length).or_insert_with(zero));
            let offset = cells.offset + index * u64::from(cells.length);
            return Some(KnownBlock { offset, length: cells.length, blake3: hash.to_vec() });
        }
        index -= cells.count;
    }
    None
}

/// Numbers from a seed: BLAKE3 in its extended output, which is as good as any and is here.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(seed: u64, key: i32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("hotaddctl known blocks of a base");
        hasher.update(&seed.to_le_bytes()).update(&key.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// Below `bound`, which is not 0. The bias of the remainder is below 2^-20 for any disk.
    fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }

    /// `wanted` different numbers below `bound` (Floyd's method), ascending.
    fn distinct(&mut self, wanted: u64, bound: u64) -> BTreeSet<u64> {
        let mut chosen = BTreeSet::new();
        for last in bound.saturating_sub(wanted)..bound {
            let number = self.below(last + 1);
            if !chosen.insert(number) {
                chosen.insert(last);
            }
        }
        chosen
    }
}
