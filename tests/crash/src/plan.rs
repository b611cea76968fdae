//! What happens in a round: (step of a job) × (fault) × (timing). The first rounds walk every pair of step and fault in
//! order, each with every timing; after them come random sequences of one to three faults. Pure.
use std::{fmt, str::FromStr, sync::LazyLock};

use crate::dice::Dice;

/// A place in the life of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Preflight,
    Snapshot,
    AttachSubmit,
    AttachTask,
    Confirm,
    Discover,
    Open,
    FirstFrame,
    MiddleFrame,
    LastFrame,
    DetachSubmit,
    DetachTask,
    RemoveSnapshot,
    Result,
}

pub const STEPS: [Step; 14] = [
    Step::Preflight,
    Step::Snapshot,
    Step::AttachSubmit,
    Step::AttachTask,
    Step::Confirm,
    Step::Discover,
    Step::Open,
    Step::FirstFrame,
    Step::MiddleFrame,
    Step::LastFrame,
    Step::DetachSubmit,
    Step::DetachTask,
    Step::RemoveSnapshot,
    Step::Result,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timing {
    Before,
    During,
    After,
}

pub const TIMINGS: [Timing; 3] = [Timing::Before, Timing::During, Timing::After];

/// What rounds do unless a scene says otherwise.
const WORKS: [Work; 3] = [Work::Job, Work::Session, Work::Served];

/// What is done meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// BackupVm.
    Job,
    /// The same with a server for each disk that is used where HotAdd breaks, and with the way back.
    Served,
    /// OpenDisks, ReadDisk of each disk, CloseDisks.
    Session,
    /// A session of the snapshot that stands, which nobody removes. Only where a scene says so.
    Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of the agent.
    Kill,
    /// SIGTERM.
    Stop,
    /// The file system of the journal is full (ENOSPC, often in the middle of a record).
    JournalFull,
    /// The file system of the journal fails (EIO at fdatasync).
    JournalIo,
    /// Power-cut shape: SIGKILL, then half a record at the journal's end.
    JournalTorn,
    /// Executed, the connection is closed without an answer.
    LostReply,
    /// The connection is closed, the call is executed later, within the settle wait.
    LateLand,
    /// The same, later than the settle wait; half of the time a call of an ended vCenter session fails.
    LateLandBeyond,
    SlowTask,
    TaskFails,
    CallFails,
    /// A privilege is taken away in the middle.
    NoPermission,
    /// Properties can't be read for a while.
    Unreadable,
    EndSessions,
    /// vCenter restarts: down for a moment; sessions, filters and tasks are forgotten.
    Restart,
    /// A (scaled) minute without vCenter.
    VcDown,
    /// Another program attaches and detaches its own disks on the proxy.
    ForeignActor,
    /// Our disk is taken off behind our back and another program's disk comes into the slot.
    SlotReused,
    /// Another product's VM holds a file of our snapshot's chain.
    SecondHolder,
    /// An operator removes our snapshot.
    SnapshotRemoved,
    /// An operator reverts the target.
    Reverted,
    /// An attached file vanished, HA restarts the proxy without it.
    HaRestart,
    /// The hosts begin to enter maintenance mode, and later do not.
    Maintenance,
    /// The controller's connection ends.
    ClientGone,
    /// The controller's connection is cut without a FIN.
    HalfOpen,
    /// An operator tries a call on the target.
    OperatorTarget,
    /// An operator tries a call on the proxy.
    OperatorProxy,
}

pub const FAULTS: [Fault; 27] = [
    Fault::Kill,
    Fault::Stop,
    Fault::JournalFull,
    Fault::JournalIo,
    Fault::JournalTorn,
    Fault::LostReply,
    Fault::LateLand,
    Fault::LateLandBeyond,
    Fault::SlowTask,
    Fault::TaskFails,
    Fault::CallFails,
    Fault::NoPermission,
    Fault::Unreadable,
    Fault::EndSessions,
    Fault::Restart,
    Fault::VcDown,
    Fault::ForeignActor,
    Fault::SlotReused,
    Fault::SecondHolder,
    Fault::SnapshotRemoved,
    Fault::Reverted,
    Fault::HaRestart,
    Fault::Maintenance,
    Fault::ClientGone,
    Fault::HalfOpen,
    Fault::OperatorTarget,
    Fault::OperatorProxy,
];

impl Fault {
    /// Whether the agent's process ends by it.
    #[must_use]
    pub fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::JournalTorn | Self::HaRestart)
    }
}

/// One fault at one moment. `variant`: random number for what the fault leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    pub step: Step,
    pub timing: Timing,
    pub fault: Fault,
    pub variant: u64,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.fault, self.timing, self.step)
    }
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub seed: u64,
    pub number: u64,
    pub work: Work,
    /// In the order of their moments.
    pub acts: Vec<Act>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acts: Vec<String> = self.acts.iter().map(ToString::to_string).collect();
        write!(f, "round {}:{} {:?}: {}", self.seed, self.number, self.work, acts.join(", then "))
    }
}

/// Whether the fault can find anything to strike then. What needs our disks or our snapshot is not planned where there
/// are none: there it would do nothing, in every round.
#[must_use]
pub fn sensible(fault: Fault, step: Step, timing: Timing) -> bool {
    use Timing::{After, Before, During};
    let within = |from, to| from <= (step, timing) && (step, timing) <= to;
    match fault {
        Fault::SlotReused => within((Step::AttachTask, During), (Step::DetachSubmit, During)),
        Fault::SnapshotRemoved => within((Step::Snapshot, After), (Step::RemoveSnapshot, Before)),
        // Our snapshot's files are being merged: nobody gets them.
        Fault::SecondHolder => (step, timing) != (Step::RemoveSnapshot, During),
        // The controller has its result and goes anyway.
        Fault::ClientGone | Fault::HalfOpen => step < Step::Result || timing == Before,
        _ => true,
    }
}

/// One of the rounds that walk the pairs.
type Pair = (Step, Timing, Fault, Work);

/// Faults run fastest, so that a short campaign meets each of them.
static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let all = 0..FAULTS.len() * STEPS.len() * TIMINGS.len();
    let pair = |at: usize| {
        let (fault, rest) = (FAULTS[at % FAULTS.len()], at / FAULTS.len());
        // The steps are dealt out anew for each fault: neighbours in time are not all at one step.
        let (step, timing) = (STEPS[(rest + at % FAULTS.len()) % STEPS.len()], TIMINGS[rest / STEPS.len()]);
        (step, timing, fault, WORKS[(at + rest) % WORKS.len()])
    };
    all.map(pair).filter(|(step, timing, fault, _)| sensible(*fault, *step, *timing)).collect()
});

fn any(dice: &mut Dice) -> Act {
    loop {
        let (step, timing, fault) = (*dice.pick(&STEPS), *dice.pick(&TIMINGS), *dice.pick(&FAULTS));
        let variant = dice.next();
        if sensible(fault, step, timing) {
            return Act { step, timing, fault, variant };
        }
    }
}

/// What happens in this round of this seed.
#[must_use]
pub fn round(seed: u64, number: u64) -> Round {
    let mut dice = Dice::of(seed, number);
    let at = usize::try_from(number).unwrap_or(usize::MAX);
    if let Some(&(step, timing, fault, work)) = PAIRS.get(at) {
        return Round { seed, number, work, acts: vec![Act { step, timing, fault, variant: dice.next() }] };
    }
    let work = *dice.pick(&WORKS);
    let mut acts: Vec<Act> = (0..=dice.below(3)).map(|_| any(&mut dice)).collect();
    acts.sort_by_key(|act| (act.step, act.timing));
    Round { seed, number, work, acts }
}

/// A scene that is played in every round: `Work/Fault:Timing:Step,…`, in the order of their moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    work: Work,
    acts: Vec<(Step, Timing, Fault)>,
}

impl FromStr for Scene {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (work, acts) = text.split_once('/').ok_or("Work/Fault:Timing:Step,…")?;
        let act = |text: &str| -> Result<(Step, Timing, Fault), String> {
            let [fault, timing, step] = text.split(':').collect::<Vec<_>>()[..] else {
                return Err(format!("{text}: not Fault:Timing:Step"));
            };
            Ok((named(&STEPS, step)?, named(&TIMINGS, timing)?, named(&FAULTS, fault)?))
        };
        let acts = acts.split(',').map(act).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { work: named(&[Work::Job, Work::Served, Work::Session, Work::Standing], work)?, acts })
    }
}

fn named<T: Copy + fmt::Debug>(all: &[T], name: &str) -> Result<T, String> {
    all.iter().find(|one| format!("{one:?}") == name).copied().ok_or_else(|| format!("no {name} among {all:?}"))
}

impl Scene {
    #[must_use]
    pub fn round(&self, seed: u64, number: u64) -> Round {
        let mut dice = Dice::of(seed, number);
        let act = |(step, timing, fault)| Act { step, timing, fault, variant: dice.next() };
        Round { seed, number, work: self.work, acts: self.acts.iter().copied().map(act).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds that walk the pairs.
    fn pairs() -> u64 {
        PAIRS.len() as u64
    }

    #[test]
    fn the_first_rounds_are_every_sensible_pair_with_every_timing_once() {
        let mut all: Vec<String> = (0..pairs()).map(|n| round(5, n).acts[0].to_string()).collect();
        all.sort();
        all.dedup();
        let of = |fault| STEPS.iter().flat_map(move |s| TIMINGS.map(|t| sensible(fault, *s, t))).filter(|s| *s).count();
        assert_eq!(all.len(), FAULTS.iter().map(|fault| of(*fault)).sum::<usize>());
    }

    #[test]
    fn what_needs_our_disks_is_planned_only_while_there_are_any() {
        assert!(sensible(Fault::SlotReused, Step::MiddleFrame, Timing::Before));
        assert!(!sensible(Fault::SlotReused, Step::AttachTask, Timing::Before));
        assert!(!sensible(Fault::SnapshotRemoved, Step::Preflight, Timing::After));
        let rounds = (pairs()..pairs() + 500).flat_map(|n| round(5, n).acts);
        assert!(rounds.into_iter().all(|act| sensible(act.fault, act.step, act.timing)));
        assert!(FAULTS.iter().all(|f| STEPS.iter().any(|s| TIMINGS.iter().any(|t| sensible(*f, *s, *t)))));
    }

    #[test]
    fn a_scene_is_what_its_words_say() {
        let scene: Scene = "Standing/SlowTask:Before:Preflight,Kill:After:AttachSubmit".parse().unwrap();
        let told = scene.round(3, 7).to_string();
        assert_eq!(told, "round 3:7 Standing: SlowTask Before Preflight, then Kill After AttachSubmit");
        for wrong in ["Kill:After:Open", "Job/Kill:Later:Open", "Job/Kill:After", "Job/"] {
            assert!(wrong.parse::<Scene>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_round_is_a_function_of_seed_and_number() {
        for number in [0, 1, pairs(), pairs() + 77] {
            assert_eq!(round(9, number), round(9, number));
        }
        assert_ne!(round(9, pairs() + 1), round(10, pairs() + 1));
        let sizes: std::collections::BTreeSet<usize> =
            (pairs()..pairs() + 200).map(|number| round(9, number).acts.len()).collect();
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
