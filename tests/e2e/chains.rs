//! Chains of backups as an operator makes them: hotaddctl against an agent, a VM that writes between the runs, and the proof
//! that what a chain holds is the disk.
use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Content, Process, Run, Scene, content::same, ctl::images, scene::TARGET};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    relay::Relay,
    support::{MIB, calls, control, dense, eventually, nothing_is_left, scene},
};

const SIZE: u64 = 16 * MIB;

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn tracked() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content { every: 2, ..Content::new(SIZE, 1) }], |spec| spec.target().change_tracking = true)
}

async fn write(scene: &Scene, offset: u64, length: u64, pattern: u8) -> Result<()> {
    let write =
        json!({"cmd": "vm_write", "vm": TARGET, "disk": "0:0", "offset": offset, "pattern": pattern, "length": length});
    control(scene, write).await.map(drop)
}

/// A backup that has to be OK; its folder's manifest.
async fn backed_up(scene: &Scene, out: &Path, more: &[&str]) -> Result<PathBuf> {
    let run = scene.ctl(&[&["backup", "--vm", TARGET, "--out", text(out)], more].concat())?;
    ensure!(run.code == 0, "{run:?}");
    nothing_is_left(scene).await?;
    Ok(out.join("manifest.json"))
}

async fn on(scene: &Scene, out: &Path, base: &Path) -> Result<PathBuf> {
    backed_up(scene, out, &["--incremental", "--base", text(base), "--seed", "5"]).await
}

fn disk(manifest: &Path) -> Result<Value> {
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest)?)?;
    Ok(manifest["disks"][0].clone())
}

fn done(run: &Run) -> Result<()> {
    ensure!(run.code == 0, "{run:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_the_disk_at_each_of_its_ends() -> Result<()> {
    let (dir, scene) = tracked()?;
    let full = backed_up(&scene, &dir.path().join("full"), &[]).await?;
    write(&scene, 3 * MIB + 5000, 512, 9).await?;
    write(&scene, 9 * MIB, MIB, 0).await?;
    let one = on(&scene, &dir.path().join("one"), &full).await?;
    let as_of_one = dir.path().join("as-of-one.raw");
    std::fs::copy(scene.source(0), &as_of_one)?;
    write(&scene, 3 * MIB + 5000, 512, 7).await?;
    write(&scene, 15 * MIB + 64, 1024, 8).await?;
    let two = on(&scene, &dir.path().join("two"), &one).await?;
    assert_eq!((&disk(&one)?["scope"], &disk(&two)?["scope"]), (&json!("changed"), &json!("changed")));
    let bytes = |manifest: &Path| -> Result<usize> { Ok(disk(manifest)?["data"].as_array().map_or(0, Vec::len)) };
    ensure!(bytes(&two)? <= 4, "two small writes: {}", bytes(&two)?);

    done(&scene.ctl(&["verify", "--chain", text(&two)])?)?;
    for (manifest, now) in [(&one, as_of_one.clone()), (&two, scene.source(0))] {
        let out = dir.path().join("whole");
        done(&scene.ctl(&["synthesize", text(manifest), "--out", text(&out)])?)?;
        let whole = out.join("manifest.json");
        done(&scene.ctl(&["verify", text(&whole)])?)?;
        same(&out.join(disk(&whole)?["file"].as_str().unwrap_or_default()), &now)?;
        std::fs::remove_dir_all(out)?;
    }
    // One byte of what only the base has.
    let image = dir.path().join("full").join(disk(&full)?["file"].as_str().unwrap_or_default());
    let mut bytes = std::fs::read(&image)?;
    bytes[usize::try_from(MIB)? / 2] ^= 1;
    std::fs::write(&image, bytes)?;
    let damaged = scene.ctl(&["verify", "--chain", text(&two)])?;
    ensure!(damaged.code != 0, "a damaged base passed: {damaged:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_misses_a_write_is_found_by_the_base_and_the_disk_is_read_whole() -> Result<()> {
    let (dir, scene) = tracked()?;
    let full = backed_up(&scene, &dir.path().join("full"), &[]).await?;
    // Every block is known to the client of so small a disk, so that one that is missing is surely looked at.
    write(&scene, 6 * MIB, MIB, 9).await?;
    control(&scene, json!({"cmd": "areas", "lie": "miss", "offset": 6 * MIB, "length": MIB})).await?;
    let one = on(&scene, &dir.path().join("one"), &full).await?;
    assert_eq!(disk(&one)?["scope"], json!("whole"), "{}", disk(&one)?["wider"]);
    same(&dir.path().join("one").join(disk(&one)?["file"].as_str().unwrap_or_default()), &scene.source(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allocated_backup_stands_alone_and_can_be_built_upon() -> Result<()> {
    let (dir, scene) = tracked()?;
    let full = backed_up(&scene, &dir.path().join("full"), &["--allocated"]).await?;
    assert_eq!(disk(&full)?["scope"], json!("allocated"));
    done(&scene.ctl(&["verify", text(&full)])?)?;
    same(&dir.path().join("full").join(disk(&full)?["file"].as_str().unwrap_or_default()), &scene.source(0))?;
    write(&scene, MIB, 4096, 3).await?;
    let one = on(&scene, &dir.path().join("one"), &full).await?;
    done(&scene.ctl(&["verify", "--chain", text(&one)])?)
}

/// A job that broke with one disk opened and one not: the first goes on by ranges, the other is asked for by its base.
#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_that_broke_between_its_disks_is_resumed() -> Result<()> {
    // Too large for what lies between the agent and a client that takes nothing; little of it has to be in the base.
    let (large, small) = (Content { every: 64, ..Content::new(384 * MIB, 1) }, Content::new(SIZE, 2));
    let (dir, mut scene) = scene(&[large, small], |spec| {
        spec.target().change_tracking = true;
        spec.set("limits", "parallel_reads", 1);
    })?;
    let full = backed_up(&scene, &dir.path().join("full"), &[]).await?;
    write(&scene, 0, 384 * MIB, 9).await?;
    let other =
        json!({"cmd": "vm_write", "vm": TARGET, "disk": "0:1", "offset": 5 * MIB, "pattern": 7, "length": 4096});
    control(&scene, other).await?;

    let relay = Relay::start(&scene).await?;
    let out = dir.path().join("one");
    let mut command = Run::command(&relay.url, &scene.pki, "client")?;
    command.args(["--json", "backup", "--vm", TARGET, "--incremental", "--base", text(&full), "--seed", "5"]);
    command.args(["--resume-for", "120", "--out", text(&out)]);
    let mut ctl = Process::start("hotaddctl", &mut command, &dir.path().join("ctl.log"))?;
    // Some of the first disk has come: else all of it is asked for again.
    let came = || std::fs::read_dir(&out).into_iter().flatten().flatten().filter(is_part).any(|part| is_filled(&part));
    eventually("some of the first disk has come", async || Ok(came())).await?;
    ctl.signal(Signal::SIGSTOP)?;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    relay.follow(&scene)?;
    ctl.signal(Signal::SIGCONT)?;
    let status = ctl.wait(Duration::from_secs(120))?;
    let log = ctl.log_text();
    ensure!(status.success() && log.contains("\"event\":\"resume\""), "{status}: {log}");

    let opened = opened(&log);
    let keys: Vec<i64> = opened.iter().filter_map(|event| event["disk"]["device_key"].as_i64()).collect();
    assert_eq!(keys, [2000, 2000, 2001], "broken within the first, before the second: {log}");
    let due = |n: usize| opened[n]["bytes_required"].as_u64();
    ensure!(due(1) < due(0), "the first disk was not asked for by its ranges: {log}");
    let one = out.join("manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(&one)?)?;
    let disks = manifest["disks"].as_array().context("no disks")?;
    let told: Vec<_> = disks.iter().map(|disk| (&disk["device_key"], &disk["scope"])).collect();
    assert_eq!(told, [(&json!(2000), &json!("changed")), (&json!(2001), &json!("changed"))]);
    ensure!(disks[1]["data"].as_array().is_some_and(|data| data.len() <= 2), "one small write: {}", disks[1]["data"]);
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), 2, "the full and the incremental, all of one snapshot");
    nothing_is_left(&scene).await?;

    done(&scene.ctl(&["verify", "--chain", text(&one)])?)?;
    let whole = dir.path().join("whole");
    done(&scene.ctl(&["synthesize", text(&one), "--out", text(&whole)])?)?;
    let found = images(&whole)?;
    assert_eq!(found.len(), 2);
    found.iter().enumerate().try_for_each(|(n, (_, image))| same(image, &scene.source(n)))
}

/// The `opened` events of a log.
fn opened(log: &str) -> Vec<Value> {
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == "opened").collect()
}

/// Stopped in the middle, they leave nothing and say so by their exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_leaves_nothing_of_an_export_or_a_synthesis() -> Result<()> {
    let (dir, scene) = scene(&[dense(256 * MIB, 3)], |_| {})?;
    let full = backed_up(&scene, &dir.path().join("full"), &[]).await?;
    let (ova, whole) = (dir.path().join("a.ova"), dir.path().join("whole"));
    for (name, option, target, folder) in
        [("export", "--ova", &ova, dir.path()), ("synthesize", "--out", &whole, &whole)]
    {
        let parts = || std::fs::read_dir(folder).into_iter().flatten().flatten().filter(is_part).count();
        let mut command = Run::command(&scene.url, &scene.pki, "client")?;
        command.args([name, text(&full), option, text(target)]);
        let mut ctl = Process::start(name, &mut command, &dir.path().join(format!("{name}.log")))?;
        while parts() == 0 {
            ctl.must_live()?;
            std::thread::yield_now();
        }
        ctl.signal(Signal::SIGINT)?;
        let status = ctl.wait(Duration::from_secs(60))?;
        let log = ctl.log_text();
        ensure!(status.code() == Some(130) && log.contains("HA-CTL-017"), "{name}: {status}: {log}");
        assert_eq!(parts(), 0, "{name}");
        ensure!(!ova.exists() && !whole.join("manifest.json").exists(), "{name} ended all the same");
    }
    Ok(())
}

/// Several blocks of it are written.
fn is_filled(entry: &std::fs::DirEntry) -> bool {
    entry.metadata().is_ok_and(|file| file.blocks() * 512 > 4 * MIB)
}

fn is_part(entry: &std::fs::DirEntry) -> bool {
    entry.path().extension().is_some_and(|extension| extension == "part")
}
