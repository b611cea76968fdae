//! What the planner is told of proxy, target and disks: each fact is known, or unknown with its reason, never silently fine.
use std::{collections::BTreeSet, fmt};

use super::{ProxyFacts, TargetDisk, Unrest};
use crate::id::Moref;

/// A fact, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<T> {
    Known(T),
    Unknown(String),
}

impl<T> Fact<T> {
    /// `why`: for a value that was not given.
    pub fn from_option(value: Option<T>, why: impl Into<String>) -> Self {
        value.map_or_else(|| Self::Unknown(why.into()), Self::Known)
    }

    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown(why) => Some(why),
        }
    }
}

/// Release of an ESXi host: `8.0.2`, build 23305546.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Build {
    pub version: [u32; 3],
    pub number: u64,
}

impl Build {
    /// `None`: not a dotted version, or no number.
    #[must_use]
    pub fn parse(version: &str, number: &str) -> Option<Self> {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
        let version = [parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)];
        Some(Self { version, number: number.parse().ok()? })
    }

    #[must_use]
    pub const fn new(version: [u32; 3], number: u64) -> Self {
        Self { version, number }
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, update] = self.version;
        write!(f, "{major}.{minor}.{update} build {}", self.number)
    }
}

/// Where the question is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Instance UUID of the vCenter that answered.
    pub vcenter: Fact<String>,
    /// A snapshot was given or taken already: none has to be made.
    pub snapshot_exists: bool,
}

/// A host of the proxy or of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    pub moref: Moref,
    pub name: String,
    pub build: Fact<Build>,
    /// Why it is leaving service, if it is.
    pub unrest: Fact<Option<Unrest>>,
}

/// Kind of a datastore (vSphere API 8.0, DatastoreSummary.type).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    Vmfs,
    Nfs3,
    Nfs41,
    Vsan,
    Vvol,
    Other(String),
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmfs => "VMFS",
            Self::Nfs3 => "NFS 3",
            Self::Nfs41 => "NFS 4.1",
            Self::Vsan => "vSAN",
            Self::Vvol => "vVol",
            Self::Other(name) => name,
        })
    }
}

/// How the proxy's host has a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mount {
    Writable,
    ReadOnly,
    /// Mounted, but it does not reach it now.
    Inaccessible,
    /// Not mounted there.
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreView {
    pub moref: Moref,
    pub name: String,
    pub kind: StoreKind,
    /// By the proxy's host.
    pub mount: Fact<Mount>,
    pub free_bytes: u64,
}

/// Whether somebody moves the VM by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Automation {
    /// No cluster, or switched off.
    Absent,
    /// On, but this VM is exempt.
    Exempt,
    /// On, with this behavior.
    Moves(String),
}

/// The proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyView {
    pub name: String,
    /// Its controllers and disks; `busy` was not asked for.
    pub vm: ProxyFacts,
    pub host: Fact<HostView>,
    /// Datastore of its .vmx.
    pub home: Fact<StoreView>,
    pub datacenter: Fact<Moref>,
    /// extraConfig disk.EnableUUID is TRUE.
    pub enable_uuid: Fact<bool>,
    pub snapshots: Fact<usize>,
    pub change_tracking: Fact<bool>,
    pub fault_tolerant: Fact<bool>,
    pub encrypted: Fact<bool>,
    pub drs: Fact<Automation>,
    pub storage_drs: Fact<Automation>,
}

/// The target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    pub moref: Moref,
    pub name: String,
    pub instance_uuid: Option<String>,
    /// Instance UUID of the vCenter that knows it.
    pub vcenter: Fact<String>,
    pub host: Fact<HostView>,
    pub datacenter: Fact<Moref>,
    pub template: Fact<bool>,
    pub fault_tolerant: Fact<bool>,
    pub is_proxy: bool,
}

/// What a disk hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Scsi,
    Ide,
    Sata,
    Nvme,
}

/// A raw device mapping's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rdm {
    Virtual,
    Physical,
}

/// One file of a disk's chain, top first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `[ds] folder/`.
    pub folder: String,
}

/// A disk of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskView {
    pub disk: TargetDisk,
    pub bus: Fact<Bus>,
    pub rdm: Option<Rdm>,
    pub multi_writer: bool,
    pub bus_shared: bool,
    pub chain: Fact<Vec<Link>>,
    pub store: Fact<StoreView>,
    pub encrypted: bool,
    /// Identity as a First Class Disk.
    pub fcd: Option<String>,
    pub io_filters: Vec<String>,
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanFacts {
    pub site: Site,
    pub proxy: ProxyView,
    pub target: TargetView,
    pub disks: Vec<DiskView>,
    /// Of all disks that a snapshot covers, asked for or not.
    pub stores: BTreeSet<Moref>,
}
