//! Whose each place on the proxy is, from what vCenter told last and what the journal names now. Pure.
use std::collections::BTreeMap;

use serde::Serialize;

use super::{bound, clip};
use crate::{
    attach::{own_disks, units_of},
    hypervisor::ProxyFacts,
    id::{DiskUuid, Slot},
    journal::{Duty, State},
};

/// One controller of the proxy. A unit that is not in `taken` is free, but for 0, which is never used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Controller {
    pub bus: i32,
    /// `pvscsi`, `lsilogic`, …
    pub kind: String,
    /// Units that it has: 16 or 64.
    pub units: u32,
    pub free: usize,
    pub taken: Vec<Taken>,
}

/// One unit that holds something, or is kept for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    pub unit: u32,
    pub whose: Whose,
    /// Of the target; empty: there is none.
    pub vm: String,
    pub session: String,
    pub backing: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// The controller itself.
    Controller,
    /// A disk of the proxy's own.
    Own,
    /// Hot-added for a session or job, or about to be.
    Hotadd,
    /// A request without an answer may still fill it.
    Late,
    /// vCenter listed a disk there that the journal does not name.
    Other,
}

pub(super) fn map(proxy: &ProxyFacts, state: &State, listed: &std::collections::BTreeSet<DiskUuid>) -> Vec<Controller> {
    let mut by_slot: BTreeMap<Slot, Taken> = BTreeMap::new();
    let own: Vec<Slot> = own_disks(proxy, listed).iter().filter_map(|disk| disk.slot).collect();
    for disk in &proxy.disks {
        let Some(slot) = disk.slot else { continue };
        let whose = if own.contains(&slot) { Whose::Own } else { Whose::Other };
        let backing = disk.chain.first().map(ToString::to_string).unwrap_or_default();
        by_slot.insert(
            slot,
            Taken { unit: slot.unit, whose, backing: clip(&backing), vm: String::new(), session: String::new() },
        );
    }
    // What the journal names counts more than what was seen earlier.
    for late in state.late() {
        name(&mut by_slot, &late.duty, Whose::Late);
    }
    for duty in state.duties() {
        name(&mut by_slot, duty, Whose::Hotadd);
    }
    proxy
        .controllers
        .iter()
        .take(bound::CONTROLLERS)
        .map(|controller| {
            let usable: Vec<u32> = units_of(controller, proxy.hardware_version).collect();
            let mut taken: Vec<Taken> = by_slot
                .iter()
                .filter(|(slot, _)| slot.controller_key == controller.key)
                .map(|(_, taken)| taken.clone())
                .collect();
            let free = usable.iter().filter(|unit| taken.iter().all(|taken| taken.unit != **unit)).count();
            taken.push(Taken {
                unit: controller.reserved_unit,
                whose: Whose::Controller,
                vm: String::new(),
                session: String::new(),
                backing: String::new(),
            });
            taken.sort_by_key(|taken| taken.unit);
            taken.truncate(bound::UNITS);
            let units = if usable.iter().any(|unit| *unit > 15) { 64 } else { 16 };
            Controller { bus: controller.bus, kind: clip(&controller.kind), units, free, taken }
        })
        .collect()
}

/// Disks that nobody here knows.
pub(super) fn strangers(controllers: &[Controller]) -> usize {
    let taken = controllers.iter().flat_map(|controller| &controller.taken);
    taken.filter(|taken| taken.whose == Whose::Other).count()
}

fn name(by_slot: &mut BTreeMap<Slot, Taken>, duty: &Duty, whose: Whose) {
    let Some(attach) = duty.attach() else { return };
    let taken = Taken {
        unit: attach.slot.unit,
        whose,
        vm: clip(&duty.vm_name),
        session: duty.session.to_string(),
        backing: clip(attach.backing.as_str()),
    };
    by_slot.insert(attach.slot, taken);
}
