//! What a rule may look at: the facts of vCenter for one disk, and what this agent knows itself. Data only.
use super::{Transport, rates::Rates};
pub use crate::hypervisor::views::{
    Automation, Build, Bus, DiskView, Fact, HostView, Link, Mount, PlanFacts, ProxyView, Rdm, Site, StoreKind,
    StoreView, TargetView,
};
use crate::journal::history::TryOutcome;

/// How earlier tries against a rule ended, at this site and build: by rule id.
pub type Tries = std::collections::BTreeMap<String, TryOutcome>;

/// Everything that decides about one disk.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub site: &'a Site,
    pub proxy: &'a ProxyView,
    pub target: &'a TargetView,
    pub disk: &'a DiskView,
    /// Units of the proxy that are left for this disk and those after it.
    pub room: &'a Fact<usize>,
    /// The transport that the request names.
    pub asked: Option<Transport>,
    pub tries: &'a Tries,
    pub rates: &'a Rates,
    /// To be read of this disk.
    pub bytes: u64,
    /// Release of the VDDK that the user brought; `None`: there is none.
    pub vddk: Option<Build>,
}
