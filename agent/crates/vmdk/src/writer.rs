//! Grains in order of offset, each table behind its grains, the directory at the end. Deflate runs on as many threads as
//! there are cores: it is what an export waits for.
use std::{
    io::{self, Write},
    num::NonZero,
    thread,
};

use flate2::{Compression, write::ZlibEncoder};

use crate::{
    Error,
    format::{ENTRIES, GRAIN, Head, MARK_DIRECTORY, MARK_END, MARK_FOOTER, MARK_TABLE, SECTOR, header, marker},
};

/// Writes one disk.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    /// Sectors.
    capacity: u64,
    /// Sectors written.
    position: u64,
    /// The next grain that may be written.
    due: u64,
    /// Index of the table whose grains are coming.
    table: usize,
    entries: Vec<u32>,
    /// Sector of each table, 0 for none.
    directory: Vec<u32>,
    populated: u64,
    threads: usize,
}

/// What became of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Bytes of the disk that are in it; the rest is zero.
    pub populated: u64,
}

impl<W: Write> Writer<W> {
    /// Writes what comes before the first grain.
    ///
    /// # Errors
    /// A capacity that no disk has, or the output's error.
    pub fn new(out: W, head: &Head<'_>) -> Result<Self, Error> {
        if head.capacity_bytes == 0 || !head.capacity_bytes.is_multiple_of(SECTOR as u64) {
            return Err(Error::Capacity(head.capacity_bytes));
        }
        let tables = head.capacity_bytes.div_ceil((GRAIN * ENTRIES) as u64);
        let tables = usize::try_from(tables).map_err(|_| Error::Capacity(head.capacity_bytes))?;
        let mut writer = Self {
            out,
            capacity: head.sectors(),
            position: 0,
            due: 0,
            table: 0,
            entries: vec![0; ENTRIES],
            directory: vec![0; tables],
            populated: 0,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
        };
        writer.put(&head.front())?;
        Ok(writer)
    }

    /// Writes whole grains from `offset`, a multiple of [`GRAIN`]; only the disk's last one may be short. What is never
    /// written is zero.
    ///
    /// # Errors
    /// Bytes at a wrong place, a stream that grows too large, or the output's error.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let place = || Error::Place { offset, length: bytes.len() };
        let (grain, disk) = (GRAIN as u64, self.capacity * SECTOR as u64);
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= disk).ok_or_else(place)?;
        if !offset.is_multiple_of(grain) || offset / grain < self.due || !(end.is_multiple_of(grain) || end == disk) {
            return Err(place());
        }
        for (part, chunk) in bytes.chunks(GRAIN * self.threads).enumerate() {
            let first = offset / grain + (part * self.threads) as u64;
            for (index, packed) in (first..).zip(pack(chunk)?) {
                self.grain(index, packed)?;
            }
        }
        self.due = end.div_ceil(grain);
        Ok(())
    }

    /// Writes the tables and the end, and gives the output back.
    ///
    /// # Errors
    /// A stream that grows too large, or the output's error.
    pub fn finish(mut self) -> Result<(Written, W), Error> {
        self.close_table()?;
        let directory = words(&self.directory);
        self.put(&marker(directory.len().div_ceil(SECTOR) as u64, MARK_DIRECTORY))?;
        let place = self.sector()?;
        self.put(&directory)?;
        self.put(&marker(1, MARK_FOOTER))?;
        self.put(&header(self.capacity, place.into()))?;
        self.put(&marker(0, MARK_END))?;
        self.out.flush()?;
        let written = Written { bytes: self.position * SECTOR as u64, populated: self.populated };
        Ok((written, self.out))
    }

    fn grain(&mut self, index: u64, packed: Option<Vec<u8>>) -> Result<(), Error> {
        let Some(packed) = packed else { return Ok(()) };
        let index = usize::try_from(index).map_err(|_| Error::Large)?;
        if index / ENTRIES != self.table {
            self.close_table()?;
            self.table = index / ENTRIES;
        }
        self.entries[index % ENTRIES] = self.sector()?;
        let size = u32::try_from(packed.len()).map_err(|_| Error::Large)?;
        let mut record = Vec::with_capacity(packed.len() + 12);
        record.extend(((index * (GRAIN / SECTOR)) as u64).to_le_bytes());
        record.extend(size.to_le_bytes());
        record.extend(packed);
        let start = (index * GRAIN) as u64;
        self.populated += (self.capacity * SECTOR as u64 - start).min(GRAIN as u64);
        self.put(&record)
    }

    fn close_table(&mut self) -> Result<(), Error> {
        if self.entries.iter().all(|entry| *entry == 0) {
            return Ok(());
        }
        let table = words(&self.entries);
        self.put(&marker((table.len() / SECTOR) as u64, MARK_TABLE))?;
        self.directory[self.table] = self.sector()?;
        self.put(&table)?;
        self.entries.fill(0);
        Ok(())
    }

    fn sector(&self) -> Result<u32, Error> {
        u32::try_from(self.position).map_err(|_| Error::Large)
    }

    /// Writes bytes, filled up to a sector.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(SECTOR) - bytes.len();
        self.out.write_all(&[0; SECTOR][..padding])?;
        self.position += (bytes.len() + padding).div_ceil(SECTOR) as u64;
        Ok(())
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Compresses each grain on a thread of its own; `None`: it is zero.
fn pack(bytes: &[u8]) -> io::Result<Vec<Option<Vec<u8>>>> {
    thread::scope(|scope| {
        let threads: Vec<_> = bytes.chunks(GRAIN).map(|grain| scope.spawn(|| deflate(grain))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|packed| packed.map_err(|_| io::Error::other("a compressing thread ended badly"))?).collect()
    })
}

/// A short last grain is filled up with zeros: readers inflate whole grains.
fn deflate(grain: &[u8]) -> io::Result<Option<Vec<u8>>> {
    if grain.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(GRAIN), Compression::fast());
    encoder.write_all(grain)?;
    encoder.write_all(&vec![0; GRAIN - grain.len()])?;
    encoder.finish().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = GRAIN as u64;

    fn head(capacity_bytes: u64) -> Head<'static> {
        Head { capacity_bytes, file_name: "a.vmdk", content_id: 1 }
    }

    fn writer(capacity: u64) -> Writer<Vec<u8>> {
        Writer::new(Vec::new(), &head(capacity)).unwrap()
    }

    #[test]
    fn zeros_cost_nothing_and_tables_come_only_with_grains() {
        let mut zeros = writer(100 * G);
        zeros.write(0, &vec![0; 10 * GRAIN]).unwrap();
        let empty = writer(100 * G).finish().unwrap().0;
        assert_eq!(zeros.finish().unwrap().0, empty);
        assert_eq!(empty.populated, 0);
        let mut one = writer(100 * G);
        one.write(99 * G, &vec![1; GRAIN]).unwrap();
        let one = one.finish().unwrap().0;
        // A grain of one byte's repetition is one sector; a marker and a table of four sectors follow.
        assert_eq!((one.populated, one.bytes - empty.bytes), (G, 6 * 512));
    }

    #[test]
    fn a_short_last_grain_holds_no_more_than_the_disk() {
        let mut short = writer(G + 512);
        short.write(0, &vec![1; GRAIN + 512]).unwrap();
        assert_eq!(short.finish().unwrap().0.populated, G + 512);
        let mut last = writer(G + 512);
        last.write(G, &[1; 512]).unwrap();
        assert_eq!(last.finish().unwrap().0.populated, 512);
    }

    #[test]
    fn grains_come_once_in_order_and_on_their_grid() {
        let refused = |writer: &mut Writer<Vec<u8>>, offset, length| {
            matches!(writer.write(offset, &vec![1; length]), Err(Error::Place { .. }))
        };
        let mut writer = writer(4 * G + 512);
        for (offset, length) in [(512, GRAIN), (0, 512), (4 * G, GRAIN), (8 * G, 0), (u64::MAX - G + 1, GRAIN)] {
            assert!(refused(&mut writer, offset, length), "{offset}+{length}");
        }
        writer.write(G, &vec![1; GRAIN]).unwrap();
        assert!(refused(&mut writer, 0, GRAIN) && refused(&mut writer, G, GRAIN));
        writer.write(4 * G, &[1; 512]).unwrap();
    }

    #[test]
    fn no_disk_is_empty_or_ends_within_a_sector() {
        for capacity in [0, 511, 513] {
            assert!(matches!(Writer::new(Vec::new(), &head(capacity)), Err(Error::Capacity(_))));
        }
    }

    #[test]
    fn a_sector_that_tables_can_not_name_is_refused() {
        let mut large = writer(4 * G);
        large.position = u64::from(u32::MAX) + 1;
        assert!(matches!(large.write(0, &vec![1; GRAIN]), Err(Error::Large)));
    }

    #[test]
    fn an_output_that_fails_is_told() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(matches!(Writer::new(full, &head(G)), Err(Error::Io(_))));
    }
}
