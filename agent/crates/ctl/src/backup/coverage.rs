//! Which bytes of a disk have arrived. Pure: no files, no wire. The contract is strict (frames ascend on the grid of the
//! block size, never overlap, and lie in the areas that the disk was opened with), so exactness needs one number: the
//! next byte that is due.
use bytes::Bytes;
use hotadd_api::{
    compress,
    manifest::{DiskRecord, Scope},
    v1::{Compression, Frame},
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
    #[error("frame at {offset} is compressed by the method {method}, asked was {asked:?}")]
    Method { offset: u64, method: i32, asked: Compression },
    #[error("frame at {offset} can't be expanded: {why}")]
    Packed { offset: u64, why: compress::Flaw },
    #[error("the block at {offset} does not match its hash")]
    Hash { offset: u64 },
}

/// What frames look like, as asked for.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Bytes of a block, a power of two.
    pub block: u32,
    /// That frames may have.
    pub compression: Compression,
}

/// Coverage of one disk, growing from its first byte that is to come.
#[derive(Debug)]
pub struct Coverage {
    areas: Areas,
    format: Format,
    /// The next byte; the capacity when all came.
    due: u64,
    data: Vec<(u64, blake3::Hash)>,
    zero: Vec<(u64, u64)>,
    zero_hash: blake3::Hash,
    data_bytes: u64,
}

impl Coverage {
    /// The areas are on the grid of the blocks.
    #[must_use]
    pub fn new(areas: Areas, format: Format) -> Self {
        let zero_hash = blake3::hash(&vec![0; format.block as usize]);
        let due = areas.next(0).unwrap_or(areas.capacity());
        Self { areas, format, due, data: Vec::new(), zero: Vec::new(), zero_hash, data_bytes: 0 }
    }

    /// Believes a frame, its place, size and hash, and gives back the block that it holds; `None`: it is zero. After an error
    /// nothing of this disk may be used.
    ///
    /// # Errors
    /// The first [`Flaw`].
    pub fn accept(&mut self, frame: Frame) -> Result<Option<Bytes>, Flaw> {
        let (offset, length) = (frame.offset, u64::from(frame.length));
        self.place(offset, length)?;
        let block = if frame.zero {
            self.zero_content(&frame)?;
            match self.zero.last_mut() {
                Some((start, run)) if *start + *run == offset => *run += length,
                _ => self.zero.push((offset, length)),
            }
            None
        } else {
            let (block, hash) = self.content(frame)?;
            self.data.push((offset, hash));
            self.data_bytes += length;
            Some(block)
        };
        self.due = self.areas.next(offset + length).unwrap_or(self.areas.capacity());
        Ok(block)
    }

    fn place(&self, offset: u64, length: u64) -> Result<(), Flaw> {
        let (block, capacity) = (self.format.block, self.areas.capacity());
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
        let expected = if frame.length == self.format.block {
            self.zero_hash
        } else {
            blake3::hash(&vec![0; frame.length as usize])
        };
        if frame.blake3[..] == expected.as_bytes()[..] { Ok(()) } else { Err(Flaw::Hash { offset }) }
    }

    /// The place was believed, so that the length is at most that of a block.
    fn content(&self, frame: Frame) -> Result<(Bytes, blake3::Hash), Flaw> {
        let (offset, length) = (frame.offset, frame.length as usize);
        // A number that is not known must not pass as none.
        let block = match (Compression::try_from(frame.compression), self.format.compression) {
            (Ok(Compression::Unspecified), _) => frame.data,
            (Ok(method), asked) if method == asked => {
                compress::expand(method, &frame.data, length).map_err(|why| Flaw::Packed { offset, why })?.into()
            }
            (_, asked) => return Err(Flaw::Method { offset, method: frame.compression, asked }),
        };
        if block.len() != length {
            return Err(Flaw::Payload { offset, length: frame.length.into(), carried: block.len() });
        }
        let hash = blake3::hash(&block);
        if frame.blake3[..] == hash.as_bytes()[..] { Ok((block, hash)) } else { Err(Flaw::Hash { offset }) }
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
        disk.block_bytes = self.format.block;
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

#[cfg(test)]
mod tests {
    use hotadd_api::v1::{self, Range, ReadMap};

    use super::*;

    const BLOCK: u32 = 64 << 10;
    const B: u64 = BLOCK as u64;
    const CAPACITY: u64 = 4 * B + 512;
    const PLAIN: Format = Format { block: BLOCK, compression: Compression::Unspecified };

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
        let mut coverage = Coverage::new(Areas::whole(CAPACITY), PLAIN);
        coverage.accept(data(0, BLOCK)).unwrap();
        coverage
    }

    /// Blocks 1, 2 and the short one at the end are to come.
    fn mapped(scope: v1::Scope) -> Coverage {
        let areas = [(B, 2 * B), (4 * B, 512)].map(|(offset, length)| Range { offset, length }).to_vec();
        let map = ReadMap { scope: scope.into(), areas, ..ReadMap::default() };
        Coverage::new(Areas::told(Some(&map), CAPACITY, BLOCK).unwrap(), PLAIN)
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
                coverage.accept(frame).unwrap();
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
            assert_eq!(mapped(v1::Scope::Changed).accept(data(offset, BLOCK)).map(drop), Err(Flaw::Outside { offset }));
        }
        let mut coverage = mapped(v1::Scope::Changed);
        coverage.accept(data(B, BLOCK)).unwrap();
        assert_eq!(coverage.accept(data(4 * B, 512)).map(drop), Err(Flaw::Missing { due: 2 * B, offset: 4 * B }));
        coverage.accept(data(2 * B, BLOCK)).unwrap();
        assert_eq!(coverage.finish(), Err(Flaw::Missing { due: 4 * B, offset: CAPACITY }));
        assert_eq!(coverage.accept(data(B, BLOCK)).map(drop), Err(Flaw::Twice { offset: B, due: 4 * B }));
    }

    #[test]
    fn whole_coverage_is_recorded_with_merged_zero_runs() {
        let mut coverage = begun();
        for frame in [zero(B, BLOCK), zero(2 * B, BLOCK), data(3 * B, BLOCK), zero(4 * B, 512)] {
            coverage.accept(frame).unwrap();
        }
        coverage.finish().unwrap();
        let disk = recorded(coverage);
        assert_eq!(disk.zero, [(B, 2 * B), (4 * B, 512)]);
        assert_eq!(disk.check(), Ok(()));
    }

    #[test]
    fn a_gap_a_repetition_and_a_step_back_are_named() {
        assert_eq!(begun().accept(data(2 * B, BLOCK)).map(drop), Err(Flaw::Missing { due: B, offset: 2 * B }));
        assert_eq!(begun().accept(data(0, BLOCK)).map(drop), Err(Flaw::Twice { offset: 0, due: B }));
        assert_eq!(begun().finish(), Err(Flaw::Missing { due: B, offset: CAPACITY }));
    }

    #[test]
    fn frames_off_the_grid_or_outside_are_refused() {
        let odd = [data(B + 512, BLOCK), data(B, 512), data(B, 0), data(4 * B, BLOCK), data(8 * B, BLOCK)];
        for frame in odd.into_iter().chain([data(B, 2 * BLOCK), zero(u64::MAX - B + 1, BLOCK)]) {
            let place = (frame.offset, frame.length);
            let flaw = begun().accept(frame);
            assert!(matches!(flaw, Err(Flaw::Grid { .. })), "{place:?}: {flaw:?}");
        }
    }

    #[test]
    fn content_that_contradicts_the_frame_is_refused() {
        let mut short = data(B, BLOCK);
        short.data = vec![7; BLOCK as usize - 1].into();
        assert!(matches!(begun().accept(short), Err(Flaw::Payload { .. })));
        let mut full = zero(B, BLOCK);
        full.data = vec![0; 4].into();
        assert!(matches!(begun().accept(full), Err(Flaw::ZeroPayload { .. })));
        for mut frame in [data(B, BLOCK), zero(B, BLOCK)] {
            let mut other = frame.clone();
            other.blake3 = vec![0; 32].into();
            assert_eq!(begun().accept(other).map(drop), Err(Flaw::Hash { offset: B }));
            frame.blake3 = frame.blake3.slice(..31);
            assert_eq!(begun().accept(frame).map(drop), Err(Flaw::Hash { offset: B }));
        }
    }

    /// A frame of one block that is compressed.
    fn packed(method: Compression) -> Frame {
        let (block, mut out) = (vec![7; BLOCK as usize], Vec::new());
        assert!(compress::compress(method, &block, &mut out));
        Frame { compression: method.into(), data: out.into(), ..data(0, BLOCK) }
    }

    #[test]
    fn a_compressed_block_is_proven_as_it_was_before() {
        for compression in [Compression::Zstd, Compression::Lz4] {
            let begun = || Coverage::new(Areas::whole(CAPACITY), Format { block: BLOCK, compression });
            let block = begun().accept(packed(compression)).unwrap().unwrap();
            assert_eq!(block, vec![7; BLOCK as usize]);
            let block = begun().accept(data(0, BLOCK)).unwrap().unwrap();
            assert_eq!(block.len(), BLOCK as usize, "one that did not get smaller");
            let wrong = Frame { blake3: vec![1; 32].into(), ..packed(compression) };
            assert_eq!(begun().accept(wrong).map(drop), Err(Flaw::Hash { offset: 0 }));
        }
    }

    #[test]
    fn what_is_compressed_otherwise_than_asked_or_holds_another_length_is_refused() {
        for (asked, method) in [
            (Compression::Unspecified, Compression::Zstd),
            (Compression::Zstd, Compression::Lz4),
            (Compression::Lz4, Compression::Zstd),
        ] {
            let mut coverage = Coverage::new(Areas::whole(CAPACITY), Format { block: BLOCK, compression: asked });
            let flaw = Flaw::Method { offset: 0, method: method.into(), asked };
            assert_eq!(coverage.accept(packed(method)).map(drop), Err(flaw));
        }
        for compression in [Compression::Zstd, Compression::Lz4] {
            let mut coverage = Coverage::new(Areas::whole(512), Format { block: BLOCK, compression });
            let bomb = Frame { length: 512, ..packed(compression) };
            let flaw = coverage.accept(bomb).map(drop);
            assert!(matches!(flaw, Err(Flaw::Packed { offset: 0, .. })), "{flaw:?}");
        }
    }
}
