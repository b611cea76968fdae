//! What a fault at attach means for that disk. Pure. Source: vSphere API 8.0, faults of ReconfigVM_Task.
use crate::error::Error;

/// The next step for a disk whose HotAdd was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The next transport, for this disk only.
    Next,
    /// The same once more, with facts read anew; then the next transport.
    Retry,
    /// No transport: a person has to act.
    Refuse,
}

/// Faults that a look at fresh facts, or a pause, may heal.
const RETRY: &[&str] = &[
    "FileNotFound",
    "TaskInProgress",
    "ConcurrentAccess",
    "VAppTaskInProgress",
    "InvalidDeviceSpec",
    "InvalidController",
    "MissingController",
    "InvalidPowerState",
    "InvalidState",
];
/// A privilege that is missing is told, not worked around.
const REFUSE: &[&str] = &["NoPermission", "NotAuthenticated", "InvalidLogin"];

/// By the fault's type; one that nobody knows here leads to the next transport, as most do.
#[must_use]
pub fn after_fault(type_name: &str) -> After {
    if RETRY.contains(&type_name) {
        After::Retry
    } else if REFUSE.contains(&type_name) {
        After::Refuse
    } else {
        After::Next
    }
}

/// As [`after_fault`] for an attach that ended with an error. `None`: no fault of vSphere, or something is owed: then
/// nothing is known that a next step could stand on.
#[must_use]
pub fn after_error(error: &Error) -> Option<After> {
    let settled = error.cleanup() == hotadd_api::v1::Cleanup::Done;
    error.fault().filter(|_| settled).map(after_fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every fault that ReconfigVM_Task is known to answer an add with.
    const TABLE: &[(&str, After)] = &[
        ("FileLocked", After::Next),
        ("FileFault", After::Next),
        ("FileNotFound", After::Retry),
        ("CannotAccessFile", After::Next),
        ("InaccessibleDatastore", After::Next),
        ("InvalidDatastorePath", After::Next),
        ("InvalidDatastore", After::Next),
        ("DatacenterMismatch", After::Next),
        ("InvalidDeviceSpec", After::Retry),
        ("InvalidDeviceBacking", After::Next),
        ("InvalidController", After::Retry),
        ("MissingController", After::Retry),
        ("TooManyDevices", After::Next),
        ("DeviceHotPlugNotSupported", After::Next),
        ("GenericVmConfigFault", After::Next),
        ("DiskNotSupported", After::Next),
        ("DeviceNotSupported", After::Next),
        ("DeviceControllerNotSupported", After::Next),
        ("NumVirtualDisksNotSupported", After::Next),
        ("EncryptionKeyRequired", After::Next),
        ("TaskInProgress", After::Retry),
        ("ConcurrentAccess", After::Retry),
        ("InvalidPowerState", After::Retry),
        ("InvalidState", After::Retry),
        ("RestrictedByAdministrator", After::Next),
        ("NotEnoughLicenses", After::Next),
        ("NoPermission", After::Refuse),
        ("NoDiskSpace", After::Next),
        ("SomethingOfTomorrow", After::Next),
    ];

    #[test]
    fn each_fault_has_its_next_step() {
        for (fault, after) in TABLE {
            assert_eq!(after_fault(fault), *after, "{fault}");
        }
    }

    #[test]
    fn what_is_owed_or_no_fault_leads_nowhere() {
        let reason = &crate::reason::ATT_FAULT;
        assert_eq!(after_error(&Error::new(reason, "")), None);
        assert_eq!(after_error(&Error::new(reason, "").with_fault("FileLocked")), Some(After::Next));
        assert_eq!(after_error(&Error::new(reason, "").with_fault("FileLocked").owing()), None);
        assert_eq!(after_error(&Error::new(reason, "").with_fault("FileNotFound").copy()), Some(After::Retry));
    }
}
