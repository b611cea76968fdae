//! Room for disks on the proxy: every free unit of a controller that is proven, one unit of each that is on trial, and a
//! new controller when there is neither.
//!
//! ```text
//! no unit free ──▶ reconfigure(add PVSCSI) ──▶ read back ──▶ SCSI host seen at its slot number ──▶ on trial: one disk
//!      │                └ refused: not asked again for a while     └ never: refused                      │
//!      └ 4 controllers, or one of them refused: no slot                    proven ◀── its disk is ◀──────┤
//!                                                                         refused ◀── it is not  ◀───────┘
//! ```
//! Nothing of this is journalled. A controller that was added owes nothing: it is the proxy's own, holds no file, and is
//! never removed. A crash leaves it empty, and the next run uses it under the same rule, which asks only whether more
//! than the slot number tells where it is, not who added it. A record could at most repeat what vCenter's list says, and
//! a recorded verdict would be believed after the proxy's hardware was changed.
use std::{
    collections::BTreeSet,
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::{
    Actor,
    proxy_vm::{ProxyVm, View},
    slots::{choose, free_units, new_pvscsi_units},
};
use crate::{
    audit::{Entry, Who, tasks_of},
    discover::{ControllerMap, Trials},
    error::{Error, Result},
    hypervisor::{ControllerOutcome, ProxyFacts},
    id::Slot,
    reason,
};

/// SCSI controllers that a VM can have (vSphere configuration maximums).
const MAX_CONTROLLERS: i32 = 4;
/// Pause between two looks for the SCSI host of a new controller.
const LOOK: Duration = Duration::from_millis(500);
/// How long a refused addition is remembered: requests are not admitted for room that will not come.
const REFUSAL: Duration = Duration::from_secs(600);

/// Which controllers may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Proven,
    /// Those on trial too, one disk each. Whoever asks holds [`ProxyVm::trial`] until the verdict.
    Trial,
}

/// What was learnt in this run.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pub(super) trials: Trials,
    /// When vCenter last refused to add a controller.
    refused: Option<Instant>,
}

/// Up to `count` slots. `reserved`: named by duties, those included that are only looked for in case they land late;
/// `held`: named by open ones.
pub(super) fn slots(
    proxy: &ProxyFacts,
    map: &ControllerMap,
    reserved: &BTreeSet<Slot>,
    held: &BTreeSet<Slot>,
    room: Room,
    count: usize,
) -> Vec<Slot> {
    let mut free = free_units(proxy, reserved);
    for (key, units) in &mut free {
        let held = held.iter().any(|slot| slot.controller_key == *key);
        if map.on_trial(*key) {
            units.truncate(usize::from(room == Room::Trial && !held));
        }
    }
    choose(free, |key| map.address(key).is_ok(), count)
}

/// Bus of the controller that may be added: the lowest free one. `None`: there are four, or one of those that are there
/// can't be identified, so that another would help nobody.
fn free_bus(proxy: &ProxyFacts, map: &ControllerMap) -> Option<i32> {
    let identified = proxy.controllers.iter().all(|c| map.address(c.key).is_ok());
    let free = || (0..MAX_CONTROLLERS).find(|bus| proxy.controllers.iter().all(|c| c.bus != *bus));
    if identified { free() } else { None }
}

impl ProxyVm {
    /// How many disks more the proxy can hold, controllers that may be added included.
    #[must_use]
    pub fn room(&self, proxy: &ProxyFacts, map: &ControllerMap) -> usize {
        let free = free_units(proxy, &self.journal.state().reserved_slots());
        let there: usize = map.usable().filter_map(|key| free.get(&key)).map(Vec::len).sum();
        let present = proxy.controllers.len();
        let more = usize::try_from(MAX_CONTROLLERS).unwrap_or_default().saturating_sub(present);
        let new = if self.new_bus(proxy, map).is_some() { more } else { 0 };
        there + new * new_pvscsi_units(proxy.hardware_version)
    }

    fn new_bus(&self, proxy: &ProxyFacts, map: &ControllerMap) -> Option<i32> {
        let lately = self.learnt().refused.is_some_and(|at| at.elapsed() < REFUSAL);
        if self.limits.add_controllers && !lately { free_bus(proxy, map) } else { None }
    }

    pub(super) fn learnt(&self) -> std::sync::MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a controller if no other has room for one disk, and waits for its SCSI host. `Ok` also when none may be added.
    ///
    /// # Errors
    /// [`reason::ATT_ADD`], [`reason::VC_PRIVILEGE`] and others of vCenter.
    pub(super) async fn make_room(&self, actor: &Actor) -> Result<()> {
        let gate = self.gate.lock().await;
        let view = self.view().await?;
        let reserved = self.journal.state().reserved_slots();
        if !slots(&view.proxy, &view.map, &reserved, &self.named_slots(), Room::Trial, 1).is_empty() {
            return Ok(());
        }
        let Some(bus) = self.new_bus(&view.proxy, &view.map) else { return Ok(()) };
        tracing::info!(bus, "no unit is free on the proxy; adding a PVSCSI controller");
        let (outcome, tasks) = tasks_of(actor.hypervisor().add_controller(&self.moref, bus)).await;
        let entry = Entry {
            what: "add controller",
            moref: self.moref.to_string(),
            about: vec![format!("scsi{bus}")],
            outcome: "ok",
            ..Entry::default()
        }
        .by(&tasks);
        let entry = match outcome.why() {
            Some(error) => entry.failed(error),
            None => entry,
        };
        self.audit.tell(&Who::agent(), entry);
        drop(gate);
        match outcome {
            ControllerOutcome::Added { key } => self.await_host(key).await,
            ControllerOutcome::Refused(error) => {
                tracing::warn!(bus, reason = error.reason().code, %error, "no controller was added");
                // What one ticket may not says nothing of others.
                if !actor.has_ticket() {
                    self.learnt().refused = Some(Instant::now());
                }
                Err(error)
            }
            ControllerOutcome::Unknown(error) => Err(error),
        }
    }

    /// Until the guest has a SCSI host where vCenter says that the controller is.
    async fn await_host(&self, key: i32) -> Result<()> {
        let end = Instant::now() + self.deadlines.discover;
        loop {
            let why = match self.view().await {
                Ok(View { map, .. }) => match map.address(key) {
                    Ok(address) => {
                        tracing::info!(key, %address, "controller added; it holds one disk until that is proven");
                        return Ok(());
                    }
                    Err(refused) => refused.to_string(),
                },
                Err(error) => error.message(),
            };
            if Instant::now() >= end {
                let detail = format!("the new controller (key {key}) did not appear in the guest: {why}");
                return Err(Error::new(&reason::ATT_ADD, detail));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes note of what a disk on a controller on trial told.
    pub(super) fn judge_trial(&self, map: &ControllerMap, slot: Slot, found: Option<&Error>) -> bool {
        let Ok(address) = map.address(slot.controller_key) else { return false };
        if !map.on_trial(slot.controller_key) {
            return false;
        }
        match found {
            None => self.learnt().trials.prove(slot.controller_key, address),
            Some(error) if [&reason::DSC_MISSING, &reason::DSC_IDENTITY].contains(&error.reason()) => {
                tracing::error!(controller = slot.controller_key, %address, %error, "controller refused: its first disk was not proven");
                self.learnt().trials.disprove(slot.controller_key, address, error.reason().code.to_owned());
                return true;
            }
            Some(_) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discover::{Guest, SlotFacts},
        hypervisor::ControllerFacts,
        id::{Moref, PciAddress},
    };

    fn controller(bus: i32, pci_slot: Option<u32>) -> ControllerFacts {
        ControllerFacts { key: 1000 + bus, bus, kind: "pvscsi".into(), pvscsi: true, pci_slot, reserved_unit: 7 }
    }

    fn proxy(controllers: Vec<ControllerFacts>) -> ProxyFacts {
        ProxyFacts {
            moref: Moref::new("vm-1"),
            instance_uuid: None,
            name: "p".into(),
            home: "[d] p/".into(),
            hardware_version: 19,
            controllers,
            disks: Vec::new(),
            busy: false,
        }
    }

    /// Every controller with a slot number is at that slot, and those of `proven` are proven.
    fn map(proxy: &ProxyFacts, proven: &[i32]) -> ControllerMap {
        let slots: Vec<SlotFacts> = proxy
            .controllers
            .iter()
            .filter_map(|c| Some(SlotFacts { slot: c.pci_slot?, pci_address: format!("0000:0{}:00", c.bus) }))
            .collect();
        let at = |bus: i32| PciAddress::new(format!("0000:0{bus}:00.0"));
        let hosts: Vec<_> = proxy.controllers.iter().map(|c| at(c.bus)).collect();
        let mut trials = Trials::default();
        proven.iter().for_each(|key| trials.prove(*key, &at(key - 1000)));
        ControllerMap::build(&proxy.controllers, &[], Guest { slots: &slots, hosts: &hosts, devices: &[] }, &trials)
    }

    #[test]
    fn a_controller_on_trial_holds_one_disk() {
        let proxy = proxy(vec![controller(0, Some(160)), controller(1, Some(1184))]);
        let map = map(&proxy, &[1000]);
        let late = BTreeSet::from([Slot { controller_key: 1001, unit: 0 }]);
        let keys = |room, held: &[Slot], count| -> Vec<i32> {
            let held = held.iter().copied().collect();
            let slots = slots(&proxy, &map, &late, &held, room, count);
            assert!(slots.iter().all(|slot| !late.contains(slot)), "the slot of a late duty was given away");
            slots.iter().map(|slot| slot.controller_key).collect()
        };
        assert_eq!(keys(Room::Proven, &[], 3), [1000, 1000, 1000]);
        assert_eq!(keys(Room::Trial, &[], 3), [1000, 1001, 1000]);
        let held = [Slot { controller_key: 1001, unit: 0 }];
        assert_eq!(keys(Room::Trial, &held, 3), [1000, 1000, 1000]);
    }

    #[test]
    fn the_lowest_free_bus_is_taken_and_only_beside_identified_controllers() {
        let bus = |controllers: Vec<ControllerFacts>| {
            let proxy = proxy(controllers);
            free_bus(&proxy, &map(&proxy, &[]))
        };
        assert_eq!(bus(vec![]), Some(0));
        assert_eq!(bus(vec![controller(0, Some(160)), controller(2, Some(192))]), Some(1));
        assert_eq!(bus(vec![controller(0, Some(160)), controller(2, None)]), None);
        assert_eq!(bus((0..4).map(|n| controller(n, Some(160 + 32 * n.unsigned_abs()))).collect()), None);
    }
}
