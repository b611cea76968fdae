//! Dispatch: which object, which method, is it allowed, what does it answer.

use std::sync::Arc;

use super::{Reply, pc, search, session};
use crate::Sim;
use crate::collector::moref;
use crate::cue::CueKind;
use crate::export;
use crate::fault::{Fault, Res};
use crate::ops::work::{self, By, Work};
use crate::ops::{areas, events, guard, reconfig};
use crate::permit;
use crate::render::{self, Ctx};
use crate::schema::SCHEMA;
use crate::state::State;
use crate::value::MoRef;
use crate::xml::Node;

const INTERNAL: [&str; 2] = ["DisableMethods", "EnableMethods"];
/// As VMware's own simulator has them. Properties are answered as well, but with none (`collector`).
const NO_SESSION_NEEDED: [&str; 5] =
    ["RetrieveServiceContent", "Login", "CloneSession", "RetrieveProperties", "RetrievePropertiesEx"];

pub(crate) async fn call(sim: &Arc<Sim>, body: &Node, ctx: &Ctx, user_agent: &str, cues: &[CueKind]) -> Res<Reply> {
    let method = body.name.as_str();
    let this =
        body.kid("_this").and_then(moref).ok_or_else(|| Fault::bad_request(format!("{method} without _this")))?;
    let open_read = method == "Fetch" && matches!(this.ty.as_str(), "ServiceInstance" | "SessionManager");
    if ctx.session.is_none() && !open_read && !NO_SESSION_NEEDED.contains(&method) {
        return Err(Fault::not_authenticated());
    }
    if method == "Fetch" {
        let prop = body.str("prop").unwrap_or("").trim().to_owned();
        let s = sim.lock();
        if !open_read {
            permit::need(&s, &ctx.user, this.clone(), "System.Read")?;
        }
        return Ok(Reply { declared: "anyType", val: render::property(&s, &this, &prop, ctx)?, cookie: None });
    }
    let unknown = || {
        Fault::new("MethodNotFound", format!("no method {method} on {}", this.ty))
            .with("receiver", this.clone())
            .with("method", method)
    };
    // The two calls that the public interface does not have are known in their own namespace only, and no other call there.
    let internal = body.attrs.iter().any(|(k, v)| k.starts_with("xmlns") && v == "urn:internalvim25");
    if internal != INTERNAL.contains(&method) {
        return Err(unknown());
    }
    let m = SCHEMA.method(&this.ty, method).filter(|m| m.since <= ctx.ver).ok_or_else(unknown)?;
    SCHEMA.check_call(m, body, ctx.ver)?;
    let default_pc = this.ty == "PropertyCollector" && this.id == "propertyCollector";
    let gone = |s: &State| !render::exists(s, &this) || export::is_hidden(s, &this, ctx);
    if !default_pc && gone(&sim.lock()) {
        return Err(Fault::gone(&this));
    }
    if ctx.session.is_some() {
        permit::check(&sim.lock(), &ctx.user, &this, method)?;
    }
    if method.starts_with("WaitForUpdates") {
        return pc::wait(sim, &this, body, ctx).await;
    }
    let reply = {
        let mut s = sim.lock();
        locked_call(sim, &mut s, &this, body, ctx, user_agent, cues)
    };
    sim.touch();
    reply
}

fn locked_call(
    sim: &Arc<Sim>,
    s: &mut State,
    this: &MoRef,
    body: &Node,
    ctx: &Ctx,
    ua: &str,
    cues: &[CueKind],
) -> Res<Reply> {
    let method = body.name.as_str();
    match this.ty.as_str() {
        "ServiceInstance" if method == "CurrentTime" => Ok(Reply::of("dateTime", crate::state::now())),
        "ServiceInstance" => Ok(Reply::of("ServiceContent", render::service_content(s))),
        "SessionManager" => session::call(s, method, body, ctx, ua),
        "SearchIndex" => search::call(s, method, body),
        "ViewManager" => search::create_view(s, body, ctx.session.as_deref().unwrap_or("")),
        "ContainerView" => {
            s.views.remove(&this.id);
            Ok(Reply::none())
        }
        "PropertyCollector" => pc::call(s, this, method, body, ctx),
        "PropertyFilter" => pc::destroy_filter(s, this),
        "AuthorizationManager" if method == "DisableMethods" => guard::disable(s, body, ctx).map(|()| Reply::none()),
        "AuthorizationManager" if method == "EnableMethods" => guard::enable(s, body, ctx).map(|()| Reply::none()),
        "AuthorizationManager" => Ok(Reply::of("EntityPrivilege[]", permit::has(s, &ctx.user, body)?)),
        "EventManager" => Ok(Reply { declared: "Event[]", val: events::query(s, body)?, cookie: None }),
        "Task" => cancel(s, this),
        "HttpNfcLease" => export::call(s, this, method, body),
        "VirtualMachine" if method == "QueryChangedDiskAreas" => areas::query(s, this, body),
        "VirtualMachineSnapshot" if method == "ExportSnapshot" => export::begin(sim, s, this, ctx),
        "VirtualMachine" | "VirtualMachineSnapshot" => vm_work(sim, s, this, body, ctx, cues),
        _ => Err(Fault::new("NotSupported", "The operation is not supported on the object.")),
    }
}

fn cancel(s: &mut State, this: &MoRef) -> Res<Reply> {
    use crate::state::TaskState;
    let t = s.task_mut(&this.id).ok_or_else(|| Fault::gone(this))?;
    match t.state {
        TaskState::Success | TaskState::Error => {
            Err(Fault::new("InvalidState", "The operation is not allowed in the current state."))
        }
        TaskState::Queued if t.cancelable => {
            t.cancelled = true;
            Ok(Reply::none())
        }
        _ => Err(Fault::new("NotSupported", "The task can not be canceled.")),
    }
}

/// Calls of a VM or a snapshot: the arguments become work.
fn vm_work(sim: &Arc<Sim>, s: &mut State, this: &MoRef, body: &Node, ctx: &Ctx, cues: &[CueKind]) -> Res<Reply> {
    let vm = if this.ty == "VirtualMachine" { this.id.clone() } else { s.snapshot(&this.id)?.0.id.clone() };
    let user = ctx.user.clone();
    let work = work_of(s, this, body)?;
    let late = cues.iter().any(|cue| matches!(cue, CueKind::LateLand(..)));
    let task = work::submit(sim, s, &vm, work, By { user, admin: false, late, run_ms: 0 }, cues)?;
    Ok(task.map_or_else(Reply::none, |t| Reply::of("ref:Task", t)))
}

fn work_of(s: &State, this: &MoRef, body: &Node) -> Res<Work> {
    let text = |name: &str| body.str(name).unwrap_or("").to_owned();
    Ok(match body.name.as_str() {
        "ReconfigVM_Task" => {
            Work::Reconfigure { spec: body.kid("spec").cloned().unwrap_or_default(), who: reconfig::Who::Client }
        }
        "CreateSnapshot_Task" | "CreateSnapshotEx_Task" => {
            let quiesce = body.bool("quiesce").unwrap_or(false) || body.kid("quiesceSpec").is_some();
            if let Some(t) = body.kid("quiesceSpec").and_then(|q| q.int::<i64>("timeout"))
                && !(5..=240).contains(&t)
            {
                return Err(Fault::argument("quiesceSpec.timeout"));
            }
            let ex = body.name == "CreateSnapshotEx_Task";
            Work::CreateSnapshot { ex, name: text("name"), text: text("description"), quiesce }
        }
        "RemoveSnapshot_Task" => Work::RemoveSnapshot {
            id: this.id.clone(),
            children: body.bool("removeChildren").unwrap_or(false),
            merge: body.bool("consolidate").unwrap_or(true),
        },
        "RemoveAllSnapshots_Task" => Work::RemoveAllSnapshots,
        "RevertToSnapshot_Task" => Work::Revert { id: Some(this.id.clone()) },
        "RevertToCurrentSnapshot_Task" => Work::Revert { id: None },
        "ConsolidateVMDisks_Task" => Work::Consolidate,
        "PowerOnVM_Task" => Work::Power { on: true },
        "PowerOffVM_Task" => Work::Power { on: false },
        "UnregisterVM" => Work::Unregister,
        "MarkAsTemplate" => Work::MarkAsTemplate,
        "RelocateVM_Task" => {
            let (datastore, host) = place(s, body.kid("spec"))?;
            Work::Relocate { datastore, host }
        }
        "MigrateVM_Task" => Work::Migrate { host: body.kid("host").and_then(moref).map(|r| r.id) },
        "CloneVM_Task" => {
            let (datastore, _) = place(s, body.kid("spec").and_then(|x| x.kid("location")))?;
            Work::Clone { name: text("name"), datastore, same_uuid: false }
        }
        "Destroy_Task" => Work::Destroy,
        _ => return Err(Fault::new("NotSupported", "The operation is not supported on the object.")),
    })
}

/// Datastore by name and host by id, of a VirtualMachineRelocateSpec.
fn place(s: &State, spec: Option<&Node>) -> Res<(Option<String>, Option<String>)> {
    let reference = |name| spec.and_then(|x| x.kid(name)).and_then(moref);
    let datastore = match reference("datastore") {
        Some(r) => Some(s.datastores.iter().find(|d| d.id == r.id).ok_or_else(|| Fault::gone(&r))?.name.clone()),
        None => None,
    };
    Ok((datastore, reference("host").map(|r| r.id)))
}
