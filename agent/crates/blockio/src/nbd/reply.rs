//! The reply assembler of one connection: bytes in, finished parts out. Pure but for the source of bytes.
//!
//! ```text
//! Head ─▶ simple, no error ─────────────▶ Data ─▶ part finished
//!   │ ─▶ simple, error ─────────────────────────▶ part finished
//!   │ ─▶ chunk DATA ─▶ Prefix(8) ───────▶ Data ─┐
//!   │ ─▶ chunk HOLE ─▶ Prefix(12) ─▶ zeros ─────┤
//!   │ ─▶ chunk ERROR*, BLOCK_STATUS ─▶ Body ────┤
//!   │ ─▶ chunk NONE ────────────────────────────┴▶ DONE? part finished: Head
//! ```
//! A part is finished well only when each of its bytes came exactly once. Lengths are checked before the first byte
//! they speak of is taken; bodies grow as they arrive, so a length alone reserves nothing.
use std::time::Duration;

use super::{
    NbdError,
    coverage::{Coverage, Refused},
    wire::{self, Command, Fields, Head, Headers},
};

/// Extents in one answer, at most (nbdkit sends up to 2²⁰).
pub const EXTENTS_MOST: usize = 1 << 20;
/// Bytes of an error chunk, at most: fields and a string.
const ERROR_BYTES_MOST: u64 = 4096 + 16;
/// Chunks of one reply that bring no data, at most.
const IDLE_CHUNKS_MOST: u32 = 64;
/// Bytes by which a body grows while it arrives.
const GROWTH: usize = 64 << 10;

/// One request on the wire: all of a read operation, or a piece of it.
#[derive(Debug)]
pub struct Part {
    pub cookie: u64,
    pub command: Command,
    pub offset: u64,
    pub length: u32,
    /// The operation it belongs to, and where in its buffer it begins.
    pub slot: usize,
    pub at: usize,
    /// When it was sent, on the engine's clock.
    pub sent: Duration,
    /// Outcome: the first errno, extents (length, state), coverage.
    pub error: Option<i32>,
    pub extents: Option<Vec<(u64, u64)>>,
    covered: Coverage,
    idle_chunks: u32,
}

impl Part {
    pub fn new(command: Command, offset: u64, length: u32, slot: usize, at: usize) -> Self {
        Self {
            cookie: 0,
            command,
            offset,
            length,
            slot,
            at,
            sent: Duration::ZERO,
            error: None,
            extents: None,
            covered: Coverage::default(),
            idle_chunks: 0,
        }
    }

    /// As it was before it was sent, to be asked again.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self::new(self.command, self.offset, self.length, self.slot, self.at)
    }

    /// Takes `length` bytes at `offset` of the export into the account; tells where they belong in the request.
    fn cover(&mut self, offset: u64, length: u64) -> Result<u64, NbdError> {
        let start = offset.checked_sub(self.offset);
        let end = start.and_then(|start| start.checked_add(length));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(NbdError::Protocol("data outside the request"));
        };
        if self.command != Command::Read || length == 0 || end > u64::from(self.length) {
            return Err(NbdError::Protocol("data outside the request"));
        }
        match self.covered.add(start, end) {
            Ok(()) => Ok(start),
            Err(Refused::Twice) => Err(NbdError::Protocol("the same byte twice in one reply")),
            Err(Refused::TooTorn) => Err(NbdError::Protocol("a reply in too many pieces")),
        }
    }

    fn fail(&mut self, error: u32) {
        self.error.get_or_insert(wire::errno(error));
    }

    fn verify(&self) -> Result<(), NbdError> {
        let complete = match self.command {
            Command::BlockStatus => self.extents.is_some(),
            Command::Read | Command::Disconnect => self.covered.bytes() == u64::from(self.length),
        };
        if complete || self.error.is_some() {
            Ok(())
        } else {
            Err(NbdError::Protocol("a reply that ends before all of it came"))
        }
    }
}

/// Where the bytes of reads belong: the buffer of the operation in `slot`.
pub trait Landing {
    fn land(&mut self, slot: usize, at: usize, length: usize) -> Option<&mut [u8]>;
}

/// Where bytes come from: `None` means "not now".
pub type Input<'a> = dyn FnMut(&mut [u8]) -> Result<Option<usize>, NbdError> + 'a;

#[derive(Debug, Clone, Copy)]
struct Chunk {
    kind: u16,
    done: bool,
    cookie: u64,
    /// Bytes of the payload that did not come yet.
    left: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    Prefix(Chunk),
    /// `start`: where in the request the next byte belongs.
    Data {
        chunk: Chunk,
        start: u64,
    },
    Body(Chunk),
}

/// See the module.
#[derive(Debug)]
pub struct Replies {
    headers: Headers,
    allocation: Option<u32>,
    state: State,
    head: [u8; 32],
    have: usize,
    body: Vec<u8>,
    /// Requests that were sent and not answered.
    pub pending: Vec<Part>,
}

const UNKNOWN: NbdError = NbdError::Protocol("a reply to a request that was not made");
const WRONG_LENGTH: NbdError = NbdError::Protocol("a chunk of a wrong length");

impl Replies {
    pub fn new(headers: Headers, allocation: Option<u32>) -> Self {
        Self { headers, allocation, state: State::Head, head: [0; 32], have: 0, body: Vec::new(), pending: Vec::new() }
    }

    /// Goes on until a part is finished, or input has nothing.
    pub fn advance(&mut self, input: &mut Input<'_>, landing: &mut dyn Landing) -> Result<Option<Part>, NbdError> {
        loop {
            let step = match self.state {
                State::Head => self.on_head(input)?,
                State::Prefix(chunk) => self.on_prefix(chunk, input, landing)?,
                State::Data { chunk, start } => self.on_data(chunk, start, input, landing)?,
                State::Body(chunk) => self.on_body(chunk, input)?,
            };
            match step {
                Step::Blocked => return Ok(None),
                Step::Go => {}
                Step::ChunkEnd(chunk) => {
                    self.state = State::Head;
                    if chunk.done {
                        return self.finish(chunk.cookie).map(Some);
                    }
                }
            }
        }
    }

    /// Collects `need` bytes in `head`.
    fn collect(&mut self, need: usize, input: &mut Input<'_>) -> Result<bool, NbdError> {
        while self.have < need {
            let room = self.head.get_mut(self.have..need).unwrap_or_default();
            match input(room)? {
                Some(got) => self.have += got,
                None => return Ok(false),
            }
        }
        self.have = 0;
        Ok(true)
    }

    fn part(&mut self, cookie: u64) -> Result<&mut Part, NbdError> {
        self.pending.iter_mut().find(|part| part.cookie == cookie).ok_or(UNKNOWN)
    }

    fn finish(&mut self, cookie: u64) -> Result<Part, NbdError> {
        let index = self.pending.iter().position(|part| part.cookie == cookie).ok_or(UNKNOWN)?;
        let part = self.pending.swap_remove(index);
        part.verify().map(|()| part)
    }

    fn on_head(&mut self, input: &mut Input<'_>) -> Result<Step, NbdError> {
        let need = self.headers.reply_bytes();
        if !self.collect(need, input)? {
            return Ok(Step::Blocked);
        }
        let bytes = self.head.get(..need).unwrap_or_default();
        let head = wire::reply_head(self.headers, bytes).ok_or(NbdError::Protocol("no reply where one must begin"))?;
        match head {
            Head::Simple { error, cookie } => self.simple(error, cookie),
            Head::Chunk { done, kind, cookie, offset, length } => {
                let part = self.part(cookie)?;
                if offset.is_some_and(|offset| offset != part.offset) {
                    return Err(NbdError::Protocol("a reply that repeats another offset than was asked"));
                }
                self.chunk(Chunk { kind, done, cookie, left: length })
            }
        }
    }

    fn simple(&mut self, error: u32, cookie: u64) -> Result<Step, NbdError> {
        let part = self.part(cookie)?;
        let chunk = Chunk { kind: wire::CHUNK_DATA, done: true, cookie, left: part.length.into() };
        if error != 0 {
            part.fail(error);
            return Ok(Step::ChunkEnd(chunk));
        }
        part.cover(part.offset, chunk.left)?;
        self.state = State::Data { chunk, start: 0 };
        Ok(Step::Go)
    }

    /// Decides what a chunk's payload is, and whether it may be that long.
    fn chunk(&mut self, chunk: Chunk) -> Result<Step, NbdError> {
        let extent = if self.headers == Headers::Extended { 16 } else { 8 };
        let part = self.part(chunk.cookie)?;
        let (command, length) = (part.command, u64::from(part.length));
        if chunk.kind != wire::CHUNK_DATA && chunk.kind != wire::CHUNK_HOLE {
            part.idle_chunks += 1;
            if part.idle_chunks > IDLE_CHUNKS_MOST {
                return Err(NbdError::Protocol("chunks without end"));
            }
        }
        let legal = match (chunk.kind, command) {
            (wire::CHUNK_NONE, _) if chunk.left == 0 && chunk.done => return Ok(Step::ChunkEnd(chunk)),
            (wire::CHUNK_DATA, Command::Read) => chunk.left > 8 && chunk.left - 8 <= length,
            (wire::CHUNK_HOLE, Command::Read) => chunk.left == 12,
            (wire::CHUNK_STATUS | wire::CHUNK_STATUS_EXTENDED, Command::BlockStatus) => {
                let most = EXTENTS_MOST as u64 * extent + 8;
                if chunk.left > most {
                    return Err(NbdError::TooMuch { what: "bytes of block status", got: chunk.left, most });
                }
                chunk.left > extent
            }
            (kind, _) if kind & (1 << 15) != 0 => {
                if chunk.left > ERROR_BYTES_MOST {
                    let most = ERROR_BYTES_MOST;
                    return Err(NbdError::TooMuch { what: "bytes of an error", got: chunk.left, most });
                }
                chunk.left >= 6
            }
            _ => return Err(NbdError::Protocol("a chunk that does not answer the request")),
        };
        if !legal {
            return Err(WRONG_LENGTH);
        }
        self.body.clear();
        self.state = match chunk.kind {
            wire::CHUNK_DATA | wire::CHUNK_HOLE => State::Prefix(chunk),
            _ => State::Body(chunk),
        };
        Ok(Step::Go)
    }

    fn on_prefix(
        &mut self,
        mut chunk: Chunk,
        input: &mut Input<'_>,
        landing: &mut dyn Landing,
    ) -> Result<Step, NbdError> {
        let hole = chunk.kind == wire::CHUNK_HOLE;
        if !self.collect(if hole { 12 } else { 8 }, input)? {
            return Ok(Step::Blocked);
        }
        let head = self.head;
        let mut fields = Fields(&head);
        let offset = fields.u64().unwrap_or(0);
        let length = if hole { fields.u32().unwrap_or(0).into() } else { chunk.left - 8 };
        let part = self.part(chunk.cookie)?;
        let start = part.cover(offset, length)?;
        if hole {
            room(part, landing, start, length)?.fill(0);
            return Ok(Step::ChunkEnd(chunk));
        }
        chunk.left -= 8;
        self.state = State::Data { chunk, start };
        Ok(Step::Go)
    }

    fn on_data(
        &mut self,
        mut chunk: Chunk,
        mut start: u64,
        input: &mut Input<'_>,
        landing: &mut dyn Landing,
    ) -> Result<Step, NbdError> {
        while chunk.left > 0 {
            let part = self.part(chunk.cookie)?;
            match input(room(part, landing, start, chunk.left)?)? {
                None => {
                    self.state = State::Data { chunk, start };
                    return Ok(Step::Blocked);
                }
                Some(got) => {
                    start += got as u64;
                    chunk.left = chunk.left.saturating_sub(got as u64);
                }
            }
        }
        Ok(Step::ChunkEnd(chunk))
    }

    fn on_body(&mut self, mut chunk: Chunk, input: &mut Input<'_>) -> Result<Step, NbdError> {
        while chunk.left > 0 {
            let have = self.body.len();
            let most = usize::try_from(chunk.left).unwrap_or(GROWTH).min(GROWTH);
            self.body.resize(have + most, 0);
            let got = input(self.body.get_mut(have..).unwrap_or_default())?;
            self.body.truncate(have + got.unwrap_or(0));
            match got {
                None => {
                    self.state = State::Body(chunk);
                    return Ok(Step::Blocked);
                }
                Some(got) => chunk.left = chunk.left.saturating_sub(got as u64),
            }
        }
        let body = std::mem::take(&mut self.body);
        let result = if chunk.kind & (1 << 15) != 0 { self.error(chunk, &body) } else { self.status(chunk, &body) };
        result.map(|()| Step::ChunkEnd(chunk))
    }

    fn error(&mut self, chunk: Chunk, body: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(body);
        let (error, length) = (fields.u32().unwrap_or(0), fields.u16().unwrap_or(0));
        let rest = fields.rest();
        let (message, more) = rest.split_at_checked(length.into()).ok_or(WRONG_LENGTH)?;
        let part = self.part(chunk.cookie)?;
        let known = match (chunk.kind, more) {
            (wire::CHUNK_ERROR, []) => true,
            (wire::CHUNK_ERROR_OFFSET, more) if more.len() == 8 => {
                let at = Fields(more).u64().unwrap_or(0);
                at >= part.offset && at - part.offset < u64::from(part.length)
            }
            // Errors of later protocols begin in the same way.
            (kind, _) => kind != wire::CHUNK_ERROR && kind != wire::CHUNK_ERROR_OFFSET,
        };
        if error == 0 || !known {
            return Err(NbdError::Protocol("an error that is none, or lies outside the request"));
        }
        part.fail(error);
        tracing::debug!(offset = part.offset, error, message = wire::words(message), "the server failed a request");
        Ok(())
    }

    fn status(&mut self, chunk: Chunk, body: &[u8]) -> Result<(), NbdError> {
        let extended = chunk.kind == wire::CHUNK_STATUS_EXTENDED;
        if extended != (self.headers == Headers::Extended) {
            return Err(NbdError::Protocol("block status of the other width"));
        }
        let mut fields = Fields(body);
        let context = fields.u32();
        let count = if extended { fields.u32() } else { None };
        let size = if extended { 16 } else { 8 };
        let (entries, rest) = (fields.rest().len() / size, fields.rest().len() % size);
        if rest != 0 || entries == 0 || count.is_some_and(|count| count as usize != entries) {
            return Err(WRONG_LENGTH);
        }
        if context != self.allocation {
            return Err(NbdError::Protocol("block status of a context that was not asked for"));
        }
        let part = self.part(chunk.cookie)?;
        if part.extents.is_some() {
            return Err(NbdError::Protocol("block status twice"));
        }
        let mut extents = Vec::with_capacity(entries);
        let mut sum = 0_u64;
        for _ in 0..entries {
            let pair = if extended {
                fields.u64().zip(fields.u64())
            } else {
                fields.u32().zip(fields.u32()).map(|(length, state)| (length.into(), state.into()))
            };
            let (length, state) =
                pair.filter(|&(length, _)| length > 0).ok_or(NbdError::Protocol("an empty extent"))?;
            // Only the last may reach beyond what was asked.
            if sum >= u64::from(part.length) {
                return Err(NbdError::Protocol("extents beyond the request"));
            }
            sum = sum.saturating_add(length);
            extents.push((length, state));
        }
        part.extents = Some(extents);
        Ok(())
    }
}

fn room<'a>(part: &Part, landing: &'a mut dyn Landing, start: u64, length: u64) -> Result<&'a mut [u8], NbdError> {
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    // Cannot happen: `cover` kept it inside the request, which was cut to fit its buffer.
    landing.land(part.slot, part.at.saturating_add(start), length).ok_or(NbdError::Protocol("data outside the buffer"))
}

enum Step {
    Blocked,
    Go,
    ChunkEnd(Chunk),
}
