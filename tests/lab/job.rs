//! The main job on a real kernel.
use anyhow::Result;
use hotadd_harness::{Content, content::same, ctl::images, scene::TARGET};

use crate::support::{MIB, lab, nothing_is_left};

#[tokio::test(flavor = "multi_thread")]
async fn two_disks_are_hot_added_proven_read_and_detached() -> Result<()> {
    let Some((dir, lab)) = lab(&[Content::new(16 * MIB, 1), Content::new(8 * MIB, 2)], |_| {}, &[])? else {
        return Ok(());
    };
    let out = dir.path().join("out");
    let run = lab.ctl(&["--json", "backup", "--vm", TARGET, "--out", &out.display().to_string()])?;
    assert_eq!(run.code, 0, "{}\n{}\n{}", run.stderr, run.stdout, lab.journal()?);
    let images = images(&out)?;
    assert_eq!(images.len(), 2);
    for (n, (_, image)) in images.iter().enumerate() {
        same(image, &lab.source(n))?;
    }
    nothing_is_left(&lab).await
}
