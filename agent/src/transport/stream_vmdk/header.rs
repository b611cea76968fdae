//! The sparse header and the descriptor behind it, with every field held to its bounds. Source: Virtual Disk Format 5.0.

use super::error::StreamError;

/// Bytes of a sector, VMware's unit.
pub(super) const SECTOR: u64 = 512;
/// The same as a length.
pub(super) const SECTOR_LEN: usize = 512;
/// Entries of a grain table: fixed by the format.
pub(super) const ENTRIES: u64 = 512;
/// `gdOffset` of a stream whose directory comes behind its grains.
const AT_END: u64 = u64::MAX;
/// Largest grain accepted, in sectors (1 MiB): the format's own is 128.
const MAX_GRAIN: u64 = 2048;
/// Largest part before the first grain, in sectors: descriptor only, or with all tables (64 MiB serve 1 TiB).
const MAX_OVERHEAD: u64 = 2048;
const MAX_OVERHEAD_TABLES: u64 = 131_072;

/// Most grain tables: four bytes are kept of each, or all entries when they are in front. 62 TiB have two millions.
const MAX_TABLES: u64 = 4 << 20;
const MAX_TABLES_FRONT: u64 = MAX_OVERHEAD_TABLES / 4;

const FLAG_NEWLINES: u32 = 1;
const FLAG_ZERO_ENTRIES: u32 = 4;
const FLAGS_STREAM: u32 = 0x3_0000;

/// Where the grain directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directory {
    /// In front of the grains, at this sector (qemu-img, vmdk-convert).
    Front(u64),
    /// Behind them, with markers and a footer (vSphere).
    End,
}

/// What the header says. All units are sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) descriptor: (u64, u64),
    pub(super) directory: Directory,
    pub(super) overhead: u64,
    /// A table entry of 1 means a grain of zeros.
    pub(super) zero_entries: bool,
}

impl Header {
    /// Reads a header. `expected` is the disk's size in bytes.
    pub(super) fn parse(b: &[u8], expected: u64) -> Result<Header, StreamError> {
        let header = Header::fields(b)?;
        header.check_capacity(expected)?;
        header.check()?;
        Ok(header)
    }

    fn fields(b: &[u8]) -> Result<Header, StreamError> {
        if b.get(..4) != Some(b"KDMV") {
            return Err(StreamError::NotVmdk);
        }
        if u32_at(b, 4) != 3 {
            return Err(StreamError::Version(u32_at(b, 4)));
        }
        let flags = u32_at(b, 8);
        let header = Header {
            capacity: u64_at(b, 12),
            grain: u64_at(b, 20),
            descriptor: (u64_at(b, 28), u64_at(b, 36)),
            directory: match u64_at(b, 56) {
                AT_END => Directory::End,
                at => Directory::Front(at),
            },
            overhead: u64_at(b, 64),
            zero_entries: flags & FLAG_ZERO_ENTRIES != 0,
        };
        if flags & FLAGS_STREAM != FLAGS_STREAM || u16_at(b, 77) != 1 {
            return Err(StreamError::Header("not made of compressed grains with markers"));
        }
        if flags & FLAG_NEWLINES != 0 && b.get(73..77) != Some(b"\n \r\n") {
            return Err(StreamError::Header("line ends were changed on the way"));
        }
        if u64::from(u32_at(b, 44)) != ENTRIES {
            return Err(StreamError::Header("a grain table has 512 entries"));
        }
        Ok(header)
    }

    fn check(&self) -> Result<(), StreamError> {
        if !self.grain.is_power_of_two() || !(8..=MAX_GRAIN).contains(&self.grain) {
            return Err(StreamError::Header("grain size"));
        }
        let (most, tables) = match self.directory {
            Directory::End => (MAX_OVERHEAD, MAX_TABLES),
            Directory::Front(_) => (MAX_OVERHEAD_TABLES, MAX_TABLES_FRONT),
        };
        if self.tables() > tables {
            return Err(StreamError::Header("too many grain tables"));
        }
        if !(1..=most).contains(&self.overhead) {
            return Err(StreamError::Header("size of the part before the grains"));
        }
        let inside = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| at >= 1 && end <= self.overhead);
        if self.descriptor.0 != 0 && !inside(self.descriptor.0, self.descriptor.1) {
            return Err(StreamError::Header("place of the descriptor"));
        }
        if let Directory::Front(at) = self.directory
            && !inside(at, self.directory_sectors())
        {
            return Err(StreamError::Header("place of the grain directory"));
        }
        Ok(())
    }

    /// A disk that does not end on a grain may be rounded up to one.
    fn check_capacity(&self, expected: u64) -> Result<(), StreamError> {
        let sectors = expected.div_ceil(SECTOR);
        let most = sectors.checked_next_multiple_of(self.grain).unwrap_or(sectors);
        if expected == 0 || !(sectors..=most).contains(&self.capacity) {
            return Err(StreamError::Capacity { expected, found: self.capacity.saturating_mul(SECTOR) });
        }
        Ok(())
    }

    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain * SECTOR
    }

    /// Number of grain tables. Bounded by the expected capacity.
    pub(super) fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.grain * ENTRIES)
    }

    pub(super) fn directory_sectors(&self) -> u64 {
        (self.tables() * 4).div_ceil(SECTOR)
    }

    /// A footer repeats the header, but for the directory's place, which it returns.
    pub(super) fn check_footer(&self, b: &[u8]) -> Result<u64, StreamError> {
        let footer = Header::fields(b).map_err(|_| StreamError::Footer("it is no header"))?;
        match footer.directory {
            Directory::Front(at) if Header { directory: Directory::End, ..footer } == *self => Ok(at),
            Directory::Front(_) => Err(StreamError::Footer("it differs from the header")),
            Directory::End => Err(StreamError::Footer("it does not tell where the directory is")),
        }
    }
}

/// Refuses the descriptor of a delta.
pub(super) fn check_descriptor(text: &[u8]) -> Result<(), StreamError> {
    for line in text.split(|b| *b == b'\n' || *b == 0) {
        let line = line.trim_ascii();
        let Some(at) = line.iter().position(|b| *b == b'=') else { continue };
        let (key, value) = (line[..at].trim_ascii_end(), line[at + 1..].trim_ascii_start());
        if key.eq_ignore_ascii_case(b"parentCID") && !value.eq_ignore_ascii_case(b"ffffffff") {
            return Err(StreamError::HasParent);
        }
    }
    Ok(())
}

pub(super) fn u16_at(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).and_then(|s| s.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub(super) fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
}
