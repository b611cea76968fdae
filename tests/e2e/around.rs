//! What happens around disks that are held: hosts that leave service, snapshots that somebody takes away, deltas that fill a
//! datastore. The read stops, everything is detached, the reason is told; never OK.
use anyhow::{Context as _, Result};
use hotadd_api::v1::{BackupVmRequest, Cleanup, CloseDisksRequest, JobState, KeepAliveRequest, Phase};
use hotadd_harness::{
    Scene, Spec,
    scene::{PROXY, TARGET},
};
use hotadd_vsphere as vim;
use serde_json::json;
use vcenter_sim::inventory::{DiskSpec, DrsSpec, HostSpec, VmSpec};

use crate::support::{
    MIB, Running, Seen, backup, by_id, calls, codes, control, dense, disks, duties, ended, eventually, fault, job,
    nothing_is_left, nothing_stays, open_request, reading, refused, request, scene, session, vsphere,
};

/// Large enough that a client which takes nothing holds the read.
const SIZE: u64 = 128 * MIB;

/// The proxy and the target on hosts of their own, and frequent looks.
pub fn two_hosts(spec: &mut Spec) {
    spec.set("deadlines", "watch_seconds", 0.2);
    let host = |name: &str| -> HostSpec { serde_json::from_value(json!({"name": name})).unwrap() };
    spec.inventory.hosts = vec![host("esx-proxy"), host("esx-target")];
    spec.proxy().host = Some("esx-proxy".into());
    spec.target().host = Some("esx-target".into());
}

async fn maintenance(scene: &Scene, host: &str, on: bool) -> Result<()> {
    control(scene, json!({"cmd": "host", "name": host, "in_maintenance": on})).await.map(drop)
}

/// A job on hosts of their own that is read slowly.
async fn held(change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene, Running)> {
    let (dir, scene) = scene(&[dense(SIZE, 1)], |spec| {
        two_hosts(spec);
        change(spec);
    })?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    Ok((dir, scene, run))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_held_while_the_proxys_host_leaves_service() -> Result<()> {
    let (dir, scene) = scene(&[dense(4 * MIB, 1)], two_hosts)?;
    maintenance(&scene, "esx-proxy", true).await?;
    let mut run = Running::start(&scene, request(TARGET), dir.path()).await?;
    run.until(Seen::Waiting).await?;
    assert_eq!(run.delivered.waited, ["HA-HST-001"]);
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "something was begun");
    maintenance(&scene, "esx-proxy", false).await?;
    let delivered = run.finish().await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_bounded_and_begins_nothing() -> Result<()> {
    let (dir, scene) = scene(&[dense(4 * MIB, 1)], |spec| {
        two_hosts(spec);
        spec.set("deadlines", "hold_seconds", 1);
    })?;
    maintenance(&scene, "esx-target", true).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((codes(result), result.cleanup()), (vec!["HA-HST-003"], Cleanup::Done), "{result:#?}");
    assert!(
        result.reasons[0].retry_after_seconds > 0 && result.reasons[0].message.contains("esx-target"),
        "{result:#?}"
    );
    let open = open_request(TARGET);
    refused(disks(&scene).await?.open_disks(open).await, "HA-HST-003")?;
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "something was begun");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stops_and_detaches_when_the_proxys_host_leaves_and_is_resumed_later() -> Result<()> {
    let (dir, scene) = scene(&[dense(SIZE, 1)], two_hosts)?;
    let wanted = BackupVmRequest { resume_window_seconds: 600, ..request(TARGET) };
    let run = reading(&scene, &dir, wanted).await?;
    maintenance(&scene, "esx-proxy", true).await?;
    let id = run.delivered.job_id.clone();
    // A host in maintenance may refuse to detach until it is back.
    eventually("the job detaches", async || Ok(job(&scene, by_id(&id)).await?.phase() == Phase::Detach)).await?;
    maintenance(&scene, "esx-proxy", false).await?;
    let result = ended(&scene, by_id(&id)).await?;
    assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-HST-001"]), "{result:#?}");
    assert!(!result.resume_until.is_empty() && result.reasons[0].retry_after_seconds > 0, "{result:#?}");
    assert!(scene.left_attached().await?.is_empty());
    assert_eq!(scene.snapshots().await?.len(), 1);
    run.finish().await?;
    let again = BackupVmRequest { resume_job: id, ..request(TARGET) };
    let delivered = backup(&scene, again, dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_ended_when_the_proxys_host_leaves() -> Result<()> {
    let (_dir, scene) = scene(&[dense(4 * MIB, 1)], two_hosts)?;
    let open = open_request(TARGET);
    let id = disks(&scene).await?.open_disks(open).await?.into_inner().session_id;
    maintenance(&scene, "esx-proxy", true).await?;
    let in_state = async |state: &str| eventually(state, async || Ok(session(&scene, &id).await?.state == state)).await;
    in_state("closing").await?;
    let told =
        refused(disks(&scene).await?.keep_alive(KeepAliveRequest { session_id: id.clone() }).await, "HA-HST-001")?;
    assert!(told.cleanup() == Cleanup::Owed && told.retry_after_seconds > 0, "{told:?}");
    maintenance(&scene, "esx-proxy", false).await?;
    in_state("closed").await?;
    refused(disks(&scene).await?.keep_alive(KeepAliveRequest { session_id: id }).await, "HA-HST-001")?;
    nothing_is_left(&scene).await
}

/// Reading goes on; only the removal of our snapshot waits, and whoever asks is told why.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_not_removed_while_the_targets_host_leaves() -> Result<()> {
    let (_dir, scene, run) = held(|spec| {
        spec.set("deadlines", "cleanup_seconds", 2);
    })
    .await?;
    maintenance(&scene, "esx-target", true).await?;
    let delivered = run.finish().await?;
    let result = delivered.result()?;
    assert_eq!((codes(result), result.cleanup()), (vec!["HA-DUT-001"], Cleanup::Owed), "{result:#?}");
    assert!(result.disks.iter().all(|disk| disk.ok), "reading was not to stop: {result:#?}");
    assert_eq!((scene.left_attached().await?.len(), scene.snapshots().await?.len()), (0, 1));
    assert!(calls(&scene, "RemoveSnapshot_Task").await?.is_empty(), "the removal was asked for");
    let duties = duties(&scene).await?;
    let snapshot: Vec<_> = duties.iter().filter(|duty| duty.kind == "snapshot").collect();
    assert!(snapshot.len() == 1 && snapshot[0].last_error.contains("esx-target"), "{duties:#?}");
    maintenance(&scene, "esx-target", false).await?;
    nothing_stays(&scene).await?;
    assert_eq!(job(&scene, by_id(&delivered.job_id)).await?.cleanup(), Cleanup::Done);
    Ok(())
}

async fn remove(scene: &Scene, snapshot: &str) -> Result<()> {
    let client = vsphere(scene).await?;
    let task = client.remove_snapshot(&vim::MoRef::new("VirtualMachineSnapshot", snapshot), true).await?;
    client.wait_task(&task, std::time::Duration::from_secs(30), None).await?;
    Ok(client.logout().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_snapshot_is_taken_away_is_never_ok() -> Result<()> {
    let (_dir, scene, run) = held(|_| {}).await?;
    let ours = scene.snapshots().await?.pop().context("no snapshot")?;
    remove(&scene, &ours).await?;
    let id = run.delivered.job_id.clone();
    let result = ended(&scene, by_id(&id)).await?;
    assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-CHN-001"]), "{result:#?}");
    run.finish().await?;
    nothing_stays(&scene).await
}

/// Nobody looks while it is read: the last look, before the end, has to see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_went_away_unseen_is_noticed_at_the_end() -> Result<()> {
    let (_dir, scene, run) = held(|spec| {
        spec.set("deadlines", "watch_seconds", 3600);
    })
    .await?;
    let ours = scene.snapshots().await?.pop().context("no snapshot")?;
    remove(&scene, &ours).await?;
    let delivered = run.finish().await?;
    assert_eq!(codes(delivered.result()?), ["HA-CHN-001"], "{:#?}", delivered.result);
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datastore_that_fills_and_a_snapshot_that_ages_end_the_job() -> Result<()> {
    let (dir, scene, run) = held(|spec| {
        spec.set("limits", "datastore_min_free_bytes", 1_u64 << 30);
        spec.set("limits", "snapshot_max_age_seconds", 8);
    })
    .await?;
    control(&scene, json!({"cmd": "datastore", "name": "ds1", "free": 12_345})).await?;
    let id = run.delivered.job_id.clone();
    let result = ended(&scene, by_id(&id)).await?;
    assert_eq!(codes(&result), ["HA-SNP-008"], "{result:#?}");
    for fact in ["ds1", "12345", "1073741824"] {
        assert!(result.reasons[0].message.contains(fact), "{fact}: {}", result.reasons[0].message);
    }
    run.finish().await?;
    nothing_stays(&scene).await?;
    control(&scene, json!({"cmd": "datastore", "name": "ds1", "free": 1_u64 << 40})).await?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    let result = ended(&scene, by_id(&run.delivered.job_id)).await?;
    assert_eq!(codes(&result), ["HA-SNP-007"], "{result:#?}");
    drop(run);
    nothing_stays(&scene).await
}

/// As for a role that may not read events; they cost nothing.
async fn unreadable_events(scene: &Scene) -> Result<()> {
    fault(scene, "QueryEvents", json!({"fault": "NoPermission", "count": 1_000_000})).await
}

/// The task that empties the host runs; the flag comes only at its end.
#[tokio::test(flavor = "multi_thread")]
async fn the_running_task_that_empties_a_host_is_seen() -> Result<()> {
    let (dir, scene, run) = held(|_| {}).await?;
    unreadable_events(&scene).await?;
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": true})).await?;
    let id = run.delivered.job_id.clone();
    let result = ended(&scene, by_id(&id)).await?;
    assert_eq!(codes(&result).first(), Some(&"HA-HST-001"), "{result:#?}");
    assert!(result.reasons[0].message.contains("enterMaintenanceMode"), "{result:#?}");
    run.finish().await?;
    nothing_stays(&scene).await?;
    // The next one waits before it touches anything.
    let mut run = Running::start(&scene, request(TARGET), dir.path()).await?;
    run.until(Seen::Waiting).await?;
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": false})).await?;
    assert_eq!(run.finish().await?.result()?.state(), JobState::Ok);
    nothing_is_left(&scene).await
}

/// Neither task nor flag can be seen: the event tells. It stays when the entering was given up, and holds nobody then.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_alone_tells_that_the_proxys_host_leaves() -> Result<()> {
    let (dir, scene, run) = held(|_| {}).await?;
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "silent": true, "entering": true})).await?;
    let result = ended(&scene, by_id(&run.delivered.job_id)).await?;
    assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-HST-001"]), "{result:#?}");
    let reason = &result.reasons[0];
    assert!(reason.message.contains("EnteringMaintenanceModeEvent") && reason.retry_after_seconds > 0, "{result:#?}");
    run.finish().await?;
    nothing_stays(&scene).await?;
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": false})).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    assert!(delivered.waited.is_empty(), "{:?}", delivered.waited);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_proxys_move_ends_the_job_and_events_of_others_do_not() -> Result<()> {
    let (_dir, scene, run) = held(|_| {}).await?;
    let id = run.delivered.job_id.clone();
    for (kind, whose, name) in [
        ("EnteringMaintenanceModeEvent", "host", "esx-target"),
        ("VmMigratedEvent", "vm", TARGET),
        ("HostConnectedEvent", "host", "esx-proxy"),
    ] {
        control(&scene, json!({"cmd": "post_event", "type": kind, whose: name})).await?;
    }
    let asked = async || -> Result<usize> { Ok(calls(&scene, "QueryEvents").await?.len()) };
    let before = asked().await?;
    eventually("two more looks at events", async || Ok(asked().await? >= before + 4)).await?;
    assert_eq!(job(&scene, by_id(&id)).await?.state(), JobState::Running, "an event of others ended it");
    control(&scene, json!({"cmd": "post_event", "type": "VmBeingHotMigratedEvent", "vm": PROXY})).await?;
    let result = ended(&scene, by_id(&id)).await?;
    assert_eq!(codes(&result), ["HA-HST-002"], "{result:#?}");
    run.finish().await?;
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_may_not_be_read_cost_nothing() -> Result<()> {
    let (_dir, scene, run) = held(|_| {}).await?;
    unreadable_events(&scene).await?;
    let before = calls(&scene, "QueryEvents").await?.len();
    eventually("refused looks", async || Ok(calls(&scene, "QueryEvents").await?.len() >= before + 4)).await?;
    let delivered = run.finish().await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    nothing_is_left(&scene).await
}

/// A task of the cluster that does not tell its host is only logged: it may be about any other host.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_the_cluster_counts_when_it_is_about_the_proxys_host() -> Result<()> {
    let (dir, mut scene, run) = held(|spec| {
        for host in &mut spec.inventory.hosts {
            host.drs = Some(DrsSpec { behavior: "manual".into(), ..DrsSpec::default() });
        }
    })
    .await?;
    let task = "ClusterComputeResource.enterMaintenanceMode";
    let run_task = async |scene: &Scene, about: &str| {
        let task = json!({"cmd": "host", "name": "esx-proxy", "cluster_task": task, "cluster_about": about});
        control(scene, task).await
    };
    run_task(&scene, "cluster").await?;
    let agent = scene.agent()?;
    eventually("a warning", async || Ok(agent.log_text().contains("it is not told which"))).await?;
    let id = run.delivered.job_id.clone();
    assert_eq!(job(&scene, by_id(&id)).await?.state(), JobState::Running, "it may be about another host");
    run_task(&scene, "host").await?;
    let result = ended(&scene, by_id(&id)).await?;
    assert_eq!(codes(&result), ["HA-HST-001"], "{result:#?}");
    assert!(result.reasons[0].message.contains(task), "{result:#?}");
    run.finish().await?;
    nothing_stays(&scene).await?;
    // The next one waits before it touches anything.
    let mut run = Running::start(&scene, request(TARGET), dir.path()).await?;
    run.until(Seen::Waiting).await?;
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "cluster_task": null})).await?;
    assert_eq!(run.finish().await?.result()?.state(), JobState::Ok);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_reverted_and_a_proxy_that_is_moved_end_the_job() -> Result<()> {
    let (dir, scene) = scene(&[dense(SIZE, 1)], |spec| {
        two_hosts(spec);
        spec.target().snapshots = 1;
    })?;
    let theirs = scene.snapshots().await?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    let revert = json!({"cmd": "operator", "call": "RevertToSnapshot", "vm": TARGET, "snapshot": theirs[0]});
    let answer = control(&scene, revert).await?;
    assert!(answer["fault"].is_null(), "{answer}");
    let id = run.delivered.job_id.clone();
    assert_eq!(codes(&ended(&scene, by_id(&id)).await?).first(), Some(&"HA-CHN-001"));
    run.finish().await?;
    only_these_stay(&scene, &theirs).await?;

    let run = reading(&scene, &dir, request(TARGET)).await?;
    let id = run.delivered.job_id.clone();
    let answer =
        control(&scene, json!({"cmd": "operator", "call": "Migrate", "vm": PROXY, "host": "esx-target"})).await?;
    assert!(answer["fault"].is_null(), "{answer}");
    assert_eq!(codes(&ended(&scene, by_id(&id)).await?).first(), Some(&"HA-HST-002"));
    run.finish().await?;
    only_these_stay(&scene, &theirs).await
}

async fn only_these_stay(scene: &Scene, snapshots: &[String]) -> Result<()> {
    eventually("only foreign snapshots stay", async || {
        Ok(scene.snapshots().await? == snapshots && scene.left_attached().await?.is_empty())
    })
    .await
}

/// Sessions that hold disks at the same time share their looks at the proxy, and a look costs a fixed number of calls.
#[tokio::test(flavor = "multi_thread")]
async fn looks_at_the_proxy_are_shared() -> Result<()> {
    let (_dir, scene) = scene(&[dense(MIB, 1)], |spec| {
        two_hosts(spec);
        spec.set("deadlines", "watch_seconds", 1);
        for n in 0..3 {
            let disk = DiskSpec { capacity: Some(MIB), unit: Some(0), ..DiskSpec::default() };
            let more = hotadd_harness::scene::vm(&format!("more{n}"), vec![disk]);
            spec.inventory.vms.push(VmSpec { host: Some("esx-target".into()), ..more });
        }
    })?;
    let mut open = Vec::new();
    for name in [TARGET, "more0", "more1", "more2"] {
        let wanted = open_request(name);
        open.push(disks(&scene).await?.open_disks(wanted).await?.into_inner().session_id);
    }
    let client = vsphere(&scene).await?;
    let host = async |name: &str| -> Result<String> {
        let found = client.find_vms_by_name(name).await?.pop().context("no such VM")?;
        Ok(client.vm(&found).await?.host.context("no host")?.value)
    };
    let hosts = (host(PROXY).await?, host(TARGET).await?);
    control(&scene, json!({"cmd": "requests", "clear": true})).await?;
    let looks = async || -> Result<Vec<String>> {
        let all = calls(&scene, "RetrievePropertiesEx").await?;
        Ok(all.into_iter().filter(|body| body.contains("runtime.inMaintenanceMode")).collect())
    };
    eventually("five ticks of four sessions", async || Ok(looks().await?.len() >= 25)).await?;
    let all = looks().await?;
    let of = |host: &str| all.iter().filter(|body| body.contains(&format!(">{host}<"))).count();
    let (proxy, target) = (of(&hosts.0), of(&hosts.1));
    assert_eq!(proxy + target, all.len(), "{hosts:?}");
    assert!(proxy * 2 <= target, "{proxy} looks at the proxy's host, {target} at the target's: not shared");
    for id in open {
        disks(&scene).await?.close_disks(CloseDisksRequest { session_id: id }).await?;
    }
    nothing_stays(&scene).await
}

/// The guest writes while its disk is read: the delta fills the datastore, and the job ends while there is still room.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_grows_ends_the_job_before_its_datastore_is_full() -> Result<()> {
    let (dir, scene) = scene(&[dense(SIZE, 1)], |spec| {
        two_hosts(spec);
        spec.set("limits", "datastore_min_free_bytes", 1_u64 << 30);
    })?;
    control(&scene, json!({"cmd": "datastore", "name": "ds1", "free": 3_u64 << 30})).await?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    let id = run.delivered.job_id.clone();
    let (mut size, mut free) = (0, u64::MAX);
    eventually("the growth ends the job", async || {
        // What the datastore has left is told until the job ends: afterwards the delta is merged and gone.
        if job(&scene, by_id(&id)).await?.state() == JobState::Running && !scene.snapshots().await?.is_empty() {
            let grow =
                json!({"cmd": "delta_growth", "vm": TARGET, "bytes": if free >= 1 << 30 { 256 * MIB } else { 0 }});
            let grown = control(&scene, grow).await?;
            let told = |key: &str| grown[key].as_u64().unwrap_or(0);
            (size, free) = (told("size"), told("free"));
        }
        Ok(job(&scene, by_id(&id)).await?.state() != JobState::Running)
    })
    .await?;
    let result = ended(&scene, by_id(&id)).await?;
    assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-SNP-008"]), "{result:#?}");
    assert!(free > 0, "the datastore was full before");
    let message = &result.reasons[0].message;
    for fact in ["ds1".to_owned(), free.to_string()] {
        assert!(message.contains(&fact), "{fact}: {message}");
    }
    // Its descriptor counts too.
    let delta: u64 = message.rsplit(' ').next().and_then(|n| n.parse().ok()).context("the delta's size")?;
    assert!((size..size + MIB).contains(&delta), "{size}: {message}");
    // The stream's client is told the same.
    let told = run.finish().await?;
    assert_eq!(codes(told.result()?), ["HA-SNP-008"], "{:#?}", told.result);
    nothing_stays(&scene).await
}

/// Our snapshot goes while the VM's host is being emptied: its delta stays. What an operator has to do is told with every
/// snapshot and delta of the VM, in the order of removal.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_stayed_behind_is_reported_with_all_that_is_to_be_removed() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(SIZE, 1)], |spec| {
        two_hosts(spec);
        spec.target().snapshots = 2;
        spec.set("deadlines", "consolidate_seconds", 3600);
        spec.set("deadlines", "cleanup_seconds", 2);
    })?;
    let theirs = scene.snapshots().await?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    let id = run.delivered.job_id.clone();
    let ours = scene.snapshots().await?.into_iter().find(|s| !theirs.contains(s)).context("no snapshot of ours")?;
    control(&scene, json!({"cmd": "host", "name": "esx-target", "entering": true, "conflict": true})).await?;
    let gone = json!({"cmd": "operator", "call": "RemoveSnapshot", "vm": TARGET, "snapshot": ours});
    let answer = control(&scene, gone).await?;
    assert!(answer["fault"].is_null(), "{answer}");
    assert_eq!(codes(&ended(&scene, by_id(&id)).await?).first(), Some(&"HA-CHN-001"));
    run.finish().await?;
    let mut report = String::new();
    let agent = scene.agent()?;
    eventually("the report", async || {
        let log = agent.log_text();
        report = log.lines().find(|line| line.contains("youngest first")).unwrap_or_default().to_owned();
        Ok(!report.is_empty())
    })
    .await?;
    let chain = scene.control().await?.attached(TARGET).await?.first().context("no disk")?.chain.clone();
    assert_eq!(chain.len(), 4, "the delta of our snapshot is to be there: {chain:?}");
    for delta in &chain[..3] {
        let stem = delta.trim_end_matches(".vmdk");
        assert!(report.contains(stem), "{stem}: {report}");
    }
    let at = |snapshot: &String| report.find(snapshot.as_str()).with_context(|| format!("{snapshot}: {report}"));
    assert!(report.contains("HA-SNP-005") && at(&theirs[1])? < at(&theirs[0])?, "{report}");
    assert!(!report.contains(&ours), "it is no longer there to be removed: {report}");
    // The operator does what he was told.
    control(&scene, json!({"cmd": "host", "name": "esx-target", "entering": false})).await?;
    let answer = control(&scene, json!({"cmd": "operator", "call": "Consolidate", "vm": TARGET})).await?;
    assert!(answer["fault"].is_null(), "{answer}");
    eventually("the duty ends", async || Ok(duties(&scene).await?.is_empty())).await?;
    only_these_stay(&scene, &theirs).await
}
