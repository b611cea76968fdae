//! What may be believed of a VM's facts, and which VM this machine is. Pure.
use hotadd_vsphere as vim;

use super::convert::fault_error;
use crate::{
    discover::HostIdentity,
    error::{Error, Result},
    reason,
};

/// Refuses facts that would be read as "nothing is there" although vCenter only could not tell: what was refused, what
/// has to be set and is not, and everything of a VM whose host vCenter has lost.
pub(super) fn believable(vm: &vim::VmInfo, required: &[&str]) -> Result<()> {
    let told = Told { missing: &vm.missing, connection: vm.connection_state.as_deref(), name: &vm.name };
    told.believable(required, |path| vm.gave(path))
}

struct Told<'a> {
    missing: &'a [vim::MissingProperty],
    connection: Option<&'a str>,
    name: &'a str,
}

impl Told<'_> {
    fn believable(&self, required: &[&str], gave: impl Fn(&str) -> bool) -> Result<()> {
        const DECIDE: [&str; 4] = ["recentTask", "snapshot", "runtime.connectionState", "runtime.consolidationNeeded"];
        // A refusal may name a parent of the path that was asked for.
        let covers = |refused: &str, path: &str| {
            path.strip_prefix(refused).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let matters = |refused: &str| DECIDE.iter().chain(required).any(|path| covers(refused, path));
        if let Some(refused) = self.missing.iter().find(|missing| matters(&missing.path)) {
            return Err(fault_error(&refused.fault, &reason::VC_STALE));
        }
        if let Some(state) = self.connection.filter(|state| *state != "connected") {
            return Err(Error::new(&reason::VC_STALE, format!("{} is {state}", self.name)));
        }
        match required.iter().find(|path| !gave(path)) {
            Some(path) => Err(Error::new(&reason::VC_STALE, format!("{}: no {path} was given", self.name))),
            None => Ok(()),
        }
    }
}

/// UUIDs under which vCenter may know this VM, best first: the serial number is in vCenter's byte order on every
/// hardware version; product_uuid has its first three fields swapped on most VMs from version 13, but not on all.
pub(super) fn uuid_candidates(host: &HostIdentity) -> Vec<String> {
    let serial = host
        .serial
        .as_deref()
        .and_then(|text| text.strip_prefix("VMware-"))
        .map(|text| text.chars().filter(char::is_ascii_hexdigit).collect::<String>());
    let from_serial = serial.and_then(|hex| uuid::Uuid::parse_str(&hex).ok());
    let as_is = host.uuid.as_deref().and_then(|text| uuid::Uuid::parse_str(text).ok());
    let swapped = as_is.map(|uuid| uuid::Uuid::from_bytes(uuid.to_bytes_le()));
    let mut all: Vec<String> = Vec::new();
    for uuid in [from_serial, as_is, swapped].into_iter().flatten() {
        let text = uuid.to_string();
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// `None`: one side knows none.
pub(super) fn macs_agree(vm: &vim::VmInfo, host: &HostIdentity) -> Option<bool> {
    let told = vm.devices.iter().filter_map(|device| match device {
        vim::Device::Nic { mac: Some(mac), .. } => Some(mac.as_str()),
        _ => None,
    });
    any_common(told, &host.macs)
}

fn any_common<'a>(told: impl Iterator<Item = &'a str>, seen: &[String]) -> Option<bool> {
    let told: Vec<String> = told.map(str::to_lowercase).collect();
    (!told.is_empty() && !seen.is_empty()).then(|| told.iter().any(|mac| seen.contains(mac)))
}

#[cfg(test)]
mod tests {
    use vim::FaultKind;

    use super::{
        super::{testing::fault, vsphere::DEVICES},
        *,
    };

    #[test]
    fn what_could_not_be_read_is_never_taken_for_empty() {
        let refused = |path: &str| {
            vec![vim::MissingProperty {
                path: path.into(),
                fault: fault(
                    "NoPermission",
                    FaultKind::NoPermission { object: None, privilege: Some("System.Read".into()) },
                ),
            }]
        };
        let code = |missing: &[vim::MissingProperty], connection, gave: bool| {
            let told = Told { missing, connection, name: "p" };
            told.believable(&[DEVICES], |_| gave).map_err(|e| e.reason().code)
        };
        assert_eq!(code(&[], Some("connected"), true), Ok(()));
        assert_eq!(code(&[], None, true), Ok(()));
        assert_eq!(code(&refused("guest.hostName"), Some("connected"), true), Ok(()));
        assert_eq!(code(&[], Some("connected"), false), Err("HA-VC-009"), "unset devices are no empty list");
        assert_eq!(code(&[], Some("disconnected"), true), Err("HA-VC-009"));
        for path in [DEVICES, "config.hardware", "config", "recentTask", "snapshot"] {
            assert_eq!(code(&refused(path), Some("connected"), true), Err("HA-VC-004"), "{path}");
        }
    }

    #[test]
    fn macs_decide_where_both_sides_know_some() {
        let seen = ["00:50:56:aa:00:01".to_owned()];
        assert_eq!(any_common(["00:50:56:AA:00:01"].into_iter(), &seen), Some(true));
        assert_eq!(any_common(["00:50:56:aa:00:02"].into_iter(), &seen), Some(false));
        assert_eq!(any_common([].into_iter(), &seen), None);
        assert_eq!(any_common(["00:50:56:aa:00:02"].into_iter(), &[]), None);
    }

    #[test]
    fn both_byte_orders_are_tried_after_the_serial() {
        let host = HostIdentity {
            vendor: "VMware, Inc.".into(),
            serial: Some("VMware-42 1c 82 7e 09 15 aa f2-b1 54 1f ad 4a 62 97 fb".into()),
            uuid: Some("8ac43342-7478-0792-f6c6-131b895335ba".into()),
            macs: Vec::new(),
        };
        assert_eq!(
            uuid_candidates(&host),
            [
                "421c827e-0915-aaf2-b154-1fad4a6297fb",
                "8ac43342-7478-0792-f6c6-131b895335ba",
                "4233c48a-7874-9207-f6c6-131b895335ba"
            ]
        );
        assert!(uuid_candidates(&HostIdentity::default()).is_empty());
    }
}
