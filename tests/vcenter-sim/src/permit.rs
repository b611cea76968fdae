//! Who may do what: permissions of the accounts on inventory objects, and the privilege of each method.
//!
//! A permission on an object replaces what its parents hand down (vSphere API 8.0, AuthorizationManager). A VM inherits from its folder
//! only; pools are left out. vCenter adds System.Anonymous, System.View and System.Read to every role (AddAuthorizationRole); a role without any
//! privilege stands for No access. The privileges of the methods are those of the API reference and of pyvmomi's type table; what depends on the
//! arguments is in ops/work.rs and ops/reconfig.rs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::collector::moref;
use crate::fault::{Fault, Res};
use crate::render;
use crate::state::{DC, ROOT, State};
use crate::value::{MoRef, Obj};
use crate::xml::Node;

const EVERY_ROLE: [&str; 3] = ["System.Anonymous", "System.View", "System.Read"];

/// A role on an object.
#[derive(Clone, Debug)]
pub(crate) struct Permission {
    on: String,
    privileges: BTreeSet<String>,
    propagate: bool,
}

/// Of an account; None: an administrator.
pub(crate) type Permissions = Option<Vec<Permission>>;

/// These privileges on everything.
pub(crate) fn everywhere(privileges: &[String]) -> Permissions {
    Some(vec![Permission::new(ROOT.into(), privileges, true)])
}

impl Permission {
    fn new(on: String, privileges: &[String], propagate: bool) -> Permission {
        let mut privileges: BTreeSet<String> = privileges.iter().cloned().collect();
        if !privileges.is_empty() {
            privileges.extend(EVERY_ROLE.map(str::to_owned));
        }
        Permission { on, privileges, propagate }
    }
}

/// `[{on, privileges, propagate}]`, or null for an administrator.
pub(crate) fn parse(s: &State, v: &Value) -> Result<Permissions, String> {
    let Some(list) = v.as_array() else { return Ok(None) };
    let one = |v: &Value| {
        let on = object(s, v["on"].as_str().ok_or("on missing")?)?;
        let ids = v["privileges"].as_array().ok_or("privileges missing")?;
        let ids: Vec<String> = ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        Ok(Permission::new(on, &ids, v["propagate"].as_bool().unwrap_or(true)))
    };
    list.iter().map(one).collect::<Result<Vec<_>, String>>().map(Some)
}

/// An object by what the control socket calls it.
fn object(s: &State, name: &str) -> Result<String, String> {
    let known = match name {
        "root" => Some(ROOT.to_owned()),
        "datacenter" => Some(DC.to_owned()),
        _ => s.find_vm(name).or_else(|| s.datastore(name).map(|d| d.id.clone())),
    };
    known.ok_or_else(|| format!("no object '{name}'"))
}

/// Where the privileges of an object are looked up: on itself, or on what it belongs to.
fn entity(s: &State, object: &MoRef) -> MoRef {
    let root = || MoRef::new("Folder", ROOT);
    match object.ty.as_str() {
        "VirtualMachineSnapshot" => s.snapshot(&object.id).map_or_else(|_| root(), |(vm, _)| vm.moref()),
        "Task" => s.task(&object.id).map_or_else(|_| root(), |task| task.entity.clone()),
        "HttpNfcLease" => crate::export::vm_of(s, &object.id).unwrap_or_else(root),
        "VirtualMachine"
        | "Datastore"
        | "HostSystem"
        | "ComputeResource"
        | "ClusterComputeResource"
        | "ResourcePool"
        | "Datacenter"
        | "Folder" => object.clone(),
        _ => root(),
    }
}

/// Whether the account holds the privilege on the object.
pub(crate) fn may(s: &State, user: &str, object: &MoRef, privilege: &str) -> bool {
    let permissions = match s.accounts.get(user) {
        Some(account) => &account.permissions,
        None => &s.knobs.permissions,
    };
    let Some(permissions) = permissions else { return true };
    let mut at = entity(s, object);
    let mut inherited = false;
    loop {
        if let Some(found) = permissions.iter().find(|p| p.on == at.id && (p.propagate || !inherited)) {
            return found.privileges.contains(privilege);
        }
        match render::parent(s, &at) {
            Some(parent) => at = parent,
            None => return false,
        }
        inherited = true;
    }
}

pub(crate) fn need(s: &State, user: &str, object: MoRef, privilege: &str) -> Res<()> {
    if may(s, user, &object, privilege) { Ok(()) } else { Err(Fault::no_permission(object, privilege)) }
}

/// Another account than the one of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub password: String,
    pub permissions: Permissions,
}

pub(crate) type Accounts = BTreeMap<String, Account>;

/// What a method needs before its arguments are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// Nothing, not even a session.
    Open,
    /// On vCenter itself.
    Root(&'static str),
    /// On the VM of the object.
    Vm(&'static str),
    /// Nothing of its own: what it reads or does is looked at object by object.
    ByObject,
    /// In ops/work.rs.
    Work,
    /// In ops/guard.rs, with a fault that speaks of licences.
    Guard,
}

const METHODS: &[(&str, Rule)] = &[
    ("RetrieveServiceContent", Rule::Open),
    ("Login", Rule::Open),
    ("CurrentTime", Rule::Open),
    ("CloneSession", Rule::Open),
    ("AcquireCloneTicket", Rule::Root("System.View")),
    ("Logout", Rule::ByObject),
    ("SessionIsActive", Rule::Root("Sessions.ValidateSession")),
    ("TerminateSession", Rule::Root("Sessions.TerminateSession")),
    ("FindAllByUuid", Rule::Root("System.View")),
    ("FindByUuid", Rule::Root("System.View")),
    ("FindByInventoryPath", Rule::Root("System.View")),
    ("CreateContainerView", Rule::Root("System.View")),
    ("DestroyView", Rule::Root("System.View")),
    ("CreateFilter", Rule::ByObject),
    ("RetrieveProperties", Rule::ByObject),
    ("CheckForUpdates", Rule::ByObject),
    ("WaitForUpdates", Rule::ByObject),
    ("CancelWaitForUpdates", Rule::ByObject),
    ("WaitForUpdatesEx", Rule::ByObject),
    ("RetrievePropertiesEx", Rule::ByObject),
    ("ContinueRetrievePropertiesEx", Rule::ByObject),
    ("CancelRetrievePropertiesEx", Rule::ByObject),
    ("CreatePropertyCollector", Rule::ByObject),
    ("DestroyPropertyCollector", Rule::ByObject),
    ("DestroyPropertyFilter", Rule::ByObject),
    ("QueryEvents", Rule::Root("System.View")),
    ("HasPrivilegeOnEntities", Rule::Root("System.View")),
    ("DisableMethods", Rule::Guard),
    ("EnableMethods", Rule::Guard),
    ("QueryChangedDiskAreas", Rule::Vm("VirtualMachine.Provisioning.DiskRandomRead")),
    ("ExportSnapshot", Rule::Vm("VApp.Export")),
    ("HttpNfcLeaseComplete", Rule::ByObject),
    ("HttpNfcLeaseAbort", Rule::ByObject),
    ("HttpNfcLeaseProgress", Rule::ByObject),
    // Of somebody else's task: Global.CancelTask. The agent cancels its own only.
    ("CancelTask", Rule::ByObject),
    ("Destroy_Task", Rule::Work),
    ("ReconfigVM_Task", Rule::Work),
    ("CreateSnapshot_Task", Rule::Work),
    ("CreateSnapshotEx_Task", Rule::Work),
    ("RemoveAllSnapshots_Task", Rule::Work),
    ("ConsolidateVMDisks_Task", Rule::Work),
    ("PowerOnVM_Task", Rule::Work),
    ("PowerOffVM_Task", Rule::Work),
    ("RelocateVM_Task", Rule::Work),
    ("MigrateVM_Task", Rule::Work),
    ("CloneVM_Task", Rule::Work),
    ("RevertToCurrentSnapshot_Task", Rule::Work),
    ("UnregisterVM", Rule::Work),
    ("MarkAsTemplate", Rule::Work),
    ("RemoveSnapshot_Task", Rule::Work),
    ("RevertToSnapshot_Task", Rule::Work),
];

/// Refuses a call that the account may not make, before anything of it is done.
pub(crate) fn check(s: &State, user: &str, this: &MoRef, method: &str) -> Res<()> {
    match METHODS.iter().find(|(name, _)| *name == method).map(|(_, rule)| *rule) {
        Some(Rule::Root(privilege)) => need(s, user, MoRef::new("Folder", ROOT), privilege),
        Some(Rule::Vm(privilege)) => need(s, user, entity(s, this), privilege),
        Some(_) => Ok(()),
        // A method that nobody thought about is nobody's.
        None => Err(Fault::no_permission(this.clone(), "(no rule of the simulator)")),
    }
}

/// AuthorizationManager.HasPrivilegeOnEntities: of the session with that key; of one that there is not, nothing is granted.
pub(crate) fn has(s: &State, asker: &str, body: &Node) -> Res<Vec<Obj>> {
    let key = body.str("sessionId").unwrap_or("").trim();
    let user = s.sessions.values().find(|session| session.key == key).map(|session| session.user.as_str());
    let ids: Vec<&str> = body.all("privId").map(|p| p.text.trim()).collect();
    let one = |object: MoRef| {
        if !render::exists(s, &object) {
            return Err(Fault::gone(&object));
        }
        need(s, asker, object.clone(), "System.Read")?;
        let told = |id: &&str| {
            let granted = user.is_some_and(|user| may(s, user, &object, id));
            Obj::new("PrivilegeAvailability").with("privId", *id).with("isGranted", granted)
        };
        let list: Vec<Obj> = ids.iter().map(told).collect();
        Ok(Obj::new("EntityPrivilege").with("entity", object.clone()).with("privAvailability", list))
    };
    body.all("entity").filter_map(moref).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::SCHEMA;

    #[test]
    fn every_method_has_one_rule() {
        let mut known: Vec<&str> = SCHEMA.methods().collect();
        let mut ruled: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        known.dedup();
        ruled.sort_unstable();
        assert_eq!(ruled, known);
    }
}
