//! Properties of managed objects: path navigation here, the objects themselves in the submodules.

mod entity;
mod layout;
mod service;
mod vm;

use crate::fault::{Fault, Res};
use crate::schema::{SCHEMA, Ver};
use crate::state::State;
use crate::value::{MoRef, Obj, Val};

pub(crate) use entity::compute_ref;
pub(crate) use service::{service_content, session_info};

/// Who asks, in which version.
#[derive(Clone, Debug)]
pub(crate) struct Ctx {
    pub session: Option<String>,
    /// Whose session it is.
    pub user: String,
    pub ver: Ver,
    /// How the caller named this server: `host:port`.
    pub host: String,
}

struct Segment<'a> {
    name: &'a str,
    key: Option<&'a str>,
}

fn segments(path: &str) -> Option<Vec<Segment<'_>>> {
    let (mut out, mut rest) = (Vec::new(), path);
    loop {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let name = &rest[..end];
        if name.is_empty() {
            return None;
        }
        rest = &rest[end..];
        let mut key = None;
        if let Some(r) = rest.strip_prefix('[') {
            let close = r.find(']')?;
            key = Some(r[..close].trim_matches('"'));
            rest = &r[close + 1..];
        }
        out.push(Segment { name, key });
        match rest.strip_prefix('.') {
            Some(r) => rest = r,
            None if rest.is_empty() => return Some(out),
            None => return None,
        }
    }
}

/// The value of a property path; Ok(None) is "known but unset". The value carries its declared type.
pub(crate) fn property(s: &State, r: &MoRef, path: &str, ctx: &Ctx) -> Res<Option<Val>> {
    let invalid = || Fault::new("InvalidProperty", format!("A property name '{path}' is not valid")).with("name", path);
    if !exists(s, r) {
        return Err(Fault::gone(r));
    }
    let segs = segments(path).ok_or_else(invalid)?;
    let (mut ty, mut val): (&'static str, Option<Val>) = ("", None);
    let mut owner: String = r.ty.clone();
    for (i, seg) in segs.iter().enumerate() {
        let p = SCHEMA.prop(&owner, seg.name).filter(|p| p.since <= ctx.ver);
        let Some(p) = p else {
            // Below a type that the table does not hold nothing is ever set.
            if i > 0 && !SCHEMA.is_data(&owner) && !is_leaf(&owner) {
                return Ok(None);
            }
            return Err(invalid());
        };
        val = if i == 0 {
            top(s, r, seg.name, ctx)?
        } else {
            match val.take() {
                Some(Val::Obj(o)) => o.get(seg.name).cloned(),
                _ => None,
            }
        };
        ty = p.ty;
        if let Some(key) = seg.key {
            let item = ty.strip_suffix("[]").ok_or_else(invalid)?;
            ty = item;
            val = match val.take() {
                Some(Val::List(l)) => l.into_iter().find(|v| has_key(v, key)),
                _ => None,
            };
        }
        owner = match &val {
            Some(Val::Obj(o)) => o.ty.to_owned(),
            _ => ty.to_owned(),
        };
    }
    Ok(val.map(|v| if ty == "anyType" { v } else { Val::Typed(ty, Box::new(v)) }))
}

fn is_leaf(ty: &str) -> bool {
    ty.ends_with("[]") || ty.starts_with("ref:") || ty.starts_with(char::is_lowercase) || SCHEMA.is_enum(ty)
}

fn has_key(v: &Val, key: &str) -> bool {
    let Val::Obj(o) = v else { return false };
    match o.get("key") {
        Some(Val::Int(i)) => i.to_string() == key,
        Some(Val::Str(s)) => s == key,
        _ => false,
    }
}

/// Does the object exist (and have the type that the reference says)?
pub(crate) fn exists(s: &State, r: &MoRef) -> bool {
    use crate::state::{DC, DC2, DS_FOLDER, HOST_FOLDER, NET_FOLDER, ROOT, VM_FOLDER, VM_FOLDER2};
    let id = r.id.as_str();
    match r.ty.as_str() {
        "VirtualMachine" => s.vms.contains_key(id),
        "VirtualMachineSnapshot" => s.snapshot(id).is_ok(),
        "Task" => s.task(id).is_ok(),
        "HttpNfcLease" => s.leases.contains_key(id),
        "Datastore" => s.datastores.iter().any(|d| d.id == id),
        "HostSystem" => s.hosts.iter().any(|h| h.id == id),
        "ComputeResource" | "ClusterComputeResource" => s.hosts.iter().any(|h| entity::compute_ref(h) == *r),
        "ResourcePool" => s.hosts.iter().any(|h| entity::pool_id(h) == id),
        "Datacenter" => [DC, DC2].contains(&id),
        "Folder" => [ROOT, VM_FOLDER, VM_FOLDER2, HOST_FOLDER, DS_FOLDER, NET_FOLDER].contains(&id),
        "ContainerView" => s.views.contains_key(id),
        "ServiceInstance" => id == "ServiceInstance",
        "PropertyCollector" => id == "propertyCollector" || s.pcs.contains_key(id),
        "PropertyFilter" => s.pcs.values().any(|p| p.filters.iter().any(|f| f.id == id)),
        "SessionManager" | "SearchIndex" | "ViewManager" | "TaskManager" | "AuthorizationManager" | "EventManager" => {
            id == r.ty
        }
        _ => false,
    }
}

/// A first-level property of an object.
fn top(s: &State, r: &MoRef, name: &str, ctx: &Ctx) -> Res<Option<Val>> {
    match r.ty.as_str() {
        "VirtualMachine" => Ok(vm::top(s, s.vm(&r.id)?, name)),
        "VirtualMachineSnapshot" => {
            let (vm, snap) = s.snapshot(&r.id)?;
            Ok(vm::snapshot_top(s, vm, snap, name))
        }
        "Task" => Ok((name == "info").then(|| Val::Obj(service::task_info(s.task(&r.id).ok())))),
        "HttpNfcLease" => Ok(crate::export::top(s, &r.id, name, ctx)),
        "Datastore"
        | "HostSystem"
        | "ComputeResource"
        | "ClusterComputeResource"
        | "ResourcePool"
        | "Datacenter"
        | "Folder" => Ok(entity::top(s, r, name)),
        _ => Ok(service::top(s, r, name, ctx)),
    }
}

/// Objects of the inventory below a container, for container views and paths.
pub(crate) fn children(s: &State, id: &str) -> Vec<MoRef> {
    entity::children(s, id)
}

pub(crate) fn entity_name(s: &State, r: &MoRef) -> String {
    match top(s, r, "name", &nobody(s)) {
        Ok(Some(Val::Str(n))) => n,
        _ => r.id.clone(),
    }
}

/// What an entity lies in; None: the root folder.
pub(crate) fn parent(s: &State, r: &MoRef) -> Option<MoRef> {
    match top(s, r, "parent", &nobody(s)) {
        Ok(Some(Val::Ref(parent))) => Some(parent),
        _ => None,
    }
}

/// The simulator itself.
fn nobody(s: &State) -> Ctx {
    Ctx { session: None, user: String::new(), ver: s.api, host: String::new() }
}

pub(crate) fn obj(ty: &'static str) -> Obj {
    Obj::new(ty)
}

/// Names of entities are shown with `%`, `/` and `\` encoded (vSphere API 8.0, ManagedEntity.name).
pub(crate) fn shown_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}
