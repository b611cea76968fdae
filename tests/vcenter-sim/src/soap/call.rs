//! Dispatch: which object, which method, is it allowed, what does it answer.

use std::sync::Arc;

use super::{Reply, pc, search, session};
use crate::Sim;
use crate::collector::moref;
use crate::cue::CueKind;
use crate::fault::{Fault, Res};
use crate::ops::task::{self, OpFuture, TaskSpec};
use crate::ops::{power, reconfig, snapshot};
use crate::render::{self, Ctx};
use crate::schema::SCHEMA;
use crate::state::State;
use crate::value::{MoRef, Obj, Val};
use crate::xml::Node;

const NO_SESSION_NEEDED: [&str; 3] = ["RetrieveServiceContent", "Login", "CurrentTime"];

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
        return Ok(Reply { declared: "anyType", val: render::property(&s, &this, &prop, ctx)?, cookie: None });
    }
    let unknown = || {
        Fault::new("MethodNotFound", format!("no method {method} on {}", this.ty))
            .with("receiver", this.clone())
            .with("method", method)
    };
    let m = SCHEMA.method(&this.ty, method).filter(|m| m.since <= ctx.ver).ok_or_else(unknown)?;
    SCHEMA.check_call(m, body, ctx.ver)?;
    let default_pc = this.ty == "PropertyCollector" && this.id == "propertyCollector";
    if !default_pc && !render::exists(&sim.lock(), &this) {
        return Err(Fault::gone(&this));
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
        "AuthorizationManager" => Ok(has_privileges(s, body)),
        "Task" => cancel(s, this),
        "VirtualMachine" | "VirtualMachineSnapshot" => vm_task(sim, s, this, body, ctx, cues),
        _ => Err(Fault::new("NotSupported", "The operation is not supported on the object.")),
    }
}

fn has_privileges(s: &State, body: &Node) -> Reply {
    let one = |entity: MoRef| {
        let list: Vec<Obj> = body
            .all("privId")
            .map(|p| {
                let id = p.text.trim();
                let granted = s.knobs.privileges.as_ref().is_none_or(|all| all.contains(id));
                Obj::new("PrivilegeAvailability").with("privId", id).with("isGranted", granted)
            })
            .collect();
        Obj::new("EntityPrivilege").with("entity", entity).with("privAvailability", list)
    };
    Reply::of("EntityPrivilege[]", body.all("entity").filter_map(moref).map(one).collect::<Vec<_>>())
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

/// A snapshot's work by another name: the closure that a task runs.
fn locked_op(
    f: impl FnOnce(&mut State) -> Res<Option<Val>> + Send + 'static,
) -> impl FnOnce(Arc<Sim>) -> OpFuture + Send + 'static {
    move |sim| {
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || f(&mut sim.lock())).await;
            done.unwrap_or_else(|e| Err(Fault::new("SystemError", e.to_string())))
        })
    }
}

fn vm_task(sim: &Arc<Sim>, s: &mut State, this: &MoRef, body: &Node, ctx: &Ctx, cues: &[CueKind]) -> Res<Reply> {
    let method = body.name.as_str();
    let vm = if this.ty == "VirtualMachine" { this.id.clone() } else { s.snapshot(&this.id)?.0.id.clone() };
    let me = MoRef::new("VirtualMachine", vm.clone());
    let user = ctx.session.as_ref().and_then(|k| s.sessions.get(k)).map(|x| x.user.clone()).unwrap_or_default();
    let spec =
        |name, description, cancelable| TaskSpec { name, description, vm: vm.clone(), cancelable, user: user.clone() };
    let (id, snap) = (vm.clone(), this.id.clone());
    let task = match method {
        "ReconfigVM_Task" => {
            let change = body.kid("spec").cloned().unwrap_or_default();
            for p in reconfig::privileges(&change) {
                s.need(me.clone(), p)?;
            }
            let op = move |sim: Arc<Sim>| -> OpFuture {
                Box::pin(async move { reconfig::run(&sim, &id, &change).await.map(|()| None) })
            };
            task::start(sim, s, spec("ReconfigVM_Task", "VirtualMachine.reconfigure", false), cues, op)?
        }
        "CreateSnapshot_Task" | "CreateSnapshotEx_Task" => {
            s.need(me, "VirtualMachine.State.CreateSnapshot")?;
            let name = body.str("name").unwrap_or("").to_owned();
            let text = body.str("description").unwrap_or("").to_owned();
            let quiesce = body.bool("quiesce").unwrap_or(false) || body.kid("quiesceSpec").is_some();
            if let Some(t) = body.kid("quiesceSpec").and_then(|q| q.int::<i64>("timeout"))
                && !(5..=240).contains(&t)
            {
                return Err(Fault::argument("quiesceSpec.timeout"));
            }
            let op = locked_op(move |s| snapshot::create(s, &id, &name, &text, quiesce).map(Some));
            let call = if method == "CreateSnapshot_Task" { "CreateSnapshot_Task" } else { "CreateSnapshotEx_Task" };
            task::start(sim, s, spec(call, "VirtualMachine.createSnapshot", true), cues, op)?
        }
        "RemoveSnapshot_Task" => {
            s.need(me, "VirtualMachine.State.RemoveSnapshot")?;
            let (children, merge) =
                (body.bool("removeChildren").unwrap_or(false), body.bool("consolidate").unwrap_or(true));
            let op = locked_op(move |s| snapshot::remove(s, &snap, children, merge).map(|()| None));
            task::start(sim, s, spec("RemoveSnapshot_Task", "vm.Snapshot.remove", false), cues, op)?
        }
        "RemoveAllSnapshots_Task" => {
            s.need(me, "VirtualMachine.State.RemoveSnapshot")?;
            let op = locked_op(move |s| snapshot::remove_all(s, &id).map(|()| None));
            task::start(sim, s, spec("RemoveAllSnapshots_Task", "VirtualMachine.removeAllSnapshots", false), cues, op)?
        }
        "ConsolidateVMDisks_Task" => {
            let op = locked_op(move |s| snapshot::consolidate(s, &id).map(|()| None));
            task::start(sim, s, spec("ConsolidateVMDisks_Task", "VirtualMachine.consolidateDisks", false), cues, op)?
        }
        "PowerOnVM_Task" => {
            s.need(me, "VirtualMachine.Interact.PowerOn")?;
            let op = locked_op(move |s| power::set(s, &id, true).map(|()| None));
            task::start(sim, s, spec("PowerOnVM_Task", "VirtualMachine.powerOn", false), cues, op)?
        }
        "PowerOffVM_Task" => {
            s.need(me, "VirtualMachine.Interact.PowerOff")?;
            let op = locked_op(move |s| power::set(s, &id, false).map(|()| None));
            task::start(sim, s, spec("PowerOffVM_Task", "VirtualMachine.powerOff", false), cues, op)?
        }
        _ => {
            s.need(me, "VirtualMachine.Inventory.Delete")?;
            let op = move |sim: Arc<Sim>| -> OpFuture {
                Box::pin(async move { power::destroy(&sim, &id).await.map(|()| None) })
            };
            task::start(sim, s, spec("Destroy_Task", "VirtualMachine.destroy", false), cues, op)?
        }
    };
    Ok(Reply::of("ref:Task", task))
}
