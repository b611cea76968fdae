//! The memory that all reads together may use for their buffers. A read takes its share before it maps anything and
//! gives it back when its thread ends, so many slow clients cost waiting, not memory.
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
}

impl Memory {
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).min(1 << 28);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// The depth, or the largest that fits when nobody else reads.
    #[must_use]
    pub fn depth(&self, wanted: u32, block_bytes: u32) -> u32 {
        wanted.min(self.units / cost(1, block_bytes)).max(1)
    }

    /// Waits for the buffers of one read; `None` when it was cancelled first.
    pub async fn take(&self, depth: u32, block_bytes: u32, cancel: &AtomicBool) -> Option<OwnedSemaphorePermit> {
        let units = cost(depth, block_bytes).min(self.units);
        unless(cancel, Arc::clone(&self.free).acquire_many_owned(units)).await?.ok()
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

/// A read maps two blocks per operation in flight: one being read, one being sent.
fn cost(depth: u32, block_bytes: u32) -> u32 {
    let bytes = u64::from(depth) * 2 * u64::from(block_bytes);
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_waits_for_its_share_and_gives_up_when_cancelled() {
        let memory = Memory::new(8 << 20);
        let go = AtomicBool::new(false);
        assert_eq!(memory.depth(16, 1 << 20), 4, "never more than there is");
        let first = memory.take(4, 1 << 20, &go).await.unwrap();
        assert!(memory.take(1, 1 << 20, &AtomicBool::new(true)).await.is_none());
        let waiting = memory.clone();
        let second = tokio::spawn(async move { waiting.take(1, 1 << 20, &AtomicBool::new(false)).await.is_some() });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
    }
}
