//! A set of bytes as ascending ranges that do not touch. Every change only adds.
use std::ops::Range;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Areas(Vec<Range<u64>>);

impl Areas {
    /// Of ranges in any order; empty ones are left out.
    #[must_use]
    pub fn of(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_unstable_by_key(|range| range.start);
        let mut areas = Self::default();
        ranges.into_iter().for_each(|range| areas.push(range));
        areas
    }

    /// Adds a range that begins at or after the last one's start.
    pub(super) fn push(&mut self, range: Range<u64>) {
        match self.0.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => self.0.push(range),
        }
    }

    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    #[must_use]
    pub fn into_ranges(self) -> Vec<Range<u64>> {
        self.0
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Grown to whole blocks, but for the end of the disk.
    #[must_use]
    pub fn aligned(&self, block: u64, capacity: u64) -> Self {
        let mut grown = Self::default();
        for range in &self.0 {
            let end = range.end.checked_next_multiple_of(block).unwrap_or(capacity);
            grown.push(range.start - range.start % block..end.min(capacity));
        }
        grown
    }

    /// With every gap of at most `gap` bytes closed, and then the smallest ones until `most` areas are left.
    #[must_use]
    pub fn joined(&self, gap: u64, most: usize) -> Self {
        let mut joined = Self::default();
        for range in &self.0 {
            match joined.0.last_mut() {
                Some(last) if range.start - last.end <= gap => last.end = range.end,
                _ => joined.0.push(range.clone()),
            }
        }
        if joined.0.len() <= most.max(1) {
            return joined;
        }
        let mut gaps: Vec<u64> = joined.0.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
        let surplus = joined.0.len() - most.max(1);
        // All of this size are closed: more than had to be, never less.
        let (_, limit, _) = gaps.select_nth_unstable(surplus - 1);
        let limit = *limit;
        joined.joined(limit, most)
    }

    /// Every byte of the disk that is not in it.
    #[must_use]
    pub fn rest(&self, capacity: u64) -> Self {
        let (mut rest, mut at) = (Self::default(), 0);
        for range in &self.0 {
            rest.push(at..range.start.min(capacity));
            at = range.end;
        }
        rest.push(at..capacity);
        rest
    }

    /// Whether no byte of the range is in it.
    #[must_use]
    pub fn misses(&self, range: &Range<u64>) -> bool {
        let next = self.0.partition_point(|area| area.end <= range.start);
        self.0.get(next).is_none_or(|area| area.start >= range.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(ranges: &[Range<u64>]) -> Areas {
        Areas::of(ranges.to_vec())
    }

    #[test]
    fn ranges_in_any_order_are_joined_where_they_touch() {
        assert_eq!(of(&[20..30, 0..10, 10..12, 5..5, 25..40]).ranges(), [0..12, 20..40]);
        assert_eq!(of(&[20..30, 0..10]).bytes(), 20);
    }

    #[test]
    fn blocks_are_whole_but_for_the_end_of_the_disk() {
        assert_eq!(of(&[5..6, 9..17, 95..99]).aligned(8, 99).ranges(), [0..24, 88..99]);
        assert_eq!(of(&[u64::MAX - 3..u64::MAX]).aligned(8, u64::MAX).ranges(), [u64::MAX - 7..u64::MAX]);
    }

    #[test]
    fn small_gaps_are_closed_first() {
        let set = of(&[0..1, 3..4, 9..10, 12..13, 30..31]);
        assert_eq!(set.joined(2, 9).ranges(), [0..4, 9..13, 30..31]);
        assert_eq!(set.joined(0, 2).ranges(), [0..13, 30..31]);
        assert_eq!(set.joined(0, 0).ranges(), [0..31], "never fewer than one");
        assert_eq!(set.joined(0, 5), set);
        // Two gaps of the same size: both go.
        assert_eq!(of(&[0..1, 3..4, 6..7, 99..100]).joined(0, 3).ranges(), [0..7, 99..100]);
    }

    #[test]
    fn what_is_left_of_a_disk() {
        assert_eq!(of(&[0..4, 8..10]).rest(12).ranges(), [4..8, 10..12]);
        assert_eq!(Areas::default().rest(7).ranges().to_vec(), vec![Range { start: 0, end: 7 }]);
        assert!(of(&[0..20, 30..40]).rest(12).ranges().is_empty());
        let set = of(&[4..8, 20..30]);
        assert!(set.misses(&(0..4)) && set.misses(&(8..20)) && set.misses(&(30..99)));
        assert!(!set.misses(&(3..5)) && !set.misses(&(0..99)) && !set.misses(&(29..30)));
    }

    proptest! {
        #[test]
        fn nothing_is_ever_lost(
            ranges in prop::collection::vec((0u64..5000, 0u64..300), 0..40),
            block in prop::sample::select(vec![1u64, 16, 64]),
            gap in 0u64..200,
            most in 1usize..10,
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
            let set = Areas::of(ranges.clone());
            let read = set.aligned(block, 5400).joined(gap, most);
            prop_assert!(read.ranges().len() <= most);
            prop_assert!(read.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(read.ranges().iter().all(|r| r.start.is_multiple_of(block) && (r.end.is_multiple_of(block) || r.end == 5400)));
            for range in ranges.iter().filter(|range| !range.is_empty()) {
                prop_assert!(read.ranges().iter().any(|r| r.start <= range.start && range.end <= r.end));
            }
            prop_assert_eq!(read.bytes() + read.rest(5400).bytes(), 5400);
            prop_assert!(read.rest(5400).ranges().iter().all(|r| read.misses(r)));
        }
    }
}
