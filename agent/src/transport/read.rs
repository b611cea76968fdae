//! One read of one disk, on its own thread.
//!
//! Back-pressure: the sink is a bounded channel, frames hold their arena buffers until they are encrypted for the wire,
//! and a read needs a free buffer. So a client that stops reading stops the device, with `depth` blocks of memory.
use std::{
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hotadd_api::v1::{self, Compression, DiskResult, Frame, Timings};
use hotadd_blockio::{
    Arena, Device, EngineKind, ReadEngine, ReadError, ReadRequest, ReadStats, Refusal, Source, Tuning, engine,
    nbd::NbdError, reader,
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    Disk, ExportDisk, Memory, Ready, Remote,
    framer::{Framer, Recipe},
    memory::{buffers, unless},
    tally::{Running, Tally},
    throttle::{Pacer, Throttle},
};
use crate::{
    attach::Attached,
    config::ReadTuning,
    discover::Platform,
    error::{Error, Result},
    id::SessionId,
    metrics::Meter,
    plan::facts_to_api,
    reason,
};

/// What to read.
#[derive(Debug, Clone)]
pub struct ReadOrder {
    /// `None`: the whole disk.
    pub ranges: Option<Vec<Range<u64>>>,
    pub block_bytes: u32,
    pub depth: u32,
    pub engines: Vec<EngineKind>,
    /// Of the frames.
    pub compression: Compression,
    /// Frames may come as reads complete.
    pub any_order: bool,
    /// Longest time in which the client takes nothing; `None`: any.
    pub patience: Option<Duration>,
}

/// Longest read where blocks are shorter: beyond it a request brings no more bytes a second.
const READ_BYTES: u32 = 1 << 20;

impl ReadOrder {
    /// Bytes of the longest read: blocks that lie together are read at once, and what lies alone needs no larger buffer.
    fn unit(&self) -> u32 {
        let longest =
            self.ranges.as_ref().map(|ranges| ranges.iter().map(|range| range.end.saturating_sub(range.start)).max());
        let longest = longest.map_or(u64::MAX, Option::unwrap_or_default);
        let longest = u32::try_from(longest).unwrap_or(READ_BYTES).min(READ_BYTES).next_power_of_two();
        longest.max(self.block_bytes)
    }

    /// How often a unit may be halved until it is a block.
    fn halvings(&self) -> u32 {
        self.unit().ilog2().saturating_sub(self.block_bytes.max(1).ilog2())
    }

    /// Reads that may be in flight: no more than there are.
    fn reads(&self) -> u32 {
        let unit = u64::from(self.unit());
        let pieces = |range: &Range<u64>| range.end.div_ceil(unit).saturating_sub(range.start / unit);
        let all = self.ranges.as_ref().map_or(u64::MAX, |ranges| ranges.iter().map(pieces).sum());
        u32::try_from(all).unwrap_or(u32::MAX).clamp(1, self.depth)
    }
}

/// What reads share, and for whom this one is.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    pub memory: &'a Memory,
    pub throttle: &'a Throttle,
    pub tuning: &'a ReadTuning,
    pub meter: &'a Meter,
    pub tally: &'a Tally,
    pub session: SessionId,
}

/// What a read hands over.
#[derive(Debug)]
pub enum Item {
    /// First: the device is open and this engine reads it.
    Opened { engine: &'static str, bytes_required: u64 },
    /// Then frames, in order of offset unless any order was asked for …
    Frame(Frame),
    /// … and now and then how far it is.
    Progress(v1::DiskProgress),
}

/// Takes items in order; blocks while the client is slow; `Break` when it is gone.
pub type Sink = Box<dyn FnMut(Item) -> ControlFlow<()> + Send>;

/// The end of a read. `error` is `None` only if every required byte was delivered.
#[derive(Debug)]
pub struct Report {
    pub error: Option<Error>,
    pub engine: Option<&'static str>,
    pub refusals: Vec<String>,
    pub bytes_read: u64,
    pub bytes_sent: u64,
    pub zero_bytes: u64,
    pub first_byte: Duration,
    pub elapsed: Duration,
    /// The client took nothing for too long.
    pub starved: bool,
    pub stages: v1::Stages,
    pub reads: u64,
    /// Zero: unknown.
    pub commands: u64,
}

/// A running read.
#[derive(Debug)]
pub struct Reading {
    cancel: Arc<AtomicBool>,
    done: oneshot::Receiver<Report>,
}

impl Reading {
    /// Waits for its share of the memory that all reads may use, then starts the thread. The thread owns a share of
    /// `disk` and drops it last, after its descriptor is closed.
    ///
    /// # Errors
    /// [`reason::READ_STOPPED`] when it is cancelled while it waits; when no thread can be started.
    pub async fn start(
        disk: Disk,
        platform: Arc<dyn Platform>,
        mut order: ReadOrder,
        sink: Sink,
        cancel: Arc<AtomicBool>,
        means: Means<'_>,
    ) -> Result<Self> {
        let memory = means.memory;
        let (answer, done) = oneshot::channel();
        let ready = match &disk {
            Disk::Attached(_) | Disk::Exported(_) => None,
            // A start that takes long does not hold memory.
            Disk::Remote(remote) => match unless(&cancel, remote.ready()).await {
                Some(Ok(ready)) => Some(ready),
                Some(Err(error)) => {
                    // A failed read like any other.
                    drop(answer.send(Report::failed(error)));
                    return Ok(Self { cancel, done });
                }
                None => return Err(Error::new(&reason::READ_STOPPED, "before its server was ready")),
            },
        };
        order.depth = memory.depth(order.reads(), order.unit());
        let share = memory.take(order.depth, order.unit(), &cancel).await;
        let share = share.ok_or_else(|| Error::new(&reason::READ_STOPPED, "before its turn"))?;
        let (flag, runtime) = (Arc::clone(&cancel), Handle::current());
        let tuning = means.tuning.clone();
        let (meter, transport, depth) = (means.meter.clone(), disk.transport(), order.depth);
        let running = means.tally.begin(means.session, disk.facts(), transport);
        let sink = counted(sink, meter.clone(), transport, Arc::clone(&running));
        let pacer =
            means.throttle.pacer(means.session, &disk.facts().datastore_name, (order.depth as usize, order.halvings()));
        thread::Builder::new()
            .name(format!("read-{}", disk.facts().device_key))
            .spawn(move || {
                tuning.settle_down();
                let mut reins = Reins { pacer, cancel: flag, runtime, tuning };
                let report = run(&disk, ready.as_ref(), platform.as_ref(), &order, &mut reins, sink);
                drop(ready);
                drop(disk);
                drop(share);
                meter.read_ended(transport, depth, &report);
                running.took(&report.stages);
                drop(running);
                // Nobody may be waiting any more; the report is for whoever does.
                drop(answer.send(report));
            })
            .map_err(|e| Error::new(&reason::INTERNAL, "no thread for the read").with_source(e))?;
        Ok(Self { cancel, done })
    }

    /// Asks the read to stop between two blocks.
    pub fn stop(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Waits for the thread's end; its descriptor is closed then.
    pub async fn join(self) -> Report {
        self.done.await.unwrap_or_else(|_| Report::failed(Error::new(&reason::INTERNAL, "the read thread panicked")))
    }
}

/// Counts what the client took.
fn counted(mut sink: Sink, meter: Meter, transport: v1::Transport, running: Arc<Running>) -> Sink {
    Box::new(move |item| {
        let frame = match &item {
            Item::Frame(frame) => Some((frame.zero, frame.length)),
            Item::Opened { bytes_required, .. } => {
                running.opened(*bytes_required);
                None
            }
            Item::Progress(progress) => {
                progress.stages.iter().for_each(|stages| running.took(stages));
                None
            }
        };
        sink(item)?;
        if let Some((zero, bytes)) = frame {
            meter.handed_over(transport, zero, bytes);
            running.handed_over(bytes);
        }
        ControlFlow::Continue(())
    })
}

impl Report {
    #[must_use]
    pub fn failed(error: Error) -> Self {
        Self {
            error: Some(error),
            engine: None,
            refusals: Vec::new(),
            bytes_read: 0,
            bytes_sent: 0,
            zero_bytes: 0,
            first_byte: Duration::ZERO,
            elapsed: Duration::ZERO,
            starved: false,
            stages: v1::Stages::default(),
            reads: 0,
            commands: 0,
        }
    }

    /// As the API shows it; detach time is filled in later by who detaches.
    #[must_use]
    pub fn to_api(&self, disk: &Disk) -> DiskResult {
        let (attach, discover) = disk.attach_times();
        DiskResult {
            disk: Some(facts_to_api(disk.facts())),
            ok: self.error.is_none(),
            reasons: self.error.iter().map(Error::to_reason).collect(),
            engine: self.engine.unwrap_or_default().to_owned(),
            engine_refusals: self.refusals.clone(),
            bytes_read: self.bytes_read,
            bytes_sent: self.bytes_sent,
            zero_bytes: self.zero_bytes,
            timings: Some(Timings {
                attach_us: micros(attach),
                discover_us: micros(discover),
                first_byte_us: micros(self.first_byte),
                transfer_us: micros(self.elapsed),
                detach_us: 0,
            }),
            transport: disk.transport().into(),
            parts: Vec::new(),
            stages: Some(self.stages),
            reads: self.reads,
            commands: self.commands,
        }
    }
}

/// Microseconds, saturating.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What holds a read back or ends it, and where it may wait for others.
struct Reins {
    pacer: Pacer,
    cancel: Arc<AtomicBool>,
    runtime: Handle,
    tuning: ReadTuning,
}

fn run(
    disk: &Disk,
    ready: Option<&Ready>,
    platform: &dyn Platform,
    order: &ReadOrder,
    reins: &mut Reins,
    sink: Sink,
) -> Report {
    let Reins { pacer, cancel, tuning, .. } = &mut *reins;
    let opened = Instant::now();
    let prepared = match (disk, ready) {
        (Disk::Attached(attached), _) => Prepared::device(attached, platform, order, tuning.sqpoll),
        (Disk::Remote(remote), Some(ready)) => Prepared::server(remote, ready, order, cancel),
        (Disk::Remote(remote), None) => Err(Error::new(&reason::INTERNAL, remote.name())),
        (Disk::Exported(exported), _) => return export(exported, order, reins, sink),
    };
    let mut prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Report::failed(error),
    };
    let whole = [0..prepared.source.size()];
    let ranges = order.ranges.as_deref().unwrap_or(&whole);
    let request = ReadRequest {
        unit: order.unit(),
        any_order: order.any_order,
        patience: order.patience,
        ..ReadRequest::new(ranges, order.block_bytes, cancel)
    };
    let required: u64 = ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum();
    let setup = opened.elapsed();
    let engine = prepared.engine.kind().name();
    let commands = prepared.source.commands();
    let recipe = Recipe::new(order.block_bytes, order.compression);
    let crew = (tuning.workers(order.compression), buffers(order.depth));
    let mut framer = Framer::new(disk.facts().device_key, recipe, crew, required, sink);
    if framer.open(engine).is_break() {
        return Report::failed(Error::new(&reason::READ_STOPPED, disk.facts().backing.to_string()));
    }
    let mut result = reader::read(
        prepared.source.as_ref(),
        prepared.engine.as_mut(),
        &prepared.arena,
        &request,
        pacer,
        &mut |block| framer.send(block),
    );
    if !matches!(&result, Ok(stats) if stats.stopped) && framer.finish().is_break() {
        result.iter_mut().for_each(|stats| stats.stopped = true);
    }
    let gone = || Error::new(&reason::READ_GONE, format!("{} at its end", disk.facts().backing));
    let error = verdict(&result, required, framer.covered, disk).or_else(|| (!prepared.source.is_present()).then(gone));
    let error = match (error, ready) {
        (Some(error), Some(ready)) => Some(ready.told(error)),
        (error, _) => error,
    };
    let stats = result.unwrap_or_default();
    framer.waited(stats.waits);
    let sent = |before: u64| prepared.source.commands().map(|now| now.saturating_sub(before));
    Report {
        error,
        engine: Some(engine),
        refusals: prepared.refused,
        bytes_read: framer.covered,
        bytes_sent: framer.sent,
        zero_bytes: framer.zeros,
        first_byte: setup + stats.first_byte.unwrap_or_default(),
        elapsed: stats.elapsed,
        starved: stats.starved,
        stages: framer.stages(),
        reads: stats.reads,
        commands: commands.and_then(sent).unwrap_or(0),
    }
}

/// Name of the way in place of an engine's.
const EXPORT: &str = "nfc-lease";

/// The stream of an export lease, on this thread, which may wait for the client as any read may.
fn export(disk: &ExportDisk, order: &ReadOrder, reins: &mut Reins, sink: Sink) -> Report {
    let Reins { pacer, cancel, runtime, .. } = reins;
    let begun = Instant::now();
    let whole = [0..disk.disk.capacity_bytes];
    let ranges = order.ranges.as_deref().unwrap_or(&whole);
    let required: u64 = ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum();
    let recipe = Recipe::new(order.block_bytes, order.compression);
    let mut framer = Framer::new(disk.disk.device_key, recipe, (0, 0), required, sink);
    let (mut first_byte, mut paced) = (None, Duration::ZERO);
    let opened = framer.open(EXPORT);
    let ended = if opened.is_break() {
        Err(Error::new(&reason::READ_STOPPED, disk.disk.label.clone()))
    } else {
        disk.stream(runtime, ranges, order.block_bytes, cancel, &mut |offset, data| {
            first_byte.get_or_insert_with(|| begun.elapsed());
            let asked = Instant::now();
            pacer.wait(u32::try_from(data.len()).unwrap_or(u32::MAX), cancel)?;
            paced += asked.elapsed();
            framer.push(offset, data)
        })
    };
    let short =
        || Error::new(&reason::READ_SHORT, format!("{}: {} of {required} bytes", disk.disk.backing, framer.covered));
    let error = ended.err().or_else(|| (framer.covered != required).then(short));
    Report {
        error,
        engine: Some(EXPORT),
        refusals: Vec::new(),
        bytes_read: framer.covered,
        bytes_sent: framer.sent,
        zero_bytes: framer.zeros,
        first_byte: first_byte.unwrap_or_default(),
        elapsed: begun.elapsed(),
        starved: false,
        stages: framer.stages_of_stream(paced),
        reads: 0,
        commands: 0,
    }
}

/// OK only if every required byte was handed over exactly once: pieces ascend and never overlap, so the sum decides.
fn verdict(result: &Result<ReadStats, ReadError>, required: u64, covered: u64, disk: &Disk) -> Option<Error> {
    let name = || disk.facts().backing.to_string();
    match result {
        Ok(stats) if !stats.stopped && covered == required && stats.bytes == required => None,
        Ok(stats) if stats.stopped => {
            Some(Error::new(&reason::READ_STOPPED, format!("{} at {covered} of {required} bytes", name())))
        }
        Ok(_) => Some(Error::new(&reason::READ_SHORT, format!("{}: {covered} of {required} bytes", name()))),
        Err(error) => Some(Error::new(kind(error), format!("{}: {}", name(), chain(error)))),
    }
}

fn kind(error: &ReadError) -> &'static reason::ReasonCode {
    match error {
        ReadError::BadRange { .. } | ReadError::BadBlock { .. } => &reason::READ_RANGE,
        ReadError::Gone { .. } => &reason::READ_GONE,
        ReadError::Media { .. } => &reason::READ_MEDIA,
        ReadError::Short { .. } => &reason::READ_SHORT,
        ReadError::Io { .. } => &reason::READ_IO,
        ReadError::Engine { source, .. } if NbdError::of(source).is_some() => &reason::NBD_LOST,
        ReadError::Engine { .. } => &reason::READ_ENGINE,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

/// Everything a read needs before its first byte.
struct Prepared {
    // Dropped first: an engine may hold operations on the device and buffers of the arena.
    engine: Box<dyn ReadEngine>,
    arena: Arena,
    source: Arc<dyn Source>,
    /// Engines that could not be used, as texts.
    refused: Vec<String>,
}

impl Prepared {
    fn server(remote: &Remote, ready: &Ready, order: &ReadOrder, cancel: &Arc<AtomicBool>) -> Result<Self> {
        let arena = arena(order)?;
        let engine = ready.connect(remote.disk(), order.depth, cancel)?;
        let source: Arc<dyn Source> = Arc::<hotadd_blockio::nbd::NbdSource>::clone(engine.source());
        Ok(Self { engine: Box::new(engine), arena, source, refused: Vec::new() })
    }

    fn device(attached: &Attached, platform: &dyn Platform, order: &ReadOrder, sqpoll: bool) -> Result<Self> {
        let disk = attached.proven();
        let name = || format!("{} ({})", attached.disk().backing, disk.facts().name);
        let failed = |e: std::io::Error| Error::new(&reason::DSC_OPEN, name()).with_source(e);
        let device = Arc::new(platform.open(disk).and_then(Device::from_file).map_err(failed)?);
        let expected = disk.expectation().size_bytes;
        if device.size() != expected {
            let detail = format!("{}: {} bytes, expected {expected}", name(), device.size());
            return Err(Error::new(&reason::DSC_IDENTITY, detail));
        }
        if !device.is_read_only().map_err(failed)? {
            return Err(Error::new(&reason::DSC_WRITABLE, name()));
        }
        // What was proven when it was attached may have been replaced since.
        let now = platform.devices().map_err(failed)?;
        let same = now.iter().find(|device| device.handle == disk.facts().handle);
        disk.still(same).map_err(|mismatch| Error::new(&reason::DSC_IDENTITY, format!("{}: {mismatch}", name())))?;
        let arena = arena(order)?;
        let selected = engine::select(&order.engines, &device, &arena, Tuning { depth: order.depth, sqpoll }).map_err(
            |refused| {
                let why: Vec<_> = refused.iter().map(Refusal::to_string).collect();
                Error::new(&reason::READ_ENGINE, format!("{}: {}", name(), why.join("; ")))
            },
        )?;
        for refusal in &selected.refused {
            tracing::info!(%refusal, chosen = %selected.engine.kind(), disk = name(), "read engine refused, using the next");
        }
        let refused = selected.refused.iter().map(Refusal::to_string).collect();
        Ok(Self { engine: selected.engine, arena, source: device, refused })
    }
}

fn arena(order: &ReadOrder) -> Result<Arena> {
    let slots = buffers(order.depth);
    Arena::new(slots, order.unit() as usize)
        .map_err(|e| Error::new(&reason::READ_ENGINE, format!("{slots} buffers")).with_source(e))
}
