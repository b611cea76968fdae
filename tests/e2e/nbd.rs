//! Disks that a server brings: chosen per disk with the reason, after a fault at the attach, in the middle of a disk. The
//! servers are real ones (nbdkit); the target is off, so that what they serve is the snapshot's state.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{BackupVmRequest, DiskResult, JobState, NbdServer, ReadDiskRequest, Scope, Transport};
use hotadd_harness::{
    Content, Scene, Spec,
    scene::{FIRST_KEY, TARGET, datastore_spec},
};
use serde_json::json;
use vcenter_sim::inventory::{ControllerKind, ControllerSpec, DatastoreKind};

use crate::{
    around::two_hosts,
    support::{
        MIB, Running, Seen, adds, backup, by_request, calls, codes, control, dense, disks, ended, eventually,
        images_equal_sources, nothing_is_left, nothing_stays, open_request, reading, refused, request, scene,
    },
};

/// A server on a Unix socket; ends with its owner.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    async fn start(dir: &Path, name: &str, file: &Path, more: &[&str]) -> Result<Self> {
        let socket = dir.join(format!("{name}.sock"));
        let child = Command::new("nbdkit")
            .args(["--foreground", "--readonly", "--exit-with-parent", "--unix"])
            .arg(&socket)
            .args(more)
            .arg("file")
            .arg(file)
            .stdin(Stdio::null())
            .spawn()
            .context("nbdkit")?;
        let server = Self { child, socket };
        eventually("nbdkit listens", async || Ok(server.socket.exists())).await?;
        Ok(server)
    }

    fn named(&self, key: i32) -> NbdServer {
        NbdServer { device_key: key, uri: format!("nbd+unix:///?socket={}", self.socket.display()) }
    }
}

fn key(n: usize) -> i32 {
    FIRST_KEY + i32::try_from(n).unwrap_or(i32::MAX)
}

/// `change` makes the disks what they are; servers below the scene's folder are allowed.
fn with_servers(disks: &[Content], change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene)> {
    scene(disks, |spec| {
        let folder = spec.inventory.datastores[0].dir.parent().map(Path::to_path_buf).unwrap_or_default();
        spec.agent_toml.push_str(&format!("[nbd]\nallow = ['nbd+unix:///?socket={}']\n", folder.display()));
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
    let one = Server::start(dir.path(), "one", &scene.source(1), &[]).await?;
    let two = Server::start(dir.path(), "two", &scene.source(2), &[]).await?;
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
    let server = Server::start(dir.path(), "zero", &scene.source(0), &[]).await?;
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
    let server = Server::start(dir.path(), "zero", &scene.source(0), &[]).await?;
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
    let half = Content { every: 2, ..Content::new(96 * MIB, 7) };
    let (dir, scene) = with_servers(&[half], |spec| {
        spec.target().change_tracking = true;
        two_hosts(spec);
    })?;
    let server = Server::start(dir.path(), "zero", &scene.source(0), &[]).await?;
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

/// Of the same size, and of another disk: what was sent before is asked again first.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shows_another_disk_is_found_out_before_its_bytes_are_mixed_in() -> Result<()> {
    let (dir, scene) = with_servers(&[dense(96 * MIB, 7)], two_hosts)?;
    let other = dir.path().join("other.raw");
    let mut bytes = std::fs::read(scene.source(0))?;
    bytes[..usize::try_from(MIB)?].fill(0x5a);
    std::fs::write(&other, bytes)?;
    let server = Server::start(dir.path(), "other", &other, &[]).await?;
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
    let server = Server::start(dir.path(), "zero", &scene.source(0), &[]).await?;
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
    let short = Server::start(dir.path(), "short", &small, &[]).await?;
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
    let server = Server::start(dir.path(), "zero", &scene.source(0), &[]).await?;
    let mut client = disks(&scene).await?;
    let mut open = open_request(TARGET);
    (open.nbd_servers, open.transport) = (vec![server.named(key(0))], Transport::Nbd.into());
    let opened = client.open_disks(open).await?.into_inner();
    assert_eq!(opened.disks[0].transport(), Transport::Nbd);
    control(&scene, json!({"cmd": "host", "name": "esx-proxy", "entering": true})).await?;
    let looks = calls(&scene, "RetrievePropertiesEx").await?.len();
    eventually("it was looked at since", async || Ok(calls(&scene, "RetrievePropertiesEx").await?.len() > looks + 20))
        .await?;
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
