//! How bytes leave an attached disk: one OS thread per read, device → engine → zero scan and hash → frames.
//! A disk that vSphere exports instead comes as a compressed stream: [`stream_vmdk`] decodes it.
//! Nothing here attaches or detaches; a read holds its [`crate::attach::Attached`] for as long as its thread runs.
pub mod memory;
pub mod outlet;
pub mod read;
pub mod stream_vmdk;

pub use memory::Memory;
pub use outlet::Outlet;
pub use read::{Item, ReadOrder, Reading, Report, Sink, micros};
