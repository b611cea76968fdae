//! Adding a controller to the proxy: one reconfigure, and the device list decides what came of it, whoever did it.
use hotadd_vsphere as vim;
use tokio::time::Instant;

use super::{
    ControllerOutcome, Hypervisor as _, ProxyFacts,
    batch::{Ended, change, proves_refusal},
    convert::fault_error,
    vsphere::Vsphere,
};
use crate::{
    error::{Error, Result},
    id::Moref,
    reason,
};

pub(super) async fn add(vsphere: &Vsphere, proxy: &Moref, bus: i32) -> ControllerOutcome {
    let end = Instant::now() + vsphere.deadlines.reconfigure;
    let wish = vim::DeviceChanges::AddController(vim::AddController { bus });
    let ended = change(vsphere, proxy, wish, end).await;
    verdict(bus, vsphere.proxy(proxy).await, ended)
}

fn verdict(bus: i32, facts: Result<ProxyFacts>, ended: Ended) -> ControllerOutcome {
    let (why, refused) = match ended {
        Ended::Success => (Error::new(&reason::ATT_ADD, "the task succeeded, but vCenter lists no new one"), true),
        Ended::Fault(fault) => (fault_error(&fault, &reason::ATT_ADD), proves_refusal(&fault)),
        Ended::Unclear(error) => (error, false),
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => return ControllerOutcome::Unknown(error),
    };
    match facts.controllers.iter().find(|c| c.pvscsi && c.bus == bus) {
        Some(controller) => ControllerOutcome::Added { key: controller.key },
        None if refused && !facts.busy => ControllerOutcome::Refused(why),
        None => ControllerOutcome::Unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::{ControllerFacts, testing::fault};

    fn outcome(there: bool, busy: bool, ended: Ended) -> &'static str {
        let controller = ControllerFacts {
            key: 1001,
            bus: 1,
            kind: "pvscsi".into(),
            pvscsi: true,
            pci_slot: None,
            reserved_unit: 7,
        };
        let facts = ProxyFacts {
            moref: Moref::new("vm-1"),
            instance_uuid: None,
            name: "p".into(),
            home: "[d] p/".into(),
            hardware_version: 19,
            controllers: if there { vec![controller] } else { Vec::new() },
            disks: Vec::new(),
            busy,
        };
        match verdict(1, Ok(facts), ended) {
            ControllerOutcome::Added { .. } => "added",
            ControllerOutcome::Refused(_) => "refused",
            ControllerOutcome::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn the_device_list_decides_and_only_a_refusal_explains_an_absence() {
        let named = |name: &str| Ended::Fault(Box::new(fault(name, vim::FaultKind::Other(name.into()))));
        let lost = || Ended::Unclear(Error::new(&reason::VC_UNKNOWN_OUTCOME, ""));
        assert_eq!(outcome(true, false, lost()), "added");
        assert_eq!(outcome(false, false, lost()), "unknown");
        assert_eq!(outcome(true, false, Ended::Success), "added");
        assert_eq!(outcome(false, false, Ended::Success), "refused");
        assert_eq!(outcome(false, true, Ended::Success), "unknown");
        assert_eq!(outcome(false, false, named("DeviceHotPlugNotSupported")), "refused");
        assert_eq!(outcome(false, true, named("DeviceHotPlugNotSupported")), "unknown");
        assert_eq!(outcome(false, false, named("SomethingNew")), "unknown");
    }
}
