//! Blocks to frames: zero scan, hash, compression, in the order in which the blocks came; and where the time went. Knows neither engines
//! nor streams.
use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hotadd_api::{
    compress::compress,
    v1::{self, Compression, Frame},
};
use hotadd_blockio::{Block, Buffer, Waits, zero::is_zero};

use super::{
    crew::Crew,
    read::{Item, Sink, micros},
};

/// Between two words about progress.
const TELL: Duration = Duration::from_secs(1);

/// How blocks of one read become frames.
#[derive(Debug)]
pub(super) struct Recipe {
    block_bytes: u32,
    compression: Compression,
    /// BLAKE3 of a whole zero block: computed once, sent for every one.
    zero_hash: Bytes,
}

/// A block that was looked at.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) zero: bool,
    pub(super) data: Bytes,
    pub(super) blake3: Bytes,
    pub(super) compression: Compression,
}

impl Recipe {
    pub(super) fn new(block_bytes: u32, compression: Compression) -> Self {
        Self { block_bytes, compression, zero_hash: hash(&vec![0; block_bytes as usize]) }
    }

    /// `scratch`: memory for compression, of the thread.
    pub(super) fn look(&self, offset: u64, data: Buffer, scratch: &mut Vec<u8>) -> Looked {
        let (mut looked, squeezed) = self.seen(offset, data.as_ref(), scratch);
        if !looked.zero {
            // What did not get smaller goes as it lies in the arena.
            looked.data = squeezed.unwrap_or_else(|| Bytes::from(data));
        }
        looked
    }

    /// Of bytes that belong to somebody else.
    fn look_at(&self, offset: u64, data: &[u8], scratch: &mut Vec<u8>) -> Looked {
        let (mut looked, squeezed) = self.seen(offset, data, scratch);
        if !looked.zero {
            looked.data = squeezed.unwrap_or_else(|| Bytes::copy_from_slice(data));
        }
        looked
    }

    /// All but the payload as it is; the payload if it got smaller.
    fn seen(&self, offset: u64, data: &[u8], scratch: &mut Vec<u8>) -> (Looked, Option<Bytes>) {
        // A block is at most 4 MiB.
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let zero = is_zero(data);
        let blake3 = if zero && length == self.block_bytes { self.zero_hash.clone() } else { hash(data) };
        let squeezed = (!zero && compress(self.compression, data, scratch)).then(|| Bytes::copy_from_slice(scratch));
        let compression = if squeezed.is_some() { self.compression } else { Compression::Unspecified };
        (Looked { offset, length, zero, data: Bytes::new(), blake3, compression }, squeezed)
    }
}

/// See the module.
pub(super) struct Framer {
    device_key: i32,
    recipe: Arc<Recipe>,
    crew: Option<Crew>,
    scratch: Vec<u8>,
    sink: Sink,
    required: u64,
    clock: Clock,
    pub(super) covered: u64,
    pub(super) sent: u64,
    pub(super) zeros: u64,
}

/// Where the time went.
struct Clock {
    begun: Instant,
    told: Instant,
    waits: Waits,
    /// In the sink.
    outlet: Duration,
    depth: u32,
}

impl Framer {
    /// `required`: bytes that will come; `crew`: threads beside this one, and the reader's buffers.
    pub(super) fn new(device_key: i32, recipe: Recipe, crew: (usize, u32), required: u64, sink: Sink) -> Self {
        let (recipe, now) = (Arc::new(recipe), Instant::now());
        let clock = Clock { begun: now, told: now, waits: Waits::default(), outlet: Duration::ZERO, depth: 0 };
        let crew = Crew::start(&recipe, crew.0, crew.1);
        let (covered, sent, zeros) = (0, 0, 0);
        Self { device_key, recipe, crew, scratch: Vec::new(), sink, required, clock, covered, sent, zeros }
    }

    pub(super) fn open(&mut self, engine: &'static str) -> ControlFlow<()> {
        (self.sink)(Item::Opened { engine, bytes_required: self.required })
    }

    pub(super) fn send(&mut self, Block { offset, data, waits, depth }: Block) -> ControlFlow<()> {
        (self.clock.waits, self.clock.depth) = (waits, u32::try_from(depth).unwrap_or(u32::MAX));
        let Some(crew) = &mut self.crew else {
            let looked = self.recipe.look(offset, data, &mut self.scratch);
            return self.give(looked);
        };
        let done = crew.put(offset, data)?;
        done.into_iter().try_for_each(|looked| self.give(looked))
    }

    pub(super) fn push(&mut self, offset: u64, data: &[u8]) -> ControlFlow<()> {
        let looked = self.recipe.look_at(offset, data, &mut self.scratch);
        self.give(looked)
    }

    /// What is still with the crew.
    pub(super) fn finish(&mut self) -> ControlFlow<()> {
        while let Some(crew) = &mut self.crew
            && let Some(looked) = crew.next()?
        {
            self.give(looked)?;
        }
        ControlFlow::Continue(())
    }

    fn give(&mut self, looked: Looked) -> ControlFlow<()> {
        let Looked { offset, length, zero, data, blake3, compression } = looked;
        let frame =
            Frame { device_key: self.device_key, offset, length, zero, data, blake3, compression: compression.into() };
        let begun = Instant::now();
        (self.sink)(Item::Frame(frame))?;
        self.clock.outlet += begun.elapsed();
        self.covered += u64::from(length);
        *(if zero { &mut self.zeros } else { &mut self.sent }) += u64::from(length);
        if self.clock.told.elapsed() < TELL {
            return ControlFlow::Continue(());
        }
        self.clock.told = Instant::now();
        let progress = v1::DiskProgress {
            device_key: self.device_key,
            bytes_read: self.covered,
            bytes_required: self.required,
            depth: self.clock.depth,
            stages: Some(self.stages()),
        };
        // A wish to stop is met by the next frame: after the last one it takes nothing away.
        let _ = (self.sink)(Item::Progress(progress));
        ControlFlow::Continue(())
    }

    /// Of a source that tells for what it waits.
    pub(super) fn stages(&self) -> v1::Stages {
        let Clock { begun, waits, outlet, .. } = &self.clock;
        let outlet = *outlet + waits.credit;
        let rest = begun.elapsed().saturating_sub(waits.source + waits.pace + outlet);
        v1::Stages {
            source_us: micros(waits.source),
            agent_us: micros(rest),
            outlet_us: micros(outlet),
            paced_us: micros(waits.pace),
        }
    }

    /// Of a source that decodes and waits at the same time.
    pub(super) fn stages_of_stream(&self, paced: Duration) -> v1::Stages {
        let stages = self.stages();
        let (agent_us, paced_us) = (0, micros(paced));
        v1::Stages { source_us: stages.agent_us.saturating_sub(paced_us), agent_us, paced_us, ..stages }
    }

    /// The end of all waiting, told by who waited.
    pub(super) fn waited(&mut self, waits: Waits) {
        self.clock.waits = waits;
    }
}

impl std::fmt::Debug for Framer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Framer").field("device_key", &self.device_key).field("covered", &self.covered).finish()
    }
}

fn hash(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(blake3::hash(data).as_bytes())
}
