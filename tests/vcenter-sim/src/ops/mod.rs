//! Operations that change the inventory. Each runs as a task: see task.rs.

pub(crate) mod areas;
pub(crate) mod clone;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod hosts;
pub(crate) mod moves;
pub(crate) mod power;
pub(crate) mod reconfig;
pub(crate) mod revert;
pub(crate) mod slots;
pub(crate) mod snapshot;
pub(crate) mod space;
pub(crate) mod task;
pub(crate) mod work;
pub(crate) mod writer;
