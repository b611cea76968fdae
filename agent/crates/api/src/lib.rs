//! The public contract of hotadd-proxy: the generated `hotadd.v1` messages and services, the manifest format that
//! lies beside every image, the role that each rpc asks for, and how a [`v1::Reason`] travels inside a gRPC status. Shared by the agent and by
//! hotaddctl. No logic of either end lives here but what has to be the same on both: see [`compress`].
#![forbid(unsafe_code)]

pub mod compress;
pub mod manifest;
pub mod roles;
pub mod status;

/// Generated from `proto/hotadd/v1/*.proto`; the field comments there are the reference.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("hotadd.v1");
}

/// A request may be logged; its ticket may not.
impl std::fmt::Debug for v1::CloneTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CloneTicket([REDACTED])")
    }
}

/// Encoded `FileDescriptorSet` of `hotadd.v1`, for gRPC reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Bytes of a block when a request does not say: large enough to amortise a round trip to the datastore.
pub const DEFAULT_BLOCK_BYTES: u32 = 1 << 20;
/// Smallest block that may be asked for.
pub const MIN_BLOCK_BYTES: u32 = 64 << 10;
/// Largest block that may be asked for; bounds memory and the size of one gRPC message.
pub const MAX_BLOCK_BYTES: u32 = 4 << 20;
/// Decoding limit that a client must set: the largest frame plus its envelope.
pub const MAX_MESSAGE_BYTES: usize = MAX_BLOCK_BYTES as usize + (64 << 10);
/// Largest request that the agent reads: one with as many known blocks as are of use. A larger one ends with OUT_OF_RANGE.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
