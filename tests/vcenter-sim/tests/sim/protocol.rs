//! The wire: versions, sessions, strictness, property collector, faults of the connection.

use crate::common::{Lab, between, envelope};
use serde_json::json;

fn filter(vm: &str, path: &str) -> String {
    format!(
        "<spec><propSet><type>VirtualMachine</type><pathSet>{path}</pathSet></propSet>\
         <objectSet><obj type=\"VirtualMachine\">{vm}</obj></objectSet></spec><partialUpdates>false</partialUpdates>"
    )
}

const PC: (&str, &str) = ("PropertyCollector", "propertyCollector");

async fn updates(lab: &mut Lab, version: &str, seconds: u32) -> String {
    let args = format!("<version>{version}</version><options><maxWaitSeconds>{seconds}</maxWaitSeconds></options>");
    lab.ok(PC.0, PC.1, "WaitForUpdatesEx", &args).await
}

#[tokio::test]
async fn versions_are_offered_and_newer_ones_refused() {
    let mut lab = Lab::with(|o, _| o.api_version = "6.7".into()).await;
    let url = lab.running.as_ref().unwrap().url().replace("/sdk", "/sdk/vimServiceVersions.xml");
    let doc = lab.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(
        doc.contains("<name>urn:vim25</name>\n  <version>6.7</version>") && doc.contains("<version>6.5</version>"),
        "{doc}"
    );
    assert!(!doc.contains("7.0"));
    let body = envelope("ServiceInstance", "ServiceInstance", "RetrieveServiceContent", "");
    let (status, text) = lab.post("urn:vim25/8.0.2.0", body).await.unwrap();
    assert!(status == 500 && text.contains("Unsupported version URI"), "{text}");
    // Nothing newer than what was asked for is told.
    let id = lab.vm("proxy").await;
    let config = lab.fetch("VirtualMachine", &id, "config").await;
    assert!(config.contains("<createDate>") && !config.contains("<guestReadOnly>"));
    lab.version = "6.5".into();
    assert!(!lab.fetch("VirtualMachine", &id, "config").await.contains("<createDate>"), "createDate came with 6.7");
    lab.shutdown().await;
}

#[tokio::test]
async fn requests_are_held_to_the_schema() {
    let mut lab = Lab::new().await;
    let id = lab.vm("proxy").await;
    for args in [
        "<spec><bogus>1</bogus></spec>",
        "<spec><name>a</name><changeVersion>b</changeVersion></spec>",
        "<spec><memoryMB>many</memoryMB></spec>",
        "<spec><deviceChange><operation>attach</operation></deviceChange></spec>",
        "<spec><deviceChange><device xsi:type=\"VirtualDisk\"><capacityInKB>0</capacityInKB><key>1</key></device></deviceChange></spec>",
        "",
    ] {
        assert_eq!(lab.fault("VirtualMachine", &id, "ReconfigVM_Task", args).await.0, "InvalidRequest", "{args}");
    }
    assert_eq!(lab.fault("VirtualMachine", &id, "CreateScreenshot_Task", "").await.0, "MethodNotFound");
    assert_eq!(lab.fault("VirtualMachine", "vm-0", "PowerOnVM_Task", "").await.0, "ManagedObjectNotFound");
    let (status, _) = lab.post("urn:vim25/8.0.2.0", "<!DOCTYPE x [<!ENTITY a \"b\">]><x/>".into()).await.unwrap();
    assert_eq!(status, 500);
    lab.shutdown().await;
}

#[tokio::test]
async fn sessions_begin_and_end() {
    let mut lab = Lab::new().await;
    lab.ctl.end_sessions().await.unwrap();
    let id = lab.vm("proxy").await;
    assert_eq!(lab.fault("VirtualMachine", &id, "PowerOnVM_Task", "").await.0, "NotAuthenticated");
    lab.login().await;
    lab.ok("SessionManager", "SessionManager", "Logout", "").await;
    assert_eq!(lab.fault("SessionManager", "SessionManager", "Logout", "").await.0, "NotAuthenticated");
    let wrong = "<userName>administrator@vsphere.local</userName><password>no</password>";
    assert_eq!(lab.fault("SessionManager", "SessionManager", "Login", wrong).await.0, "InvalidLogin");
    let log = lab.ctl.call(json!({"cmd": "requests"})).await.unwrap().to_string();
    assert!(log.contains("[masked]") && !log.contains(">secret<"));
    lab.shutdown().await;
}

#[tokio::test]
async fn updates_have_versions_that_mean_something() {
    let mut lab = Lab::new().await;
    let id = lab.vm("off").await;
    lab.ok(PC.0, PC.1, "CreateFilter", &filter(&id, "runtime.powerState")).await;
    let first = updates(&mut lab, "", 1).await;
    assert!(first.contains("<kind>enter</kind>") && first.contains("poweredOff"));
    let v1 = between(&first, "<version>", "<").to_owned();
    assert!(!updates(&mut lab, &v1, 0).await.contains("returnval"), "nothing changed");
    lab.ctl.power("off", true).await.unwrap();
    let second = updates(&mut lab, &v1, 30).await;
    assert!(second.contains("<kind>modify</kind>") && second.contains("poweredOn"));
    // The answer was lost: the older version gets the same change again.
    assert!(updates(&mut lab, &v1, 1).await.contains("poweredOn"));
    let args = "<version>99</version>";
    assert_eq!(lab.fault(PC.0, PC.1, "WaitForUpdatesEx", args).await.0, "InvalidCollectorVersion");
    lab.shutdown().await;
}

#[tokio::test]
async fn a_long_poll_ends_when_something_changes() {
    let mut lab = Lab::new().await;
    let id = lab.vm("off").await;
    lab.ok(PC.0, PC.1, "CreateFilter", &filter(&id, "runtime.powerState")).await;
    let first = updates(&mut lab, "", 1).await;
    let v1 = between(&first, "<version>", "<").to_owned();
    let mut other = vcenter_sim::control::Control::connect(&lab.running.as_ref().unwrap().control).await.unwrap();
    let (text, powered) = tokio::join!(updates(&mut lab, &v1, 60), other.power("off", true));
    powered.unwrap();
    assert!(text.contains("poweredOn"));
    lab.shutdown().await;
}

#[tokio::test]
async fn answers_are_paged() {
    let mut lab = Lab::new().await;
    let traverse = "<specSet><propSet><type>ManagedEntity</type><pathSet>name</pathSet></propSet><objectSet>\
        <obj type=\"Folder\">group-v3</obj><skip>true</skip><selectSet xsi:type=\"TraversalSpec\"><name>f</name><type>Folder</type>\
        <path>childEntity</path><skip>false</skip></selectSet></objectSet></specSet>";
    let text = lab
        .ok(PC.0, PC.1, "RetrievePropertiesEx", &format!("{traverse}<options><maxObjects>2</maxObjects></options>"))
        .await;
    assert_eq!(text.matches("<objects>").count(), 2);
    let token = between(&text, "<token>", "<").to_owned();
    let next = lab.ok(PC.0, PC.1, "ContinueRetrievePropertiesEx", &format!("<token>{token}</token>")).await;
    assert_eq!(next.matches("<objects>").count(), 2);
    let last = between(&next, "<token>", "<").to_owned();
    assert_eq!(
        lab.fault(PC.0, PC.1, "ContinueRetrievePropertiesEx", &format!("<token>{token}</token>")).await.0,
        "InvalidArgument"
    );
    lab.ok(PC.0, PC.1, "CancelRetrievePropertiesEx", &format!("<token>{last}</token>")).await;
    lab.ctl.call(json!({"cmd": "deny_properties", "paths": ["name"]})).await.unwrap();
    let text = lab.ok(PC.0, PC.1, "RetrievePropertiesEx", &format!("{traverse}<options></options>")).await;
    assert!(text.contains("<missingSet><path>name</path><fault><fault xsi:type=\"NoPermission\">"), "{text}");
    lab.shutdown().await;
}

#[tokio::test]
async fn connection_faults_come_on_cue() {
    let mut lab = Lab::new().await;
    let id = lab.vm("off").await;
    lab.ctl.fault("PowerOnVM_Task", json!({"kind": "drop_reply"})).await.unwrap();
    assert!(lab.call("VirtualMachine", &id, "PowerOnVM_Task", "").await.is_err(), "no answer");
    while !lab.ctl.call(json!({"cmd": "state"})).await.unwrap().to_string().contains("\"name\":\"off\",\"on\":true") {
        tokio::task::yield_now().await;
    }
    lab.ctl.fault("PowerOffVM_Task", json!({"kind": "late_land", "ms": 20})).await.unwrap();
    assert!(lab.call("VirtualMachine", &id, "PowerOffVM_Task", "").await.is_err());
    while lab.ctl.call(json!({"cmd": "state"})).await.unwrap().to_string().contains("\"name\":\"off\",\"on\":true") {
        tokio::task::yield_now().await;
    }
    lab.ctl.fault("Fetch", json!({"kind": "fault", "fault": "HostCommunication", "nth": 2})).await.unwrap();
    lab.fetch("VirtualMachine", &id, "name").await;
    assert_eq!(lab.fault("VirtualMachine", &id, "Fetch", "<prop>name</prop>").await.0, "HostCommunication");
    lab.ctl.fault("Fetch", json!({"kind": "http_500"})).await.unwrap();
    assert_eq!(lab.call("VirtualMachine", &id, "Fetch", "<prop>name</prop>").await.unwrap().0, 503);
    lab.ctl.fault("Fetch", json!({"kind": "huge", "bytes": 1_000_000})).await.unwrap();
    assert!(lab.call("VirtualMachine", &id, "Fetch", "<prop>name</prop>").await.unwrap().1.len() > 1_000_000);
    assert!(lab.ctl.fault("Fetch", json!({"kind": "fault", "fault": "NoSuchFault"})).await.is_err());
    lab.ctl.restart().await.unwrap();
    assert_eq!(lab.fault("VirtualMachine", &id, "PowerOnVM_Task", "").await.0, "NotAuthenticated");
    lab.shutdown().await;
}
