//! The VM's hardware as the agent told it, for the manifest. Kept only if it gives every disk of the backup a place: an
//! export believes it. Pure.
use hotadd_api::{
    manifest::{AdapterRecord, ControllerKind, ControllerRecord, DiskRecord, Firmware, Nvram, UnitRecord, VmConfig},
    v1::{self, ControllerType},
};

/// # Errors
/// Why it is no description of a VM with these disks.
pub(super) fn described(told: &v1::VmConfig, disks: &[DiskRecord]) -> Result<VmConfig, String> {
    if let Some(why) = &told.unknown {
        return Err(format!("{} {}", why.code, why.message));
    }
    if told.cpus == 0 || told.memory_mib == 0 {
        return Err("the agent tells of a VM without CPU or memory".to_owned());
    }
    let controllers: Vec<ControllerRecord> = told.controllers.iter().filter_map(controller).collect();
    let unit = |disk: &v1::VmDisk| UnitRecord {
        device_key: disk.device_key,
        controller_key: disk.controller_key,
        unit: disk.unit,
    };
    let units: Vec<UnitRecord> = told.disks.iter().map(unit).collect();
    let has_place = |disk: &DiskRecord| {
        let of_it = |unit: &&UnitRecord| unit.device_key == disk.device_key;
        units.iter().find(of_it).is_some_and(|unit| controllers.iter().any(|c| c.key == unit.controller_key))
    };
    if let Some(disk) = disks.iter().find(|disk| !has_place(disk)) {
        return Err(format!("disk {} is on no controller of a known kind", disk.device_key));
    }
    let adapter = |a: &v1::VmAdapter| AdapterRecord { kind: a.r#type.clone(), network: a.network.clone() };
    Ok(VmConfig {
        cpus: told.cpus,
        cores_per_socket: told.cores_per_socket,
        memory_mib: told.memory_mib,
        guest_id: told.guest_id.clone(),
        firmware: if told.firmware() == v1::Firmware::Efi { Firmware::Efi } else { Firmware::Bios },
        secure_boot: told.secure_boot,
        nvram: Nvram::NotIncluded,
        hardware_version: told.hardware_version.clone(),
        controllers,
        disks: units,
        adapters: told.adapters.iter().map(adapter).collect(),
    })
}

fn controller(told: &v1::VmController) -> Option<ControllerRecord> {
    let kind = match told.r#type() {
        ControllerType::Unspecified => return None,
        ControllerType::Pvscsi => ControllerKind::Pvscsi,
        ControllerType::Lsilogic => ControllerKind::Lsilogic,
        ControllerType::LsilogicSas => ControllerKind::LsilogicSas,
        ControllerType::Buslogic => ControllerKind::Buslogic,
        ControllerType::Ide => ControllerKind::Ide,
        ControllerType::Sata => ControllerKind::Sata,
        ControllerType::Nvme => ControllerKind::Nvme,
    };
    Some(ControllerRecord { key: told.key, kind, bus: told.bus })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Stored, testing::Backups};

    fn told() -> v1::VmConfig {
        let controller = |key, kind: ControllerType, bus| v1::VmController { key, r#type: kind.into(), bus };
        v1::VmConfig {
            cpus: 4,
            cores_per_socket: 2,
            memory_mib: 8192,
            guest_id: "debian12_64Guest".into(),
            hardware_version: "vmx-19".into(),
            firmware: v1::Firmware::Efi.into(),
            secure_boot: true,
            controllers: vec![
                controller(1000, ControllerType::Pvscsi, 0),
                controller(9000, ControllerType::Unspecified, 1),
            ],
            disks: vec![
                v1::VmDisk { device_key: 2000, controller_key: 1000, unit: 3 },
                v1::VmDisk { device_key: 2001, controller_key: 9000, unit: 0 },
            ],
            adapters: vec![v1::VmAdapter { r#type: "VirtualVmxnet3".into(), network: "VM Network".into() }],
            unknown: None,
        }
    }

    fn disk(device_key: i32) -> DiskRecord {
        let backups = Backups::full();
        let manifest = Stored::open(&backups.manifest("full")).unwrap().manifest().unwrap();
        DiskRecord { device_key, ..manifest.disks[0].clone() }
    }

    #[test]
    fn what_was_told_is_kept() {
        let kept = described(&told(), &[disk(2000)]).unwrap();
        assert_eq!((kept.cpus, kept.cores_per_socket, kept.memory_mib), (4, 2, 8192));
        assert_eq!((kept.firmware, kept.secure_boot, kept.nvram), (Firmware::Efi, true, Nvram::NotIncluded));
        let expected = ControllerRecord { key: 1000, kind: ControllerKind::Pvscsi, bus: 0 };
        assert_eq!(kept.controllers, [expected]);
        assert_eq!(kept.disks[0], UnitRecord { device_key: 2000, controller_key: 1000, unit: 3 });
        assert_eq!(kept.adapters[0].network, "VM Network");
        let text = serde_json::to_string(&kept).unwrap();
        assert!(text.contains(r#""nvram":"not included""#), "{text}");
    }

    #[test]
    fn what_an_export_could_not_use_is_not_kept_and_said() {
        let reason = v1::Reason { code: "HA-VC-004".into(), message: "no".into(), ..v1::Reason::default() };
        let unknown = v1::VmConfig { unknown: Some(reason), ..v1::VmConfig::default() };
        let cases = [
            (unknown, 2000, "HA-VC-004 no"),
            (v1::VmConfig { cpus: 0, ..told() }, 2000, "without CPU"),
            (told(), 2001, "disk 2001 is on no controller"),
            (told(), 2002, "disk 2002 is on no controller"),
        ];
        for (told, key, expected) in cases {
            let why = described(&told, &[disk(key)]).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }
}
