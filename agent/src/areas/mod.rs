//! What of a disk is read: vSphere's map turned into areas, when no map may be used, and the samples that test one. Pure: it
//! neither asks vCenter nor reads; `session/job/mapping.rs` does both.
//!
//! ```text
//! asked CHANGED ──▶ map since the base ──▶ areas ──▶ known blocks of the base tested ──▶ read
//!      │ no base for it, or a fault   ╲ contradicts itself, late          │ one differs
//!      ▼                               ╲                                  ▼
//! asked ALLOCATED ─▶ map "*" ──────────▶ WHOLE ◀──────────────── alarm, never believed again
//!                     └─▶ areas ─▶ sample of the rest is zero ──▶ read
//! ```
//! Why one map is enough for each scope. Let C be what changed since the base and A what is allocated, both supersets as
//! vSphere gives them. Outside of C the disk is as in the base, so C is what must be delivered, all of it:
//! * C ∩ A would be wrong: what was unmapped since the base is in C but not in A; it is zero now, the base still has data there.
//! * C ∪ A would be waste: what is allocated and did not change is in the base.
//! * C \ A could be told as zeros without reading; then a gap in A, which `*` may have, would lose data. It is read: a thin
//!   disk answers such reads without touching the datastore.
//!
//! Outside of A the disk is zero, so A is what must be delivered where there is no base. Areas only ever grow: aligned
//! outward to the block size, joined over small gaps.
mod choice;
mod cost;
mod known;
mod pages;
mod sample;
mod set;

pub use self::{
    choice::{Base, ChangeId, Facts, KnownBlock, Scope, Step, Wanted, after, first},
    cost::worth,
    known::Known,
    pages::Map,
    sample::{SAMPLE_BYTES, sample},
    set::Areas,
};

/// Most areas that one read has.
pub const MAX_AREAS: usize = 65_536;
