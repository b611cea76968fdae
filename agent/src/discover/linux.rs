//! The only [`Platform`] of this crate: sysfs and udev of a Linux guest.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{DeviceEvent, DeviceFacts, HostIdentity, Platform, ProvenDisk, SlotFacts, monitor, vpd};
use crate::{
    id::PciAddress,
    quarantine::{self, Finding},
};

/// How long the kernel may take to forget a SCSI device; requests in flight are waited for.
const DELETE_PATIENCE: Duration = Duration::from_secs(30);
/// Look again at sysfs this often while it does.
const DELETE_POLL: Duration = Duration::from_millis(20);
/// `/sys/block/*/size` counts sectors of 512 bytes, whatever the logical block is.
const SECTOR: u64 = 512;

/// See the module.
#[derive(Debug, Default)]
pub struct Linux;

impl Platform for Linux {
    fn identity(&self) -> io::Result<HostIdentity> {
        let dmi = |name: &str| fs::read_to_string(Path::new("/sys/class/dmi/id").join(name));
        let optional = |name: &str| dmi(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let macs = fs::read_dir("/sys/class/net")?
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("address")).ok())
            .map(|mac| mac.trim().to_lowercase())
            .filter(|mac| mac != "00:00:00:00:00:00" && !mac.is_empty())
            .collect();
        Ok(HostIdentity {
            vendor: dmi("sys_vendor")?.trim().to_owned(),
            serial: optional("product_serial"),
            uuid: optional("product_uuid"),
            macs,
        })
    }

    fn lock_file(&self) -> PathBuf {
        // Made by hotadd.tmpfiles.conf; the unit opens it for writing.
        PathBuf::from("/run/hotadd/lock")
    }

    fn slots(&self) -> io::Result<Vec<SlotFacts>> {
        let dir = match fs::read_dir("/sys/bus/pci/slots") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        Ok(dir
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let slot = entry.file_name().to_str()?.parse().ok()?;
                let address = fs::read_to_string(entry.path().join("address")).ok()?;
                Some(SlotFacts { slot, pci_address: address.trim().to_owned() })
            })
            .collect())
    }

    fn hosts(&self) -> io::Result<Vec<PciAddress>> {
        let dir = match fs::read_dir("/sys/class/scsi_host") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let function = |entry: io::Result<fs::DirEntry>| {
            let path = fs::canonicalize(entry.ok()?.path()).ok()?;
            let parts: Vec<&str> = path.to_str()?.split('/').collect();
            host_function(&parts).map(|(_, controller)| controller)
        };
        Ok(dir.filter_map(function).collect())
    }

    fn devices(&self) -> io::Result<Vec<DeviceFacts>> {
        let mut enumerator = udev::Enumerator::new()?;
        enumerator.match_subsystem("block")?;
        enumerator.match_property("DEVTYPE", "disk")?;
        Ok(enumerator.scan_devices()?.filter_map(|device| facts(&device)).collect())
    }

    fn subscribe(&self) -> io::Result<mpsc::Receiver<DeviceEvent>> {
        monitor::start()
    }

    fn open(&self, disk: &ProvenDisk) -> io::Result<File> {
        let facts = disk.facts();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_DIRECT.bits() | nix::fcntl::OFlag::O_CLOEXEC.bits())
            .open(Path::new("/dev").join(&facts.name))?;
        // Letters are re-used at once: what was opened must be the device at the proven path.
        let dev = fs::read_to_string(Path::new(&facts.handle).join("dev"))?;
        let number = file.metadata()?.rdev();
        let opened = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
        if dev.trim() == opened { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn delete(&self, disk: &ProvenDisk) -> io::Result<()> {
        let block = PathBuf::from(&disk.facts().handle);
        match fs::write(block.join("device/delete"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !block.exists() => return Ok(()),
            other => other?,
        }
        let end = Instant::now() + DELETE_PATIENCE;
        while block.exists() {
            if Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(DELETE_POLL);
        }
        Ok(())
    }

    fn rescan(&self, controller: &PciAddress, target: u32) -> io::Result<()> {
        let dir = Path::new("/sys/bus/pci/devices").join(controller.as_str());
        let hosts = fs::read_dir(dir)?.filter_map(|entry| {
            let name = entry.ok()?.file_name().to_str()?.to_owned();
            name.strip_prefix("host").and_then(|n| n.parse::<u32>().ok()).map(|_| name)
        });
        hosts.into_iter().try_for_each(|host| {
            fs::write(Path::new("/sys/class/scsi_host").join(host).join("scan"), format!("0 {target} 0"))
        })
    }

    fn quarantine(&self) -> Vec<Finding> {
        quarantine::look()
    }
}

/// Facts of one block device, or `None` if it is not a SCSI disk behind a PCI controller (or vanished meanwhile).
fn facts(device: &udev::Device) -> Option<DeviceFacts> {
    let path = device.syspath();
    let place = Place::parse(path.to_str()?)?;
    let page = |name: &str| fs::read(path.join("device").join(name)).unwrap_or_default();
    let number = |name: &str| fs::read_to_string(path.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(DeviceFacts {
        handle: path.to_str()?.to_owned(),
        name: device.sysname().to_str()?.to_owned(),
        controller: place.controller,
        channel: place.channel,
        target: place.target,
        lun: place.lun,
        serial: vpd::serial(&page("vpd_pg80")),
        designators: vpd::designators(&page("vpd_pg83")),
        size_bytes: number("size")?.checked_mul(SECTOR)?,
        read_only: number("ro")? != 0,
        initialized: device.is_initialized(),
    })
}

/// What a sysfs path of a SCSI disk says: `…/0000:01:00.0/host2/target2:0:3/2:0:3:0/block/sdb`.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    controller: PciAddress,
    channel: u32,
    target: u32,
    lun: u64,
}

impl Place {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        let (host, controller) = host_function(&parts)?;
        let address: Vec<&str> = parts.get(host + 2)?.split(':').collect();
        let [_, channel, target, lun] = address[..] else { return None };
        Some(Self { controller, channel: channel.parse().ok()?, target: target.parse().ok()?, lun: lun.parse().ok()? })
    }
}

/// Where a sysfs path has its SCSI host, and the PCI function right before it.
fn host_function(parts: &[&str]) -> Option<(usize, PciAddress)> {
    let is_host =
        |part: &&str| part.strip_prefix("host").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let host = parts.iter().position(is_host)?;
    let function = parts.get(host.checked_sub(1)?)?;
    let is_pci = function.len() >= 12 && function.as_bytes().get(4) == Some(&b':') && function.contains('.');
    is_pci.then(|| (host, PciAddress::new(*function)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_next_to_the_host_is_the_controller() {
        let path = "/sys/devices/pci0000:00/0000:00:15.0/0000:03:00.0/host2/target2:0:3/2:0:3:0/block/sdb";
        let want = Place { controller: PciAddress::new("0000:03:00.0"), channel: 0, target: 3, lun: 0 };
        assert_eq!(Place::parse(path), Some(want));
    }

    #[test]
    fn an_empty_controller_has_a_host_too() {
        let parts = |path: &'static str| path.split('/').collect::<Vec<_>>();
        let path = parts("/sys/devices/pci0000:00/0000:00:15.0/0000:03:00.0/host2/scsi_host/host2");
        assert_eq!(host_function(&path).map(|(_, f)| f), Some(PciAddress::new("0000:03:00.0")));
        let ata = parts("/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/scsi_host/host0");
        assert_eq!(host_function(&ata), None);
    }

    #[test]
    fn what_is_no_scsi_disk_on_pci_is_nothing() {
        for path in [
            "/sys/devices/virtual/block/loop0",
            "/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda",
            "/sys/devices/platform/host1/target1:0:0/1:0:0:0/block/sda",
            "/sys/devices/pseudo_0/adapter0/host0/target0:0:0/0:0:0:0/block/sda",
        ] {
            assert_eq!(Place::parse(path), None, "{path}");
        }
    }
}
