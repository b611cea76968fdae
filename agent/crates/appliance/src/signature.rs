//! The signature of the system disk (MBR, bytes 440 to 443), from which GRUB tells the kernel its root. All deployments begin with that of the
//! image: an appliance to which another one's disk is attached would have two disks of one signature, so each gets its own, once.
use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};

const SECTOR: usize = 512;
const PLACE: std::ops::Range<usize> = 440..444;

/// The whole disk's node for a partition's device path such as `/sys/devices/…/block/sda/sda1`.
#[must_use]
pub fn disk_of(device: &Path, dev: &Path) -> Option<PathBuf> {
    let mut names = device.components().skip_while(|part| part.as_os_str() != "block").skip(1);
    let (disk, _partition) = (names.next()?, names.next()?);
    Some(dev.join(disk))
}

/// Gives the disk another signature: one sector, written as a whole, so that a power cut leaves the old or the new one.
///
/// # Errors
/// A disk without a boot sector, or one that can't be written.
pub fn renew(disk: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let mut sector = [0; SECTOR];
    file.read_exact_at(&mut sector, 0)?;
    if sector[SECTOR - 2..] != [0x55, 0xaa] {
        return Err(io::Error::other("no boot sector"));
    }
    SystemRandom::new().fill(&mut sector[PLACE]).map_err(|_| io::Error::other("no random numbers"))?;
    file.write_all_at(&sector, 0)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_signature_changes() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let mut before = vec![7; 4 * SECTOR];
        before[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&disk, &before).unwrap();
        renew(&disk).unwrap();
        let mut after = fs::read(&disk).unwrap();
        assert_ne!(after[PLACE], before[PLACE]);
        after[PLACE].copy_from_slice(&before[PLACE]);
        assert_eq!(after, before);
    }

    #[test]
    fn what_is_no_boot_sector_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        fs::write(&disk, [7; SECTOR]).unwrap();
        assert!(renew(&disk).is_err());
        assert_eq!(fs::read(&disk).unwrap(), [7; SECTOR]);
    }

    #[test]
    fn the_disk_is_found_from_its_partition() {
        let device = Path::new("/sys/devices/pci0000:00/0000:03:00.0/host0/target0:0:0/0:0:0:0/block/sda/sda1");
        assert_eq!(disk_of(device, Path::new("/dev")), Some("/dev/sda".into()));
        assert_eq!(disk_of(Path::new("/sys/devices/virtual/block/dm-0"), Path::new("/dev")), None);
    }
}
