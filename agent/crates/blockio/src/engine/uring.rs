//! io_uring: one ring per open disk, file and buffers registered where the kernel lets us, READ otherwise.
use std::{io, mem::ManuallyDrop, os::fd::AsRawFd as _, sync::Arc};

use io_uring::{IoUring as Ring, Probe, opcode, types};

use super::{Completion, EngineKind, ReadEngine, ReadOp, Rejected, admit, completed};
use crate::{Arena, Device};

/// Consecutive failed waits after which `Drop` stops waiting for the kernel and leaks the memory it may still write.
const DROP_PATIENCE: u32 = 8;

/// After so long without work the kernel's thread of SQPOLL sleeps.
const SQPOLL_IDLE_MS: u32 = 50;

/// See [`super::ReadEngine`].
#[derive(Debug)]
pub struct IoUring {
    ring: ManuallyDrop<RingBox>,
    /// Operations in the kernel's hands; the index is the completion's user data.
    slots: Vec<Option<ReadOp>>,
    free: Vec<usize>,
    device: Arc<Device>,
    arena: Arena,
    registered: Registered,
    /// Entries wait for the next call into the kernel.
    queued: bool,
}

/// Buffers that the ring knows.
#[derive(Debug)]
enum Registered {
    All,
    /// By slot, those that were used: a buffer is made (its pages are faulted in and pinned) when it is needed, while others are read
    /// into. All at once they may cost more than the first read itself. `more`: the kernel takes some still.
    Used {
        slots: Vec<bool>,
        more: bool,
    },
    /// The kernel refused, or has too many.
    None,
}

struct RingBox(Ring);

impl std::fmt::Debug for RingBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IoUring")
    }
}

impl IoUring {
    /// # Errors
    /// ENOSYS, EPERM, ENOMEM of `io_uring_setup`; `Unsupported` on kernels before 5.6, which lack READ.
    pub fn new(device: &Arc<Device>, arena: &Arena, depth: u32, sqpoll: bool) -> io::Result<Self> {
        let ring = ring(depth.max(1), sqpoll)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) || !probe.is_supported(opcode::ReadFixed::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring has no READ (before 5.6)"));
        }
        ring.submitter().register_files(&[device.file().as_raw_fd()])?;
        let slots = depth.max(1) as usize;
        Ok(Self {
            registered: register_buffers(&ring, arena),
            ring: ManuallyDrop::new(RingBox(ring)),
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            device: Arc::clone(device),
            arena: arena.clone(),
            queued: false,
        })
    }

    fn is_registered(&self, slot: u16) -> bool {
        match &self.registered {
            Registered::All => true,
            Registered::Used { slots, .. } => slots.get(usize::from(slot)).copied().unwrap_or(false),
            Registered::None => false,
        }
    }

    /// Makes the buffer known if it is not; true: it was its first time.
    fn prepare(&mut self, op: &mut ReadOp) -> bool {
        let (slot, address, length) = (op.buffer.slot(), op.buffer.as_mut_ptr(), self.arena.slot_bytes());
        let Registered::Used { slots, more: more @ true } = &mut self.registered else { return false };
        let Some(known) = slots.get_mut(slot as usize).filter(|known| !**known) else { return false };
        if !self.arena.owns(&op.buffer) {
            return false;
        }
        let vector = libc::iovec { iov_base: address.cast(), iov_len: length };
        // SAFETY: as in `register_buffers`.
        match unsafe { self.ring.0.submitter().register_buffers_update(slot, &[vector], None) } {
            Ok(()) => *known = true,
            Err(error) => {
                tracing::debug!(%error, slot, "io_uring buffer not registered, reading with READ instead of READ_FIXED");
                *more = false;
            }
        }
        true
    }

    fn entry(&self, op: &mut ReadOp, index: usize) -> io_uring::squeue::Entry {
        let address = op.buffer.as_mut_ptr();
        let fd = types::Fixed(0);
        let entry = match u16::try_from(op.buffer.slot()) {
            Ok(slot) if self.arena.owns(&op.buffer) && self.is_registered(slot) => {
                opcode::ReadFixed::new(fd, address, op.length, slot).offset(op.offset).build()
            }
            _ => opcode::Read::new(fd, address, op.length).offset(op.offset).build(),
        };
        entry.user_data(index as u64)
    }

    fn reap(&mut self) -> Option<Completion> {
        let cqe = self.ring.0.completion().next()?;
        let index = usize::try_from(cqe.user_data()).ok()?;
        let op = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(completed(op, i64::from(cqe.result())))
    }
}

/// Before 5.11 the kernel's thread needs CAP_SYS_ADMIN: then without it.
fn ring(depth: u32, sqpoll: bool) -> io::Result<Ring> {
    if sqpoll {
        match Ring::builder().setup_sqpoll(SQPOLL_IDLE_MS).build(depth) {
            Ok(ring) => return Ok(ring),
            Err(error) => tracing::info!(%error, "io_uring without SQPOLL"),
        }
    }
    Ring::new(depth)
}

/// Registration needs locked memory; without it reads still work, only slower. Before 5.19 there is no empty table to begin with.
fn register_buffers(ring: &Ring, arena: &Arena) -> Registered {
    if ring.submitter().register_buffers_sparse(arena.slots()).is_ok() {
        return Registered::Used { slots: vec![false; arena.slots() as usize], more: true };
    }
    let length = arena.slot_bytes();
    let vectors: Vec<_> =
        arena.slot_addresses().map(|base| libc::iovec { iov_base: base.cast(), iov_len: length }).collect();
    // SAFETY: the addresses stay mapped while `arena` or a buffer of it lives; IoUring keeps a clone of the arena
    // until after the ring is closed.
    match unsafe { ring.submitter().register_buffers(&vectors) } {
        Ok(()) => Registered::All,
        Err(error) => {
            tracing::debug!(%error, "io_uring buffers not registered, reading with READ instead of READ_FIXED");
            Registered::None
        }
    }
}

impl ReadEngine for IoUring {
    fn kind(&self) -> EngineKind {
        EngineKind::IoUring
    }

    fn depth(&self) -> usize {
        self.slots.len()
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn submit(&mut self, op: ReadOp) -> Result<(), Rejected> {
        let mut op = admit(op, self.in_flight(), self.depth())?;
        let Some(index) = self.free.pop() else {
            return Err(Rejected { op, error: io::ErrorKind::WouldBlock.into() });
        };
        let first_time = self.prepare(&mut op);
        let entry = self.entry(&mut op, index);
        // SAFETY: the buffer is moved into `slots` below and stays there until its completion was reaped, and the
        // registered file lives in `device`, so every address in the entry is valid while the kernel may use it.
        if unsafe { self.ring.0.submission().push(&entry) }.is_err() {
            self.free.push(index);
            return Err(Rejected { op, error: io::ErrorKind::WouldBlock.into() });
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(op);
        }
        self.queued = true;
        // The next buffer is made while this one is read into. What is refused now goes with the next call.
        if first_time && self.ring.0.submit().is_ok() {
            self.queued = false;
        }
        Ok(())
    }

    fn complete(&mut self) -> io::Result<Option<Completion>> {
        while self.in_flight() > 0 {
            // What is queued goes first: it is read while the caller works.
            if !self.queued
                && let Some(completion) = self.reap()
            {
                return Ok(Some(completion));
            }
            match self.ring.0.submit_and_wait(1) {
                Err(error) if !is_transient(&error) => return Err(error),
                // EINTR, EAGAIN, EBUSY: entries stay in the queue and go with the next call.
                Err(_) => {}
                Ok(_) => self.queued = false,
            }
            if let Some(completion) = self.reap() {
                return Ok(Some(completion));
            }
        }
        Ok(None)
    }

    fn poll(&mut self) -> Option<Completion> {
        self.reap()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Drop for IoUring {
    fn drop(&mut self) {
        let mut failures = 0;
        while self.in_flight() > 0 && failures < DROP_PATIENCE {
            if self.complete().is_err() {
                failures += 1;
            }
        }
        if self.in_flight() > 0 {
            // The kernel may still write into these buffers and use this file: leak them rather than free them.
            tracing::error!(in_flight = self.in_flight(), "io_uring did not drain; its buffers are leaked");
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(self.arena.clone());
            std::mem::forget(Arc::clone(&self.device));
            return;
        }
        // SAFETY: dropped exactly once, here; nothing is in flight.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
    }
}
