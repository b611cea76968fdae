//! Permissions by object: what is given on a child replaces what its parents hand down, who may not see an object does not, and another
//! account has its own.

use crate::common::{Lab, between};
use serde_json::{Value, json};

const AM: &str = "AuthorizationManager";
const SNAPSHOT: &str = "<name>s</name><memory>false</memory><quiesce>false</quiesce>";
const CREATE: &str = "VirtualMachine.State.CreateSnapshot";

async fn give(lab: &mut Lab, permissions: Value) {
    lab.ctl.call(json!({"cmd": "set_permissions", "permissions": permissions})).await.unwrap();
}

fn role(on: &str, privileges: &[&str], propagate: bool) -> Value {
    json!({"on": on, "privileges": privileges, "propagate": propagate})
}

/// Whether a snapshot may be taken of the VM.
async fn may(lab: &mut Lab, vm: &str) -> bool {
    let id = lab.vm(vm).await;
    let (status, text) = lab.call("VirtualMachine", &id, "CreateSnapshot_Task", SNAPSHOT).await.unwrap();
    if status == 200 {
        let task = between(&text, "<returnval type=\"Task\">", "<").to_owned();
        lab.wait(&task).await.unwrap();
        return true;
    }
    assert!(text.contains("NoPermission") && text.contains(CREATE) && text.contains(&id), "{text}");
    false
}

#[tokio::test]
async fn a_childs_permission_replaces_its_parents() {
    let mut lab = Lab::new().await;
    give(&mut lab, json!([role("root", &[CREATE], true)])).await;
    assert!(may(&mut lab, "web").await);
    give(&mut lab, json!([role("root", &[CREATE], false)])).await;
    assert!(!may(&mut lab, "web").await, "it does not propagate");
    give(&mut lab, json!([role("root", &[CREATE], true), role("web", &["System.Read"], false)])).await;
    assert!(!may(&mut lab, "web").await, "the VM has its own");
    assert!(may(&mut lab, "off").await, "another has not");
    give(&mut lab, json!([role("datacenter", &["System.Read"], true), role("web", &[CREATE], false)])).await;
    assert!(may(&mut lab, "web").await && !may(&mut lab, "off").await);
    give(&mut lab, Value::Null).await;
    assert!(may(&mut lab, "off").await, "an administrator");
    assert!(lab.ctl.call(json!({"cmd": "set_permissions", "permissions": [role("nobody", &[], true)]})).await.is_err());
    lab.shutdown().await;
}

#[tokio::test]
async fn what_one_may_not_see_is_not_there() {
    let mut lab = Lab::new().await;
    let (web, off) = (lab.vm("web").await, lab.vm("off").await);
    give(&mut lab, json!([role("root", &["System.Read"], true), role("off", &[], false)])).await;
    let view = lab
        .ok(
            "ViewManager",
            "ViewManager",
            "CreateContainerView",
            "<container type=\"Folder\">group-d1</container><recursive>true</recursive>",
        )
        .await;
    let view = between(&view, "<returnval type=\"ContainerView\">", "<").to_owned();
    let spec = format!(
        "<specSet><propSet><type>VirtualMachine</type><pathSet>name</pathSet></propSet><objectSet><obj type=\"ContainerView\">{view}</obj>\
         <skip>true</skip><selectSet xsi:type=\"TraversalSpec\"><type>ContainerView</type><path>view</path></selectSet></objectSet></specSet>\
         <options/>"
    );
    let told = lab.ok("PropertyCollector", "propertyCollector", "RetrievePropertiesEx", &spec).await;
    assert!(told.contains(&web) && !told.contains(&off), "{told}");
    let (fault, text) = lab.fault("VirtualMachine", &off, "Fetch", "<prop>name</prop>").await;
    assert!(fault == "NoPermission" && text.contains("System.Read"), "{text}");
    lab.shutdown().await;
}

#[tokio::test]
async fn privileges_are_told_of_the_session_that_is_named() {
    let mut lab = Lab::new().await;
    let web = lab.vm("web").await;
    let account =
        json!({"cmd": "add_account", "user": "job", "password": "pw", "permissions": [role("root", &[CREATE], true)]});
    lab.ctl.call(account).await.unwrap();
    give(&mut lab, json!([role("root", &["VApp.Export"], true)])).await;
    let own = lab.fetch("SessionManager", "SessionManager", "currentSession").await;
    let own = between(&own, "<key>", "<").to_owned();
    let cookie = std::mem::take(&mut lab.cookie);
    let args = "<userName>job</userName><password>pw</password>";
    let job = lab.ok("SessionManager", "SessionManager", "Login", args).await;
    let job = between(&job, "<key>", "<").to_owned();
    assert!(may(&mut lab, "web").await, "the job's own account");
    lab.cookie = cookie;
    assert!(!may(&mut lab, "web").await);
    for (key, granted) in [(own.as_str(), "VApp.Export"), (job.as_str(), CREATE), ("no-session", "none")] {
        let args = format!(
            "<entity type=\"VirtualMachine\">{web}</entity><sessionId>{key}</sessionId><privId>VApp.Export</privId><privId>{CREATE}</privId>"
        );
        let told = lab.ok(AM, AM, "HasPrivilegeOnEntities", &args).await;
        for id in ["VApp.Export", CREATE] {
            let expected = format!("<privId>{id}</privId><isGranted>{}</isGranted>", id == granted);
            assert!(told.contains(&expected), "{key} {id}: {told}");
        }
    }
    lab.shutdown().await;
}
