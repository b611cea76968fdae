//! The files of a lease, and which disk each of them is: told by controller and unit in its key, never by order.

use std::fmt;

use super::LeaseInfo;
use crate::device::{Device, Disk, OtherControllerKind, ScsiKind};
use crate::error::Error;
use crate::tls::{self, Fingerprint};
use crate::xml::{Node, Shape};

/// A disk's place as a lease writes it: `ParaVirtualSCSIController0:1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskAddress {
    /// VMware's type name of the controller.
    pub controller: String,
    /// Bus number.
    pub bus: i32,
    /// Unit.
    pub unit: i32,
}

impl fmt::Display for DiskAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{}", self.controller, self.bus, self.unit)
    }
}

impl DiskAddress {
    /// Reads the last part of a key such as `/vm-1/VirtualLsiLogicController0:0`.
    pub fn of_key(key: &str) -> Option<DiskAddress> {
        let (head, unit) = key.rsplit('/').next()?.split_once(':')?;
        let controller = head.trim_end_matches(|c: char| c.is_ascii_digit());
        let bus = head.strip_prefix(controller)?;
        let plain = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if controller.is_empty() || !plain(bus) || !plain(unit) {
            return None;
        }
        Some(DiskAddress { controller: controller.to_owned(), bus: bus.parse().ok()?, unit: unit.parse().ok()? })
    }

    /// The address of a disk among its VM's or snapshot's devices.
    pub fn of_disk(devices: &[Device], disk: &Disk) -> Option<DiskAddress> {
        let key = disk.controller_key?;
        let (controller, bus) = devices.iter().find(|d| d.key() == key).and_then(|d| match d {
            Device::ScsiController(c) => Some((scsi_name(&c.kind), c.bus)),
            Device::OtherController(c) => Some((other_name(&c.kind), c.bus)),
            _ => None,
        })?;
        Some(DiskAddress { controller: controller.to_owned(), bus, unit: disk.unit? })
    }
}

fn scsi_name(kind: &ScsiKind) -> &str {
    match kind {
        ScsiKind::Pvscsi => "ParaVirtualSCSIController",
        ScsiKind::LsiLogic => "VirtualLsiLogicController",
        ScsiKind::LsiSas => "VirtualLsiLogicSASController",
        ScsiKind::BusLogic => "VirtualBusLogicController",
        ScsiKind::Other(name) => name,
    }
}

fn other_name(kind: &OtherControllerKind) -> &str {
    match kind {
        OtherControllerKind::Ide => "VirtualIDEController",
        OtherControllerKind::Sata => "VirtualAHCIController",
        OtherControllerKind::Nvme => "VirtualNVMEController",
        OtherControllerKind::Other(name) => name,
    }
}

/// A file that a lease gives access to (vSphere API 8.0, HttpNfcLeaseDeviceUrl).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseFile {
    /// Its key, for example `/vm-1/VirtualLsiLogicController0:0`.
    pub key: String,
    /// Key of the device in an import; not a place.
    pub import_key: String,
    /// Whether it is a disk; absent when the server does not say.
    pub disk: Option<bool>,
    /// Name that an OVF would give it.
    pub target_id: Option<String>,
    /// Datastore, as a key of the lease.
    pub datastore_key: Option<String>,
    /// Bytes, most often absent.
    pub size: Option<u64>,
    /// Opens the file for whoever has it.
    pub(super) url: String,
    pub(super) thumbprint: String,
    certificate: Option<String>,
}

impl fmt::Debug for LeaseFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFile")
            .field("key", &self.key)
            .field("disk", &self.disk)
            .field("host", &self.host())
            .field("url", &"[REDACTED]")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl LeaseFile {
    pub(super) fn parse(node: &Node) -> Result<LeaseFile, Shape> {
        Ok(LeaseFile {
            key: node.need("key")?,
            import_key: node.string("importKey").unwrap_or_default(),
            disk: node.flag("disk")?,
            target_id: node.string("targetId"),
            datastore_key: node.string("datastoreKey"),
            size: node.opt("fileSize")?,
            url: node.need("url")?,
            thumbprint: node.string("sslThumbprint").unwrap_or_default(),
            certificate: node.string("sslCertificate"),
        })
    }

    /// `host` or `host:port` that serves it, an ESXi host as a rule; `None` when it is the vCenter itself.
    pub fn host(&self) -> Option<String> {
        let url = reqwest::Url::parse(&self.url).ok()?;
        let host = url.host_str().filter(|h| *h != "*")?;
        Some(url.port().map_or_else(|| host.to_owned(), |p| format!("{host}:{p}")))
    }

    /// What names the host's certificate: it itself (from 9.0 on), or its thumbprint. `None`: nothing was told, and the
    /// trust of the vCenter's own connection must do.
    pub(super) fn fingerprint(&self, op: &'static str) -> Result<Option<Fingerprint>, Error> {
        if let Some(pem) = &self.certificate {
            let parsed = tls::certificate(pem);
            return parsed.map(Some).ok_or_else(|| Error::protocol(op, "the host's certificate is not readable"));
        }
        if self.thumbprint.trim().is_empty() {
            return Ok(None);
        }
        let parsed = Fingerprint::parse(&self.thumbprint);
        parsed.map(Some).ok_or_else(|| Error::protocol(op, "the host's thumbprint is neither SHA-1 nor SHA-256"))
    }
}

impl LeaseInfo {
    /// The file of a disk of the snapshot, whose devices `devices` are.
    ///
    /// # Errors
    /// `Protocol`: none or more than one file has the disk's controller and unit in its key.
    pub fn file_of(&self, devices: &[Device], disk: &Disk) -> Result<&LeaseFile, Error> {
        let op = "ExportSnapshot";
        let label = disk.label.as_deref().unwrap_or("disk");
        let address = DiskAddress::of_disk(devices, disk)
            .ok_or_else(|| Error::protocol(op, format!("{label} has no controller or unit")))?;
        let disks = self.files.iter().filter(|f| f.disk != Some(false));
        let mut found = disks.filter(|f| DiskAddress::of_key(&f.key).as_ref() == Some(&address));
        match (found.next(), found.next()) {
            (Some(file), None) => Ok(file),
            (None, _) => Err(Error::protocol(op, format!("the lease has no file of {address}"))),
            (Some(_), Some(_)) => Err(Error::protocol(op, format!("the lease has two files of {address}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let text = |key: &str| DiskAddress::of_key(key).map(|a| a.to_string());
        for name in ["VirtualLsiLogicController0:0", "ParaVirtualSCSIController3:63", "VirtualNVMEController10:2"] {
            assert_eq!(text(&format!("/vm-1/{name}")).as_deref(), Some(name));
            assert_eq!(text(name).as_deref(), Some(name));
        }
        let bad = [
            "",
            "/",
            "/vm-1/nvram",
            "/vm-1/Controller:0",
            "/vm-1/Controller0:",
            "/vm-1/0:0",
            "/vm-1/C0:+1",
            "/vm-1/C0:99999999999",
        ];
        assert!(bad.iter().all(|k| text(k).is_none()));
    }

    #[test]
    fn fingerprints() {
        let colons = ["AB"; 20].join(":");
        assert_eq!(Fingerprint::parse(&colons), Some(Fingerprint::Sha1([0xab; 20])));
        assert_eq!(Fingerprint::parse(&"cd".repeat(32)), Some(Fingerprint::Sha256([0xcd; 32])));
        for bad in ["", "AB", &"zz".repeat(20), &"ab".repeat(21), &"é".repeat(20)] {
            assert_eq!(Fingerprint::parse(bad), None, "{bad}");
        }
    }
}
