//! Calls of the PropertyCollector, long polls included.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Reply;
use crate::Sim;
use crate::collector::{self, PcState, pc_id};
use crate::fault::{Fault, Res};
use crate::render::Ctx;
use crate::state::State;
use crate::value::MoRef;
use crate::xml::Node;

/// A wait without maxWaitSeconds ends by itself after this, as vCenter's does.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

pub(crate) fn call(s: &mut State, this: &MoRef, method: &str, body: &Node, ctx: &Ctx) -> Res<Reply> {
    let pc = pc_id(&this.id, ctx);
    match method {
        "RetrieveProperties" => {
            let all = collector::retrieve_all(s, body, ctx)?;
            Ok(Reply::of("ObjectContent[]", (!all.is_empty()).then_some(all)))
        }
        "RetrievePropertiesEx" => {
            let all = collector::retrieve_all(s, body, ctx)?;
            let max: Option<i64> = body.kid("options").and_then(|o| o.int("maxObjects"));
            if max.is_some_and(|m| m <= 0) {
                return Err(Fault::argument("options.maxObjects"));
            }
            Ok(Reply::of("RetrieveResult", collector::page(s, all, max.and_then(|m| usize::try_from(m).ok()))))
        }
        "ContinueRetrievePropertiesEx" => {
            let token = body.str("token").unwrap_or("").trim();
            let (limit, rest) = s.tokens.remove(token).ok_or_else(|| Fault::argument("token"))?;
            Ok(Reply::of("RetrieveResult", collector::page(s, rest, Some(limit))))
        }
        "CancelRetrievePropertiesEx" => {
            let token = body.str("token").unwrap_or("").trim();
            s.tokens.remove(token).map(|_| Reply::none()).ok_or_else(|| Fault::argument("token"))
        }
        "CreateFilter" => Ok(Reply::of("ref:PropertyFilter", collector::create_filter(s, &pc, body, ctx)?)),
        "CreatePropertyCollector" => {
            let session = ctx.session.clone().unwrap_or_default();
            let id = format!("session[{session}]{}", Uuid::new_v4());
            s.pcs.insert(id.clone(), PcState { session, ..PcState::default() });
            Ok(Reply::of("ref:PropertyCollector", MoRef::new("PropertyCollector", id)))
        }
        "DestroyPropertyCollector" => s.pcs.remove(&this.id).map(|_| Reply::none()).ok_or_else(|| Fault::gone(this)),
        "CheckForUpdates" => {
            let version = body.str("version").unwrap_or("").to_owned();
            Ok(Reply::of("UpdateSet", collector::updates(s, &pc, &version, None, ctx)?))
        }
        "CancelWaitForUpdates" => {
            if let Some(p) = s.pcs.get_mut(&pc) {
                p.cancels += 1;
            }
            Ok(Reply::none())
        }
        _ => Err(Fault::new("NotSupported", "The operation is not supported on the object.")),
    }
}

pub(crate) fn destroy_filter(s: &mut State, this: &MoRef) -> Res<Reply> {
    for p in s.pcs.values_mut() {
        p.filters.retain(|f| f.id != this.id);
    }
    Ok(Reply::none())
}

/// WaitForUpdates and WaitForUpdatesEx: answers when something changed, the time is over (nothing), or the wait was cancelled.
pub(crate) async fn wait(sim: &Arc<Sim>, this: &MoRef, body: &Node, ctx: &Ctx) -> Res<Reply> {
    let pc = pc_id(&this.id, ctx);
    let version = body.str("version").unwrap_or("").to_owned();
    let options = body.kid("options");
    let seconds: Option<i64> = options.and_then(|o| o.int("maxWaitSeconds"));
    if seconds.is_some_and(|n| n < 0) {
        return Err(Fault::argument("options.maxWaitSeconds"));
    }
    let max = options.and_then(|o| o.int::<usize>("maxObjectUpdates"));
    let limit = seconds.map(|n| Duration::from_secs(n.unsigned_abs())).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    let until = Instant::now() + limit;
    let cancels = |s: &State| s.pcs.get(&pc).map(|p| p.cancels).unwrap_or(0);
    let before = cancels(&sim.lock());
    loop {
        let mut changed = sim.changes();
        {
            let mut s = sim.lock();
            if !ctx.session.as_ref().is_some_and(|k| s.sessions.contains_key(k)) {
                return Err(Fault::not_authenticated());
            }
            if cancels(&s) != before {
                return Err(Fault::new("RequestCanceled", "The request was canceled."));
            }
            if let Some(set) = collector::updates(&mut s, &pc, &version, max, ctx)? {
                return Ok(Reply::of("UpdateSet", set));
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || tokio::time::timeout(left, changed.changed()).await.is_err() {
            return Ok(Reply::none());
        }
    }
}
