//! SCSI hosts, block devices as udev's database has them, and disks as the agent itself sees them. No disk is opened.
use std::{fs, io};

use super::{Got, bound};
use crate::discover::Platform;

/// Properties that the kernel, systemd's rules and ours set; a site's own rule may put anything into another.
const PROPERTIES: [&str; 13] = [
    "ID_",
    "DEV",
    "MAJOR",
    "MINOR",
    "SUBSYSTEM",
    "DISKSEQ",
    "PARTN",
    "TAGS",
    "CURRENT_TAGS",
    "USEC_INITIALIZED",
    "SYSTEMD_READY",
    "UDISKS_",
    "HOTADD_",
];
const MOST: u64 = 4096;

pub(super) fn scsi_hosts() -> Got {
    let dir = "/sys/class/scsi_host";
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| format!("{dir}: {e}"))?.filter_map(Result::ok) {
        let path = entry.path();
        let driver = bound::text(&path.join("proc_name"), MOST).unwrap_or_default();
        let place = fs::canonicalize(&path).map(|path| path.display().to_string()).unwrap_or_default();
        lines.push(format!("{} {} {place}\n", entry.file_name().to_string_lossy(), driver.trim()));
    }
    lines.sort();
    Ok(lines.concat())
}

pub(super) fn udev_database() -> Got {
    let text = || -> io::Result<String> {
        let mut enumerator = udev::Enumerator::new()?;
        enumerator.match_subsystem("block")?;
        let mut text = String::new();
        for device in enumerator.scan_devices()? {
            text.push_str(&format!("{}\n", device.syspath().display()));
            let mut others = 0;
            for property in device.properties() {
                if !PROPERTIES.iter().any(|known| property.name().to_string_lossy().starts_with(known)) {
                    others += 1;
                    continue;
                }
                // Names and labels come from foreign disks: control characters are shown, not sent.
                let (name, value) = (property.name().to_string_lossy(), property.value().to_string_lossy());
                text.push_str(&format!("  {}={}\n", name.escape_debug(), value.escape_debug()));
            }
            if others > 0 {
                text.push_str(&format!("  # {others} other properties left out\n"));
            }
        }
        Ok(text)
    };
    text().map_err(|e| format!("udev: {e}"))
}

pub(super) fn seen(platform: &dyn Platform) -> Got {
    let devices = platform.devices().map_err(|e| format!("the disks: {e}"))?;
    let slots = platform.slots().map_err(|e| format!("PCI slots: {e}"))?;
    let mut text: String = slots.iter().map(|slot| format!("{slot:?}\n")).collect();
    text.extend(devices.iter().map(|device| format!("{device:?}\n")));
    Ok(text)
}
