//! A map from its pages. A page is taken as hostile: what contradicts what was asked, the disk's size or itself ends the map,
//! and the disk is read whole. Source: vSphere API 8.0, DiskChangeInfo; vCenter is never asked at or beyond the capacity.
use super::{Areas, MAX_AREAS};
use crate::hypervisor::AreaPage;

/// How far a map may reach past the end of a disk whose last tracked block is not full.
const SLACK: u64 = 4 << 20;
/// More pages than any map has: each must bring something.
const MAX_PAGES: u32 = 1 << 20;
/// Areas that are kept while pages come; a map of more is thinned out by reading its smallest gaps.
const MAX_KEPT: usize = 4 * MAX_AREAS;

/// See the module.
#[derive(Debug)]
pub struct Map {
    capacity: u64,
    /// Where the next page begins.
    next: u64,
    pages: u32,
    found: Areas,
}

impl Map {
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self { capacity, next: 0, pages: 0, found: Areas::default() }
    }

    /// Where to ask for the next page; `None`: the map is complete.
    #[must_use]
    pub fn wants(&self) -> Option<u64> {
        (self.next < self.capacity).then_some(self.next)
    }

    /// Takes the page that was asked for at [`Self::wants`].
    ///
    /// # Errors
    /// What is wrong with it; the map is of no use then.
    pub fn take(&mut self, page: &AreaPage) -> Result<(), String> {
        self.pages += 1;
        if self.pages > MAX_PAGES {
            return Err(format!("more than {MAX_PAGES} pages"));
        }
        let begin = unsigned(page.start).filter(|start| *start == self.next);
        let begin = begin.ok_or_else(|| format!("a page from {} where {} was asked for", page.start, self.next))?;
        let end = unsigned(page.length).filter(|length| *length > 0).and_then(|length| begin.checked_add(length));
        let end = end.ok_or_else(|| format!("no progress: a page of {} bytes at {begin}", page.length))?;
        let end = self.inside(end).ok_or_else(|| format!("a page up to {end} of a disk of {}", self.capacity))?;
        let mut last = begin;
        for (start, length) in &page.areas {
            let wrong = |what: &str| format!("area {start}+{length} {what}");
            let from = unsigned(*start).ok_or_else(|| wrong("is negative"))?;
            let length = unsigned(*length).ok_or_else(|| wrong("is negative"))?;
            let to = from.checked_add(length).ok_or_else(|| wrong("is too large"))?;
            if from < last {
                return Err(wrong(&format!("begins before {last}: out of order, or of another page")));
            }
            let to = self.inside(to).filter(|to| from <= *to).ok_or_else(|| wrong("is not on the disk"))?;
            if to > end {
                return Err(wrong(&format!("reaches beyond its page, which ends at {end}")));
            }
            self.found.push(from..to);
            last = to;
        }
        if self.found.ranges().len() > MAX_KEPT {
            self.found = self.found.joined(0, MAX_AREAS);
        }
        self.next = end;
        Ok(())
    }

    /// What the map named.
    #[must_use]
    pub fn finish(self) -> Areas {
        self.found
    }

    /// Clamped to the disk; `None`: too far beyond it.
    fn inside(&self, end: u64) -> Option<u64> {
        (end <= self.capacity.saturating_add(SLACK)).then(|| end.min(self.capacity))
    }
}

fn unsigned(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u64 = 100 << 20;
    const MIB: i64 = 1 << 20;

    fn page(start: i64, length: i64, areas: &[(i64, i64)]) -> AreaPage {
        AreaPage { start, length, areas: areas.to_vec() }
    }

    fn refused(pages: &[AreaPage]) -> String {
        let mut map = Map::new(CAPACITY);
        let (last, good) = pages.split_last().unwrap();
        good.iter().for_each(|page| map.take(page).unwrap());
        map.take(last).unwrap_err()
    }

    #[test]
    fn pages_are_asked_for_up_to_the_capacity_and_not_at_it() {
        let mut map = Map::new(CAPACITY);
        assert_eq!(map.wants(), Some(0));
        map.take(&page(0, 60 * MIB, &[(0, 9), (9, 1), (20, 0), (40, 10)])).unwrap();
        assert_eq!(map.wants(), Some(60 << 20));
        map.take(&page(60 * MIB, 40 * MIB, &[(60 * MIB, 5)])).unwrap();
        assert_eq!(map.wants(), None);
        assert_eq!(map.finish().ranges(), [0..10, 40..50, 60 << 20..(60 << 20) + 5]);
        assert_eq!(Map::new(0).wants(), None);
    }

    #[test]
    fn an_area_over_a_page_boundary_is_one() {
        let mut map = Map::new(CAPACITY);
        map.take(&page(0, 50 * MIB, &[(MIB, 49 * MIB)])).unwrap();
        map.take(&page(50 * MIB, 50 * MIB, &[(50 * MIB, MIB)])).unwrap();
        assert_eq!(map.finish().ranges().to_vec(), vec![1 << 20..51 << 20]);
    }

    #[test]
    fn a_last_block_that_is_not_full_ends_with_the_disk() {
        let mut map = Map::new(CAPACITY - 512);
        map.take(&page(0, 100 * MIB, &[(99 * MIB, MIB)])).unwrap();
        assert_eq!(map.wants(), None);
        assert_eq!(map.finish().ranges().to_vec(), vec![99 << 20..CAPACITY - 512]);
    }

    #[test]
    fn impossible_pages_end_the_map() {
        let whole = 100 * MIB;
        let cases: Vec<(Vec<AreaPage>, &str)> = vec![
            (vec![page(0, 0, &[])], "no progress"),
            (vec![page(0, -1, &[])], "no progress"),
            (vec![page(0, i64::MIN, &[])], "no progress"),
            (vec![page(MIB, whole, &[])], "was asked for"),
            (vec![page(-1, whole, &[])], "was asked for"),
            (vec![page(0, 10 * MIB, &[]), page(0, 10 * MIB, &[])], "was asked for"),
            (vec![page(0, i64::MAX, &[])], "of a disk of"),
            (vec![page(0, whole, &[(-5, 6)])], "negative"),
            (vec![page(0, whole, &[(5, -6)])], "negative"),
            (vec![page(0, whole, &[(i64::MAX, i64::MAX)])], "not on the disk"),
            (vec![page(0, whole, &[(200 * MIB, 1)])], "not on the disk"),
            (vec![page(0, whole, &[(101 * MIB, 1)])], "not on the disk"),
            (vec![page(0, whole, &[(10, 10), (15, 10)])], "out of order"),
            (vec![page(0, whole, &[(100, 10), (5, 10)])], "out of order"),
            (vec![page(0, 50 * MIB, &[]), page(50 * MIB, 50 * MIB, &[(MIB, MIB)])], "of another page"),
            (vec![page(0, 50 * MIB, &[(49 * MIB, 2 * MIB)])], "beyond its page"),
        ];
        for (pages, why) in cases {
            let told = refused(&pages);
            assert!(told.contains(why), "{pages:?}: {told}");
        }
    }

    #[test]
    fn a_map_of_too_many_areas_is_thinned_out_and_loses_nothing() {
        let count = i64::try_from(MAX_KEPT).unwrap() + 10;
        let areas: Vec<(i64, i64)> = (0..count).map(|n| (n * 300, if n % 2 == 0 { 200 } else { 100 })).collect();
        let mut map = Map::new(CAPACITY);
        map.take(&page(0, 100 * MIB, &areas)).unwrap();
        let found = map.finish();
        assert!(found.ranges().len() <= MAX_AREAS, "{}", found.ranges().len());
        let starts = areas.iter().map(|(start, length)| start.unsigned_abs()..(start + length).unsigned_abs());
        let rest = found.rest(CAPACITY);
        assert!(starts.into_iter().all(|area| rest.misses(&area)));
    }

    proptest! {
        #[test]
        fn whatever_comes_ends_and_stays_on_the_disk(
            capacity in 0u64..u64::MAX,
            pages in prop::collection::vec((any::<i64>(), any::<i64>(), prop::collection::vec((any::<i64>(), any::<i64>()), 0..8)), 0..8),
            honest in any::<bool>(),
        ) {
            let mut map = Map::new(capacity);
            for (start, length, areas) in pages {
                let start = if honest { i64::try_from(map.next).unwrap_or(start) } else { start };
                let before = map.next;
                match map.take(&AreaPage { start, length, areas }) {
                    Ok(()) => prop_assert!(map.next > before && map.next <= capacity),
                    Err(_) => return Ok(()),
                }
            }
            prop_assert!(map.finish().ranges().iter().all(|range| range.end <= capacity));
        }
    }
}
