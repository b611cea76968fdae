//! Disabling and enabling methods of a VM over hotadd-vsphere. Source: AuthorizationManager.DisableMethods of the internal
//! namespace (urn:internalvim25), as VDDK's PrepareForAccess uses it.
use std::collections::BTreeSet;

use hotadd_vsphere as vim;
use vim::{ErrorKind, FaultKind};

use super::{
    Guarding, batch,
    convert::{error, fault_error, vm_ref},
    vsphere::Vsphere,
};
use crate::{
    error::{Error, Result},
    id::TargetId,
    reason,
};

impl Vsphere {
    pub(super) async fn guard(&self, vm: &TargetId, methods: &[&str], source: &str, why: &str) -> Guarding {
        match self.acting.disable_methods(&vm_ref(&vm.moref), methods, why, source).await {
            Ok(()) => Guarding::Disabled,
            Err(e) if speaks_of_licences(&e) => Guarding::Refused(self.unlicensed(&e, "Global.DisableMethods")),
            Err(e) => match e.fault().map(|fault| &fault.kind) {
                Some(FaultKind::MethodAlreadyDisabledFault) => Guarding::Others(error(e)),
                None if *e.kind() == ErrorKind::Unsupported => Guarding::Refused(error(e)),
                Some(_) if e.fault().is_some_and(batch::proves_refusal) => Guarding::Refused(error(e)),
                _ => Guarding::Unknown(error(e)),
            },
        }
    }

    pub(super) async fn unguard(&self, vm: &TargetId, methods: &[String], source: &str) -> Result<()> {
        let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
        match self.client.enable_methods(&vm_ref(&vm.moref), &methods, source).await {
            // A VM that is gone has no methods, and a server without this call has disabled none.
            Err(e) if e.is_not_found() || is_unknown(&e) => Ok(()),
            Err(e) if speaks_of_licences(&e) => Err(self.unlicensed(&e, "Global.EnableMethods")),
            other => other.map_err(error),
        }
    }

    pub(super) async fn disabled_now(&self, vm: &TargetId) -> Result<BTreeSet<String>> {
        let info = match self.client.vm(&vm_ref(&vm.moref)).await {
            Err(e) if e.is_not_found() => return Ok(BTreeSet::new()),
            other => other.map_err(error)?,
        };
        // An empty list may come as none; a refused one is no empty one. vCenter tells it whatever became of the VM's host.
        match info.missing.iter().find(|missing| missing.path == "disabledMethod") {
            Some(refused) => Err(fault_error(&refused.fault, &reason::VC_STALE)),
            None => Ok(info.disabled_methods.into_iter().collect()),
        }
    }

    /// vCenter names neither the privilege nor the object.
    fn unlicensed(&self, e: &vim::Error, privilege: &str) -> Error {
        Error::new(&reason::VC_PRIVILEGE, format!("{privilege} on {}; vCenter says: {e}", self.client.root_folder()))
    }
}

/// What an account without the privilege at vCenter level is told.
fn speaks_of_licences(e: &vim::Error) -> bool {
    matches!(
        e.fault().map(|fault| &fault.kind),
        Some(FaultKind::NotEnoughLicenses | FaultKind::RestrictedByAdministrator)
    )
}

fn is_unknown(e: &vim::Error) -> bool {
    *e.kind() == ErrorKind::Unsupported
        || matches!(e.fault().map(|fault| &fault.kind), Some(FaultKind::MethodNotFound | FaultKind::NotImplemented))
}
