//! Faults on cue: what a test asked to go wrong with the next calls of a method.

use serde_json::Value;

use crate::schema::SCHEMA;

/// How a call goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CueKind {
    /// The call answers with this fault.
    Fault(String, Value),
    /// The task ends with this fault.
    TaskFault(String, Value),
    /// Executed, connection closed without an answer.
    DropReply,
    /// The task starts this late.
    DelayMs(u64),
    /// Connection closed without an answer; executed this much later. With `Some(true)` only while its session lives,
    /// with `Some(false)` whatever became of it, with `None` as the switch `set_fence` says then.
    LateLand(u64, Option<bool>),
    /// The session of the call has ended when it is looked at.
    EndSession,
    /// Never answered; the connection stays open.
    Hang,
    Http500,
    BadXml,
    /// An answer of this many bytes.
    Huge(u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Cue {
    pub method: String,
    /// Calls of the method to let pass first.
    pub skip: u32,
    pub count: u32,
    /// Calls of this user only.
    pub user: Option<String>,
    pub kind: CueKind,
}

impl Cue {
    /// From the control command `fault` (CONTROL.md).
    pub(crate) fn parse(v: &Value) -> Result<Cue, String> {
        let method = v["method"].as_str().ok_or("method missing")?.to_owned();
        let num = |k: &str, d: u64| v[k].as_u64().unwrap_or(d);
        let name = || {
            let n = v["fault"].as_str().ok_or("fault missing")?;
            // A misspelt fault would make a test pass for the wrong reason.
            if SCHEMA.is_a(n, "MethodFault") { Ok(n.to_owned()) } else { Err(format!("unknown fault '{n}'")) }
        };
        let kind = match v["kind"].as_str().unwrap_or("fault") {
            "fault" => CueKind::Fault(name()?, v["fields"].clone()),
            "task_fault" => CueKind::TaskFault(name()?, v["fields"].clone()),
            "drop_reply" => CueKind::DropReply,
            "delay_ms" => CueKind::DelayMs(num("ms", 1000)),
            "late_land" => CueKind::LateLand(num("ms", 1000), v["fenced"].as_bool()),
            "end_session" => CueKind::EndSession,
            "hang" => CueKind::Hang,
            "http_500" => CueKind::Http500,
            "bad_xml" => CueKind::BadXml,
            "huge" => CueKind::Huge(num("bytes", 100 << 20)),
            other => return Err(format!("unknown kind '{other}'")),
        };
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let user = v["user"].as_str().map(str::to_owned);
        Ok(Cue { method, skip: small(num("nth", 1).saturating_sub(1)), count: small(num("count", 1)), user, kind })
    }
}

/// Counts this call against the cues and returns those that hit it.
pub(crate) fn take(cues: &mut Vec<Cue>, method: &str, user: &str) -> Vec<CueKind> {
    let mut hits = Vec::new();
    let hit = |c: &Cue| (c.method == method || c.method == "*") && c.user.as_deref().is_none_or(|u| u == user);
    for c in cues.iter_mut().filter(|c| hit(c)) {
        if c.skip > 0 {
            c.skip -= 1;
        } else if c.count > 0 {
            c.count -= 1;
            hits.push(c.kind.clone());
        }
    }
    cues.retain(|c| c.count > 0);
    hits
}
