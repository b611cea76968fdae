//! Devices that are nearly the right one.
use anyhow::Result;
use serde_json::json;

use crate::support::{MIB, codes, contents, finish, key, lab, nothing_is_left, path_of, start_job};

#[tokio::test(flavor = "multi_thread")]
async fn nearly_right_devices_are_refused_and_the_right_one_is_read() -> Result<()> {
    let Some((_dir, lab)) = lab(&contents(6, 2 * MIB), |_| {}, &[])? else { return Ok(()) };
    let mut control = lab.control().await?;
    let uuid = |disks: &[vcenter_sim::control::AttachedDisk], n: usize| disks[n].uuid.clone().unwrap_or_default();
    let disks = control.attached(hotadd_harness::scene::TARGET).await?;
    // Same size, another UUID.
    let other =
        json!({"cmd": "attach_as", "path": path_of(&lab, 0).await?, "uuid": "6000c29f-0000-0000-0000-00000000aaaa"});
    // The first eight bytes agree: all that stock QEMU shows on page 0x83.
    let mut prefix = uuid(&disks, 1).replace('-', "");
    prefix.replace_range(16.., "ffffffffffffffff");
    let prefix = json!({"cmd": "attach_as", "path": path_of(&lab, 1).await?, "uuid": prefix});
    let size = json!({"cmd": "attach_as", "path": path_of(&lab, 2).await?, "size": 3 * MIB});
    // The right UUID and size in a slot that vCenter did not name.
    let slot = json!({"cmd": "attach_as", "path": path_of(&lab, 3).await?, "bus": 3, "unit": 14});
    let none = json!({"cmd": "attach_as", "path": path_of(&lab, 4).await?, "uuid": null});
    for decoy in [other, prefix, size, slot, none] {
        control.call(decoy).await?;
    }
    let (read, result) = finish(start_job(&lab, true).await?).await?;
    assert_eq!(read.iter().map(key).collect::<Vec<_>>(), [2005], "{result:#?}");
    for disk in result.disks.iter().filter(|disk| !disk.ok) {
        let expected = if key(disk) == 2003 { "HA-DSC-001" } else { "HA-DSC-002" };
        assert_eq!(codes(disk), [expected], "{disk:?}");
    }
    assert_eq!(result.disks.len(), 6);
    nothing_is_left(&lab).await
}
