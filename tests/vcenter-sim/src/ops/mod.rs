//! Operations that change the inventory. Each runs as a task: see task.rs.

pub(crate) mod power;
pub(crate) mod reconfig;
pub(crate) mod slots;
pub(crate) mod snapshot;
pub(crate) mod task;
pub(crate) mod writer;
