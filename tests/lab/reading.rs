//! Disks that fail or vanish while they are read.
use anyhow::{Context as _, Result};
use hotadd_api::v1::{Cleanup, JobState};
use serde_json::json;

use crate::support::{MIB, codes, contents, finish, first_frame, key, lab, nothing_is_left, path_of, start_job};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_sector_is_named_and_the_other_disk_goes_on() -> Result<()> {
    const BAD: u64 = 5 * MIB / 512 + 3;
    let Some((_dir, lab)) = lab(&contents(2, 8 * MIB), |_| {}, &[])? else { return Ok(()) };
    let fault = json!({"cmd": "disk_fault", "path": path_of(&lab, 0).await?, "eio_sector": BAD});
    lab.control().await?.call(fault).await?;
    let (read, result) = finish(start_job(&lab, false).await?).await?;
    let of = |k: i32| read.iter().find(move |disk| key(disk) == k);
    let bad = of(2000).context("disk 2000")?;
    assert!(!bad.ok);
    assert_eq!(codes(bad), ["HA-RD-001"], "{bad:?}");
    assert!(bad.reasons[0].message.contains(&format!("LBA {BAD} ")), "{bad:?}");
    assert!(of(2001).context("disk 2001")?.ok);
    assert_eq!(result.state(), JobState::Failed);
    assert_eq!(result.cleanup(), Cleanup::Done);
    nothing_is_left(&lab).await
}

/// A removed disk answers reads with a clean end of file.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_pulled_is_an_error_never_a_short_success() -> Result<()> {
    let Some((_dir, lab)) = lab(&contents(1, 64 * MIB), |_| {}, &[])? else { return Ok(()) };
    let mut control = lab.control().await?;
    control.call(json!({"cmd": "disk_fault", "path": path_of(&lab, 0).await?, "bps": 8 * MIB})).await?;
    let mut stream = start_job(&lab, false).await?;
    first_frame(&mut stream).await?;
    let devices = control.devices().await?;
    let pulled = devices.iter().find(|d| d["size_bytes"] == 64 * MIB).context("the disk in the backend")?;
    control.call(json!({"cmd": "device_remove", "id": pulled["id"]})).await?;
    let (read, result) = finish(stream).await?;
    assert_eq!(read.len(), 1);
    assert!(!read[0].ok, "{read:?}");
    assert_eq!(codes(&read[0]), ["HA-RD-002"], "{read:?}");
    assert_eq!(result.state(), JobState::Failed);
    assert_eq!(result.cleanup(), Cleanup::Done);
    nothing_is_left(&lab).await
}
