//! Traces as a collector gets them, and collectors that get none: nobody else may notice.
use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use hotadd_agent::traces::otlp::{ExportTraceServiceRequest, STATUS_ERROR, STATUS_OK, Span, Value};
use hotadd_api::v1::{BackupVmRequest, CloseDisksRequest, JobResult, JobState, job_event::Item};
use hotadd_harness::{Content, Pki, Run, Scene, pki::Leaf, scene::TARGET};
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::Request;

use crate::collector::Collector;
use crate::faults::may_not;
use crate::metrics::{metrics, value};
use crate::support::{
    MIB, dense, disks, eventually, jobs, nothing_is_left, nothing_stays, open_request, request, scene, skip,
};

/// A scene whose agent sends to this collector. The agent's certificate is one that may be a client's, too.
fn traced(disks: &[Content], collector: &mut Collector) -> Result<([tempfile::TempDir; 2], Scene)> {
    let folder = tempfile::tempdir()?;
    let own = Pki::create(folder.path(), &["localhost"])?;
    let (dir, scene) = scene(disks, |spec| {
        spec.agent_toml.push_str(&format!(
            "[traces]\nendpoint = 'https://localhost:{}'\nca_file = '{}'\n[metrics]\nlisten = '127.0.0.1:0'\n",
            collector.address.port(),
            own.file("ca.pem").display()
        ));
    })?;
    let leaf =
        Leaf { authority: "ca", file: "server", names: &["localhost", "127.0.0.1"], server: true, lifetime: None };
    scene.pki.issue_for_both(&leaf)?;
    collector.serve(&own, &scene.pki.file("ca.pem"))?;
    Ok(([dir, folder], scene))
}

async fn run(scene: &Scene, wanted: BackupVmRequest, parent: Option<&'static str>) -> Result<JobResult> {
    let mut asked = Request::new(wanted);
    if let Some(parent) = parent {
        asked.metadata_mut().insert("traceparent", parent.parse()?);
    }
    let mut stream = jobs(scene).await?.backup_vm(asked).await?.into_inner();
    let mut result = None;
    while let Some(event) = stream.message().await? {
        if let Some(Item::Result(last)) = event.item {
            result = Some(last);
        }
    }
    result.context("no result")
}

fn spans(collector: &Collector) -> Result<Vec<Span>> {
    let mut all = Vec::new();
    for body in collector.taken() {
        let request = ExportTraceServiceRequest::decode(body.as_slice())?;
        let scopes = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
        all.extend(scopes.flat_map(|scope| scope.spans));
    }
    Ok(all)
}

/// The spans of so many traces, once they are there.
async fn arrived(collector: &Collector, traces: usize) -> Result<Vec<Span>> {
    let roots = |all: &[Span]| all.iter().filter(|span| ["job", "session"].contains(&span.name.as_str())).count();
    eventually("the traces are there", async || Ok(roots(&spans(collector)?) >= traces)).await?;
    spans(collector)
}

fn said(span: &Span, key: &str) -> Option<String> {
    match span.attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value? {
        Value::Text(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::List(_) => None,
    }
}

fn children<'a>(all: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    let mut below: Vec<&Span> = all.iter().filter(|span| span.parent_span_id == parent.span_id).collect();
    below.sort_by_key(|span| span.start_time_unix_nano);
    below
}

fn names(spans: &[&Span]) -> Vec<String> {
    spans.iter().map(|span| span.name.clone()).collect()
}

fn code(span: &Span) -> i32 {
    span.status.as_ref().map_or(0, |status| status.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_one_trace_with_stages_in_order_and_the_ids_of_its_tasks() -> Result<()> {
    let mut collector = Collector::bind().await?;
    let (_dirs, scene) = traced(&[dense(4 * MIB, 1), dense(4 * MIB, 2)], &mut collector)?;
    let result = run(&scene, request(TARGET), None).await?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    let all = arrived(&collector, 1).await?;
    let root = all.first().context("no span")?;
    ensure!(root.name == "job" && root.parent_span_id.is_empty() && code(root) == STATUS_OK, "{root:#?}");
    assert_eq!(said(root, "hotadd.job.id"), Some(result.job_id.clone()));
    assert_eq!(root.trace_id, uuid::Uuid::parse_str(&result.job_id)?.as_bytes(), "who has the job has its trace");
    assert_eq!(said(root, "hotadd.vm.moref"), Some(result.vm_moref.clone()));
    assert_eq!(said(root, "hotadd.bytes_read"), Some((8 * MIB).to_string()));
    ensure!(all.iter().all(|span| span.trace_id == root.trace_id));
    let stages = children(&all, root);
    assert_eq!(names(&stages), ["preflight", "snapshot", "attach", "read", "detach", "remove snapshot"]);
    for (stage, task) in [(1, "create snapshot"), (2, "attach"), (4, "detach"), (5, "remove snapshot")] {
        let below = children(&all, stages[stage]);
        ensure!(!below.is_empty() && names(&below).iter().all(|name| name == task), "{task}: {below:#?}");
        let id = said(below[0], "hotadd.vcenter.task").context("no task")?;
        ensure!(id.starts_with("task-"), "{id}");
        let audited = fs::read_to_string(scene.dir.join("agent.log"))?;
        ensure!(audited.lines().any(|line| line.contains(&id) && line.contains("audit")), "{id} is in no audit entry");
    }
    assert_eq!(names(&children(&all, stages[3])), ["read disk"; 2]);
    for body in collector.taken() {
        let text = String::from_utf8_lossy(&body).into_owned();
        for secret in [hotadd_harness::scene::PASSWORD, "BEGIN ", "vmdk", "administrator"] {
            ensure!(!text.contains(secret), "{secret} is in a trace");
        }
    }
    assert_eq!(value(&metrics(&scene).await?, "hotadd_traces_dropped_total")?, 0.0);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_says_with_which_code_and_where() -> Result<()> {
    let mut collector = Collector::bind().await?;
    let (_dirs, scene) = traced(&[dense(MIB, 1)], &mut collector)?;
    may_not(&scene, "VirtualMachine.State.CreateSnapshot").await?;
    let result = run(&scene, request(TARGET), None).await?;
    ensure!(result.state() == JobState::Failed, "{result:#?}");
    let why = result.reasons.first().context("no reason")?.code.clone();
    let all = arrived(&collector, 1).await?;
    let root = all.first().context("no span")?;
    assert_eq!((code(root), said(root, "hotadd.reason")), (STATUS_ERROR, Some(why.clone())));
    let stages = children(&all, root);
    let broken: Vec<_> = stages.iter().filter(|span| code(span) == STATUS_ERROR).map(|span| &span.name).collect();
    ensure!(broken.len() == 1 && ["preflight", "snapshot"].contains(&broken[0].as_str()), "{broken:?}");
    // A VM that is not there has no name in its trace.
    run(&scene, request("no-such-vm"), None).await?;
    let all = arrived(&collector, 2).await?;
    let root = all.iter().rfind(|span| span.name == "job").context("no root")?;
    assert_eq!((code(root), said(root, "hotadd.vm.name")), (STATUS_ERROR, None));
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controllers_span_is_the_parent_and_a_forged_one_is_not() -> Result<()> {
    let mut collector = Collector::bind().await?;
    let (_dirs, scene) = traced(&[dense(MIB, 1)], &mut collector)?;
    run(&scene, request(TARGET), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")).await?;
    let all = arrived(&collector, 1).await?;
    let root = all.first().context("no span")?;
    assert_eq!(root.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(root.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    let forged =
        run(&scene, request(TARGET), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'; --")).await?;
    ensure!(forged.state() == JobState::Ok, "{forged:#?}");
    // A session: its reads and its end are of the trace as well.
    let mut disks = disks(&scene).await?;
    let mut asked = Request::new(open_request(TARGET));
    asked.metadata_mut().insert("traceparent", "00-11111111111111111111111111111111-2222222222222222-01".parse()?);
    let opened = disks.open_disks(asked).await?.into_inner();
    disks.close_disks(CloseDisksRequest { session_id: opened.session_id.clone() }).await?;
    let all = arrived(&collector, 3).await?;
    let own = all.iter().find(|span| said(span, "hotadd.job.id") == Some(forged.job_id.clone())).context("no root")?;
    ensure!(own.parent_span_id.is_empty() && own.trace_id != root.trace_id, "{own:#?}");
    let session = all.iter().find(|span| span.name == "session").context("no session")?;
    assert_eq!(said(session, "hotadd.session.id"), Some(opened.session_id));
    assert_eq!((session.trace_id[..] == [0x11; 16], code(session)), (true, STATUS_OK), "{session:#?}");
    let stages = children(&all, session);
    assert_eq!(names(&stages), ["preflight", "snapshot", "attach", "open", "detach", "remove snapshot"]);
    nothing_is_left(&scene).await
}

/// What a collector may do that is none.
#[derive(Debug, Clone, Copy)]
enum Bad {
    Refuses,
    Hangs,
    Garbage,
}

/// A port that behaves so, on this machine.
async fn bad(how: Bad) -> Result<u16> {
    use tokio::io::AsyncWriteExt as _;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    if matches!(how, Bad::Refuses) {
        return Ok(port);
    }
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if matches!(how, Bad::Garbage) {
                stream.write_all(b"\0\xff\xff garbage\r\n\r\n").await.ok();
            }
            open.push(stream);
        }
    });
    Ok(port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_collector_only_loses_its_traces() -> Result<()> {
    for how in [Bad::Refuses, Bad::Hangs, Bad::Garbage] {
        let port = bad(how).await?;
        let (_dir, mut scene) = scene(&[dense(MIB, 1)], |spec| {
            spec.agent_toml.push_str(&format!(
                "[traces]\nendpoint = 'http://127.0.0.1:{port}'\ntimeout_seconds = 0.2\n[metrics]\nlisten = '127.0.0.1:0'\n"
            ));
        })?;
        let result = run(&scene, request(TARGET), None).await?;
        ensure!(result.state() == JobState::Ok, "{how:?}: {result:#?}");
        let lost = "hotadd_traces_dropped_total";
        eventually("its loss is counted", async || Ok(value(&metrics(&scene).await?, lost)? == 1.0)).await?;
        nothing_is_left(&scene).await?;
        // The agent ends in order, whatever the collector does.
        run(&scene, request(TARGET), None).await?;
        let ended = scene.take_agent()?.stop()?;
        ensure!(ended.success(), "{how:?}: {ended}");
    }
    Ok(())
}

/// A Python that has the messages as OpenTelemetry publishes them; `$HOTADD_PYTHON` names it.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("HOTADD_PYTHON").unwrap_or_else(|| "python3".into()));
    let import = "import opentelemetry.proto.collector.trace.v1.trace_service_pb2";
    let imports = Command::new(&python).args(["-c", import]).output();
    if imports.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip("the reader of traces: no Python with opentelemetry-proto (HOTADD_PYTHON)");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn judged_by_opentelemetrys_own_messages_a_job_is_a_whole_trace() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let mut collector = Collector::bind().await?;
    let (dirs, scene) = traced(&[dense(MIB, 1)], &mut collector)?;
    let result = run(&scene, request(TARGET), None).await?;
    arrived(&collector, 1).await?;
    let file = dirs[0].path().join("request.bin");
    fs::write(&file, collector.taken().first().context("nothing came")?)?;
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/contract/check_trace.py");
    let judged = Run::of(Command::new(python).arg(program).arg(&file).arg(&result.job_id))?;
    ensure!(judged.code == 0, "{judged:#?}");
    nothing_is_left(&scene).await
}
