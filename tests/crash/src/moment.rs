//! When a fault strikes. A moment is a condition: an event that the controller has taken, a call that the simulator has
//! got, a record in the journal, a disk or snapshot in vCenter's list. Nothing here sleeps and hopes.
use std::time::{Duration, Instant};

use anyhow::Result;
use hotadd_api::v1::Phase;
use serde_json::{Value, json};

use crate::{
    client::{BLOCK, Controller, Seen},
    plan::{Step, Timing, Work},
};

const POLL: Duration = Duration::from_millis(12);
/// Where rounds are played, as far as moments look at it.
pub trait Place {
    /// One command to the simulator.
    async fn ask(&mut self, request: Value) -> Result<Value>;
    /// Whether vCenter lists a disk of ours on the proxy.
    async fn has_disks(&mut self) -> Result<bool>;
    /// Whether vCenter lists a snapshot of ours.
    async fn has_snapshots(&mut self) -> Result<bool>;
    /// Whether the journal got such a record in this round.
    fn journalled(&self, kind: &str, text: &str) -> Result<bool>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the request is sent.
    Start,
    /// The controller has taken this and takes no more.
    Client(Seen),
    /// The simulator has got a call of a method that starts so, with this in its body.
    Call(&'static str, &'static str),
    /// The journal has a record of this kind, with this in it, that was not there when the round began.
    Journal(&'static str, &'static str),
    /// vCenter lists a disk of ours, or none any more.
    Attached(bool),
    /// vCenter lists a snapshot of ours, or none any more.
    Snapshot(bool),
}

const ADD: Moment = Moment::Call("ReconfigVM_Task", "operation>add<");
const REMOVE: Moment = Moment::Call("ReconfigVM_Task", "operation>remove<");
const CREATE: Moment = Moment::Call("CreateSnapshot", "");
const REMOVE_SNAPSHOT: Moment = Moment::Call("RemoveSnapshot_Task", "");
const BEGAN: Moment = Moment::Journal("began", "\"attach\"");
const CONFIRMED: Moment = Moment::Journal("confirmed", "device_key");

/// The moment of a step. `frames`: how many the controller gets in all.
#[must_use]
pub fn of(work: Work, step: Step, timing: Timing, frames: u64) -> Moment {
    use Timing::{After, Before, During};
    match (step, timing) {
        (Step::Preflight, Before) => Moment::Start,
        (Step::FirstFrame, Before) => Moment::Client(Seen::Opened),
        (Step::FirstFrame, During) => Moment::Client(Seen::Frame(1)),
        (Step::FirstFrame, After) => Moment::Client(Seen::Frame(2)),
        (Step::MiddleFrame, Before) => Moment::Client(Seen::Frame(frames / 2 - 1)),
        (Step::MiddleFrame, During) => Moment::Client(Seen::Frame(frames / 2)),
        (Step::MiddleFrame, After) => Moment::Client(Seen::Frame(frames / 2 + 1)),
        (Step::LastFrame, Before) => Moment::Client(Seen::Frame(frames - 1)),
        (Step::LastFrame, During) => Moment::Client(Seen::Frame(frames)),
        (Step::LastFrame, After) => Moment::Client(Seen::DiskRead),
        (Step::AttachSubmit, During) => BEGAN,
        (Step::AttachSubmit, After) | (Step::AttachTask, Before) => ADD,
        (Step::AttachTask, During | After) | (Step::Confirm, Before | During) => Moment::Attached(true),
        (Step::Confirm, After) | (Step::Discover, Before | During) => CONFIRMED,
        (Step::DetachSubmit, After) | (Step::DetachTask, Before | During) => REMOVE,
        (Step::DetachTask, After) => Moment::Attached(false),
        (Step::RemoveSnapshot, During) => REMOVE_SNAPSHOT,
        (Step::RemoveSnapshot, After) => Moment::Snapshot(false),
        (Step::Snapshot, During) => CREATE,
        (step, timing) => match work {
            Work::Job | Work::Served => in_job(step, timing),
            Work::Session | Work::Standing => in_session(step, timing),
        },
    }
}

fn in_job(step: Step, timing: Timing) -> Moment {
    use Timing::{After, Before, During};
    let seen = match (step, timing) {
        (Step::Preflight, During) => Seen::Begin(Phase::Preflight),
        (Step::Preflight, _) => Seen::Preflight,
        (Step::Snapshot, Before) => Seen::End(Phase::Preflight),
        (Step::Snapshot, _) => Seen::Snapshot,
        (Step::AttachSubmit, _) => Seen::Begin(Phase::Attach),
        (Step::Discover, _) | (Step::Open, Before) => Seen::End(Phase::Attach),
        (Step::Open, During) => Seen::Begin(Phase::Read),
        (Step::Open, _) => Seen::Opened,
        (Step::DetachSubmit, Before) => Seen::End(Phase::Read),
        (Step::DetachSubmit, _) => Seen::Begin(Phase::Detach),
        (Step::RemoveSnapshot, _) => Seen::End(Phase::Detach),
        (Step::Result, Before) => Seen::Begin(Phase::RemoveSnapshot),
        (Step::Result, During) => Seen::End(Phase::RemoveSnapshot),
        (_, After | Before | During) => Seen::Result,
    };
    Moment::Client(seen)
}

/// Opening is one call without events: what the journal and vCenter tell stands for them.
fn in_session(step: Step, timing: Timing) -> Moment {
    use Timing::{After, Before, During};
    match (step, timing) {
        (Step::Preflight, During) => Moment::Call("RetrievePropertiesEx", ""),
        (Step::Preflight, _) | (Step::Snapshot, Before) => Moment::Journal("began", "\"snapshot\""),
        (Step::Snapshot, _) | (Step::AttachSubmit, Before) => Moment::Journal("confirmed", "moref"),
        (Step::Discover, After) | (Step::Open, Before) => Moment::Client(Seen::Session),
        (Step::Open, During | After) => Moment::Client(Seen::Opened),
        (Step::DetachSubmit, Before | During) => Moment::Client(Seen::DiskRead),
        (Step::RemoveSnapshot, Before) => Moment::Attached(false),
        (Step::Result, Before) => Moment::Snapshot(false),
        (Step::Result, During) => Moment::Client(Seen::Closed),
        _ => Moment::Client(Seen::Result),
    }
}

impl Moment {
    /// Tasks have to take a while for this one to be met.
    #[must_use]
    pub fn needs_slow_tasks(self) -> bool {
        !matches!(self, Self::Start | Self::Client(_))
    }

    /// Waits for it. False: it did not come, because the controller ended before or nothing happened.
    pub async fn reached<P: Place>(self, lab: &mut P, client: Option<&Controller>, patience: Duration) -> Result<bool> {
        let end = Instant::now() + patience;
        // What must have been there before its absence says anything.
        let mut was_there = false;
        loop {
            // Asked first: what happened before the controller ended counts.
            let ended = client.is_none_or(Controller::has_ended);
            let reached = match self {
                Self::Start => true,
                Self::Client(seen) => client.is_some_and(|c| c.progress.borrow().at == Some(seen)),
                Self::Call(method, text) => called(lab, method, text).await?,
                Self::Journal(kind, text) => lab.journalled(kind, text)?,
                Self::Attached(wanted) => {
                    let there = lab.has_disks().await?;
                    was_there |= there || called(lab, "ReconfigVM_Task", "operation>remove<").await?;
                    there == wanted && (wanted || was_there)
                }
                Self::Snapshot(wanted) => {
                    let there = lab.has_snapshots().await?;
                    was_there |= there || called(lab, "RemoveSnapshot_Task", "").await?;
                    there == wanted && (wanted || was_there)
                }
            };
            if reached {
                return Ok(true);
            }
            if ended || Instant::now() >= end {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whether the simulator got such a call in this round.
pub async fn called(lab: &mut impl Place, method: &str, text: &str) -> Result<bool> {
    let reply = lab.ask(json!({"cmd": "requests"})).await?;
    let all = reply["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(all.iter().any(|request| {
        let named = request["method"].as_str().is_some_and(|name| name.starts_with(method));
        named && request["body"].as_str().is_some_and(|body| body.contains(text))
    }))
}

/// Frames of all disks together.
#[must_use]
pub fn frames(sources: &[Vec<u8>]) -> u64 {
    sources.iter().map(|source| (source.len() as u64).div_ceil(u64::from(BLOCK))).sum()
}
