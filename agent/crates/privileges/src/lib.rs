//! The vSphere privileges that a proxy's account needs, and those that it must not have: one table of each, and ways to print them. For
//! the agent, hotaddctl and the tests alike.
//!
//! Lives here: ids, objects, which feature needs which, which account holds which, and texts for people, govc and PowerCLI. May not live here: anything that asks a
//! vCenter, anything of ours.
//!
//! A permission on an object replaces what its parents hand down, and an object bears one permission a principal (vSphere API 8.0,
//! AuthorizationManager.Permission). So there is one role a kind of object, and each is whole by itself.
#![forbid(unsafe_code)]

mod command;
mod danger;
mod feature;
mod govc;
mod powercli;
mod table;
mod text;

pub use command::{Args, Format};
pub use danger::{DANGEROUS, Dangerous};
pub use feature::Feature;
pub use table::{NEEDED, Part, Privilege, Scope, part_of, wanted};
