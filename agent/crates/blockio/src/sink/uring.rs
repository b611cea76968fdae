//! io_uring: one ring per file, one WRITEV per piece. A slot owns chunks and vectors until the completion was reaped.
use std::{fs::File, io, mem::ManuallyDrop, os::fd::AsRawFd as _};

use io_uring::{IoUring as Ring, Probe, opcode, squeue::Entry, types};

use super::{Piece, WriteError};

/// Consecutive failed waits after which `Drop` stops waiting for the kernel and leaks the memory it may still read.
const DROP_PATIENCE: u32 = 8;

pub(super) struct Uring {
    ring: ManuallyDrop<Ring>,
    file: ManuallyDrop<File>,
    /// Writes in the kernel's hands; the index is the completion's user data.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    acknowledged: u64,
}

#[derive(Debug)]
struct Slot {
    piece: Piece,
    /// Point into the chunks of `piece`, which do not change while the kernel has them.
    vectors: Vec<libc::iovec>,
}

impl Slot {
    fn new(piece: Piece) -> Self {
        let vectors = piece.chunks.iter().map(|chunk| libc::iovec {
            // The kernel only reads from it.
            iov_base: chunk.as_ptr().cast_mut().cast(),
            iov_len: chunk.len(),
        });
        Self { vectors: vectors.collect(), piece }
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("file", &self.file).field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Uring {
    /// # Errors
    /// ENOSYS, EPERM, ENOMEM of `io_uring_setup`; `Unsupported` where it can't write.
    pub(super) fn ring(depth: u32) -> io::Result<Ring> {
        let ring = Ring::new(depth.max(1))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Writev::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring has no WRITEV"));
        }
        Ok(ring)
    }

    pub(super) fn new(ring: Ring, file: File) -> Self {
        // What the submission queue has room for; the completion queue is never smaller.
        let depth = ring.params().sq_entries() as usize;
        Self {
            ring: ManuallyDrop::new(ring),
            file: ManuallyDrop::new(file),
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            acknowledged: 0,
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn write(&mut self, piece: Piece) -> Result<(), WriteError> {
        let index = loop {
            match self.free.pop() {
                Some(index) => break index,
                None => self.reap_one()?,
            }
        };
        self.submit(index, piece)
    }

    /// The slot is free, or its completion was just reaped.
    fn submit(&mut self, index: usize, piece: Piece) -> Result<(), WriteError> {
        let offset = piece.offset;
        let slot = self.slots[index].insert(Slot::new(piece));
        let entry = entry(&self.file, slot).user_data(index as u64);
        // SAFETY: chunks and vectors are owned by the slot, whose heap memory does not move and is not changed until the
        // completion was reaped; the descriptor is open as long as `self`, which drains before it closes it.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.release(index);
            return Err(WriteError::Write { offset, source: io::ErrorKind::WouldBlock.into() });
        }
        match self.ring.submit() {
            Err(error) if !is_transient(&error) => Err(WriteError::Write { offset, source: error }),
            // Stays in the queue and goes with the next call.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn release(&mut self, index: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(slot)
    }

    /// Waits for one completion; a short one is written on.
    fn reap_one(&mut self) -> Result<(), WriteError> {
        let cqe = loop {
            if let Some(cqe) = self.ring.completion().next() {
                break cqe;
            }
            match self.ring.submit_and_wait(1) {
                Err(error) if !is_transient(&error) => {
                    return Err(WriteError::Write { offset: self.first(), source: error });
                }
                Ok(_) | Err(_) => {}
            }
        };
        let index = usize::try_from(cqe.user_data()).unwrap_or(usize::MAX);
        let stray = || WriteError::Write { offset: 0, source: io::Error::other("a completion of no write") };
        let Slot { mut piece, .. } = self.release(index).ok_or_else(stray)?;
        match cqe.result() {
            0 => Err(WriteError::Write { offset: piece.offset, source: io::ErrorKind::WriteZero.into() }),
            code if matches!(-code, libc::EINTR | libc::EAGAIN) => self.write(piece),
            code if code < 0 => {
                Err(WriteError::Write { offset: piece.offset, source: io::Error::from_raw_os_error(-code) })
            }
            written => {
                let written = usize::try_from(written).unwrap_or_default();
                self.acknowledged += written as u64;
                piece.advance(written);
                if piece.chunks.is_empty() { Ok(()) } else { self.write(piece) }
            }
        }
    }

    /// Where the first write in flight goes.
    fn first(&self) -> u64 {
        self.slots.iter().flatten().map(|slot| slot.piece.offset).min().unwrap_or_default()
    }

    pub(super) fn drain(&mut self) -> Result<(&File, u64), WriteError> {
        while self.in_flight() > 0 {
            self.reap_one()?;
        }
        Ok((&self.file, self.acknowledged))
    }
}

fn entry(file: &File, slot: &Slot) -> Entry {
    let count = u32::try_from(slot.vectors.len()).unwrap_or(u32::MAX);
    opcode::Writev::new(types::Fd(file.as_raw_fd()), slot.vectors.as_ptr(), count).offset(slot.piece.offset).build()
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut failures = 0;
        while self.in_flight() > 0 && failures < DROP_PATIENCE {
            // A write that failed has left its slot; what is left of a short one is still wanted by nobody.
            let before = self.in_flight();
            if self.reap_one().is_err() && self.in_flight() == before {
                failures += 1;
            }
        }
        if self.in_flight() > 0 {
            // The kernel may still read these buffers and write this file: leak them rather than free them.
            tracing::error!(in_flight = self.in_flight(), "io_uring did not drain; its buffers are leaked");
            std::mem::forget(std::mem::take(&mut self.slots));
            return;
        }
        // SAFETY: dropped exactly once, here; nothing is in flight.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.file);
        }
    }
}
