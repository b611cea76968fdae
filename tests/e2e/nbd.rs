//! Disks that a server brings: chosen per disk with the reason, after a fault at the attach, in the middle of a disk. The
//! servers are real ones (nbdkit); the target is off, so that what they serve is the snapshot's state.
use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, DiskResult, JobState, NbdServer, ReadDiskRequest, Scope, Transport, TransportPart,
};
use hotadd_harness::{
    Content, FileServer, Scene, Spec,
    scene::{FIRST_KEY, TARGET, datastore_spec},
};
use serde_json::json;
use vcenter_sim::inventory::{ControllerKind, ControllerSpec, DatastoreKind};

use crate::{
    around::two_hosts,
    support::{
        Delivered, MIB, Running, Seen, adds, around_calls, backup, by_request, calls, codes, control, dense, disks,
        ended, eventually, images_equal_sources, nothing_is_left, nothing_stays, open_request, reading, refused,
        request, scene,
    },
};

/// More than a client that takes nothing, the stream and the arena hold.
const BIG: u64 = 96 * MIB;

fn key(n: usize) -> i32 {
    FIRST_KEY + i32::try_from(n).unwrap_or(i32::MAX)
}

/// `change` makes the disks what they are; servers below the scene's folder are allowed.
fn with_servers(disks: &[Content], change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene)> {
    scene(disks, |spec| {
        let folder = spec.inventory.datastores[0].dir.parent().map(Path::to_path_buf).unwrap_or_default();
        spec.agent_toml.push_str(&FileServer::allowed(&folder));
        spec.target().power = "off".into();
        change(spec);
    })
}

/// The proxy's host begins to leave and the disk is given back, before the client takes more and the job could end.
async fn leaves(scene: &Scene) -> Result<()> {
    control(scene, json!({"cmd": "host", "name": "esx-proxy", "entering": true})).await?;
    eventually("the disk is detached", async || Ok(scene.left_attached().await?.is_empty())).await
}

fn by_disk(result: &hotadd_api::v1::JobResult) -> BTreeMap<i32, &DiskResult> {
    result.disks.iter().filter_map(|disk| Some((disk.disk.as_ref()?.device_key, disk))).collect()
}

fn reasons(disk: &DiskResult) -> Vec<&str> {
    disk.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_by_hotadd_two_by_their_servers_in_one_job() -> Result<()> {
    let contents: Vec<_> = (0..3).map(|n| Content::new((3 + n) * MIB, n)).collect();
    let (dir, scene) = with_servers(&contents, |spec| {
        let at = spec.inventory.datastores[0].dir.with_file_name("vsan");
        let mut store = datastore_spec("vsan", at);
        store.kind = DatastoreKind::Vsan;
        spec.inventory.datastores.push(store);
        let target = spec.target();
        target.disks[1].path = Some("[vsan] web01/data.vmdk".into());
        let ide = ControllerSpec { kind: ControllerKind::Ide, bus: 0, ..ControllerSpec::default() };
        target.controllers.as_mut().unwrap().push(ide);
        target.disks[2].controller = ControllerKind::Ide;
        target.disks[2].unit = Some(0);
    })?;
    let one = FileServer::start(dir.path(), "one", &scene.source(1), &[])?;
    let two = FileServer::start(dir.path(), "two", &scene.source(2), &[])?;
    let refused = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(codes(refused.result()?), ["HA-JOB-004"], "without servers it is refused as before");
    let keys: Vec<i32> = scene.control().await?.attached(TARGET).await?.iter().map(|disk| disk.key).collect();
    let wanted = BackupVmRequest { nbd_servers: vec![one.named(keys[1]), two.named(keys[2])], ..request(TARGET) };
    let delivered = backup(&scene, wanted, dir.path()).await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&scene, &delivered)?;
    let told = by_disk(result);
    let ways: Vec<_> = keys.iter().map(|key| (told[key].transport(), reasons(told[key]))).collect();
    let expected =
        [(Transport::Hotadd, vec![]), (Transport::Nbd, vec!["HA-PLAN-009"]), (Transport::Nbd, vec!["HA-PLAN-015"])];
    assert_eq!(ways, expected);
    assert_eq!(adds(&scene).await?, [1], "only one disk was attached");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_the_attach_leads_to_the_server_of_that_disk_only() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(2 * MIB, 1), dense(2 * MIB, 2)], |_| {})?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let disk = scene.control().await?.attached(TARGET).await?[0].path.clone();
    scene.control().await?.locked(&disk, true).await?;
    let wanted = BackupVmRequest { nbd_servers: vec![server.named(key(0))], ..request(TARGET) };
    let mut job = Running::start(&scene, wanted, dir.path()).await?;
    job.until(Seen::Opened).await?;
    // Its snapshot is to be removed.
    scene.control().await?.locked(&disk, false).await?;
    let delivered = job.finish().await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&scene, &delivered)?;
    let told = by_disk(result);
    assert_eq!((told[&key(0)].transport(), told[&key(1)].transport()), (Transport::Nbd, Transport::Hotadd));
    ensure!(reasons(told[&key(0)])[0].starts_with("HA-ATT-"), "{:?}", told[&key(0)].reasons);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_breaks_goes_on_by_its_server_at_the_first_missing_byte() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(96 * MIB, 7)], two_hosts)?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let wanted = BackupVmRequest { nbd_servers: vec![server.named(key(0))], ..request(TARGET) };
    let run = reading(&scene, &dir, wanted).await?;
    leaves(&scene).await?;
    let delivered = run.finish().await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&scene, &delivered)?;
    let disk = by_disk(result)[&key(0)];
    let parts: Vec<_> = disk.parts.iter().map(|part| (part.transport(), part.ranges[0])).collect();
    let (first, second) = (parts[0].1, parts[1].1);
    assert_eq!((parts.len(), parts[0].0, parts[1].0), (2, Transport::Hotadd, Transport::Nbd));
    assert_eq!((first.offset, first.length, second.offset + second.length), (0, second.offset, 96 * MIB));
    assert_eq!(disk.bytes_read, 96 * MIB, "each byte once");
    nothing_is_left(&scene).await
}

/// Also of a disk of which only areas are read; the map is told again, see `Running`.
#[tokio::test(flavor = "multi_thread")]
async fn areas_go_on_by_the_server_where_they_broke() -> Result<()> {
    let half = Content { every: 2, ..Content::new(BIG, 7) };
    let (dir, scene) = with_servers(&[half], |spec| {
        spec.target().change_tracking = true;
        two_hosts(spec);
    })?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let servers = vec![server.named(key(0))];
    let scope = Scope::Allocated.into();
    let wanted = BackupVmRequest { nbd_servers: servers, scope, block_bytes: 64 << 10, ..request(TARGET) };
    let run = reading(&scene, &dir, wanted).await?;
    leaves(&scene).await?;
    let delivered = run.finish().await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&scene, &delivered)?;
    let maps: Vec<_> = delivered.opened.iter().filter_map(|opened| opened.map.as_ref()).collect();
    assert_eq!((maps.len(), maps[0].scope(), maps[0].areas.len()), (2, Scope::Allocated, 768));
    let disk = by_disk(result)[&key(0)];
    let ways: Vec<_> = disk.parts.iter().map(|part| part.transport()).collect();
    assert_eq!((ways, disk.bytes_read), (vec![Transport::Hotadd, Transport::Nbd], 48 * MIB));
    nothing_is_left(&scene).await
}

async fn host_returns(scene: &Scene) -> Result<()> {
    control(scene, json!({"cmd": "host", "name": "esx-proxy", "entering": false})).await?;
    Ok(())
}

async fn is_attached_again(scene: &Scene) -> Result<()> {
    eventually("the disk is attached again", async || Ok(!scene.left_attached().await?.is_empty())).await
}

/// HotAdd, its server, HotAdd: each byte once, in this order, and equal to the source.
async fn came_back(scene: &Scene, delivered: &Delivered) -> Result<()> {
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(scene, delivered)?;
    let disk = by_disk(result)[&key(0)];
    let ways: Vec<_> = disk.parts.iter().map(TransportPart::transport).collect();
    assert_eq!(ways, [Transport::Hotadd, Transport::Nbd, Transport::Hotadd]);
    let mut next = 0;
    for range in disk.parts.iter().flat_map(|part| &part.ranges) {
        assert_eq!(range.offset, next, "{:?}", disk.parts);
        next += range.length;
    }
    assert_eq!((next, disk.bytes_read), (BIG, BIG), "each byte once");
    assert_eq!(adds(scene).await?, [1, 1]);
    nothing_is_left(scene).await
}

/// A job that asks to go back, whose disk is read from its server now and whose client takes nothing meanwhile.
async fn by_server(dir: &tempfile::TempDir, scene: &Scene, server: &FileServer) -> Result<Running> {
    let nbd_servers = vec![server.named(key(0))];
    let mut run = reading(scene, dir, BackupVmRequest { nbd_servers, back_to_hotadd: true, ..request(TARGET) }).await?;
    leaves(scene).await?;
    run.until(Seen::Opened).await?;
    Ok(run)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_goes_back_to_hotadd_when_its_host_is_at_rest_if_that_is_asked() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(BIG, 7)], two_hosts)?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let run = by_server(&dir, &scene, &server).await?;
    host_returns(&scene).await?;
    is_attached_again(&scene).await?;
    came_back(&scene, &run.finish().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_lost_leads_back_to_hotadd_if_that_is_asked() -> Result<()> {
    let (dir, mut scene) = with_servers(&[dense(BIG, 7)], two_hosts)?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let mut run = by_server(&dir, &scene, &server).await?;
    run.until(Seen::Frame).await?;
    drop(server);
    let finished = tokio::spawn(run.finish());
    let agent = scene.agent()?;
    eventually("the loss is told", async || Ok(agent.log_text().contains("its server is lost"))).await?;
    host_returns(&scene).await?;
    let delivered = finished.await??;
    came_back(&scene, &delivered).await?;
    assert_eq!(reasons(by_disk(delivered.result()?)[&key(0)]), ["HA-RD-007", "HA-NBD-005"]);
    Ok(())
}

/// What the server sent last is asked of the device again: bytes that were made up are not called good.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_made_up_is_found_out_when_the_disk_is_attached_again() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(BIG, 7)], two_hosts)?;
    let other = dir.path().join("other.raw");
    let mut bytes = std::fs::read(scene.source(0))?;
    // All but what was sent from the device: the first frame is the only one that is surely among it.
    bytes[usize::try_from(BIG / 2)?..].fill(0x5a);
    std::fs::write(&other, bytes)?;
    let server = FileServer::start(dir.path(), "other", &other, &[])?;
    let mut run = by_server(&dir, &scene, &server).await?;
    run.until_offset(BIG / 2 + MIB).await?;
    host_returns(&scene).await?;
    is_attached_again(&scene).await?;
    let delivered = run.finish().await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), codes(result)), (JobState::Failed, vec!["HA-NBD-006"]));
    nothing_stays(&scene).await
}

/// The time in which attached disks have to be left is over long before the disk that came back is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_came_back_is_not_taken_for_one_that_could_not_be_left() -> Result<()> {
    const CLEANUP: u64 = 2;
    let (dir, scene) = with_servers(&[dense(BIG, 7)], |spec| {
        two_hosts(spec);
        spec.set("deadlines", "cleanup_seconds", CLEANUP);
    })?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let run = by_server(&dir, &scene, &server).await?;
    host_returns(&scene).await?;
    is_attached_again(&scene).await?;
    // Its client takes nothing meanwhile.
    tokio::time::sleep(std::time::Duration::from_secs(CLEANUP + 1)).await;
    came_back(&scene, &run.finish().await?).await
}

/// The host lets nobody detach while it leaves; the disks come back when they were given back.
#[tokio::test(flavor = "multi_thread")]
async fn two_disks_come_back_after_a_host_that_refused_their_detach() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(BIG, 7), dense(BIG, 8)], two_hosts)?;
    let servers = [0, 1].map(|n| FileServer::start(dir.path(), &format!("disk-{n}"), &scene.source(n), &[]));
    let mut nbd_servers = Vec::new();
    for (n, server) in servers.iter().enumerate() {
        nbd_servers.push(server.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?.named(key(n)));
    }
    let wanted = BackupVmRequest { nbd_servers, back_to_hotadd: true, ..request(TARGET) };
    let mut run = reading(&scene, &dir, wanted).await?;
    let entering = |on: bool, block: serde_json::Value| {
        control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": on, "block": block}))
    };
    entering(true, json!("InvalidState")).await?;
    eventually("a detach is refused", async || {
        let removes =
            calls(&scene, "ReconfigVM_Task").await?.iter().filter(|b| b.contains("operation>remove<")).count();
        Ok(removes > 0)
    })
    .await?;
    run.until(Seen::Opened).await?;
    entering(false, json!(null)).await?;
    eventually("both are attached again", async || Ok(adds(&scene).await?.iter().sum::<usize>() >= 4)).await?;
    let delivered = run.finish().await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&scene, &delivered)?;
    for (_, disk) in by_disk(result) {
        assert_eq!(disk.parts.last().map(TransportPart::transport), Some(Transport::Hotadd), "{:?}", disk.parts);
        assert_eq!(disk.bytes_read, BIG, "each byte once");
    }
    nothing_is_left(&scene).await
}

/// Its attach is asked for, and lands when the job is over: it is detached before the snapshot goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_its_disk_is_attached_again_leaves_nothing() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(BIG, 7)], two_hosts)?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let run = by_server(&dir, &scene, &server).await?;
    control(&scene, json!({"cmd": "set_task_ms", "ms": 1500})).await?;
    host_returns(&scene).await?;
    eventually("the attach was asked for", async || Ok(adds(&scene).await? == [1, 1])).await?;
    drop(run);
    control(&scene, json!({"cmd": "set_task_ms", "ms": 0})).await?;
    nothing_stays(&scene).await
}

/// Of the same size, and of another disk: what was sent before is asked again first.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shows_another_disk_is_found_out_before_its_bytes_are_mixed_in() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(96 * MIB, 7)], two_hosts)?;
    let other = dir.path().join("other.raw");
    let mut bytes = std::fs::read(scene.source(0))?;
    bytes[..usize::try_from(MIB)?].fill(0x5a);
    std::fs::write(&other, bytes)?;
    let server = FileServer::start(dir.path(), "other", &other, &[])?;
    let wanted = BackupVmRequest { nbd_servers: vec![server.named(key(0))], ..request(TARGET) };
    let run = reading(&scene, &dir, wanted).await?;
    leaves(&scene).await?;
    let delivered = run.finish().await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), codes(result)), (JobState::Failed, vec!["HA-NBD-006"]));
    assert_eq!(by_disk(result)[&key(0)].parts.len(), 1, "nothing of it was sent");
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": false})).await?;
    nothing_stays(&scene).await
}

/// A controller that takes nothing any more loses its job also when the disk has gone on by its server.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_stops_taking_ends_its_job_after_the_disk_went_on() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(96 * MIB, 7)], |spec| {
        two_hosts(spec);
        spec.set("limits", "lease_min_seconds", 1);
        spec.set("limits", "lease_default_seconds", 2);
    })?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let wanted = BackupVmRequest { nbd_servers: vec![server.named(key(0))], ..request(TARGET) };
    let by = by_request(&wanted);
    let run = reading(&scene, &dir, wanted).await?;
    leaves(&scene).await?;
    let result = ended(&scene, by).await?;
    assert_eq!((result.state(), codes(&result)), (JobState::Failed, vec!["HA-JOB-003"]));
    drop(run);
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": false})).await?;
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_gets_wrong_is_told_and_never_ok() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(2 * MIB, 1)], |_| {})?;
    let small = dir.path().join("small.raw");
    std::fs::write(&small, vec![1_u8; 1 << 20])?;
    let short = FileServer::start(dir.path(), "short", &small, &[])?;
    let absent = NbdServer { device_key: key(0), uri: format!("nbd+unix:///?socket={}/none", dir.path().display()) };
    let nbd = Transport::Nbd.into();
    for (server, code) in [(short.named(key(0)), "HA-NBD-004"), (absent, "HA-NBD-003")] {
        let wanted = BackupVmRequest { nbd_servers: vec![server], transport: nbd, ..request(TARGET) };
        let delivered = backup(&scene, wanted, dir.path()).await?;
        assert_eq!((delivered.result()?.state(), codes(delivered.result()?)), (JobState::Failed, vec![code]));
    }
    let stranger = NbdServer { device_key: key(0), uri: "nbd://127.0.0.1/".into() };
    let ask = BackupVmRequest { nbd_servers: vec![stranger], ..request(TARGET) };
    refused(crate::support::jobs(&scene).await?.backup_vm(ask).await, "HA-NBD-002")?;
    let typo = NbdServer { device_key: key(9), ..short.named(key(0)) };
    let delivered = backup(&scene, BackupVmRequest { nbd_servers: vec![typo], ..request(TARGET) }, dir.path()).await?;
    assert_eq!(codes(delivered.result()?), ["HA-VM-005"], "a server of a disk that is not there");
    let none = BackupVmRequest { transport: nbd, ..request(TARGET) };
    let delivered = backup(&scene, none, dir.path()).await?;
    let text = format!("{:?}", delivered.result()?.reasons);
    ensure!(text.contains("HA-NBD-001"), "{text}");
    assert_eq!(adds(&scene).await?, [0_usize; 0], "NBD was asked for, so nothing is attached");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_a_disk_of_a_server_wherever_the_proxy_goes() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(2 * MIB, 1)], two_hosts)?;
    let server = FileServer::start(dir.path(), "zero", &scene.source(0), &[])?;
    let mut client = disks(&scene).await?;
    let mut open = open_request(TARGET);
    (open.nbd_servers, open.transport) = (vec![server.named(key(0))], Transport::Nbd.into());
    let opened = client.open_disks(open).await?.into_inner();
    assert_eq!(opened.disks[0].transport(), Transport::Nbd);
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": true})).await?;
    around_calls(&scene, 20).await?;
    let read =
        ReadDiskRequest { session_id: opened.session_id.clone(), device_key: key(0), ..ReadDiskRequest::default() };
    let mut stream = client.read_disk(read).await?.into_inner();
    let mut image = vec![0_u8; usize::try_from(2 * MIB)?];
    let mut done = None;
    while let Some(message) = stream.message().await? {
        match message.item.context("an empty message")? {
            hotadd_api::v1::read_disk_response::Item::Frame(frame) => {
                let at = usize::try_from(frame.offset)?;
                if !frame.zero {
                    image[at..at + frame.data.len()].copy_from_slice(&frame.data);
                }
            }
            hotadd_api::v1::read_disk_response::Item::Done(result) => done = Some(result),
        }
    }
    ensure!(done.as_ref().is_some_and(|done| done.ok && done.transport() == Transport::Nbd), "{done:?}");
    ensure!(image == std::fs::read(scene.source(0))?, "the bytes differ");
    client.close_disks(hotadd_api::v1::CloseDisksRequest { session_id: opened.session_id }).await?;
    nothing_is_left(&scene).await
}
