//! A controller over raw gRPC: takes a job's events one by one, writes images, checks every frame's place and hash.
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::{
    MAX_MESSAGE_BYTES,
    compress::expand,
    v1::{
        BackupVmRequest, Compression, DiskOpened, DiskProgress, DiskResult, Frame, JobEvent, JobResult, Phase, Scope,
        SnapshotResult, job_event::Item, job_service_client::JobServiceClient,
    },
};
use hotadd_harness::Scene;
use tonic::{Streaming, transport::Channel};

/// What a job delivered so far.
#[derive(Debug, Default)]
pub struct Delivered {
    pub job_id: String,
    pub images: BTreeMap<i32, PathBuf>,
    pub snapshot: Option<SnapshotResult>,
    /// Reasons to wait that were told.
    pub waited: Vec<String>,
    pub read: Vec<DiskResult>,
    pub opened: Vec<DiskOpened>,
    pub progress: Vec<DiskProgress>,
    /// Bytes that travelled, by how they were compressed.
    pub payloads: BTreeMap<Compression, u64>,
    pub result: Option<JobResult>,
}

impl Delivered {
    pub fn result(&self) -> Result<&JobResult> {
        self.result.as_ref().context("the stream ended without a result")
    }
}

/// What an event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    JobId,
    /// Which, and whether it has finished.
    Phase(Phase, bool),
    Preflight,
    Waiting,
    Snapshot,
    Hardware,
    Opened,
    Frame,
    Progress,
    DiskRead,
    Result,
}

/// A job whose stream is read as the test likes. Dropping it breaks the stream.
pub struct Running {
    stream: Streaming<JobEvent>,
    files: BTreeMap<i32, (File, Due)>,
    out: PathBuf,
    pub delivered: Delivered,
}

impl Running {
    pub async fn start(scene: &Scene, request: BackupVmRequest, out: &Path) -> Result<Self> {
        Self::over(scene.channel().await?, request, out).await
    }

    /// Over a channel of another client.
    pub async fn over(channel: Channel, request: BackupVmRequest, out: &Path) -> Result<Self> {
        let mut jobs = JobServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let stream = jobs.backup_vm(request).await?.into_inner();
        Ok(Self { stream, files: BTreeMap::new(), out: out.to_owned(), delivered: Delivered::default() })
    }

    /// Takes one event; `None` at the end of the stream.
    pub async fn step(&mut self) -> Result<Option<Seen>> {
        let Some(event) = self.stream.message().await? else { return Ok(None) };
        Ok(Some(match event.item.context("an empty event")? {
            Item::JobId(id) => {
                self.delivered.job_id = id;
                Seen::JobId
            }
            Item::Phase(phase) => Seen::Phase(phase.phase(), phase.finished),
            Item::Preflight(_) => Seen::Preflight,
            Item::Waiting(waiting) => {
                self.delivered.waited.extend(waiting.reason.map(|reason| reason.code));
                Seen::Waiting
            }
            Item::Snapshot(snapshot) => {
                self.delivered.snapshot = Some(snapshot);
                Seen::Snapshot
            }
            Item::VmConfig(_) => Seen::Hardware,
            Item::Opened(opened) => {
                self.open(&opened)?;
                self.delivered.opened.push(opened);
                Seen::Opened
            }
            Item::Frame(frame) => {
                let known = self.files.get_mut(&frame.device_key);
                let (file, due) = known.context("a frame before its disk was opened")?;
                write(file, due, &frame)?;
                *self.delivered.payloads.entry(frame.compression()).or_default() += frame.data.len() as u64;
                Seen::Frame
            }
            Item::Progress(progress) => {
                self.delivered.progress.push(progress);
                Seen::Progress
            }
            Item::DiskRead(read) => {
                self.delivered.read.push(read);
                Seen::DiskRead
            }
            Item::Result(result) => {
                self.delivered.result = Some(result);
                Seen::Result
            }
        }))
    }

    fn open(&mut self, opened: &DiskOpened) -> Result<()> {
        let disk = opened.disk.as_ref().context("opened without a disk")?;
        if let Some((_, due)) = self.files.get(&disk.device_key) {
            ensure!(opened.bytes_required == due.bytes(), "the rest is another: {opened:?}, due {due:?}");
            let before =
                self.delivered.opened.iter().find(|o| o.disk.as_ref().is_some_and(|d| d.device_key == disk.device_key));
            ensure!(before.is_some_and(|before| before.map == opened.map), "another map: {opened:?}");
            return Ok(());
        }
        let due = Due::of(opened, disk.capacity_bytes);
        ensure!(opened.bytes_required == due.bytes(), "{} bytes are required, due {due:?}", opened.bytes_required);
        let path = self.out.join(format!("{}.raw", disk.device_key));
        let file = File::create(&path)?;
        file.set_len(disk.capacity_bytes)?;
        self.files.insert(disk.device_key, (file, due));
        self.delivered.images.insert(disk.device_key, path);
        Ok(())
    }

    /// Takes events up to this one.
    pub async fn until(&mut self, wanted: Seen) -> Result<()> {
        loop {
            let seen = self.step().await?.with_context(|| format!("ended before {wanted:?}: {:#?}", self.delivered))?;
            if seen == wanted {
                return Ok(());
            }
        }
    }

    /// Takes events until a disk's bytes up to there have come.
    pub async fn until_offset(&mut self, offset: u64) -> Result<()> {
        while self.files.values().all(|(_, due)| due.0.front().is_some_and(|next| next.start < offset)) {
            self.step().await?.with_context(|| format!("ended before byte {offset}: {:#?}", self.delivered))?;
        }
        Ok(())
    }

    /// Takes everything that is left; of an OK job every byte has come.
    pub async fn finish(mut self) -> Result<Delivered> {
        while self.step().await?.is_some() {}
        for read in self.delivered.read.iter().filter(|read| read.ok) {
            let key = read.disk.as_ref().map(|disk| disk.device_key).context("a result without a disk")?;
            let (_, due) = self.files.get(&key).context("a result of a disk that was not opened")?;
            ensure!(due.0.is_empty(), "disk {key} is OK, and {due:?} did not come");
        }
        Ok(self.delivered)
    }
}

/// Runs a job to the end of its stream.
pub async fn backup(scene: &Scene, request: BackupVmRequest, out: &Path) -> Result<Delivered> {
    Running::start(scene, request, out).await?.finish().await
}

/// What has still to come of a disk, ascending.
#[derive(Debug)]
struct Due(VecDeque<Range<u64>>);

impl Due {
    fn of(opened: &DiskOpened, capacity: u64) -> Self {
        match &opened.map {
            Some(map) if map.scope() != Scope::Whole => {
                Self(map.areas.iter().map(|area| area.offset..area.offset + area.length).collect())
            }
            _ => Self(VecDeque::from([Range { start: 0, end: capacity }])),
        }
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    fn take(&mut self, frame: &Frame) -> Result<()> {
        let next = self.0.front_mut().with_context(|| format!("frame at {} when nothing was due", frame.offset))?;
        let end = frame.offset + u64::from(frame.length);
        ensure!(frame.offset == next.start && end <= next.end, "frame {}..{end} where {next:?} was due", frame.offset);
        next.start = end;
        if next.is_empty() {
            self.0.pop_front();
        }
        Ok(())
    }
}

fn write(file: &File, due: &mut Due, frame: &Frame) -> Result<()> {
    due.take(frame)?;
    Ok(file.write_all_at(&block(frame)?, frame.offset)?)
}

/// The content of a frame's block, believed by its length and hash.
pub fn block(frame: &Frame) -> Result<Vec<u8>> {
    let (offset, length) = (frame.offset, frame.length as usize);
    let data = match (frame.zero, frame.compression()) {
        (true, _) => vec![0; length],
        (false, Compression::Unspecified) => frame.data.to_vec(),
        (false, method) => expand(method, &frame.data, length)?,
    };
    ensure!(data.len() == length, "frame of {} bytes says {length}", data.len());
    ensure!(blake3::hash(&data).as_bytes()[..] == frame.blake3[..], "hash of the frame at {offset} is wrong");
    Ok(data)
}
