//! The arena: one anonymous mapping, cut into equal aligned slots, handed out as owned [`Buffer`]s. A buffer's slot
//! goes back when the buffer (or the `Bytes` made from it) is dropped, so memory is bounded by the arena's size and a
//! slow consumer stops the producer. No allocation happens per read.
use std::{
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Alignment of every slot; satisfies O_DIRECT for 512-byte and 4Kn devices.
pub const ALIGNMENT: usize = 4096;

/// Size of a huge page on x86-64 and, mostly, on aarch64.
const HUGE: usize = 2 << 20;

/// A pool of equal, aligned buffers. Cheap to clone; the memory lives until the last buffer is gone.
#[derive(Debug, Clone)]
pub struct Arena(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mapping: Mapping,
    slot_bytes: usize,
    slots: u32,
    /// The slot that came back last is taken first: its memory is still in the processor's cache.
    free: Mutex<Vec<u32>>,
    came_back: Condvar,
}

/// What the kernel was asked for. A virtual SCSI adapter describes a request by a bounded list of pages (PVSCSI: 128), so that
/// 1 MiB in pages of 4 KiB becomes two commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Reserved by the administrator (`vm.nr_hugepages`).
    Huge,
    /// Huge ones where the kernel finds them (`MADV_HUGEPAGE`).
    Transparent,
    Small,
}

/// One anonymous mapping.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    /// First aligned byte.
    base: NonNull<u8>,
    pages: Pages,
}

// SAFETY: the mapping is plain memory. A slot number is in the free list or in exactly one Buffer, never in both, so
// no two threads reach the same bytes.
unsafe impl Send for Inner {}
// SAFETY: as above; Inner itself hands out no reference into the mapping.
unsafe impl Sync for Inner {}

impl Mapping {
    /// At least `bytes`, aligned to a huge page.
    fn new(bytes: usize) -> io::Result<Self> {
        let whole =
            bytes.checked_next_multiple_of(HUGE).and_then(NonZeroUsize::new).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE;
        let huge = flags | MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB;
        // SAFETY: a new anonymous mapping aliases nothing. Without MAP_NORESERVE its pages are reserved now, or it fails.
        let reserved = || unsafe { mmap_anonymous(None, whole, access, huge) }.ok();
        // A small one is not worth a page of the administrator's.
        if bytes >= HUGE
            && let Some(start) = reserved()
        {
            let start = start.cast();
            return Self { start, bytes: whole.get(), base: start, pages: Pages::Huge }.kept_from_children();
        }
        let more = whole.checked_add(HUGE).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: as above.
        let start = unsafe { mmap_anonymous(None, more, access, flags) }?.cast::<u8>();
        let skip = start.as_ptr().align_offset(HUGE);
        // SAFETY: `skip` < HUGE, and the mapping is longer than that.
        let base = unsafe { start.add(skip) };
        // SAFETY: the range is in the mapping; the advice changes no content.
        let advised = unsafe { madvise(base.cast(), whole.get(), MmapAdvise::MADV_HUGEPAGE) };
        let pages = if advised.is_ok() { Pages::Transparent } else { Pages::Small };
        Self { start, bytes: more.get(), base, pages }.kept_from_children()
    }

    /// A process that is forked while the device writes here would share these pages copy-on-write, and the next read into
    /// one of them would move us to a copy: what the device still writes then goes to the old page (open(2), O_DIRECT and
    /// fork). Slots share huge pages, so that would be another slot's data.
    fn kept_from_children(self) -> io::Result<Self> {
        // SAFETY: the whole mapping; the advice is about children only.
        unsafe { madvise(self.start.cast(), self.bytes, MmapAdvise::MADV_DONTFORK) }?;
        Ok(self)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start/bytes describe the mapping made in `new`; every Buffer holds an Arc of its owner, so none is left.
        if let Err(error) = unsafe { munmap(self.start.cast(), self.bytes) } {
            tracing::warn!(%error, "munmap of a buffer arena failed");
        }
    }
}

impl Arena {
    /// Maps `slots` buffers of `slot_bytes` each (rounded up to [`ALIGNMENT`]).
    ///
    /// # Errors
    /// `InvalidInput` for zero or overflowing sizes, else the error of `mmap`.
    pub fn new(slots: u32, slot_bytes: usize) -> io::Result<Self> {
        let slot_bytes = slot_bytes.next_multiple_of(ALIGNMENT);
        let total = usize::try_from(slots).ok().and_then(|n| n.checked_mul(slot_bytes)).filter(|total| *total > 0);
        let mapping = Mapping::new(total.ok_or(io::ErrorKind::InvalidInput)?)?;
        // Slots are taken from the end.
        let free = Mutex::new((0..slots).rev().collect());
        Ok(Self(Arc::new(Inner { mapping, slot_bytes, slots, free, came_back: Condvar::new() })))
    }

    /// Takes a free buffer, or `None` if all are out.
    #[must_use]
    pub fn try_take(&self) -> Option<Buffer> {
        let slot = self.0.free().pop();
        slot.map(|slot| self.buffer(slot))
    }

    /// Waits for a free buffer, at most `patience`.
    #[must_use]
    pub fn take(&self, patience: Duration) -> Option<Buffer> {
        let waited = self.0.came_back.wait_timeout_while(self.0.free(), patience, |free| free.is_empty());
        let slot = waited.unwrap_or_else(PoisonError::into_inner).0.pop();
        slot.map(|slot| self.buffer(slot))
    }

    fn buffer(&self, slot: u32) -> Buffer {
        Buffer { inner: Arc::clone(&self.0), slot, filled: 0 }
    }

    /// Capacity of each buffer in bytes.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.0.slot_bytes
    }

    #[must_use]
    pub fn slots(&self) -> u32 {
        self.0.slots
    }

    #[must_use]
    pub fn pages(&self) -> Pages {
        self.0.mapping.pages
    }

    /// Buffers that are free now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.0.free().len()
    }

    /// Start addresses of all slots, for registration with a ring. The addresses stay mapped while any clone of the
    /// arena or any buffer lives.
    pub(crate) fn slot_addresses(&self) -> impl Iterator<Item = *mut u8> + '_ {
        (0..self.0.slots).map(|slot| self.0.address(slot))
    }

    pub(crate) fn owns(&self, buffer: &Buffer) -> bool {
        Arc::ptr_eq(&self.0, &buffer.inner)
    }
}

impl Inner {
    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        // A list of numbers is whole whatever panicked.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, slot: u32) -> *mut u8 {
        debug_assert!(slot < self.slots);
        // SAFETY: slot < slots by construction (slot numbers only come from `new`), so the result is in the mapping.
        unsafe { self.mapping.base.as_ptr().add(slot as usize * self.slot_bytes) }
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
        // Within the capacity that the list was made with.
        self.inner.free().push(self.slot);
        self.inner.came_back.notify_one();
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
        assert!(Arena::new(1, usize::MAX - ALIGNMENT).is_err());
    }

    #[test]
    fn memory_begins_on_a_huge_page_and_the_warmest_slot_is_taken_first() {
        let arena = Arena::new(3, 4096).unwrap();
        let (mut one, two) = (arena.try_take().unwrap(), arena.try_take().unwrap());
        assert_eq!(one.as_mut_ptr() as usize % HUGE, 0);
        let slots = (one.slot(), two.slot());
        drop(two);
        drop(one);
        assert_eq!((arena.try_take().unwrap().slot(), slots), (slots.0, (0, 1)));
        assert_eq!(arena.take(Duration::ZERO).unwrap().slot(), slots.0, "given back at once");
    }

    #[test]
    fn a_child_does_not_get_the_memory() {
        let arena = Arena::new(4, HUGE).unwrap();
        let begin = format!("{:x}-", arena.0.mapping.start.as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut flags =
            smaps.lines().skip_while(|line| !line.starts_with(&begin)).filter(|l| l.starts_with("VmFlags:"));
        // "dc": do not copy on fork (proc(5)).
        assert!(flags.next().unwrap().split_whitespace().any(|flag| flag == "dc"));
    }

    #[test]
    fn who_waits_for_a_buffer_gets_the_next() {
        let arena = Arena::new(1, 4096).unwrap();
        let buffer = arena.try_take().unwrap();
        let (waiting, patience) = (arena.clone(), Duration::from_secs(60));
        let waiter = std::thread::spawn(move || waiting.take(patience).is_some());
        drop(buffer);
        assert!(waiter.join().unwrap());
    }
}
