//! A disk that comes as the stream of its snapshot's export lease: whole, compressed, in order; decoded here and cut into the
//! blocks that were asked for. Nothing else of it can be read first, and it does not resume: it begins anew.
use std::{
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    memory::unless,
    stream_vmdk::{Decoder, Piece, StreamError},
};
use crate::{
    attach::Settler,
    error::{Error, Result},
    hypervisor::{Exported, TargetDisk},
    id::DutyId,
    reason,
};

/// The lease of a job's snapshot, for all disks that are exported; its duty is handed over when the last of them has been
/// read, when it has lived as long as it may, and when it is dropped.
#[derive(Debug)]
pub struct Lease {
    exported: Arc<Exported>,
    duty: DutyId,
    settler: Settler,
    end: Instant,
    stall: Duration,
    /// Disks that are still to be read.
    left: AtomicUsize,
    /// All that were read so far came whole.
    whole: AtomicBool,
    watch: JoinHandle<()>,
}

impl Lease {
    /// `disks`: how many will be read. At `end` it is let go, whoever reads.
    #[must_use]
    pub fn new(
        exported: Exported,
        duty: DutyId,
        settler: Settler,
        end: Instant,
        stall: Duration,
        disks: usize,
    ) -> Self {
        let exported = Arc::new(exported);
        let (of_watch, settler_of_watch) = (Arc::clone(&exported), settler.clone());
        let watch = tokio::spawn(async move {
            sleep_until(end).await;
            tracing::error!(%duty, "the export took longer than is allowed; its lease is ended");
            of_watch.let_go().await;
            settler_of_watch.hand_over(duty);
        });
        Self { exported, duty, settler, end, stall, left: AtomicUsize::new(disks), whole: AtomicBool::new(true), watch }
    }

    /// One disk has been read, to its end or not. After the last one nothing is kept alive any more.
    pub async fn read(&self, whole: bool) {
        self.whole.fetch_and(whole, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        self.watch.abort();
        let mut completed = false;
        if self.whole.load(Ordering::Relaxed) {
            // The decoder has proven that each stream was whole, however the lease ends.
            completed = self.exported.complete().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the export lease had ended before it was completed");
                false
            });
        }
        self.exported.let_go().await;
        if completed {
            self.settler.hand_over_completed(self.duty);
        } else {
            self.settler.hand_over(self.duty);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.watch.abort();
        self.settler.hand_over(self.duty);
    }
}

/// See the module.
#[derive(Debug)]
pub struct ExportDisk {
    pub disk: TargetDisk,
    pub lease: Arc<Lease>,
}

impl ExportDisk {
    /// Reads the whole stream and hands over the blocks of `ranges`, in order. `Ok`: the stream was whole. Until then nothing
    /// that was handed over is proven: the tables that tell of lost grains come last. Blocking; `take` may block as well.
    ///
    /// # Errors
    /// [`reason::EXP_LOST`], [`reason::EXP_STREAM`], [`reason::EXP_LONG`], [`reason::READ_STOPPED`].
    pub fn stream(
        &self,
        runtime: &Handle,
        ranges: &[Range<u64>],
        block: u32,
        cancel: &AtomicBool,
        take: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let (disk, lease) = (&self.disk, &self.lease);
        let stopped = || Error::new(&reason::READ_STOPPED, disk.label.clone());
        // What breaks then breaks for that.
        let late = |error: Error| {
            if Instant::now() >= lease.end { Error::new(&reason::EXP_LONG, disk.label.clone()) } else { error }
        };
        let damaged = |e: StreamError| Error::new(&reason::EXP_STREAM, disk.label.clone()).with_source(e);
        let opening = runtime.block_on(unless(cancel, lease.exported.open(disk, lease.stall)));
        let mut stream = opening.ok_or_else(stopped)?.map_err(late)?;
        let mut decoder = Decoder::new(disk.capacity_bytes);
        let mut cutter = Cutter::new(ranges, block);
        let mut percent = 0;
        while let Some(chunk) = runtime.block_on(unless(cancel, stream.chunk())).ok_or_else(stopped)?.map_err(late)? {
            let mut input = chunk.as_ref();
            while let Some(piece) = decoder.next(&mut input).map_err(damaged)? {
                if cutter.take(&piece, take).is_break() {
                    return Err(stopped());
                }
                let now = u8::try_from(cutter.at.saturating_mul(100) / disk.capacity_bytes.max(1)).unwrap_or(100);
                if now != percent {
                    percent = now;
                    lease.exported.percent(percent);
                }
            }
        }
        decoder.finish().map_err(damaged)?;
        Ok(())
    }
}

/// Puts pieces, which come in order and cover the disk, together to the blocks of some ranges.
struct Cutter {
    /// What is still to come, in order.
    ranges: Vec<Range<u64>>,
    /// The range under way, and the block of it.
    index: usize,
    block: Range<u64>,
    step: u64,
    buffer: Vec<u8>,
    /// Up to where pieces came.
    at: u64,
}

impl Cutter {
    fn new(ranges: &[Range<u64>], block: u32) -> Self {
        let ranges: Vec<Range<u64>> = ranges.iter().filter(|r| r.start < r.end).cloned().collect();
        let mut cutter = Self { ranges, index: 0, block: 0..0, step: block.into(), buffer: Vec::new(), at: 0 };
        cutter.begin();
        cutter
    }

    /// The next block; an empty one when there is none. Between ranges the place is kept.
    fn begin(&mut self) {
        let Some(range) = self.ranges.get(self.index) else {
            self.block = u64::MAX..u64::MAX;
            return;
        };
        let start = self.block.end.max(range.start);
        if start >= range.end {
            self.index += 1;
            return self.begin();
        }
        // On the grid of the whole disk, as every other way cuts it.
        self.block = start..range.end.min((start / self.step + 1) * self.step);
        self.buffer.clear();
        self.buffer.resize(usize::try_from(self.block.end - start).unwrap_or(0), 0);
    }

    fn take(&mut self, piece: &Piece, give: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        let (start, data) = match piece {
            Piece::Data { offset, bytes } => (*offset, Some(bytes.as_ref())),
            Piece::Zero { offset, .. } => (*offset, None),
        };
        let end = match piece {
            Piece::Data { bytes, .. } => start + bytes.len() as u64,
            Piece::Zero { length, .. } => start + length,
        };
        self.at = end;
        while self.block.start < end {
            let (from, to) = (self.block.start.max(start), self.block.end.min(end));
            if let (Some(data), true) = (data, from < to) {
                let place = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(0);
                let target = place(from, self.block.start)..place(to, self.block.start);
                self.buffer[target].copy_from_slice(&data[place(from, start)..place(to, start)]);
            }
            if self.block.end > end {
                break;
            }
            give(self.block.start, &self.buffer)?;
            self.begin();
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "numbers of tests are small")]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_the_disk_whatever_the_pieces(
            cuts in prop::collection::btree_set(1_u64..4095, 0..12),
            wanted in prop::collection::btree_set(0_u64..8, 0..8),
            block in 1_u32..1500,
            holes in any::<u16>(),
        ) {
            let mut disk: Vec<u8> = (0..4096_u32).map(|at| at.wrapping_mul(31).to_le_bytes()[0] | 1).collect();
            let edges: Vec<u64> = std::iter::once(0).chain(cuts).chain([4096]).collect();
            let mut pieces = Vec::new();
            for (n, edge) in edges.windows(2).enumerate() {
                let (start, end) = (edge[0] as usize, edge[1] as usize);
                if holes & (1 << n) == 0 {
                    pieces.push(Piece::Data { offset: edge[0], bytes: Bytes::copy_from_slice(&disk[start..end]) });
                } else {
                    disk[start..end].fill(0);
                    pieces.push(Piece::Zero { offset: edge[0], length: edge[1] - edge[0] });
                }
            }
            let ranges: Vec<Range<u64>> = wanted.iter().map(|n| n * 512..(n + 1) * 512 - n).collect();
            let mut cutter = Cutter::new(&ranges, block);
            let mut got: Vec<Range<u64>> = Vec::new();
            for piece in &pieces {
                let flow = cutter.take(piece, &mut |at, data| {
                    assert!(data == &disk[at as usize..at as usize + data.len()], "at {at}");
                    let (first, last) = (at / u64::from(block), (at + data.len() as u64 - 1) / u64::from(block));
                    assert_eq!(first, last, "crosses a multiple of the block");
                    got.push(at..at + data.len() as u64);
                    ControlFlow::Continue(())
                });
                prop_assert!(flow.is_continue());
            }
            let bytes: u64 = got.iter().map(|r| r.end - r.start).sum();
            prop_assert_eq!(bytes, ranges.iter().map(|r| r.end - r.start).sum::<u64>());
            prop_assert!(got.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(got.iter().all(|r| ranges.iter().any(|w| w.start <= r.start && r.end <= w.end)));
        }
    }
}
