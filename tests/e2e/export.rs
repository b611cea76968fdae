//! Disks that come by the snapshot's export lease: chosen where nothing else brings them, whole or not at all, and never a lease
//! that lives on.
use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{BackupVmRequest, ExplainRequest, JobState, Transport, proxy_service_client::ProxyServiceClient};
use hotadd_harness::{Content, Scene, Spec, scene::TARGET};
use serde_json::{Value, json};

use crate::support::{
    MIB, Running, Seen, adds, backup, calls, codes, control, dense, disks, eventually, fault, images_equal_sources,
    nothing_is_left, nothing_stays, open_request, refused, request, scene,
};

/// Jobs may export for an hour; no port is tried, since the hosts of the inventory do not exist.
fn exporting(disks: &[Content], change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene)> {
    scene(disks, |spec| {
        spec.agent_toml.push_str("[export]\nmax_hours = 1\nport = 0\n");
        spec.set("deadlines", "export_unknown_seconds", 2);
        change(spec);
    })
}

/// Only an export may bring the disks.
fn only_export() -> BackupVmRequest {
    BackupVmRequest { transport: Transport::Export.into(), ..request(TARGET) }
}

async fn leases(scene: &Scene) -> Result<Vec<Value>> {
    let answer = control(scene, json!({"cmd": "leases"})).await?;
    Ok(answer["leases"].as_array().cloned().unwrap_or_default())
}

/// States of all leases that there ever were, oldest first by vCenter's list.
async fn states(scene: &Scene) -> Result<Vec<String>> {
    Ok(leases(scene).await?.iter().map(|lease| lease["state"].as_str().unwrap_or("?").to_owned()).collect())
}

async fn none_lives(scene: &Scene) -> Result<()> {
    let states = states(scene).await?;
    ensure!(states.iter().all(|state| state == "done" || state == "error"), "{states:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_by_hotadd_two_by_one_lease() -> Result<()> {
    let contents: Vec<_> = (0..3).map(|n| Content::new((3 + n) * MIB + 65536 * n, n)).collect();
    let mut changed = Ok(());
    let (dir, scene) = exporting(&contents, |spec| {
        let dir = spec.inventory.datastores[0].dir.parent().unwrap().to_path_buf();
        changed = spec.three_kinds(&dir);
    })?;
    changed?;
    let ask = ExplainRequest { vm: TARGET.into(), ..ExplainRequest::default() };
    let explained = ProxyServiceClient::new(scene.channel().await?).explain(ask).await?.into_inner();
    let ways: Vec<_> = explained.disks.iter().map(hotadd_api::v1::DiskExplanation::transport).collect();
    assert_eq!(ways, [Transport::Hotadd, Transport::Export, Transport::Export]);
    assert!(leases(&scene).await?.is_empty(), "Explain touches nothing");
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&scene, &delivered)?;
    let mut told: Vec<_> = result.disks.iter().map(|disk| (disk.transport(), disk.reasons.len())).collect();
    told.sort();
    assert_eq!(told, [(Transport::Hotadd, 0), (Transport::Export, 1), (Transport::Export, 1)]);
    assert_eq!(adds(&scene).await?, [1], "only one disk was attached");
    assert_eq!(states(&scene).await?, ["done"], "one lease, told to be complete");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_the_attach_leads_to_an_export() -> Result<()> {
    let (dir, scene) = exporting(&[Content::new(2 * MIB, 1)], |_| {})?;
    let disk = scene.control().await?.attached(TARGET).await?[0].path.clone();
    scene.control().await?.locked(&disk, true).await?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Opened).await?;
    // Its snapshot is to be removed.
    scene.control().await?.locked(&disk, false).await?;
    let delivered = job.finish().await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&scene, &delivered)?;
    assert_eq!(result.disks[0].transport(), Transport::Export);
    ensure!(result.disks[0].reasons[0].code.starts_with("HA-ATT-"), "{:?}", result.disks[0].reasons);
    none_lives(&scene).await?;
    nothing_is_left(&scene).await
}

/// Whatever is wrong with lease or stream: told, never OK, and nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_or_damaged_is_never_ok() -> Result<()> {
    let (dir, scene) = exporting(&[dense(4 * MIB, 1)], |_| {})?;
    let cases = [
        (json!({"error": "FileLocked", "ready_ms": 20}), "HA-EXP-002"),
        (json!({"disconnect_after": 100_000}), "HA-EXP-003"),
        (json!({"corrupt_grain": 3}), "HA-EXP-004"),
        (json!({"lose_grain": 3}), "HA-EXP-004"),
        (json!({"thumbprint": "AB".repeat(20)}), "HA-EXP-003"),
    ];
    for (mut wrong, code) in cases {
        wrong["cmd"] = json!("export");
        control(&scene, wrong.clone()).await?;
        let delivered = backup(&scene, only_export(), dir.path()).await?;
        let result = delivered.result()?;
        assert_eq!((result.state(), codes(result)), (JobState::Failed, vec![code]), "{wrong}: {result:#?}");
        none_lives(&scene).await?;
        nothing_is_left(&scene).await?;
    }
    control(&scene, json!({"cmd": "export"})).await?;
    let delivered = backup(&scene, only_export(), dir.path()).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_or_goes_the_lease_ends_before_the_snapshot() -> Result<()> {
    let (dir, mut scene) = exporting(&[dense(16 * MIB, 7)], |_| {})?;
    // Slow enough to be met in the middle.
    control(&scene, json!({"cmd": "export", "bps": 4_000_000})).await?;
    let mut run = Running::start(&scene, only_export(), dir.path()).await?;
    run.until(Seen::Frame).await?;
    assert_eq!(states(&scene).await?, ["ready"]);
    drop(run);
    nothing_stays(&scene).await?;
    none_lives(&scene).await?;

    let mut run = Running::start(&scene, only_export(), dir.path()).await?;
    run.until(Seen::Frame).await?;
    scene.take_agent()?.kill()?;
    ensure!(run.finish().await.is_err(), "a killed agent ended the stream in order");
    ensure!(states(&scene).await?.contains(&"ready".to_owned()), "the kill proves nothing: no lease lived");
    scene.start_agent()?;
    none_lives(&scene).await?;
    nothing_is_left(&scene).await?;

    // Told to stop, it exits only when nothing is owed.
    let mut run = Running::start(&scene, only_export(), dir.path()).await?;
    run.until(Seen::Frame).await?;
    let mut agent = scene.take_agent()?;
    ensure!(agent.stop()?.success(), "it left something");
    drop(run);
    none_lives(&scene).await?;
    nothing_is_left(&scene).await
}

/// The lease has no name then; it ends by its timeout, and the snapshot waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_the_export_is_waited_out() -> Result<()> {
    let (dir, scene) = exporting(&[Content::new(2 * MIB, 1)], |_| {})?;
    control(&scene, json!({"cmd": "export", "timeout_s": 1})).await?;
    fault(&scene, "ExportSnapshot", json!({"kind": "drop_reply"})).await?;
    let delivered = backup(&scene, only_export(), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!(result.state(), JobState::Failed, "{result:#?}");
    eventually("the lease ends by itself", async || Ok(none_lives(&scene).await.is_ok())).await?;
    assert_eq!(leases(&scene).await?.len(), 1, "there was one");
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_its_longest_time_and_only_where_it_is_allowed() -> Result<()> {
    let (dir, scene) = scene(&[dense(96 * MIB, 1)], |spec| {
        // 3.6 s.
        spec.agent_toml.push_str("[export]\nmax_hours = 0.001\nport = 0\n");
    })?;
    let mut client = disks(&scene).await?;
    let mut open = open_request(TARGET);
    open.transport = Transport::Export.into();
    let answer = client.open_disks(open).await;
    refused(answer, "HA-EXP-006").context("sessions never export")?;
    assert!(calls(&scene, "ExportSnapshot").await?.is_empty());
    // What was sent of an export is worth nothing without its end: who may resume gets none.
    let windowed = BackupVmRequest { resume_window_seconds: 60, ..only_export() };
    let delivered = backup(&scene, windowed, dir.path()).await?;
    let text = format!("{:?}", delivered.result()?.reasons);
    ensure!(text.contains("HA-EXP-006") && calls(&scene, "ExportSnapshot").await?.is_empty(), "{text}");
    // A client that takes nothing does not lengthen it either.
    let mut run = Running::start(&scene, only_export(), dir.path()).await?;
    run.until(Seen::Frame).await?;
    eventually("the lease is ended", async || Ok(states(&scene).await?.contains(&"error".to_owned()))).await?;
    let result = run.finish().await?;
    assert_eq!((result.result()?.state(), codes(result.result()?)), (JobState::Failed, vec!["HA-EXP-005"]));
    control(&scene, json!({"cmd": "export", "bps": 1_000_000})).await?;
    let delivered = backup(&scene, only_export(), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), codes(result)), (JobState::Failed, vec!["HA-EXP-005"]), "{result:#?}");
    none_lives(&scene).await?;
    nothing_is_left(&scene).await
}
