//! hotaddctl as a user runs it: the good way, and every bad input as one clear line, a documented exit code
//! (docs/hotaddctl.md), nothing left attached.
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{
    Content, Process, Run, Scene, binary,
    content::same,
    ctl::images,
    scene::{TARGET, datastore_spec, vm},
};
use nix::sys::signal::Signal;
use serde_json::json;
use vcenter_sim::inventory::DiskSpec;

use crate::support::{MIB, calls, control, dense, eventually, nothing_is_left, scene};

fn small() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(5 * MIB + 512, 1), Content::new(3 * MIB, 2)], |_| {})
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn backup(scene: &Scene, vm: &str, out: &Path) -> Result<Run> {
    scene.ctl(&["backup", "--vm", vm, "--out", text(out)])
}

/// One line on stderr that starts so, and this exit code; nothing is left, and no image is taken for a good one.
async fn fails(scene: &Scene, run: &Run, exit: i32, code: &str, out: &Path) -> Result<String> {
    let lines: Vec<_> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    ensure!(lines.len() == 1, "one error line was expected: {run:#?}");
    ensure!(run.code == exit, "exit code {exit} was expected: {run:#?}");
    let line = lines[0].to_owned();
    ensure!(line.starts_with(&format!("error: {code} ")) && line.contains("; next: "), "{code} was expected: {line}");
    ensure!(!out.join("manifest.json").exists(), "a manifest was written");
    nothing_is_left(scene).await?;
    Ok(line)
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_verify_and_tamper() -> Result<()> {
    let (dir, scene) = small()?;
    let out = dir.path().join("out");
    let run = backup(&scene, TARGET, &out)?;
    assert_eq!(run.code, 0, "{run:#?}");
    let images = images(&out)?;
    assert_eq!(images.len(), 2);
    for (n, (_, image)) in images.iter().enumerate() {
        same(image, &scene.source(n))?;
    }
    nothing_is_left(&scene).await?;
    let manifest = out.join("manifest.json");
    assert_eq!(scene.ctl(&["verify", text(&manifest)])?.code, 0);
    // One bit, in data and in a hole.
    for at in [5 * MIB + 100, 100_000] {
        let path: &PathBuf = &images[0].1;
        let good = fs::read(path)?;
        let mut bad = good.clone();
        bad[usize::try_from(at)?] ^= 1;
        fs::write(path, &bad)?;
        let run = scene.ctl(&["verify", text(&manifest)])?;
        assert_eq!(run.code, 8, "{run:#?}");
        assert!(run.stderr.contains("HA-CTL-019"), "{run:#?}");
        fs::write(path, &good)?;
    }
    assert_eq!(scene.ctl(&["verify", text(&manifest)])?.code, 0);
    // A second backup does not silently replace the first.
    let again = backup(&scene, TARGET, &out)?;
    assert_eq!(again.code, 2, "{again:#?}");
    assert!(again.stderr.contains("HA-CTL-005"), "{again:#?}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_targets_are_refused_before_anything_is_attached() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1)], |spec| {
        spec.inventory.vms.push(vm("empty01", Vec::new()));
    })?;
    for (name, code) in [("nobody", "HA-VM-001"), ("empty01", "HA-VM-003"), ("proxy01", "HA-VM-004")] {
        let out = dir.path().join(name);
        let run = backup(&scene, name, &out)?;
        let line = fails(&scene, &run, 4, code, &out).await?;
        assert!(line.contains(name) && line.contains("cleanup: done"), "{line}");
    }
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_datastore_and_full_controllers_are_refused() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(2 * MIB, 1), Content::new(2 * MIB, 2)], |spec| {
        let at = spec.inventory.datastores[0].dir.with_file_name("ds2");
        spec.inventory.datastores.push(datastore_spec("ds2", at));
        spec.target().disks[1].path = Some("[ds2] web01/data.vmdk".into());
        spec.set("limits", "add_controllers", false);
        let proxy = spec.proxy();
        proxy.controllers.as_mut().unwrap().truncate(1);
        proxy.disks.truncate(1);
        let filler = |unit| DiskSpec {
            unit: Some(unit),
            capacity: Some(1 << 16),
            mode: Some("independent_persistent".into()),
            ..DiskSpec::default()
        };
        proxy.disks.extend((1..16).filter(|unit| *unit != 7).map(filler));
    })?;
    let out = dir.path().join("out");
    control(&scene, json!({"cmd": "datastore", "name": "ds2", "accessible": false})).await?;
    let line = fails(&scene, &backup(&scene, TARGET, &out)?, 4, "HA-PLAN-003", &out).await?;
    assert!(line.contains("ds2"), "{line}");
    control(&scene, json!({"cmd": "datastore", "name": "ds2", "accessible": true})).await?;
    let line = fails(&scene, &backup(&scene, TARGET, &out)?, 4, "HA-ATT-001", &out).await?;
    assert!(line.contains("2 disks, 0 free units"), "{line}");
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_addresses_that_do_not_fit() -> Result<()> {
    let (dir, scene) = small()?;
    let out = dir.path().join("out");
    let verb = ["backup", "--vm", TARGET, "--out", text(&out)];
    let stranger = Run::of(Run::command(&scene.url, &scene.pki, "stranger")?.args(verb))?;
    fails(&scene, &stranger, 3, "HA-CTL-008", &out).await?;
    let nobody = Run::of(Run::command("https://localhost:1", &scene.pki, "client")?.args(verb))?;
    fails(&scene, &nobody, 3, "HA-CTL-006", &out).await?;
    let mut wrong_ca = Command::new(binary("hotaddctl")?);
    wrong_ca.args(["--agent", &scene.url, "--ca", text(&scene.pki.file("vc-ca.pem"))]);
    wrong_ca.args(["--cert", text(&scene.pki.file("client.pem")), "--key", text(&scene.pki.file("client.key"))]);
    fails(&scene, &Run::of(wrong_ca.args(verb))?, 3, "HA-CTL-007", &out).await?;
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty());
    Ok(())
}

/// A small file system for images.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(at)?;
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_folder_is_refused_and_a_full_one_ends_the_job() -> Result<()> {
    let (dir, scene) = scene(&[dense(32 * MIB, 1)], |_| {})?;
    let read_only = Mount::tmpfs(&dir.path().join("ro"), "ro,size=64m")?;
    let out = read_only.0.join("out");
    fails(&scene, &backup(&scene, TARGET, &out)?, 2, "HA-CTL-004", &out).await?;
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "a snapshot for a folder that can't be written");
    let file = dir.path().join("file");
    fs::write(&file, "no folder")?;
    fails(&scene, &backup(&scene, TARGET, &file)?, 2, "HA-CTL-004", &file).await?;
    let tiny = Mount::tmpfs(&dir.path().join("tiny"), "size=8m")?;
    let out = tiny.0.join("out");
    let line = fails(&scene, &backup(&scene, TARGET, &out)?, 7, "HA-CTL-015", &out).await?;
    assert!(line.contains("cleanup: done"), "{line}");
    let left = fs::read_dir(&out).map(|dir| dir.filter_map(Result::ok).map(|e| e.file_name()).collect::<Vec<_>>());
    assert!(left.is_ok_and(|names| names.iter().all(|n| !n.to_string_lossy().ends_with(".part"))), "parts were left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_the_middle_detaches_at_once() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (dir, scene) = scene(&[dense(512 * MIB, 1)], |_| {})?;
        let out = dir.path().join("out");
        let mut command = Run::command(&scene.url, &scene.pki, "client")?;
        command.args(["backup", "--vm", TARGET, "--out", text(&out)]);
        let mut ctl = Process::start("hotaddctl", &mut command, &dir.path().join("ctl.log"))?;
        eventually("it reads", async || {
            ctl.must_live()?;
            let parts = fs::read_dir(&out).into_iter().flatten().filter_map(Result::ok);
            let mut written = parts.filter_map(|e| e.metadata().ok()).map(|m| m.blocks());
            Ok(written.any(|blocks| blocks > 0))
        })
        .await?;
        ctl.signal(signal)?;
        let status = ctl.wait(Duration::from_secs(60))?;
        let log = ctl.log_text();
        assert_eq!(status.code(), Some(130), "{log}");
        let line = log.lines().find(|line| line.contains("error: HA-CTL-017")).context(log.clone())?;
        assert!(line.contains("cleanup: done"), "{line}");
        nothing_is_left(&scene).await?;
        assert!(!out.join("manifest.json").exists());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_leaves_nothing_in_vcenter() -> Result<()> {
    let (dir, scene) = scene(&[dense(512 * MIB, 1)], |_| {})?;
    let out = dir.path().join("out");
    let mut command = Run::command(&scene.url, &scene.pki, "client")?;
    command.args(["backup", "--vm", TARGET, "--out", text(&out)]);
    let mut ctl = Process::start("hotaddctl", &mut command, &dir.path().join("ctl.log"))?;
    eventually("it is attached", async || Ok(scene.left_attached().await?.len() == 1)).await?;
    ctl.kill()?;
    crate::support::nothing_stays(&scene).await?;
    assert!(!out.join("manifest.json").exists());
    let run = backup(&scene, TARGET, &out)?;
    assert_eq!(run.code, 0, "the next run can't use the folder: {run:#?}");
    nothing_is_left(&scene).await
}
