//! GetCapacity and Reserve: what a controller needs to choose a proxy. Counts what others know; decides nothing.
use std::time::Duration;

use hotadd_api::v1;
use nix::unistd::{SysconfVar, sysconf};

use super::{Context, text};
use crate::{
    access::Caller,
    attach::{ProxyVm, free_units, units_of},
    discover::ControllerMap,
    error::{Error, Result},
    hypervisor::{Mounted, ProxyFacts},
    reason,
};

/// Looks at the proxy's host are shared among those who ask that soon after each other.
const SITE_AGE: Duration = Duration::from_secs(5);

/// Of a reservation, when the request does not say, and at most.
const RESERVED: Duration = Duration::from_secs(120);
const RESERVED_MOST: Duration = Duration::from_secs(3600);

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
        let reserved = vm.reservations.kept_from(None);
        Ok(v1::GetCapacityResponse {
            controllers: controllers(vm, &proxy, &map),
            free_slots: count(vm.room(&proxy, &map).saturating_sub(reserved)),
            reserved_slots: count(reserved),
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

    /// The reservation that a request names, if it names one that this client may use. One that is over is not missed.
    ///
    /// # Errors
    /// [`reason::SES_REQUEST`], [`reason::AUT_OWNER`].
    pub(super) fn reservation(&self, id: &str, caller: &Caller) -> Result<Option<String>> {
        let id = text("reservation_id", id, false)?;
        match self.manager.opener().vm.reservations.owner(&id) {
            Some(owner) => caller.may_touch(&owner, &format!("reservation {id:?}"))?,
            None if id.is_empty() => return Ok(None),
            None => {}
        }
        Ok(Some(id))
    }

    pub(super) async fn reserve_slots(
        &self,
        request: &v1::ReserveRequest,
        caller: &Caller,
    ) -> Result<v1::ReserveResponse> {
        let vm = &self.manager.opener().vm;
        let id = text("reservation_id", &request.reservation_id, true)?;
        // Before vCenter is asked; once more when it is set, for who came first meanwhile.
        self.reservation(&id, caller)?;
        let ttl =
            Some(Duration::from_secs(request.ttl_seconds.into())).filter(|ttl| !ttl.is_zero()).unwrap_or(RESERVED);
        if ttl > RESERVED_MOST {
            let detail = format!("ttl_seconds: {} is above {}", request.ttl_seconds, RESERVED_MOST.as_secs());
            return Err(Error::new(&reason::SES_REQUEST, detail));
        }
        if request.slots > 0 {
            self.manager.takes_new()?;
        }
        let proxy = vm.facts().await?;
        let room = vm.room(&proxy, &vm.controller_map(&proxy).await?);
        let slots = usize::try_from(request.slots).unwrap_or(usize::MAX);
        let may = |owner: &str| caller.may_touch(owner, &format!("reservation {id:?}"));
        let free = vm.reservations.set(&id, &caller.name, slots, ttl, room, may)?;
        let seconds_left = if slots > 0 { u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX) } else { 0 };
        Ok(v1::ReserveResponse { slots: request.slots, free_slots: count(free), seconds_left })
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
