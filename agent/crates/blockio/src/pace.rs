//! How fast a reader may ask: how many reads at once, and when the next. The policy of limits that several reads share is the
//! caller's ([`Pace`]); what one disk can bear is found out here ([`Depth`]).
//!
//! ```text
//!              a window of reads ended
//!   mean latency over the ceiling ──▶ half the depth   (multiplicative decrease); of one read: half its length
//!   below it                     ──▶ one more          (additive increase), up to the engine's depth
//!   below half of it             ──▶ twice the length first, if it was halved: a read of twice the length may take twice as long;
//!                                    else after 16 windows below it, for a latency that the length does not change
//! ```
//! Without a ceiling nothing is measured against and the depth is the engine's.
use std::time::Duration;

/// Asked by the reader before each read, and told of each that ended.
pub trait Pace: Send {
    /// Whether a read of `bytes` may be asked now.
    ///
    /// # Errors
    /// How long to wait at least before it is asked again.
    fn admit(&mut self, bytes: u32) -> Result<(), Duration>;
    /// Most reads in flight now, at least 1.
    fn depth(&self) -> usize;
    /// How often the length of a read is halved now.
    fn halvings(&self) -> u32 {
        0
    }
    /// A read was answered, so long after it was asked.
    fn answered(&mut self, latency: Duration);
}

/// No limit but the engine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct FullSpeed;

impl Pace for FullSpeed {
    fn admit(&mut self, _: u32) -> Result<(), Duration> {
        Ok(())
    }

    fn depth(&self) -> usize {
        usize::MAX
    }

    fn answered(&mut self, _: Duration) {}
}

/// Good windows after which a longer read is tried.
const TRY_LONGER: u32 = 16;

/// Reads in flight against a latency ceiling; see the module.
#[derive(Debug, Clone)]
pub struct Depth {
    now: usize,
    most: usize,
    halvings: u32,
    most_halvings: u32,
    /// Windows below the ceiling since the length changed.
    good: u32,
    ceiling: Option<Duration>,
    /// Of the window that runs: answers, and the sum of their latencies.
    answers: u32,
    sum: Duration,
}

impl Depth {
    /// Begins with all, since most disks bear it; the first window tells. `most_halvings` of the length of a read: 0 where it is a block.
    #[must_use]
    pub fn new(most: usize, most_halvings: u32, ceiling: Option<Duration>) -> Self {
        let most = most.max(1);
        Self { now: most, most, halvings: 0, most_halvings, good: 0, ceiling, answers: 0, sum: Duration::ZERO }
    }

    #[must_use]
    pub fn now(&self) -> usize {
        self.now
    }

    /// How often the length of a read is halved.
    #[must_use]
    pub fn halvings(&self) -> u32 {
        self.halvings
    }

    /// Another ceiling from now on.
    pub fn set_ceiling(&mut self, ceiling: Option<Duration>) {
        if self.ceiling != ceiling {
            *self = Self {
                now: if ceiling.is_none() { self.most } else { self.now },
                ..Self::new(self.most, self.most_halvings, ceiling)
            };
        }
    }

    pub fn answered(&mut self, latency: Duration) {
        let Some(ceiling) = self.ceiling else { return };
        self.answers += 1;
        self.sum += latency;
        // A window is as many answers as reads were in flight: each of them met this depth.
        if (self.answers as usize) < self.now {
            return;
        }
        let mean = self.sum / self.answers;
        if mean > ceiling {
            self.less();
        } else {
            self.more(mean <= ceiling / 2);
        }
        (self.answers, self.sum) = (0, Duration::ZERO);
    }

    fn less(&mut self) {
        self.good = 0;
        if self.now > 1 {
            self.now /= 2;
        } else {
            self.halvings = (self.halvings + 1).min(self.most_halvings);
        }
    }

    fn more(&mut self, easily: bool) {
        self.good += 1;
        if self.halvings == 0 {
            self.now = (self.now + 1).min(self.most);
        } else if easily || self.good >= TRY_LONGER {
            (self.halvings, self.good) = (self.halvings - 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A device that serves one read a millisecond, whatever is asked: its latency is its queue.
    fn steady(depth: &mut Depth, answers: usize) -> usize {
        for _ in 0..answers {
            let queue = u32::try_from(depth.now()).unwrap();
            depth.answered(MS * queue);
        }
        depth.now()
    }

    #[test]
    fn without_a_ceiling_the_depth_is_the_engines() {
        let mut depth = Depth::new(16, 4, None);
        assert_eq!(steady(&mut depth, 1000), 16);
    }

    #[test]
    fn it_settles_where_the_queue_is_as_long_as_the_ceiling() {
        let mut depth = Depth::new(64, 0, Some(10 * MS));
        steady(&mut depth, 2000);
        let seen: Vec<usize> = (0..200).map(|_| steady(&mut depth, 1)).collect();
        assert!(seen.iter().all(|now| (5..=11).contains(now)), "{seen:?}");
        assert!(seen.contains(&11), "it looks for more: {seen:?}");
    }

    #[test]
    fn one_read_that_takes_too_long_gets_shorter_until_it_does_not() {
        // 16 ms for a whole one, and in proportion.
        let latency = |depth: &Depth| MS * 16 / (1 << depth.halvings()) * u32::try_from(depth.now()).unwrap();
        let mut depth = Depth::new(8, 4, Some(5 * MS));
        for _ in 0..200 {
            depth.answered(latency(&depth));
        }
        assert_eq!((depth.now(), depth.halvings()), (1, 2), "4 ms");
        // The disk got quicker: whole reads first, then more of them.
        for _ in 0..200 {
            depth.answered(latency(&depth) / 16);
        }
        assert_eq!((depth.now() > 4, depth.halvings()), (true, 0));
    }

    #[test]
    fn a_hiccup_is_forgotten_where_the_length_changes_nothing() {
        for most_halvings in [0, 4] {
            let mut depth = Depth::new(8, most_halvings, Some(5 * MS));
            (0..64).for_each(|_| depth.answered(50 * MS));
            assert_eq!((depth.now(), depth.halvings()), (1, most_halvings));
            // 4 ms whatever is asked: below the ceiling, not below half of it.
            (0..400).for_each(|_| depth.answered(4 * MS));
            assert_eq!((depth.now(), depth.halvings()), (8, 0));
        }
    }

    #[test]
    fn a_disk_that_is_slower_than_the_ceiling_still_gets_one_read() {
        let mut depth = Depth::new(32, 0, Some(MS));
        for _ in 0..500 {
            depth.answered(50 * MS);
        }
        assert_eq!(depth.now(), 1);
        depth.set_ceiling(None);
        assert_eq!(depth.now(), 32, "the ceiling was lifted");
        depth.set_ceiling(Some(100 * MS));
        depth.answered(50 * MS);
        assert_eq!(depth.now(), 32);
    }
}
