//! The hardware that an exported VM gets: as the manifest tells it, or the least that can hold the disks. Pure.
use std::collections::BTreeSet;

use hotadd_api::manifest::{ControllerKind, ControllerRecord, Firmware, Manifest, VmConfig};
use hotadd_ova::{Bus, Class, Machine, Place};

/// What every supported ESXi runs (6.5: vmx-13) and knows PVSCSI.
const DEFAULT_VERSION: &str = "vmx-13";
const DEFAULT_GUEST: &str = "otherGuest64";
/// Units of one SCSI controller; 7 is its own.
const SCSI_UNITS: u32 = 16;
const SCSI_SELF: u32 = 7;
const SCSI_CONTROLLERS: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hardware {
    pub(super) cpus: u32,
    /// 0: vSphere decides.
    pub(super) cores_per_socket: u32,
    pub(super) memory_mib: u64,
    pub(super) guest_id: String,
    pub(super) firmware: Firmware,
    pub(super) secure_boot: bool,
    pub(super) version: String,
    pub(super) controllers: Vec<ControllerRecord>,
    /// For each disk of the manifest: index of its controller, and unit.
    pub(super) places: Vec<(usize, u32)>,
}

impl Hardware {
    /// # Errors
    /// What can't be described.
    pub(super) fn of(manifest: &Manifest) -> Result<Self, String> {
        match &manifest.vm_config {
            Some(config) => Self::told(manifest, config),
            None => Self::least(manifest.disks.len()),
        }
    }

    /// What the descriptor of this backup tells.
    pub(super) fn machine(&self, manifest: &Manifest) -> Machine<'static> {
        let mut config = Vec::new();
        if self.firmware == Firmware::Efi {
            config.push(("firmware", "efi"));
            config.extend(self.secure_boot.then_some(("bootOptions.efiSecureBootEnabled", "true")));
        }
        let bus = |controller: &ControllerRecord| Bus { class: class(controller.kind), number: controller.bus };
        Machine {
            name: manifest.vm_name.clone(),
            info: format!("{}, backed up {}", manifest.vm_name, manifest.created),
            guest_id: self.guest_id.clone(),
            version: self.version.clone(),
            cpus: self.cpus,
            cores_per_socket: self.cores_per_socket,
            memory_mib: self.memory_mib,
            controllers: self.controllers.iter().map(bus).collect(),
            places: self.places.iter().map(|&(controller, unit)| Place { controller, unit }).collect(),
            adapters: Vec::new(),
            config,
            extra_config: Vec::new(),
            product: None,
        }
    }

    fn told(manifest: &Manifest, config: &VmConfig) -> Result<Self, String> {
        if config.cpus == 0 || config.memory_mib == 0 {
            return Err("the manifest tells of a VM without CPU or memory".to_owned());
        }
        let mut taken = BTreeSet::new();
        let mut places = Vec::new();
        for disk in &manifest.disks {
            let key = disk.device_key;
            let unit = config.disks.iter().find(|unit| unit.device_key == key);
            let unit = unit.ok_or_else(|| format!("the manifest does not tell where disk {key} is"))?;
            let at = config.controllers.iter().position(|controller| controller.key == unit.controller_key);
            let at =
                at.ok_or_else(|| format!("disk {key} is on controller {}, which is not told", unit.controller_key))?;
            if !has_unit(config.controllers[at].kind, unit.unit) || !taken.insert((at, unit.unit)) {
                return Err(format!("disk {key} is on unit {}, which does not exist or is taken", unit.unit));
            }
            places.push((at, unit.unit));
        }
        let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        Ok(Self {
            cpus: config.cpus,
            cores_per_socket: config.cores_per_socket,
            memory_mib: config.memory_mib,
            guest_id: or(&config.guest_id, DEFAULT_GUEST),
            firmware: config.firmware,
            secure_boot: config.secure_boot,
            version: or(&config.hardware_version, DEFAULT_VERSION),
            controllers: config.controllers.clone(),
            places,
        })
    }

    fn least(disks: usize) -> Result<Self, String> {
        let units = (0..SCSI_UNITS).filter(|unit| *unit != SCSI_SELF);
        let all = (0..SCSI_CONTROLLERS).flat_map(|bus| units.clone().map(move |unit| (bus as usize, unit)));
        let places: Vec<_> = all.take(disks).collect();
        let Some(last) = places.last().filter(|_| places.len() == disks) else {
            return Err(format!("{disks} disks and no word of the manifest where they belong"));
        };
        let controller = |bus: u32| ControllerRecord { key: 1000, kind: ControllerKind::Pvscsi, bus };
        Ok(Self {
            cpus: 1,
            cores_per_socket: 0,
            memory_mib: 1024,
            guest_id: DEFAULT_GUEST.to_owned(),
            firmware: Firmware::Bios,
            secure_boot: false,
            version: DEFAULT_VERSION.to_owned(),
            controllers: (0..SCSI_CONTROLLERS).take(last.0 + 1).map(controller).collect(),
            places,
        })
    }
}

/// vSphere 8.0 configuration maximums.
fn has_unit(kind: ControllerKind, unit: u32) -> bool {
    use ControllerKind::{Buslogic, Ide, Lsilogic, LsilogicSas, Nvme, Pvscsi, Sata};
    match kind {
        Pvscsi => unit != SCSI_SELF && unit < 65,
        Lsilogic | LsilogicSas | Buslogic => unit != SCSI_SELF && unit < SCSI_UNITS,
        Ide => unit < 2,
        Sata => unit < 30,
        Nvme => unit < 64,
    }
}

fn class(kind: ControllerKind) -> Class {
    match kind {
        ControllerKind::Pvscsi => Class::Pvscsi,
        ControllerKind::Lsilogic => Class::Lsilogic,
        ControllerKind::LsilogicSas => Class::LsilogicSas,
        ControllerKind::Buslogic => Class::Buslogic,
        ControllerKind::Ide => Class::Ide,
        ControllerKind::Sata => Class::Sata,
        ControllerKind::Nvme => Class::Nvme,
    }
}
