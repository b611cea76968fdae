//! What the C library does with memory that was freed. Nothing else of the process.
use std::hint::black_box;

/// Just under the largest that glibc takes for this (DEFAULT_MMAP_THRESHOLD_MAX, 32 MiB).
const LARGE: usize = 31 << 20;

/// Makes glibc keep what messages were received into for the next ones. It gives a freed block of its own mapping back to the
/// kernel and raises the bounds for both, blocks that get a mapping and memory that is given back at the end of a heap, to that
/// block's size and twice that (mallopt(3), M_MMAP_THRESHOLD). Without it every MiB that is received costs page faults again,
/// a third of all processor time. The block is never touched; other C libraries do what they do with it.
pub(crate) fn keep() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE)));
}
