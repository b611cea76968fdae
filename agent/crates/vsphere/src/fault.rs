//! Faults of the server, typed, with the server's own words kept.
//!
//! Sources: vSphere API 8.0, the fault types of VirtualMachine.ReconfigVM_Task and CreateSnapshot_Task and their ancestors.

use std::fmt;

use crate::moref::MoRef;
use crate::xml::Node;

/// Most messages kept of one fault, and deepest chain of causes followed.
const MAX_MESSAGES: usize = 32;
/// Longest text kept, in characters: enough for any real message, too little to fill a log.
const MAX_TEXT: usize = 4096;
const MAX_CAUSES: usize = 8;

macro_rules! fault_kinds {
    ($($name:ident)*) => {
        /// The type of a fault, as far as this client tells them apart.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "the names are VMware's, documented in the vSphere API reference")]
        pub enum FaultKind {
            $($name,)*
            /// A privilege is missing: on which object, and which.
            NoPermission { object: Option<MoRef>, privilege: Option<String> },
            /// An object does not exist or no longer.
            ManagedObjectNotFound { object: Option<MoRef> },
            /// Another task holds the object.
            TaskInProgress { task: Option<MoRef> },
            /// A property path that the object does not have.
            InvalidProperty { name: Option<String> },
            /// A type without a name here; the text is VMware's.
            Other(String),
        }

        fn simple(name: &str) -> Option<FaultKind> {
            Some(match name {
                $(stringify!($name) => FaultKind::$name,)*
                _ => return None,
            })
        }

        #[cfg(test)]
        pub(crate) const SIMPLE: &[&str] = &[$(stringify!($name)),*];
    };
}

fault_kinds! {
    NotAuthenticated InvalidLogin InvalidRequest InvalidArgument InvalidType InvalidName NotSupported NotImplemented
    MethodNotFound NotFound MethodDisabled MethodAlreadyDisabledFault RuntimeFault SystemError RequestCanceled
    HostNotConnected HostNotReachable HostCommunication HostConnectFault Timedout InvalidCollectorVersion
    FileFault FileLocked FileNotFound FileAlreadyExists CannotAccessFile CannotAccessVmDisk CannotAccessVmComponent
    NoDiskSpace NoCompatibleDatastore
    InaccessibleDatastore InvalidDatastorePath InvalidDatastore InvalidDatastoreState DatacenterMismatch DatastoreNotWritableOnHost
    InvalidDeviceSpec InvalidDeviceBacking InvalidDeviceOperation InvalidController MissingController DeviceNotFound
    DeviceNotSupported DeviceControllerNotSupported DeviceBackingNotSupported DeviceHotPlugNotSupported
    DeviceUnsupportedForVmPlatform DeviceUnsupportedForVmVersion ControllerInUse
    DisallowedDiskModeChange DiskNotSupported NumVirtualDisksNotSupported
    TooManyDevices TooManyDisksOnLegacyHost RDMNotSupported RDMPointsToInaccessibleDisk SharedBusControllerNotSupported
    GenericVmConfigFault VmConfigFault InvalidVmConfig EncryptionKeyRequired CryptoConfigFault
    ConcurrentAccess InvalidPowerState InvalidState VAppTaskInProgress QuestionPending ResourceInUse
    RestrictedByAdministrator RestrictedVersion NotEnoughLicenses LicenseExpired InsufficientResourcesFault
    SnapshotFault FilesystemQuiesceFault ApplicationQuiesceFault SnapshotIncompatibleDeviceInVm SnapshotDisabled SnapshotLocked
    SnapshotNoChange SnapshotCloneNotSupported SnapshotMoveNotSupported SnapshotRevertIssue
    MultipleSnapshotsNotSupported TooManySnapshotLevels MemorySnapshotOnIndependentDisk ToolsUnavailable ToolsInstallationInProgress
}

/// A fault with everything the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its type, for control flow.
    pub kind: FaultKind,
    /// Its type as VMware names it.
    pub type_name: String,
    /// `localizedMessage` or `faultstring`; may be empty.
    pub message: String,
    /// Texts of `faultMessage` and of the causes, outermost first.
    pub fault_messages: Vec<String>,
    /// Index of the device change that the fault is about (InvalidDeviceSpec and its descendants).
    pub device_index: Option<usize>,
    /// The file that the fault is about (FileFault and its descendants).
    pub file: Option<String>,
    /// The datastore that is full, by name (NoDiskSpace).
    pub datastore: Option<String>,
    /// Who disabled the method (MethodDisabled): the `sourceId` given when it was disabled.
    pub source: Option<String>,
}

impl Fault {
    /// Reads `<soapenv:Fault>`. Never fails: whatever is missing stays empty.
    pub(crate) fn from_soap(node: &Node) -> Fault {
        let message = node.str("faultstring").unwrap_or_default();
        match node.child("detail").and_then(|d| d.children.first()) {
            Some(detail) => Fault::build(detail, message),
            None => Fault::build(&Node::default(), message),
        }
    }

    /// Reads a `LocalizedMethodFault`: `<fault xsi:type=…/>` and `localizedMessage`.
    pub(crate) fn from_localized(node: &Node) -> Fault {
        let message = node.str("localizedMessage").unwrap_or_default();
        Fault::build(node.child("fault").unwrap_or(&Node::default()), message)
    }

    fn build(detail: &Node, message: &str) -> Fault {
        let type_name = match &detail.xsi_type {
            Some(t) => t.to_string(),
            // Without xsi:type the element is named after the fault, as in <InvalidLoginFault>.
            None => detail.name.strip_suffix("Fault").filter(|n| !n.is_empty()).unwrap_or(&detail.name).to_owned(),
        };
        let mut fault_messages = Vec::new();
        collect_messages(detail, 0, &mut fault_messages);
        Fault {
            kind: kind_of(&type_name, detail),
            message: clip(message),
            fault_messages,
            device_index: detail.opt::<usize>("deviceIndex").ok().flatten(),
            file: detail.string("file"),
            datastore: plain(detail, "datastore"),
            source: plain(detail, "source"),
            type_name,
        }
    }
}

/// A field that is plain text; other faults have a reference of the same name (InaccessibleDatastore.datastore).
fn plain(detail: &Node, name: &str) -> Option<String> {
    detail.child(name).filter(|n| n.ref_type.is_none() && n.children.is_empty()).and_then(|_| detail.string(name))
}

fn kind_of(type_name: &str, detail: &Node) -> FaultKind {
    let reference = |name| detail.opt_ref(name).ok().flatten();
    match type_name {
        "NoPermission" => no_permission(detail),
        "ManagedObjectNotFound" => FaultKind::ManagedObjectNotFound { object: reference("obj") },
        "TaskInProgress" => FaultKind::TaskInProgress { task: reference("task") },
        "InvalidProperty" => FaultKind::InvalidProperty { name: detail.string("name") },
        other => simple(other).unwrap_or_else(|| FaultKind::Other(other.to_owned())),
    }
}

/// From 7.0.3.2 on the server may name several privileges in `missingPrivileges`; the first is the one to grant first.
fn no_permission(detail: &Node) -> FaultKind {
    let list = detail.child("missingPrivileges");
    let object = detail.opt_ref("object").ok().flatten();
    FaultKind::NoPermission {
        object: object.or_else(|| list.and_then(|l| l.opt_ref("entity").ok().flatten())),
        privilege: detail.string("privilegeId").or_else(|| list.and_then(|l| l.string("privilegeIds"))),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn collect_messages(node: &Node, depth: usize, out: &mut Vec<String>) {
    for message in node.all("faultMessage") {
        if let Some(text) = message.string("message").or_else(|| message.string("key")) {
            out.push(clip(&text));
        }
    }
    if let Some(cause) = node.child("faultCause").filter(|_| depth < MAX_CAUSES) {
        out.extend(cause.str("localizedMessage").map(clip));
        if let Some(fault) = cause.child("fault") {
            collect_messages(fault, depth + 1, out);
        }
    }
    out.truncate(MAX_MESSAGES);
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault {}", self.type_name)?;
        if !self.message.is_empty() {
            write!(f, " \"{}\"", self.message)?;
        }
        if let FaultKind::NoPermission { object, privilege } = &self.kind {
            write!(f, ", privilege {}", privilege.as_deref().unwrap_or("(not named)"))?;
            if let Some(object) = object {
                write!(f, " on {object}")?;
            }
        }
        for text in &self.fault_messages {
            write!(f, "; {text}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
