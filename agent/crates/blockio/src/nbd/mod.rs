//! An NBD client that can only read: the disk of a server, behind the same [`crate::ReadEngine`] contract as a device.
//!
//! ```text
//! uri ─▶ dial: socket ─▶ [STARTTLS] ─▶ extended │ structured │ simple ─▶ base:allocation ─▶ GO      (handshake.rs)
//!            │ one connection, or several when the server says CAN_MULTI_CONN
//!            ▼
//! engine: part ─▶ least loaded connection ─▶ reply assembler, straight into the arena's buffer ─▶ completion
//!            ▲                                   │ each byte exactly once, or a typed error
//!            └── asked again ◀── lost connection ┘
//! ```
//! The server is not trusted: every length, count and string that it sends has a bound, every wait a deadline, and an
//! answer that contradicts its question ends the engine. No command that writes can be expressed here.
//! Source of the protocol: the NBD project's doc/proto.md and doc/uri.md.
//!
//! Reading order: [`uri`] → [`options`] → wire → handshake → reply → conn → [`engine`] → status.
mod channel;
mod conn;
mod coverage;
pub mod engine;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod handshake;
mod link;
pub mod options;
mod reply;
#[cfg(test)]
mod reply_tests;
mod status;
mod tls;
pub mod uri;
mod wire;

pub use self::{
    engine::{NbdEngine, NbdSource},
    error::NbdError,
    handshake::Export,
    options::{Limits, Options},
    status::Extent,
    tls::Tls,
    uri::{Address, Target},
    wire::Headers,
};
