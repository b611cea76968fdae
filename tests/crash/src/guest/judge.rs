//! The verdict on a round of tier B, from outside: vCenter's lists, the guest kernel's devices, the journal on its disk, the bytes,
//! and what the guest wrote to disks that are not its own.
use std::collections::BTreeSet;

use anyhow::Result;
use hotadd_harness::scene::{PROXY, TARGET};
use serde_json::Value;

use super::scene::Scene;
use crate::{
    client::Outcome,
    journal,
    judge::{Verdict, removed_under_reader},
    lab::names,
};

/// Serial numbers of all SCSI disks, as the kernel read them.
const SERIALS: &str = "for d in /sys/block/sd*; do tail -c +5 $d/device/vpd_pg80; echo; done";

pub async fn judge(scene: &mut Scene, outcome: Option<&Outcome>, verdict: &mut Verdict) -> Result<()> {
    verdict.attached.extend(scene.left_attached().await?.into_iter().map(|disk| disk.path));
    verdict.snapshots.extend(scene.our_snapshots().await?);
    verdict.methods.extend(scene.our_methods().await?);
    verdict.false_ok.extend(outcome.and_then(|outcome| outcome.false_ok.clone()));
    let told = scene.control.attached(PROXY).await?;
    for (uuid, key) in scene.others.difference(&names(&told)) {
        verdict.foreign.push(format!("the disk {uuid} (key {key}) is gone from the proxy"));
    }
    let plain = |text: &str| text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
    let told: BTreeSet<String> = told.iter().filter_map(|disk| disk.uuid.as_deref()).map(plain).collect();
    let seen: BTreeSet<String> = scene.guest(SERIALS)?.lines().map(plain).collect();
    for serial in told.difference(&seen) {
        verdict.foreign.push(format!("the guest does not show the disk {serial}"));
    }
    for serial in seen.difference(&told) {
        verdict.other.push(format!("the guest shows the disk {serial}, vCenter does not"));
    }
    let chains = scene.control.attached(TARGET).await?.into_iter().map(|disk| disk.chain);
    for (chain, depth) in chains.zip(&scene.depths) {
        if chain.len() != *depth {
            verdict.snapshots.push(format!("the chain {chain:?} has not the {depth} files of before"));
        }
    }
    let writes = scene.control.guest_writes().await?;
    if writes != 0 {
        verdict.foreign.push(format!("the guest wrote {writes} times to attached disks"));
    }
    let counters = scene.control.counters().await?;
    let some = |key: &str| counters[key].as_array().is_some_and(|all: &Vec<Value>| !all.is_empty());
    if counters["file_operation_count"] != 0 || some("foreign_destroyed") || some("problems") {
        verdict.foreign.push(format!("counters: {counters}"));
    }
    verdict.other.extend(removed_under_reader(&counters));
    let open = scene.open_duties()?;
    if !open.is_empty() {
        verdict.other.push(format!("open in the journal: {}", journal::told(&open)));
    }
    Ok(())
}
