//! What becomes of scripted jobs, and of a collector that takes nothing.
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hotadd_api::v1::{Cleanup, DiskFacts, DiskResult, Reason, Stages, Transport};
use tokio::sync::Notify;

use super::{
    otlp::{CLIENT, ExportTraceServiceRequest, FLAG_IS_REMOTE, KeyValue, SERVER, STATUS_ERROR, STATUS_OK, Span, Value},
    queue::{Failed, Queue, Way},
    spans,
    story::{MOST, Of, Read, Story, Task, Wait},
    *,
};
use crate::{
    id::{JobId, SessionId},
    metrics::gauges::Snapshot,
    reason,
};

const CANARY: &str = "cst-VCT-canary-ticket";

fn at(began: Instant, ms: u64) -> Instant {
    began + Duration::from_millis(ms)
}

fn task(what: &'static str, id: &str, began: Instant, ended: Instant) -> Task {
    Task { what, id: id.into(), duties: 1, began, ended, code: None }
}

fn disk(key: i32, bytes: u64) -> DiskResult {
    let facts = DiskFacts { device_key: key, label: CANARY.into(), ..DiskFacts::default() };
    DiskResult {
        disk: Some(facts),
        engine: "io_uring".into(),
        bytes_read: bytes,
        bytes_sent: bytes / 2,
        transport: Transport::Hotadd.into(),
        reasons: vec![Reason { message: CANARY.into(), ..Reason::default() }],
        stages: Some(Stages { source_us: 7, ..Stages::default() }),
        ..DiskResult::default()
    }
}

fn ended(code: Option<&'static str>) -> Ended {
    let disks = vec![disk(2000, 10), disk(2001, 10)];
    Ended { vm_moref: "vm-42".into(), vm_name: "web01".into(), disks, code, cleanup: Cleanup::Done }
}

/// A job that goes as far as its reads.
fn job(parent: Option<Parent>) -> (Story, Instant) {
    let began = Instant::now();
    let mut story = Story::new(Of::Job(JobId::new()), SessionId::new(), parent, began);
    story.stage("preflight", began);
    story.wait(Wait { at: at(began, 3), code: reason::SES_BUSY.code });
    story.wait(Wait { at: at(began, 4), code: reason::SES_BUSY.code });
    story.stage_over(at(began, 10));
    story.stage("snapshot", at(began, 10));
    story.task(task("create snapshot", "task-1", at(began, 11), at(began, 19)));
    story.stage_over(at(began, 20));
    story.stage("attach", at(began, 20));
    for _ in 0..2 {
        story.task(task("attach", "task-2", at(began, 21), at(began, 29)));
    }
    story.stage_over(at(began, 30));
    story.stage("read", at(began, 30));
    (story, began)
}

/// And to its end.
fn whole(parent: Option<Parent>) -> (Vec<Span>, Story) {
    let (mut story, began) = job(parent);
    for key in [2000, 2001] {
        story.read(Read { began: at(began, 31), ended: at(began, 39), result: disk(key, 10), code: None });
    }
    story.stage_over(at(began, 40));
    // Between two stages.
    story.task(task("consolidate", "task-3", at(began, 41), at(began, 42)));
    story.stage("detach", at(began, 45));
    story.task(task("detach", "task-4", at(began, 46), at(began, 49)));
    story.stage_over(at(began, 50));
    (spans::of(&story, &ended(None), at(began, 60)), story)
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

fn said(told: &[KeyValue], key: &str) -> String {
    let value = told.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone()?.value);
    match value {
        Some(Value::Text(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::List(list)) => format!("{:?}", list.values.len()),
        None => String::new(),
    }
}

fn code(span: &Span) -> i32 {
    span.status.as_ref().map_or(0, |status| status.code)
}

#[test]
fn a_job_is_one_trace_of_stages_with_tasks_and_reads_below_them() {
    let (spans, story) = whole(None);
    let (root, below) = spans.split_first().unwrap();
    assert_eq!((root.name.as_str(), root.kind, root.parent_span_id.len(), code(root)), ("job", SERVER, 0, STATUS_OK));
    let Of::Job(id) = story.of else { panic!("no job") };
    assert!(spans.iter().all(|span| span.trace_id == id.bytes() && span.span_id.len() == 8));
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len());
    for (name, parent) in [
        ("preflight", "job"),
        ("snapshot", "job"),
        ("attach", "job"),
        ("read", "job"),
        ("detach", "job"),
        ("create snapshot", "snapshot"),
        ("read disk", "read"),
        ("consolidate", "job"),
    ] {
        assert_eq!(named(&spans, name).parent_span_id, named(&spans, parent).span_id, "{name}");
    }
    let attach = below.iter().find(|span| span.kind == CLIENT && span.name == "attach").unwrap();
    assert_eq!(attach.parent_span_id, named(below, "attach").span_id);
    let told = (said(&attach.attributes, "hotadd.vcenter.task"), said(&attach.attributes, "hotadd.duties"));
    assert_eq!(told, ("task-2".into(), "2".into()), "disks of a batch share their task");
    for (key, value) in [
        ("hotadd.job.id", id.to_string()),
        ("hotadd.session.id", story.session.to_string()),
        ("hotadd.vm.moref", "vm-42".into()),
        ("hotadd.vm.name", "web01".into()),
        ("hotadd.disks", "2".into()),
        ("hotadd.bytes_read", "20".into()),
        ("hotadd.bytes_sent", "10".into()),
        ("hotadd.transports", "1".into()),
        ("hotadd.cleanup", "done".into()),
        ("hotadd.reason", String::new()),
    ] {
        assert_eq!(said(&root.attributes, key), value, "{key}");
    }
    assert_eq!(root.events.len(), 1, "the same wait once: {:?}", root.events);
}

#[test]
fn times_go_forward_and_children_lie_within_their_parents() {
    let (spans, _) = whole(None);
    for span in &spans {
        let (from, to) = (span.start_time_unix_nano, span.end_time_unix_nano);
        assert!(from <= to, "{span:?}");
        if let Some(parent) = spans.iter().find(|other| other.span_id == span.parent_span_id) {
            assert!(parent.start_time_unix_nano <= from && to <= parent.end_time_unix_nano, "{span:?} in {parent:?}");
        }
    }
    let stages: Vec<u64> = ["preflight", "snapshot", "attach", "read", "detach"]
        .map(|name| named(&spans, name).start_time_unix_nano)
        .to_vec();
    assert!(stages.is_sorted(), "{stages:?}");
    assert_eq!(spans[0].end_time_unix_nano - spans[0].start_time_unix_nano, 60_000_000);
}

#[test]
fn a_failed_job_says_its_code_where_it_broke_and_none_of_its_texts() {
    let (mut story, began) = job(None);
    let code_of = reason::READ_GONE.code;
    let result = disk(2000, 5);
    story.read(Read { began: at(began, 31), ended: at(began, 33), result, code: Some(code_of) });
    story.stage("detach", at(began, 35));
    story.stage_over(at(began, 40));
    let spans = spans::of(&story, &ended(Some(code_of)), at(began, 41));
    for (name, expected) in [("job", STATUS_ERROR), ("read", STATUS_ERROR), ("read disk", STATUS_ERROR), ("attach", 0)]
    {
        assert_eq!(code(named(&spans, name)), expected, "{name}");
    }
    assert_eq!(code(named(&spans, "detach")), 0, "it went well");
    let root = &spans[0];
    assert_eq!(said(&root.attributes, "hotadd.reason"), code_of);
    let message = &root.status.as_ref().unwrap().message;
    assert_eq!(*message, format!("{code_of}: {}", reason::READ_GONE.summary));
    assert_eq!(named(&spans, "read").end_time_unix_nano, named(&spans, "detach").start_time_unix_nano);
    assert!(!format!("{spans:?}").contains("canary"), "{spans:#?}");
}

#[test]
fn a_stage_that_ended_badly_says_so_and_the_next_does_not() {
    let began = Instant::now();
    let mut story = Story::new(Of::Session, SessionId::new(), None, began);
    story.vm = ("vm-7".into(), "web01".into());
    story.stage("read", began);
    story.stage_broke(reason::READ_GONE.code);
    story.stage_over(at(began, 5));
    // Of no stage any more.
    story.stage_broke(reason::SES_BUSY.code);
    story.stage("detach", at(began, 5));
    story.stage_over(at(began, 9));
    let spans = spans::of(&story, &Ended::default(), at(began, 10));
    assert_eq!(said(&named(&spans, "read").attributes, "hotadd.reason"), reason::READ_GONE.code);
    assert!(named(&spans, "detach").status.is_none());
    assert_eq!(said(&spans[0].attributes, "hotadd.vm.moref"), "vm-7", "also of one that ended before it was told");
}

#[test]
fn under_a_parent_it_is_a_part_of_that_trace() {
    let parent = Parent { trace: [7; 16], span: [9; 8], sampled: true };
    let (spans, _) = whole(Some(parent));
    assert!(spans.iter().all(|span| span.trace_id == [7; 16]));
    assert_eq!(spans[0].parent_span_id, [9; 8]);
    assert!(spans[0].flags & FLAG_IS_REMOTE != 0 && spans[1].flags & FLAG_IS_REMOTE == 0);
}

#[test]
fn a_session_that_reads_for_days_is_bounded_and_keeps_its_end() {
    let began = Instant::now();
    let mut story = Story::new(Of::Session, SessionId::new(), None, began);
    story.stage("open", began);
    for n in 0..10 * MOST as u64 {
        story.read(Read { began: at(began, n), ended: at(began, n + 1), result: disk(2000, 1), code: None });
        story.wait(Wait {
            at: at(began, n),
            code: if n % 2 == 0 { reason::SES_BUSY.code } else { reason::SES_DRAIN.code },
        });
    }
    story.stage_over(at(began, 99_000));
    story.stage("detach", at(began, 99_000));
    let long = "é".repeat(500);
    let ended = Ended { vm_name: long, ..ended(None) };
    let spans = spans::of(&story, &ended, at(began, 99_001));
    assert_eq!(spans.len(), MOST + 3);
    named(&spans, "detach");
    assert_eq!(said(&spans[0].attributes, "hotadd.left_out"), (2 * 9 * MOST).to_string());
    assert_eq!(said(&spans[0].attributes, "hotadd.bytes_read"), (10 * MOST).to_string(), "all are counted");
    assert!(said(&spans[0].attributes, "hotadd.vm.name").len() <= 256);
    assert_eq!(spans[0].trace_id, story.session.bytes());
}

/// Answers as it is told, and keeps what it was sent.
#[derive(Clone, Default)]
struct Double {
    answers: Arc<Mutex<Vec<Result<(), Failed>>>>,
    taken: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    called: Arc<Notify>,
    hangs: bool,
}

impl Way for Double {
    async fn send(&mut self, batch: ExportTraceServiceRequest) -> Result<(), Failed> {
        self.taken.lock().unwrap().push(batch);
        self.called.notify_one();
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.answers.lock().unwrap().pop().unwrap_or(Ok(()))
    }
}

impl Double {
    fn calls(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

/// Of one try: pauses between tries begin with a tenth of it.
const SHORT: Duration = Duration::from_millis(100);
/// Longer than any test: who waits for it, or for a tenth of it, hangs.
const LONG: Duration = Duration::from_secs(6000);
/// What is near does not take so long, on whatever machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn queue(double: &Double, patience: Duration) -> (Queue, Meter) {
    let meter = Meter::default();
    (Queue::start(double.clone(), patience, "proxy", meter.clone()), meter)
}

async fn flushed(queue: &Queue) {
    tokio::time::timeout(DEADLINE, queue.flush()).await.expect("it waits for the collector");
}

fn dropped(meter: &Meter) -> String {
    let text = meter.text(&Snapshot::default());
    let line = text.lines().find_map(|line| line.strip_prefix("hotadd_traces_dropped_total "));
    line.unwrap_or_else(|| panic!("no series in {text}")).to_owned()
}

fn trace() -> Vec<Span> {
    vec![Span { name: "job".into(), ..Span::default() }]
}

#[tokio::test]
async fn what_a_collector_takes_is_not_counted_as_dropped() {
    let double = Double::default();
    let (queue, meter) = queue(&double, LONG);
    for _ in 0..20 {
        queue.push(trace());
    }
    flushed(&queue).await;
    let taken = double.taken.lock().unwrap();
    let spans: usize = taken.iter().map(|batch| batch.resource_spans[0].scope_spans[0].spans.len()).sum();
    assert_eq!((spans, taken.len(), dropped(&meter).as_str()), (20, 3, "0"), "in batches");
    let of = &taken[0].resource_spans[0].resource.as_ref().unwrap().attributes;
    assert_eq!((said(of, "service.name"), said(of, "service.instance.id")), ("hotadd-agent".into(), "proxy".into()));
}

#[tokio::test]
async fn a_collector_that_hangs_holds_nobody_and_no_memory_without_bound() {
    let double = Double { hangs: true, ..Double::default() };
    let (queue, meter) = queue(&double, LONG);
    queue.push(trace());
    double.called.notified().await;
    // Nothing else runs between these: a push that waited for room would wait for ever.
    for _ in 0..1000 {
        queue.push(trace());
    }
    assert_eq!(dropped(&meter), "872", "128 wait");
    flushed(&queue).await;
}

#[tokio::test]
async fn a_batch_is_tried_some_times_and_dropped() {
    let again = Err(Failed::Again("away".into()));
    let double = Double { answers: Arc::new(Mutex::new(vec![again; 4])), ..Double::default() };
    let (queue, meter) = queue(&double, SHORT);
    queue.push(trace());
    let all = async {
        while dropped(&meter) != "1" {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("it is never dropped");
    assert_eq!(double.calls(), 4);
    queue.push(trace());
    flushed(&queue).await;
    assert_eq!((double.calls(), dropped(&meter).as_str()), (5, "1"), "it is there again");
}

#[tokio::test]
async fn a_try_has_an_end() {
    let double = Double { hangs: true, ..Double::default() };
    let (queue, meter) = queue(&double, SHORT);
    queue.push(trace());
    double.called.notified().await;
    tokio::time::timeout(DEADLINE, double.called.notified()).await.expect("it is not tried again");
    flushed(&queue).await;
    assert_eq!(dropped(&meter), "1");
}

#[tokio::test]
async fn what_a_collector_refuses_for_good_is_not_sent_again() {
    let refused = Err(Failed::Final("no".into()));
    let double = Double { answers: Arc::new(Mutex::new(vec![refused])), ..Double::default() };
    let (queue, meter) = queue(&double, LONG);
    queue.push(trace());
    flushed(&queue).await;
    assert_eq!((double.calls(), dropped(&meter).as_str()), (1, "1"));
    queue.push(trace());
    assert_eq!(dropped(&meter), "2", "after the end");
}

#[tokio::test]
async fn the_end_of_the_agent_cuts_a_pause_short() {
    let again = Err(Failed::Again("away".into()));
    let double = Double { answers: Arc::new(Mutex::new(vec![again])), ..Double::default() };
    let (queue, meter) = queue(&double, LONG);
    queue.push(trace());
    double.called.notified().await;
    flushed(&queue).await;
    assert_eq!((double.calls(), dropped(&meter).as_str()), (2, "0"));
}

#[tokio::test]
async fn what_a_client_does_not_record_is_not_recorded_here() {
    let double = Double::default();
    let (queue, meter) = queue(&double, LONG);
    let traces = Traces(Some(Arc::new(Shared { open: Mutex::default(), queue, meter })));
    let unwanted = Parent { trace: [7; 16], span: [9; 8], sampled: false };
    let (one, two) = (SessionId::new(), SessionId::new());
    traces.begin(Of::Session, one, Some(unwanted));
    traces.begin(Of::Session, two, None);
    for session in [one, two] {
        traces.next_stage(session, "preflight");
        traces.end(session, &ended(None));
        // Nothing is told of what is over.
        traces.stage(session, "late");
        traces.end(session, &ended(None));
    }
    tokio::time::timeout(DEADLINE, traces.flush()).await.expect("it waits");
    let taken = double.taken.lock().unwrap();
    let spans = &taken[0].resource_spans[0].scope_spans[0].spans;
    assert_eq!((taken.len(), spans.len(), &spans[0].trace_id[..]), (1, 2, &two.bytes()[..]));
}
