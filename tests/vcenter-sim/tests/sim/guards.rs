//! Sessions by key, late requests and the fence, outages, and methods that are switched off.

use std::time::{Duration, Instant};

use crate::common::{Lab, add, between};
use serde_json::{Value, json};

const SM: (&str, &str) = ("SessionManager", "SessionManager");
const AM: &str = "AuthorizationManager";

/// Waits until no request is on its way, then tells what became of them.
async fn landings(lab: &mut Lab) -> Vec<Value> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let told = lab.ctl.call(json!({"cmd": "landings"})).await.unwrap();
        if told["pending"] == 0 {
            return told["landings"].as_array().unwrap().clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("a request is on its way for ever");
}

async fn own_key(lab: &mut Lab) -> String {
    let text = lab.fetch(SM.0, SM.1, "currentSession").await;
    between(&text, "<key>", "<").to_owned()
}

#[tokio::test]
async fn a_session_is_terminated_by_its_key() {
    let mut lab = Lab::new().await;
    let (first, cookie) = (own_key(&mut lab).await, lab.cookie.clone());
    lab.login().await;
    let terminate = |key: &str| format!("<sessionId>{key}</sessionId>");
    let own = own_key(&mut lab).await;
    assert_eq!(lab.fault(SM.0, SM.1, "TerminateSession", &terminate(&own)).await.0, "InvalidArgument");
    lab.ok(SM.0, SM.1, "TerminateSession", &terminate(&first)).await;
    assert_eq!(lab.fault(SM.0, SM.1, "TerminateSession", &terminate(&first)).await.0, "NotFound");
    lab.ctl.call(json!({"cmd": "set_privileges", "privileges": ["System.Read"]})).await.unwrap();
    let (fault, text) = lab.fault(SM.0, SM.1, "TerminateSession", &terminate("x")).await;
    assert!(fault == "NoPermission" && text.contains("Sessions.TerminateSession"), "{text}");
    lab.ctl.call(json!({"cmd": "set_privileges", "privileges": null})).await.unwrap();
    let (id, live) = (lab.vm("proxy").await, std::mem::replace(&mut lab.cookie, cookie));
    assert_eq!(lab.fault("VirtualMachine", &id, "PowerOnVM_Task", "").await.0, "NotAuthenticated");
    lab.cookie = live;
    assert_eq!(lab.ctl.call(json!({"cmd": "sessions"})).await.unwrap()["sessions"][0]["key"], json!(own));
    lab.shutdown().await;
}

/// One late attach whose session has ended when it lands: is it refused?
async fn lands_after_the_end(fenced: Option<bool>, switch: bool) -> Value {
    let mut lab = Lab::new().await;
    lab.ctl.call(json!({"cmd": "set_fence", "on": switch})).await.unwrap();
    let mut cue = json!({"kind": "late_land", "ms": 200});
    if let Some(f) = fenced {
        cue["fenced"] = json!(f);
    }
    lab.ctl.fault("ReconfigVM_Task", cue).await.unwrap();
    let id = lab.vm("proxy").await;
    let spec = format!("<spec>{}</spec>", add("[ds1] old/old.vmdk", 1000, 3));
    assert!(lab.call("VirtualMachine", &id, "ReconfigVM_Task", &spec).await.is_err(), "no answer");
    let key = own_key(&mut lab).await;
    lab.login().await;
    lab.ok(SM.0, SM.1, "TerminateSession", &format!("<sessionId>{key}</sessionId>")).await;
    let all = landings(&mut lab).await;
    assert_eq!((all.len(), &all[0]["method"]), (1, &json!("ReconfigVM_Task")));
    if let Some(task) = all[0]["task"].as_str() {
        lab.wait(task).await.unwrap();
    }
    let landed = lab.ctl.attached("proxy").await.unwrap().len() == 3;
    assert_eq!(landed, all[0]["fault"].is_null());
    lab.shutdown().await;
    all[0]["fault"].clone()
}

#[tokio::test]
async fn a_late_request_of_an_ended_session_lands_or_not_as_told() {
    let refused = json!("NotAuthenticated");
    assert_eq!(lands_after_the_end(None, false).await, Value::Null, "hostile by default");
    assert_eq!(lands_after_the_end(Some(true), false).await, refused);
    assert_eq!(lands_after_the_end(None, true).await, refused);
    assert_eq!(lands_after_the_end(Some(false), true).await, Value::Null, "the request's own word wins");
}

#[tokio::test]
async fn a_late_request_of_a_live_session_lands() {
    let mut lab = Lab::new().await;
    lab.ctl.fault("ReconfigVM_Task", json!({"kind": "late_land", "ms": 50, "fenced": true})).await.unwrap();
    let id = lab.vm("proxy").await;
    let spec = format!("<spec>{}</spec>", add("[ds1] old/old.vmdk", 1000, 3));
    assert!(lab.call("VirtualMachine", &id, "ReconfigVM_Task", &spec).await.is_err());
    assert_eq!(landings(&mut lab).await[0]["fault"], Value::Null);
    lab.shutdown().await;
}

#[tokio::test]
async fn while_vcenter_is_away_connections_are_refused_and_tasks_go_on() {
    let mut lab = Lab::new().await;
    lab.ctl.call(json!({"cmd": "set_task_ms", "ms": 100})).await.unwrap();
    let id = lab.vm("proxy").await;
    let spec = format!("<spec>{}</spec>", add("[ds1] old/old.vmdk", 1000, 3));
    lab.ok("VirtualMachine", &id, "ReconfigVM_Task", &spec).await;
    lab.ctl.call(json!({"cmd": "vc_down", "ms": 600_000})).await.unwrap();
    let error = lab.call("VirtualMachine", &id, "Fetch", "<prop>name</prop>").await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let until = Instant::now() + Duration::from_secs(60);
    while lab.ctl.attached("proxy").await.unwrap().len() != 3 {
        assert!(Instant::now() < until, "the task did not go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.ctl.call(json!({"cmd": "vc_down", "ms": 0})).await.unwrap();
    assert!(lab.fetch("VirtualMachine", &id, "name").await.contains("proxy"), "the session is still there");
    // An outage ends by itself, on the same port.
    lab.ctl.call(json!({"cmd": "vc_down", "ms": 50})).await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while lab.call("VirtualMachine", &id, "Fetch", "<prop>name</prop>").await.is_err() {
        assert!(Instant::now() < until, "vCenter does not come back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.shutdown().await;
}

#[tokio::test]
async fn a_restart_that_takes_a_while_forgets_sessions_and_tasks() {
    let mut lab = Lab::new().await;
    lab.ctl.call(json!({"cmd": "set_task_ms", "ms": 100})).await.unwrap();
    let id = lab.vm("proxy").await;
    let spec = format!("<spec>{}</spec>", add("[ds1] old/old.vmdk", 1000, 3));
    let text = lab.ok("VirtualMachine", &id, "ReconfigVM_Task", &spec).await;
    let task = between(&text, "<returnval type=\"Task\">", "<").to_owned();
    lab.ctl.call(json!({"cmd": "restart", "down_ms": 600_000})).await.unwrap();
    assert!(lab.call(SM.0, SM.1, "Logout", "").await.unwrap_err().is_connect());
    lab.ctl.call(json!({"cmd": "vc_down", "ms": 0})).await.unwrap();
    assert_eq!(lab.fault("VirtualMachine", &id, "PowerOnVM_Task", "").await.0, "NotAuthenticated");
    lab.login().await;
    assert_eq!(lab.fault("Task", &task, "Fetch", "<prop>info</prop>").await.0, "ManagedObjectNotFound");
    let until = Instant::now() + Duration::from_secs(60);
    while lab.ctl.attached("proxy").await.unwrap().len() != 3 {
        assert!(Instant::now() < until, "its work goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.shutdown().await;
}

/// A call in the namespace of the internal interface.
async fn internal(lab: &mut Lab, method: &str, args: &str) -> Result<(), String> {
    let body = crate::common::envelope(AM, AM, method, args).replace("urn:vim25\"", "urn:internalvim25\"");
    let action = format!("urn:vim25/{}", lab.version);
    let (status, text) = lab.post(&action, body).await.unwrap();
    if status == 200 {
        assert!(text.contains(&format!("<{method}Response xmlns=\"urn:vim25\">")), "{text}");
        return Ok(());
    }
    Err(between(&text[text.find("<detail>").unwrap()..], "xsi:type=\"", "\"").to_owned())
}

fn disable(vm: &str, methods: &[&str], source: &str) -> String {
    let list: String =
        methods.iter().map(|m| format!("<method><method>{m}</method><reasonId>why</reasonId></method>")).collect();
    format!("<entity type=\"VirtualMachine\">{vm}</entity>{list}<sourceId>{source}</sourceId>")
}

fn enable(vm: &str, methods: &[&str], source: &str) -> String {
    let list: String = methods.iter().map(|m| format!("<method>{m}</method>")).collect();
    format!("<entity type=\"VirtualMachine\">{vm}</entity>{list}<sourceId>{source}</sourceId>")
}

#[tokio::test]
async fn methods_are_disabled_by_source() {
    let mut lab = Lab::new().await;
    let id = lab.vm("old").await;
    let all = ["RelocateVM_Task", "Destroy_Task", "RemoveSnapshot_Task"];
    internal(&mut lab, "DisableMethods", &disable(&id, &all, "me")).await.unwrap();
    let told = lab.fetch("VirtualMachine", &id, "disabledMethod").await;
    assert!(all.iter().all(|m| told.contains(&format!(">{m}<"))), "{told}");
    let (fault, text) = lab.fault("VirtualMachine", &id, "Destroy_Task", "").await;
    assert!(fault == "MethodDisabled" && text.contains("<source>me</source>"), "{text}");
    let snap = lab.ctl.snapshots("old").await.unwrap().remove(0);
    let args = "<removeChildren>false</removeChildren>";
    assert_eq!(lab.fault("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", args).await.0, "MethodDisabled");
    for source in ["me", "another"] {
        let again =
            internal(&mut lab, "DisableMethods", &disable(&id, &["Destroy_Task", "UnregisterVM"], source)).await;
        assert_eq!(again.unwrap_err(), "MethodAlreadyDisabledFault");
    }
    assert!(!lab.fetch("VirtualMachine", &id, "disabledMethod").await.contains("UnregisterVM"), "all or nothing");
    internal(&mut lab, "EnableMethods", &enable(&id, &all, "another")).await.expect("no error, no effect");
    lab.ctl.restart().await.unwrap();
    lab.login().await;
    let list = lab.ctl.call(json!({"cmd": "methods", "vm": "old"})).await.unwrap();
    let first = json!({"vm": "old", "method": "RelocateVM_Task", "source": "me", "reason": "why"});
    assert_eq!((list["methods"].as_array().unwrap().len(), &list["methods"][0]), (3, &first), "outlives a restart");
    internal(&mut lab, "EnableMethods", &enable(&id, &all, "me")).await.unwrap();
    assert_eq!(lab.ctl.call(json!({"cmd": "methods"})).await.unwrap()["methods"], json!([]));
    let text = lab.fault("VirtualMachineSnapshot", &snap, "NoSuch_Task", "").await.0;
    assert_eq!(text, "MethodNotFound");
    lab.task("VirtualMachineSnapshot", &snap, "RemoveSnapshot_Task", args).await.unwrap();
    lab.shutdown().await;
}

#[tokio::test]
async fn what_is_no_guard_must_not_look_like_one() {
    let mut lab = Lab::new().await;
    let id = lab.vm("old").await;
    let misspelt = disable(&id, &["RelocateVm_Task"], "me");
    assert_eq!(internal(&mut lab, "DisableMethods", &misspelt).await.unwrap_err(), "InvalidArgument");
    let gone = disable("vm-0", &["RelocateVM_Task"], "me");
    assert_eq!(internal(&mut lab, "DisableMethods", &gone).await.unwrap_err(), "ManagedObjectNotFound");
    let good = disable(&id, &["RelocateVM_Task"], "me");
    assert_eq!(lab.fault(AM, AM, "DisableMethods", &good).await.0, "MethodNotFound", "not in urn:vim25");
    assert_eq!(internal(&mut lab, "HasPrivilegeOnEntities", "").await.unwrap_err(), "MethodNotFound");
    lab.ctl.call(json!({"cmd": "set_privileges", "privileges": ["System.Read"]})).await.unwrap();
    assert_eq!(internal(&mut lab, "DisableMethods", &good).await.unwrap_err(), "NotEnoughLicenses", "misleading");
    let good = enable(&id, &["RelocateVM_Task"], "me");
    assert_eq!(internal(&mut lab, "EnableMethods", &good).await.unwrap_err(), "NotEnoughLicenses");
    assert_eq!(lab.ctl.call(json!({"cmd": "methods"})).await.unwrap()["methods"], json!([]));
    lab.shutdown().await;
}
