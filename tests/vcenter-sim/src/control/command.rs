//! The commands. Each answers a JSON object; Err is the text of `{"ok":false,"error":…}`.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{device, inventory, operator, vddk};
use crate::Sim;
use crate::cue::Cue;
use crate::export;
use crate::ops::{areas, events, power, writer};
use crate::permit;
use crate::soap;

/// Writers started over one connection end with it.
#[derive(Default)]
pub(crate) struct Writers(HashMap<String, (watch::Sender<bool>, JoinHandle<u64>)>, u64);

impl Writers {
    pub(crate) async fn stop_all(&mut self) {
        for (_, (stop, task)) in self.0.drain() {
            stop.send_replace(true);
            task.await.ok();
        }
    }
}

pub(crate) fn text<'a>(v: &'a Value, key: &str) -> Result<&'a str, String> {
    v[key].as_str().ok_or_else(|| format!("{key} missing"))
}

/// A field that may be written as text or number.
fn word(v: &Value, key: &str) -> Option<String> {
    v[key].as_str().map(str::to_owned).or_else(|| v[key].as_i64().map(|n| n.to_string()))
}

fn on(v: &Value) -> Result<bool, String> {
    v["on"].as_bool().ok_or_else(|| "on missing".into())
}

pub(crate) async fn run(sim: &Arc<Sim>, v: &Value, writers: &mut Writers) -> Result<Value, String> {
    let done = match text(v, "cmd")? {
        "writer_start" => return writer_start(sim, v, writers),
        "writer_stop" => return writer_stop(v, writers).await,
        "vm_write" => vm_write(sim, v).await,
        "devices" | "backend_reconnect" | "device_delete" | "device_rescan" | "device_remove" | "attach_raw"
        | "detach_raw" | "guest_writes" => device::run(sim, v).await,
        "operator" | "attach_foreign" | "detach_foreign" => operator::run(sim, v).await,
        "vddk_open" => vddk::open(sim, v).await,
        "snapshot_copy" => vddk::snapshot_copy(sim, v).await,
        "restart" | "vc_down" => away(sim, v).await,
        "state" | "attached" | "snapshots" | "disk_file" | "add_vm" | "add_datastore" | "remove_disk" | "datastore"
        | "host" | "methods" | "disable_method" | "delta_growth" | "delete_file" | "stray_file" | "age_snapshot"
        | "consolidation" => inventory::run(sim, v),
        _ => switches(sim, v),
    };
    sim.touch();
    done
}

fn switches(sim: &Sim, v: &Value) -> Result<Value, String> {
    let mut guard = sim.lock();
    let s = &mut *guard;
    match text(v, "cmd")? {
        "set_write_through" => s.knobs.write_through = on(v)?,
        "set_wrap_locked" => s.knobs.wrap_locked = on(v)?,
        "set_show_redo" => s.knobs.show_redo = on(v)?,
        "set_shared_reads" => s.knobs.shared_reads = on(v)?,
        "set_controllers" => {
            s.knobs.controller_hotplug = v["hotplug"].as_bool().unwrap_or(true);
            s.knobs.told_slot = v["told_slot"].as_u64().and_then(|n| u32::try_from(n).ok());
        }
        "set_task_ms" => s.knobs.task_ms = v["ms"].as_u64().ok_or("ms missing")?,
        "set_ticket_ms" => s.knobs.ticket_ms = v["ms"].as_u64().ok_or("ms missing")?,
        "set_page_max" => {
            s.page_max = usize::try_from(v["objects"].as_u64().ok_or("objects missing")?).unwrap_or(usize::MAX)
        }
        "suppress_events" => {
            s.knobs.suppress_events = on(v)?;
            if let crate::backend::Live::Loop(b) = &sim.backend {
                b.suppress(on(v)?);
            }
        }
        "set_privileges" => s.knobs.permissions = strings(&v["privileges"]).and_then(|l| permit::everywhere(&l)),
        "set_permissions" => s.knobs.permissions = permit::parse(s, &v["permissions"])?,
        "add_account" => {
            let (user, password) = (text(v, "user")?.to_owned(), text(v, "password")?.to_owned());
            let permissions = permit::parse(s, &v["permissions"])?;
            s.accounts.insert(user, permit::Account { password, permissions });
        }
        "deny_properties" => s.denied = strings(&v["paths"]).unwrap_or_default().into_iter().collect(),
        "power" => {
            let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
            power::set(s, &id, on(v)?).map_err(|f| format!("{}: {}", f.ty(), f.text))?;
        }
        "set_password" => s.password = text(v, "password")?.to_owned(),
        "locked" => {
            let path = text(v, "path")?.to_owned();
            if on(v)? {
                s.locked.insert(path)
            } else {
                s.locked.remove(&path)
            };
        }
        "areas" => areas::control(s, v)?,
        "reset_tracking" => return areas::reset(s, text(v, "vm")?, &word(v, "disk").unwrap_or_else(|| "0:0".into())),
        "set_tracking" => {
            let id = s.find_vm(text(v, "vm")?).ok_or("no such vm")?;
            s.vm_mut(&id).map_err(|f| f.text)?.change_tracking = on(v)?;
        }
        "post_event" => return events::control(s, v),
        "fault" => s.cues.push(Cue::parse(v)?),
        "leases" | "export" | "end_lease" => return export::control(s, v),
        "clear_faults" => s.cues.clear(),
        "disk_fault" => {
            s.disk_faults.insert(text(v, "path")?.to_owned(), v.clone());
        }
        "attach_as" => {
            s.attach_as.insert(text(v, "path")?.to_owned(), v.clone());
        }
        "end_sessions" => match v["key"].as_str() {
            Some(key) => {
                let cookie = soap::session::by_key(s, key).ok_or("no such session")?;
                soap::session::end(s, &cookie);
                return Ok(json!({"ended": 1}));
            }
            None => return Ok(json!({"ended": soap::session::end_all(s)})),
        },
        "sessions" => {
            let one =
                |x: &crate::state::Session| json!({"key": x.key, "user": x.user, "login": x.login, "calls": x.calls});
            return Ok(json!({"sessions": s.sessions.values().map(one).collect::<Vec<_>>()}));
        }
        "set_fence" => s.knobs.fence = on(v)?,
        "set_enable_across" => s.knobs.enable_across = on(v)?,
        "set_removal_fails" => s.knobs.removal_fails = on(v)?,
        "set_space_need" => {
            s.knobs.need_snapshot = v["snapshot"].as_u64().unwrap_or(s.knobs.need_snapshot);
            s.knobs.need_attach = v["attach"].as_u64().unwrap_or(s.knobs.need_attach);
        }
        "landings" => {
            let all = s.landings.iter().map(|l| json!({"method": l.method, "fault": l.fault, "task": l.task}));
            return Ok(json!({"pending": s.landing, "landings": all.collect::<Vec<_>>()}));
        }
        "requests" => {
            let one = |r: &crate::state::Recorded| json!({"method": r.method, "user": r.user, "body": r.body});
            let list: Vec<Value> = s.requests.iter().map(one).collect();
            if v["clear"].as_bool().unwrap_or(false) {
                s.requests.clear();
            }
            return Ok(json!({"requests": list}));
        }
        "counters" => {
            return Ok(
                json!({"file_operation_count": s.counters.file_operations, "logins": s.counters.logins, "clones": s.counters.clones, "calls": s.counters.calls,
                "sessions": s.sessions.len(), "foreign_destroyed": s.counters.foreign_destroyed,
                "removed_under_reader": s.counters.removed_under_reader, "problems": s.problems}),
            );
        }
        other => return Err(format!("unknown command '{other}'")),
    }
    Ok(json!({}))
}

/// `vc_down`: nobody listens for a while. `restart`: the same, for as long as `down_ms` says, and all is forgotten that a
/// vCenter does not keep: sessions, filters, tasks. Methods that were disabled stay disabled.
async fn away(sim: &Arc<Sim>, v: &Value) -> Result<Value, String> {
    if v["cmd"] == "vc_down" {
        sim.outage.set(v["ms"].as_u64().ok_or("ms missing")?).await?;
        return Ok(json!({}));
    }
    if let Some(ms) = v["down_ms"].as_u64().filter(|ms| *ms > 0) {
        sim.outage.set(ms).await?;
    }
    let mut s = sim.lock();
    soap::session::end_all(&mut s);
    s.tasks.clear();
    s.leases.clear();
    for vm in s.vms.values_mut() {
        vm.busy = None;
    }
    Ok(json!({}))
}

fn strings(v: &Value) -> Option<Vec<String>> {
    v.as_array().map(|l| l.iter().filter_map(|x| x.as_str().map(str::to_owned)).collect())
}

/// The bytes to write: `data` (base64), or `pattern` (a byte) times `length`.
fn payload(v: &Value) -> Result<Vec<u8>, String> {
    if let Some(b64) = v["data"].as_str() {
        return base64::engine::general_purpose::STANDARD.decode(b64).map_err(|e| e.to_string());
    }
    let byte = u8::try_from(v["pattern"].as_u64().ok_or("data or pattern missing")?).map_err(|e| e.to_string())?;
    let len = usize::try_from(v["length"].as_u64().ok_or("length missing")?).map_err(|e| e.to_string())?;
    Ok(vec![byte; len])
}

async fn vm_write(sim: &Arc<Sim>, v: &Value) -> Result<Value, String> {
    let (vm, disk) = (text(v, "vm")?.to_owned(), word(v, "disk").unwrap_or_else(|| "0:0".into()));
    let (offset, data, sim) = (v["offset"].as_u64().ok_or("offset missing")?, payload(v)?, Arc::clone(sim));
    let done = tokio::task::spawn_blocking(move || writer::write(&mut sim.lock(), &vm, &disk, offset, &data)).await;
    Ok(json!({"file": done.map_err(|e| e.to_string())??}))
}

fn writer_start(sim: &Arc<Sim>, v: &Value, writers: &mut Writers) -> Result<Value, String> {
    let spec = writer::WriterSpec::parse(v)?;
    {
        let s = sim.lock();
        let id = s.find_vm(&spec.vm).ok_or("no such vm")?;
        s.vm(&id).map_err(|f| f.text)?.find_disk(&spec.disk).ok_or("no such disk")?;
    }
    writers.1 += 1;
    let id = format!("w{}", writers.1);
    let (stop, stopped) = watch::channel(false);
    writers.0.insert(id.clone(), (stop, tokio::spawn(writer::run(Arc::clone(sim), spec, stopped))));
    Ok(json!({"writer": id}))
}

async fn writer_stop(v: &Value, writers: &mut Writers) -> Result<Value, String> {
    let (stop, task) = writers.0.remove(text(v, "writer")?).ok_or("no such writer")?;
    stop.send_replace(true);
    Ok(json!({"passes": task.await.map_err(|e| e.to_string())?}))
}
