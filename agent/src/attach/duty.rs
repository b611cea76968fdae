//! How a duty begins: every one of this run names the vCenter, the proxy and the login under which it is asked for.
use super::{ProxyVm, now};
use crate::{
    hypervisor::TargetFacts,
    id::{DutyId, SessionId},
    journal::{Duty, DutyKind, DutyPhase},
};

/// A duty about `target`, not yet journalled.
#[must_use]
pub fn begin(vm: &ProxyVm, id: DutyId, session: SessionId, target: &TargetFacts, kind: DutyKind) -> Duty {
    Duty {
        id,
        session,
        vm: target.moref.clone(),
        vm_name: target.name.clone(),
        vm_uuid: target.instance_uuid.clone(),
        vcenter: vm.hypervisor.about().instance_uuid,
        proxy: Some(vm.moref.clone()),
        login: vm.hypervisor.login(),
        since: now(),
        phase: DutyPhase::Intended,
        kind,
    }
}
