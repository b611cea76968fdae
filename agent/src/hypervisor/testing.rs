//! What several tests of this module build. Compiled for tests only.
use hotadd_vsphere as vim;

pub(super) fn fault(type_name: &str, kind: vim::FaultKind) -> vim::Fault {
    vim::Fault {
        kind,
        type_name: type_name.into(),
        message: String::new(),
        fault_messages: Vec::new(),
        device_index: None,
        file: None,
        datastore: None,
        source: None,
    }
}
