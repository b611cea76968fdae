//! Questions that can't be answered well, for the sake of the fault: about objects that are not there, and, of a snapshot of ours, about places and
//! changes that its disks do not have. All of them are reads but one: the removal of a snapshot that is proven to be gone.
use hotadd_vsphere::{Error, ErrorKind, Fault, MoRef};

use crate::{document as doc, gather::Site, redact};

/// A changeId of a tracking that no disk has.
const FOREIGN_CHANGE: &str = "52 00 00 00 00 00 00 00-00 00 00 00 00 00 00 00/1";
/// No device has it.
const NO_DISK: i32 = 1_999_999;

/// About objects that are hardly there. One that is there all the same is read, and the question counts as answered.
pub(crate) async fn nothing(site: &mut Site<'_>) -> Result<(), Error> {
    let none = |kind: &str, id: &str| MoRef::new(kind, id);
    let client = site.client;
    let vm = client.vm(&none("VirtualMachine", "vm-0")).await.map(drop);
    site.asked("gone_vm", "RetrievePropertiesEx", vm)?;
    let snapshot = client.snapshot_devices(&none("VirtualMachineSnapshot", "snapshot-0")).await.map(drop);
    site.asked("gone_snapshot", "RetrievePropertiesEx", snapshot)?;
    let host = client.host(&none("HostSystem", "host-0")).await.map(drop);
    site.asked("gone_host", "RetrievePropertiesEx", host)?;
    let store = client.datastore(&none("Datastore", "datastore-0")).await.map(drop);
    site.asked("gone_datastore", "RetrievePropertiesEx", store)
}

/// Maps of changed areas, of a disk that the snapshot froze.
pub(crate) async fn areas(
    site: &mut Site<'_>,
    vm: &MoRef,
    snapshot: &MoRef,
    key: i32,
    capacity: u64,
) -> Result<(), Error> {
    for (question, key, start, change) in [
        ("areas_in_use", key, 0, "*"),
        ("areas_at_the_end", key, capacity, "*"),
        ("areas_of_no_disk", NO_DISK, 0, "*"),
        ("areas_since_a_foreign_change", key, 0, FOREIGN_CHANGE),
    ] {
        let told = site.client.changed_disk_areas(vm, snapshot, key, start, change).await.map(drop);
        site.asked(question, "QueryChangedDiskAreas", told)?;
    }
    Ok(())
}

/// Removes what was just proven to be gone.
pub(crate) async fn removal_again(site: &mut Site<'_>, snapshot: &MoRef) -> Result<(), Error> {
    let told = site.client.remove_snapshot(snapshot, true).await.map(drop);
    site.asked("gone_snapshot_removed", "RemoveSnapshot_Task", told)
}

impl Site<'_> {
    fn asked(&mut self, question: &str, call: &str, told: Result<(), Error>) -> Result<(), Error> {
        let fault = match told {
            Ok(()) => self.fault(question, call, None),
            Err(e) => match e.fault() {
                Some(fault) => self.fault(question, call, Some(fault)),
                // An answer in another form is an answer.
                None if *e.kind() == ErrorKind::Protocol => doc::Fault {
                    question: question.to_owned(),
                    call: call.to_owned(),
                    kind: Some("other".to_owned()),
                    message: String::new(),
                    causes: Vec::new(),
                },
                None => return Err(e),
            },
        };
        self.document.faults.push(fault);
        Ok(())
    }

    pub(crate) fn fault(&self, question: &str, call: &str, fault: Option<&Fault>) -> doc::Fault {
        let text = |said: &String| self.hidden.text(said);
        doc::Fault {
            question: question.to_owned(),
            call: call.to_owned(),
            kind: fault.map(|fault| redact::word(&fault.type_name)),
            message: fault.map(|fault| text(&fault.message)).unwrap_or_default(),
            causes: fault.iter().flat_map(|fault| &fault.fault_messages).map(text).collect(),
        }
    }
}
