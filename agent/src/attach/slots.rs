//! Which units are free, and which to take. Pure.
//!
//! vSphere: unit 7 is the controller's own (scsiCtlrUnitNumber); LSI and older PVSCSI have units 0–15, PVSCSI from
//! virtual hardware 14 has 64.
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    hypervisor::{ControllerFacts, ProxyFacts},
    id::Slot,
};

/// Virtual hardware that brought 64 targets to PVSCSI (vSphere 6.7).
const WIDE_PVSCSI_HARDWARE: u32 = 14;

/// Every unit that a disk may be attached to on this controller. Never 0: there a proxy has its own permanent disks, by which it also finds its
/// system disk when it starts.
pub fn units_of(controller: &ControllerFacts, hardware_version: u32) -> impl Iterator<Item = u32> + use<> {
    let wide = controller.pvscsi && hardware_version >= WIDE_PVSCSI_HARDWARE;
    let reserved = controller.reserved_unit;
    (1..if wide { 64 } else { 16 }).filter(move |unit| *unit != reserved)
}

/// Units of a PVSCSI controller that is added now.
pub(super) fn new_pvscsi_units(hardware_version: u32) -> usize {
    let wide = hardware_version >= WIDE_PVSCSI_HARDWARE;
    if wide { 62 } else { 14 }
}

/// Free units per controller key: neither on vCenter's list nor named by an open duty.
#[must_use]
pub fn free_units(proxy: &ProxyFacts, reserved: &BTreeSet<Slot>) -> BTreeMap<i32, Vec<u32>> {
    let used: BTreeSet<Slot> =
        proxy.disks.iter().filter_map(|disk| disk.slot).chain(reserved.iter().copied()).collect();
    proxy
        .controllers
        .iter()
        .map(|controller| {
            let free = units_of(controller, proxy.hardware_version)
                .filter(|unit| !used.contains(&Slot { controller_key: controller.key, unit: *unit }));
            (controller.key, free.collect())
        })
        .collect()
}

/// Picks up to `count` slots. Disks are spread over controllers: that reads faster, and a burst on one controller
/// overflows vmw_pvscsi's message ring (about 35 additions, the rest is lost without a word). Low units go first: the
/// driver can rescan those.
pub(super) fn choose(mut free: BTreeMap<i32, Vec<u32>>, usable: impl Fn(i32) -> bool, count: usize) -> Vec<Slot> {
    free.retain(|key, _| usable(*key));
    let mut chosen = Vec::with_capacity(count);
    let mut round = 0;
    while chosen.len() < count {
        let before = chosen.len();
        for (&controller_key, units) in &free {
            if let Some(&unit) = units.get(round)
                && chosen.len() < count
            {
                chosen.push(Slot { controller_key, unit });
            }
        }
        if chosen.len() == before {
            break;
        }
        round += 1;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        hypervisor::ProxyDisk,
        id::{BackingPath, Moref},
    };

    fn controller(key: i32, pvscsi: bool) -> ControllerFacts {
        ControllerFacts { key, bus: key - 1000, kind: String::new(), pvscsi, pci_slot: None, reserved_unit: 7 }
    }

    fn proxy(hardware_version: u32, used: &[Slot]) -> ProxyFacts {
        let disk = |slot: &Slot| ProxyDisk {
            device_key: 2000,
            slot: Some(*slot),
            chain: vec![BackingPath::new("[d] a/b.vmdk")],
            uuid: None,
            capacity_bytes: 1,
            nonpersistent: true,
        };
        ProxyFacts {
            moref: Moref::new("vm-1"),
            instance_uuid: None,
            name: "p".into(),
            home: "[d] p/".into(),
            hardware_version,
            controllers: vec![controller(1000, true), controller(1001, false)],
            disks: used.iter().map(disk).collect(),
            busy: false,
        }
    }

    #[test]
    fn units_of_the_proxys_own_are_never_offered_and_width_follows_hardware() {
        let count = |hw| free_units(&proxy(hw, &[]), &BTreeSet::new()).values().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(count(13), [14, 14]);
        assert_eq!(count(14), [62, 14], "only PVSCSI gets wide");
        assert!(
            free_units(&proxy(19, &[]), &BTreeSet::new())
                .values()
                .all(|units| !units.contains(&7) && !units.contains(&0))
        );
    }

    #[test]
    fn refused_controllers_get_nothing() {
        let free = free_units(&proxy(13, &[]), &BTreeSet::new());
        assert!(choose(free.clone(), |_| false, 3).is_empty());
        assert!(choose(free, |key| key == 1001, 3).iter().all(|slot| slot.controller_key == 1001));
    }

    proptest! {
        #[test]
        fn chosen_slots_are_free_distinct_and_as_many_as_there_are(
            used in prop::collection::btree_set((1000..1002_i32, 0..16_u32), 0..30),
            duties in prop::collection::btree_set((1000..1002_i32, 0..16_u32), 0..10),
            count in 0..40_usize,
        ) {
            let slots = |set: &BTreeSet<(i32, u32)>| -> Vec<Slot> {
                set.iter().map(|&(controller_key, unit)| Slot { controller_key, unit }).collect()
            };
            let reserved: BTreeSet<Slot> = slots(&duties).into_iter().collect();
            let free = free_units(&proxy(13, &slots(&used)), &reserved);
            let available: usize = free.values().map(Vec::len).sum();
            let chosen = choose(free, |_| true, count);
            prop_assert_eq!(chosen.len(), count.min(available));
            let set: BTreeSet<Slot> = chosen.iter().copied().collect();
            prop_assert_eq!(set.len(), chosen.len());
            for slot in chosen {
                let pair = (slot.controller_key, slot.unit);
                prop_assert!(slot.unit != 7 && slot.unit < 16 && !used.contains(&pair) && !duties.contains(&pair));
            }
        }
    }
}
