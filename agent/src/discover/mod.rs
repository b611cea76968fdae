//! From "vCenter says it is attached" to a [`ProvenDisk`]: the host as a port ([`platform`]), its only implementation
//! in this crate ([`linux`], with the udev thread in [`monitor`]), which controller of vCenter is which in the guest
//! ([`controllers`]), the proof ([`proof`], pure), and the waiting ([`finder`]).
//!
//! Device letters (sdX) and host numbers are never identity here.
pub mod controllers;
pub mod finder;
pub mod linux;
mod monitor;
pub mod platform;
pub mod proof;
pub mod vpd;

pub use self::{
    controllers::{ControllerMap, Guest, Trials},
    finder::Finder,
    platform::{DeviceEvent, DeviceFacts, HostIdentity, Platform, SlotFacts},
    proof::{Expectation, Mismatch, ProvenDisk},
};
