//! Attaching a batch: one reconfigure for all, and on a fault the search for the disk that is to blame.
//!
//! ```text
//! add all ──success──▶ read back ─▶ Attached each
//!    ├── busy proxy (TaskInProgress, ConcurrentAccess) ─▶ wait, the same again, at most until the deadline of all
//!    ├── fault that names a device index ─▶ that one Refused, the others once more
//!    ├── fault that concerns the proxy itself ─▶ all Refused
//!    ├── fault without one, more than one disk ─▶ both halves alone
//!    ├── fault, one disk ─▶ read back: absent and nothing running ─▶ Refused
//!    └── anything else (lost reply, deadline, task gone) ─▶ read back: there ─▶ Attached, else Unknown
//! ```
//! Only faults by which vCenter or the host says that it did not even begin prove a refusal ([`proves_refusal`]). After
//! any other (a host that stopped answering, a time-out, a fault nobody knows here) the attach may still land: that is
//! anything else, and nothing is sent again.
use std::time::Duration;

use hotadd_vsphere as vim;
use tokio::time::Instant;
use vim::{ErrorKind, FaultKind};

use super::{
    AttachOutcome, AttachRequest, Hypervisor as _, ProxyDisk, ProxyFacts,
    convert::{attach_error, datastore_ref, error, vim_backing_kind, vm_ref},
    vsphere::Vsphere,
};
use crate::{
    error::{Error, Result},
    id::Moref,
    reason,
};

/// Pause before a busy proxy is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// How one reconfigure ended.
pub(super) enum Ended {
    Success,
    Fault(Box<vim::Fault>),
    Unclear(Error),
}

pub(super) async fn attach(vsphere: &Vsphere, proxy: &Moref, requests: &[AttachRequest]) -> Vec<AttachOutcome> {
    let mut outcomes: Vec<Option<AttachOutcome>> = requests.iter().map(|_| None).collect();
    let mut work: Vec<Vec<usize>> = if requests.is_empty() { Vec::new() } else { vec![(0..requests.len()).collect()] };
    // One deadline for the whole batch: a busy proxy must not cost it once per part.
    let end = Instant::now() + vsphere.deadlines.reconfigure;
    while let Some(part) = work.pop() {
        let chosen = part.iter().filter_map(|&i| requests.get(i));
        let disks = chosen.zip(1_i32..).map(|(request, n)| add_disk(request, -100 - n)).collect();
        let ended = change(vsphere, proxy, vim::DeviceChanges::Add(disks), end).await;
        match split(&ended, &part) {
            Some((blamed, rest)) => {
                if let Some(index) = blamed {
                    let verdict = judge(vsphere, proxy, requests, &[index], &ended).await;
                    put(&mut outcomes, &[index], verdict);
                }
                work.extend(rest);
            }
            None => {
                let verdict = judge(vsphere, proxy, requests, &part, &ended).await;
                put(&mut outcomes, &part, verdict);
            }
        }
    }
    outcomes.into_iter().map(|o| o.unwrap_or_else(|| unknown("no outcome was recorded"))).collect()
}

/// What to try again, and who is to blame. `None`: this part is decided.
fn split(ended: &Ended, part: &[usize]) -> Option<(Option<usize>, Vec<Vec<usize>>)> {
    let Ended::Fault(fault) = ended else { return None };
    if part.len() < 2 || concerns_proxy(fault) || is_busy(fault) || !proves_refusal(fault) {
        return None;
    }
    if let Some((at, &blamed)) = fault.device_index.and_then(|at| Some((at, part.get(at)?))) {
        let mut rest = part.to_vec();
        rest.remove(at);
        return Some((Some(blamed), vec![rest]));
    }
    let (left, right) = part.split_at(part.len() / 2);
    Some((None, vec![right.to_vec(), left.to_vec()]))
}

/// Faults that every disk of the batch would meet alike.
fn concerns_proxy(fault: &vim::Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::InvalidState
            | FaultKind::InvalidPowerState
            | FaultKind::NoPermission { .. }
            | FaultKind::RestrictedByAdministrator
            | FaultKind::NotEnoughLicenses
            | FaultKind::MethodDisabled
            | FaultKind::HostNotConnected
            | FaultKind::HostNotReachable
            | FaultKind::HostCommunication
            | FaultKind::NotAuthenticated
            | FaultKind::QuestionPending
            | FaultKind::ManagedObjectNotFound { .. }
    )
}

/// Faults by which vCenter or the host refuses before it does anything, and those of a disk that could not be opened.
/// Source: vSphere API 8.0, faults of ReconfigVM_Task; families are told by their names, since new members come with
/// every release.
pub(super) fn proves_refusal(fault: &vim::Fault) -> bool {
    const FAMILIES: &[&str] = &[
        "File",
        "InvalidDevice",
        "InvalidDatastore",
        "InvalidController",
        "Inaccessible",
        "CannotAccess",
        "Encryption",
        "Crypto",
        "TooMany",
        "Restricted",
        "Snapshot",
        "RDM",
    ];
    let name = fault.type_name.as_str();
    FAMILIES.iter().any(|family| name.starts_with(family))
        || name.ends_with("NotSupported")
        || name.starts_with("DeviceUnsupported")
        || is_busy(fault)
        || matches!(
            fault.kind,
            FaultKind::MissingController
                | FaultKind::DeviceNotFound
                | FaultKind::ControllerInUse
                | FaultKind::DisallowedDiskModeChange
                | FaultKind::NoPermission { .. }
                | FaultKind::NoDiskSpace
                | FaultKind::NoCompatibleDatastore
                | FaultKind::DatastoreNotWritableOnHost
                | FaultKind::DatacenterMismatch
                | FaultKind::InvalidPowerState
                | FaultKind::InvalidState
                | FaultKind::InvalidArgument
                | FaultKind::InvalidRequest
                | FaultKind::InvalidType
                | FaultKind::InvalidName
                | FaultKind::GenericVmConfigFault
                | FaultKind::InvalidVmConfig
                | FaultKind::NotEnoughLicenses
                | FaultKind::LicenseExpired
                | FaultKind::MethodDisabled
                | FaultKind::MethodNotFound
                | FaultKind::NotImplemented
                | FaultKind::NotAuthenticated
                | FaultKind::ManagedObjectNotFound { .. }
                | FaultKind::FilesystemQuiesceFault
                | FaultKind::ApplicationQuiesceFault
                | FaultKind::ToolsUnavailable
                | FaultKind::MemorySnapshotOnIndependentDisk
        )
}

/// One reconfigure, sent again while the proxy is busy, at most until `end`.
pub(super) async fn change(vsphere: &Vsphere, proxy: &Moref, change: vim::DeviceChanges, end: Instant) -> Ended {
    let spec = vim::Reconfigure { change_version: None, change };
    loop {
        let ended = change_once(vsphere, proxy, &spec).await;
        match &ended {
            Ended::Fault(fault) if is_busy(fault) && Instant::now() < end => tokio::time::sleep(BUSY_PAUSE).await,
            _ => return ended,
        }
    }
}

/// The proxy is at work for somebody else; the request was not begun.
pub(super) fn is_busy(fault: &vim::Fault) -> bool {
    matches!(fault.kind, FaultKind::TaskInProgress { .. } | FaultKind::ConcurrentAccess | FaultKind::VAppTaskInProgress)
}

async fn change_once(vsphere: &Vsphere, proxy: &Moref, spec: &vim::Reconfigure) -> Ended {
    let task = match vsphere.acting.reconfigure(&vm_ref(proxy), spec).await {
        Ok(task) => task,
        Err(e) => return ended(e),
    };
    match vsphere.wait(&task, vsphere.deadlines.reconfigure).await {
        Ok(info) => info.error.map_or(Ended::Success, |fault| Ended::Fault(Box::new(fault))),
        // A fault of the waiting says nothing about the task.
        Err(e) => Ended::Unclear(error(e)),
    }
}

fn ended(e: vim::Error) -> Ended {
    match e.kind() {
        ErrorKind::Fault(fault) => Ended::Fault(fault.clone()),
        _ => Ended::Unclear(error(e)),
    }
}

fn add_disk(request: &AttachRequest, temp_key: i32) -> vim::AddDisk {
    vim::AddDisk {
        temp_key,
        controller_key: request.slot.controller_key,
        unit: i32::try_from(request.slot.unit).unwrap_or(i32::MAX),
        capacity_bytes: request.capacity_bytes,
        backing_kind: vim_backing_kind(&request.backing_kind),
        file_name: vim::BackingPath::new(request.backing.as_str()),
        datastore: request.datastore.as_ref().map(datastore_ref),
    }
}

/// The device list decides; how the reconfigure ended only explains an absence.
async fn judge(
    vsphere: &Vsphere,
    proxy: &Moref,
    requests: &[AttachRequest],
    part: &[usize],
    ended: &Ended,
) -> Vec<AttachOutcome> {
    let facts = vsphere.proxy(proxy).await;
    part.iter()
        .map(|&index| match requests.get(index) {
            Some(request) => verdict(request, &facts, ended),
            None => unknown("no such request"),
        })
        .collect()
}

fn verdict(request: &AttachRequest, facts: &Result<ProxyFacts>, ended: &Ended) -> AttachOutcome {
    let why = match ended {
        Ended::Success => "the task succeeded".to_owned(),
        Ended::Fault(fault) => attach_error(fault, &request.backing).message(),
        Ended::Unclear(error) => error.message(),
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(e) => return unknown(&format!("{why}; the proxy's devices can't be read: {}", e.message())),
    };
    let success = matches!(ended, Ended::Success);
    let there = facts.disk_at(request.slot).filter(|disk| is_it(request, disk, success));
    match (there, ended) {
        (Some(disk), _) => AttachOutcome::Attached { device_key: disk.device_key },
        (None, Ended::Fault(fault))
            if proves_refusal(fault) && !facts.busy && facts.disk_at(request.slot).is_none() =>
        {
            AttachOutcome::Refused(attach_error(fault, &request.backing))
        }
        (None, _) => unknown(&format!("{why}; {} is not listed on the proxy", request.backing)),
    }
}

/// Whether the disk in the slot is the one asked for. After a success its file may be shown under another name (a redo
/// log, a renamed datastore); the other facts must agree then.
fn is_it(request: &AttachRequest, disk: &ProxyDisk, success: bool) -> bool {
    let alike = disk.nonpersistent
        && disk.capacity_bytes == request.capacity_bytes
        && disk.uuid.is_none_or(|uuid| uuid == request.uuid);
    disk.chain.contains(&request.backing) || (success && alike)
}

fn unknown(detail: &str) -> AttachOutcome {
    AttachOutcome::Unknown(Error::new(&reason::ATT_UNKNOWN, detail))
}

fn put(outcomes: &mut [Option<AttachOutcome>], part: &[usize], verdicts: Vec<AttachOutcome>) {
    for (&index, verdict) in part.iter().zip(verdicts) {
        if let Some(place) = outcomes.get_mut(index) {
            *place = Some(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hypervisor::{BackingKind, testing::fault},
        id::{BackingPath, Slot},
    };

    fn other(type_name: &str) -> vim::Fault {
        fault(type_name, FaultKind::Other(type_name.into()))
    }

    fn request() -> AttachRequest {
        AttachRequest {
            slot: Slot { controller_key: 1000, unit: 3 },
            backing: BackingPath::new("[ds] web/web.vmdk"),
            backing_kind: BackingKind::FlatV2,
            datastore: None,
            capacity_bytes: 1 << 30,
            uuid: "6000c29abcdef0123456789abcdef012".parse().unwrap(),
        }
    }

    fn listed(file: &str, nonpersistent: bool) -> ProxyDisk {
        ProxyDisk {
            device_key: 2003,
            slot: Some(request().slot),
            chain: vec![BackingPath::new(file)],
            uuid: None,
            capacity_bytes: 1 << 30,
            nonpersistent,
        }
    }

    fn outcome(disks: Vec<ProxyDisk>, busy: bool, ended: &Ended) -> &'static str {
        let facts = ProxyFacts {
            moref: Moref::new("vm-1"),
            instance_uuid: None,
            name: "p".into(),
            home: "[ds] p/".into(),
            hardware_version: 19,
            controllers: Vec::new(),
            disks,
            busy,
        };
        match verdict(&request(), &Ok(facts), ended) {
            AttachOutcome::Attached { .. } => "attached",
            AttachOutcome::Refused(_) => "refused",
            AttachOutcome::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn only_a_fault_that_proves_it_is_a_refusal() {
        let ended = |fault| Ended::Fault(Box::new(fault));
        for fault in [
            fault("FileLocked", FaultKind::FileLocked),
            fault("GenericVmConfigFault", FaultKind::GenericVmConfigFault),
            other("FileBackedPortNotSupported"),
            other("InvalidDeviceSomethingNew"),
        ] {
            assert_eq!(outcome(vec![], false, &ended(fault.clone())), "refused", "{}", fault.type_name);
            assert_eq!(outcome(vec![], true, &ended(fault)), "unknown", "a task still runs");
        }
        for fault in [
            fault("HostCommunication", FaultKind::HostCommunication),
            fault("HostNotReachable", FaultKind::HostNotReachable),
            fault("HostNotConnected", FaultKind::HostNotConnected),
            fault("Timedout", FaultKind::Timedout),
            fault("SystemError", FaultKind::SystemError),
            fault("RequestCanceled", FaultKind::RequestCanceled),
            other("SomethingNew"),
        ] {
            assert_eq!(outcome(vec![], false, &ended(fault.clone())), "unknown", "{}", fault.type_name);
            assert!(split(&ended(fault), &[0, 1]).is_none(), "nothing is sent again while the first may land");
        }
    }

    #[test]
    fn a_busy_proxy_is_not_taken_apart() {
        let busy = fault("TaskInProgress", FaultKind::TaskInProgress { task: None });
        assert!(split(&Ended::Fault(Box::new(busy)), &[0, 1, 2]).is_none());
        let locked = fault("FileLocked", FaultKind::FileLocked);
        assert!(split(&Ended::Fault(Box::new(locked)), &[0, 1, 2]).is_some());
    }

    #[test]
    fn after_a_success_another_file_name_does_not_hide_the_disk() {
        let named = |file| vec![listed(file, true)];
        assert_eq!(outcome(named("[renamed] web/web.vmdk"), false, &Ended::Success), "attached");
        assert_eq!(outcome(vec![listed("[renamed] web/web.vmdk", false)], false, &Ended::Success), "unknown");
        let lost = Ended::Unclear(Error::new(&reason::VC_UNKNOWN_OUTCOME, ""));
        assert_eq!(outcome(named("[renamed] web/web.vmdk"), false, &lost), "unknown");
        assert_eq!(outcome(named("[ds] web/web.vmdk"), false, &lost), "attached");
    }
}
