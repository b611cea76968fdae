//! What happens in a round of tier B: (step) × (fault), walked so that a short campaign meets each fault early and each
//! pair once, then random sequences of two. Pure.
use std::fmt;

use crate::{
    dice::Dice,
    plan::{Step, Timing, Work},
};

/// What is done to the guest, its disks or its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of the agent's main process.
    Kill,
    /// SIGKILL of everything in the unit's cgroup.
    CgroupKill,
    /// `reboot -f`.
    Reboot,
    /// The machine loses its power, its disk's write cache too.
    PowerCut,
    /// The network to vCenter is cut for a while.
    NetworkCut,
    /// udevd is stopped before the work, and started after it.
    UdevStopped,
    /// A disk vanishes from its controller.
    DiskRemoved,
    /// A new binary is put in place and the unit restarted.
    Upgrade,
}

pub const FAULTS: [Fault; 8] = [
    Fault::PowerCut,
    Fault::Kill,
    Fault::NetworkCut,
    Fault::DiskRemoved,
    Fault::Reboot,
    Fault::CgroupKill,
    Fault::UdevStopped,
    Fault::Upgrade,
];

impl Fault {
    /// A disk of ours can only vanish while there is one.
    fn makes_sense(self, step: Step, timing: Timing) -> bool {
        let attached = (Step::AttachTask, Timing::During)..=(Step::DetachTask, Timing::Before);
        self != Self::DiskRemoved || attached.contains(&(step, timing))
    }
}

/// Steps that can be seen without looking into the guest. The first rounds take them in this order: in the first ones what
/// vCenter holds is confirmed.
pub const STEPS: [(Step, Timing); 11] = [
    (Step::FirstFrame, Timing::During),
    (Step::DetachTask, Timing::Before),
    (Step::MiddleFrame, Timing::During),
    (Step::Discover, Timing::After),
    (Step::RemoveSnapshot, Timing::During),
    (Step::DetachSubmit, Timing::Before),
    (Step::DetachTask, Timing::After),
    (Step::Open, Timing::After),
    (Step::AttachTask, Timing::After),
    (Step::AttachTask, Timing::Before),
    (Step::Snapshot, Timing::During),
];
/// Every so many rounds is one of attachments and detachments in a row.
pub const CYCLES_EVERY: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    pub step: Step,
    pub timing: Timing,
    pub fault: Fault,
}

/// One round. Without acts: attachments and detachments in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub seed: u64,
    pub number: u64,
    pub work: Work,
    pub acts: Vec<Act>,
}

impl Round {
    /// Whether vCenter had confirmed all that is held when the first act strikes.
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.acts.iter().all(|act| act.step >= Step::Discover)
    }

    /// Frames come slowly, so that most of a disk is unread when the act strikes.
    #[must_use]
    pub fn slow_disks(&self) -> bool {
        self.acts.iter().any(|act| matches!(act.step, Step::Open | Step::FirstFrame | Step::MiddleFrame))
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acts: Vec<String> =
            self.acts.iter().map(|act| format!("{:?} {:?} {:?}", act.fault, act.timing, act.step)).collect();
        let what = if acts.is_empty() { "attach and detach in a row".to_owned() } else { acts.join(", then ") };
        write!(f, "round {}:{} {:?}: {what}", self.seed, self.number, self.work)
    }
}

/// The steps of a fault, in the order in which a campaign takes them.
fn steps(fault: Fault) -> Vec<(Step, Timing)> {
    let mut steps: Vec<_> = STEPS.into_iter().filter(|(step, timing)| fault.makes_sense(*step, *timing)).collect();
    if fault == Fault::UdevStopped {
        // Who attaches without udev finds out while he attaches.
        steps.reverse();
    }
    steps
}

/// Every pair once: the faults in turn, each at its next step. A seed begins elsewhere among the steps after confirmation.
#[must_use]
pub fn pairs(seed: u64) -> Vec<Act> {
    let lists: Vec<Vec<(Step, Timing)>> = FAULTS
        .iter()
        .enumerate()
        .map(|(n, fault)| {
            let mut steps = steps(*fault);
            let confirmed = steps.iter().take_while(|(step, _)| *step >= Step::Discover).count();
            let turn = usize::try_from(seed).unwrap_or(0).wrapping_add(n).checked_rem(confirmed).unwrap_or(0);
            steps[..confirmed].rotate_left(turn);
            steps
        })
        .collect();
    let turn = |turn: usize| {
        FAULTS.iter().zip(&lists).filter_map(move |(fault, steps)| {
            steps.get(turn).map(|(step, timing)| Act { step: *step, timing: *timing, fault: *fault })
        })
    };
    (0..STEPS.len()).flat_map(turn).collect()
}

/// What happens in this round of this seed.
#[must_use]
pub fn round(seed: u64, number: u64) -> Round {
    let mut dice = Dice::of(seed, number);
    if number % CYCLES_EVERY == CYCLES_EVERY - 1 {
        return Round { seed, number, work: Work::Session, acts: Vec::new() };
    }
    let work = *dice.pick(&[Work::Job, Work::Session]);
    let pairs = pairs(seed);
    // Rounds in a row are none of the pairs.
    let at = usize::try_from(number - number / CYCLES_EVERY).unwrap_or(usize::MAX);
    if let Some(act) = pairs.get(at) {
        return Round { seed, number, work, acts: vec![*act] };
    }
    let mut acts = vec![*dice.pick(&pairs), *dice.pick(&pairs)];
    acts.sort_by_key(|act| (act.step, act.timing));
    Round { seed, number, work, acts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_that_makes_sense_comes_once_and_every_fault_among_the_first_eight() {
        let all: std::collections::BTreeSet<String> = pairs(3).iter().map(|act| format!("{act:?}")).collect();
        assert_eq!(all.len(), pairs(3).len());
        assert_eq!(all.len(), FAULTS.into_iter().map(|fault| steps(fault).len()).sum::<usize>());
        let first: Vec<Fault> = (0..8).map(|n| round(3, n).acts[0].fault).collect();
        assert_eq!(first, FAULTS);
        let rounds: Vec<String> =
            (0..pairs(3).len() as u64).flat_map(|n| round(3, n).acts).map(|act| format!("{act:?}")).collect();
        assert!(rounds.iter().all(|act| all.contains(act)));
    }

    #[test]
    fn one_of_twenty_rounds_is_cycles_and_the_rest_begins_confirmed() {
        assert_eq!((0..60).filter(|n| round(1, *n).acts.is_empty()).count(), 3);
        let late = |act: &Act| act.step >= Step::Discover || act.fault == Fault::UdevStopped;
        assert!((0..20).all(|n| round(1, n).acts.iter().all(late)));
        assert!((60..100).any(|n| !round(1, n).confirmed()));
    }
}
