//! The way from a read thread into a bounded stream: waits while the client is slow, gives up when it is gone, when the
//! read is cancelled, or when it made no progress for too long.
use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout},
};

/// How often a thread that waits for the client looks at its cancel flag.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// See the module. Make it on the runtime, use it on a thread outside.
#[derive(Debug)]
pub struct Outlet<T> {
    runtime: Handle,
    stream: mpsc::Sender<T>,
    cancel: Arc<AtomicBool>,
    patience: Duration,
}

impl<T: Send> Outlet<T> {
    /// `patience`: longest time without room in the stream.
    #[must_use]
    pub fn new(stream: mpsc::Sender<T>, cancel: Arc<AtomicBool>, patience: Duration) -> Self {
        Self { runtime: Handle::current(), stream, cancel, patience }
    }

    /// `Break`: the read has to end.
    pub fn push(&mut self, item: T) -> ControlFlow<()> {
        let start = Instant::now();
        loop {
            if self.cancel.load(Ordering::Relaxed) || start.elapsed() > self.patience {
                return ControlFlow::Break(());
            }
            match self.runtime.block_on(async { timeout(CANCEL_POLL, self.stream.reserve()).await }) {
                Ok(Ok(permit)) => {
                    permit.send(item);
                    return ControlFlow::Continue(());
                }
                Ok(Err(_closed)) => return ControlFlow::Break(()),
                Err(_still_full) => {}
            }
        }
    }
}
