//! Many jobs and sessions at the same time: turns before the snapshot, turns to read, batches of several jobs, many disks, and the memory of
//! it all.
use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{BackupVmRequest, CloseDisksRequest, JobState, Phase, ReadDiskRequest, read_disk_response::Item};
use hotadd_harness::{
    Content, Scene, Spec,
    scene::{TARGET, vm},
};
use serde_json::json;
use vcenter_sim::inventory::DiskSpec;

use crate::support::{
    MIB, Running, Seen, backup, by_id, calls, codes, dense, disks, ended, eventually, fault, images_equal_sources,
    nothing_is_left, open_request, reading, refused, request, scene,
};

/// One more VM with one disk; no source: it is empty.
fn more(spec: &mut Spec, name: &str) {
    spec.inventory.vms.push(vm(name, vec![DiskSpec { capacity: Some(MIB), unit: Some(0), ..DiskSpec::default() }]));
}

async fn snapshots(scene: &Scene, vm: &str) -> Result<usize> {
    Ok(scene.control().await?.snapshots(vm).await?.len())
}

async fn ok(run: Running) -> Result<()> {
    let done = run.finish().await?;
    let result = done.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datastore_holds_so_many_snapshots_and_the_others_wait_in_order() -> Result<()> {
    let (dir, scene) = scene(&[dense(48 * MIB, 1)], |spec| {
        spec.set("limits", "snapshots_per_datastore", 1);
        spec.set("deadlines", "hold_seconds", 0.2);
        more(spec, "second");
        more(spec, "third");
    })?;
    let first = reading(&scene, &dir, request(TARGET)).await?;
    let mut second = Running::start(&scene, request("second"), dir.path()).await?;
    second.until(Seen::Waiting).await?;
    assert_eq!(second.delivered.waited, ["HA-SNP-010"]);
    let mut third = Running::start(&scene, request("third"), dir.path()).await?;
    third.until(Seen::Waiting).await?;
    assert_eq!((snapshots(&scene, "second").await?, snapshots(&scene, "third").await?), (0, 0));
    ok(first).await?;
    second.until(Seen::Snapshot).await?;
    second.until(Seen::Phase(Phase::Attach, true)).await?;
    assert_eq!(snapshots(&scene, "third").await?, 0, "not before the second is gone");
    ok(second).await?;
    ok(third).await?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_as_long_as_for_hosts_and_a_kept_snapshot_counts() -> Result<()> {
    let (dir, scene) = scene(&[dense(48 * MIB, 1)], |spec| {
        spec.set("limits", "snapshots_per_datastore", 1);
        spec.set("deadlines", "hold_seconds", 0.2);
        more(spec, "second");
    })?;
    let wanted = BackupVmRequest { resume_window_seconds: 600, ..request(TARGET) };
    let run = reading(&scene, &dir, wanted).await?;
    let job = run.delivered.job_id.clone();
    drop(run);
    assert_eq!(codes(&ended(&scene, by_id(&job)).await?), ["HA-JOB-003"]);
    let why = refused(disks(&scene).await?.open_disks(open_request("second")).await, "HA-SNP-010")?;
    assert!(why.queue_position == 1 && why.retry_after_seconds > 0, "{why:?}");
    let mut second = Running::start(&scene, request("second"), dir.path()).await?;
    second.until(Seen::Waiting).await?;
    // Takes over the snapshot that stands: it needs no turn.
    let resumed = backup(&scene, BackupVmRequest { resume_job: job, ..request(TARGET) }, dir.path()).await?;
    assert_eq!(resumed.result()?.state(), JobState::Ok, "{:#?}", resumed.result);
    ok(second).await?;
    nothing_is_left(&scene).await
}

/// How long a read that must not begin is waited for: it has all it needs but its turn.
const NOTHING: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_attached_while_another_reads_and_reads_when_that_has_ended() -> Result<()> {
    let (dir, scene) = scene(&[dense(96 * MIB, 1)], |spec| {
        spec.set("limits", "reads", 1);
        more(spec, "second");
    })?;
    let first = reading(&scene, &dir, request(TARGET)).await?;
    let mut second = Running::start(&scene, request("second"), dir.path()).await?;
    second.until(Seen::Phase(Phase::Attach, true)).await?;
    assert_eq!(scene.left_attached().await?.len(), 2, "the second is attached ahead");
    assert!(tokio::time::timeout(NOTHING, second.until(Seen::Opened)).await.is_err(), "two are read at a time");
    ok(first).await?;
    second.until(Seen::Opened).await?;
    ok(second).await?;
    nothing_is_left(&scene).await
}

/// How long the first reconfigure holds the gate: the other jobs come to it meanwhile.
const GATE_MS: u64 = 5000;
const CROWD: [&str; 4] = ["second", "third", "fourth", "fifth"];

/// One job at the gate, and then the crowd; what became of the crowd's jobs, by VM.
async fn crowd(scene: &Scene, dir: &Path) -> Result<BTreeMap<&'static str, Vec<String>>> {
    fault(scene, "ReconfigVM_Task", json!({"kind": "delay_ms", "ms": GATE_MS})).await?;
    let first = Running::start(scene, request(TARGET), dir).await?;
    eventually("the first asks", async || Ok(!calls(scene, "ReconfigVM_Task").await?.is_empty())).await?;
    let mut runs = Vec::new();
    for name in CROWD {
        let out = dir.join(name);
        std::fs::create_dir(&out)?;
        runs.push((name, Running::start(scene, request(name), &out).await?));
    }
    ok(first).await?;
    let mut results = BTreeMap::new();
    for (name, run) in runs {
        let done = run.finish().await?;
        results.insert(name, codes(done.result()?).into_iter().map(str::to_owned).collect());
    }
    Ok(results)
}

fn crowded(spec: &mut Spec) {
    spec.set("limits", "snapshots_per_datastore", 0);
    CROWD.iter().for_each(|name| more(spec, name));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_ready_together_are_attached_and_detached_together() -> Result<()> {
    let (dir, scene) = scene(&[dense(MIB, 1)], crowded)?;
    let results = crowd(&scene, dir.path()).await?;
    assert!(results.values().all(Vec::is_empty), "{results:?}");
    let all = calls(&scene, "ReconfigVM_Task").await?;
    let adds = all.iter().filter(|body| body.contains(">add<")).count();
    assert!(adds < CROWD.len(), "{adds} requests for {} jobs", CROWD.len() + 1);
    nothing_is_left(&scene).await
}

/// One disk a request, each request longer than a read.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_detached_before_everything_else_is_attached() -> Result<()> {
    let (dir, scene) = scene(&[dense(MIB, 1)], |spec| {
        crowded(spec);
        spec.set("limits", "attach_batch", 1);
    })?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "delay_ms", "ms": 1000, "nth": 2, "count": 100})).await?;
    let results = crowd(&scene, dir.path()).await?;
    assert!(results.values().all(Vec::is_empty), "{results:?}");
    let all = calls(&scene, "ReconfigVM_Task").await?;
    let adds: Vec<bool> = all.iter().map(|body| body.contains(">add<")).collect();
    let (first_remove, last_add) = (adds.iter().position(|add| !add), adds.iter().rposition(|add| *add));
    assert!(first_remove < last_add, "{adds:?}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_a_joint_request_costs_only_the_job_whose_disk_it_is() -> Result<()> {
    let (dir, scene) = scene(&[dense(MIB, 1)], crowded)?;
    scene.control().await?.locked("[ds1] third/third.vmdk", true).await?;
    let results = crowd(&scene, dir.path()).await?;
    assert_eq!(results["third"], ["HA-ATT-002"], "{results:?}");
    assert!(results.iter().all(|(name, codes)| *name == "third" || codes.is_empty()), "{results:?}");
    nothing_is_left(&scene).await
}

/// Faults that name no disk and prove nothing, and a lost answer: of the joint request only, which is the second.
#[tokio::test(flavor = "multi_thread")]
async fn an_unclear_end_of_a_joint_request_is_settled_and_each_job_asks_alone() -> Result<()> {
    let (dir, scene) = scene(&[dense(MIB, 1)], crowded)?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "task_fault", "nth": 2, "fault": "Timedout"})).await?;
    let results = crowd(&scene, dir.path()).await?;
    assert!(results.values().all(Vec::is_empty), "{results:?}");
    nothing_is_left(&scene).await
}

/// Of the agent: highest resident set so far.
pub fn peak(scene: &mut Scene) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.agent()?.pid()))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

const BUFFERS_MIB: u64 = 64;
/// Of the program and its heap.
const PROGRAM_MIB: u64 = 64;
/// Of a stream: its message as it is encoded (a block, in a buffer that doubles) and what HTTP/2 has of it.
const STREAM_MIB: u64 = 4;
/// What four controllers hold beside their anchors.
const DISKS: u64 = 56;
const SESSIONS: u64 = 16;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_six_disks_in_one_job_then_sixteen_sessions_within_the_memory_allowed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let contents: Vec<Content> = (0..DISKS).map(|n| dense(4 * MIB, n + 1)).collect();
    let mut spec = Spec::new(dir.path(), &contents, 4);
    spec.set("limits", "memory_mib", BUFFERS_MIB);
    spec.set("limits", "snapshots_per_datastore", 0);
    spec.set("limits", "reads", 0);
    spec.set("limits", "parallel_reads", 64);
    let mut sources = Vec::new();
    for n in 0..SESSIONS {
        let source = dir.path().join(format!("other-{n}.raw"));
        dense(24 * MIB, 100 + n).write(&source)?;
        let disk =
            DiskSpec { capacity: Some(24 * MIB), unit: Some(0), source: Some(source.clone()), ..DiskSpec::default() };
        let name = format!("other{n}");
        spec.inventory.vms.push(vm(&name, vec![disk]));
        sources.push((name, source));
    }
    let mut scene = Scene::start(dir.path(), spec)?;
    let done = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(done.result()?.state(), JobState::Ok, "{:#?}", done.result);
    images_equal_sources(&scene, &done)?;
    nothing_is_left(&scene).await?;

    let mut sessions = Vec::new();
    for (name, source) in sources {
        let opened = disks(&scene).await?.open_disks(open_request(&name)).await?.into_inner();
        sessions.push((opened, source));
    }
    assert_eq!(scene.left_attached().await?.len() as u64, SESSIONS);
    // All streams are open before any is read.
    let mut streams = Vec::new();
    for (opened, source) in sessions {
        let key = opened.disks[0].disk.as_ref().context("no disk")?.device_key;
        let read =
            ReadDiskRequest { session_id: opened.session_id.clone(), device_key: key, ..ReadDiskRequest::default() };
        let mut client = disks(&scene).await?;
        streams.push(tokio::spawn(async move {
            let mut stream = client.read_disk(read).await?.into_inner();
            let mut image = Vec::new();
            while let Some(message) = stream.message().await? {
                match message.item.context("empty")? {
                    Item::Frame(frame) if frame.zero => image.resize(image.len() + frame.length as usize, 0),
                    Item::Frame(frame) => image.extend(&frame.data),
                    Item::Done(done) => ensure!(done.ok, "{done:#?}"),
                }
            }
            ensure!(image == std::fs::read(&source)?, "{} came otherwise", source.display());
            anyhow::Ok(opened.session_id)
        }));
    }
    for stream in streams {
        let session_id = stream.await??;
        disks(&scene).await?.close_disks(CloseDisksRequest { session_id }).await?;
    }
    let peak = peak(&mut scene)? / MIB;
    let allowed = BUFFERS_MIB + PROGRAM_MIB + SESSIONS * STREAM_MIB;
    assert!(peak < allowed, "{peak} MiB at {BUFFERS_MIB} MiB of buffers, {allowed} allowed");
    nothing_is_left(&scene).await
}
