//! Attaching a batch: one reconfigure for all, and on a fault the search for the disk that is to blame.
//!
//! ```text
//! add all ──success──▶ read back ─▶ Attached each
//!    ├── fault that names a device index ─▶ that one Refused, the others once more
//!    ├── fault that concerns the proxy itself ─▶ all Refused
//!    ├── fault without one, more than one disk ─▶ both halves alone
//!    ├── fault, one disk ─▶ read back: absent and nothing running ─▶ Refused
//!    ├── busy proxy (TaskInProgress, ConcurrentAccess) ─▶ wait, the same again
//!    └── anything else (lost reply, deadline, task gone) ─▶ read back: there ─▶ Attached, else Unknown
//! ```
use std::time::Duration;

use hotadd_vsphere as vim;
use tokio::time::Instant;
use vim::{ErrorKind, FaultKind};

use super::{
    AttachOutcome, AttachRequest, Hypervisor as _, ProxyFacts,
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
enum Ended {
    Success,
    Fault(Box<vim::Fault>),
    Unclear(Error),
}

pub(super) async fn attach(vsphere: &Vsphere, proxy: &Moref, requests: &[AttachRequest]) -> Vec<AttachOutcome> {
    let mut outcomes: Vec<Option<AttachOutcome>> = requests.iter().map(|_| None).collect();
    let mut work: Vec<Vec<usize>> = if requests.is_empty() { Vec::new() } else { vec![(0..requests.len()).collect()] };
    while let Some(part) = work.pop() {
        let chosen: Vec<&AttachRequest> = part.iter().filter_map(|&i| requests.get(i)).collect();
        let ended = add(vsphere, proxy, &chosen).await;
        match split(&ended, &part) {
            Some((blamed, rest)) => {
                if let (Some(index), Ended::Fault(fault)) = (blamed, &ended) {
                    let verdict = judge(vsphere, proxy, requests, &[index], Some(fault)).await;
                    put(&mut outcomes, &[index], verdict);
                }
                work.extend(rest);
            }
            None => {
                let fault = if let Ended::Fault(fault) = &ended { Some(fault.as_ref()) } else { None };
                let mut verdict = judge(vsphere, proxy, requests, &part, fault).await;
                if let Ended::Unclear(why) = &ended {
                    verdict.iter_mut().for_each(|v| explain(v, why));
                }
                put(&mut outcomes, &part, verdict);
            }
        }
    }
    outcomes.into_iter().map(|o| o.unwrap_or_else(|| unknown("no outcome was recorded"))).collect()
}

/// What to try again, and who is to blame. `None`: this part is decided.
fn split(ended: &Ended, part: &[usize]) -> Option<(Option<usize>, Vec<Vec<usize>>)> {
    let Ended::Fault(fault) = ended else { return None };
    if part.len() < 2 || concerns_proxy(fault) {
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

async fn add(vsphere: &Vsphere, proxy: &Moref, requests: &[&AttachRequest]) -> Ended {
    let end = Instant::now() + vsphere.deadlines.reconfigure;
    loop {
        let ended = add_once(vsphere, proxy, requests).await;
        match &ended {
            Ended::Fault(fault) if is_busy(fault) && Instant::now() < end => tokio::time::sleep(BUSY_PAUSE).await,
            _ => return ended,
        }
    }
}

fn is_busy(fault: &vim::Fault) -> bool {
    matches!(fault.kind, FaultKind::TaskInProgress { .. } | FaultKind::ConcurrentAccess | FaultKind::VAppTaskInProgress)
}

async fn add_once(vsphere: &Vsphere, proxy: &Moref, requests: &[&AttachRequest]) -> Ended {
    let disks = requests.iter().zip(1_i32..).map(|(request, n)| add_disk(request, -100 - n)).collect();
    let spec = vim::Reconfigure { change_version: None, change: vim::DeviceChanges::Add(disks) };
    let task = match vsphere.client.reconfigure(&vm_ref(proxy), &spec).await {
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

/// The device list decides; `fault` only explains an absence.
async fn judge(
    vsphere: &Vsphere,
    proxy: &Moref,
    requests: &[AttachRequest],
    part: &[usize],
    fault: Option<&vim::Fault>,
) -> Vec<AttachOutcome> {
    let facts = vsphere.proxy(proxy).await;
    part.iter()
        .map(|&index| match requests.get(index) {
            Some(request) => verdict(request, &facts, fault),
            None => unknown("no such request"),
        })
        .collect()
}

fn verdict(request: &AttachRequest, facts: &Result<ProxyFacts>, fault: Option<&vim::Fault>) -> AttachOutcome {
    let facts = match facts {
        Ok(facts) => facts,
        Err(e) => return unknown(&format!("the proxy's devices can't be read: {}", e.message())),
    };
    let there = facts.disks.iter().find(|d| d.slot == Some(request.slot) && d.chain.contains(&request.backing));
    match (there, fault) {
        (Some(disk), _) => AttachOutcome::Attached { device_key: disk.device_key },
        (None, Some(fault)) if !facts.busy => AttachOutcome::Refused(attach_error(fault, &request.backing)),
        (None, _) => unknown(&format!("{} is not listed on the proxy", request.backing)),
    }
}

fn unknown(detail: &str) -> AttachOutcome {
    AttachOutcome::Unknown(Error::new(&reason::ATT_UNKNOWN, detail))
}

/// Adds why the outcome is unknown.
fn explain(outcome: &mut AttachOutcome, why: &Error) {
    if let AttachOutcome::Unknown(error) = outcome {
        *outcome =
            AttachOutcome::Unknown(Error::new(error.reason(), format!("{}: {}", error.message(), why.message())));
    }
}

fn put(outcomes: &mut [Option<AttachOutcome>], part: &[usize], verdicts: Vec<AttachOutcome>) {
    for (&index, verdict) in part.iter().zip(verdicts) {
        if let Some(place) = outcomes.get_mut(index) {
            *place = Some(verdict);
        }
    }
}
