//! Where a look takes its numbers from. There is something to look at before the API's port is open: what an earlier run left is then settled,
//! which is when somebody wants to know most.
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use hyper::body::Bytes;

use super::gauges::Snapshot;
use crate::{
    attach::{ProxyVm, Settler},
    error::Error,
    session::{Manager, jobs::Jobs},
    status::{self, Places, page},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    vm: Arc<ProxyVm>,
    settler: Settler,
    /// From when the agent takes work on.
    work: Arc<OnceLock<(Manager, Jobs)>>,
    /// Why it takes none.
    refused: Arc<OnceLock<String>>,
    begun: Instant,
    shared: page::Shared,
}

impl Source {
    #[must_use]
    pub fn new(vm: Arc<ProxyVm>, settler: Settler) -> Self {
        let (work, refused, shared) = (Arc::default(), Arc::default(), page::Shared::default());
        Self { vm, settler, work, refused, begun: Instant::now(), shared }
    }

    /// The agent takes work from now on.
    pub fn works(&self, manager: Manager, jobs: Jobs) {
        // Set once, by the one who opens the port.
        drop(self.work.set((manager, jobs)));
    }

    /// The agent will not take work; it runs on for what is owed.
    pub fn refuses(&self, why: &Error) {
        // The first reason stands.
        drop(self.refused.set(format!("{}: {}", why.reason().code, why.message())));
    }

    /// What a person reads.
    #[must_use]
    pub fn page(&self, path: page::Path) -> Bytes {
        self.shared.body(path, || {
            status::Snapshot::of(Places {
                vm: &self.vm,
                settler: &self.settler,
                work: self.work.get(),
                refused: self.refused.get().map(String::as_str),
                up: self.begun.elapsed(),
            })
        })
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
