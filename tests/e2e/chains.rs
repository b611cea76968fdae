//! Chains of backups as an operator makes them: hotaddctl against an agent, a VM that writes between the runs, and the proof
//! that what a chain holds is the disk.
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use hotadd_harness::{Content, Run, Scene, content::same, scene::TARGET};
use serde_json::{Value, json};

use crate::support::{MIB, control, nothing_is_left, scene};

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
