//! What the account may do on the objects that the agent works with: for `role check`, beside the port; and, for a job with a ticket, whether
//! it can give back what that would begin.
use std::collections::BTreeSet;

use hotadd_privileges::Scope;
use hotadd_vsphere as vim;
use vim::FaultKind;

use super::{
    On,
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

/// One of them, before it is asked about.
struct Object {
    scope: Scope,
    name: String,
    /// `None`: it is not shown to the account.
    reference: Option<vim::MoRef>,
}

impl Object {
    fn new(scope: Scope, name: impl Into<String>, reference: vim::MoRef) -> Self {
        Self { scope, name: name.into(), reference: Some(reference) }
    }
}

impl Vsphere {
    /// vCenter itself, the datacenters, the targets, the proxy, and the datastores of the targets.
    ///
    /// # Errors
    /// Those of vCenter; an object that may not be read is no error: nothing is granted on it.
    pub async fn granted(&self, proxy: &Moref, targets: &[Moref], asked: &[&str]) -> Result<Vec<Granted>> {
        let mut found = Vec::new();
        for object in self.objects(proxy, targets).await? {
            let privileges = match &object.reference {
                Some(reference) => self.client.granted(reference, asked).await,
                None => Ok(BTreeSet::new()),
            };
            let privileges = match privileges {
                Err(e) if may_not_read(&e) => BTreeSet::new(),
                other => other.map_err(error)?,
            };
            let moref = object.reference.as_ref().map_or_else(|| Moref::new("not shown"), moref);
            found.push(Granted { scope: object.scope, name: object.name, moref, privileges });
        }
        Ok(found)
    }

    /// Of the account of the configuration, whoever acts. What it may not read it may not change either.
    pub(super) async fn account_holds(&self, on: On<'_>, privilege: &str) -> Result<bool> {
        let reference = match on {
            On::Vcenter => self.client.root_folder(),
            On::Vm(vm) => vm_ref(vm),
        };
        match self.client.granted(&reference, &[privilege]).await {
            Ok(granted) => Ok(granted.contains(privilege)),
            Err(e) if may_not_read(&e) => Ok(false),
            Err(e) => Err(error(e)),
        }
    }

    async fn objects(&self, proxy: &Moref, targets: &[Moref]) -> Result<Vec<Object>> {
        let mut objects = vec![Object::new(Scope::Vcenter, "vCenter", self.client.root_folder())];
        let (mut centers, mut stores) = (BTreeSet::new(), BTreeSet::new());
        let each = targets.iter().map(|target| (Scope::Target, target));
        for (scope, vm) in each.chain([(Scope::Proxy, proxy)]) {
            let reference = vm_ref(vm);
            let info = self.client.vm(&reference).await.map_err(error)?;
            centers.insert(self.datacenter(&reference).await?);
            if scope == Scope::Target {
                stores.extend(info.disks().filter_map(|disk| disk.backing.datastore.clone()));
            }
            objects.push(Object::new(scope, info.name, reference));
        }
        for reference in centers {
            let name = reference.as_ref().map_or("of a VM above", |center| center.value.as_str());
            objects.push(Object { scope: Scope::Everywhere, name: format!("datacenter {name}"), reference });
        }
        for store in stores {
            let name = self.client.datastore(&store).await.map_or_else(|_| store.value.clone(), |info| info.name);
            objects.push(Object::new(Scope::Datastore, format!("datastore {name}"), store));
        }
        Ok(objects)
    }

    /// `None`: nothing above the VM is shown.
    async fn datacenter(&self, vm: &vim::MoRef) -> Result<Option<vim::MoRef>> {
        match self.client.datacenter_of(vm).await {
            Err(e) if may_not_read(&e) => Ok(None),
            other => other.map_err(error),
        }
    }
}

fn may_not_read(e: &vim::Error) -> bool {
    matches!(e.fault().map(|fault| &fault.kind), Some(FaultKind::NoPermission { .. }))
}
