//! How a duty begins: every one of this run names the vCenter, the proxy and the login under which it is asked for.
use super::{Actor, ProxyVm, now};
use crate::{
    hypervisor::TargetFacts,
    id::DutyId,
    journal::{Duty, DutyKind, DutyPhase},
};

/// A duty about `target`, not yet journalled.
#[must_use]
pub fn begin(vm: &ProxyVm, id: DutyId, actor: &Actor, target: &TargetFacts, kind: DutyKind) -> Duty {
    Duty {
        id,
        session: actor.session(),
        vm: target.moref.clone(),
        vm_name: target.name.clone(),
        vm_uuid: target.instance_uuid.clone(),
        vcenter: vm.hypervisor.about().instance_uuid,
        proxy: Some(vm.moref.clone()),
        login: actor.hypervisor().login(),
        ticket: actor.has_ticket(),
        since: now(),
        phase: DutyPhase::Intended,
        kind,
    }
}
