//! Reading disks: aligned buffers, the read engines (io_uring, Linux AIO, preadv for block devices; an NBD client for
//! servers) behind one trait, a reader on top, zero detection, and the few ioctls that tell what a device is. And one
//! writer of files, for the receiving side ([`sink`]).
//!
//! This is the only crate of the project that may contain `unsafe`; every block carries its SAFETY argument. It knows
//! nothing of vSphere, gRPC or the agent: a file or an address goes in, blocks come out.
//!
//! Reading order: [`buffer`] → [`engine`] → [`source`] → [`pace`] → [`reader`] → [`device`] → [`nbd`] → [`zero`] → [`sink`].
#![allow(unsafe_code, reason = "system calls and shared memory with the kernel; each block argues its safety")]

pub mod buffer;
pub mod device;
pub mod engine;
pub mod nbd;
pub mod pace;
pub mod reader;
pub mod sink;
pub mod source;
pub mod zero;

pub use buffer::{Arena, Buffer, Pages};
pub use device::Device;
pub use engine::{EngineKind, ReadEngine, Refusal, Selected, Tuning};
pub use pace::{Depth, FullSpeed, Pace};
pub use reader::{Block, ReadError, ReadRequest, ReadStats, Waits};
pub use source::Source;
