//! One device read by every engine, depth and block size. Each cell is bounded by bytes and by time, and begins where the one
//! before it ended, so that no cache below the device serves what the last cell read (unless the device is smaller than all of it).
//! Read-only by construction: it takes a [`Device`], which cannot be opened for writing.
use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use hotadd_blockio::{Arena, Device, EngineKind, Pace, ReadError, ReadRequest, ReadStats, engine, reader};
use serde::{Deserialize, Serialize};

use crate::{record::rounded, stats::percentile, usage};

/// What is tried, and how much of it.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub engines: Vec<EngineKind>,
    pub depths: Vec<u32>,
    /// Bytes; powers of two, multiples of the device's logical block.
    pub blocks: Vec<u32>,
    /// Bounds of one cell.
    pub bytes: u64,
    pub seconds: Duration,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            engines: EngineKind::PREFERENCE.to_vec(),
            depths: vec![1, 4, 8, 16, 32],
            blocks: vec![64 << 10, 256 << 10, 1 << 20],
            bytes: 512 << 20,
            seconds: Duration::from_secs(2),
        }
    }
}

/// Figures of one cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub engine: String,
    pub depth: u32,
    pub block: u32,
    pub bytes: u64,
    pub seconds: f64,
    pub mb_per_s: f64,
    /// Of a read, from its submission to its answer.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    /// Of this process alone.
    pub cpu_s_per_gb: f64,
    /// Commands that the kernel sent to the device for one read; others who read the device are in it.
    pub commands_per_read: Option<f64>,
    /// Why there are no figures.
    pub failed: Option<String>,
}

impl Sweep {
    /// Every cell in turn; `each` is told of it at once.
    pub fn run(&self, device: &Arc<Device>, each: &mut dyn FnMut(&Cell)) -> Vec<Cell> {
        let mut cells = Vec::new();
        let mut at = 0;
        for &kind in &self.engines {
            for &block in &self.blocks {
                for &depth in &self.depths {
                    let ranges = next_ranges(&mut at, self.bytes, u64::from(block), device.size());
                    let empty = Cell { engine: kind.name().to_owned(), depth, block, ..Cell::default() };
                    let cell = measure(device, kind, &empty, &ranges, self.seconds)
                        .unwrap_or_else(|error| Cell { failed: Some(error), ..empty });
                    each(&cell);
                    cells.push(cell);
                }
            }
        }
        cells
    }
}

/// The next `bytes` from `at` on, round the end of the device; whole blocks, ascending.
fn next_ranges(at: &mut u64, bytes: u64, block: u64, size: u64) -> Vec<Range<u64>> {
    let whole = size / block * block;
    let start = *at / block * block;
    let start = if start >= whole { 0 } else { start };
    let length = (bytes / block).max(1).saturating_mul(block).min(whole);
    let end = start.saturating_add(length);
    let rest = end.saturating_sub(whole);
    *at = if rest > 0 { rest } else { end };
    [0..rest, start..end.min(whole)].into_iter().filter(|range| range.start < range.end).collect()
}

fn measure(
    device: &Arc<Device>,
    kind: EngineKind,
    empty: &Cell,
    ranges: &[Range<u64>],
    seconds: Duration,
) -> Result<Cell, String> {
    if ranges.is_empty() {
        return Err("the device is smaller than one block".to_owned());
    }
    // As many as a read of the agent has; none of them is on its way to a client here.
    let arena = Arena::new(empty.depth.max(2), empty.block as usize).map_err(|error| format!("memory: {error}"))?;
    let mut engine = engine::make(kind, device, &arena, empty.depth).map_err(|error| error.to_string())?;
    let never = AtomicBool::new(false);
    let request = ReadRequest::new(ranges, empty.block, &never);
    let mut latencies = Latencies::default();
    let (commands, cpu, end) = (usage::read_commands(device), usage::own_cpu(), Instant::now() + seconds);
    let mut within = |_| if Instant::now() < end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    let stats = reader::read(device, engine.as_mut(), &arena, &request, &mut latencies, &mut within)
        .map_err(|error| told(&error))?;
    let cpu = usage::own_cpu().and_then(|after| Ok(after.saturating_sub(cpu?))).map_err(|error| error.to_string())?;
    let commands = commands.zip(usage::read_commands(device)).map(|(before, after)| after.saturating_sub(before));
    Ok(figures(empty.clone(), &stats, &mut latencies.0, cpu, commands))
}

#[allow(clippy::cast_precision_loss, reason = "rates of far fewer than 2^52 bytes")]
fn figures(empty: Cell, stats: &ReadStats, latencies: &mut [u64], cpu: Duration, commands: Option<u64>) -> Cell {
    let (bytes, seconds) = (stats.bytes as f64, stats.elapsed.as_secs_f64());
    Cell {
        bytes: stats.bytes,
        seconds: rounded(seconds),
        mb_per_s: rounded(bytes / seconds / 1e6),
        p50_us: percentile(latencies, 0.50),
        p99_us: percentile(latencies, 0.99),
        cpu_s_per_gb: rounded(cpu.as_secs_f64() / (bytes / 1e9)),
        commands_per_read: commands.filter(|_| stats.reads > 0).map(|n| rounded(n as f64 / stats.reads as f64)),
        ..empty
    }
}

fn told(error: &ReadError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// No limit, and the latency of every read in microseconds.
#[derive(Debug, Default)]
struct Latencies(Vec<u64>);

impl Pace for Latencies {
    fn admit(&mut self, _: u32) -> Result<(), Duration> {
        Ok(())
    }

    fn depth(&self) -> usize {
        usize::MAX
    }

    fn answered(&mut self, latency: Duration) {
        self.0.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_go_on_where_the_last_one_ended_and_round_the_end() {
        let mut at = 0;
        assert_eq!(next_ranges(&mut at, 60, 10, 105), [0..60]);
        assert_eq!(next_ranges(&mut at, 60, 10, 105), [0..20, 60..100]);
        assert_eq!(next_ranges(&mut at, 5, 50, 105), [0..50], "aligned down, at least one block");
        assert_eq!(next_ranges(&mut 100, 1000, 10, 105), [0..100], "never twice the same");
        assert!(next_ranges(&mut 0, 1000, 10, 5).is_empty(), "smaller than a block");
    }

    fn file(bytes: usize) -> (tempfile::NamedTempFile, Arc<Device>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; bytes]).unwrap();
        let device = Arc::new(Device::open(file.path()).unwrap());
        (file, device)
    }

    #[test]
    fn every_cell_has_figures_or_a_reason() {
        let (_file, device) = file(4 << 20);
        let sweep = Sweep { depths: vec![1, 4], blocks: vec![64 << 10], bytes: 1 << 20, ..Sweep::default() };
        let mut told = 0;
        let cells = sweep.run(&device, &mut |_| told += 1);
        assert_eq!((cells.len(), told), (6, 6));
        for cell in cells.iter().filter(|cell| cell.engine == "preadv") {
            assert_eq!((cell.bytes, &cell.failed), (1 << 20, &None), "{cell:?}");
            assert!(cell.p50_us <= cell.p99_us && cell.p99_us.is_some() && cell.mb_per_s > 0.0, "{cell:?}");
            assert_eq!(cell.commands_per_read, None, "a file has no counter");
        }
        assert!(cells.iter().all(|cell| cell.failed.is_some() || cell.bytes == 1 << 20), "{cells:?}");
    }

    #[test]
    fn time_ends_a_cell() {
        let (_file, device) = file(4 << 20);
        let sweep = Sweep {
            engines: vec![EngineKind::Preadv],
            depths: vec![1],
            blocks: vec![4096],
            bytes: 4 << 20,
            seconds: Duration::ZERO,
        };
        let cells = sweep.run(&device, &mut |_| {});
        assert!(cells[0].bytes < 4 << 20 && cells[0].failed.is_none(), "{cells:?}");
    }

    #[test]
    fn an_engine_that_fails_leaves_its_reason() {
        let (_file, device) = file(4096);
        let sweep = Sweep { engines: vec![EngineKind::Nbd], depths: vec![1], blocks: vec![4096], ..Sweep::default() };
        let cells = sweep.run(&device, &mut |_| {});
        assert!(cells[0].failed.as_deref().is_some_and(|why| why.contains("NBD")), "{cells:?}");
    }
}
