//! What the lab tests share.
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use hotadd_api::{
    MAX_MESSAGE_BYTES,
    v1::{
        BackupVmRequest, DiskResult, JobEvent, JobResult, disk_service_client::DiskServiceClient, job_event::Item,
        job_service_client::JobServiceClient,
    },
};
use hotadd_harness::{Content, Lab, Run, Spec, content::same, ctl::images, scene::TARGET};
use tonic::{Streaming, transport::Channel};

pub(crate) const MIB: u64 = 1 << 20;

/// A guest with four controllers and the agent serving, or `None` where the lab is not set up (told as a skip).
pub(crate) fn lab(
    disks: &[Content],
    change: impl FnOnce(&mut Spec),
    options: &[&str],
) -> Result<Option<(tempfile::TempDir, Lab)>> {
    if std::env::var_os("HOTADD_GUEST").is_none() {
        skip("HOTADD_GUEST is not set: run ci/part-lab");
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let mut spec = Spec::new(dir.path(), disks, 4);
    change(&mut spec);
    let lab = Lab::start(dir.path(), spec, options)?;
    Ok(Some((dir, lab)))
}

pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("HOTADD_SKIPS") {
        use std::io::Write as _;
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "lab: {why}")).ok();
    }
}

/// `n` disks with contents of their own.
pub(crate) fn contents(n: u64, bytes: u64) -> Vec<Content> {
    (0..n).map(|seed| Content::new(bytes, seed)).collect()
}

/// hotaddctl backup into `out`; extra arguments follow.
pub(crate) fn backup(lab: &Lab, out: &Path, more: &[&str]) -> Result<Run> {
    let out = out.display().to_string();
    let mut args = vec!["--json", "backup", "--vm", TARGET, "--out", &out];
    args.extend(more);
    lab.ctl(&args)
}

/// Every image equals the file of its disk; tells how many there are.
pub(crate) fn images_equal_sources(lab: &Lab, out: &Path) -> Result<usize> {
    let images = images(out)?;
    for (key, image) in &images {
        same(image, &lab.source(usize::try_from(key - 2000)?))?;
    }
    Ok(images.len())
}

pub(crate) async fn jobs(lab: &Lab) -> Result<JobServiceClient<Channel>> {
    Ok(JobServiceClient::new(lab.channel().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

pub(crate) async fn sessions(lab: &Lab) -> Result<DiskServiceClient<Channel>> {
    Ok(DiskServiceClient::new(lab.channel().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// Starts a job over raw gRPC.
pub(crate) async fn start_job(lab: &Lab, partial: bool) -> Result<Streaming<JobEvent>> {
    let request = BackupVmRequest { vm: TARGET.into(), allow_partial: partial, ..BackupVmRequest::default() };
    Ok(jobs(lab).await?.backup_vm(request).await?.into_inner())
}

/// Reads on until the first frame has come.
pub(crate) async fn first_frame(stream: &mut Streaming<JobEvent>) -> Result<()> {
    loop {
        match stream.message().await?.context("the stream ended before a frame")?.item {
            Some(Item::Frame(_)) => return Ok(()),
            Some(Item::Result(result)) => anyhow::bail!("the job ended before a frame: {result:?}"),
            _ => {}
        }
    }
}

/// Takes the rest of a job: what was read, and the result.
pub(crate) async fn finish(mut stream: Streaming<JobEvent>) -> Result<(Vec<DiskResult>, JobResult)> {
    let mut read = Vec::new();
    while let Some(event) = stream.message().await? {
        match event.item {
            Some(Item::DiskRead(disk)) => read.push(disk),
            Some(Item::Result(result)) => return Ok((read, result)),
            _ => {}
        }
    }
    anyhow::bail!("the stream ended without a result")
}

/// Codes of a disk's reasons.
pub(crate) fn codes(disk: &DiskResult) -> Vec<&str> {
    disk.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

pub(crate) fn key(disk: &DiskResult) -> i32 {
    disk.disk.as_ref().map_or(0, |facts| facts.device_key)
}

/// Datastore path of the target's n-th disk.
pub(crate) async fn path_of(lab: &Lab, n: usize) -> Result<String> {
    let disks = lab.control().await?.attached(TARGET).await?;
    let disk = disks.into_iter().find(|disk| disk.key == 2000 + i32::try_from(n).unwrap_or(0));
    Ok(disk.with_context(|| format!("disk {n}"))?.path)
}

/// Nothing of ours is left, as vCenter and the guest's kernel tell it.
pub(crate) async fn nothing_is_attached(lab: &Lab) -> Result<()> {
    let attached = lab.left_attached().await?;
    ensure!(attached.is_empty(), "left attached: {attached:?}");
    ensure!(lab.snapshots().await?.is_empty(), "a snapshot is left");
    let counters = lab.control().await?.counters().await?;
    ensure!(counters["file_operation_count"] == 0, "a file operation was asked for: {counters}");
    let anchors = lab.spec.inventory.vms[0].disks.len();
    let seen = lab.guest.sh("ls -d /sys/block/sd* | wc -l")?;
    ensure!(seen.trim() == anchors.to_string(), "the guest shows {} disks, {anchors} are its own", seen.trim());
    Ok(())
}

/// As [`nothing_is_attached`], and no write ever reached an attached disk.
pub(crate) async fn nothing_is_left(lab: &Lab) -> Result<()> {
    nothing_is_attached(lab).await?;
    let writes = lab.control().await?.guest_writes().await?;
    ensure!(writes == 0, "the guest wrote {writes} times");
    Ok(())
}
