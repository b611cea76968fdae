//! The udev rule that names the appliance's own system disk, by its address and made at each boot: neither a clone's identifiers nor
//! another numbering of PCI can turn the system disk into a foreign one. The anchors hold nothing and stay in quarantine.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Device number "8:1" of what is mounted at /, out of mountinfo (proc(5)). The last one counts: it covers the others.
#[must_use]
pub fn root_device(mountinfo: &str) -> Option<&str> {
    let mounts = mountinfo.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>());
    mounts.into_iter().find(|fields| fields.get(4) == Some(&"/")).and_then(|fields| fields.get(2).copied())
}

/// The rule for a device path such as `/sys/devices/…/0000:03:00.0/host0/target0:0:0/0:0:0:0/block/sda/sda1`.
#[must_use]
pub fn rule(device: &str) -> Option<String> {
    let parts: Vec<&str> = device.split('/').collect();
    let host = parts.iter().position(|part| numbered(part, "host"))?;
    let function = parts.get(host.checked_sub(1)?).filter(|part| is_function(part))?;
    let target = parts.get(host + 1)?.strip_prefix("target")?;
    let (_, address) = target.split_once(':').filter(|(_, rest)| rest.split(':').all(is_number))?;
    parts.iter().position(|part| *part == "block").filter(|at| *at > host)?;
    Some(format!(
        "# Made at each boot by hotadd-firstboot: the disk that holds the root file system.\n\
         DEVPATH==\"*/{function}/host*/target*:{address}/*\", ENV{{HOTADD_OWN}}=\"1\"\n\
         ENV{{HOTADD_OWN_DISKS}}=\"known\"\n"
    ))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn numbered(part: &str, name: &str) -> bool {
    part.strip_prefix(name).is_some_and(is_number)
}

/// `0000:03:00.0`
fn is_function(part: &str) -> bool {
    part.len() == 12 && part.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
}

/// Device path of what is mounted at /.
///
/// # Errors
/// What can't be read.
pub fn root(proc: &Path, sys: &Path) -> io::Result<PathBuf> {
    let mounts = fs::read_to_string(proc.join("self/mountinfo"))?;
    let number = root_device(&mounts).ok_or_else(|| io::Error::other("nothing is mounted at /"))?;
    fs::canonicalize(sys.join("dev/block").join(number))
}

/// Writes it. Without a SCSI disk under / nothing is written: then the quarantine does nothing and the agent refuses every disk.
///
/// # Errors
/// What can't be read or written.
pub fn write(device: &Path, out: &Path) -> io::Result<()> {
    let text = rule(&device.to_string_lossy()).ok_or_else(|| io::Error::other("/ is on no SCSI disk"))?;
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(out, text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DISK: &str = "/sys/devices/pci0000:00/0000:00:15.0/0000:03:00.0/host0/target0:0:0/0:0:0:0/block/sda/sda1";

    #[test]
    fn the_rule_names_the_place_and_nothing_else() {
        let rule = rule(DISK).unwrap();
        assert!(rule.contains(r#"DEVPATH=="*/0000:03:00.0/host*/target*:0:0/*", ENV{HOTADD_OWN}="1""#), "{rule}");
        assert!(rule.ends_with("ENV{HOTADD_OWN_DISKS}=\"known\"\n"));
    }

    #[test]
    fn what_is_no_scsi_disk_gets_no_rule() {
        for path in [
            "/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda/vda1",
            "/sys/devices/virtual/block/dm-0",
            "/sys/devices/pci0000:00/host0/target0:0:0/0:0:0:0/block/sda",
            "/sys/devices/pci0000:00/0000:03:00.0/host0/target0:0:\"x/0:0:0:0/block/sda",
            "",
        ] {
            assert_eq!(rule(path), None, "{path}");
        }
    }

    #[test]
    fn the_mount_on_top_is_the_root() {
        let mounts = "1 1 0:2 / / rw - rootfs rootfs rw\n22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
                      23 22 8:17 / /mnt rw - ext4 /dev/sdb1 rw\n";
        assert_eq!(root_device(mounts), Some("8:1"));
        assert_eq!(root_device(""), None);
    }
}
