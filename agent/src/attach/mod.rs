//! The invariant lives here: nothing is attached that is not journalled first, and nothing journalled is forgotten
//! before it is proven gone.
//!
//! [`actor`] tells with whose rights something is begun, [`attacher`] puts disks on the proxy, [`joint`] those of several jobs at once, [`slots`] chooses where (pure), [`room`] adds a controller when there is nowhere, [`ours`] proves on vCenter's side which disk a
//! duty names (pure), [`guards`] keeps others from moving or destroying a VM meanwhile, [`reservations`] counts what is kept for whom, [`readers`] tells whose snapshots a process of ours has open, [`turns`] whose turn it is to
//! take one, and [`settler`] is the only loop in the program that detaches: sessions that close, leases that
//! end, and duties inherited from a killed agent all take the same way.
mod actor;
pub mod attacher;
mod duty;
pub mod guards;
mod joint;
mod ours;
pub mod proxy_vm;
mod readers;
mod reservations;
mod room;
pub mod settler;
mod slots;
mod turns;

pub use self::{
    actor::Actor,
    attacher::{Attached, Attacher, Wanted},
    duty::begin,
    ours::{Claim, claim, own_disks},
    proxy_vm::{ProxyVm, now},
    readers::{Reader, Readers},
    reservations::Reservations,
    settler::{Settled, Settler},
    slots::{free_units, units_of},
    turns::{Turn, Turns},
};
