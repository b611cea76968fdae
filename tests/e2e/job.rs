//! The main job: BackupVm from snapshot to proof.
use anyhow::Result;
use hotadd_api::v1::{Cleanup, JobState};
use hotadd_harness::{Content, scene::TARGET};

use crate::support::{MIB, backup, images_equal_sources, nothing_is_left, request, scene};

#[tokio::test(flavor = "multi_thread")]
async fn one_disk_is_delivered_byte_for_byte_and_detached() -> Result<()> {
    let (dir, scene) = scene(&[Content::new(9 * MIB + 512, 1)], |_| {})?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!(result.state(), JobState::Ok, "{result:#?}");
    assert_eq!(result.cleanup(), Cleanup::Done);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}
