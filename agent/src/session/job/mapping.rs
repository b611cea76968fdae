//! What a job reads of each disk: asks vCenter for the map that [`crate::areas`] chose, tests it on the disk itself, and reads
//! more where it can't be had or believed. Nothing here fails a job: the read that follows meets what is wrong with the disk.
use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, Mutex},
};

use hotadd_api::v1;
use tokio::time::timeout;

use super::{
    Job,
    held::{HeldDisk, Turn},
    tracking::Origin,
};
use crate::{
    areas::{
        Areas, Base, ChangeId, Facts, Known, MAX_AREAS, Map, SAMPLE_BYTES, Scope, Step, after, first, sample, worth,
    },
    attach::{Actor, now},
    error::{Error, Result},
    hypervisor::{AreaQuestion, TargetDisk},
    journal::{Record, Untrusted},
    reason,
    session::{opener::Opener, registry::lock},
    transport::{Disk, Item, Reading, unless},
};

/// What is read of one disk.
pub(super) struct Reads {
    pub(super) ranges: Vec<Range<u64>>,
    /// As it is told; `None`: the request named the ranges.
    pub(super) map: Option<v1::ReadMap>,
}

impl Reads {
    fn whole(disk: &TargetDisk, wider: Option<&Error>, sampled: usize) -> Self {
        let wider = wider.map(Error::to_reason);
        let map = v1::ReadMap {
            scope: v1::Scope::Whole.into(),
            wider,
            sampled_blocks: count(sampled),
            ..v1::ReadMap::default()
        };
        Self { ranges: vec![Range { start: 0, end: disk.capacity_bytes }], map: Some(map) }
    }

    /// Why it is more than was asked.
    pub(super) fn wider(&self) -> Option<&v1::Reason> {
        self.map.as_ref()?.wider.as_ref()
    }
}

/// A map that turned out wrong or untested: why, and how many blocks were read.
struct Failed(Error, usize);

impl Job {
    /// `turn`: what `held` is read from first.
    pub(super) async fn reads(&self, opener: &Opener, held: &HeldDisk, turn: &Turn) -> Reads {
        let facts = turn.disk.facts();
        if let Some(ranges) = self.request.ranges.get(&facts.device_key) {
            return Reads { ranges: ranges.clone(), map: None };
        }
        let mut step = self.first_step(opener, held, &turn.disk);
        loop {
            let (scope, change_id, wider) = match step {
                Step::Whole(wider) => return Reads::whole(facts, wider.as_ref(), 0),
                Step::Map { scope, change_id, wider } => (scope, change_id, wider),
            };
            match self.map(opener, &held.origin, turn, &change_id).await {
                Ok(map) => return self.tested(opener, held, turn, scope, &map, wider).await,
                Err(why) => {
                    tracing::warn!(disk = facts.label, ?scope, reason = why.reason().code, %why, "no map: more is read");
                    step = after(scope, why, wider.as_ref());
                }
            }
        }
    }

    fn first_step(&self, opener: &Opener, held: &HeldDisk, disk: &Disk) -> Step {
        let (facts, origin) = (disk.facts(), &held.origin);
        let state = opener.vm.journal.state();
        let tracking = ChangeId::parse(&facts.change_id);
        let mark =
            facts.uuid.zip(tracking.as_ref()).and_then(|(uuid, id)| state.history().untrusted(uuid, &id.tracking));
        let untracked = origin.untracked_before(facts);
        let untrusted = mark.map(|mark| format!("since {}: {}", mark.at, mark.why));
        let known = Facts {
            disk: facts,
            exported: matches!(disk, Disk::Exported(_)),
            enabled: &origin.enabled,
            untracked_before: untracked.as_deref(),
            below: origin.below(facts),
            build: origin.build,
            untrusted: untrusted.as_deref(),
        };
        first(self.request.wanted.scope, self.base(facts), &known)
    }

    fn base(&self, disk: &TargetDisk) -> Option<&Base> {
        self.request.wanted.bases.get(&disk.device_key)
    }

    /// The whole map of one disk, page by page.
    async fn map(&self, opener: &Opener, origin: &Origin, turn: &Turn, change_id: &str) -> Result<Areas> {
        let disk = turn.disk.facts();
        let pages = timeout(opener.vm.deadlines.areas, pages(self.actor()?, origin, disk, change_id));
        let failed = |why: &str| Error::new(&reason::CBT_FAULT, format!("{}: {why}", disk.label));
        match unless(&turn.stop, pages).await {
            Some(Ok(map)) => map,
            Some(Err(_)) => Err(failed("it did not come in time (deadlines.areas_seconds)")),
            None => Err(failed("it is not read from there any more")),
        }
    }

    async fn tested(
        &self,
        opener: &Opener,
        held: &HeldDisk,
        turn: &Turn,
        scope: Scope,
        map: &Areas,
        wider: Option<Error>,
    ) -> Reads {
        let facts = turn.disk.facts();
        let gap = worth(&opener.planner.rates.now(), turn.disk.transport());
        let read = map.aligned(self.request.block_bytes.into(), facts.capacity_bytes).joined(gap, MAX_AREAS);
        let (api, tested) = match scope {
            Scope::Changed => (v1::Scope::Changed, self.test_known(opener, turn, map).await),
            Scope::Allocated | Scope::Whole => (v1::Scope::Allocated, self.test_zero(opener, turn, &read).await),
        };
        let sampled = match tested {
            Ok(sampled) => sampled,
            Err(Failed(why, sampled)) => {
                if *why.reason() == reason::CBT_FALSE {
                    self.distrust(opener, &held.origin, facts, &why).await;
                } else {
                    tracing::warn!(disk = facts.label, %why, "an untested map: the disk is read whole");
                }
                return Reads::whole(facts, Some(&why), sampled);
            }
        };
        let range = |r: &Range<u64>| v1::Range { offset: r.start, length: r.end - r.start };
        let map = v1::ReadMap {
            scope: api.into(),
            areas: read.ranges().iter().map(range).collect(),
            mapped_bytes: map.bytes(),
            wider: wider.as_ref().map(Error::to_reason),
            sampled_blocks: count(sampled),
        };
        tracing::info!(
            disk = facts.label,
            ?scope,
            areas = map.areas.len(),
            bytes = read.bytes(),
            sampled,
            "what is read"
        );
        Reads { ranges: read.into_ranges(), map: Some(map) }
    }

    /// A sample of what is not read has to be zero. Gives how many blocks were looked at.
    async fn test_zero(&self, opener: &Opener, turn: &Turn, read: &Areas) -> Result<usize, Failed> {
        let facts = turn.disk.facts();
        let rest = read.rest(facts.capacity_bytes);
        let blocks = sample(&rest, self.request.wanted.seed, &facts.device_key.to_string());
        let found = Arc::new(Mutex::new(None));
        let into = Arc::clone(&found);
        let look = move |frame: &v1::Frame| {
            if !frame.zero {
                lock(&into).get_or_insert(frame.offset);
            }
        };
        let looked = self.look(opener, turn, blocks.clone(), SAMPLE_BYTES, look).await;
        let wrong = *lock(&found);
        if let Some(at) = wrong {
            let detail = format!("{}: the block at byte {at} is not zero, and called unallocated", facts.label);
            return Err(Failed(Error::new(&reason::CBT_FALSE, detail), blocks.len()));
        }
        looked.map(|()| blocks.len()).map_err(|why| Failed(why, 0))
    }

    /// What the base has of unchanged blocks is there now. Gives how many were looked at.
    async fn test_known(&self, opener: &Opener, turn: &Turn, map: &Areas) -> Result<usize, Failed> {
        let facts = turn.disk.facts();
        let known = self.base(facts).map_or(&[][..], |base| &base.known);
        let known = Known::unchanged(known, map, facts.capacity_bytes);
        let (ranges, count) = (known.ranges(), known.count());
        let known = Arc::new(Mutex::new(known));
        let into = Arc::clone(&known);
        let look = move |frame: &v1::Frame| {
            let data = (!frame.zero).then_some(&frame.data[..]);
            lock(&into).take(frame.offset, frame.length.into(), data);
        };
        let looked = self.look(opener, turn, ranges, self.request.block_bytes, look).await;
        let known = lock(&known);
        if let Some(Range { start, end }) = known.differs() {
            let detail = format!("{}: {start}..{end} is not as in the base, and called unchanged", facts.label);
            return Err(Failed(Error::new(&reason::CBT_FALSE, detail), count));
        }
        looked.map_err(|why| Failed(why, 0))?;
        match known.unread() {
            None => Ok(count),
            Some(Range { start, end }) => {
                let detail = format!("{}: {start}..{end} was not read", facts.label);
                Err(Failed(Error::new(&reason::CBT_UNTESTED, detail), 0))
            }
        }
    }

    /// Reads a few ranges by the disk's own transport.
    async fn look(
        &self,
        opener: &Opener,
        turn: &Turn,
        ranges: Vec<Range<u64>>,
        block_bytes: u32,
        mut each: impl FnMut(&v1::Frame) + Send + 'static,
    ) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let Turn { disk, stop } = turn.clone();
        let facts = disk.facts().clone();
        let order = crate::transport::ReadOrder { block_bytes, ..self.order(opener, ranges) };
        let sink = Box::new(move |item| {
            if let Item::Frame(frame) = item {
                each(&frame);
            }
            ControlFlow::Continue(())
        });
        let reading = Reading::start(disk, opener.platform(), order, sink, stop, opener.vm.means(self.session)).await;
        let ended = match reading {
            Ok(reading) => reading.join().await.error.map_or(Ok(()), Err),
            Err(error) => Err(error),
        };
        ended.map_err(|why| Error::new(&reason::CBT_UNTESTED, format!("{}: {why}", facts.label)))
    }

    /// The alarm, and the mark that later jobs heed.
    async fn distrust(&self, opener: &Opener, origin: &Origin, disk: &TargetDisk, why: &Error) {
        tracing::error!(disk = disk.label, vm = origin.vm_name, reason = why.reason().code, %why, "change tracking is wrong");
        let Some((uuid, id)) = disk.uuid.zip(ChangeId::parse(&disk.change_id)) else { return };
        let facts = why.message();
        let seen = facts.strip_prefix(why.reason().summary).unwrap_or(&facts).trim_start_matches(": ").to_owned();
        let mark = Untrusted { disk: uuid, tracking: id.tracking, at: now(), vm: origin.vm_name.clone(), why: seen };
        if let Err(error) = opener.vm.record(vec![Record::Untrusted(mark)]).await {
            tracing::error!(disk = disk.label, %error, "that can't be journalled: the next job believes it again");
        }
    }
}

async fn pages(actor: &Actor, origin: &Origin, disk: &TargetDisk, change_id: &str) -> Result<Areas> {
    let mut map = Map::new(disk.capacity_bytes);
    while let Some(start) = map.wants() {
        let question =
            AreaQuestion { vm: &origin.vm, snapshot: &origin.snapshot, device_key: disk.device_key, start, change_id };
        let page = actor.hypervisor().changed_areas(question).await.map_err(|error| {
            let failed = Error::new(&reason::CBT_FAULT, format!("{}: {error}", disk.label));
            match error.fault() {
                Some(fault) => failed.with_fault(fault),
                None => failed,
            }
        })?;
        map.take(&page).map_err(|why| Error::new(&reason::CBT_IMPOSSIBLE, format!("{}: {why}", disk.label)))?;
    }
    Ok(map.finish())
}

/// Ranges of one part that a job's result tells one by one: results of many jobs are kept.
const MAX_TOLD: usize = 1024;

/// A disk's result as it is kept: of a part with too many ranges from where to where. Its event has told them all.
pub(super) fn short(result: &v1::DiskResult) -> v1::DiskResult {
    let mut short = result.clone();
    for part in short.parts.iter_mut().filter(|part| part.ranges.len() > MAX_TOLD) {
        if let (Some(first), Some(last)) = (part.ranges.first(), part.ranges.last()) {
            let length = last.offset + last.length - first.offset;
            part.ranges = vec![v1::Range { offset: first.offset, length }];
        }
    }
    short
}

fn count(blocks: usize) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_kept_has_few_ranges() {
        let part = |count: u64| v1::TransportPart {
            ranges: (0..count).map(|n| v1::Range { offset: 10 + n * 4, length: 2 }).collect(),
            ..v1::TransportPart::default()
        };
        let result = v1::DiskResult { parts: vec![part(1024), part(1025)], ..v1::DiskResult::default() };
        let short = short(&result);
        assert_eq!(short.parts[0], result.parts[0]);
        assert_eq!(short.parts[1].ranges, [v1::Range { offset: 10, length: 1024 * 4 + 2 }]);
    }
}
