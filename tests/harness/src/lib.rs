//! The harness: certificates, processes that clean up after themselves, a scene (simulated vCenter + agent + target VM)
//! on this host or in a lab guest, and hotaddctl as a user would run it. No assertion lives here.
#![forbid(unsafe_code)]

pub mod appliance;
pub mod bench;
pub mod content;
pub mod ctl;
pub mod exports;
pub mod grpc;
pub mod guest;
mod monitor;
mod nbdkit;
pub mod pki;
pub mod process;
pub mod scene;
pub mod slow;
pub mod state_disk;

pub use self::{
    content::Content,
    ctl::Run,
    exports::Exports,
    guest::{Guest, Lab},
    nbdkit::FileServer,
    pki::Pki,
    process::{Process, binary},
    scene::{Scene, Spec, Stage},
    state_disk::StateDisk,
};
