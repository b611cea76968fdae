//! Which bytes of a request were delivered: an interval set that refuses a byte that comes twice and a reply that is
//! torn into more pieces than anybody needs, so its memory has a bound.

/// Pieces that do not touch, at most, in one reply.
pub const PIECES_MOST: usize = 4096;

/// See the module. Offsets are relative to the request.
#[derive(Debug, Default, Clone)]
pub struct Coverage {
    /// Ascending, neither overlapping nor touching.
    pieces: Vec<(u64, u64)>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Twice,
    TooTorn,
}

impl Coverage {
    /// Adds `start..end`, which is not empty.
    pub fn add(&mut self, start: u64, end: u64) -> Result<(), Refused> {
        let at = self.pieces.partition_point(|&(_, stop)| stop < start);
        // From `at` on pieces end at or after `start`; only one that ends exactly there may lie before it.
        let joins_before = self.pieces.get(at).is_some_and(|&(_, stop)| stop == start);
        let next = at + usize::from(joins_before);
        if self.pieces.get(next).is_some_and(|&(begin, _)| begin < end) {
            return Err(Refused::Twice);
        }
        let joins_after = self.pieces.get(next).is_some_and(|&(begin, _)| begin == end);
        match (joins_before, joins_after) {
            (true, true) => {
                let stop = self.pieces.remove(next).1;
                self.extend(at, |piece| piece.1 = stop);
            }
            (true, false) => self.extend(at, |piece| piece.1 = end),
            (false, true) => self.extend(at, |piece| piece.0 = start),
            (false, false) if self.pieces.len() >= PIECES_MOST => return Err(Refused::TooTorn),
            (false, false) => self.pieces.insert(at, (start, end)),
        }
        self.bytes += end - start;
        Ok(())
    }

    fn extend(&mut self, at: usize, change: impl FnOnce(&mut (u64, u64))) {
        if let Some(piece) = self.pieces.get_mut(at) {
            change(piece);
        }
    }

    /// Bytes covered, each counted once.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_torn_reply_has_a_bound() {
        let mut coverage = Coverage::default();
        for piece in 0..PIECES_MOST as u64 {
            coverage.add(piece * 2, piece * 2 + 1).unwrap();
        }
        let beyond = PIECES_MOST as u64 * 2;
        assert_eq!(coverage.add(beyond, beyond + 1), Err(Refused::TooTorn));
        coverage.add(1, 2).unwrap();
        coverage.add(beyond, beyond + 1).unwrap();
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_bitmap(adds in prop::collection::vec((0_usize..64, 1_usize..12), 0..40)) {
            let mut coverage = Coverage::default();
            let mut bitmap = [false; 80];
            for (start, length) in adds {
                let range = start..start + length;
                let twice = bitmap[range.clone()].iter().any(|&seen| seen);
                let result = coverage.add(start as u64, (start + length) as u64);
                prop_assert_eq!(result, if twice { Err(Refused::Twice) } else { Ok(()) });
                if !twice {
                    bitmap[range].fill(true);
                }
                prop_assert_eq!(coverage.bytes(), bitmap.iter().filter(|&&seen| seen).count() as u64);
            }
        }
    }
}
