//! Clone tickets: once, in time, of a session that lives, and of its user.

use crate::common::{Lab, between};
use serde_json::json;

const SM: (&str, &str) = ("SessionManager", "SessionManager");

async fn ticket(lab: &mut Lab) -> String {
    let text = lab.ok(SM.0, SM.1, "AcquireCloneTicket", "").await;
    between(&text, "<returnval>", "<").to_owned()
}

/// Without a session of its own; the fault's type, if it is refused.
async fn clone(lab: &mut Lab, ticket: &str) -> Result<String, String> {
    let own = std::mem::take(&mut lab.cookie);
    let args = format!("<cloneTicket>{ticket}</cloneTicket>");
    let (status, text) = lab.call(SM.0, SM.1, "CloneSession", &args).await.unwrap();
    lab.cookie = own;
    if status == 200 { Ok(text) } else { Err(between(&text, "xsi:type=\"", "\"").to_owned()) }
}

#[tokio::test]
async fn a_ticket_clones_the_session_of_its_user_once() {
    let mut lab = Lab::new().await;
    let first = ticket(&mut lab).await;
    let told = clone(&mut lab, &first).await.unwrap();
    let own = lab.fetch(SM.0, SM.1, "currentSession").await;
    assert_eq!(between(&told, "<userName>", "<"), between(&own, "<userName>", "<"));
    assert_ne!(between(&told, "<key>", "<"), between(&own, "<key>", "<"), "a session of its own");
    let invalid = Err("InvalidLogin".to_owned());
    assert_eq!(clone(&mut lab, &first).await.map(drop), invalid, "used");
    assert_eq!(clone(&mut lab, "cst-none").await.map(drop), invalid, "none at all");
    lab.ctl.call(json!({"cmd": "set_ticket_ms", "ms": 0})).await.unwrap();
    let expired = ticket(&mut lab).await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    assert_eq!(clone(&mut lab, &expired).await.map(drop), invalid, "expired");
    lab.ctl.call(json!({"cmd": "set_ticket_ms", "ms": 60_000})).await.unwrap();
    let orphan = ticket(&mut lab).await;
    lab.ctl.call(json!({"cmd": "end_sessions"})).await.unwrap();
    assert_eq!(clone(&mut lab, &orphan).await.map(drop), invalid, "of a session that has ended");
    let requests = lab.ctl.call(json!({"cmd": "requests"})).await.unwrap().to_string();
    assert!(requests.contains("CloneSession") && !requests.contains(&first), "tickets are not noted");
    lab.shutdown().await;
}

#[tokio::test]
async fn who_is_not_logged_in_gets_none() {
    let mut lab = Lab::new().await;
    lab.cookie.clear();
    assert_eq!(lab.fault(SM.0, SM.1, "AcquireCloneTicket", "").await.0, "NotAuthenticated");
    lab.login().await;
    lab.shutdown().await;
}

#[tokio::test]
async fn a_session_ends_on_cue_for_one_user_only() {
    let mut lab = Lab::new().await;
    let id = lab.vm("proxy").await;
    let cue = |user: &str| json!({"kind": "end_session", "user": user});
    lab.ctl.fault("Fetch", cue("somebody@else")).await.unwrap();
    lab.fetch("VirtualMachine", &id, "name").await;
    lab.ctl.call(json!({"cmd": "clear_faults"})).await.unwrap();
    let own = lab.fetch(SM.0, SM.1, "currentSession").await;
    lab.ctl.fault("Fetch", cue(between(&own, "<userName>", "<"))).await.unwrap();
    assert_eq!(lab.fault("VirtualMachine", &id, "Fetch", "<prop>name</prop>").await.0, "NotAuthenticated");
    assert_eq!(lab.fault("VirtualMachine", &id, "Fetch", "<prop>name</prop>").await.0, "NotAuthenticated", "for good");
    lab.login().await;
    lab.shutdown().await;
}
