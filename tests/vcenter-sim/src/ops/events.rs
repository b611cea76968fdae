//! Events: what happened to hosts and VMs, kept by the server's clock, and the query for them.
//!
//! Source: vSphere API 8.0, EventManager.QueryEvents, EventFilterSpec, HostEvent, VmEvent.

use jiff::Timestamp;

use crate::collector::moref;
use crate::fault::{Fault, Res};
use crate::render;
use crate::schema::SCHEMA;
use crate::state::{Event, Host, State, now};
use crate::value::{MoRef, Obj, Val};
use crate::xml::Node;

/// Older ones are dropped.
const MOST_KEPT: usize = 1000;
/// Events of an answer when the query does not say how many.
const MOST_TOLD: usize = 1000;
/// Parts of a filter that are understood; a query that says more would get a wrong answer.
const UNDERSTOOD: [&str; 5] = ["entity", "time", "disableFullMessage", "eventTypeId", "maxCount"];

/// What a host's events are about, to tell from two moments of it which ones there were.
#[derive(Clone, Debug)]
pub(crate) struct HostMoment {
    entering: Option<String>,
    in_maintenance: bool,
    standby: String,
    connection: String,
}

impl HostMoment {
    pub(crate) fn of(s: &State, h: &Host) -> HostMoment {
        let description = |task: &String| s.task(task).map(|t| t.description.clone()).unwrap_or_default();
        HostMoment {
            entering: h.entering.as_ref().map(description),
            in_maintenance: h.in_maintenance,
            standby: h.standby.clone(),
            connection: h.connection.clone(),
        }
    }

    fn events_until(&self, after: &HostMoment) -> Vec<&'static str> {
        let mut all = Vec::new();
        match (&self.entering, &after.entering) {
            (None, Some(task)) => all.push(match (task.contains("tandby"), task.starts_with("Drm.")) {
                (false, _) => "EnteringMaintenanceModeEvent",
                (true, false) => "EnteringStandbyModeEvent",
                (true, true) => "DrsEnteringStandbyModeEvent",
            }),
            (Some(_), None) if !after.in_maintenance => all.push("CanceledHostOperationEvent"),
            _ => {}
        }
        match (self.in_maintenance, after.in_maintenance) {
            (false, true) => all.push("EnteredMaintenanceModeEvent"),
            (true, false) => all.push("ExitMaintenanceModeEvent"),
            _ => {}
        }
        if self.standby != after.standby {
            match after.standby.as_str() {
                "entering" => all.push("EnteringStandbyModeEvent"),
                "in" => all.push("EnteredStandbyModeEvent"),
                "none" => all.push("ExitedStandbyModeEvent"),
                _ => {}
            }
        }
        if self.connection != after.connection {
            all.push(match after.connection.as_str() {
                "connected" => "HostConnectedEvent",
                "disconnected" => "HostDisconnectedEvent",
                _ => "HostConnectionLostEvent",
            });
        }
        all
    }
}

/// Posts what became of a host since `before`.
pub(crate) fn host_changed(s: &mut State, id: &str, before: &HostMoment) {
    let Some(after) = s.host(id).map(|h| HostMoment::of(s, h)) else { return };
    for ty in before.events_until(&after) {
        post(s, Event { host: Some(id.to_owned()), ..Event::new(ty) });
    }
}

/// Posts that a VM moves or has moved; `other` is the host at the other end.
pub(crate) fn vm_moves(s: &mut State, ty: &'static str, vm: &str, other: &str) {
    let host = s.vm(vm).ok().map(|v| v.host.clone());
    post(s, Event { host, vm: Some(vm.to_owned()), other: Some(other.to_owned()), ..Event::new(ty) });
}

pub(crate) fn post(s: &mut State, event: Event) {
    let key = s.next();
    s.events.push(Event { key, at: now(), ..event });
    let over = s.events.len().saturating_sub(MOST_KEPT);
    s.events.drain(..over);
}

/// The control command `post_event` (CONTROL.md).
pub(crate) fn control(s: &mut State, v: &serde_json::Value) -> Result<serde_json::Value, String> {
    let name = v["type"].as_str().ok_or("type missing")?;
    let ty = SCHEMA.data_name(name).filter(|t| SCHEMA.is_a(t, "Event")).ok_or("no such type of event")?;
    match (v["host"].as_str(), v["vm"].as_str()) {
        (Some(host), None) if SCHEMA.is_a(ty, "HostEvent") => {
            let id = s.hosts.iter().find(|h| h.name == host).map(|h| h.id.clone()).ok_or("no such host")?;
            post(s, Event { host: Some(id), ..Event::new(ty) });
        }
        (None, Some(vm)) if SCHEMA.is_a(ty, "VmEvent") => {
            let id = s.find_vm(vm).ok_or("no such vm")?;
            let host = s.vm(&id).map_err(|f| f.text)?.host.clone();
            vm_moves(s, ty, &id, &host);
        }
        _ => return Err("an event of a host needs host, one of a VM vm".into()),
    }
    Ok(serde_json::json!({}))
}

/// QueryEvents: the newest that fit, oldest first.
pub(crate) fn query(s: &State, body: &Node) -> Res<Option<Val>> {
    let none = Node::default();
    let filter = body.kid("filter").unwrap_or(&none);
    let by = filter.kid("entity").unwrap_or(&none);
    let odd = filter.kids.iter().any(|k| !UNDERSTOOD.contains(&k.name.as_str()));
    if odd || by.str("recursion").is_some_and(|r| r.trim() != "self") {
        return Err(Fault::new("NotSupported", "The operation is not supported on the object."));
    }
    let of = by.kid("entity").and_then(moref);
    if let Some(of) = of.as_ref().filter(|of| !render::exists(s, of)) {
        return Err(Fault::gone(of));
    }
    let time = |name: &str| match filter.kid("time").and_then(|t| t.str(name)) {
        Some(text) => text.trim().parse::<Timestamp>().map(Some).map_err(|_| Fault::argument("filter.time")),
        None => Ok(None),
    };
    let (begin, end) = (time("beginTime")?, time("endTime")?);
    let most = match filter.int::<i64>("maxCount") {
        Some(n) => usize::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| Fault::argument("filter.maxCount"))?,
        None => MOST_TOLD,
    };
    let types: Vec<&str> = filter.all("eventTypeId").map(|t| t.text.trim()).collect();
    let fits = |e: &&Event| {
        let at = e.at.parse::<Timestamp>().ok();
        of.as_ref().is_none_or(|of| e.subject().as_ref() == Some(of))
            && (types.is_empty() || types.contains(&e.ty))
            && begin.is_none_or(|begin| at.is_some_and(|at| at >= begin))
            && end.is_none_or(|end| at.is_some_and(|at| at <= end))
    };
    let full = filter.bool("disableFullMessage") != Some(true);
    let mut found: Vec<Val> =
        s.events.iter().rev().filter(fits).take(most).map(|e| Val::Obj(event(s, e, full))).collect();
    found.reverse();
    Ok((!found.is_empty()).then_some(Val::List(found)))
}

/// As the interface tells it.
pub(crate) fn event(s: &State, e: &Event, full: bool) -> Obj {
    let host = |id: &String| {
        let name = s.host(id).map_or(id.as_str(), |h| h.name.as_str());
        Obj::new("HostEventArgument").with("name", name).with("host", MoRef::new("HostSystem", id.clone()))
    };
    let vm = |id: &String| {
        let name = s.vm(id).map_or(id.as_str(), |v| v.name.as_str());
        Obj::new("VmEventArgument").with("name", name).with("vm", MoRef::new("VirtualMachine", id.clone()))
    };
    let other = match e.ty {
        "VmBeingHotMigratedEvent" => Some("destHost"),
        ty if SCHEMA.is_a(ty, "VmMigratedEvent") => Some("sourceHost"),
        _ => None,
    };
    let mut obj = Obj::new(e.ty)
        .with("key", e.key)
        .with("chainId", e.key)
        .with("createdTime", e.at.as_str())
        .with("userName", "VSPHERE.LOCAL\\Administrator")
        .with("host", e.host.as_ref().map(host))
        .with("vm", e.vm.as_ref().map(vm))
        .with("fullFormattedMessage", full.then(|| format!("{} (simulated)", e.ty)));
    if e.vm.is_some() {
        obj = obj.with("template", false);
    }
    if let Some(name) = other {
        obj = obj.with(name, e.other.as_ref().map(host));
    }
    obj
}
