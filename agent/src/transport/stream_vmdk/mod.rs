//! Decoder of a streamOptimized VMDK, the form in which vSphere exports a disk: bytes in, pieces of the disk out.
//!
//! Pure: no I/O, no clock. Source: Virtual Disk Format 5.0. Memory is bounded by one grain, one table (or, with the
//! tables in front, 64 MiB) and four bytes for every 32 MiB of the disk.
//!
//! ```text
//! header ─▶ preamble ─▶ marker ─┬─ grain ──▶ (gap of zeros, data) ─▶ marker
//!    (descriptor, tables)   ▲   ├─ table, directory, footer ──▶ checked against the grains that came ─▶ marker
//!                           └───┘
//!                               └─ end-of-stream, all accounted for ─▶ (zeros to the end) ─▶ tail ── finish() ─▶ ok
//! any error, at any place ─▶ refused
//! ```
//! Pieces come in the order of the disk, never overlap, and cover it exactly once when [`Decoder::finish`] is `Ok`. Until
//! then nothing that came counts: the tables that prove that no grain was lost come behind the grains.

mod error;
mod grain;
mod header;
mod marker;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use error::StreamError;
use grain::Inflater;
use header::{Header, SECTOR, SECTOR_LEN};
use marker::{Marker, Tables};

/// Bytes of the marker in front of a grain's content.
const GRAIN_MARKER: u64 = 12;
/// Zeros that may follow the end: qemu-img rounds its file up by less than this.
const MAX_TAIL: u64 = 65_536;

/// A part of the disk. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Content.
    Data {
        /// Where it belongs.
        offset: u64,
        /// The content: one grain, or what of it lies on the disk.
        bytes: Bytes,
    },
    /// Zeros: the stream has no grain there.
    Zero {
        /// Where they begin.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// What a whole stream held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the disk: all were given out.
    pub capacity: u64,
    /// Bytes that came as data.
    pub data: u64,
    /// Bytes of the stream.
    pub stream: u64,
}

#[derive(Debug)]
enum State {
    Header,
    Preamble(Header),
    Stream(Box<Stream>),
    Tail,
    Refused,
}

/// Between header and end.
#[derive(Debug)]
struct Stream {
    header: Header,
    tables: Tables,
    /// None: a marker is awaited.
    at: Option<Marker>,
}

/// The decoder of one stream.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The unit that is being gathered, and how long it will be. Grows only as bytes arrive.
    buffer: Vec<u8>,
    want: usize,
    /// Bytes of the stream before `buffer`, and of the tail.
    position: u64,
    tail: u64,
    /// Size of the disk, and up to where it was given out.
    expected: u64,
    next: u64,
    data: u64,
    ready: Option<Piece>,
    inflater: Inflater,
}

impl Decoder {
    /// A decoder for a disk of `capacity` bytes. A stream of another disk size is refused.
    pub fn new(capacity: u64) -> Decoder {
        Decoder {
            state: State::Header,
            buffer: Vec::new(),
            want: SECTOR_LEN,
            position: 0,
            tail: 0,
            expected: capacity,
            next: 0,
            data: 0,
            ready: None,
            inflater: Inflater::new(),
        }
    }

    /// Takes bytes off the front of `input` and returns the next piece; `None` when all were taken and more are needed.
    ///
    /// # Errors
    /// Whatever is wrong with the stream; from then on [`StreamError::Refused`].
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Piece>, StreamError> {
        let result = self.advance(input);
        if result.is_err() {
            self.state = State::Refused;
            self.buffer = Vec::new();
            self.ready = None;
        }
        result
    }

    /// The input has ended. `Ok` only when the stream was whole and every piece was taken.
    ///
    /// # Errors
    /// [`StreamError::Truncated`], [`StreamError::Refused`].
    pub fn finish(self) -> Result<Summary, StreamError> {
        match self.state {
            State::Tail if self.ready.is_none() && self.next == self.expected => {
                Ok(Summary { capacity: self.expected, data: self.data, stream: self.position + self.tail })
            }
            State::Refused => Err(StreamError::Refused),
            _ => Err(StreamError::Truncated(self.position + self.buffer.len() as u64)),
        }
    }

    /// Bytes of the disk given out so far: for progress.
    pub fn delivered(&self) -> u64 {
        self.next
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Piece>, StreamError> {
        loop {
            if let Some(piece) = self.ready.take() {
                return Ok(Some(piece));
            }
            match self.state {
                State::Refused => return Err(StreamError::Refused),
                State::Tail => return self.take_tail(input).map(|()| None),
                _ => {}
            }
            let n = input.len().min(self.want.saturating_sub(self.buffer.len()));
            let (now, later) = input.split_at(n);
            self.buffer.extend_from_slice(now);
            *input = later;
            if self.buffer.len() < self.want {
                return Ok(None);
            }
            if let Some(piece) = self.unit()? {
                return Ok(Some(piece));
            }
        }
    }

    fn take_tail(&mut self, input: &mut &[u8]) -> Result<(), StreamError> {
        self.tail += input.len() as u64;
        let zeros = input.iter().all(|b| *b == 0);
        *input = &[];
        if zeros && self.tail < MAX_TAIL { Ok(()) } else { Err(StreamError::Trailing) }
    }

    /// The gathered unit is complete.
    fn unit(&mut self) -> Result<Option<Piece>, StreamError> {
        match std::mem::replace(&mut self.state, State::Refused) {
            State::Header => {
                let header = Header::parse(&self.buffer, self.expected)?;
                // The preamble is kept together with the header: tables in front are named by sector.
                self.want = marker::bytes(header.overhead);
                self.state = State::Preamble(header);
                Ok(None)
            }
            State::Preamble(header) => {
                let (at, sectors) = header.descriptor;
                if at != 0 {
                    let from = marker::bytes(at);
                    let text = self.buffer.get(from..from + marker::bytes(sectors)).unwrap_or_default();
                    header::check_descriptor(text)?;
                }
                let tables = Tables::new(&header, &self.buffer)?;
                self.restart(SECTOR_LEN);
                self.state = State::Stream(Box::new(Stream { header, tables, at: None }));
                Ok(None)
            }
            State::Stream(stream) => self.stream(stream),
            State::Tail | State::Refused => Err(StreamError::Refused),
        }
    }

    /// A marker, or what it announced, is complete.
    fn stream(&mut self, mut s: Box<Stream>) -> Result<Option<Piece>, StreamError> {
        let sector = self.position / SECTOR;
        let marker = match s.at.take() {
            Some(marker) => marker,
            None => {
                let marker = Marker::parse(&self.buffer, &s.header)?;
                let whole = match marker {
                    Marker::Grain { lba, size } => {
                        self.check_place(lba, &s.header)?;
                        (GRAIN_MARKER + size).div_ceil(SECTOR)
                    }
                    Marker::Table(n) | Marker::Directory(n) => 1 + n,
                    Marker::Footer => 2,
                    Marker::End => 1,
                };
                self.want = marker::bytes(whole);
                if self.buffer.len() < self.want {
                    s.at = Some(marker);
                    self.state = State::Stream(s);
                    return Ok(None);
                }
                marker
            }
        };
        let content = self.buffer.get(SECTOR_LEN..).unwrap_or_default();
        match marker {
            Marker::Grain { lba, size } => {
                s.tables.grain(lba, sector)?;
                let piece = self.grain(lba, size, &s.header)?;
                self.restart(SECTOR_LEN);
                self.state = State::Stream(s);
                return Ok(Some(piece));
            }
            Marker::Table(_) => s.tables.growing()?.table(sector + 1, content)?,
            Marker::Directory(_) => s.tables.growing()?.directory(sector + 1, content)?,
            Marker::Footer => {
                let at = s.header.check_footer(content)?;
                s.tables.growing()?.footer(at)?;
            }
            Marker::End => {
                s.tables.end()?;
                self.restart(0);
                self.state = State::Tail;
                return Ok(self.gap(self.expected));
            }
        }
        self.restart(SECTOR_LEN);
        self.state = State::Stream(s);
        Ok(None)
    }

    fn restart(&mut self, want: usize) {
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        self.want = want;
    }

    fn check_place(&self, lba: u64, header: &Header) -> Result<(), StreamError> {
        if lba >= header.capacity || !lba.is_multiple_of(header.grain) || lba * SECTOR >= self.expected {
            return Err(StreamError::Misplaced(lba));
        }
        if lba * SECTOR < self.next { Err(StreamError::NotAscending(lba)) } else { Ok(()) }
    }

    /// Inflates the grain in the buffer; returns the gap before it, when there is one, and keeps the grain for the next call.
    fn grain(&mut self, lba: u64, size: u64, header: &Header) -> Result<Piece, StreamError> {
        let len = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let offset = lba * SECTOR;
        let (whole, least) = (header.grain_bytes(), header.grain_bytes().min(self.expected - offset));
        let input = self.buffer.get(len(GRAIN_MARKER)..len(GRAIN_MARKER + size)).unwrap_or_default();
        let bytes = self.inflater.grain(lba, input, len(whole), len(least))?;
        let gap = self.gap(offset);
        self.next = offset + least;
        self.data += least;
        let data = Piece::Data { offset, bytes: Bytes::from(bytes) };
        Ok(match gap {
            Some(gap) => {
                self.ready = Some(data);
                gap
            }
            None => data,
        })
    }

    fn gap(&mut self, to: u64) -> Option<Piece> {
        let (offset, length) = (self.next, to - self.next);
        self.next = to;
        (length > 0).then_some(Piece::Zero { offset, length })
    }
}
