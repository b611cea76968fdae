//! How bytes leave a disk: one OS thread per read, device or NBD server → engine → zero scan, hash, compression → frames.
//! A disk that vSphere exports instead comes as a compressed stream ([`export`]): [`stream_vmdk`] decodes it. A disk that is read
//! through VDDK is served by a child: [`vddk`].
//! Nothing here attaches or detaches; a read holds its [`Disk`] for as long as its thread runs.
mod crew;
pub mod disk;
pub mod export;
mod framer;
pub mod memory;
pub mod outlet;
pub mod reach;
pub mod read;
pub mod remote;
pub mod stream_vmdk;
pub mod tally;
pub mod throttle;
pub mod vddk;

pub use disk::Disk;
pub use export::{ExportDisk, Lease};
pub use memory::Memory;
pub(crate) use memory::unless;
pub use outlet::Outlet;
pub use read::{Item, Means, ReadOrder, Reading, Report, Sink, micros};
pub use remote::{Of, Ready, Remote, SERVER_LOST, Servers};
pub use tally::Tally;
