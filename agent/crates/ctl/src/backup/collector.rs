//! Takes the events of a job in order: tells people, opens images, hands frames to writers. It refuses what hotadd.v1
//! forbids at once; whether the whole is a backup is for the module `judge`.
use std::{collections::BTreeMap, time::Instant};

use hotadd_api::{
    manifest::{self, DiskRecord, FORMAT, Manifest, SnapshotRecord},
    v1::{
        DiskFacts, DiskOpened, DiskProgress as Going, DiskRanges, DiskResult, Frame, GetInfoResponse, JobEvent,
        JobResult, KnownBlock, Phase, Preflight, VmConfig, job_event::Item,
    },
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    coverage::Format,
    disk::Disk,
    hardware,
    judge::{Asked, Seen, Verdict},
    progress::DiskProgress,
    rate::Rate,
    report,
    staging::image_name,
    target::Target,
    wish::Wish,
    writer::{Spec, Writer},
};
use crate::{error::Failure, output::Output};

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

#[derive(Debug)]
pub(super) struct Collector {
    out: Output,
    target: Target,
    asked: Asked,
    wish: Wish,
    format: Format,
    faults: mpsc::Sender<Failure>,
    vm_name: String,
    seen: Seen,
    disks: BTreeMap<i32, Disk>,
    /// As the first job told it: those that resume read the same snapshot.
    hardware: Option<VmConfig>,
    /// A disk that was not read to its end is kept: its rest may still come.
    keep_broken: bool,
    rate: Rate,
    /// Of each disk that came to its end: where its time went.
    bottlenecks: Vec<String>,
}

impl Collector {
    pub(super) fn new(
        out: Output,
        target: Target,
        asked: Asked,
        wish: Wish,
        format: Format,
        faults: mpsc::Sender<Failure>,
    ) -> Self {
        let (vm_name, seen, disks) = (String::new(), Seen::default(), BTreeMap::new());
        let (hardware, keep_broken, rate, bottlenecks) = (None, false, Rate::default(), Vec::new());
        Self {
            out,
            target,
            asked,
            wish,
            format,
            faults,
            vm_name,
            seen,
            disks,
            hardware,
            keep_broken,
            rate,
            bottlenecks,
        }
    }

    pub(super) fn keep_broken(&mut self, on: bool) {
        self.keep_broken = on;
    }

    /// Bytes of all disks that came, zero blocks included.
    pub(super) fn received(&self) -> u64 {
        self.disks.values().map(|disk| disk.areas.total() - disk.left()).sum()
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
            disk.shares.job_broke();
            let rest = disk.areas.rest(disk.next);
            if !disk.ended && rest.is_empty() {
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
            missing.bytes += disk.left();
            // A map belongs to the disk from its first opening on: it is never asked for again.
            disk.by_ranges = true;
            missing.ranges.push(DiskRanges { device_key: *key, ranges: rest, known: disk.known() });
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
            Item::Preflight(preflight) => self.preflight(preflight)?,
            Item::Phase(phase) => {
                self.seen.began |= phase.phase() == Phase::Read;
                report::phase(&self.out, &phase);
            }
            Item::Waiting(waiting) => report::waiting(&self.out, &waiting),
            Item::Snapshot(snapshot) => report::snapshot(&self.out, &snapshot),
            Item::VmConfig(told) => drop(self.hardware.get_or_insert(told)),
            Item::Opened(opened) => self.open(opened)?,
            Item::Progress(going) => self.progress(&going),
            Item::Frame(frame) => self.frame(frame).await?,
            Item::DiskRead(result) => self.disk_read(result).await?,
            Item::Result(result) => return Ok(Some(result)),
        }
        Ok(None)
    }

    fn preflight(&mut self, preflight: Preflight) -> Result<(), Failure> {
        report::preflight(&self.out, &preflight);
        self.wish.check_vm(&preflight.vm_moref)?;
        self.vm_name.clone_from(&preflight.vm_name);
        let disks = preflight.disks.into_iter().filter_map(|plan| plan.disk);
        // A job that resumes plans the rest only.
        self.seen.planned.extend(disks.map(|facts| (facts.device_key, facts)));
        Ok(())
    }

    fn open(&mut self, opened: DiskOpened) -> Result<(), Failure> {
        self.seen.began = true;
        self.rate.mark();
        let facts = opened.disk.clone().ok_or_else(|| Failure::contract("a disk was opened without facts"))?;
        let key = facts.device_key;
        if let Some(disk) = self.disks.get_mut(&key) {
            disk.open_again(&facts, &opened, self.format.block)?;
            report::opened(&self.out, &opened, &facts, &disk.areas, &disk.file);
            return Ok(());
        }
        if self.disks.len() == MOST_DISKS {
            return Err(Failure::contract(format!("more than {MOST_DISKS} disks")));
        }
        if !self.asked.wants(key) {
            let name = report::disk_name(&facts);
            return Err(Failure::contract(format!("{name} was opened and never asked for")));
        }
        let disk = self.begin(facts, &opened)?;
        self.disks.insert(key, disk);
        Ok(())
    }

    fn begin(&mut self, facts: DiskFacts, opened: &DiskOpened) -> Result<Disk, Failure> {
        let (key, name, capacity) = (facts.device_key, report::disk_name(&facts), facts.capacity_bytes);
        let areas = self.wish.areas(&facts, opened, self.format.block)?;
        if self.vm_name.is_empty() {
            self.vm_name.clone_from(&self.asked.vm);
        }
        let file = image_name(&self.vm_name, key, areas.scope());
        let image = self.target.create(&file, capacity)?;
        let progress = DiskProgress::new(&self.out, key, &facts.label, areas.total());
        let spec = Spec { disk: name, areas: areas.clone(), format: self.format };
        let aside = progress.aside();
        let writer = Writer::start(image, spec, progress, self.faults.clone())?;
        report::opened(&self.out, opened, &facts, &areas, &file);
        self.seen.opened.insert(key, capacity);
        Ok(Disk::new(facts, opened, areas, file, (writer, aside)))
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Failure> {
        let key = frame.device_key;
        match self.disks.get_mut(&key) {
            Some(disk) if disk.open && !disk.ended => {
                let end = frame.offset.saturating_add(frame.length.into());
                let Frame { offset, length, ref blake3, .. } = frame;
                let data = (!frame.zero).then(|| KnownBlock { offset, length, blake3: blake3.to_vec() });
                self.rate.came(length.into(), frame.zero);
                let begun = Instant::now();
                disk.writer.frame(frame).await?;
                disk.came(end, data);
                let waited = begun.elapsed();
                let open = self.disks.values_mut().filter(|disk| disk.open && !disk.ended);
                open.for_each(|disk| disk.shares.waited_for_target(waited));
                Ok(())
            }
            Some(disk) if !disk.open => Err(Failure::contract(format!("a frame of disk {key}, which is not open"))),
            Some(_) => Err(Failure::contract(format!("a frame of disk {key} after its end"))),
            None => Err(Failure::contract(format!("a frame of disk {key}, which is not open"))),
        }
    }

    /// Of a disk that is not open it is no harm: what it tells decides nothing.
    fn progress(&mut self, going: &Going) {
        if let Some(disk) = self.disks.get_mut(&going.device_key) {
            disk.progress(going);
            report::stages(&self.out, going, &disk.shares);
        }
    }

    async fn disk_read(&mut self, result: DiskResult) -> Result<(), Failure> {
        let key = result.disk.as_ref().map_or(0, |facts| facts.device_key);
        let shares = self.disks.get_mut(&key).map(|disk| {
            disk.shares.end(result.stages);
            disk.shares.clone()
        });
        let bottleneck = report::disk_read(&self.out, &result, &shares.unwrap_or_default());
        self.bottlenecks.extend(bottleneck.filter(|_| result.ok));
        self.rate.mark();
        if !result.ok {
            // Its bytes are worth nothing any more; whether the job is, the result will say.
            if self.keep_broken {
                self.disks.get_mut(&key).into_iter().for_each(|disk| disk.open = false);
            } else if let Some(disk) = self.disks.remove(&key) {
                self.target.discard(&disk.file);
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
            self.target.discard(&disk.file);
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
                Some(told) => {
                    let mut record = disk.record(told).await?;
                    self.wish.describe(&mut record);
                    records.push(record);
                }
                None => self.target.discard(&disk.file),
            }
        }
        let vm_config = self.hardware(&records);
        let snapshot = result.snapshot.clone().unwrap_or_default();
        let mut manifest = Manifest {
            format: FORMAT.to_owned(),
            created: jiff::Timestamp::now().to_string(),
            agent_version: info.agent_version.clone(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            job_id: result.job_id.clone(),
            vm_moref: result.vm_moref.clone(),
            vm_name: result.vm_name.clone(),
            snapshot: SnapshotRecord {
                consistency: report::reached_name(snapshot.reached()).to_owned(),
                fault: snapshot.fault.map(|reason| format!("{}: {}", reason.code, reason.message)),
                moref: snapshot.moref,
            },
            base: None,
            synthesized_from: None,
            vm_config,
            disks: records,
        };
        self.wish.name_base(&mut manifest);
        manifest.check().map_err(|flaw| Failure::internal(format!("the manifest would be wrong: {flaw}")))?;
        Ok(manifest)
    }

    fn hardware(&self, disks: &[DiskRecord]) -> Option<manifest::VmConfig> {
        let nothing = || Err("this agent does not tell it".to_owned());
        let described = self.hardware.as_ref().map_or_else(nothing, |told| hardware::described(told, disks));
        let why = match described {
            Ok(config) => return Some(config),
            Err(why) => why,
        };
        self.out.warning(&format!("the manifest will not tell the VM's hardware: {why}"));
        None
    }

    pub(super) fn into_end(self) -> (Target, (Rate, Vec<String>)) {
        (self.target, (self.rate, self.bottlenecks))
    }
}
