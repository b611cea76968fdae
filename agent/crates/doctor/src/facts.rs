//! What was read, as plain values: all that the rules know. Nothing is judged here.
use std::collections::BTreeMap;

use hotadd_vsphere::BackingPath;
use jiff::Timestamp;

use crate::marker::Marker;

/// A vCenter at one moment.
#[derive(Debug, Clone, Default)]
pub struct Estate {
    /// By the server's clock.
    pub now: Timestamp,
    pub server: Server,
    pub vms: Vec<Vm>,
    /// Free bytes by datastore name; one that did not tell is not there.
    pub free: BTreeMap<String, u64>,
    /// What could not be looked at, and why.
    pub blind: Vec<Blind>,
}

/// Who was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub instance_uuid: Option<String>,
    /// An ESXi host shows methods as disabled that vCenter would offer.
    pub is_vcenter: bool,
}

/// Something that was not looked at: it is neither clean nor a finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blind {
    /// What: a property, or a question.
    pub what: String,
    pub object: Object,
    pub why: String,
}

/// A VM, as its name and moref.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    pub name: String,
    pub moref: String,
}

/// A VM or template. `None`: not given, and told in [`Estate::blind`] where that matters.
#[derive(Debug, Clone, Default)]
pub struct Vm {
    pub object: Object,
    pub bios_uuid: Option<String>,
    pub instance_uuid: Option<String>,
    pub on: bool,
    /// Folder of its .vmx, `[datastore] folder/`.
    pub home: Option<String>,
    pub address: Option<String>,
    pub change_version: Option<String>,
    pub disks: Option<Vec<Disk>>,
    pub controllers: Vec<Controller>,
    pub snapshots: Option<Vec<Snapshot>>,
    pub disabled: Vec<String>,
    pub consolidation_needed: bool,
    pub files: Option<Vec<File>>,
    /// Name and version of the appliance that it says it is.
    pub product: Option<(String, String)>,
    /// Asked only of VMs that have to do with an attached disk.
    pub tasks: Option<Tasks>,
}

impl Vm {
    /// Its disks; none when they were not given.
    pub fn known_disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.iter().flatten()
    }

    pub fn known_snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().flatten()
    }

    /// Whether a file lies in its home folder, or in a folder of that name on another datastore.
    #[must_use]
    pub fn is_home_of(&self, file: &BackingPath) -> bool {
        let home = self.home.as_deref().map(BackingPath::new);
        let folder = home.as_ref().and_then(BackingPath::folder).filter(|folder| !folder.is_empty());
        folder.is_some() && folder == file.folder()
    }
}

/// Tasks on a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tasks {
    pub running: bool,
    /// When its devices were last changed, as far as vCenter remembers.
    pub reconfigured: Option<Timestamp>,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub key: i32,
    pub controller_key: Option<i32>,
    pub unit: Option<i32>,
    /// Files, top first; never empty.
    pub chain: Vec<BackingPath>,
    pub mode: String,
    /// Several VMs may write to it, by its own setting or by that of its controller.
    pub shared: bool,
    pub uuid: Option<String>,
    pub capacity: u64,
    /// A First Class Disk, which belongs to no VM.
    pub first_class: bool,
}

impl Disk {
    #[must_use]
    pub fn nonpersistent(&self) -> bool {
        self.mode == "independent_nonpersistent" || self.mode == "nonpersistent"
    }

    /// The file that was attached: the top, or what lies below a redo log.
    #[must_use]
    pub fn file(&self) -> BackingPath {
        let Some(top) = self.chain.first() else { return BackingPath::new("") };
        // Of the file's own name: a folder may be called like that.
        let name = top.as_str().rfind('/').map_or(0, |at| at + 1);
        let redo = top.as_str().get(name..).and_then(|file| file.find("-REDO_")).map(|at| name + at);
        match (redo, self.chain.get(1)) {
            (Some(_), Some(below)) => below.clone(),
            (Some(at), None) => {
                let stem = &top.as_str()[..at];
                BackingPath::new(if stem.ends_with(".vmdk") { stem.to_owned() } else { format!("{stem}.vmdk") })
            }
            (None, _) => top.clone(),
        }
    }
}

/// A controller that disks can be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controller {
    pub key: i32,
    pub bus: i32,
    pub scsi: bool,
}

/// A snapshot.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub moref: String,
    pub name: String,
    pub description: String,
    pub taken: Option<Timestamp>,
    pub current: bool,
    /// Whose it is, if it is one of hotadd-agent's.
    pub marker: Option<Marker>,
    /// Disks as it froze them; asked only of VMs of whom a disk is attached elsewhere.
    pub frozen: Option<Vec<Frozen>>,
}

/// A disk as a snapshot froze it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    pub file: BackingPath,
    pub uuid: Option<String>,
    pub capacity: u64,
    /// Independent disks are named by a snapshot and not frozen.
    pub independent: bool,
}

/// A file that vCenter counts to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: BackingPath,
    pub bytes: u64,
}
