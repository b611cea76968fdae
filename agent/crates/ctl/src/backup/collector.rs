//! Takes the events of a job in order: tells people, opens images, hands frames to writers. It refuses what hotadd.v1
//! forbids at once; whether the whole is a backup is for the module `judge`.
use std::collections::BTreeMap;

use hotadd_api::{
    manifest::{DiskRecord, FORMAT, Manifest, PartRecord, SnapshotRecord},
    v1::{
        DiskFacts, DiskOpened, DiskRanges, DiskResult, Frame, GetInfoResponse, JobEvent, JobResult, Phase, Range,
        job_event::Item,
    },
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    judge::{Asked, Seen, Verdict},
    progress::DiskProgress,
    report,
    staging::{Staging, image_name},
    writer::{Spec, Writer},
};
use crate::{error::Failure, exit::Exit, output::Output, reasons};

/// Four controllers of 64 disks: no VM has more (vSphere 8.0 configuration maximums). Each costs a thread here.
const MOST_DISKS: usize = 256;

/// What a job that resumes has to read.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) keys: Vec<i32>,
    /// Of disks that are not missing as a whole.
    pub(super) ranges: Vec<DiskRanges>,
    pub(super) bytes: u64,
}

/// A disk whose frames come or came.
#[derive(Debug)]
struct Disk {
    facts: DiskFacts,
    engine: String,
    file: String,
    writer: Writer,
    /// Its frames come on the stream of now.
    open: bool,
    /// End of what came.
    next: u64,
    /// Where each opening began to bring frames, by which transport and engine.
    ways: Vec<(u64, String, String)>,
    /// All of its frames came.
    ended: bool,
    /// The agent's word that it was read well.
    told: Option<DiskResult>,
    /// It came whole under a job before the one of now, whose result need not name it.
    earlier: bool,
}

#[derive(Debug)]
pub(super) struct Collector {
    out: Output,
    staging: Staging,
    asked: Asked,
    block: u32,
    faults: mpsc::Sender<Failure>,
    vm_name: String,
    seen: Seen,
    disks: BTreeMap<i32, Disk>,
    /// A disk that was not read to its end is kept: its rest may still come.
    keep_broken: bool,
}

impl Collector {
    pub(super) fn new(out: Output, staging: Staging, asked: Asked, block: u32, faults: mpsc::Sender<Failure>) -> Self {
        let (vm_name, seen, disks) = (String::new(), Seen::default(), BTreeMap::new());
        Self { out, staging, asked, block, faults, vm_name, seen, disks, keep_broken: false }
    }

    pub(super) fn keep_broken(&mut self, on: bool) {
        self.keep_broken = on;
    }

    /// Bytes of all disks that came, zero blocks included.
    pub(super) fn received(&self) -> u64 {
        self.disks.values().map(|disk| disk.next).sum()
    }

    /// Every disk that was planned has come to its end.
    pub(super) fn is_whole(&self) -> bool {
        let whole = |key: &i32| self.disks.get(key).is_some_and(|disk| disk.ended);
        !self.disks.is_empty() && self.seen.planned.keys().filter(|key| self.asked.wants(**key)).all(whole)
    }

    /// Prepares for another stream, which brings what is missing after `broken`; `None`: it can't be asked for.
    pub(super) async fn missing(&mut self, broken: &JobResult) -> Result<Option<Missing>, Failure> {
        let mut missing = Missing { keys: Vec::new(), ranges: Vec::new(), bytes: 0 };
        for (key, facts) in self.seen.planned.iter().filter(|(key, _)| self.asked.wants(**key)) {
            let capacity = facts.capacity_bytes;
            let Some(disk) = self.disks.get_mut(key) else {
                missing.keys.push(*key);
                missing.bytes += capacity;
                continue;
            };
            disk.open = false;
            if !disk.ended && disk.next == disk.facts.capacity_bytes {
                // Only the word about its end was lost.
                let of_it = |told: &&DiskResult| told.ok && told.disk.as_ref().is_some_and(|d| d.device_key == *key);
                let Some(told) = broken.disks.iter().find(of_it) else { return Ok(None) };
                (disk.ended, disk.told) = (true, Some(told.clone()));
                disk.writer.finish().await?;
            }
            if disk.ended {
                disk.earlier = true;
                continue;
            }
            missing.keys.push(*key);
            let length = disk.facts.capacity_bytes - disk.next;
            missing.bytes += length;
            if disk.next > 0 {
                missing.ranges.push(DiskRanges { device_key: *key, ranges: vec![Range { offset: disk.next, length }] });
            }
        }
        // Without keys it would be every disk.
        if missing.keys.is_empty() {
            return Ok(None);
        }
        self.seen.job_id = None;
        Ok(Some(missing))
    }

    /// The result with the disks that came whole under jobs before it.
    pub(super) fn complete(&self, mut result: JobResult) -> JobResult {
        let of = |told: &DiskResult| told.disk.as_ref().map(|facts| facts.device_key);
        for told in self.disks.values().filter(|disk| disk.earlier).filter_map(|disk| disk.told.as_ref()) {
            if !result.disks.iter().any(|known| of(known) == of(told)) {
                result.disks.push(told.clone());
            }
        }
        result
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// True once a disk was attached, as far as the stream told.
    pub(super) fn began(&self) -> bool {
        self.seen.began
    }

    /// Takes one event; the last one is handed back.
    pub(super) async fn take(&mut self, event: JobEvent) -> Result<Option<JobResult>, Failure> {
        // An event that this version does not know: evolution is additive.
        let Some(item) = event.item else { return Ok(None) };
        match (&item, &self.seen.job_id) {
            (Item::JobId(_), Some(_)) => return Err(Failure::contract("a second job id on one stream")),
            (Item::JobId(_), None) | (_, Some(_)) => {}
            (_, None) => return Err(Failure::contract("an event before the job id")),
        }
        match item {
            Item::JobId(id) => {
                self.out.event(|| json!({"event": "job_id", "job_id": id}));
                self.seen.job_id = Some(id);
            }
            Item::Preflight(preflight) => {
                report::preflight(&self.out, &preflight);
                self.vm_name.clone_from(&preflight.vm_name);
                let disks = preflight.disks.into_iter().filter_map(|plan| plan.disk);
                // A job that resumes plans the rest only.
                self.seen.planned.extend(disks.map(|facts| (facts.device_key, facts)));
            }
            Item::Phase(phase) => {
                self.seen.began |= phase.phase() == Phase::Read;
                report::phase(&self.out, &phase);
            }
            Item::Waiting(waiting) => report::waiting(&self.out, &waiting),
            Item::Snapshot(snapshot) => report::snapshot(&self.out, &snapshot),
            Item::Opened(opened) => self.open(opened)?,
            Item::Frame(frame) => self.frame(frame).await?,
            Item::DiskRead(result) => self.disk_read(result).await?,
            Item::Result(result) => return Ok(Some(result)),
        }
        Ok(None)
    }

    fn open(&mut self, opened: DiskOpened) -> Result<(), Failure> {
        self.seen.began = true;
        let facts = opened.disk.clone().ok_or_else(|| Failure::contract("a disk was opened without facts"))?;
        let (key, name) = (facts.device_key, report::disk_name(&facts));
        if let Some(disk) = self.disks.get_mut(&key) {
            if disk.ended {
                return Err(Failure::contract(format!("{name} was opened twice")));
            }
            let going_on = way(disk.next, &opened);
            if disk.open && disk.ways.last().is_some_and(|(_, transport, _)| *transport == going_on.1) {
                return Err(Failure::contract(format!("{name} was opened twice")));
            }
            let rest = disk.facts.capacity_bytes.checked_sub(disk.next);
            let same = (facts.capacity_bytes, &facts.uuid, &facts.change_id)
                == (disk.facts.capacity_bytes, &disk.facts.uuid, &disk.facts.change_id);
            if !same || Some(opened.bytes_required) != rest {
                return Err(Failure::contract(format!("{name} is not what was begun: {facts:?}, {rest:?} bytes due")));
            }
            disk.open = true;
            disk.ways.push(going_on);
            report::opened(&self.out, &facts, &opened.engine, &disk.file);
            return Ok(());
        }
        if self.disks.len() == MOST_DISKS {
            return Err(Failure::contract(format!("more than {MOST_DISKS} disks")));
        }
        if !self.asked.wants(key) {
            return Err(Failure::contract(format!("{name} was opened and never asked for")));
        }
        if self.vm_name.is_empty() {
            self.vm_name.clone_from(&self.asked.vm);
        }
        let file = image_name(&self.vm_name, key);
        let image = self.staging.create(&file, facts.capacity_bytes)?;
        let spec = Spec { disk: name, capacity: facts.capacity_bytes, block: self.block };
        let progress = DiskProgress::new(&self.out, key, &facts.label, facts.capacity_bytes);
        let writer = Writer::start(image, spec, progress, self.faults.clone())?;
        report::opened(&self.out, &facts, &opened.engine, &file);
        self.seen.opened.insert(key, facts.capacity_bytes);
        let ways = vec![way(0, &opened)];
        let engine = opened.engine;
        let disk =
            Disk { facts, engine, file, writer, open: true, next: 0, ways, ended: false, told: None, earlier: false };
        self.disks.insert(key, disk);
        Ok(())
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Failure> {
        let key = frame.device_key;
        match self.disks.get_mut(&key) {
            Some(disk) if disk.open && !disk.ended => {
                let end = frame.offset.saturating_add(frame.length.into());
                disk.writer.frame(frame).await?;
                disk.next = end;
                Ok(())
            }
            Some(disk) if !disk.open => Err(Failure::contract(format!("a frame of disk {key}, which is not open"))),
            Some(_) => Err(Failure::contract(format!("a frame of disk {key} after its end"))),
            None => Err(Failure::contract(format!("a frame of disk {key}, which is not open"))),
        }
    }

    async fn disk_read(&mut self, result: DiskResult) -> Result<(), Failure> {
        let key = result.disk.as_ref().map_or(0, |facts| facts.device_key);
        report::disk_read(&self.out, &result);
        if !result.ok {
            // Its bytes are worth nothing any more; whether the job is, the result will say.
            if self.keep_broken {
                self.disks.get_mut(&key).into_iter().for_each(|disk| disk.open = false);
            } else if let Some(disk) = self.disks.remove(&key) {
                self.staging.discard(&disk.file);
            }
            return Ok(());
        }
        match self.disks.get_mut(&key) {
            Some(disk) if disk.open && !disk.ended => {
                (disk.ended, disk.told) = (true, Some(result));
                disk.writer.finish().await
            }
            Some(_) => Err(Failure::contract(format!("disk {key} ended twice"))),
            None => Err(Failure::contract(format!("disk {key} ended and was never opened"))),
        }
    }

    /// Ends the writers and removes their files: nothing of this run will be used.
    pub(super) fn give_up(&mut self) {
        for disk in std::mem::take(&mut self.disks).into_values() {
            self.staging.discard(&disk.file);
        }
    }

    /// Waits until every image that is kept is whole and synced, forgets the others, and describes what is kept.
    pub(super) async fn manifest(
        &mut self,
        verdict: &Verdict,
        result: &JobResult,
        info: &GetInfoResponse,
    ) -> Result<Manifest, Failure> {
        let mut records = Vec::new();
        for (key, disk) in std::mem::take(&mut self.disks) {
            match verdict.kept.get(&key) {
                Some(told) => records.push(record(disk, told).await?),
                None => self.staging.discard(&disk.file),
            }
        }
        let snapshot = result.snapshot.clone().unwrap_or_default();
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            created: jiff::Timestamp::now().to_string(),
            agent_version: info.agent_version.clone(),
            job_id: result.job_id.clone(),
            vm_moref: result.vm_moref.clone(),
            vm_name: result.vm_name.clone(),
            snapshot: SnapshotRecord {
                consistency: report::reached_name(snapshot.reached()).to_owned(),
                fault: snapshot.fault.map(|reason| format!("{}: {}", reason.code, reason.message)),
                moref: snapshot.moref,
            },
            disks: records,
        };
        manifest.check().map_err(|flaw| Failure::internal(format!("the manifest would be wrong: {flaw}")))?;
        Ok(manifest)
    }

    pub(super) fn into_staging(self) -> Staging {
        self.staging
    }
}

fn way(from: u64, opened: &DiskOpened) -> (u64, String, String) {
    (from, report::transport_name(opened.transport()).to_owned(), opened.engine.clone())
}

/// An opening that brought nothing has no range.
fn parts(ways: &[(u64, String, String)], end: u64) -> Vec<PartRecord> {
    let ends = ways.iter().skip(1).map(|(from, ..)| *from).chain([end]);
    let part = |((from, transport, engine), end): (&(u64, String, String), u64)| PartRecord {
        offset: *from,
        length: end - from,
        transport: transport.clone(),
        engine: engine.clone(),
    };
    ways.iter().zip(ends).filter(|((from, ..), end)| from < end).map(part).collect()
}

async fn record(disk: Disk, told: &DiskResult) -> Result<DiskRecord, Failure> {
    if !disk.ended {
        let what = format!("{}: its last frames were lost with the stream", report::disk_name(&disk.facts));
        return Err(Failure::new(Exit::JobFailed, reasons::BROKEN, what));
    }
    let coverage = disk.writer.written().await?;
    let engine = if told.engine.is_empty() { disk.engine } else { told.engine.clone() };
    let mut record = DiskRecord {
        file: disk.file,
        device_key: disk.facts.device_key,
        label: disk.facts.label,
        backing: disk.facts.backing,
        uuid: disk.facts.uuid,
        change_id: disk.facts.change_id,
        capacity_bytes: 0,
        block_bytes: 0,
        transport: report::transport_name(told.transport()).to_owned(),
        engine,
        parts: parts(&disk.ways, disk.next),
        data: Vec::new(),
        zero: Vec::new(),
        root: String::new(),
    };
    coverage.record(&mut record);
    Ok(record)
}
