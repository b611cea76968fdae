//! Which bytes of a disk have arrived. Pure: no files, no wire. The contract is strict (frames ascend on the grid of the
//! block size, never overlap, and lie in the areas that the disk was opened with), so exactness needs one number: the
//! next byte that is due.
use hotadd_api::{
    manifest::{DiskRecord, Scope},
    v1::Frame,
};

use super::areas::Areas;

/// Why a frame is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("byte {offset} came twice or late (the next byte due was {due})")]
    Twice { offset: u64, due: u64 },
    #[error("bytes {due}..{offset} are missing")]
    Missing { due: u64, offset: u64 },
    #[error("byte {offset} came and lies outside of the areas that were to be read")]
    Outside { offset: u64 },
    #[error("frame of {length} bytes at {offset} does not fit the grid of {block} bytes on a disk of {capacity} bytes")]
    Grid { offset: u64, length: u64, block: u32, capacity: u64 },
    #[error("frame at {offset} says {length} bytes and carries {carried}")]
    Payload { offset: u64, length: u64, carried: usize },
    #[error("zero frame at {offset} carries {carried} bytes")]
    ZeroPayload { offset: u64, carried: usize },
    #[error("the block at {offset} does not match its hash")]
    Hash { offset: u64 },
}

/// Coverage of one disk, growing from its first byte that is to come.
#[derive(Debug)]
pub struct Coverage {
    areas: Areas,
    block: u32,
    /// The next byte; the capacity when all came.
    due: u64,
    data: Vec<(u64, blake3::Hash)>,
    zero: Vec<(u64, u64)>,
    zero_hash: blake3::Hash,
    data_bytes: u64,
}

impl Coverage {
    /// `block`: bytes, a power of two; the areas are on its grid.
    #[must_use]
    pub fn new(areas: Areas, block: u32) -> Self {
        let zero_hash = blake3::hash(&vec![0; block as usize]);
        let due = areas.next(0).unwrap_or(areas.capacity());
        Self { areas, block, due, data: Vec::new(), zero: Vec::new(), zero_hash, data_bytes: 0 }
    }

    /// Believes a frame: place, size and hash. After an error nothing of this disk may be used.
    ///
    /// # Errors
    /// The first [`Flaw`].
    pub fn accept(&mut self, frame: &Frame) -> Result<(), Flaw> {
        let (offset, length) = (frame.offset, u64::from(frame.length));
        self.place(offset, length)?;
        if frame.zero {
            self.zero_content(frame)?;
            match self.zero.last_mut() {
                Some((start, run)) if *start + *run == offset => *run += length,
                _ => self.zero.push((offset, length)),
            }
        } else {
            let hash = content(frame)?;
            self.data.push((offset, hash));
            self.data_bytes += length;
        }
        self.due = self.areas.next(offset + length).unwrap_or(self.areas.capacity());
        Ok(())
    }

    fn place(&self, offset: u64, length: u64) -> Result<(), Flaw> {
        let (block, capacity) = (self.block, self.areas.capacity());
        let whole = capacity.saturating_sub(offset).min(u64::from(block));
        if length == 0 || length != whole || !offset.is_multiple_of(u64::from(block)) {
            return Err(Flaw::Grid { offset, length, block, capacity });
        }
        if !self.areas.contains(offset) {
            return Err(Flaw::Outside { offset });
        }
        match offset.cmp(&self.due) {
            std::cmp::Ordering::Less => Err(Flaw::Twice { offset, due: self.due }),
            std::cmp::Ordering::Greater => Err(Flaw::Missing { due: self.due, offset }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn zero_content(&self, frame: &Frame) -> Result<(), Flaw> {
        let offset = frame.offset;
        if !frame.data.is_empty() {
            return Err(Flaw::ZeroPayload { offset, carried: frame.data.len() });
        }
        let expected =
            if frame.length == self.block { self.zero_hash } else { blake3::hash(&vec![0; frame.length as usize]) };
        if frame.blake3[..] == expected.as_bytes()[..] { Ok(()) } else { Err(Flaw::Hash { offset }) }
    }

    /// # Errors
    /// [`Flaw::Missing`] when bytes that were to come are missing.
    pub fn finish(&self) -> Result<(), Flaw> {
        if self.due == self.areas.capacity() {
            return Ok(());
        }
        Err(Flaw::Missing { due: self.due, offset: self.areas.capacity() })
    }

    /// Bytes of data frames so far.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Fills what a manifest says of coverage. What was not to come is zero, or as in the base.
    pub fn record(self, disk: &mut DiskRecord) {
        let gaps = self.areas.gaps();
        disk.scope = self.areas.scope();
        disk.capacity_bytes = self.areas.capacity();
        disk.block_bytes = self.block;
        disk.data = self.data.into_iter().map(|(offset, hash)| (offset, hash.into())).collect();
        match disk.scope {
            Scope::Changed => (disk.zero, disk.base) = (self.zero, gaps),
            Scope::Whole | Scope::Allocated => disk.zero = merged(self.zero, gaps),
        }
        disk.root = disk.compute_root();
    }
}

/// Both in one list in order, runs that touch joined.
fn merged(mut runs: Vec<(u64, u64)>, more: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    runs.extend(more);
    runs.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (offset, length) in runs {
        match joined.last_mut() {
            Some((start, run)) if *start + *run == offset => *run += length,
            _ => joined.push((offset, length)),
        }
    }
    joined
}

fn content(frame: &Frame) -> Result<blake3::Hash, Flaw> {
    let (offset, length) = (frame.offset, u64::from(frame.length));
    if frame.data.len() as u64 != length {
        return Err(Flaw::Payload { offset, length, carried: frame.data.len() });
    }
    let hash = blake3::hash(&frame.data);
    if frame.blake3[..] == hash.as_bytes()[..] { Ok(hash) } else { Err(Flaw::Hash { offset }) }
}

#[cfg(test)]
mod tests {
    use hotadd_api::v1::{self, Range, ReadMap};

    use super::*;

    const BLOCK: u32 = 64 << 10;
    const B: u64 = BLOCK as u64;
    const CAPACITY: u64 = 4 * B + 512;

    fn data(offset: u64, length: u32) -> Frame {
        let data = vec![7; length as usize];
        let blake3 = blake3::hash(&data).as_bytes().to_vec().into();
        Frame { device_key: 2000, offset, length, zero: false, data: data.into(), blake3, ..Frame::default() }
    }

    fn zero(offset: u64, length: u32) -> Frame {
        let blake3 = blake3::hash(&vec![0; length as usize]).as_bytes().to_vec().into();
        Frame { device_key: 2000, offset, length, zero: true, blake3, ..Frame::default() }
    }

    fn begun() -> Coverage {
        let mut coverage = Coverage::new(Areas::whole(CAPACITY), BLOCK);
        coverage.accept(&data(0, BLOCK)).unwrap();
        coverage
    }

    /// Blocks 1, 2 and the short one at the end are to come.
    fn mapped(scope: v1::Scope) -> Coverage {
        let areas = [(B, 2 * B), (4 * B, 512)].map(|(offset, length)| Range { offset, length }).to_vec();
        let map = ReadMap { scope: scope.into(), areas, ..ReadMap::default() };
        Coverage::new(Areas::told(Some(&map), CAPACITY, BLOCK).unwrap(), BLOCK)
    }

    fn recorded(coverage: Coverage) -> DiskRecord {
        let mut disk = DiskRecord { file: "a".into(), ..DiskRecord::default() };
        coverage.record(&mut disk);
        disk
    }

    #[test]
    fn what_is_not_to_come_is_zero_or_as_in_the_base() {
        for scope in [v1::Scope::Allocated, v1::Scope::Changed] {
            let mut coverage = mapped(scope);
            for frame in [zero(B, BLOCK), data(2 * B, BLOCK), data(4 * B, 512)] {
                coverage.accept(&frame).unwrap();
            }
            coverage.finish().unwrap();
            let disk = recorded(coverage);
            assert_eq!(disk.check(), Ok(()));
            let gaps = vec![(0, B), (3 * B, B)];
            match scope {
                v1::Scope::Changed => assert_eq!((disk.zero, disk.base), (vec![(B, B)], gaps)),
                _ => assert_eq!((disk.zero, disk.base), (vec![(0, 2 * B), (3 * B, B)], vec![])),
            }
        }
    }

    #[test]
    fn only_the_areas_may_come_and_all_of_them_must() {
        for offset in [0, 3 * B] {
            assert_eq!(mapped(v1::Scope::Changed).accept(&data(offset, BLOCK)), Err(Flaw::Outside { offset }));
        }
        let mut coverage = mapped(v1::Scope::Changed);
        coverage.accept(&data(B, BLOCK)).unwrap();
        assert_eq!(coverage.accept(&data(4 * B, 512)), Err(Flaw::Missing { due: 2 * B, offset: 4 * B }));
        coverage.accept(&data(2 * B, BLOCK)).unwrap();
        assert_eq!(coverage.finish(), Err(Flaw::Missing { due: 4 * B, offset: CAPACITY }));
        assert_eq!(coverage.accept(&data(B, BLOCK)), Err(Flaw::Twice { offset: B, due: 4 * B }));
    }

    #[test]
    fn whole_coverage_is_recorded_with_merged_zero_runs() {
        let mut coverage = begun();
        for frame in [zero(B, BLOCK), zero(2 * B, BLOCK), data(3 * B, BLOCK), zero(4 * B, 512)] {
            coverage.accept(&frame).unwrap();
        }
        coverage.finish().unwrap();
        let disk = recorded(coverage);
        assert_eq!(disk.zero, [(B, 2 * B), (4 * B, 512)]);
        assert_eq!(disk.check(), Ok(()));
    }

    #[test]
    fn a_gap_a_repetition_and_a_step_back_are_named() {
        assert_eq!(begun().accept(&data(2 * B, BLOCK)), Err(Flaw::Missing { due: B, offset: 2 * B }));
        assert_eq!(begun().accept(&data(0, BLOCK)), Err(Flaw::Twice { offset: 0, due: B }));
        assert_eq!(begun().finish(), Err(Flaw::Missing { due: B, offset: CAPACITY }));
    }

    #[test]
    fn frames_off_the_grid_or_outside_are_refused() {
        let odd = [data(B + 512, BLOCK), data(B, 512), data(B, 0), data(4 * B, BLOCK), data(8 * B, BLOCK)];
        for frame in odd.into_iter().chain([data(B, 2 * BLOCK), zero(u64::MAX - B + 1, BLOCK)]) {
            let flaw = begun().accept(&frame);
            assert!(matches!(flaw, Err(Flaw::Grid { .. })), "{} {}: {flaw:?}", frame.offset, frame.length);
        }
    }

    #[test]
    fn content_that_contradicts_the_frame_is_refused() {
        let mut short = data(B, BLOCK);
        short.data = short.data.slice(1..);
        assert!(matches!(begun().accept(&short), Err(Flaw::Payload { .. })));
        let mut full = zero(B, BLOCK);
        full.data = vec![0; 4].into();
        assert!(matches!(begun().accept(&full), Err(Flaw::ZeroPayload { .. })));
        for mut frame in [data(B, BLOCK), zero(B, BLOCK)] {
            frame.blake3 = vec![0; 32].into();
            assert_eq!(begun().accept(&frame), Err(Flaw::Hash { offset: B }));
            frame.blake3 = frame.blake3.slice(..31);
            assert_eq!(begun().accept(&frame), Err(Flaw::Hash { offset: B }));
        }
    }
}
