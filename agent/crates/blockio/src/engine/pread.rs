//! The engine that works everywhere: a few threads, each with one blocking preadv at a time.
use std::{io, os::unix::fs::FileExt as _, sync::Arc, thread};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{Completion, EngineKind, ReadEngine, ReadOp, Rejected, admit};
use crate::Device;

/// Threads at most: enough to overlap a datastore's latency, few enough to cost nothing when idle.
const MAX_THREADS: u32 = 4;

/// See [`super::ReadEngine`].
#[derive(Debug)]
pub struct Preadv {
    work: Option<Sender<ReadOp>>,
    done: Receiver<Completion>,
    threads: Vec<thread::JoinHandle<()>>,
    depth: usize,
    in_flight: usize,
}

impl Preadv {
    /// # Errors
    /// When no thread can be started.
    pub fn new(device: &Arc<Device>, depth: u32) -> io::Result<Self> {
        let depth = depth.max(1);
        let (work, inbox) = unbounded::<ReadOp>();
        let (outbox, done) = unbounded();
        let threads = (0..depth.min(MAX_THREADS))
            .map(|_| {
                let (device, inbox, outbox) = (Arc::clone(device), inbox.clone(), outbox.clone());
                thread::Builder::new().name("blockio-pread".into()).spawn(move || serve(&device, &inbox, &outbox))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { work: Some(work), done, threads, depth: depth as usize, in_flight: 0 })
    }
}

fn serve(device: &Device, inbox: &Receiver<ReadOp>, outbox: &Sender<Completion>) {
    for mut op in inbox {
        let result = read_once(device, &mut op);
        op.buffer.set_filled(*result.as_ref().unwrap_or(&0));
        if outbox.send(Completion { op, result }).is_err() {
            return;
        }
    }
}

fn read_once(device: &Device, op: &mut ReadOp) -> io::Result<usize> {
    loop {
        match device.file().read_at(op.buffer.spare(op.length as usize), op.offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl ReadEngine for Preadv {
    fn kind(&self) -> EngineKind {
        EngineKind::Preadv
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn submit(&mut self, op: ReadOp) -> Result<(), Rejected> {
        let op = admit(op, self.in_flight, self.depth)?;
        let Some(work) = &self.work else {
            return Err(Rejected { op, error: io::ErrorKind::BrokenPipe.into() });
        };
        match work.send(op) {
            Ok(()) => {
                self.in_flight += 1;
                Ok(())
            }
            Err(returned) => Err(Rejected { op: returned.0, error: io::ErrorKind::BrokenPipe.into() }),
        }
    }

    fn complete(&mut self) -> io::Result<Option<Completion>> {
        if self.in_flight == 0 {
            return Ok(None);
        }
        let completion = self.done.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.in_flight -= 1;
        Ok(Some(completion))
    }

    fn poll(&mut self) -> Option<Completion> {
        let completion = self.done.try_recv().ok()?;
        self.in_flight -= 1;
        Some(completion)
    }
}

impl Drop for Preadv {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a preadv thread panicked");
            }
        }
    }
}
