//! Benchmarks: reading one device in many ways ([`sweep`]), judging two sides that took turns ([`stats`], [`record`]), and
//! telling it as one page that needs nothing else ([`page`]). It reads devices and never writes one; who is compared with whom is
//! the caller's matter.
#![forbid(unsafe_code)]

pub mod machine;
pub mod page;
pub mod record;
pub mod stats;
mod svg;
pub mod sweep;
pub mod usage;

pub use self::{
    machine::Machine,
    record::{Goal, Record, Side, Stages, Verdict},
    sweep::{Cell, Sweep},
};
