//! SCSI disks and their partitions as udev and the kernel show them now: whoever is not the proxy's own is in quarantine,
//! read-only, held by nobody, and no link was made from its contents.
use std::{fs, io, path::Path};

use super::Finding;
use crate::reason;

/// Folders of links that udev makes from contents.
const LINKS: [&str; 4] = ["by-uuid", "by-label", "by-partuuid", "by-partlabel"];

/// One disk or partition. Each flag is a fact of its own, read from its own place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "what udev and the kernel say, one fact each")]
pub struct Block {
    pub name: String,
    /// udev has run its rules for it.
    pub initialized: bool,
    /// The rules knew which disks are own ones.
    pub own_known: bool,
    pub own: bool,
    pub quarantined: bool,
    pub read_only: bool,
    /// What is made of it: device-mapper, md.
    pub holders: Vec<String>,
    /// Links from its contents.
    pub links: Vec<String>,
}

/// All of this system; `root` is the folder that holds `dev` and `sys`.
///
/// # Errors
/// Of the enumeration.
pub fn scan(root: &Path) -> io::Result<Vec<Block>> {
    let mut enumerator = udev::Enumerator::new()?;
    enumerator.match_subsystem("block")?;
    enumerator.match_sysname("sd*")?;
    Ok(enumerator.scan_devices()?.map(|device| block(root, &device)).collect())
}

fn block(root: &Path, device: &udev::Device) -> Block {
    let name = device.sysname().to_string_lossy().into_owned();
    let says = |property: &str, value: &str| device.property_value(property).is_some_and(|found| found == value);
    let path = device.syspath();
    let holders = fs::read_dir(path.join("holders")).into_iter().flatten();
    Block {
        initialized: device.is_initialized(),
        own_known: says("HOTADD_OWN_DISKS", "known"),
        own: says("HOTADD_OWN", "1"),
        quarantined: says("HOTADD_QUARANTINE", "1"),
        read_only: fs::read_to_string(path.join("ro")).is_ok_and(|ro| ro.trim() == "1"),
        holders: holders.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
        links: links(root, &name),
        name,
    }
}

/// Links from contents that lead to the node `name`.
fn links(root: &Path, name: &str) -> Vec<String> {
    let folders = LINKS.iter().filter_map(|folder| fs::read_dir(root.join("dev/disk").join(folder)).ok());
    let leads = |path: &Path| fs::read_link(path).is_ok_and(|to| to.file_name().is_some_and(|file| file == name));
    folders
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| leads(path))
        .map(|path| path.display().to_string())
        .collect()
}

/// What is wrong with them. `named`: a file says which disks are own.
#[must_use]
pub fn judge(blocks: &[Block], named: bool) -> Vec<Finding> {
    let strangers: Vec<&str> =
        blocks.iter().filter(|block| block.initialized && !block.own_known).map(|block| block.name.as_str()).collect();
    if !named {
        return vec![Finding::new(
            &reason::QUA_OWN,
            "00-hotadd-own-disks.rules is not installed, or does not say \"known\"",
        )];
    }
    let mut found = Vec::new();
    if !strangers.is_empty() {
        let what = format!(
            "udev handled {} before the own disks were named; `udevadm trigger` repeats it",
            strangers.join(", ")
        );
        found.push(Finding::new(&reason::QUA_OWN, what));
    }
    let foreign = blocks.iter().filter(|block| !block.own && (block.own_known || !block.initialized));
    found.extend(foreign.filter_map(|block| {
        let faults = faults(block);
        (!faults.is_empty()).then(|| Finding::new(&reason::QUA_DISK, format!("{}: {}", block.name, faults.join(", "))))
    }));
    found
}

/// What a disk in quarantine must not show; words of a message.
pub(crate) fn faults(block: &Block) -> Vec<String> {
    if !block.initialized {
        return vec!["udev has not handled it".to_owned()];
    }
    let mut faults = Vec::new();
    if !block.quarantined {
        faults.push("not in quarantine".to_owned());
    }
    if !block.read_only {
        faults.push("writable".to_owned());
    }
    if !block.holders.is_empty() {
        faults.push(format!("held by {}", block.holders.join(" and ")));
    }
    if !block.links.is_empty() {
        faults.push(format!("linked as {}", block.links.join(" and ")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(name: &str) -> Block {
        Block {
            name: name.into(),
            initialized: true,
            own_known: true,
            quarantined: true,
            read_only: true,
            ..Block::default()
        }
    }

    fn said(blocks: &[Block]) -> String {
        judge(blocks, true).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn own_disks_may_be_anything_and_foreign_ones_in_quarantine_are_well() {
        let own = Block {
            own: true,
            quarantined: false,
            read_only: false,
            holders: vec!["dm-0".into()],
            links: vec!["/dev/disk/by-uuid/1".into()],
            ..foreign("sda1")
        };
        assert_eq!(judge(&[own, foreign("sdb")], true), []);
        assert_eq!(judge(&[], true), []);
    }

    #[test]
    fn each_fault_is_told_with_its_disk() {
        let spoilt: [(Block, &str); 5] = [
            (Block { quarantined: false, ..foreign("sdb") }, "HA-QUA-004 sdb: not in quarantine"),
            (Block { read_only: false, ..foreign("sdb1") }, "HA-QUA-004 sdb1: writable"),
            (Block { holders: vec!["md127".into()], ..foreign("sdb") }, "HA-QUA-004 sdb: held by md127"),
            (Block { links: vec!["/dev/disk/by-label/x".into()], ..foreign("sdb") }, "linked as /dev/disk/by-label/x"),
            (Block { initialized: false, own_known: false, ..foreign("sdb") }, "sdb: udev has not handled it"),
        ];
        for (block, what) in spoilt {
            assert!(said(std::slice::from_ref(&block)).contains(what), "{what}: {}", said(&[block]));
        }
    }

    #[test]
    fn without_named_own_disks_that_alone_is_told() {
        let block = Block { own_known: false, quarantined: false, read_only: false, ..foreign("sda") };
        let found = judge(std::slice::from_ref(&block), false);
        assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), ["HA-QUA-003"]);
        assert!(said(&[block]).starts_with("HA-QUA-003 udev handled sda before"), "named too late");
    }

    #[test]
    fn links_are_found_by_where_they_lead() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("dev/disk/by-label");
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink("../../sdb1", folder.join("data")).unwrap();
        assert_eq!(links(root.path(), "sdb1"), [folder.join("data").display().to_string()]);
        assert!(links(root.path(), "sdb").is_empty());
    }
}
