//! The arena: one anonymous mapping, cut into equal aligned slots, handed out as owned [`Buffer`]s. A buffer's slot
//! goes back when the buffer (or the `Bytes` made from it) is dropped, so memory is bounded by the arena's size and a
//! slow consumer stops the producer. No allocation happens per read.
use std::{io, num::NonZeroUsize, ptr::NonNull, sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, Sender};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Alignment of every slot; satisfies O_DIRECT for 512-byte and 4Kn devices.
pub const ALIGNMENT: usize = 4096;

/// A pool of equal, aligned buffers. Cheap to clone; the memory lives until the last buffer is gone.
#[derive(Debug, Clone)]
pub struct Arena {
    inner: Arc<Inner>,
    free: Receiver<u32>,
}

#[derive(Debug)]
struct Inner {
    base: NonNull<u8>,
    slot_bytes: usize,
    slots: u32,
    give_back: Sender<u32>,
}

// SAFETY: the mapping is plain memory. A slot number is in the free list or in exactly one Buffer, never in both, so
// no two threads reach the same bytes.
unsafe impl Send for Inner {}
// SAFETY: as above; Inner itself hands out no reference into the mapping.
unsafe impl Sync for Inner {}

impl Arena {
    /// Maps `slots` buffers of `slot_bytes` each (rounded up to [`ALIGNMENT`]).
    ///
    /// # Errors
    /// `InvalidInput` for zero or overflowing sizes, else the error of `mmap`.
    pub fn new(slots: u32, slot_bytes: usize) -> io::Result<Self> {
        let slot_bytes = slot_bytes.next_multiple_of(ALIGNMENT);
        let total = usize::try_from(slots).ok().and_then(|n| n.checked_mul(slot_bytes)).and_then(NonZeroUsize::new);
        let total = total.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new anonymous mapping aliases nothing.
        let base = unsafe {
            mmap_anonymous(None, total, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        }?;
        let (give_back, free) = crossbeam_channel::unbounded();
        for slot in 0..slots {
            give_back.send(slot).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(Self { inner: Arc::new(Inner { base: base.cast(), slot_bytes, slots, give_back }), free })
    }

    /// Takes a free buffer, or `None` if all are out.
    #[must_use]
    pub fn try_take(&self) -> Option<Buffer> {
        self.free.try_recv().ok().map(|slot| self.buffer(slot))
    }

    /// Waits for a free buffer, at most `patience`.
    #[must_use]
    pub fn take(&self, patience: Duration) -> Option<Buffer> {
        self.free.recv_timeout(patience).ok().map(|slot| self.buffer(slot))
    }

    fn buffer(&self, slot: u32) -> Buffer {
        Buffer { inner: Arc::clone(&self.inner), slot, filled: 0 }
    }

    /// Capacity of each buffer in bytes.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.inner.slot_bytes
    }

    #[must_use]
    pub fn slots(&self) -> u32 {
        self.inner.slots
    }

    /// Buffers that are free now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Start addresses of all slots, for registration with a ring. The addresses stay mapped while any clone of the
    /// arena or any buffer lives.
    pub(crate) fn slot_addresses(&self) -> impl Iterator<Item = *mut u8> + '_ {
        (0..self.inner.slots).map(|slot| self.inner.address(slot))
    }

    pub(crate) fn owns(&self, buffer: &Buffer) -> bool {
        Arc::ptr_eq(&self.inner, &buffer.inner)
    }
}

impl Inner {
    fn address(&self, slot: u32) -> *mut u8 {
        debug_assert!(slot < self.slots);
        // SAFETY: slot < slots by construction (slot numbers only come from `new`), so the result is in the mapping.
        unsafe { self.base.as_ptr().add(slot as usize * self.slot_bytes) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let total = self.slots as usize * self.slot_bytes;
        // SAFETY: base/total describe the mapping made in `new`; every Buffer holds an Arc, so none is left.
        if let Err(error) = unsafe { munmap(self.base.cast(), total) } {
            tracing::warn!(%error, "munmap of a buffer arena failed");
        }
    }
}

/// One slot of an [`Arena`], owned. `as_ref` gives the filled part only.
#[derive(Debug)]
pub struct Buffer {
    inner: Arc<Inner>,
    slot: u32,
    filled: usize,
}

impl Buffer {
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.inner.slot_bytes
    }

    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.inner.address(self.slot)
    }

    /// Declares how many leading bytes hold data; clamped to the capacity.
    pub(crate) fn set_filled(&mut self, bytes: usize) {
        self.filled = bytes.min(self.capacity());
    }

    pub(crate) fn spare(&mut self, bytes: usize) -> &mut [u8] {
        let bytes = bytes.min(self.capacity());
        // SAFETY: the slot is ours alone, mapped and initialised (anonymous memory is zero) for its whole capacity.
        unsafe { std::slice::from_raw_parts_mut(self.inner.address(self.slot), bytes) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `spare`; no operation is in flight on a buffer that somebody can reach (engines own theirs).
        unsafe { std::slice::from_raw_parts(self.inner.address(self.slot), self.filled) }
    }
}

impl From<Buffer> for bytes::Bytes {
    fn from(buffer: Buffer) -> Self {
        Self::from_owner(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Fails only when no arena is left to take from: then the slot is not needed either.
        let _gone = self.inner.give_back.send(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_distinct_and_come_back() {
        let arena = Arena::new(3, 5000).unwrap();
        assert_eq!(arena.slot_bytes(), 8192);
        let mut all: Vec<_> = (0..3).map(|_| arena.try_take().unwrap()).collect();
        assert!(arena.try_take().is_none());
        let mut addresses: Vec<_> = all.iter_mut().map(|b| b.as_mut_ptr() as usize).collect();
        addresses.sort_unstable();
        assert!(addresses.windows(2).all(|w| w[1] - w[0] == 8192));
        assert!(addresses.iter().all(|a| a % ALIGNMENT == 0));
        all.pop();
        assert_eq!(arena.available(), 1);
    }

    #[test]
    fn bytes_outlive_the_arena() {
        let arena = Arena::new(1, 4096).unwrap();
        let mut buffer = arena.try_take().unwrap();
        buffer.spare(4).copy_from_slice(b"data");
        buffer.set_filled(4);
        let bytes = bytes::Bytes::from(buffer);
        drop(arena);
        assert_eq!(&bytes[..], b"data");
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(Arena::new(0, 4096).is_err());
        assert!(Arena::new(u32::MAX, usize::MAX / 2).is_err());
    }
}
