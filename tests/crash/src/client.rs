//! The controller of a round: one BackupVm, or one session with a read of each disk. It keeps the images, stops taking
//! events at the moments that the round names, and in the end knows what it was told and whether the bytes are right.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use hotadd_api::{
    MAX_MESSAGE_BYTES, status,
    v1::{
        BackupVmRequest, Cleanup, CloseDisksRequest, DiskFacts, DiskResult, Frame, JobState, NbdServer,
        OpenDisksRequest, Phase, ReadDiskRequest, SnapshotRequest, disk_service_client::DiskServiceClient,
        job_event::Item, job_service_client::JobServiceClient, open_disks_request::From, read_disk_response,
    },
};
use hotadd_harness::{Pki, grpc, scene::TARGET};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tonic::{Status, transport::Channel};

use crate::plan::Work;

/// Blocks are small: a disk of a few MiB has a first, a middle and a last one.
pub const BLOCK: u32 = 64 << 10;
/// A VM that an earlier round's job is still giving back is asked for again.
const BUSY: Duration = Duration::from_millis(20);
const BUSY_TRIES: u32 = 250;

/// What the controller has just taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Begin(Phase),
    End(Phase),
    Preflight,
    Snapshot,
    /// OpenDisks answered.
    Session,
    Opened,
    /// The n-th frame of all disks, from 1.
    Frame(u64),
    DiskRead,
    /// CloseDisks answered.
    Closed,
    Result,
}

/// How it ended for the controller.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The agent said OK: to the job, or to every read of the session.
    pub ok: bool,
    /// It was told that nothing is owed.
    pub done: bool,
    pub codes: Vec<String>,
    /// What the agent called right and is not.
    pub false_ok: Option<String>,
    /// The stream or call broke.
    pub broken: Option<String>,
}

/// Where the controller is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// It stopped here and waits to be released.
    pub at: Option<Seen>,
    /// Bytes of data, zeros not counted, that it had not got when it stopped.
    pub left: u64,
    pub ended: bool,
}

/// A running controller. Dropping it ends its connection.
#[derive(Debug)]
pub struct Controller {
    pub progress: watch::Receiver<Progress>,
    released: watch::Sender<Vec<Seen>>,
    task: JoinHandle<Outcome>,
}

impl Controller {
    /// `holds`: where it stops until it is released.
    #[must_use]
    pub fn start(work: Work, url: String, pki: Pki, sources: Arc<Vec<Vec<u8>>>, holds: Vec<Seen>) -> Self {
        Self::start_on(work, url, pki, sources, holds, From::Take(SnapshotRequest::default()), Vec::new())
    }

    /// `from`: the snapshot that sessions read; `servers`: what jobs name.
    #[must_use]
    pub fn start_on(
        work: Work,
        url: String,
        pki: Pki,
        sources: Arc<Vec<Vec<u8>>>,
        holds: Vec<Seen>,
        from: From,
        servers: Vec<NbdServer>,
    ) -> Self {
        let (tell, progress) = watch::channel(Progress::default());
        let (released, orders) = watch::channel(Vec::new());
        let hand = Hand { tell, orders, holds, frames: 0, images: BTreeMap::new(), sources, from, servers };
        let task = tokio::spawn(hand.run(work, url, pki));
        Self { progress, released, task }
    }

    pub fn release(&self, seen: Seen) {
        self.released.send_modify(|all| all.push(seen));
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// The connection ends at once.
    pub fn vanish(&self) {
        self.task.abort();
    }

    /// Waits for its end.
    pub async fn end(&mut self, patience: Duration) -> Result<Outcome> {
        match tokio::time::timeout(patience, &mut self.task).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(gone)) if gone.is_cancelled() => {
                Ok(Outcome { broken: Some("the controller went away".into()), ..Outcome::default() })
            }
            Ok(Err(panic)) => bail!("the controller panicked: {panic}"),
            Err(_) => bail!("the controller still waits after {} s", patience.as_secs()),
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    next: u64,
}

struct Hand {
    tell: watch::Sender<Progress>,
    orders: watch::Receiver<Vec<Seen>>,
    holds: Vec<Seen>,
    frames: u64,
    images: BTreeMap<i32, Image>,
    sources: Arc<Vec<Vec<u8>>>,
    from: From,
    servers: Vec<NbdServer>,
}

impl Hand {
    async fn run(mut self, work: Work, url: String, pki: Pki) -> Outcome {
        let mut outcome = Outcome::default();
        let result = match work {
            Work::Job | Work::Served => self.job(&url, &pki, &mut outcome).await,
            Work::Session | Work::Standing => self.session(&url, &pki, &mut outcome).await,
        };
        if let Err(error) = result {
            outcome.ok = false;
            outcome.broken = Some(format!("{error:#}"));
        }
        self.tell.send_modify(|p| p.ended = true);
        outcome
    }

    /// Stops here if the round wants it.
    async fn seen(&mut self, seen: Seen) {
        if !self.holds.contains(&seen) || self.orders.borrow().contains(&seen) {
            return;
        }
        let left = self.left();
        self.tell.send_modify(|p| (p.at, p.left) = (Some(seen), left));
        // The round's end drops the other side: that releases too.
        self.orders.wait_for(|released| released.contains(&seen)).await.ok();
        self.tell.send_modify(|p| p.at = None);
    }

    fn left(&self) -> u64 {
        let keys = hotadd_harness::scene::FIRST_KEY..;
        let rest = |(key, source): (i32, &Vec<u8>)| {
            let next = self.images.get(&key).map_or(0, |image| usize::try_from(image.next).unwrap_or(usize::MAX));
            let blocks = source.get(next..).unwrap_or_default().chunks(BLOCK as usize);
            blocks.filter(|block| block.iter().any(|byte| *byte != 0)).map(|block| block.len() as u64).sum::<u64>()
        };
        keys.zip(self.sources.iter()).map(rest).sum()
    }

    async fn job(&mut self, url: &str, pki: &Pki, outcome: &mut Outcome) -> Result<()> {
        let channel = grpc::connect_narrow(url, pki, "client").await?;
        for _ in 0..BUSY_TRIES {
            self.images.clear();
            let mut client = JobServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let request = BackupVmRequest {
                request_id: uuid::Uuid::new_v4().to_string(),
                vm: TARGET.into(),
                block_bytes: BLOCK,
                back_to_hotadd: !self.servers.is_empty(),
                nbd_servers: self.servers.clone(),
                ..BackupVmRequest::default()
            };
            let mut stream = client.backup_vm(request).await.map_err(told)?.into_inner();
            let mut result = None;
            while let Some(event) = stream.message().await.map_err(told)? {
                result = self.event(event.item.context("an empty event")?, outcome).await?;
            }
            let result: hotadd_api::v1::JobResult = result.context("the stream ended without a result")?;
            outcome.codes = result.reasons.iter().map(|r| r.code.clone()).collect();
            if outcome.codes.first().is_some_and(|code| code == "HA-SES-005") {
                sleep(BUSY).await;
                continue;
            }
            outcome.ok = result.state() == JobState::Ok;
            outcome.done = result.cleanup() == Cleanup::Done;
            if outcome.ok {
                self.whole(outcome);
            }
            self.seen(Seen::Result).await;
            return Ok(());
        }
        bail!("the VM stays busy: {:?}", outcome.codes)
    }

    async fn event(&mut self, item: Item, outcome: &mut Outcome) -> Result<Option<hotadd_api::v1::JobResult>> {
        match item {
            Item::JobId(_) => {}
            Item::Phase(phase) if phase.finished => self.seen(Seen::End(phase.phase())).await,
            Item::Phase(phase) => self.seen(Seen::Begin(phase.phase())).await,
            Item::Preflight(_) => self.seen(Seen::Preflight).await,
            Item::Snapshot(_) => self.seen(Seen::Snapshot).await,
            Item::Opened(opened) => {
                self.open(opened.disk.as_ref())?;
                self.seen(Seen::Opened).await;
            }
            Item::Frame(frame) => self.frame(&frame).await?,
            Item::DiskRead(read) => {
                self.check(&read, outcome);
                self.seen(Seen::DiskRead).await;
            }
            Item::Result(result) => return Ok(Some(result)),
            #[allow(unreachable_patterns, reason = "events that an older campaign does not know")]
            _ => {}
        }
        Ok(None)
    }

    async fn session(&mut self, url: &str, pki: &Pki, outcome: &mut Outcome) -> Result<()> {
        let channel = grpc::connect_narrow(url, pki, "client").await?;
        let mut client = DiskServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let opened = open_session(&mut client, &self.from).await?;
        self.seen(Seen::Session).await;
        let mut ok = opened.disks.len() == self.sources.len();
        for disk in &opened.disks {
            ok &= disk.opened && self.read(&mut client, &opened.session_id, disk.disk.as_ref(), outcome).await?;
        }
        self.seen(Seen::DiskRead).await;
        let closed = client.close_disks(CloseDisksRequest { session_id: opened.session_id }).await.map_err(told)?;
        let closed = closed.into_inner();
        outcome.codes.extend(closed.reasons.iter().map(|r| r.code.clone()));
        outcome.done = closed.cleanup() == Cleanup::Done;
        outcome.ok = ok;
        if ok {
            self.whole(outcome);
        }
        self.seen(Seen::Closed).await;
        self.seen(Seen::Result).await;
        Ok(())
    }

    async fn read(
        &mut self,
        client: &mut DiskServiceClient<Channel>,
        session: &str,
        disk: Option<&DiskFacts>,
        outcome: &mut Outcome,
    ) -> Result<bool> {
        self.open(disk)?;
        let device_key = disk.map_or(0, |d| d.device_key);
        let request = ReadDiskRequest {
            session_id: session.into(),
            device_key,
            block_bytes: BLOCK,
            ..ReadDiskRequest::default()
        };
        let mut stream = client.read_disk(request).await.map_err(told)?.into_inner();
        self.seen(Seen::Opened).await;
        while let Some(message) = stream.message().await.map_err(told)? {
            match message.item.context("an empty message")? {
                read_disk_response::Item::Frame(frame) => self.frame(&frame).await?,
                read_disk_response::Item::Done(done) => {
                    outcome.codes.extend(done.reasons.iter().map(|r| r.code.clone()));
                    self.check(&done, outcome);
                    return Ok(done.ok);
                }
            }
        }
        bail!("a read ended without a result")
    }

    fn open(&mut self, disk: Option<&DiskFacts>) -> Result<()> {
        let disk = disk.context("opened without a disk")?;
        let bytes = vec![0xa5; usize::try_from(disk.capacity_bytes)?];
        // A disk that goes on by another transport is opened once more.
        self.images.entry(disk.device_key).or_insert(Image { bytes, next: 0 });
        Ok(())
    }

    async fn frame(&mut self, frame: &Frame) -> Result<()> {
        let image = self.images.get_mut(&frame.device_key).context("a frame before its disk was opened")?;
        let (at, length) = (usize::try_from(frame.offset)?, frame.length as usize);
        let place = image.bytes.get_mut(at..at + length).context("a frame beyond the end")?;
        if frame.zero {
            place.fill(0);
        } else {
            anyhow::ensure!(frame.data.len() == length, "a frame of {} bytes says {length}", frame.data.len());
            place.copy_from_slice(&frame.data);
        }
        anyhow::ensure!(frame.offset == image.next, "a frame at {} where {} was due", frame.offset, image.next);
        image.next += u64::from(frame.length);
        self.frames += 1;
        self.seen(Seen::Frame(self.frames)).await;
        Ok(())
    }

    /// A disk that is called right has every byte of its source.
    fn check(&self, read: &DiskResult, outcome: &mut Outcome) {
        let Some(disk) = read.disk.as_ref().filter(|_| read.ok) else { return };
        if let Some(wrong) = self.wrong(disk.device_key) {
            outcome.false_ok = Some(wrong);
        }
    }

    /// What is called right as a whole has every disk.
    fn whole(&self, outcome: &mut Outcome) {
        let keys = (hotadd_harness::scene::FIRST_KEY..).take(self.sources.len());
        if let Some(wrong) = keys.into_iter().find_map(|key| self.wrong(key)) {
            outcome.false_ok = Some(wrong);
        }
    }

    fn wrong(&self, key: i32) -> Option<String> {
        let at = usize::try_from(key - hotadd_harness::scene::FIRST_KEY).ok()?;
        let source = self.sources.get(at)?;
        let Some(image) = self.images.get(&key) else {
            return Some(format!("disk {key} was called OK without a byte"));
        };
        if image.next != source.len() as u64 {
            return Some(format!("disk {key} was called OK with {} of {} bytes", image.next, source.len()));
        }
        let differs = image.bytes.iter().zip(source).position(|(a, b)| a != b)?;
        Some(format!("disk {key} was called OK and differs at byte {differs}"))
    }
}

async fn open_session(
    client: &mut DiskServiceClient<Channel>,
    from: &From,
) -> Result<hotadd_api::v1::OpenDisksResponse> {
    for _ in 0..BUSY_TRIES {
        let request = OpenDisksRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            vm: TARGET.into(),
            from: Some(from.clone()),
            ..OpenDisksRequest::default()
        };
        match client.open_disks(request).await {
            Err(error) if code(&error).is_some_and(|code| code == "HA-SES-005") => sleep(BUSY).await,
            other => return Ok(other.map_err(told)?.into_inner()),
        }
    }
    bail!("the VM stays busy")
}

fn code(error: &Status) -> Option<String> {
    status::from_status(error).map(|reason| reason.code)
}

fn told(error: Status) -> anyhow::Error {
    match status::from_status(&error) {
        Some(reason) => anyhow::anyhow!("{} {}", reason.code, reason.message),
        None => anyhow::anyhow!("{:?}: {}", error.code(), error.message()),
    }
}
