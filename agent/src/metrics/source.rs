//! Where a look takes its numbers from. There is something to look at before the API's port is open: what an earlier run left is then settled,
//! which is when somebody wants to know most.
use std::sync::{Arc, OnceLock};

use super::gauges::Snapshot;
use crate::{
    attach::{ProxyVm, Settler},
    session::{Manager, jobs::Jobs},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    vm: Arc<ProxyVm>,
    settler: Settler,
    /// From when the agent takes work on.
    work: Arc<OnceLock<(Manager, Jobs)>>,
}

impl Source {
    #[must_use]
    pub fn new(vm: Arc<ProxyVm>, settler: Settler) -> Self {
        Self { vm, settler, work: Arc::default() }
    }

    /// The agent takes work from now on.
    pub fn works(&self, manager: Manager, jobs: Jobs) {
        // Set once, by the one who opens the port.
        drop(self.work.set((manager, jobs)));
    }

    /// What Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        self.vm.meter.text(&self.now())
    }

    fn now(&self) -> Snapshot {
        let mut now = Snapshot::of(&self.vm.journal.state(), &self.settler);
        if let Some((manager, jobs)) = self.work.get() {
            now.serving = true;
            now.jobs = jobs.running();
            now.sessions = manager.open_sessions();
            now.draining = manager.is_closed_to_new();
            now.nfc = manager.opener().servers.nfc_connections();
        }
        now
    }
}
