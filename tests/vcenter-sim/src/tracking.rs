//! Changed block tracking of one disk file: what was written in each period between two snapshots. A period's number is the
//! sequence of the changeId of the snapshot that ends it. A delta goes on with a copy of its parent's history, so a revert
//! brings back that of the snapshot.

use std::collections::BTreeMap;

use crate::inventory::stable_uuid;
use crate::store::Extents;

/// Bytes of one tracked block.
pub(crate) const GRANULE: u64 = 64 << 10;

#[derive(Clone, Debug)]
pub(crate) struct Track {
    uuid: String,
    period: u64,
    writes: BTreeMap<u64, Extents>,
}

impl Track {
    /// As of now; `seed`: another one gives another UUID.
    pub(crate) fn begin(seed: &str) -> Track {
        let hex = stable_uuid("", seed).replace('-', "");
        let pair = |at: usize| hex.get(at..at + 2).unwrap_or("00");
        let half = |from: usize| (0..8).map(|n| pair(from + 2 * n)).collect::<Vec<_>>().join(" ");
        Track { uuid: format!("{}-{}", half(0), half(16)), period: 1, writes: BTreeMap::new() }
    }

    pub(crate) fn note(&mut self, start: u64, end: u64) {
        self.writes.entry(self.period).or_default().insert(start, end);
    }

    /// The changeId of the snapshot that is taken now.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.uuid, self.period)
    }

    /// The same history in the delta on top.
    pub(crate) fn next(&self) -> Track {
        Track { period: self.period + 1, ..self.clone() }
    }

    /// What was written after the snapshot with this changeId. Err tells what is wrong with it.
    pub(crate) fn since(&self, id: &str) -> Result<Extents, &'static str> {
        let (uuid, sequence) = id.rsplit_once('/').ok_or("no changeId")?;
        let sequence: u64 = sequence.parse().map_err(|_| "no changeId")?;
        if uuid != self.uuid {
            return Err("of another tracking");
        }
        if sequence > self.period {
            return Err("of the future");
        }
        let mut all = Extents::default();
        self.writes.range(sequence + 1..).flat_map(|(_, e)| e.iter()).for_each(|(start, end)| all.insert(start, end));
        Ok(all)
    }
}

/// Grown to whole blocks.
pub(crate) fn blocks(extents: &Extents, capacity: u64) -> Extents {
    let mut all = Extents::default();
    extents.iter().for_each(|(start, end)| {
        all.insert(start - start % GRANULE, end.next_multiple_of(GRANULE).min(capacity));
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_what_was_written_between_two_snapshots() {
        let mut track = Track::begin("a");
        track.note(0, 10);
        let (first, mut track) = (track.id(), track.next());
        track.note(70_000, 70_001);
        let (second, back) = (track.id(), track.clone());
        let mut track = track.next();
        track.note(5, 6);
        assert_eq!(back.since(&first).unwrap().iter().collect::<Vec<_>>(), [(70_000, 70_001)]);
        assert_eq!(back.since(&second).unwrap().iter().count(), 0);
        assert_eq!(track.since(&first).unwrap().iter().collect::<Vec<_>>(), [(5, 6), (70_000, 70_001)]);
        assert!(back.since(&track.id()).is_err() && Track::begin("b").since(&first).is_err());
        let whole = blocks(&track.since(&first).unwrap(), 100_000);
        assert_eq!(whole.iter().collect::<Vec<_>>(), [(0, 100_000)]);
    }
}
