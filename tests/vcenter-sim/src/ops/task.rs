//! Tasks: queued → running → success | error; a cancelled one ends in error RequestCanceled.
//!
//! ```text
//! queued --delay over--> running --op--> success | error
//!   \--CancelTask (cancelable only)--> error(RequestCanceled)
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Sim;
use crate::cue::CueKind;
use crate::fault::{Fault, Res};
use crate::schema::SCHEMA;
use crate::state::{State, Task, TaskState, now};
use crate::value::{MoRef, Obj, Val};

pub(crate) type OpFuture = Pin<Box<dyn Future<Output = Res<Option<Val>>> + Send>>;

/// What a task is about.
#[derive(Debug)]
pub(crate) struct TaskSpec {
    pub name: &'static str,
    pub description: &'static str,
    /// The VM that is busy meanwhile; also the task's entity.
    pub vm: String,
    pub cancelable: bool,
    pub user: String,
    /// Runs at least this long before its effect.
    pub run_ms: u64,
}

/// A task to be entered in the list.
#[derive(Debug)]
pub(crate) struct Open<'a> {
    pub name: &'static str,
    pub description: &'a str,
    pub entity: MoRef,
    pub entity_name: String,
    pub cancelable: bool,
    pub user: String,
}

/// Enters a queued task and returns its id.
pub(crate) fn open(s: &mut State, new: Open<'_>) -> String {
    s.forget_old_tasks();
    let n = s.next();
    let id = format!("task-{n}");
    let task = Task {
        id: id.clone(),
        name: new.name,
        description: new.description.into(),
        listed: new.entity.clone(),
        entity: new.entity,
        entity_name: new.entity_name,
        state: TaskState::Queued,
        cancelable: new.cancelable,
        cancelled: false,
        progress: None,
        result: None,
        error: None,
        queued: now(),
        started: None,
        completed: None,
        user: new.user,
        ended: None,
    };
    s.tasks.insert(n, task);
    id
}

/// Refuses when another task runs on the VM, else starts this one and returns its reference.
pub(crate) fn start<F>(sim: &Arc<Sim>, s: &mut State, spec: TaskSpec, cues: &[CueKind], op: F) -> Res<MoRef>
where
    F: FnOnce(Arc<Sim>) -> OpFuture + Send + 'static,
{
    let vm = s.vm(&spec.vm)?;
    if let Some(task) = &vm.busy {
        let text = "Another task is already in progress.";
        return Err(Fault::new("TaskInProgress", text).with("task", MoRef::new("Task", task.clone())));
    }
    let new = Open {
        name: spec.name,
        description: spec.description,
        entity: vm.moref(),
        entity_name: vm.name.clone(),
        cancelable: spec.cancelable,
        user: spec.user,
    };
    let id = open(s, new);
    s.vm_mut(&spec.vm)?.busy = Some(id.clone());
    let (queued, worked) = s.profile.times(spec.name);
    let mut delay = s.knobs.task_ms.max(queued);
    let running = Duration::from_millis(spec.run_ms.max(worked));
    let mut cued = None;
    for c in cues {
        match c {
            CueKind::DelayMs(ms) => delay = *ms,
            CueKind::TaskFault(name, fields) => {
                cued = Some(cued_fault(name, fields, &MoRef::new("VirtualMachine", spec.vm.clone())))
            }
            _ => {}
        }
    }
    s.under_way += 1;
    let (sim, vm, task_id) = (Arc::clone(sim), spec.vm, id.clone());
    tokio::spawn(async move {
        let outcome = run(&sim, &task_id, Duration::from_millis(delay), running, cued, op).await;
        finish(&sim, &vm, &task_id, outcome);
    });
    Ok(MoRef::new("Task", id))
}

async fn run<F>(
    sim: &Arc<Sim>,
    id: &str,
    delay: Duration,
    running: Duration,
    cued: Option<Fault>,
    op: F,
) -> Res<Option<Val>>
where
    F: FnOnce(Arc<Sim>) -> OpFuture + Send,
{
    let until = Instant::now() + delay;
    loop {
        let mut changed = sim.changes();
        if sim.lock().task(id).is_ok_and(|t| t.cancelled) {
            return Err(Fault::new("RequestCanceled", "The task was canceled by a user."));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let _ = tokio::time::timeout(left, changed.changed()).await;
    }
    if let Some(t) = sim.lock().task_mut(id) {
        t.state = TaskState::Running;
        t.started = Some(now());
        t.progress = Some(10);
    }
    sim.touch();
    tokio::time::sleep(running).await;
    match cued {
        Some(f) => Err(f),
        None => op(Arc::clone(sim)).await,
    }
}

fn finish(sim: &Arc<Sim>, vm: &str, id: &str, outcome: Res<Option<Val>>) {
    {
        let mut s = sim.lock();
        s.under_way -= 1;
        if let Ok(v) = s.vm_mut(vm)
            && v.busy.as_deref() == Some(id)
        {
            v.busy = None;
            v.pending.clear();
        }
        if let Some(t) = s.task_mut(id) {
            t.completed = Some(now());
            t.ended = Some(Instant::now());
            t.started.get_or_insert_with(now);
            match outcome {
                Ok(result) => {
                    t.state = TaskState::Success;
                    t.progress = Some(100);
                    t.result = result;
                }
                Err(f) => {
                    t.state = TaskState::Error;
                    t.error = Some(f);
                }
            }
        }
    }
    sim.touch();
}

/// A fault asked for by name; required fields that the test left out get harmless values.
pub(crate) fn cued_fault(name: &str, fields: &Value, entity: &MoRef) -> Fault {
    let Some(ty) = SCHEMA.data_name(name) else {
        return Fault::new("SystemError", format!("cue names unknown fault '{name}'"));
    };
    let text = fields["message"].as_str().map(str::to_owned).unwrap_or_else(|| format!("{name} (on cue)"));
    let mut obj = Obj::new(ty);
    for p in SCHEMA.props(ty) {
        let given = &fields[p.name];
        let val = match given {
            Value::Bool(b) => Some(Val::Bool(*b)),
            Value::Number(n) => n.as_i64().map(Val::Int),
            Value::String(t) if p.ty.starts_with("ref:") => {
                t.split_once(':').map(|(ty, id)| Val::Ref(MoRef::new(ty, id)))
            }
            Value::String(t) => Some(Val::Str(t.clone())),
            _ if !p.required || p.ty.ends_with("[]") => None,
            _ => Some(default_of(p.ty, entity)),
        };
        obj = obj.with(p.name, val);
    }
    Fault { obj, text }
}

fn default_of(ty: &'static str, entity: &MoRef) -> Val {
    match ty {
        "int" | "long" | "short" => Val::Int(0),
        "boolean" => Val::Bool(false),
        "ref:Task" => Val::Ref(MoRef::new("Task", "task-0")),
        t if t.starts_with("ref:") => Val::Ref(entity.clone()),
        "MethodFault" => Val::Obj(Fault::new("SystemError", "on cue").localized()),
        t => Val::Str(SCHEMA.first_value(t).unwrap_or("on cue").to_owned()),
    }
}
