//! Newtypes for the things that must never be confused: identities of disks, slots, sessions, jobs and duties. Leaves
//! of the module tree: no I/O, no policy.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id.
            #[must_use]
            #[allow(clippy::new_without_default, reason = "a default id would suggest that two are equal")]
            pub fn new() -> Self {
                Self(Uuid::new_v4())
            }

            #[must_use]
            pub fn bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// Disks of one VM held open under one lease.
    SessionId
);
uuid_id!(
    /// One run of BackupVm.
    JobId
);
uuid_id!(
    /// One thing owed to vSphere: an attached disk or a snapshot of ours.
    DutyId
);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(value: impl Into<String>) -> Self {
                Self(value.into())
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Value of a ManagedObjectReference, e.g. `vm-42` (vSphere API 8.0).
    Moref
);
text_id!(
    /// Datastore path `[datastore] folder/disk.vmdk`, exactly as the server spells it (VirtualDeviceFileBackingInfo).
    BackingPath
);
text_id!(
    /// PCI address of a storage controller in the guest, `dddd:bb:dd.f`.
    PciAddress
);

/// A target VM as duties name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetId {
    pub moref: Moref,
    /// Unique within a vCenter, and kept when the VM is registered anew under another moref.
    pub instance_uuid: Option<String>,
}

impl BackingPath {
    /// `[datastore] folder/`, or all of it when there is no folder.
    #[must_use]
    pub fn folder(&self) -> &str {
        match self.0.rfind('/') {
            Some(slash) => &self.0[..=slash],
            None => self.0.split_inclusive("] ").next().unwrap_or(&self.0),
        }
    }
}

/// The 16-byte UUID of a VMDK: `backing.uuid` in vSphere, pages 0x80 and 0x83 in the guest (with disk.EnableUUID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskUuid([u8; 16]);

/// Text that is not 32 hexadecimal digits (dashes and blanks are ignored).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a 16-byte disk UUID")]
pub struct NotADiskUuid(String);

impl DiskUuid {
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for DiskUuid {
    type Err = NotADiskUuid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotADiskUuid(text.chars().take(64).collect());
        let digits: Vec<u8> = text
            .chars()
            .filter(|c| !matches!(c, '-' | ' '))
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        if digits.len() != 32 {
            return Err(wrong());
        }
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

impl TryFrom<String> for DiskUuid {
    type Error = NotADiskUuid;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DiskUuid> for String {
    fn from(uuid: DiskUuid) -> Self {
        uuid.to_string()
    }
}

impl fmt::Display for DiskUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DiskUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskUuid({self})")
    }
}

/// A place on the proxy: which SCSI controller, which unit on it (= SCSI target in the guest, LUN 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// VirtualDevice.key of the controller.
    pub controller_key: i32,
    pub unit: u32,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "controller {} unit {}", self.controller_key, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_uuids_of_all_spellings_are_equal() {
        let spellings = [
            "6000C29a-bcde-f012-3456-789abcdef012",
            "6000c29abcdef0123456789abcdef012",
            "60 00 c2 9a bc de f0 12-34 56 78 9a bc de f0 12",
        ];
        let parsed: Vec<DiskUuid> = spellings.iter().map(|s| s.parse().unwrap()).collect();
        assert!(parsed.iter().all(|u| *u == parsed[0]));
        assert_eq!(parsed[0].to_string(), spellings[1]);
    }

    #[test]
    fn a_short_or_odd_uuid_is_refused() {
        for text in ["", "6000c29a", "6000c29abcdef0123456789abcdef01", "6000c29abcdef0123456789abcdef012a", "zz"] {
            assert!(text.parse::<DiskUuid>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn folders_of_backings() {
        let folder = |path: &str| BackingPath::new(path).folder().to_owned();
        assert_eq!(folder("[ds 1] a b/c.vmdk"), "[ds 1] a b/");
        assert_eq!(folder("[ds] c.vmdk"), "[ds] ");
        assert_eq!(folder("[ds] a/[b] c/d.vmdk"), "[ds] a/[b] c/");
    }
}
