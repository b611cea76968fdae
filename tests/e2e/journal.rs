//! The journal's file under the agent: torn, damaged, full.
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{JobState, OpenDisksRequest};
use hotadd_harness::{Content, Scene, Spec, scene::TARGET};

use crate::support::{
    MIB, Running, Seen, backup, calls, codes, dense, disks, nothing_is_left, refused, request, scene,
};

fn journal(scene: &Scene) -> PathBuf {
    scene.dir.join("state/journal")
}

/// A scene whose agent was killed while it read.
async fn killed() -> Result<(tempfile::TempDir, Scene)> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1)], |spec| spec.set("deadlines", "doubt_seconds", 1))?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    scene.take_agent()?.kill()?;
    assert_eq!(scene.left_attached().await?.len(), 1);
    Ok((dir, scene))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_record_is_cut_and_the_rest_settled() -> Result<()> {
    let (_dir, mut scene) = killed().await?;
    let mut file = std::fs::File::options().append(true).open(journal(&scene))?;
    file.write_all(&[200, 0, 0, 0, 1, 2, 3, 4, 1, b'{', b'"'])?;
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    let log = scene.agent()?.log_text();
    assert!(log.contains("torn record"), "the cut was not said");
    Ok(())
}

/// The last record (the attach is confirmed) did not make it to the disk: the intent alone must do.
#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_intent_is_enough_to_find_the_disk() -> Result<()> {
    let (_dir, mut scene) = killed().await?;
    let file = std::fs::File::options().write(true).open(journal(&scene))?;
    file.set_len(file.metadata()?.len() - 7)?;
    drop(file);
    scene.start_agent()?;
    nothing_is_left(&scene).await
}

/// Damage in the middle may hide a duty. What no record names is reported and not touched: nothing proves it ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_kept_aside_and_strangers_are_told() -> Result<()> {
    let (_dir, mut scene) = killed().await?;
    let path = journal(&scene);
    let mut bytes = std::fs::read(&path)?;
    let needle = b"\"slot\"";
    let at = bytes.windows(needle.len()).position(|w| w == needle).context("no attach in the journal")?;
    bytes[at + 2] ^= 0x20;
    std::fs::write(&path, &bytes)?;
    scene.start_agent()?;
    let log = scene.agent()?.log_text();
    assert!(log.contains("the journal was damaged"), "{log}");
    assert!(log.contains("an attached disk that no journal record names"), "{log}");
    let aside = std::fs::read_dir(path.parent().context("parent")?)?.filter_map(Result::ok);
    assert!(aside.filter(|e| std::fs::read(e.path()).is_ok_and(|b| b == bytes)).count() >= 1, "no copy was kept");
    assert_eq!(scene.left_attached().await?.len(), 1);
    assert_eq!(scene.snapshots().await?.len(), 1, "a snapshot was removed under a disk that is still attached");
    Ok(())
}

/// A small file system of its own for the state directory; unmounted after the agent has ended.
struct Full {
    at: PathBuf,
}

impl Full {
    fn mount(at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(at).status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self { at: at.to_owned() })
    }

    /// Takes all space that is left.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.at.join("filler"))?;
        for size in [4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.at.join("filler"))?)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.at).status());
    }
}

/// A valid record of exactly `length` bytes, frame included.
fn padding(length: usize) -> Vec<u8> {
    let text = |n: usize| format!("{{\"record\":\"started\",\"at\":\"{}\",\"version\":\"\"}}", "x".repeat(n));
    let payload = text(length - 9 - text(0).len());
    let mut checked = vec![1_u8];
    checked.extend(payload.as_bytes());
    let mut frame = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    frame.extend(crc32c::crc32c(&checked).to_le_bytes());
    frame.extend(checked);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_attached_that_can_not_be_journalled() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let full = Full::mount(&dir.path().join("state"))?;
    let mut scene = Scene::start(dir.path(), Spec::new(dir.path(), &[Content::new(2 * MIB, 1)], 2))?;
    // Pad the journal so that the next start's own record ends at a page's end: no slack for anything else.
    scene.take_agent()?.stop()?;
    let length = usize::try_from(std::fs::metadata(journal(&scene))?.len())?;
    let started = length - 4;
    let pad = 8192 - (length + started);
    std::fs::File::options().append(true).open(journal(&scene))?.write_all(&padding(pad))?;
    full.fill()?;
    scene.start_agent()?;
    assert_eq!(std::fs::metadata(journal(&scene))?.len() % 4096, 0, "the padding is wrong; nothing is tested");

    for _ in 0..2 {
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        assert_eq!(codes(delivered.result()?), ["HA-DUT-002"], "{:#?}", delivered.result);
    }
    let open = OpenDisksRequest { vm: TARGET.into(), ..OpenDisksRequest::default() };
    refused(disks(&scene).await?.open_disks(open).await, "HA-DUT-002")?;
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty(), "a snapshot without a record");
    assert!(calls(&scene, "ReconfigVM_Task").await?.is_empty(), "an attach without a record");
    nothing_is_left(&scene).await?;

    // No restart: the journal starts a new file from what is durable.
    full.free()?;
    assert_eq!(backup(&scene, request(TARGET), dir.path()).await?.result()?.state(), JobState::Ok);
    nothing_is_left(&scene).await?;
    drop(scene);
    Ok(())
}
