//! Many disks: every unit of four controllers, a locked one among them, and more at once than the driver can hear of.
use anyhow::Result;
use hotadd_api::v1::JobState;

use crate::support::{
    MIB, backup, codes, contents, finish, images_equal_sources, lab, nothing_is_left, path_of, start_job,
};

/// Units 0–15 less 7 and the anchor: 14 on each of four controllers. The kernel finds the controllers in another order
/// than vCenter numbers them.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_six_disks_fill_four_controllers_in_shuffled_order() -> Result<()> {
    let Some((dir, lab)) = lab(&contents(56, MIB), |_| {}, &["--order", "2,0,3,1"])? else { return Ok(()) };
    let locked = path_of(&lab, 5).await?;
    lab.control().await?.locked(&locked, true).await?;
    let fourteen: Vec<String> = (0..14).flat_map(|n| ["--disk".to_owned(), (2000 + n).to_string()]).collect();
    let mut args: Vec<&str> = fourteen.iter().map(String::as_str).collect();
    args.push("--allow-partial");
    let out = dir.path().join("fourteen");
    let run = backup(&lab, &out, &args)?;
    assert_eq!(run.code, 10, "one of 14 is locked: {}\n{}", run.stderr, lab.journal()?);
    assert!(run.stdout.contains("HA-ATT-002"), "{}", run.stdout);
    assert_eq!(images_equal_sources(&lab, &out)?, 13);
    nothing_is_left(&lab).await?;

    lab.control().await?.locked(&locked, false).await?;
    let out = dir.path().join("all");
    let run = backup(&lab, &out, &[])?;
    assert_eq!(run.code, 0, "{}\n{}", run.stderr, lab.journal()?);
    assert_eq!(images_equal_sources(&lab, &out)?, 56);
    nothing_is_left(&lab).await
}

/// 40 at once on one controller overflow vmw_pvscsi's message ring: some additions are lost without a word. What a scan
/// can find is found, what it can't is named, and everything is detached.
#[tokio::test(flavor = "multi_thread")]
async fn lost_additions_are_found_by_scan_or_named() -> Result<()> {
    let one_controller = |spec: &mut hotadd_harness::Spec| {
        let proxy = spec.proxy();
        proxy.hardware_version = 19;
        proxy.disks.truncate(1);
        proxy.controllers.iter_mut().for_each(|controllers| controllers.truncate(1));
        spec.agent_toml = spec.agent_toml.replace("[limits]", "[limits]\nattach_batch = 60");
    };
    let Some((_dir, lab)) = lab(&contents(40, MIB), one_controller, &["--controllers", "1"])? else { return Ok(()) };
    let (read, result) = finish(start_job(&lab, true).await?).await?;
    let (ok, missing): (Vec<_>, Vec<_>) = result.disks.iter().partition(|disk| disk.ok);
    assert_eq!(ok.len() + missing.len(), 40);
    assert_eq!(read.len(), ok.len());
    assert!(ok.len() >= 15, "units below 16 can be scanned: {}", ok.len());
    for disk in &missing {
        assert_eq!(codes(disk), ["HA-DSC-001"], "{disk:?}");
    }
    assert_eq!(result.state(), JobState::Ok, "{:?}", result.reasons);
    println!("{} found, {} named as missing", ok.len(), missing.len());
    nothing_is_left(&lab).await
}
