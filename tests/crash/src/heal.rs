//! The end of a round: everything that the round broke is mended, the agent lives again, and then what it owed has to be
//! settled within a deadline.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hotadd_harness::scene::{PROXY, TARGET};
use serde_json::json;
use tokio::task::block_in_place;

use crate::{
    act::{detach_foreign, until_not_busy},
    journal,
    lab::{HOST, Lab},
};

/// Longer than an agent takes from a request to its first record.
const STILL: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(20);

/// How long settling took, and what kind it was.
#[derive(Debug, Clone, Copy)]
pub struct Settling {
    pub took: Duration,
    /// An intent that vCenter never confirmed was among what was owed: those wait longer on purpose.
    pub unconfirmed: bool,
}

/// Undoes the round's faults. What others own stays where it is: the judge looks at it first.
pub async fn mend(lab: &mut Lab) -> Result<()> {
    lab.free_state()?;
    lab.mend_state()?;
    lab.call(json!({"cmd": "clear_faults"})).await?;
    lab.call(json!({"cmd": "set_task_ms", "ms": 0})).await?;
    lab.call(json!({"cmd": "set_privileges", "privileges": null})).await?;
    lab.guards_refused = false;
    lab.deny(&[]).await?;
    lab.call(json!({"cmd": "suppress_events", "on": false})).await?;
    // A guest whose driver lost events of others is rescanned by them.
    lab.rescan().await?;
    // Simulators that know no maintenance have none to end.
    lab.control.call(json!({"cmd": "host", "name": HOST, "entering": false, "block": null})).await.ok();
    // An operator takes his own snapshot away; that it was there is for the judge to have seen.
    let there: Vec<String> = lab.snapshots().await?.into_iter().map(|(id, _)| id).collect();
    for id in std::mem::take(&mut lab.foreign.passing) {
        if there.contains(&id) {
            remove_snapshot(lab, TARGET, &id).await?;
        } else {
            lab.foreign.vanished.push(id);
        }
    }
    for (vm, path) in std::mem::take(&mut lab.foreign.held) {
        lab.call(json!({"cmd": "detach_foreign", "vm": vm, "path": path})).await?;
    }
    Ok(())
}

/// Waits until vCenter and the journal show nothing of ours; the agent is brought up meanwhile if it is dead. `still`: it has
/// to stay so for a while.
pub async fn settle(lab: &mut Lab, still: bool) -> Result<Settling> {
    let start = Instant::now();
    let unconfirmed =
        block_in_place(|| journal::open_in(&lab.journal()))?.values().any(|duty| duty["phase"] == "intended");
    lab.agent_ready().await?;
    let end = start + lab.patience;
    let mut clean_since = None;
    loop {
        let left = owed(lab).await?;
        let Some(why) = left else {
            let since = *clean_since.get_or_insert_with(Instant::now);
            if !still || since.elapsed() >= STILL {
                return Ok(Settling { took: since - start, unconfirmed });
            }
            tokio::time::sleep(POLL).await;
            continue;
        };
        clean_since = None;
        if Instant::now() >= end {
            bail!("not settled within {} s: {why}", lab.patience.as_secs());
        }
        if !lab.agent_lives() {
            lab.exits += 1;
        }
        lab.agent_ready().await?;
        tokio::time::sleep(POLL).await;
    }
}

async fn owed(lab: &mut Lab) -> Result<Option<String>> {
    let coming = lab.on_their_way().await?;
    if coming > 0 {
        return Ok(Some(format!("{coming} requests are still to land")));
    }
    // What has landed may still be at work.
    let state = lab.call(json!({"cmd": "state"})).await?;
    let vms = state["vms"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(busy) = vms.iter().find(|vm| !vm["busy"].is_null()) {
        return Ok(Some(format!("{} runs on {}", busy["busy"], busy["name"])));
    }
    let disks = lab.left_attached().await?;
    if !disks.is_empty() {
        return Ok(Some(format!("attached: {:?}", disks.iter().map(|disk| &disk.path).collect::<Vec<_>>())));
    }
    let snapshots = lab.our_snapshots().await?;
    if !snapshots.is_empty() {
        return Ok(Some(format!("snapshots: {snapshots:?}")));
    }
    let methods = lab.our_methods().await?;
    if !methods.is_empty() {
        return Ok(Some(format!("disabled methods: {methods:?}")));
    }
    let open = block_in_place(|| journal::open_in(&lab.journal()))?;
    Ok((!open.is_empty()).then(|| format!("journal: {}", journal::told(&open))))
}

/// After the judge: what others brought goes again, by their own hands.
pub async fn clear_foreign(lab: &mut Lab) -> Result<()> {
    for disk in lab.control.attached(PROXY).await? {
        if crate::lab::names(std::slice::from_ref(&disk)).is_subset(&lab.foreign.disks) {
            detach_foreign(lab, &disk.path).await?;
        }
    }
    lab.foreign.disks.clear();
    // What an operator may have made of the proxy, or copied.
    let reply = lab.call(json!({"cmd": "state"})).await?;
    for vm in reply["vms"].as_array().cloned().unwrap_or_default() {
        let name = vm["name"].as_str().unwrap_or_default().to_owned();
        if name == PROXY {
            for id in vm["snapshots"].as_array().into_iter().flatten().filter_map(|s| s["id"].as_str()) {
                remove_snapshot(lab, PROXY, id).await?;
            }
        }
        if name.starts_with("an operator's") {
            lab.call(json!({"cmd": "operator", "call": "Destroy", "vm": name})).await?;
        }
    }
    Ok(())
}

async fn remove_snapshot(lab: &mut Lab, vm: &str, id: &str) -> Result<()> {
    let request = json!({"cmd": "operator", "call": "RemoveSnapshot", "vm": vm, "snapshot": id});
    let fault = until_not_busy(lab, request).await?;
    if !fault.is_null() {
        bail!("an operator can't remove his snapshot {id} of {vm}: {fault}");
    }
    Ok(())
}
