//! What the tests share: a scene in a temporary folder, a job over raw gRPC, and the final state that every test ends in.
use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::{
    MAX_MESSAGE_BYTES,
    v1::{
        BackupVmRequest, DiskResult, Frame, JobEvent, JobResult, disk_service_client::DiskServiceClient,
        job_event::Item, job_service_client::JobServiceClient,
    },
};
use hotadd_harness::{Content, Scene, Spec, content::same};
use tonic::{Streaming, transport::Channel};

pub const MIB: u64 = 1 << 20;

/// A scene with these disks and two controllers on the proxy; `change` gets a chance before it starts.
pub fn scene(disks: &[Content], change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene)> {
    let dir = tempfile::tempdir()?;
    let mut spec = Spec::new(dir.path(), disks, 2);
    change(&mut spec);
    let scene = Scene::start(dir.path(), spec)?;
    Ok((dir, scene))
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

/// What a job delivered.
#[derive(Debug)]
pub struct Delivered {
    pub job_id: String,
    pub images: BTreeMap<i32, PathBuf>,
    pub read: Vec<DiskResult>,
    pub result: Option<JobResult>,
}

/// Runs a job to the end of its stream and writes the images into `out`; every frame's hash is checked.
pub async fn backup(scene: &Scene, request: BackupVmRequest, out: &Path) -> Result<Delivered> {
    let stream = jobs(scene).await?.backup_vm(request).await?.into_inner();
    receive(stream, out).await
}

pub async fn receive(mut stream: Streaming<JobEvent>, out: &Path) -> Result<Delivered> {
    let mut delivered = Delivered { job_id: String::new(), images: BTreeMap::new(), read: Vec::new(), result: None };
    let mut files: BTreeMap<i32, (File, u64)> = BTreeMap::new();
    while let Some(event) = stream.message().await? {
        match event.item.context("an empty event")? {
            Item::JobId(id) => delivered.job_id = id,
            Item::Opened(opened) => {
                let disk = opened.disk.context("opened without a disk")?;
                let path = out.join(format!("{}.raw", disk.device_key));
                let file = File::create(&path)?;
                file.set_len(disk.capacity_bytes)?;
                files.insert(disk.device_key, (file, 0));
                delivered.images.insert(disk.device_key, path);
            }
            Item::Frame(frame) => {
                let (file, next) = files.get_mut(&frame.device_key).context("a frame before its disk was opened")?;
                write(file, next, &frame)?;
            }
            Item::DiskRead(read) => delivered.read.push(read),
            Item::Result(result) => delivered.result = Some(result),
            Item::Phase(_) | Item::Preflight(_) | Item::Snapshot(_) => {}
        }
    }
    Ok(delivered)
}

fn write(file: &File, next: &mut u64, frame: &Frame) -> Result<()> {
    ensure!(frame.offset == *next, "frame at {} where {next} was expected", frame.offset);
    *next += u64::from(frame.length);
    let zeros = vec![0; frame.length as usize];
    let data = if frame.zero { &zeros } else { &frame.data[..] };
    ensure!(data.len() == frame.length as usize, "frame of {} bytes says {}", data.len(), frame.length);
    ensure!(blake3::hash(data).as_bytes()[..] == frame.blake3[..], "hash of the frame at {} is wrong", frame.offset);
    Ok(file.write_all_at(data, frame.offset)?)
}

impl Delivered {
    pub fn result(&self) -> Result<&JobResult> {
        self.result.as_ref().context("the stream ended without a result")
    }
}

/// Every image equals the file under the target's disk.
pub fn images_equal_sources(scene: &Scene, delivered: &Delivered) -> Result<()> {
    ensure!(delivered.images.len() == scene.spec.disks.len(), "{} images", delivered.images.len());
    delivered.images.values().enumerate().try_for_each(|(n, image)| same(image, &scene.source(n)))
}

/// Nothing of ours is left, as vCenter and the agent tell it, and nobody asked for a file operation.
pub async fn nothing_is_left(scene: &Scene) -> Result<()> {
    let attached = scene.left_attached().await?;
    ensure!(attached.is_empty(), "left attached: {attached:?}");
    let snapshots = scene.snapshots().await?;
    ensure!(snapshots.is_empty(), "snapshots left: {snapshots:?}");
    let counters = scene.control().await?.counters().await?;
    ensure!(counters["file_operation_count"] == 0, "a file operation was asked for: {counters}");
    Ok(())
}
