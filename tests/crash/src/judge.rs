//! The verdict on a round, from outside: vCenter's truth, the guest's truth, the journal, and what others own. The agent is
//! not asked.
use anyhow::Result;
use hotadd_harness::{
    binary,
    scene::{PROXY, TARGET},
};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::{client::Outcome, journal, lab::Lab};

/// What is wrong after a round; all empty: nothing.
#[derive(Debug, Default)]
pub struct Verdict {
    pub attached: Vec<String>,
    pub snapshots: Vec<String>,
    pub methods: Vec<String>,
    pub foreign: Vec<String>,
    pub false_ok: Vec<String>,
    /// Not settled in time, truths that disagree, an agent that does not come up.
    pub other: Vec<String>,
}

impl Verdict {
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lines().is_empty()
    }

    /// One line a fault.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let kinds = [
            ("left attached", &self.attached),
            ("snapshot left", &self.snapshots),
            ("method left disabled", &self.methods),
            ("foreign touched", &self.foreign),
            ("false OK", &self.false_ok),
            ("wrong", &self.other),
        ];
        kinds.iter().flat_map(|(kind, all)| all.iter().map(move |what| format!("{kind}: {what}"))).collect()
    }
}

/// Looks at everything.
pub async fn judge(lab: &mut Lab, outcomes: &[Outcome], verdict: &mut Verdict) -> Result<()> {
    verdict.attached.extend(lab.left_attached().await?.into_iter().map(|disk| disk.path));
    verdict.snapshots.extend(lab.our_snapshots().await?);
    verdict.methods.extend(lab.our_methods().await?);
    verdict.false_ok.extend(outcomes.iter().filter_map(|outcome| outcome.false_ok.clone()));
    foreign(lab, verdict).await?;
    guest(lab, verdict).await?;
    journals(lab, verdict)
}

/// After others took away what they brought: no file of a snapshot of ours is left in the target's chains.
pub async fn chains(lab: &mut Lab, verdict: &mut Verdict) -> Result<()> {
    let disks = lab.control.attached(TARGET).await?;
    for (disk, depth) in disks.iter().zip(lab.depths.clone()) {
        if disk.chain.len() != depth {
            verdict.snapshots.push(format!("{} has the chain {:?}, {depth} files before", disk.key, disk.chain));
        }
    }
    let state = lab.call(serde_json::json!({"cmd": "state"})).await?;
    let vms = state["vms"].as_array().map(Vec::as_slice).unwrap_or_default();
    if vms.iter().any(|vm| vm["name"] == TARGET && vm["consolidation_needed"] == true) {
        verdict.snapshots.push("the target needs consolidation".into());
    }
    Ok(())
}

async fn foreign(lab: &mut Lab, verdict: &mut Verdict) -> Result<()> {
    let there = crate::lab::names(&lab.control.attached(PROXY).await?);
    for (uuid, key) in lab.anchors.union(&lab.foreign.disks).filter(|disk| !there.contains(disk)) {
        verdict.foreign.push(format!("the disk {uuid} (key {key}) is gone from the proxy"));
    }
    let snapshots: Vec<String> = lab.snapshots().await?.into_iter().map(|(id, _)| id).collect();
    for id in lab.foreign.snapshots.iter().filter(|id| !snapshots.contains(id)) {
        verdict.foreign.push(format!("the snapshot {id} is gone"));
    }
    for id in std::mem::take(&mut lab.foreign.vanished) {
        verdict.foreign.push(format!("an operator's snapshot {id} was gone before he removed it"));
    }
    let counters = lab.control.counters().await?;
    if counters["file_operation_count"] != 0 {
        verdict.foreign.push(format!("file operations: {}", counters["file_operation_count"]));
    }
    if counters["foreign_destroyed"].as_array().is_some_and(|all| !all.is_empty()) {
        verdict.foreign.push(format!("destroyed: {}", counters["foreign_destroyed"]));
    }
    if let Some(why) = removed_under_reader(&counters) {
        verdict.other.push(why);
    }
    if counters["problems"].as_array().is_some_and(|all| !all.is_empty()) {
        verdict.other.push(format!("answers against the type table: {}", counters["problems"]));
    }
    Ok(())
}

/// A snapshot has to outlive what is attached of it, also where the merge that this blocks is made up for later.
pub fn removed_under_reader(counters: &Value) -> Option<String> {
    let all = &counters["removed_under_reader"];
    let none = all.as_array().is_some_and(Vec::is_empty);
    (!none).then(|| format!("snapshots removed while their disks were attached: {all}"))
}

/// The guest shows what vCenter lists, nothing less and nothing more.
async fn guest(lab: &mut Lab, verdict: &mut Verdict) -> Result<()> {
    let told = lab.control.attached(PROXY).await?;
    let seen = lab.control.devices().await?;
    let plain = |uuid: &str| uuid.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
    let serials: Vec<String> = seen.iter().filter_map(|d| d["serial"].as_str().map(plain)).collect();
    for disk in &told {
        let uuid = disk.uuid.as_deref().map(plain).unwrap_or_default();
        if !serials.contains(&uuid) {
            verdict.foreign.push(format!("the guest does not show {} any more", disk.path));
        }
    }
    if told.len() != seen.len() {
        let ids: Vec<&Value> = seen.iter().map(|d| &d["id"]).collect();
        verdict.other.push(format!("vCenter lists {} disks, the guest shows {ids:?}", told.len()));
    }
    Ok(())
}

fn journals(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let file = block_in_place(|| journal::open_in(&lab.journal()))?;
    let shown = block_in_place(|| journal::shown(&binary("agent-sim")?, &lab.scene().vcenter.control, &lab.state))?;
    if !file.is_empty() {
        verdict.other.push(format!("open in the journal: {}", journal::told(&file)));
    }
    if shown != file {
        verdict.other.push(format!("journal show tells another state: {}", journal::told(&shown)));
    }
    Ok(())
}
