//! The campaign's random numbers: splitmix64, so that a seed and a round's number say everything about a round, on every
//! machine and with every compiler.

/// See the module.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of one round: neighbours share nothing.
    #[must_use]
    pub fn of(seed: u64, round: u64) -> Self {
        let mut outer = Self(seed);
        let salt = outer.next();
        let mut inner = Self(salt ^ round.wrapping_mul(0xd134_2543_de82_ef95));
        inner.next();
        inner
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next().checked_rem(n).unwrap_or(0)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(all.len() as u64)).unwrap_or(0);
        &all[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_reproducible_and_differ() {
        let three = |seed, round| {
            let mut dice = Dice::of(seed, round);
            [dice.next(), dice.next(), dice.next()]
        };
        assert_eq!(three(1, 7), three(1, 7));
        assert_ne!(three(1, 7), three(1, 8));
        assert_ne!(three(1, 7), three(2, 7));
        assert!((0..1000).all(|round| Dice::of(3, round).below(10) < 10));
    }
}
