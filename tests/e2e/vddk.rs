//! Disks that the user's VDDK brings: an nbdkit of the agent's for each, with a strict double in place of the plug-in (the
//! library is nobody's to give away). What the double refuses, and how it dies, is tested in tests/vddk.
use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, CloseDisksRequest, ExplainRequest, JobState, ReadDiskRequest, Transport,
    proxy_service_client::ProxyServiceClient, read_disk_response::Item,
};
use hotadd_harness::{
    Content, Scene, Spec,
    process::binary,
    scene::{FIRST_KEY, PASSWORD, TARGET},
};
use serde_json::{Value, json};

use crate::{
    around::two_hosts,
    support::{
        MIB, Running, Seen, adds, backup, calls, codes, control, dense, disks, eventually, images_equal_sources,
        nothing_is_left, nothing_stays, open_request, reading, request, scene,
    },
};

/// Size of the disk of nbdkit's dummy library (its tests/dummy-vddk.c).
const DUMMY: u64 = 512 << 10;

/// A scene whose agent has VDDK, and the ESXi port that it tries.
struct WithVddk {
    scene: Scene,
    dir: tempfile::TempDir,
    port: Option<TcpListener>,
    /// Disks that were open when the agent was killed.
    killed: usize,
}

impl WithVddk {
    fn start(disks: &[Content], change: impl FnOnce(&mut Spec, &Path) -> Result<()>) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?;
        let mut changed = Ok(());
        let (dir, scene) = scene(disks, |spec| {
            let dir = spec.inventory.datastores[0].dir.parent().map(Path::to_path_buf).unwrap_or_default();
            changed = vddk(spec, &dir, &port).and_then(|()| change(spec, &dir));
        })?;
        changed?;
        let this = Self { scene, dir, port: Some(port), killed: 0 };
        this.cue(json!({}))?;
        Ok(this)
    }

    /// What the double does besides serving.
    fn cue(&self, mut cues: Value) -> Result<()> {
        cues["control"] = json!(self.scene.vcenter.control);
        Ok(fs::write(self.dir.path().join("vddk/double.json"), cues.to_string())?)
    }

    /// From now on nobody listens where the ESXi host would.
    fn without_port(mut self) -> Self {
        self.port = None;
        self
    }

    /// Processes of ours that serve a disk, and folders of such.
    fn left(&self) -> Result<(Vec<u32>, Vec<String>)> {
        Ok((servers(self.dir.path())?, folders(self.dir.path())?))
    }

    /// Nothing runs, and each disk that was opened was closed, and its connection to vCenter with it.
    async fn nothing_is_left(&self) -> Result<()> {
        assert_eq!(self.left()?, (vec![], vec![]));
        let log = fs::read_to_string(self.dir.path().join("vddk/connections.log")).unwrap_or_default();
        let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count(" Connect "), count(" Disconnect ") + self.killed, "{log}");
        nothing_is_left(&self.scene).await
    }
}

fn vddk(spec: &mut Spec, dir: &Path, port: &TcpListener) -> Result<()> {
    let lib = dir.join("vddk");
    fs::create_dir_all(lib.join("lib64"))?;
    fs::write(lib.join("lib64/libvixDiskLib.so.8.0.2"), "")?;
    let table = format!(
        "[vddk]\nlibdir = '{}'\ntmp_dir = '{}'\nnbdkit_program = '{}'\nnfc_port = {}\n",
        lib.display(),
        dir.join("vddk-tmp").display(),
        binary("hotadd-vddk-double")?.display(),
        port.local_addr()?.port(),
    );
    spec.agent_toml.push_str(&table);
    // The host that the agent reaches for is this machine.
    let mut hosts = std::mem::take(&mut spec.inventory.hosts);
    match hosts.iter_mut().find(|host| host.name == "esx-target") {
        Some(host) => host.name = "127.0.0.1".into(),
        None => hosts.push(serde_json::from_value(json!({"name": "127.0.0.1"}))?),
    }
    spec.inventory.hosts = hosts;
    if let Some(host) = &mut spec.target().host {
        *host = "127.0.0.1".into();
    }
    Ok(())
}

/// nbdkit's own vddk plug-in and its dummy library, as `ci/real-vddk` names them: the test double is out of the way.
fn real(spec: &mut Spec, dir: &Path) -> Result<()> {
    let plugin = std::env::var("HOTADD_VDDK_PLUGIN").context("HOTADD_VDDK_PLUGIN: see ci/real-vddk")?;
    let libdir = std::env::var("HOTADD_VDDK_LIBDIR").context("HOTADD_VDDK_LIBDIR: see ci/real-vddk")?;
    // The plug-in is not where nbdkit looks for the bare name.
    let program = dir.join("nbdkit");
    let words = format!(
        "#!/bin/bash\nargs=()\nfor a; do [[ $a == vddk ]] && a='{plugin}'; args+=(\"$a\"); done\nexec nbdkit \"${{args[@]}}\"\n"
    );
    fs::write(&program, words)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let double = dir.join("vddk").display().to_string();
    let table = spec.agent_toml.replace(&format!("libdir = '{double}'"), &format!("libdir = '{libdir}'"));
    let double = binary("hotadd-vddk-double")?.display().to_string();
    spec.agent_toml = table.replace(&double, &program.display().to_string());
    Ok(())
}

fn servers(dir: &Path) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("nbd.sock") && line.contains(&*dir.to_string_lossy()) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn folders(dir: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(dir)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with("vddk-") && name != "vddk-tmp").collect())
}

fn reasons(result: &hotadd_api::v1::JobResult) -> Vec<(Transport, Vec<&str>)> {
    let mut disks: Vec<_> = result.disks.iter().collect();
    disks.sort_by_key(|disk| disk.disk.as_ref().map(|disk| disk.device_key));
    let codes = |disk: &'_ hotadd_api::v1::DiskResult| disk.transport();
    disks.iter().map(|d| (codes(d), d.reasons.iter().map(|reason| reason.code.as_str()).collect())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_by_hotadd_two_by_vddk_in_one_job() -> Result<()> {
    let contents: Vec<_> = (0..3).map(|n| Content::new((3 + n) * MIB, n)).collect();
    let it = WithVddk::start(&contents, Spec::three_kinds)?;
    let delivered = backup(&it.scene, request(TARGET), it.dir.path()).await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&it.scene, &delivered)?;
    let expected =
        [(Transport::Hotadd, vec![]), (Transport::Nbd, vec!["HA-PLAN-009"]), (Transport::Nbd, vec!["HA-PLAN-010"])];
    assert_eq!(reasons(result), expected);
    assert_eq!(adds(&it.scene).await?, [1], "only one disk was attached");
    it.nothing_is_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_breaks_goes_on_by_vddk_and_its_host_may_leave() -> Result<()> {
    let it = WithVddk::start(&[dense(96 * MIB, 7)], |spec, _| {
        two_hosts(spec);
        Ok(())
    })?;
    let run = reading(&it.scene, &it.dir, request(TARGET)).await?;
    control(&it.scene, json!({"cmd": "host", "name": "esx-proxy", "entering": true})).await?;
    eventually("the disk is detached", async || Ok(it.scene.left_attached().await?.is_empty())).await?;
    let delivered = run.finish().await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    images_equal_sources(&it.scene, &delivered)?;
    let parts: Vec<_> = result.disks[0].parts.iter().map(hotadd_api::v1::TransportPart::transport).collect();
    assert_eq!(parts, [Transport::Hotadd, Transport::Nbd]);
    assert_eq!(result.disks[0].bytes_read, 96 * MIB, "each byte once");
    it.nothing_is_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_server_until_it_is_closed() -> Result<()> {
    let it = WithVddk::start(&[dense(2 * MIB, 1)], |_, _| Ok(()))?;
    let mut client = disks(&it.scene).await?;
    let mut open = open_request(TARGET);
    open.transport = Transport::Nbd.into();
    let opened = client.open_disks(open).await?.into_inner();
    assert_eq!(opened.disks[0].transport(), Transport::Nbd);
    assert_eq!(it.left()?.0, [0_u32; 0], "nothing is started before it is read");
    let mut pids = Vec::new();
    for _ in 0..2 {
        let session_id = opened.session_id.clone();
        let read = ReadDiskRequest { session_id, device_key: FIRST_KEY, ..ReadDiskRequest::default() };
        let mut stream = client.read_disk(read).await?.into_inner();
        let (mut bytes, mut done) = (0, None);
        while let Some(message) = stream.message().await? {
            match message.item.context("an empty message")? {
                Item::Frame(frame) => bytes += u64::from(frame.length),
                Item::Done(result) => done = Some(result),
            }
        }
        ensure!(bytes == 2 * MIB && done.as_ref().is_some_and(|done| done.ok), "{bytes}: {done:?}");
        pids.push(it.left()?.0);
    }
    ensure!(pids[0].len() == 1 && pids[0] == pids[1], "{pids:?}");
    client.close_disks(CloseDisksRequest { session_id: opened.session_id }).await?;
    it.nothing_is_left().await
}

/// What is missing is told before anything is touched, and costs only the disks that need it.
#[tokio::test(flavor = "multi_thread")]
async fn what_vddk_lacks_is_told_before_the_snapshot() -> Result<()> {
    let contents: Vec<_> = (0..3).map(|n| Content::new(MIB, n)).collect();
    let it = WithVddk::start(&contents, Spec::three_kinds)?;
    let library = it.dir.path().join("vddk/lib64/libvixDiskLib.so.8.0.2");
    fs::remove_file(&library)?;
    let say = async || -> Result<String> {
        let delivered = backup(&it.scene, request(TARGET), it.dir.path()).await?;
        assert_eq!(codes(delivered.result()?), ["HA-JOB-004"]);
        Ok(format!("{:?}", delivered.result()?.reasons))
    };
    let text = say().await?;
    ensure!(text.contains("VDDK library is missing") && text.contains("vSAN"), "{text}");
    fs::write(&library, "")?;
    let it = it.without_port();
    let ask = ExplainRequest { vm: TARGET.into(), ..ExplainRequest::default() };
    let explained = ProxyServiceClient::new(it.scene.channel().await?).explain(ask).await?.into_inner();
    let ways: Vec<_> = explained.disks.iter().map(hotadd_api::v1::DiskExplanation::transport).collect();
    assert_eq!(ways, [Transport::Hotadd, Transport::Unspecified, Transport::Unspecified]);
    let wanted = BackupVmRequest { allow_partial: true, ..request(TARGET) };
    let delivered = backup(&it.scene, wanted, it.dir.path()).await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    ensure!(reasons(result)[1].1.contains(&"HA-VDK-011"), "{:?}", reasons(result));
    it.nothing_is_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_fails_its_job_with_its_words() -> Result<()> {
    let it = WithVddk::start(&[Content::new(2 * MIB, 1)], |_, _| Ok(()))?;
    let wanted = || BackupVmRequest { transport: Transport::Nbd.into(), ..request(TARGET) };
    it.cue(json!({"exit": "VDDK has a bad day"}))?;
    let delivered = backup(&it.scene, wanted(), it.dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), codes(result)), (JobState::Failed, vec!["HA-VDK-004"]));
    ensure!(result.reasons[0].message.contains("a bad day"), "{:?}", result.reasons);
    it.nothing_is_left().await?;
    // What VDDK is refused is met when it opens the disk.
    it.cue(json!({"refuse": "VixDiskLib_Open: Error 14015 at 4512."}))?;
    let delivered = backup(&it.scene, wanted(), it.dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), codes(result)), (JobState::Failed, vec!["HA-VDK-012"]), "{result:#?}");
    it.cue(json!({"refuse": "the host does not answer"}))?;
    let delivered = backup(&it.scene, wanted(), it.dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), codes(result)), (JobState::Failed, vec!["HA-VDK-007"]), "{result:#?}");
    ensure!(result.reasons[0].message.contains("does not answer"), "{:?}", result.reasons);
    it.nothing_is_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_or_an_agent_that_dies_leaves_no_server() -> Result<()> {
    let mut it = WithVddk::start(&[dense(96 * MIB, 7)], |_, _| Ok(()))?;
    let wanted = || BackupVmRequest { transport: Transport::Nbd.into(), ..request(TARGET) };
    let mut run = Running::start(&it.scene, wanted(), it.dir.path()).await?;
    run.until(Seen::Frame).await?;
    assert_eq!(it.left()?.0.len(), 1);
    drop(run);
    nothing_stays(&it.scene).await?;
    it.nothing_is_left().await?;

    it.cue(json!({"hang": true}))?;
    let run = Running::start(&it.scene, wanted(), it.dir.path()).await?;
    eventually("it is started", async || Ok(it.left()?.0.len() == 1)).await?;
    drop(run);
    nothing_stays(&it.scene).await?;
    it.nothing_is_left().await?;

    it.cue(json!({}))?;
    let mut run = Running::start(&it.scene, wanted(), it.dir.path()).await?;
    run.until(Seen::Frame).await?;
    it.scene.take_agent()?.kill()?;
    it.killed = 1;
    ensure!(run.finish().await.is_err(), "a killed agent ended the stream in order");
    eventually("nbdkit ends with its agent", async || Ok(it.left()?.0.is_empty())).await?;
    assert_eq!(it.left()?.1.len(), 1, "a killed agent leaves its folder");
    it.scene.start_agent()?;
    it.nothing_is_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_removed_after_its_server_has_ended() -> Result<()> {
    let it = WithVddk::start(&[dense(2 * MIB, 1)], |_, _| Ok(()))?;
    // It ignores SIGTERM for longer than the removal would take.
    it.cue(json!({"linger": 1.5}))?;
    let mut client = disks(&it.scene).await?;
    let mut open = open_request(TARGET);
    open.transport = Transport::Nbd.into();
    let session_id = client.open_disks(open).await?.into_inner().session_id;
    let read = ReadDiskRequest { session_id: session_id.clone(), device_key: FIRST_KEY, ..ReadDiskRequest::default() };
    let mut stream = client.read_disk(read).await?.into_inner();
    while stream.message().await?.is_some() {}
    let close = tokio::spawn(async move { client.close_disks(CloseDisksRequest { session_id }).await.map(drop) });
    eventually("the snapshot is removed", async || Ok(!calls(&it.scene, "RemoveSnapshot_Task").await?.is_empty()))
        .await?;
    assert_eq!(it.left()?.0, [0_u32; 0], "its server still lives");
    close.await??;
    it.nothing_is_left().await
}

/// The plug-in's dummy library shows a small disk of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nbdkit's vddk plug-in with its dummy library: ci/real-vddk"]
async fn the_real_plug_in_serves_and_shows_the_password_to_nobody() -> Result<()> {
    let mut it = WithVddk::start(&[Content::new(DUMMY, 1)], real)?;
    let mut client = disks(&it.scene).await?;
    let mut open = open_request(TARGET);
    open.transport = Transport::Nbd.into();
    let session_id = client.open_disks(open).await?.into_inner().session_id;
    let read = ReadDiskRequest { session_id: session_id.clone(), device_key: FIRST_KEY, ..ReadDiskRequest::default() };
    let mut stream = client.read_disk(read).await?.into_inner();
    let (mut bytes, mut done) = (0, None);
    while let Some(message) = stream.message().await? {
        match message.item.context("an empty message")? {
            Item::Frame(frame) => bytes += u64::from(frame.length),
            Item::Done(result) => done = Some(result),
        }
    }
    ensure!(bytes == DUMMY && done.as_ref().is_some_and(|done| done.ok), "{bytes}: {done:?}");
    let pids = it.left()?.0;
    assert_eq!(pids.len(), 1, "the server of this disk");
    for entry in fs::read_dir("/proc")?.flatten() {
        for file in ["cmdline", "environ"] {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            let found = text.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
            ensure!(!found, "the password is in {}", entry.path().join(file).display());
        }
    }
    client.close_disks(CloseDisksRequest { session_id }).await?;
    assert_eq!(it.left()?, (vec![], vec![]));
    let delivered =
        backup(&it.scene, BackupVmRequest { transport: Transport::Nbd.into(), ..request(TARGET) }, it.dir.path())
            .await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result()?);
    nothing_is_left(&it.scene).await?;
    let log = it.scene.agent()?.log_text();
    ensure!(log.contains("VDDK serves") && !log.contains(PASSWORD), "{log}");
    Ok(())
}
