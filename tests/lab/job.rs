//! The main job on a real kernel, and what proves that its proofs can fail.
use anyhow::{Context as _, Result};
use hotadd_api::v1::{CloseDisksRequest, OpenDisksRequest};
use hotadd_harness::{Content, content::hash, scene::TARGET};

use crate::support::{MIB, backup, images_equal_sources, lab, nothing_is_attached, nothing_is_left, sessions};

#[tokio::test(flavor = "multi_thread")]
async fn disks_with_awkward_names_are_hot_added_proven_read_and_detached() -> Result<()> {
    let name = |n: u32| Some(format!("[ds1] wëb %25 %2f %5c & <{n}> [x] '\"/di sk#{n}.vmdk"));
    let awkward = |spec: &mut hotadd_harness::Spec| {
        for (n, disk) in (0..).zip(&mut spec.target().disks) {
            disk.path = name(n);
        }
    };
    let Some((dir, lab)) = lab(&[Content::new(16 * MIB, 1), Content::new(8 * MIB, 2)], awkward, &[])? else {
        return Ok(());
    };
    let out = dir.path().join("out");
    let run = backup(&lab, &out, &[])?;
    assert_eq!(run.code, 0, "{}\n{}\n{}", run.stderr, run.stdout, lab.journal()?);
    assert_eq!(images_equal_sources(&lab, &out)?, 2);
    nothing_is_left(&lab).await
}

/// The count of guest writes is not always 0: somebody in the guest who lifts the read-only flag and writes is seen,
/// and even then the customer's disk does not change.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_the_guest_is_counted_and_never_reaches_the_source() -> Result<()> {
    let Some((_dir, lab)) = lab(&[Content::new(8 * MIB, 1)], |_| {}, &[])? else { return Ok(()) };
    let before = hash(&lab.source(0))?;
    let mut client = sessions(&lab).await?;
    let request = OpenDisksRequest { vm: TARGET.into(), ..OpenDisksRequest::default() };
    let session = client.open_disks(request).await?.into_inner();
    let find = format!("for d in /sys/block/sd*; do [ $(cat $d/size) = {} ] && basename $d; done", 8 * MIB / 512);
    let device = lab.guest.sh(&find)?.trim().to_owned();
    assert!(!device.is_empty(), "the disk is in the guest");
    let refused = lab.guest.try_sh(&format!("dd if=/dev/zero of=/dev/{device} bs=4096 count=1 oflag=direct"))?;
    assert_ne!(refused.code, 0, "the device is read-only");
    lab.guest.sh(&format!(
        "blockdev --setrw /dev/{device} && dd if=/dev/urandom of=/dev/{device} bs=4096 count=4 oflag=direct"
    ))?;
    client.close_disks(CloseDisksRequest { session_id: session.session_id }).await?;
    let writes = lab.control().await?.guest_writes().await.context("guest_writes")?;
    assert!(writes > 0, "the write was counted");
    assert_eq!(hash(&lab.source(0))?, before);
    nothing_is_attached(&lab).await
}
