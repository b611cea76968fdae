//! What the account may do on the objects that the agent works with: for `role check` only, so beside the port.
use std::collections::BTreeSet;

use hotadd_privileges::Scope;
use hotadd_vsphere as vim;
use vim::FaultKind;

use super::{
    convert::{error, moref, vm_ref},
    vsphere::Vsphere,
};
use crate::{error::Result, id::Moref};

/// One object, and what is granted on it.
#[derive(Debug, Clone)]
pub struct Granted {
    pub scope: Scope,
    pub name: String,
    pub moref: Moref,
    /// Of those that were asked about.
    pub privileges: BTreeSet<String>,
}

impl Vsphere {
    /// vCenter itself, the datacenters, the targets, the proxy, and the datastores of the targets.
    ///
    /// # Errors
    /// Those of vCenter; an object that may not be read is no error: nothing is granted on it.
    pub async fn granted(&self, proxy: &Moref, targets: &[Moref], asked: &[&str]) -> Result<Vec<Granted>> {
        let mut objects = vec![(Scope::Vcenter, "vCenter".to_owned(), self.client.root_folder())];
        let (mut centers, mut stores) = (BTreeSet::new(), BTreeSet::new());
        let mut vms = Vec::new();
        let each = targets.iter().map(|target| (Scope::Target, target));
        for (scope, vm) in each.chain([(Scope::Proxy, proxy)]) {
            let reference = vm_ref(vm);
            let info = self.client.vm(&reference).await.map_err(error)?;
            centers.extend(self.client.datacenter_of(&reference).await.map_err(error)?);
            if scope == Scope::Target {
                stores.extend(info.disks().filter_map(|disk| disk.backing.datastore.clone()));
            }
            vms.push((scope, info.name, reference));
        }
        objects.extend(
            centers.into_iter().map(|center| (Scope::Everywhere, format!("datacenter {}", center.value), center)),
        );
        objects.append(&mut vms);
        for store in stores {
            let name =
                self.client.datastore(&store).await.map(|info| info.name).unwrap_or_else(|_| store.value.clone());
            objects.push((Scope::Datastore, format!("datastore {name}"), store));
        }
        let mut found = Vec::new();
        for (scope, name, object) in objects {
            let privileges = match self.client.granted(&object, asked).await {
                Err(e) if may_not_read(&e) => BTreeSet::new(),
                other => other.map_err(error)?,
            };
            found.push(Granted { scope, name, moref: moref(&object), privileges });
        }
        Ok(found)
    }
}

fn may_not_read(e: &vim::Error) -> bool {
    matches!(e.fault().map(|fault| &fault.kind), Some(FaultKind::NoPermission { .. }))
}
