//! Which bytes of a disk have arrived. Pure: no files, no wire. The contract is strict (frames ascend on the grid of the
//! block size and never overlap), so exactness needs one number: the end of what is proven.
use hotadd_api::{manifest::DiskRecord, v1::Frame};

/// Why a frame is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("byte {offset} came twice or late (the next byte due was {due})")]
    Twice { offset: u64, due: u64 },
    #[error("bytes {due}..{offset} are missing")]
    Missing { due: u64, offset: u64 },
    #[error("frame of {length} bytes at {offset} does not fit the grid of {block} bytes on a disk of {capacity} bytes")]
    Grid { offset: u64, length: u64, block: u32, capacity: u64 },
    #[error("frame at {offset} says {length} bytes and carries {carried}")]
    Payload { offset: u64, length: u64, carried: usize },
    #[error("zero frame at {offset} carries {carried} bytes")]
    ZeroPayload { offset: u64, carried: usize },
    #[error("the block at {offset} does not match its hash")]
    Hash { offset: u64 },
}

/// Coverage of one disk, growing from byte 0.
#[derive(Debug)]
pub struct Coverage {
    capacity: u64,
    block: u32,
    due: u64,
    data: Vec<(u64, blake3::Hash)>,
    zero: Vec<(u64, u64)>,
    zero_hash: blake3::Hash,
    data_bytes: u64,
}

impl Coverage {
    /// `block`: bytes, a power of two; `capacity`: bytes.
    #[must_use]
    pub fn new(capacity: u64, block: u32) -> Self {
        let zero_hash = blake3::hash(&vec![0; block as usize]);
        Self { capacity, block, due: 0, data: Vec::new(), zero: Vec::new(), zero_hash, data_bytes: 0 }
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
        self.due = offset + length;
        Ok(())
    }

    fn place(&self, offset: u64, length: u64) -> Result<(), Flaw> {
        let (block, capacity) = (self.block, self.capacity);
        let whole = capacity.saturating_sub(offset).min(u64::from(block));
        if length == 0 || length != whole || !offset.is_multiple_of(u64::from(block)) {
            return Err(Flaw::Grid { offset, length, block, capacity });
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
    /// [`Flaw::Missing`] when bytes up to the capacity are missing.
    pub fn finish(&self) -> Result<(), Flaw> {
        if self.due == self.capacity {
            return Ok(());
        }
        Err(Flaw::Missing { due: self.due, offset: self.capacity })
    }

    /// Bytes of data frames so far.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Fills what a manifest says of coverage.
    pub fn record(self, disk: &mut DiskRecord) {
        disk.capacity_bytes = self.capacity;
        disk.block_bytes = self.block;
        disk.data = self.data.into_iter().map(|(offset, hash)| (offset, hash.to_hex().to_string())).collect();
        disk.zero = self.zero;
        disk.root = disk.compute_root();
    }
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
    use super::*;

    const BLOCK: u32 = 64 << 10;
    const B: u64 = BLOCK as u64;
    const CAPACITY: u64 = 4 * B + 512;

    fn data(offset: u64, length: u32) -> Frame {
        let data = vec![7; length as usize];
        let blake3 = blake3::hash(&data).as_bytes().to_vec().into();
        Frame { device_key: 2000, offset, length, zero: false, data: data.into(), blake3 }
    }

    fn zero(offset: u64, length: u32) -> Frame {
        let blake3 = blake3::hash(&vec![0; length as usize]).as_bytes().to_vec().into();
        Frame { device_key: 2000, offset, length, zero: true, data: Default::default(), blake3 }
    }

    fn begun() -> Coverage {
        let mut coverage = Coverage::new(CAPACITY, BLOCK);
        coverage.accept(&data(0, BLOCK)).unwrap();
        coverage
    }

    #[test]
    fn whole_coverage_is_recorded_with_merged_zero_runs() {
        let mut coverage = begun();
        for frame in [zero(B, BLOCK), zero(2 * B, BLOCK), data(3 * B, BLOCK), zero(4 * B, 512)] {
            coverage.accept(&frame).unwrap();
        }
        coverage.finish().unwrap();
        let mut disk: DiskRecord = serde_json::from_value(serde_json::json!({"file": "a", "device_key": 1,
            "label": "", "backing": "", "uuid": "", "change_id": "", "capacity_bytes": 0, "block_bytes": 0,
            "transport": "", "engine": "", "data": [], "zero": [], "root": ""}))
        .unwrap();
        coverage.record(&mut disk);
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
