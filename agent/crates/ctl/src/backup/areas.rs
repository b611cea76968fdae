//! What is to come of one disk: all of it, or the areas that the agent names when it opens the disk. Pure rules over
//! what the agent says; a map that is not what hotadd.v1 promises is refused as a whole.
use hotadd_api::{
    manifest::Scope,
    v1::{self, Range, ReadMap},
};

/// hotadd.v1, ReadMap.areas.
const MOST_AREAS: usize = 65_536;

/// Why a map is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("its map names {0} areas, at most {MOST_AREAS} are allowed")]
    Many(usize),
    #[error("its map names the area {offset}+{length}, which overlaps the one before or goes back")]
    Order { offset: u64, length: u64 },
    #[error("its map names the area {offset}+{length}, which is off the grid of {block} bytes")]
    Grid { offset: u64, length: u64, block: u32 },
    #[error("its map names the area {offset}+{length} on a disk of {capacity} bytes")]
    Beyond { offset: u64, length: u64, capacity: u64 },
    #[error("its map has areas and says that it is read whole")]
    WholeWithAreas,
    #[error("its map does not say what it came to")]
    NoScope,
}

/// Areas of one disk that are to come, in order and apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Areas {
    scope: Scope,
    capacity: u64,
    /// Start and end.
    runs: Vec<(u64, u64)>,
}

impl Areas {
    /// The whole disk.
    #[must_use]
    pub fn whole(capacity: u64) -> Self {
        let runs = if capacity > 0 { vec![(0, capacity)] } else { Vec::new() };
        Self { scope: Scope::Whole, capacity, runs }
    }

    /// What the agent says. No map, as agents before scopes gave none: the whole disk.
    ///
    /// # Errors
    /// The first [`Flaw`].
    pub fn told(map: Option<&ReadMap>, capacity: u64, block: u32) -> Result<Self, Flaw> {
        let Some(map) = map else { return Ok(Self::whole(capacity)) };
        let scope = match map.scope() {
            v1::Scope::Unspecified => return Err(Flaw::NoScope),
            v1::Scope::Whole if !map.areas.is_empty() => return Err(Flaw::WholeWithAreas),
            v1::Scope::Whole => return Ok(Self::whole(capacity)),
            v1::Scope::Allocated => Scope::Allocated,
            v1::Scope::Changed => Scope::Changed,
        };
        if map.areas.len() > MOST_AREAS {
            return Err(Flaw::Many(map.areas.len()));
        }
        let mut runs: Vec<(u64, u64)> = Vec::with_capacity(map.areas.len());
        for &Range { offset, length } in &map.areas {
            let end = offset.checked_add(length).filter(|end| *end <= capacity);
            let end = end.ok_or(Flaw::Beyond { offset, length, capacity })?;
            let on_grid = |at: u64| at.is_multiple_of(block.into());
            if length == 0 || !on_grid(offset) || !(on_grid(end) || end == capacity) {
                return Err(Flaw::Grid { offset, length, block });
            }
            match runs.last_mut() {
                Some((_, before)) if offset < *before => return Err(Flaw::Order { offset, length }),
                Some((_, before)) if offset == *before => *before = end,
                _ => runs.push((offset, end)),
            }
        }
        Ok(Self { scope, capacity, runs })
    }

    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes that are to come.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.runs.iter().map(|(start, end)| end - start).sum()
    }

    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        let after = self.runs.partition_point(|(start, _)| *start <= offset);
        after.checked_sub(1).is_some_and(|index| offset < self.runs[index].1)
    }

    /// The first byte at or after `offset` that is to come.
    #[must_use]
    pub fn next(&self, offset: u64) -> Option<u64> {
        let after = self.runs.partition_point(|(_, end)| *end <= offset);
        self.runs.get(after).map(|(start, _)| (*start).max(offset))
    }

    /// What is to come when everything before `offset` came.
    #[must_use]
    pub fn rest(&self, offset: u64) -> Vec<Range> {
        let rest = self.runs.iter().filter(|(_, end)| *end > offset).map(|&(start, end)| {
            let offset = start.max(offset);
            Range { offset, length: end - offset }
        });
        rest.collect()
    }

    /// What is not to come: offset and length.
    #[must_use]
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let starts = std::iter::once(0).chain(self.runs.iter().map(|(_, end)| *end));
        let ends = self.runs.iter().map(|(start, _)| *start).chain([self.capacity]);
        starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| (start, end - start)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u32 = 64 << 10;
    const B: u64 = BLOCK as u64;
    const CAPACITY: u64 = 8 * B + 512;

    fn map(scope: v1::Scope, areas: &[(u64, u64)]) -> ReadMap {
        let areas = areas.iter().map(|&(offset, length)| Range { offset, length }).collect();
        ReadMap { scope: scope.into(), areas, ..ReadMap::default() }
    }

    fn told(areas: &[(u64, u64)]) -> Result<Areas, Flaw> {
        Areas::told(Some(&map(v1::Scope::Changed, areas)), CAPACITY, BLOCK)
    }

    #[test]
    fn areas_and_gaps_make_the_disk() {
        let areas = told(&[(B, B), (4 * B, 2 * B), (6 * B, B), (8 * B, 512)]).unwrap();
        assert_eq!((areas.scope(), areas.total()), (Scope::Changed, 4 * B + 512));
        assert_eq!(areas.gaps(), [(0, B), (2 * B, 2 * B), (7 * B, B)]);
        assert_eq!(areas.next(0), Some(B));
        assert_eq!(areas.next(2 * B), Some(4 * B));
        assert_eq!(areas.next(5 * B), Some(5 * B));
        assert_eq!(areas.next(CAPACITY), None);
        let rest = [(5 * B, 2 * B), (8 * B, 512)].map(|(offset, length)| Range { offset, length });
        assert_eq!(areas.rest(5 * B), rest);
        assert!(areas.contains(B) && !areas.contains(2 * B) && !areas.contains(0) && areas.contains(CAPACITY - 1));
    }

    #[test]
    fn nothing_may_have_changed_and_everything_may_be_wanted() {
        let nothing = told(&[]).unwrap();
        assert_eq!((nothing.total(), nothing.next(0), nothing.gaps()), (0, None, vec![(0, CAPACITY)]));
        for map in [None, Some(map(v1::Scope::Whole, &[]))] {
            let whole = Areas::told(map.as_ref(), CAPACITY, BLOCK).unwrap();
            assert_eq!((whole.scope(), whole.total(), whole.gaps()), (Scope::Whole, CAPACITY, vec![]));
        }
    }

    #[test]
    fn hostile_maps_are_refused() {
        assert!(matches!(told(&[(B, 2 * B), (2 * B, B)]), Err(Flaw::Order { .. })));
        assert!(matches!(told(&[(4 * B, B), (B, B)]), Err(Flaw::Order { .. })));
        assert!(matches!(told(&[(8 * B, B)]), Err(Flaw::Beyond { .. })));
        assert!(matches!(told(&[(B, u64::MAX)]), Err(Flaw::Beyond { .. })));
        assert!(matches!(told(&[(512, B - 512)]), Err(Flaw::Grid { .. })));
        assert!(matches!(told(&[(B, 512)]), Err(Flaw::Grid { .. })));
        assert!(matches!(told(&[(B, 0)]), Err(Flaw::Grid { .. })));
        let many: Vec<_> = (0..=MOST_AREAS as u64).map(|index| (index * 2 * B, B)).collect();
        let of = |map: &ReadMap| Areas::told(Some(map), u64::MAX, BLOCK);
        assert_eq!(of(&map(v1::Scope::Changed, &many)), Err(Flaw::Many(MOST_AREAS + 1)));
        assert!(of(&map(v1::Scope::Changed, &many[1..])).is_ok());
        assert_eq!(of(&map(v1::Scope::Whole, &[(0, B)])), Err(Flaw::WholeWithAreas));
        assert_eq!(of(&map(v1::Scope::Unspecified, &[(0, B)])), Err(Flaw::NoScope));
    }
}
