//! SearchIndex and container views.

use super::Reply;
use crate::collector::moref;
use crate::fault::{Fault, Res};
use crate::render;
use crate::schema::SCHEMA;
use crate::state::{DC, ROOT, State};
use crate::value::MoRef;
use crate::xml::Node;

/// Matching is by text, whatever the case, as on vCenter.
fn by_uuid(s: &State, body: &Node) -> Res<Vec<MoRef>> {
    let uuid = body.str("uuid").unwrap_or("").trim().to_lowercase();
    if let Some(dc) = body.kid("datacenter").and_then(moref)
        && dc.id != DC
    {
        return Err(Fault::gone(&dc));
    }
    if body.bool("vmSearch") != Some(true) {
        return Ok(Vec::new());
    }
    let instance = body.bool("instanceUuid").unwrap_or(false);
    let hit = |v: &&crate::state::Vm| {
        if instance { v.instance_uuid.to_lowercase() == uuid } else { v.uuid.to_lowercase() == uuid }
    };
    Ok(s.vms.values().filter(hit).map(crate::state::Vm::moref).collect())
}

pub(crate) fn call(s: &State, method: &str, body: &Node) -> Res<Reply> {
    match method {
        "FindAllByUuid" => {
            let found = by_uuid(s, body)?;
            Ok(Reply::of("ref:ManagedEntity[]", (!found.is_empty()).then_some(found)))
        }
        "FindByUuid" => Ok(Reply::of("ref:ManagedEntity", by_uuid(s, body)?.into_iter().next())),
        _ => Ok(Reply::of("ref:ManagedEntity", by_path(s, body.str("inventoryPath").unwrap_or("")))),
    }
}

/// `DC0/vm/web01`: names as shown, `/` in a name is `%2f`.
fn by_path(s: &State, path: &str) -> Option<MoRef> {
    let mut at = MoRef::new("Folder", ROOT);
    for part in path.split('/').filter(|p| !p.is_empty()) {
        at = render::children(s, &at.id).into_iter().find(|c| render::entity_name(s, c) == part)?;
    }
    (at.id != ROOT).then_some(at)
}

pub(crate) fn create_view(s: &mut State, body: &Node, session: &str) -> Res<Reply> {
    let container = body.kid("container").and_then(moref).ok_or_else(|| Fault::argument("container"))?;
    if !render::exists(s, &container) {
        return Err(Fault::gone(&container));
    }
    let types: Vec<String> =
        body.all("type").map(|t| t.text.trim().rsplit([':', '.']).next().unwrap_or("").to_owned()).collect();
    let recursive = body.bool("recursive").unwrap_or(false);
    let id = format!("session[{session}]{}", s.next());
    let mark = if recursive { "r" } else { "" };
    s.views.insert(id.clone(), (container.id, types, format!("{mark}{session}")));
    Ok(Reply::of("ref:ContainerView", MoRef::new("ContainerView", id)))
}

pub(crate) fn view_members(s: &State, id: &str) -> Vec<MoRef> {
    let Some((container, types, mark)) = s.views.get(id) else { return Vec::new() };
    let recursive = mark.starts_with('r');
    let (mut out, mut queue) = (Vec::new(), vec![container.clone()]);
    while let Some(at) = queue.pop() {
        for c in render::children(s, &at) {
            if types.is_empty() || types.iter().any(|t| SCHEMA.is_a(&c.ty, t)) {
                out.push(c.clone());
            }
            if recursive {
                queue.push(c.id);
            }
        }
    }
    out
}

pub(crate) fn entity_type(s: &State, id: &str) -> &'static str {
    let known =
        ["Folder", "Datacenter", "ComputeResource", "HostSystem", "ResourcePool", "VirtualMachine", "Datastore"];
    known.into_iter().find(|t| render::exists(s, &MoRef::new(t, id))).unwrap_or("ManagedEntity")
}
