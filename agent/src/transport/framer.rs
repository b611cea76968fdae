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
    pub(super) fn look(&self, offset: u64, data: Bytes, scratch: &mut Vec<u8>) -> Looked {
        let (mut looked, squeezed) = self.seen(offset, &data, scratch);
        if !looked.zero {
            // What did not get smaller goes as it lies in the arena.
            looked.data = squeezed.unwrap_or(data);
        }
        looked
    }

    /// What one read brought, block by block; each holds its buffer.
    pub(super) fn blocks(&self, offset: u64, data: Buffer) -> impl Iterator<Item = (u64, Bytes)> + use<> {
        let (mut rest, mut at, unit) = (Bytes::from(data), offset, u64::from(self.block_bytes));
        std::iter::from_fn(move || {
            let whole = usize::try_from(unit - at % unit).unwrap_or(usize::MAX);
            let block = rest.split_to(whole.min(rest.len()));
            let here = at;
            at += block.len() as u64;
            (!block.is_empty()).then_some((here, block))
        })
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
        self.recipe.blocks(offset, data).try_for_each(|(offset, data)| self.block(offset, data))
    }

    fn block(&mut self, offset: u64, data: Bytes) -> ControlFlow<()> {
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

#[cfg(test)]
mod tests {
    use hotadd_blockio::{Arena, Device, EngineKind, FullSpeed, ReadRequest, engine, reader};

    use super::*;

    const BLOCK: u32 = 64 << 10;

    /// Reads of sixteen blocks and of what is left of a range become one frame a block, without a copy and with every buffer given back.
    #[test]
    fn one_read_becomes_a_frame_a_block() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..40 * BLOCK).map(|at| if at / BLOCK == 3 { 0 } else { (at % 251) as u8 }).collect();
        std::fs::write(file.path(), &content).unwrap();
        let device = Arc::new(Device::open(file.path()).unwrap());
        let arena = Arena::new(2, 1 << 20).unwrap();
        let mut engine = engine::make(EngineKind::Preadv, &device, &arena, 2).unwrap();
        let (block, never) = (u64::from(BLOCK), std::sync::atomic::AtomicBool::new(false));
        let ranges = [512..block + 512, 2 * block..40 * block];
        let request = ReadRequest { unit: 1 << 20, ..ReadRequest::new(&ranges, BLOCK, &never) };
        let (mut frames, mut lent) = (Vec::new(), 0);
        let (tx, rx) = std::sync::mpsc::channel();
        let sink: Sink = Box::new(move |item| {
            if let Item::Frame(frame) = item {
                tx.send(frame).unwrap();
            }
            ControlFlow::Continue(())
        });
        let mut framer = Framer::new(2000, Recipe::new(BLOCK, Compression::Unspecified), (0, 0), 0, sink);
        let stats = reader::read(&*device, engine.as_mut(), &arena, &request, &mut FullSpeed, &mut |block| {
            let address = block.data.as_ref().as_ptr_range();
            framer.send(block)?;
            for frame in rx.try_iter() {
                lent += usize::from(address.contains(&frame.data.as_ptr()));
                frames.push((frame.offset, frame.length, frame.zero, frame.blake3, frame.data.to_vec()));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((stats.reads, frames.len(), lent, arena.available()), (4, 40, 39, 2), "{frames:?}");
        assert_eq!(frames.iter().map(|frame| u64::from(frame.1)).sum::<u64>(), 39 * block);
        for (offset, length, zero, blake3, data) in frames {
            let whole = &content[usize::try_from(offset).unwrap()..][..length as usize];
            assert_eq!(blake3[..], blake3::hash(whole).as_bytes()[..]);
            assert_eq!(zero, whole.iter().all(|byte| *byte == 0));
            assert!(if zero { data.is_empty() } else { data == whole });
            assert_eq!(offset / block, (offset + u64::from(length) - 1) / block, "a frame crosses the grid");
        }
    }
}
