//! One disk of a backup while its frames come: how it was opened, how far it is, what the manifest says of it.
use hotadd_api::{
    manifest::{DiskRecord, PartRecord},
    v1::{DiskFacts, DiskOpened, DiskProgress, DiskResult, KnownBlock, Reason},
};

use super::{areas::Areas, progress::Aside, report, stages::Shares, writer::Writer};
use crate::{error::Failure, exit::Exit, reasons};

/// A disk whose frames come or came.
#[derive(Debug)]
pub(super) struct Disk {
    facts: DiskFacts,
    engine: String,
    pub(super) file: String,
    pub(super) writer: Writer,
    /// What is to come of it, since its first opening.
    pub(super) areas: Areas,
    wider: Option<Reason>,
    sampled_blocks: u32,
    /// Its frames come on the stream of now.
    pub(super) open: bool,
    /// End of what came.
    pub(super) next: u64,
    /// The first and the last block with data that came.
    shown: Option<(KnownBlock, KnownBlock)>,
    /// Its rest was asked for by ranges, so that no map comes with it.
    pub(super) by_ranges: bool,
    /// Where each opening began to bring frames, by which transport and engine.
    ways: Vec<(u64, String, String)>,
    /// All of its frames came.
    pub(super) ended: bool,
    /// The agent's word that it was read well.
    pub(super) told: Option<DiskResult>,
    pub(super) shares: Shares,
    /// Beside its bar.
    aside: Aside,
    /// It came whole under a job before the one of now, whose result need not name it.
    pub(super) earlier: bool,
}

impl Disk {
    pub(super) fn new(
        facts: DiskFacts,
        opened: &DiskOpened,
        areas: Areas,
        file: String,
        (writer, aside): (Writer, Aside),
    ) -> Self {
        Self {
            facts,
            engine: opened.engine.clone(),
            file,
            writer,
            areas,
            wider: opened.map.as_ref().and_then(|map| map.wider.clone()),
            sampled_blocks: opened.map.as_ref().map_or(0, |map| map.sampled_blocks),
            open: true,
            next: 0,
            shown: None,
            by_ranges: false,
            ways: vec![way(0, opened)],
            ended: false,
            told: None,
            shares: Shares::default(),
            aside,
            earlier: false,
        }
    }

    /// A frame is on its way into the image.
    pub(super) fn came(&mut self, end: u64, data: Option<KnownBlock>) {
        self.next = end;
        if let Some(last) = data {
            let first = self.shown.take().map_or_else(|| last.clone(), |(first, _)| first);
            self.shown = Some((first, last));
        }
    }

    /// How it goes on, as the agent tells it.
    pub(super) fn progress(&mut self, told: &DiskProgress) {
        self.shares.progress(told.stages);
        self.aside.show(self.shares.line());
    }

    /// What brings the rest has to show these.
    pub(super) fn known(&self) -> Vec<KnownBlock> {
        match &self.shown {
            None => Vec::new(),
            Some((first, last)) if first == last => vec![first.clone()],
            Some((first, last)) => vec![first.clone(), last.clone()],
        }
    }

    /// Bytes that are still to come.
    pub(super) fn left(&self) -> u64 {
        self.areas.rest(self.next).iter().map(|range| range.length).sum()
    }

    /// Its rest comes by another transport or on another stream.
    pub(super) fn open_again(&mut self, facts: &DiskFacts, opened: &DiskOpened, block: u32) -> Result<(), Failure> {
        let (name, left) = (report::disk_name(facts), self.left());
        let going_on = way(self.next, opened);
        let same_way = self.ways.last().is_some_and(|(_, transport, _)| *transport == going_on.1);
        if self.ended || (self.open && same_way) {
            return Err(Failure::contract(format!("{name} was opened twice")));
        }
        let same = (facts.capacity_bytes, &facts.uuid, &facts.change_id)
            == (self.facts.capacity_bytes, &self.facts.uuid, &self.facts.change_id);
        if !same || opened.bytes_required != left {
            return Err(Failure::contract(format!("{name} is not what was begun: {facts:?}, {left} bytes due")));
        }
        if !(self.by_ranges && opened.map.is_none()) {
            let areas = Areas::told(opened.map.as_ref(), facts.capacity_bytes, block);
            let areas = areas.map_err(|flaw| Failure::contract(format!("{name}: {flaw}")))?;
            if areas != self.areas {
                return Err(Failure::contract(format!("{name} was opened again with another map")));
            }
        }
        self.shares.opened_again();
        self.open = true;
        self.ways.push(going_on);
        Ok(())
    }

    /// Waits until the image is whole and synced, and describes it.
    pub(super) async fn record(self, told: &DiskResult) -> Result<DiskRecord, Failure> {
        if !self.ended {
            let what = format!("{}: its last frames were lost with the stream", report::disk_name(&self.facts));
            return Err(Failure::new(Exit::JobFailed, reasons::BROKEN, what));
        }
        let coverage = self.writer.written().await?;
        let mut record = DiskRecord {
            file: self.file,
            device_key: self.facts.device_key,
            label: self.facts.label,
            backing: self.facts.backing,
            uuid: self.facts.uuid,
            change_id: self.facts.change_id,
            transport: report::transport_name(told.transport()).to_owned(),
            engine: if told.engine.is_empty() { self.engine } else { told.engine.clone() },
            wider: self.wider.map(|reason| format!("{}: {}", reason.code, reason.message)),
            sampled_blocks: self.sampled_blocks,
            parts: parts(&self.ways, self.next),
            ..DiskRecord::default()
        };
        coverage.record(&mut record);
        Ok(record)
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
