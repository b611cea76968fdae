//! Each fault as vCenter sends it, in a SOAP fault and in a task.

use super::*;
use crate::xml::parse;

const XSI: &str = "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"";

fn soap(type_name: &str, inner: &str) -> Fault {
    let text = format!(
        "<Fault {XSI}><faultcode>ServerFaultCode</faultcode><faultstring>It broke.</faultstring><detail>\
         <{type_name}Fault xmlns=\"urn:vim25\" xsi:type=\"{type_name}\">{inner}</{type_name}Fault></detail></Fault>"
    );
    Fault::from_soap(&parse(&text).unwrap())
}

fn localized(type_name: &str, inner: &str) -> Fault {
    let text = format!(
        "<error {XSI}><fault xsi:type=\"{type_name}\">{inner}</fault><localizedMessage>It broke.</localizedMessage></error>"
    );
    Fault::from_localized(&parse(&text).unwrap())
}

#[test]
fn every_plain_kind_both_ways() {
    for name in SIMPLE {
        for fault in [soap(name, ""), localized(name, "")] {
            assert_eq!(format!("{:?}", fault.kind), *name);
            assert_eq!((fault.type_name.as_str(), fault.message.as_str()), (*name, "It broke."));
        }
    }
}

#[test]
fn unknown_kinds_keep_their_name() {
    assert_eq!(soap("FaultOfTomorrow", "").kind, FaultKind::Other("FaultOfTomorrow".to_owned()));
}

#[test]
fn without_a_type_the_element_names_the_fault() {
    let text = "<Fault><faultstring>x</faultstring><detail><InvalidLoginFault/></detail></Fault>";
    assert_eq!(Fault::from_soap(&parse(text).unwrap()).kind, FaultKind::InvalidLogin);
    let bare = Fault::from_soap(&parse("<Fault><faultstring>only words</faultstring></Fault>").unwrap());
    assert_eq!((bare.kind, bare.message.as_str()), (FaultKind::Other(String::new()), "only words"));
    assert_eq!(Fault::from_localized(&parse("<error/>").unwrap()).kind, FaultKind::Other(String::new()));
}

#[test]
fn no_permission_names_object_and_privilege() {
    let inner =
        "<object type=\"VirtualMachine\">vm-7</object><privilegeId>VirtualMachine.Config.AddExistingDisk</privilegeId>";
    let fault = soap("NoPermission", inner);
    let expected = FaultKind::NoPermission {
        object: Some(MoRef::new("VirtualMachine", "vm-7")),
        privilege: Some("VirtualMachine.Config.AddExistingDisk".to_owned()),
    };
    assert_eq!(fault.kind, expected);
    let text = fault.to_string();
    assert!(text.contains("VirtualMachine.Config.AddExistingDisk") && text.contains("vm-7"), "{text}");
    let newer = "<missingPrivileges><entity type=\"VirtualMachine\">vm-7</entity><privilegeIds>\
                 VirtualMachine.Config.AddExistingDisk</privilegeIds><privilegeIds>X.Y</privilegeIds></missingPrivileges>";
    assert_eq!(soap("NoPermission", newer).kind, expected);
}

#[test]
fn faults_that_carry_an_object() {
    assert_eq!(
        soap("TaskInProgress", "<task type=\"Task\">task-3</task>").kind,
        FaultKind::TaskInProgress { task: Some(MoRef::new("Task", "task-3")) }
    );
    assert_eq!(soap("TaskInProgress", "<task></task>").kind, FaultKind::TaskInProgress { task: None });
    assert_eq!(
        soap("ManagedObjectNotFound", "<obj type=\"Task\">task-3</obj>").kind,
        FaultKind::ManagedObjectNotFound { object: Some(MoRef::new("Task", "task-3")) }
    );
    assert_eq!(
        soap("InvalidProperty", "<name>config.nonsense</name>").kind,
        FaultKind::InvalidProperty { name: Some("config.nonsense".to_owned()) }
    );
}

#[test]
fn device_index_file_and_the_vmx_text() {
    let fault = localized(
        "InvalidDeviceSpec",
        "<property>virtualDeviceSpec.device.backing</property><deviceIndex>3</deviceIndex>",
    );
    assert_eq!((fault.kind, fault.device_index), (FaultKind::InvalidDeviceSpec, Some(3)));
    assert_eq!(localized("InvalidDeviceSpec", "<deviceIndex>-1</deviceIndex>").device_index, None);
    assert_eq!(localized("FileLocked", "<file>[ds1] a/b.vmdk</file>").file.as_deref(), Some("[ds1] a/b.vmdk"));
    let inner = "<faultCause><fault xsi:type=\"FileLocked\"><faultMessage><key>k2</key></faultMessage></fault>\
                 <localizedMessage>cause</localizedMessage></faultCause><faultMessage><key>k1</key><arg><key>1</key></arg>\
                 <message>Failed to lock the file</message></faultMessage><reason>x</reason>";
    let fault = localized("GenericVmConfigFault", inner);
    assert_eq!(fault.fault_messages, ["Failed to lock the file", "cause", "k2"]);
    assert!(fault.to_string().contains("Failed to lock the file"));
}

#[test]
fn a_giant_message_is_clipped() {
    let text = format!("<error><fault/><localizedMessage>{}</localizedMessage></error>", "é".repeat(1_000_000));
    assert_eq!(Fault::from_localized(&parse(&text).unwrap()).message.chars().count(), 4096);
}
