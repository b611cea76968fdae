//! Slot rules of ReconfigVM: which controller and unit a new device may take.

use crate::fault::{Fault, Res};
use crate::inventory::ControllerKind;
use crate::state::vm::FIRST_HOT_PLUG_SLOT;
use crate::state::{Device, Kind, Vm};

/// Checks the wanted place of a disk or picks a free unit. `index` is its position in the spec.
pub(crate) fn place(
    vm: &Vm,
    devices: &[Device],
    ctl: i32,
    kind: ControllerKind,
    unit: Option<i32>,
    index: usize,
) -> Res<i32> {
    let used: Vec<i32> = devices.iter().filter(|d| d.controller == Some(ctl)).filter_map(|d| d.unit).collect();
    match unit.filter(|u| *u >= 0) {
        Some(u) if !vm.unit_ok(kind, u) => {
            let beyond = u > vm.max_unit(kind);
            Err(if beyond { too_many(index) } else { Fault::device("InvalidDeviceSpec", index) })
        }
        Some(u) if used.contains(&u) => Err(Fault::device("InvalidDeviceSpec", index)),
        Some(u) => Ok(u),
        None => (0..64).find(|u| vm.unit_ok(kind, *u) && !used.contains(u)).ok_or_else(|| too_many(index)),
    }
}

fn too_many(index: usize) -> Fault {
    Fault::new("TooManyDevices", "There are more devices attached to this controller than it can hold.")
        .with("property", format!("virtualDeviceSpec[{index}].device"))
}

/// At most 4 controllers of a family; bus numbers are unique within it.
pub(crate) fn controller_bus(devices: &[Device], kind: ControllerKind, bus: u32, index: usize) -> Res<()> {
    let same = |k: ControllerKind| k == kind || (k.is_scsi() && kind.is_scsi());
    let taken = devices.iter().any(|d| match d.kind {
        crate::state::Kind::Controller { kind: k, bus: b, .. } => same(k) && b == bus,
        _ => false,
    });
    if bus > 3 {
        return Err(too_many(index));
    }
    if taken { Err(Fault::device("InvalidDeviceSpec", index)) } else { Ok(()) }
}

/// Slot of a controller that the VM has at power-on.
pub(crate) fn cold_slot(bus: u32) -> Option<u32> {
    [160, 192, 224, 256].get(bus as usize).copied()
}

/// The first free of the slots that a running VM has for one more controller.
pub(crate) fn hot_plug_slot(devices: &[Device]) -> Option<u32> {
    let taken = |slot: u32| {
        devices.iter().any(|d| match d.kind {
            Kind::Controller { pci_slot, guest_slot, .. } => guest_slot.or(pci_slot) == Some(slot),
            _ => false,
        })
    };
    (0..4).map(|n| FIRST_HOT_PLUG_SLOT + 32 * n).find(|slot| !taken(*slot))
}
