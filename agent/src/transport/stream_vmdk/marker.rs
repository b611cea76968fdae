//! Markers, and the book of grains: what the grain tables and the directory must say when the stream is whole.
//!
//! A grain's content has a checksum, its presence has none. A lost grain would read as zeros, so the tables are held
//! against the grains that came: with the directory at the end each table follows its grains; with the directory in
//! front all tables are known before the first grain.

use super::error::StreamError;
use super::header::{Directory, ENTRIES, Header, SECTOR, SECTOR_LEN, u32_at, u64_at};

/// Sectors by which a writer may pad a table.
const MAX_PAD: u64 = 128;

/// What a marker announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// A grain at this sector of the disk, of so many compressed bytes, which begin in the marker's own sector.
    Grain { lba: u64, size: u64 },
    /// A grain table of so many sectors.
    Table(u64),
    /// The grain directory.
    Directory(u64),
    /// The footer.
    Footer,
    /// The end.
    End,
}

impl Marker {
    /// Reads a marker's sector and bounds what it announces.
    pub(super) fn parse(b: &[u8], header: &Header) -> Result<Marker, StreamError> {
        let (value, size) = (u64_at(b, 0), u64::from(u32_at(b, 8)));
        if size > 0 {
            // Stored blocks make deflate grow by less than an eighth.
            if size > header.grain_bytes() + header.grain_bytes() / 8 + 256 {
                return Err(StreamError::Marker("compressed grain too large"));
            }
            return Ok(Marker::Grain { lba: value, size });
        }
        let within = |least: u64| (least..=least + MAX_PAD).contains(&value);
        match u32_at(b, 12) {
            0 if value == 0 => Ok(Marker::End),
            1 if within((ENTRIES * 4).div_ceil(SECTOR)) => Ok(Marker::Table(value)),
            2 if within(header.directory_sectors()) => Ok(Marker::Directory(value)),
            3 if value == 1 => Ok(Marker::Footer),
            0..=3 => Err(StreamError::Marker("size")),
            _ => Err(StreamError::Marker("unknown type")),
        }
    }
}

/// The book of grains.
#[derive(Debug)]
pub(super) enum Tables {
    /// All entries, by grain; a grain that came is crossed out.
    Front { zeros: bool, entries: Vec<u32>, grain: u64 },
    /// As the stream goes.
    End(Growing),
}

/// Tables that come behind their grains.
#[derive(Debug)]
pub(super) struct Growing {
    zeros: bool,
    grain: u64,
    /// Index of the table whose grains are coming, and what it must say.
    open: Option<(u64, Vec<u32>)>,
    /// Sector of each table, 0 for none.
    placed: Vec<u32>,
    /// Sectors of tables without a grain: only the directory knows their index.
    empty: Vec<u32>,
    /// Sector of the directory.
    directory: Option<u64>,
    footer: bool,
}

/// Tables hold 32 bits of a sector number; of a stream beyond 2 TiB the lower ones are compared.
fn short(sector: u64) -> u32 {
    u32::try_from(sector & u64::from(u32::MAX)).unwrap_or_default()
}

fn entries(b: &[u8]) -> impl Iterator<Item = u32> + '_ {
    b.chunks_exact(4).map(|e| u32_at(e, 0))
}

fn len(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Tables {
    /// From the part before the grains.
    pub(super) fn new(header: &Header, preamble: &[u8]) -> Result<Tables, StreamError> {
        let (zeros, grain) = (header.zero_entries, header.grain);
        let Directory::Front(at) = header.directory else {
            return Ok(Tables::End(Growing {
                zeros,
                grain,
                open: None,
                placed: vec![0; len(header.tables())],
                empty: Vec::new(),
                directory: None,
                footer: false,
            }));
        };
        let part = |sector: u64, bytes: u64| {
            let from = sector.checked_mul(SECTOR).map(len)?;
            preamble.get(from..from.checked_add(len(bytes))?)
        };
        let directory = part(at, header.tables() * 4).ok_or(StreamError::Tables("directory out of place"))?;
        let mut all = Vec::new();
        for table in entries(directory) {
            match table {
                0 => all.resize(all.len() + len(ENTRIES), 0),
                at => all.extend(entries(
                    part(u64::from(at), ENTRIES * 4).ok_or(StreamError::Tables("table out of place"))?,
                )),
            }
        }
        Ok(Tables::Front { zeros, entries: all, grain })
    }

    /// A grain came at `sector` of the stream.
    pub(super) fn grain(&mut self, lba: u64, sector: u64) -> Result<(), StreamError> {
        match self {
            Tables::Front { entries, grain, .. } => match entries.get_mut(len(lba / *grain)) {
                Some(entry) if *entry > 1 && *entry == short(sector) => {
                    *entry = 0;
                    Ok(())
                }
                _ => Err(StreamError::Tables("a grain is not where its table says")),
            },
            Tables::End(growing) => growing.grain(lba, sector),
        }
    }

    pub(super) fn growing(&mut self) -> Result<&mut Growing, StreamError> {
        match self {
            Tables::End(growing) => Ok(growing),
            Tables::Front { .. } => Err(StreamError::Marker("tables are in front of the grains already")),
        }
    }

    /// The end-of-stream marker came: is everything there?
    pub(super) fn end(&self) -> Result<(), StreamError> {
        match self {
            Tables::Front { zeros, entries, .. } => {
                let missing = entries.iter().any(|e| !(*e == 0 || *e == 1 && *zeros));
                if missing { Err(StreamError::Tables("a grain is missing")) } else { Ok(()) }
            }
            Tables::End(Growing { footer: true, .. }) => Ok(()),
            Tables::End(_) => Err(StreamError::Marker("the end comes before the footer")),
        }
    }
}

impl Growing {
    fn grain(&mut self, lba: u64, sector: u64) -> Result<(), StreamError> {
        if self.directory.is_some() {
            return Err(StreamError::Marker("a grain behind the directory"));
        }
        let index = lba / (self.grain * ENTRIES);
        let slot = len((lba / self.grain) % ENTRIES);
        match &self.open {
            Some((at, _)) if *at != index => return Err(StreamError::Tables("grains without their table")),
            None if self.placed.get(len(index)).is_none_or(|p| *p != 0) => {
                return Err(StreamError::Tables("a grain behind its table"));
            }
            _ => {}
        }
        let (_, said) = self.open.get_or_insert_with(|| (index, vec![0; len(ENTRIES)]));
        if let Some(entry) = said.get_mut(slot) {
            *entry = short(sector);
        }
        Ok(())
    }

    /// A grain table came; its content begins at `sector`.
    pub(super) fn table(&mut self, sector: u64, content: &[u8]) -> Result<(), StreamError> {
        if self.directory.is_some() {
            return Err(StreamError::Marker("a table behind the directory"));
        }
        let zeros = self.zeros;
        let absent = |e: u32| e == 0 || e == 1 && zeros;
        let said = entries(content).take(len(ENTRIES));
        match self.open.take() {
            Some((index, grains)) => {
                if !said.eq_by_pairs(&grains, |s, g| s == g || g == 0 && absent(s)) {
                    return Err(StreamError::Tables("a table tells of other grains than came"));
                }
                if let Some(place) = self.placed.get_mut(len(index)) {
                    *place = short(sector);
                }
            }
            None if !said.into_iter().all(absent) => return Err(StreamError::Tables("a table without its grains")),
            None if self.empty.len() >= self.placed.len() => return Err(StreamError::Tables("too many tables")),
            None => self.empty.push(short(sector)),
        }
        Ok(())
    }

    /// The directory came; its content begins at `sector`.
    pub(super) fn directory(&mut self, sector: u64, content: &[u8]) -> Result<(), StreamError> {
        if self.directory.is_some() {
            return Err(StreamError::Marker("a second directory"));
        }
        if self.open.is_some() {
            return Err(StreamError::Tables("grains without their table"));
        }
        // Streams ascend, so the sorted order is the order of arrival; a stream beyond 2 TiB has to be sorted.
        self.empty.sort_unstable();
        let right = entries(content).eq_by_pairs(&self.placed, |said, placed| {
            said == placed || placed == 0 && self.empty.binary_search(&said).is_ok()
        });
        if !right {
            return Err(StreamError::Tables("the directory tells of other tables than came"));
        }
        self.directory = Some(sector);
        Ok(())
    }

    /// The footer came and names the directory's sector.
    pub(super) fn footer(&mut self, at: u64) -> Result<(), StreamError> {
        if self.footer || self.directory != Some(at) {
            return Err(StreamError::Footer("the directory is elsewhere"));
        }
        self.footer = true;
        Ok(())
    }
}

trait EqByPairs {
    /// Whether there is a pair for each of `other` and all satisfy `same`.
    fn eq_by_pairs(self, other: &[u32], same: impl Fn(u32, u32) -> bool) -> bool;
}

impl<I: Iterator<Item = u32>> EqByPairs for I {
    fn eq_by_pairs(mut self, other: &[u32], same: impl Fn(u32, u32) -> bool) -> bool {
        other.iter().all(|o| self.next().is_some_and(|s| same(s, *o)))
    }
}

/// Sectors as bytes of a buffer.
pub(super) fn bytes(sectors: u64) -> usize {
    len(sectors) * SECTOR_LEN
}
