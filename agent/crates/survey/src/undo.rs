//! Takes the survey's snapshot away and proves that it is gone. Only a snapshot with the survey's own name is ever removed. Absence is no proof
//! while a task runs; when the reply of the creation was lost, the session that asked is ended, so that a late request can only fail, and
//! the VM is looked at a second time.
use std::time::{Duration, Instant};

use hotadd_vsphere as vim;
use vim::{Client, FaultKind, MoRef, VmInfo};

use crate::gather::{Site, nodes};

/// What is known of the creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sure {
    /// vCenter refused it for want of a privilege: nothing was begun.
    Refused,
    /// Its task has made it.
    Seen,
    Unknown,
}

/// Longest try; a merge may take long, and another task of the VM goes first.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Between the two looks at a VM whose snapshot may come late.
const SETTLE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the VM shows of it.
struct Seen {
    snapshot: Option<MoRef>,
    busy: bool,
}

/// # Errors
/// Why it is not proven to be gone.
pub(crate) async fn undo(
    site: &mut Site<'_>,
    vm: &MoRef,
    name: &str,
    sure: Sure,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(), String> {
    let mut late = sure == Sure::Unknown;
    if late {
        tell("it is not known whether the snapshot was taken: ending the session that asked, and looking twice");
    }
    let mut fenced = !late;
    let end = Instant::now() + PATIENCE;
    let (mut pause, mut absent, mut last) = (FIRST_PAUSE, None::<Instant>, String::new());
    loop {
        if !fenced {
            match fence(site.client).await {
                Ok(()) => (absent, fenced) = (None, true),
                Err(why) => last = why,
            }
        }
        match seen(site.client, vm, name).await {
            Ok(Seen { snapshot: Some(snapshot), .. }) => {
                (absent, late) = (None, false);
                match remove(site, &snapshot).await {
                    // It is proven by the next look.
                    Ok(()) => {}
                    Err(Refusal::Final(why)) => return Err(why),
                    Err(Refusal::Again(why)) => last = why,
                }
            }
            Ok(Seen { busy: true, .. }) => (absent, last) = (None, "a task runs on the VM".to_owned()),
            // What a session that lives has asked for may still come.
            Ok(_) if !fenced => {}
            Ok(_) => {
                if !late || absent.get_or_insert_with(Instant::now).elapsed() >= SETTLE {
                    return Ok(());
                }
            }
            Err(why) => last = why,
        }
        if Instant::now() >= end {
            return Err(last);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn fence(client: &Client) -> Result<(), String> {
    let Some(key) = client.session_key() else { return Ok(()) };
    client.fence(&key).await.map(drop).map_err(|e| format!("the session that asked for it could not be ended: {e}"))
}

/// Tasks first, then the tree: a task that ends between the two has its effect in the tree.
async fn seen(client: &Client, vm: &MoRef, name: &str) -> Result<Seen, String> {
    let tasks = told(client, vm, "recentTask").await?.recent_tasks;
    let tasks = client.tasks(&tasks).await.map_err(|e| e.to_string())?;
    let busy = tasks.iter().any(|task| !task.state.is_final());
    let info = told(client, vm, "snapshot").await?;
    let tree = info.snapshots.as_ref().map(nodes).unwrap_or_default();
    let snapshot = tree.iter().find(|node| node.name == name).map(|node| node.moref.clone());
    Ok(Seen { snapshot, busy })
}

/// The VM; a property that is refused is an error, never an empty list.
async fn told(client: &Client, vm: &MoRef, path: &str) -> Result<VmInfo, String> {
    let info = client.vm(vm).await.map_err(|e| e.to_string())?;
    match info.missing.iter().find(|missing| missing.path == path) {
        Some(missing) => Err(format!("{path} of the VM is not told: {}", missing.fault)),
        None => Ok(info),
    }
}

enum Refusal {
    /// Another try is pointless.
    Final(String),
    Again(String),
}

async fn remove(site: &mut Site<'_>, snapshot: &MoRef) -> Result<(), Refusal> {
    let (began, step, call) = (Instant::now(), "remove_snapshot", "RemoveSnapshot_Task");
    let task = match site.client.remove_snapshot(snapshot, true).await {
        Ok(task) => task,
        Err(e) => {
            if let Some(fault) = e.fault() {
                site.step(step, call, began, None, Some(fault));
            }
            let denied = matches!(e.fault().map(|f| &f.kind), Some(FaultKind::NoPermission { .. }));
            return Err(if denied { Refusal::Final(e.to_string()) } else { Refusal::Again(e.to_string()) });
        }
    };
    let info = site.client.wait_task(&task, PATIENCE, None).await.map_err(|e| Refusal::Again(e.to_string()))?;
    site.step(step, call, began, Some(&info), info.error.as_ref());
    info.error.map_or(Ok(()), |fault| Err(Refusal::Again(fault.to_string())))
}

/// Key and top file of each disk.
pub(crate) fn tops(info: &VmInfo) -> Vec<(i32, String)> {
    info.disks().map(|disk| (disk.key, disk.backing.file_name.as_str().to_owned())).collect()
}

/// Whether the VM stands on the files on which it stood, with nothing to consolidate. What does not is named by kind.
pub(crate) async fn as_before(
    client: &Client,
    vm: &MoRef,
    before: &[(i32, String)],
) -> Result<(), (&'static str, String)> {
    let info = client.vm(vm).await.map_err(|e| ("unknown", e.to_string()))?;
    if info.consolidation_needed != Some(false) {
        return Err((
            "consolidation",
            "the snapshot is gone, and the VM needs consolidation or does not tell".to_owned(),
        ));
    }
    match tops(&info).iter().find(|top| !before.contains(top)) {
        Some((key, file)) => {
            Err(("delta", format!("the snapshot is gone, and disk {key} stands on {file}, as it did not before")))
        }
        None => Ok(()),
    }
}
