//! What all reads share: how many there are at a time, and the memory for their buffers. A read takes its turn, then its share, before it
//! maps anything, and gives both back when its thread ends: many slow clients cost waiting, not memory. In order of asking; what is
//! attached ahead waits here.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// What one permit stands for: the smallest block there is.
const UNIT: u64 = 64 << 10;
/// How often a read that waits looks at its cancel flag.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Clone)]
pub struct Memory {
    free: Arc<Semaphore>,
    units: u32,
    /// `None`: any number reads at a time.
    turns: Option<Arc<Semaphore>>,
}

/// Of one read.
#[derive(Debug)]
pub struct Share {
    _turn: Option<OwnedSemaphorePermit>,
    _memory: OwnedSemaphorePermit,
}

impl Memory {
    /// `reads`: how many at a time; zero: any number.
    #[must_use]
    pub fn new(bytes: u64, reads: usize) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).min(1 << 28);
        let turns = (reads > 0).then(|| Arc::new(Semaphore::new(reads)));
        Self { free: Arc::new(Semaphore::new(units as usize)), units, turns }
    }

    /// The depth, or the largest that fits when nobody else reads.
    #[must_use]
    pub fn depth(&self, wanted: u32, block_bytes: u32) -> u32 {
        wanted.min(self.units / units(block_bytes)).max(1)
    }

    /// Waits for the turn and the buffers of one read; `None` when it was cancelled first.
    pub async fn take(&self, depth: u32, block_bytes: u32, cancel: &AtomicBool) -> Option<Share> {
        let turn = match &self.turns {
            Some(turns) => Some(unless(cancel, Arc::clone(turns).acquire_owned()).await?.ok()?),
            None => None,
        };
        let units = cost(depth, block_bytes).min(self.units);
        let memory = unless(cancel, Arc::clone(&self.free).acquire_many_owned(units)).await?.ok()?;
        Some(Share { _turn: turn, _memory: memory })
    }
}

/// Waits for `what`; `None` when it was cancelled first.
pub(crate) async fn unless<T>(cancel: &AtomicBool, what: impl Future<Output = T>) -> Option<T> {
    let mut what = std::pin::pin!(what);
    while !cancel.load(Ordering::Relaxed) {
        if let Ok(done) = timeout(CANCEL_POLL, &mut what).await {
            return Some(done);
        }
    }
    None
}

/// Of a read: what is being sent is not being read. One alone would never do both.
pub(super) fn buffers(depth: u32) -> u32 {
    depth.max(2)
}

fn units(block_bytes: u32) -> u32 {
    u32::try_from(u64::from(block_bytes).div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
}

fn cost(depth: u32, block_bytes: u32) -> u32 {
    buffers(depth).saturating_mul(units(block_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_waits_for_its_share_and_gives_up_when_cancelled() {
        let memory = Memory::new(8 << 20, 0);
        let go = AtomicBool::new(false);
        assert_eq!(memory.depth(16, 1 << 20), 8, "never more than there is");
        let first = memory.take(8, 1 << 20, &go).await.unwrap();
        assert!(memory.take(1, 1 << 20, &AtomicBool::new(true)).await.is_none());
        let waiting = memory.clone();
        let second = tokio::spawn(async move { waiting.take(1, 1 << 20, &AtomicBool::new(false)).await.is_some() });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
    }

    #[tokio::test]
    async fn so_many_read_at_a_time_and_the_others_in_order() {
        let memory = Memory::new(8 << 20, 1);
        let first = memory.take(1, 64 << 10, &AtomicBool::new(false)).await.unwrap();
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..3 {
            let (memory, done) = (memory.clone(), done.clone());
            tokio::spawn(async move {
                let share = memory.take(1, 64 << 10, &AtomicBool::new(false)).await;
                done.send((n, share)).unwrap();
            });
            tokio::task::yield_now().await;
        }
        assert!(order.try_recv().is_err());
        drop(first);
        for n in 0..3 {
            let (next, share) = order.recv().await.unwrap();
            assert_eq!(next, n);
            assert!(order.try_recv().is_err(), "one at a time");
            drop(share);
        }
    }
}
