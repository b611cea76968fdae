//! Reads ranges of a source through an engine and hands blocks over, in order of offset unless any order will do.
//!
//! ```text
//! ranges → pieces on the block grid → engine (≤ depth in flight) → window → sink
//!                                        ▲ a free buffer of the arena is the credit
//! ```
//! Correctness lives here: a piece that comes back shorter than asked is an error, whatever the kernel called it. A
//! removed disk answers reads with a clean end of file; a media error is narrowed down to its LBA.
use std::{
    collections::VecDeque,
    io,
    ops::{ControlFlow, Range},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Arena, Buffer, Pace, ReadEngine,
    device::SECTOR,
    engine::{Completion, ReadOp},
    nbd::NbdError,
    source::Source,
};

/// How often a reader that waits for a free buffer looks at its cancel flag.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// A sink that takes longer waits for its client.
const HELD_UP: Duration = Duration::from_micros(500);

/// What to read.
#[derive(Debug)]
pub struct ReadRequest<'a> {
    /// Ascending, not overlapping, inside the device, multiples of its logical block.
    pub ranges: &'a [Range<u64>],
    /// Block size in bytes: a power of two.
    pub block: u32,
    /// Longest read in bytes: a power of two of at least `block` that fits the arena's slot. No read crosses a multiple of it, so blocks
    /// that lie together are read at once. The [`Pace`] may halve it down to a block.
    pub unit: u32,
    /// Set from outside to stop between two blocks.
    pub cancel: &'a AtomicBool,
    /// Blocks are handed over as they are read; else in order of offset.
    pub any_order: bool,
    /// Longest wait for a buffer to come back from a consumer that takes nothing.
    pub patience: Option<Duration>,
}

impl<'a> ReadRequest<'a> {
    /// Block by block, in order of offset.
    #[must_use]
    pub fn new(ranges: &'a [Range<u64>], block: u32, cancel: &'a AtomicBool) -> Self {
        Self { ranges, block, unit: block, cancel, any_order: false, patience: None }
    }
}

/// What one read brought: a block, or several that lie together.
#[derive(Debug)]
pub struct Block {
    pub offset: u64,
    pub data: Buffer,
    /// So far.
    pub waits: Waits,
    /// Reads that might be in flight.
    pub depth: usize,
}

/// For what a reader waited; the rest of its time was its sink's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waits {
    /// For an answer of the source.
    pub source: Duration,
    /// For a buffer that comes back from the consumer.
    pub credit: Duration,
    /// For its [`Pace`].
    pub pace: Duration,
}

/// Figures of one read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadStats {
    /// Bytes handed to the sink.
    pub bytes: u64,
    pub reads: u64,
    /// Start to first completed read.
    pub first_byte: Option<Duration>,
    pub elapsed: Duration,
    pub waits: Waits,
    /// The sink, the cancel flag or a consumer that took nothing ended it early; not every range was delivered.
    pub stopped: bool,
    /// It was the consumer.
    pub starved: bool,
}

/// Why a read failed. Nothing after the offset was delivered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("range {start}..{end} is empty, out of order, outside the disk of {size} bytes, or not aligned to {align}")]
    BadRange { start: u64, end: u64, size: u64, align: u32 },
    #[error(
        "block size {block} is not a power of two of at least {align} bytes that fits reads of {unit}, and they the buffers ({slot})"
    )]
    BadBlock { block: u32, unit: u32, align: u32, slot: usize },
    #[error("the disk disappeared while it was read (at byte {offset})")]
    Gone { offset: u64 },
    #[error("media error at LBA {lba} (512-byte sectors; byte {offset})")]
    Media { lba: u64, offset: u64, source: io::Error },
    #[error("short read at byte {offset}: {got} of {wanted} bytes")]
    Short { offset: u64, wanted: u32, got: usize },
    #[error("read of {length} bytes at byte {offset} failed")]
    Io { offset: u64, length: u32, source: io::Error },
    #[error("the {engine} engine failed")]
    Engine { engine: &'static str, source: io::Error },
}

/// Reads `request` to its end, or until the sink breaks.
///
/// # Errors
/// See [`ReadError`]. The engine has nothing in flight when this returns.
pub fn read(
    source: &dyn Source,
    engine: &mut dyn ReadEngine,
    arena: &Arena,
    request: &ReadRequest<'_>,
    pace: &mut dyn Pace,
    sink: &mut dyn FnMut(Block) -> ControlFlow<()>,
) -> Result<ReadStats, ReadError> {
    validate(source, arena, request)?;
    let mut run = Run {
        source,
        arena,
        pace,
        block: request.block,
        unit: request.unit,
        cancel: request.cancel,
        any_order: request.any_order,
        patience: request.patience,
        starving: None,
        depth: engine.depth(),
        window: VecDeque::with_capacity(engine.depth()),
        start: Instant::now(),
        held_up: Instant::now(),
        stats: ReadStats::default(),
    };
    let outcome = run.pump(engine, Pieces::new(request.ranges), sink);
    let drained = drain(engine, run.stats.stopped);
    run.stats.elapsed = run.start.elapsed();
    outcome.and(drained).map(|()| run.stats)
}

fn validate(source: &dyn Source, arena: &Arena, request: &ReadRequest<'_>) -> Result<(), ReadError> {
    let align = source.logical_block();
    let ReadRequest { block, unit, .. } = *request;
    let slot = arena.slot_bytes();
    if !block.is_power_of_two() || !unit.is_power_of_two() || block < align || unit < block || unit as usize > slot {
        return Err(ReadError::BadBlock { block, unit, align, slot });
    }
    let mut previous = 0;
    for range in request.ranges {
        let unit = u64::from(align);
        let aligned = range.start.is_multiple_of(unit) && range.end.is_multiple_of(unit);
        if range.start < previous || range.start >= range.end || range.end > source.size() || !aligned {
            return Err(ReadError::BadRange { start: range.start, end: range.end, size: source.size(), align });
        }
        previous = range.end;
    }
    Ok(())
}

/// Cuts ranges at multiples of a unit that may change from piece to piece.
#[derive(Debug)]
struct Pieces<'a> {
    ranges: std::slice::Iter<'a, Range<u64>>,
    rest: Range<u64>,
}

impl<'a> Pieces<'a> {
    fn new(ranges: &'a [Range<u64>]) -> Self {
        Self { ranges: ranges.iter(), rest: 0..0 }
    }

    fn next(&mut self, unit: u32) -> Option<(u64, u32)> {
        if self.rest.is_empty() {
            self.rest = self.ranges.next()?.clone();
        }
        let (at, bytes) = (self.rest.start, u64::from(unit));
        let stop = (at / bytes + 1).saturating_mul(bytes).min(self.rest.end);
        self.rest.start = stop;
        Some((at, u32::try_from(stop - at).unwrap_or(unit)))
    }
}

/// A piece in the window: asked, and perhaps answered.
struct Asked {
    offset: u64,
    length: u32,
    at: Instant,
    answer: Option<Buffer>,
}

struct Run<'a> {
    source: &'a dyn Source,
    arena: &'a Arena,
    pace: &'a mut dyn Pace,
    block: u32,
    unit: u32,
    cancel: &'a AtomicBool,
    any_order: bool,
    patience: Option<Duration>,
    /// Since when no buffer came back.
    starving: Option<Instant>,
    depth: usize,
    window: VecDeque<Asked>,
    start: Instant,
    /// When a sink that took long last came back.
    held_up: Instant,
    stats: ReadStats,
}

impl Run<'_> {
    fn pump(
        &mut self,
        engine: &mut dyn ReadEngine,
        mut pieces: Pieces<'_>,
        sink: &mut dyn FnMut(Block) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut next = pieces.next(self.piece());
        loop {
            self.depth = engine.depth().min(self.pace.depth());
            while let Some((offset, length)) = next
                && engine.in_flight() < self.depth
            {
                let Some(buffer) = self.credit(engine.in_flight()) else { break };
                if let Err(wait) = self.pace.admit(length) {
                    // What is in flight is waited for instead, and what came is handed over.
                    if engine.in_flight() == 0 && self.window.is_empty() {
                        let wait = wait.min(CANCEL_POLL);
                        thread::sleep(wait);
                        self.stats.waits.pace += wait;
                    }
                    break;
                }
                self.ask(engine, ReadOp { offset, length, buffer })?;
                self.look_for_first(engine)?;
                next = pieces.next(self.piece());
            }
            // A wish to stop that comes after the last block takes nothing away.
            if self.window.is_empty() && next.is_none() {
                return Ok(());
            }
            if self.is_starved() {
                (self.stats.stopped, self.stats.starved) = (true, true);
                return Ok(());
            }
            if self.cancel.load(Ordering::Relaxed) {
                self.stats.stopped = true;
                return Ok(());
            }
            if engine.in_flight() > 0 && self.settle_some(engine)?.is_break() {
                self.stats.stopped = true;
                return Ok(());
            }
            if self.deliver(sink).is_break() {
                self.stats.stopped = true;
                return Ok(());
            }
        }
    }

    /// Bytes of the next read, at most.
    fn piece(&self) -> u32 {
        self.unit.checked_shr(self.pace.halvings()).unwrap_or(0).max(self.block)
    }

    /// A free buffer: at once while reads are in flight, else waited for, because only the consumer can free one.
    fn credit(&mut self, in_flight: usize) -> Option<Buffer> {
        if let Some(buffer) = self.arena.try_take() {
            self.starving = None;
            return Some(buffer);
        }
        if in_flight > 0 {
            return None;
        }
        let begun = Instant::now();
        let buffer = self.arena.take(CANCEL_POLL);
        self.stats.waits.credit += begun.elapsed();
        self.starving = if buffer.is_some() { None } else { self.starving.or(Some(begun)) };
        buffer
    }

    fn is_starved(&self) -> bool {
        self.starving.zip(self.patience).is_some_and(|(since, patience)| since.elapsed() > patience)
    }

    fn ask(&mut self, engine: &mut dyn ReadEngine, op: ReadOp) -> Result<(), ReadError> {
        let (offset, length) = (op.offset, op.length);
        engine.submit(op).map_err(|rejected| ReadError::Io { offset, length, source: rejected.error })?;
        self.stats.reads += 1;
        self.window.push_back(Asked { offset, length, at: Instant::now(), answer: None });
        Ok(())
    }

    /// The first answer is taken when it comes, not when all buffers were made.
    fn look_for_first(&mut self, engine: &mut dyn ReadEngine) -> Result<(), ReadError> {
        if self.stats.first_byte.is_none()
            && let Some(completion) = engine.poll()
        {
            self.settle(engine, completion)?;
        }
        Ok(())
    }

    /// Waits for one answer, and takes all others that are there. Breaks when the engine itself saw the wish to stop.
    fn settle_some(&mut self, engine: &mut dyn ReadEngine) -> Result<ControlFlow<()>, ReadError> {
        let name = engine.kind().name();
        let begun = Instant::now();
        let completion = engine.complete();
        self.stats.waits.source += begun.elapsed();
        let completion = match completion {
            Err(source) if was_stopped(&source) => return Ok(ControlFlow::Break(())),
            other => other.map_err(|source| ReadError::Engine { engine: name, source })?,
        };
        let mut next = completion;
        while let Some(completion) = next {
            self.settle(engine, completion)?;
            next = engine.poll();
        }
        Ok(ControlFlow::Continue(()))
    }

    fn settle(&mut self, engine: &mut dyn ReadEngine, Completion { op, result }: Completion) -> Result<(), ReadError> {
        let got = match result {
            Ok(got) if got == op.length as usize => got,
            other => return Err(self.explain(engine, op, other)),
        };
        debug_assert_eq!(op.buffer.as_ref().len(), got);
        self.stats.first_byte.get_or_insert_with(|| self.start.elapsed());
        // Offsets in the window ascend, so the piece is found by its offset.
        if let Ok(index) = self.window.binary_search_by_key(&op.offset, |asked| asked.offset)
            && let Some(asked) = self.window.get_mut(index)
        {
            // What waited here while the client was slow says nothing of the disk.
            if asked.at >= self.held_up {
                self.pace.answered(asked.at.elapsed());
            }
            asked.answer = Some(op.buffer);
        }
        Ok(())
    }

    fn deliver(&mut self, sink: &mut dyn FnMut(Block) -> ControlFlow<()>) -> ControlFlow<()> {
        while let Some(index) = self.ready() {
            let Some(Asked { offset, length, answer: Some(data), .. }) = self.window.remove(index) else { continue };
            self.stats.bytes += u64::from(length);
            let begun = Instant::now();
            sink(Block { offset, data, waits: self.stats.waits, depth: self.depth })?;
            if begun.elapsed() > HELD_UP {
                self.held_up = Instant::now();
            }
        }
        ControlFlow::Continue(())
    }

    /// The answered piece that may go now.
    fn ready(&self) -> Option<usize> {
        let among = if self.any_order { self.window.len() } else { 1 };
        self.window.iter().take(among).position(|asked| asked.answer.is_some())
    }

    /// Turns a failed or short completion into the error that says what is wrong with the disk.
    fn explain(&self, engine: &mut dyn ReadEngine, op: ReadOp, result: io::Result<usize>) -> ReadError {
        let (offset, length) = (op.offset, op.length);
        if !self.source.is_present() {
            return ReadError::Gone { offset };
        }
        if let Some((bad, source)) = self.source.first_bad(engine, op, &result) {
            return match source.raw_os_error() {
                Some(libc::ENODEV | libc::ENXIO) => ReadError::Gone { offset: bad },
                _ => ReadError::Media { lba: bad / SECTOR, offset: bad, source },
            };
        }
        match result {
            Ok(got) => ReadError::Short { offset, wanted: length, got },
            Err(source) if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
                ReadError::Gone { offset }
            }
            Err(source) => ReadError::Io { offset, length, source },
        }
    }
}

fn was_stopped(error: &io::Error) -> bool {
    matches!(NbdError::of(error), Some(NbdError::Stopped))
}

fn drain(engine: &mut dyn ReadEngine, stopped: bool) -> Result<(), ReadError> {
    let name = engine.kind().name();
    loop {
        match engine.complete() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(source) if stopped && was_stopped(&source) => return Ok(()),
            Err(source) => return Err(ReadError::Engine { engine: name, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineKind, FullSpeed, engine::Rejected};

    /// Answers what was asked last first, one at a time.
    #[derive(Debug)]
    struct Backwards(Vec<ReadOp>);

    impl ReadEngine for Backwards {
        fn kind(&self) -> EngineKind {
            EngineKind::Preadv
        }

        fn depth(&self) -> usize {
            4
        }

        fn in_flight(&self) -> usize {
            self.0.len()
        }

        fn submit(&mut self, op: ReadOp) -> Result<(), Rejected> {
            self.0.push(op);
            Ok(())
        }

        fn complete(&mut self) -> io::Result<Option<Completion>> {
            let Some(mut op) = self.0.pop() else { return Ok(None) };
            let got = op.length as usize;
            op.buffer.set_filled(got);
            Ok(Some(Completion { op, result: Ok(got) }))
        }

        fn poll(&mut self) -> Option<Completion> {
            None
        }
    }

    /// In blocks, as they came.
    fn came(any_order: bool) -> Vec<u64> {
        const BLOCK: u32 = 4096;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * u64::from(BLOCK)).unwrap();
        let device = crate::Device::open(file.path()).unwrap();
        let (arena, mut engine) = (Arena::new(4, BLOCK as usize).unwrap(), Backwards(Vec::new()));
        let whole = [0..device.size()];
        let cancel = AtomicBool::new(false);
        let request = ReadRequest { any_order, ..ReadRequest::new(&whole, BLOCK, &cancel) };
        let mut came = Vec::new();
        read(&device, &mut engine, &arena, &request, &mut FullSpeed, &mut |block| {
            came.push(block.offset / u64::from(BLOCK));
            ControlFlow::Continue(())
        })
        .unwrap();
        came
    }

    #[test]
    fn blocks_come_in_order_unless_any_order_will_do() {
        assert_eq!(came(false), (0..8).collect::<Vec<_>>());
        let mut any = came(true);
        assert_ne!(any, (0..8).collect::<Vec<_>>());
        any.sort_unstable();
        assert_eq!(any, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn pieces_keep_to_the_grid() {
        let all = |ranges: &[Range<u64>], unit| {
            let mut pieces = Pieces::new(ranges);
            std::iter::from_fn(move || pieces.next(unit)).collect::<Vec<_>>()
        };
        let got = all(&[512..1024, 1_048_064..2_097_152 + 512], 1 << 20);
        assert_eq!(got, [(512, 512), (1_048_064, 512), (1 << 20, 1 << 20), (2 << 20, 512)]);
        assert_eq!(all(&[0..10], 4), [(0, 4), (4, 4), (8, 2)]);
        // A smaller unit goes on where the larger one ended, and the other way round.
        let (ranges, units) = ([0..32], [8, 4, 8, 4, 4, 8, 8]);
        let mut pieces = Pieces::new(&ranges);
        let got: Vec<_> = units.iter().map_while(|unit| pieces.next(*unit)).collect();
        assert_eq!(got, [(0, 8), (8, 4), (12, 4), (16, 4), (20, 4), (24, 8)]);
    }
}
