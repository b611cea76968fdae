//! The spans of one job or session, made at its end from what was noted. A pure function; what may go into a span is decided here: names,
//! ids, numbers and reason codes, each of a known kind. No text of an error (it quotes vCenter, paths and what a client sent), no ticket, no
//! address.
//!
//! ```text
//! job │ session ─┬─ stage ─┬─ task of vCenter
//!                │         └─ read of a disk
//!                └─ what began in no stage
//! ```
use std::time::Instant;

use hotadd_api::v1::{self, Cleanup};
use uuid::Uuid;

use super::{
    otlp::{
        CLIENT, Event, FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE, FLAG_SAMPLED, INTERNAL, KeyValue, SERVER, STATUS_ERROR,
        STATUS_OK, Span, Status,
    },
    story::{Of, Read, Stage, Story, Task},
};
use crate::{metrics::way, reason};

/// Bytes of a name that comes from vCenter.
const LONGEST: usize = 256;

/// How it ended, and what it was about.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// Empty: never known.
    pub vm_moref: String,
    pub vm_name: String,
    pub disks: Vec<v1::DiskResult>,
    /// `None`: as it should.
    pub code: Option<&'static str>,
    pub cleanup: Cleanup,
}

/// The root comes first.
pub(super) fn of(story: &Story, ended: &Ended, at: Instant) -> Vec<Span> {
    let ids = Ids::of(story);
    let root = root(story, ended, at, &ids);
    let stages: Vec<(&Stage, Instant, Span)> = staged(story, at)
        .map(|(stage, until)| {
            let broken_off = if stage.ended.is_none() { ended.code } else { None };
            let code = stage.code.or(broken_off);
            let span = ids.span(stage.name, INTERNAL, &root.span_id);
            (stage, until, timed(span, story, stage.began, until, code))
        })
        .collect();
    let parent = |began: Instant| {
        let within = stages.iter().rev().find(|(stage, until, _)| stage.began <= began && began <= *until);
        within.map_or(&root.span_id, |(.., span)| &span.span_id)
    };
    let tasks = story.tasks.iter().map(|task| {
        let span = ids.span(task.what, CLIENT, parent(task.began));
        let span = Span { attributes: told_of_task(task), ..span };
        timed(span, story, task.began, task.ended.min(at), task.code)
    });
    let reads = story.reads.iter().map(|read| {
        let span = ids.span("read disk", INTERNAL, parent(read.began));
        let span = Span { attributes: told_of_read(read), ..span };
        timed(span, story, read.began, read.ended.min(at), read.code)
    });
    let below: Vec<Span> = tasks.chain(reads).collect();
    let stages: Vec<Span> = stages.into_iter().map(|(.., span)| span).collect();
    std::iter::once(root).chain(stages).chain(below).collect()
}

/// What all spans of a trace have in common.
struct Ids {
    trace: Vec<u8>,
}

impl Ids {
    /// The trace of the client that asked; else the id of the job or session, so that one who has that finds the trace.
    fn of(story: &Story) -> Self {
        let own = match story.of {
            Of::Job(job) => job.bytes(),
            Of::Session => story.session.bytes(),
        };
        Self { trace: story.parent.map_or(own, |parent| parent.trace).to_vec() }
    }

    fn span(&self, name: &str, kind: i32, parent: &[u8]) -> Span {
        // The half of a random UUID that is never zero: it holds the variant.
        let (_, id) = Uuid::new_v4().as_u64_pair();
        Span {
            trace_id: self.trace.clone(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: parent.to_vec(),
            name: name.to_owned(),
            kind,
            flags: FLAG_SAMPLED | FLAG_HAS_IS_REMOTE,
            ..Span::default()
        }
    }
}

fn root(story: &Story, ended: &Ended, at: Instant, ids: &Ids) -> Span {
    let (name, job) = match story.of {
        Of::Job(job) => ("job", Some(job)),
        Of::Session => ("session", None),
    };
    let parent = story.parent.map(|parent| parent.span.to_vec()).unwrap_or_default();
    let mut root = ids.span(name, SERVER, &parent);
    if story.parent.is_some() {
        root.flags |= FLAG_IS_REMOTE;
    }
    root.attributes.extend(job.map(|job| KeyValue::text("hotadd.job.id", job.to_string())));
    root.attributes.push(KeyValue::text("hotadd.session.id", story.session.to_string()));
    let (moref, name) = &story.vm;
    let vm = [("hotadd.vm.moref", &ended.vm_moref, moref), ("hotadd.vm.name", &ended.vm_name, name)];
    for (key, value, early) in vm {
        let value = if value.is_empty() { early } else { value };
        if !value.is_empty() {
            root.attributes.push(KeyValue::text(key, bounded(value)));
        }
    }
    let mut transports: Vec<&str> = ended.disks.iter().map(|disk| way(disk.transport())).collect();
    transports.sort_unstable();
    transports.dedup();
    root.attributes.extend([
        KeyValue::number("hotadd.disks", ended.disks.len() as u64),
        KeyValue::list("hotadd.transports", transports),
        KeyValue::number("hotadd.bytes_read", story.bytes.0),
        KeyValue::number("hotadd.bytes_sent", story.bytes.1),
        KeyValue::text("hotadd.cleanup", if ended.cleanup == Cleanup::Owed { "owed" } else { "done" }),
    ]);
    if story.left_out > 0 {
        root.attributes.push(KeyValue::number("hotadd.left_out", story.left_out));
    }
    let waits = story.waits.iter().map(|wait| Event {
        time_unix_nano: story.time(wait.at.min(at)),
        name: "waiting".to_owned(),
        attributes: vec![KeyValue::text("hotadd.reason", wait.code)],
    });
    root.events = waits.collect();
    let root = timed(root, story, story.began, at, ended.code);
    // Said, and not only left unset: a job that is OK has delivered every byte.
    let ok = Status { message: String::new(), code: STATUS_OK };
    Span { status: root.status.or(Some(ok)), ..root }
}

/// Each stage and until when it was: one that was broken off, until the next began.
fn staged(story: &Story, at: Instant) -> impl Iterator<Item = (&Stage, Instant)> {
    let next = story.stages.iter().skip(1).map(|stage| stage.began).chain([at]);
    story.stages.iter().zip(next).map(move |(stage, next)| (stage, stage.ended.unwrap_or(next).min(at)))
}

fn timed(span: Span, story: &Story, began: Instant, ended: Instant, code: Option<&'static str>) -> Span {
    let mut span = Span {
        start_time_unix_nano: story.time(began),
        end_time_unix_nano: story.time(ended.max(began)),
        status: code.map(failed),
        ..span
    };
    span.attributes.extend(code.map(|code| KeyValue::text("hotadd.reason", code)));
    span
}

/// In the words of the registry: the error's own text quotes others.
fn failed(code: &'static str) -> Status {
    let summary = reason::by_code(code).map_or("", |known| known.summary);
    Status { message: format!("{code}: {summary}"), code: STATUS_ERROR }
}

fn told_of_task(task: &Task) -> Vec<KeyValue> {
    vec![KeyValue::text("hotadd.vcenter.task", bounded(&task.id)), KeyValue::number("hotadd.duties", task.duties)]
}

fn told_of_read(read: &Read) -> Vec<KeyValue> {
    let disk = &read.result;
    let key = disk.disk.as_ref().map_or(0, |facts| facts.device_key);
    let mut told = vec![
        KeyValue::number("hotadd.disk.key", u64::try_from(key).unwrap_or_default()),
        KeyValue::text("hotadd.transport", way(disk.transport())),
        KeyValue::text("hotadd.engine", bounded(&disk.engine)),
        KeyValue::number("hotadd.bytes_read", disk.bytes_read),
        KeyValue::number("hotadd.bytes_sent", disk.bytes_sent),
        KeyValue::number("hotadd.bytes_zero", disk.zero_bytes),
    ];
    if let Some(v1::Stages { source_us, agent_us, outlet_us, paced_us }) = disk.stages {
        told.extend([
            KeyValue::number("hotadd.source_us", source_us),
            KeyValue::number("hotadd.agent_us", agent_us),
            KeyValue::number("hotadd.outlet_us", outlet_us),
            KeyValue::number("hotadd.paced_us", paced_us),
        ]);
    }
    told
}

fn bounded(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
    }
    text
}
