//! GetCapacity: what a controller needs to choose a proxy. Counts what others know; decides nothing.
use std::time::Duration;

use hotadd_api::v1;
use nix::unistd::{SysconfVar, sysconf};

use super::Context;
use crate::{
    attach::{ProxyVm, free_units, units_of},
    discover::ControllerMap,
    error::{Error, Result},
    hypervisor::{Mounted, ProxyFacts},
    reason,
};

/// Looks at the proxy's host are shared among those who ask that soon after each other.
const SITE_AGE: Duration = Duration::from_secs(5);

/// For fields of the API, saturating.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Context {
    pub(super) async fn capacity(&self) -> Result<v1::GetCapacityResponse> {
        let opener = self.manager.opener();
        let vm = &opener.vm;
        let proxy = vm.facts().await?;
        let map = vm.controller_map(&proxy).await?;
        let site = vm.site(SITE_AGE).await?;
        let stores = match &site.host {
            Some(host) => vm.hypervisor.datastores_of(host).await,
            None => Err(Error::new(&reason::VC_STALE, "the proxy's host is not told")),
        };
        let (datastores, unknown) = match stores {
            Ok(stores) => (stores.iter().map(|store| datastore(vm, store)).collect(), None),
            Err(why) => (Vec::new(), Some(why.to_reason())),
        };
        let rates = opener.planner.rates.now();
        Ok(v1::GetCapacityResponse {
            controllers: controllers(vm, &proxy, &map),
            free_slots: count(vm.room(&proxy, &map)),
            host_moref: site.host.as_ref().map(ToString::to_string).unwrap_or_default(),
            host_name: site.host_name,
            datastores,
            datastores_unknown: unknown,
            snapshots_per_datastore: count(vm.limits.snapshots_per_datastore),
            reads: count(vm.limits.reads),
            running_jobs: count(self.jobs.running()),
            open_sessions: count(self.manager.open_sessions()),
            draining: self.manager.is_closed_to_new(),
            cores: std::thread::available_parallelism().map_or(0, |cores| count(cores.get())),
            memory_bytes: memory_bytes(),
            buffer_bytes: vm.limits.memory_bytes,
            attach_seconds: rates.attach_seconds,
            detach_seconds: rates.detach_seconds,
            bytes_per_second: rates.hotadd_bytes_per_second,
        })
    }
}

fn controllers(vm: &ProxyVm, proxy: &ProxyFacts, map: &ControllerMap) -> Vec<v1::ControllerCapacity> {
    let free = free_units(proxy, &vm.named_slots());
    let signed = |unit: u32| i32::try_from(unit).unwrap_or(i32::MAX);
    let of = proxy.controllers.iter().map(|controller| {
        let free = free.get(&controller.key).cloned().unwrap_or_default();
        let used = units_of(controller, proxy.hardware_version).filter(|unit| !free.contains(unit));
        let place = map.address(controller.key);
        let refused = |why: &dyn std::fmt::Display| Error::new(&reason::ATT_CONTROLLER, why.to_string()).to_reason();
        v1::ControllerCapacity {
            key: controller.key,
            bus: controller.bus,
            kind: controller.kind.clone(),
            pci_address: place.map(ToString::to_string).unwrap_or_default(),
            used_units: used.map(signed).collect(),
            free_units: free.into_iter().map(signed).collect(),
            refused: place.err().map(|why| refused(why)),
        }
    });
    of.collect()
}

fn datastore(vm: &ProxyVm, store: &Mounted) -> v1::DatastoreCapacity {
    let prefix = format!("[{}] ", store.name);
    let state = vm.journal.state();
    let here = state.duties().filter_map(|duty| duty.attach()).filter(|a| a.backing.as_str().starts_with(&prefix));
    let attached = count(here.count());
    let (snapshots, waiting) = vm.snapshots_on(&store.moref);
    v1::DatastoreCapacity {
        moref: store.moref.to_string(),
        name: store.name.clone(),
        free_bytes: store.free_bytes,
        attached,
        snapshots: count(snapshots),
        waiting: count(waiting),
    }
}

/// Of the machine; 0: not told.
fn memory_bytes() -> u64 {
    let value = |name| sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
    value(SysconfVar::_PHYS_PAGES).zip(value(SysconfVar::PAGE_SIZE)).map_or(0, |(pages, size)| pages * size)
}
