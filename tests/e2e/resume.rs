//! A resume window: the snapshot of a broken job is kept, for that long and for that job only; and hotaddctl, which resumes by
//! itself.
use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, Cleanup, DiskRanges, GetJobRequest, JobResult, JobState, KnownBlock, ListDutiesRequest, Range,
    Transport, get_job_request::By, job_event::Item,
};
use hotadd_harness::{
    FileServer, Process, Run, Scene,
    content::same,
    ctl::images,
    scene::{FIRST_KEY, PROXY, TARGET},
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::relay::Relay;
use crate::support::{
    MIB, Running, Seen, backup, calls, codes, control, dense, disks, eventually, jobs, nothing_is_left, nothing_stays,
    request, scene, vsphere,
};

const SIZE: u64 = 48 * MIB;

async fn get(scene: &Scene, job: &str) -> Result<JobResult> {
    let by = Some(By::JobId(job.to_owned()));
    Ok(jobs(scene).await?.get_job(GetJobRequest { by }).await?.into_inner())
}

/// A job that asked for this window and lost its client after a few frames: its id, and how much of the image came.
async fn broken(scene: &Scene, dir: &std::path::Path, window: u32) -> Result<(String, u64)> {
    let wanted = BackupVmRequest { resume_window_seconds: window, ..request(TARGET) };
    let mut run = Running::start(scene, wanted, dir).await?;
    for _ in 0..4 {
        run.until(Seen::Frame).await?;
    }
    Ok((run.delivered.job_id.clone(), 4 * MIB))
}

async fn failed(scene: &Scene, job: &str) -> Result<JobResult> {
    eventually("the job ends", async || Ok(get(scene, job).await?.state() == JobState::Failed)).await?;
    get(scene, job).await
}

fn resume(job: &str, from: u64) -> BackupVmRequest {
    let ranges = vec![Range { offset: from, length: SIZE - from }];
    let ranges = vec![DiskRanges { device_key: FIRST_KEY, ranges, known: vec![] }];
    BackupVmRequest { resume_job: job.to_owned(), ranges, ..request(TARGET) }
}

/// Takes the missing range and puts it into the image that the broken job left.
async fn finish(scene: &Scene, dir: &std::path::Path, request: BackupVmRequest, from: u64) -> Result<()> {
    let mut stream = jobs(scene).await?.backup_vm(request).await?.into_inner();
    let mut image = std::fs::read(dir.join(format!("{FIRST_KEY}.raw")))?;
    let (mut pieces, mut result) = (BTreeMap::new(), None);
    while let Some(event) = stream.message().await? {
        match event.item.context("empty")? {
            Item::Frame(frame) => {
                let data = if frame.zero { vec![0; frame.length as usize] } else { frame.data.to_vec() };
                pieces.insert(frame.offset, data);
            }
            Item::Opened(opened) => ensure!(opened.bytes_required == SIZE - from, "{opened:?}"),
            Item::Result(last) => result = Some(last),
            _ => {}
        }
    }
    let result = result.context("no result")?;
    ensure!(result.state() == JobState::Ok && result.cleanup() == Cleanup::Done, "{result:#?}");
    ensure!(pieces.keys().next() == Some(&from), "more than the missing range was read");
    for (offset, data) in pieces {
        image[usize::try_from(offset)?..][..data.len()].copy_from_slice(&data);
    }
    let whole = dir.join("resumed.raw");
    std::fs::write(&whole, image)?;
    same(&whole, &scene.source(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_job_is_resumed_from_its_kept_snapshot() -> Result<()> {
    let (dir, scene) = scene(&[dense(SIZE, 1)], |_| {})?;
    let (job, from) = broken(&scene, dir.path(), 600).await?;
    let result = failed(&scene, &job).await?;
    assert_eq!(codes(&result), ["HA-JOB-003"]);
    assert!(!result.resume_until.is_empty() && result.cleanup() == Cleanup::Owed, "{result:#?}");
    // Detached at once; the snapshot alone stays, as a duty that says until when.
    eventually("the disks are detached", async || Ok(scene.left_attached().await?.is_empty())).await?;
    assert_eq!(scene.snapshots().await?.len(), 1);
    let duties = disks(&scene).await?.list_duties(ListDutiesRequest {}).await?.into_inner().duties;
    assert_eq!((duties.len(), duties[0].keep_until.as_str()), (1, result.resume_until.as_str()), "{duties:#?}");
    // Nobody else gets the VM meanwhile, and no other job's id opens it.
    assert_eq!(codes(backup(&scene, request(TARGET), dir.path()).await?.result()?), ["HA-SES-005"]);
    let stranger = resume("00000000-0000-0000-0000-000000000000", from);
    assert_eq!(codes(backup(&scene, stranger, dir.path()).await?.result()?), ["HA-JOB-006"]);
    assert_eq!(scene.snapshots().await?.len(), 1);

    // backup() of a refused job creates no image; the broken job's is still there.
    finish(&scene, dir.path(), resume(&job, from), from).await?;
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), 1);
    assert_eq!(get(&scene, &job).await?.cleanup(), Cleanup::Done, "taken over by the job that resumed");
    nothing_is_left(&scene).await?;
    // Once only.
    assert_eq!(codes(backup(&scene, resume(&job, from), dir.path()).await?.result()?), ["HA-JOB-006"]);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_over_and_a_job_without_one_leave_nothing() -> Result<()> {
    let (dir, scene) = scene(&[dense(SIZE, 1)], |spec| spec.set("limits", "resume_max_seconds", 2))?;
    // More than the agent allows: it is cut to its bound.
    let (job, from) = broken(&scene, dir.path(), 86_400).await?;
    failed(&scene, &job).await?;
    nothing_stays(&scene).await?;
    assert_eq!(codes(backup(&scene, resume(&job, from), dir.path()).await?.result()?), ["HA-JOB-006"]);
    let (job, _) = broken(&scene, dir.path(), 0).await?;
    let result = failed(&scene, &job).await?;
    assert_eq!(result.resume_until, "");
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_outlives_a_kill_of_the_agent() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(SIZE, 1)], |_| {})?;
    let (job, from) = broken(&scene, dir.path(), 600).await?;
    let until = failed(&scene, &job).await?.resume_until;
    scene.take_agent()?.kill()?;
    // What systemd runs after a kill leaves it too.
    let reaped = scene.reap()?;
    assert_eq!(reaped.code, 0, "{reaped:?}");
    scene.start_agent()?;
    assert_eq!((scene.left_attached().await?.len(), scene.snapshots().await?.len()), (0, 1));
    assert_eq!(get(&scene, &job).await?.resume_until, until);
    finish(&scene, dir.path(), resume(&job, from), from).await?;
    nothing_is_left(&scene).await
}

/// The agent itself is what breaks the job: the window begins with the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_died_with_the_agent_is_resumed_too() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(SIZE, 1)], |_| {})?;
    let wanted = BackupVmRequest { resume_window_seconds: 600, ..request(TARGET) };
    let mut run = Running::start(&scene, wanted, dir.path()).await?;
    for _ in 0..4 {
        run.until(Seen::Frame).await?;
    }
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    let (job, from) = (run.delivered.job_id.clone(), 4 * MIB);
    let result = get(&scene, &job).await?;
    assert!(codes(&result) == ["HA-JOB-005"] && !result.resume_until.is_empty(), "{result:#?}");
    assert_eq!((scene.left_attached().await?.len(), scene.snapshots().await?.len()), (0, 1));
    finish(&scene, dir.path(), resume(&job, from), from).await?;
    nothing_is_left(&scene).await
}

/// Ranges of a disk that is not read would be missed in silence.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_disk_that_is_not_read_are_refused() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1), dense(2 * MIB, 2)], |_| {})?;
    let of = |key| DiskRanges { device_key: key, ranges: vec![Range { offset: 0, length: MIB }], known: vec![] };
    let unknown = BackupVmRequest { ranges: vec![of(FIRST_KEY), of(2777)], ..request(TARGET) };
    let not_asked =
        BackupVmRequest { ranges: vec![of(FIRST_KEY + 1)], device_keys: vec![FIRST_KEY], ..request(TARGET) };
    for wanted in [unknown, not_asked] {
        let delivered = backup(&scene, wanted, dir.path()).await?;
        assert_eq!(codes(delivered.result()?), ["HA-RD-008"], "{:#?}", delivered.result);
        nothing_is_left(&scene).await?;
    }
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "refused before anything was begun");
    Ok(())
}

/// An agent that is told to stop may never come back.
/// The rest may come by a server now: it has to show what came from the disk before.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_brings_the_rest_has_to_show_what_came_before() -> Result<()> {
    let (dir, scene) = scene(&[dense(SIZE, 1)], |spec| {
        let folder = spec.inventory.datastores[0].dir.parent().map(Path::to_path_buf).unwrap_or_default();
        spec.agent_toml.push_str(&FileServer::allowed(&folder));
    })?;
    let other = dir.path().join("other.raw");
    let mut bytes = std::fs::read(scene.source(0))?;
    bytes[usize::try_from(3 * MIB)?] ^= 1;
    std::fs::write(&other, bytes)?;
    let unit = usize::try_from(MIB)?;
    let block = |image: &[u8], n: usize| KnownBlock {
        offset: (n * unit) as u64,
        length: 1 << 20,
        blake3: blake3::hash(&image[n * unit..][..unit]).as_bytes().to_vec(),
    };
    for (name, file, right) in [("other", &other, false), ("same", &scene.source(0), true)] {
        let server = FileServer::start(dir.path(), name, file, &[])?;
        let (job, from) = broken(&scene, dir.path(), 600).await?;
        failed(&scene, &job).await?;
        let image = std::fs::read(dir.path().join(format!("{FIRST_KEY}.raw")))?;
        let mut wanted = resume(&job, from);
        wanted.ranges[0].known = vec![block(&image, 0), block(&image, 3)];
        (wanted.nbd_servers, wanted.transport) = (vec![server.named(FIRST_KEY)], Transport::Nbd.into());
        if right {
            finish(&scene, dir.path(), wanted, from).await?;
        } else {
            let mut stream = jobs(&scene).await?.backup_vm(wanted).await?.into_inner();
            let mut last = None;
            while let Some(event) = stream.message().await? {
                ensure!(!matches!(event.item, Some(Item::Frame(_))), "a frame of another disk");
                last = event.item;
            }
            let Some(Item::Result(result)) = last else { anyhow::bail!("no result: {last:?}") };
            assert_eq!(codes(&result), ["HA-NBD-006"]);
        }
        nothing_stays(&scene).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_window() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(SIZE, 1)], |_| {})?;
    let (job, _) = broken(&scene, dir.path(), 600).await?;
    failed(&scene, &job).await?;
    let status = scene.take_agent()?.stop()?;
    assert!(status.success(), "{status}");
    nothing_is_left(&scene).await
}

/// hotaddctl in the middle of its second disk, and stopped there: nobody takes frames.
async fn stopped_ctl(scene: &Scene, url: &str, dir: &Path, out: &Path) -> Result<Process> {
    let mut command = Run::command(url, &scene.pki, "client")?;
    command.args(["--json", "backup", "--resume-for", "120", "--vm", TARGET, "--out"]).arg(out);
    let ctl = Process::start("hotaddctl", &mut command, &dir.join("ctl.log"))?;
    eventually("the first disk has come", async || Ok(ctl.log_text().contains("\"event\":\"disk\""))).await?;
    ctl.signal(Signal::SIGSTOP)?;
    Ok(ctl)
}

fn resumed(scene: &Scene, mut ctl: Process, out: &Path) -> Result<()> {
    ctl.signal(Signal::SIGCONT)?;
    let status = ctl.wait(Duration::from_secs(120))?;
    let log = ctl.log_text();
    ensure!(status.success(), "{status}: {log}");
    ensure!(log.contains("\"event\":\"resume\""), "it was not resumed: {log}");
    let images = images(out)?;
    ensure!(images.len() == 2, "{images:?}");
    images.iter().enumerate().try_for_each(|(n, (_, image))| same(image, &scene.source(n)))?;
    let verify = scene.ctl(&["verify", out.join("manifest.json").to_str().context("path")?])?;
    ensure!(verify.code == 0, "{verify:#?}");
    Ok(())
}

/// One disk at a time; the second is too large for what lies between.
fn two_disks() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[dense(2 * MIB, 1), dense(384 * MIB, 2)], |spec| {
        spec.set("limits", "parallel_reads", 1);
        spec.set("deadlines", "watch_seconds", 0.2);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn hotaddctl_resumes_after_a_restart_of_the_agent() -> Result<()> {
    let (dir, mut scene) = two_disks()?;
    let out = dir.path().join("out");
    let relay = Relay::start(&scene).await?;
    let ctl = stopped_ctl(&scene, &relay.url, dir.path(), &out).await?;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    relay.follow(&scene)?;
    assert_eq!((scene.left_attached().await?.len(), scene.snapshots().await?.len()), (0, 1));
    resumed(&scene, ctl, &out)?;
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), 1, "all of one snapshot");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hotaddctl_resumes_after_a_maintenance() -> Result<()> {
    let (dir, scene) = two_disks()?;
    let out = dir.path().join("out");
    let ctl = stopped_ctl(&scene, &scene.url, dir.path(), &out).await?;
    let client = vsphere(&scene).await?;
    let proxy = client.find_vms_by_name(PROXY).await?.pop().context("no proxy")?;
    let host = client.vm(&proxy).await?.host.context("no host")?;
    let host = client.host(&host).await?.name;
    control(&scene, json!({"cmd": "host", "name": host, "in_maintenance": true})).await?;
    let log = scene.dir.join("agent.log");
    eventually("the agent stops reading", async || Ok(std::fs::read_to_string(&log)?.contains("HA-HST-001"))).await?;
    // Nothing can be detached on such a host.
    control(&scene, json!({"cmd": "host", "name": host, "in_maintenance": false})).await?;
    eventually("the disks are detached", async || Ok(scene.left_attached().await?.is_empty())).await?;
    assert_eq!(scene.snapshots().await?.len(), 1);
    resumed(&scene, ctl, &out)?;
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), 1, "all of one snapshot");
    nothing_is_left(&scene).await
}
