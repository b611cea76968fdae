//! What the tests share: scenes, the final state that every test ends in, and small questions to vCenter and the host.
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::{
    MAX_MESSAGE_BYTES, status,
    v1::{
        BackupVmRequest, Duty, GetJobRequest, JobResult, JobState, ListDutiesRequest, ListSessionsRequest,
        OpenDisksRequest, Reason, Session, disk_service_client::DiskServiceClient, get_job_request::By,
        job_service_client::JobServiceClient,
    },
};
use hotadd_harness::{
    Content, Scene, Spec,
    content::same,
    scene::{PASSWORD, PROXY},
};
use hotadd_vsphere as vim;
use serde_json::{Value, json};
use tonic::transport::Channel;

pub use crate::stream::{Delivered, Running, Seen, backup};

pub const MIB: u64 = 1 << 20;
/// Longest wait for a condition that is near.
const PATIENCE: Duration = Duration::from_secs(60);

/// A scene with these disks and two controllers on the proxy; `change` gets a chance before it starts.
pub fn scene(disks: &[Content], change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene)> {
    let dir = tempfile::tempdir()?;
    let mut spec = Spec::new(dir.path(), disks, 2);
    change(&mut spec);
    let scene = Scene::start(dir.path(), spec)?;
    Ok((dir, scene))
}

/// A disk without a hole: no zero block that would pass flow control for nothing.
pub fn dense(bytes: u64, seed: u64) -> Content {
    Content { every: 1, ..Content::new(bytes, seed) }
}

pub async fn jobs(scene: &Scene) -> Result<JobServiceClient<Channel>> {
    Ok(JobServiceClient::new(scene.channel().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

pub async fn disks(scene: &Scene) -> Result<DiskServiceClient<Channel>> {
    Ok(DiskServiceClient::new(scene.channel().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// A request for the scene's target.
pub fn request(vm: &str) -> BackupVmRequest {
    BackupVmRequest { request_id: uuid::Uuid::new_v4().to_string(), vm: vm.into(), ..BackupVmRequest::default() }
}

/// A request to open the disks of a VM.
pub fn open_request(vm: &str) -> OpenDisksRequest {
    OpenDisksRequest { request_id: uuid::Uuid::new_v4().to_string(), vm: vm.into(), ..OpenDisksRequest::default() }
}

pub fn by_id(job: &str) -> By {
    By::JobId(job.to_owned())
}

pub fn by_request(request: &BackupVmRequest) -> By {
    By::RequestId(request.request_id.clone())
}

/// What the agent tells of a job now.
pub async fn job(scene: &Scene, by: By) -> Result<JobResult> {
    Ok(jobs(scene).await?.get_job(GetJobRequest { by: Some(by) }).await?.into_inner())
}

/// The result of a job that ends soon.
pub async fn ended(scene: &Scene, by: By) -> Result<JobResult> {
    eventually("the job ends", async || Ok(job(scene, by.clone()).await?.state() != JobState::Running)).await?;
    job(scene, by).await
}

/// A job that is read slowly: its client has a frame and takes no more.
pub async fn reading(scene: &Scene, dir: &tempfile::TempDir, wanted: BackupVmRequest) -> Result<Running> {
    let mut run = Running::start(scene, wanted, dir.path()).await?;
    run.until(Seen::Frame).await?;
    Ok(run)
}

/// What the agent tells of a session now.
pub async fn session(scene: &Scene, id: &str) -> Result<Session> {
    let all = disks(scene).await?.list_sessions(ListSessionsRequest {}).await?.into_inner().sessions;
    all.into_iter().find(|s| s.session_id == id).context("no such session")
}

pub async fn duties(scene: &Scene) -> Result<Vec<Duty>> {
    Ok(disks(scene).await?.list_duties(ListDutiesRequest {}).await?.into_inner().duties)
}

/// Every image equals the file under the target's disk.
pub fn images_equal_sources(scene: &Scene, delivered: &Delivered) -> Result<()> {
    ensure!(delivered.images.len() == scene.spec.disks.len(), "{} images", delivered.images.len());
    delivered.images.values().enumerate().try_for_each(|(n, image)| same(image, &scene.source(n)))
}

/// Codes of a job's reasons.
pub fn codes(result: &JobResult) -> Vec<&str> {
    result.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// Fails unless the call was refused with this code; gives the whole reason.
pub fn refused<T: std::fmt::Debug>(answer: Result<T, tonic::Status>, code: &str) -> Result<Reason> {
    let status = answer.err().context("it was not refused")?;
    let reason = status::from_status(&status).with_context(|| format!("no reason in {status:?}"))?;
    ensure!(reason.code == code, "{code} was expected: {reason:?}");
    Ok(reason)
}

/// The test lacks something on this machine, which counts it as skipped.
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("HOTADD_SKIPS") {
        use std::io::Write as _;
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{why}")).ok();
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !condition().await? {
        ensure!(Instant::now() < end, "{what}: not within {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Ok(())
}

/// Nothing of ours is left, as vCenter, the host and the agent tell it, and nobody asked for a file operation.
pub async fn nothing_is_left(scene: &Scene) -> Result<()> {
    only_these_are_left(scene, &[], &[]).await
}

/// As [`nothing_is_left`], after a wait: for ends that nobody answers for.
pub async fn nothing_stays(scene: &Scene) -> Result<()> {
    let mut last = Ok(());
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        last = nothing_is_left(scene).await;
        if last.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    last
}

/// Exactly these disks (paths) are attached to the proxy and these snapshots are on the target.
pub async fn only_these_are_left(scene: &Scene, disks: &[&str], snapshots: &[String]) -> Result<()> {
    let attached = scene.left_attached().await?;
    ensure!(attached == disks, "left attached: {attached:?}, expected {disks:?}");
    let left = scene.snapshots().await?;
    ensure!(left == snapshots, "snapshots left: {left:?}, expected {snapshots:?}");
    let mut control = scene.control().await?;
    let counters = control.counters().await?;
    ensure!(counters["file_operation_count"] == 0, "a file operation was asked for: {counters}");
    ensure!(counters["problems"].as_array().is_none_or(Vec::is_empty), "against the type table: {counters}");
    let told = control.attached(PROXY).await?.len();
    let seen = control.devices().await?.iter().filter(|device| !is_raw(device)).count();
    ensure!(told == seen, "vCenter tells {told} disks, the guest shows {seen}");
    if scene.has_agent() {
        let duties = duties(scene).await?;
        ensure!(duties.is_empty(), "duties: {duties:#?}");
    }
    Ok(())
}

/// A device that a test put there and vCenter knows nothing of.
fn is_raw(device: &Value) -> bool {
    device["id"].as_str().is_some_and(|id| id.starts_with("raw"))
}

/// Bytes read from a loop device since the machine started, by the kernel's count: it goes on when a node is used again.
pub fn bytes_read(device: &Value) -> Result<u64> {
    let node = device["node"].as_str().context("a device without a node")?;
    let name = Path::new(node).file_name().and_then(|n| n.to_str()).context("node")?;
    bytes_read_of(name)
}

fn bytes_read_of(name: &str) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat"))?;
    let sectors: u64 = stat.split_whitespace().nth(2).context("stat")?.parse()?;
    Ok(sectors * 512)
}

/// The count of every loop device now, by node.
pub fn loop_counts() -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("loop") {
            let read = bytes_read_of(&name).unwrap_or(0);
            counts.insert(format!("/dev/{name}"), read);
        }
    }
    Ok(counts)
}

/// Devices of the guest with this size: how a test tells the target's disks from anchors.
pub async fn devices_of(scene: &Scene, bytes: u64) -> Result<Vec<Value>> {
    let all = scene.control().await?.devices().await?;
    Ok(all.into_iter().filter(|d| d["size_bytes"] == bytes).collect())
}

/// Bodies of the calls of a method whose name starts so.
pub async fn calls(scene: &Scene, method: &str) -> Result<Vec<String>> {
    let reply = scene.control().await?.call(json!({"cmd": "requests"})).await?;
    let all = reply["requests"].as_array().cloned().unwrap_or_default();
    let named = all.iter().filter(|r| r["method"].as_str().is_some_and(|m| m.starts_with(method)));
    Ok(named.map(|r| r["body"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Waits until vCenter was asked so often since: that much has happened.
pub async fn around_calls(scene: &Scene, more: usize) -> Result<()> {
    let looks = calls(scene, "RetrievePropertiesEx").await?.len();
    eventually("vCenter was asked since", async || Ok(calls(scene, "RetrievePropertiesEx").await?.len() > looks + more))
        .await
}

/// Disks added in each reconfigure that adds.
pub async fn adds(scene: &Scene) -> Result<Vec<usize>> {
    let counts = calls(scene, "ReconfigVM_Task")
        .await?
        .iter()
        .map(|body| body.matches("operation>add<").count())
        .collect::<Vec<_>>();
    Ok(counts.into_iter().filter(|n| *n > 0).collect())
}

/// Sends one control command.
pub async fn control(scene: &Scene, command: Value) -> Result<Value> {
    Ok(scene.control().await?.call(command).await?)
}

/// Lets a call go wrong, as CONTROL.md says.
pub async fn fault(scene: &Scene, method: &str, spec: Value) -> Result<()> {
    Ok(scene.control().await?.fault(method, spec).await?)
}

/// The project's vSphere client, as somebody else than the agent.
pub async fn vsphere(scene: &Scene) -> Result<vim::Client> {
    let trust = vim::Trust::Ca(std::fs::read(&scene.vcenter.ca)?);
    let config = vim::Config::new(&scene.vcenter.url, "backup@vsphere.local", PASSWORD.to_owned().into(), trust);
    Ok(vim::Client::connect(config).await?)
}
