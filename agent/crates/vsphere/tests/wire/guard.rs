//! Ending sessions on purpose, and disabling methods of an object.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, ErrorKind, FaultKind, Fenced};

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

/// A server that gives every login a key of its own: `key-0`, `key-1`, …; `script` goes first.
async fn keyed(script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> (Server, Client) {
    let logins = AtomicUsize::new(0);
    let server = Server::start(move |seen| {
        if let Some(reply) = script(seen) {
            return reply;
        }
        match seen.op.as_str() {
            "Login" => {
                let n = logins.fetch_add(1, Ordering::SeqCst);
                vim::login_as(n, &format!("key-{n}"))
            }
            _ => happy(seen),
        }
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn the_key_is_that_of_the_login_in_use() {
    let ended = AtomicBool::new(false);
    let (_server, client) = keyed(move |seen| {
        let now = seen.op == "CurrentTime" && !ended.swap(true, Ordering::SeqCst);
        now.then(vim::not_authenticated)
    })
    .await;
    assert_eq!(client.session_key().as_deref(), Some("key-0"));
    client.keep_alive().await.unwrap();
    assert_eq!(client.session_key().as_deref(), Some("key-1"), "the session had ended, this is another login");
    assert!(!format!("{client:?}").contains("key-1"), "not for logs");
}

#[tokio::test]
async fn another_session_is_terminated_by_its_key() {
    let (server, client) = keyed(|_| None).await;
    assert_eq!(client.fence("key-77").await.unwrap(), Fenced::Ended);
    assert_eq!((server.count("TerminateSession"), server.count("Logout"), server.count("Login")), (1, 0, 1));
    assert_eq!(client.session_key().as_deref(), Some("key-0"));
}

#[tokio::test]
async fn a_session_that_is_not_there_has_ended_already() {
    let (_server, client) =
        keyed(|seen| (seen.op == "TerminateSession").then(|| vim::fault("NotFound", "", "not found"))).await;
    assert_eq!(client.fence("key-77").await.unwrap(), Fenced::Already);
}

#[tokio::test]
async fn a_missing_privilege_is_told_as_it_is() {
    let inner = "<object type=\"Folder\">group-d1</object><privilegeId>Sessions.TerminateSession</privilegeId>";
    let (_server, client) =
        keyed(move |seen| (seen.op == "TerminateSession").then(|| vim::fault("NoPermission", inner, "denied"))).await;
    let error = client.fence("key-77").await.unwrap_err();
    let fault = error.fault().unwrap();
    let expected = FaultKind::NoPermission {
        object: Some(hotadd_vsphere::MoRef::new("Folder", "group-d1")),
        privilege: Some("Sessions.TerminateSession".to_owned()),
    };
    assert_eq!(fault.kind, expected);
}

#[tokio::test]
async fn the_own_session_is_replaced_by_a_new_login() {
    let (server, client) = keyed(|_| None).await;
    client.keep_alive().await.unwrap();
    let before = server.last("CurrentTime").cookie;
    assert_eq!(client.fence("key-0").await.unwrap(), Fenced::Ended);
    assert_eq!(server.last("Logout").cookie, before, "the session that ends is the one in use");
    assert_eq!(client.session_key().as_deref(), Some("key-1"));
    client.keep_alive().await.unwrap();
    assert_ne!(server.last("CurrentTime").cookie, before);
    assert_eq!((server.count("TerminateSession"), server.count("Login")), (0, 2));
    // What was fenced is another one's now: not a second logout.
    assert_eq!(client.fence("key-0").await.unwrap(), Fenced::Ended);
    assert_eq!((server.count("TerminateSession"), server.count("Logout")), (1, 1));
}

#[tokio::test]
async fn calls_of_a_fenced_session_go_on_under_the_new_login() {
    // Only the cookie of the second login is good once the first was logged out.
    let out = AtomicBool::new(false);
    let (server, client) = keyed(move |seen| match seen.op.as_str() {
        "Logout" => {
            out.store(true, Ordering::SeqCst);
            None
        }
        "FindAllByUuid" if out.load(Ordering::SeqCst) && seen.cookie.contains("sess-0") => {
            Some(vim::not_authenticated())
        }
        _ => None,
    })
    .await;
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.find_vms_by_uuid("x", false).await })
        })
        .collect();
    assert_eq!(client.fence("key-0").await.unwrap(), Fenced::Ended);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(server.count("Login"), 2, "one at connect, one for all");
}

#[tokio::test]
async fn an_own_session_that_had_ended_is_told_so() {
    let (server, client) = keyed(|seen| (seen.op == "Logout").then(vim::not_authenticated)).await;
    assert_eq!(client.fence("key-0").await.unwrap(), Fenced::Already);
    assert_eq!(server.count("Login"), 2);
}

#[tokio::test]
async fn a_logout_without_an_answer_is_no_fence() {
    let lost = AtomicBool::new(false);
    let (server, client) = keyed(move |seen| {
        let now = seen.op == "Logout" && !lost.swap(true, Ordering::SeqCst);
        now.then_some(Reply::Hangup)
    })
    .await;
    let error = client.fence("key-0").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unreachable, "{error}");
    assert_eq!((server.count("Login"), client.session_key().as_deref()), (1, Some("key-0")));
    assert_eq!(client.fence("key-0").await.unwrap(), Fenced::Ended, "asking again is safe");
}

#[tokio::test]
async fn a_method_that_someone_disabled_before() {
    let (_server, client) = keyed(|seen| match seen.op.as_str() {
        "DisableMethods" => Some(vim::fault("MethodAlreadyDisabledFault", "<sourceId>svmotion</sourceId>", "busy")),
        "ReconfigVM_Task" | "ConsolidateVMDisks_Task" => Some(vim::fault(
            "MethodDisabled",
            "<source>other-product</source>",
            "The method is disabled by 'other-product'",
        )),
        _ => None,
    })
    .await;
    let error = client.disable_methods(&vim::vm_ref(), &["RelocateVM_Task"], "r", "s").await.unwrap_err();
    assert_eq!(error.fault().unwrap().kind, FaultKind::MethodAlreadyDisabledFault);
    let error = client.consolidate_disks(&vim::vm_ref()).await.unwrap_err();
    let fault = error.fault().unwrap();
    assert_eq!((&fault.kind, fault.source.as_deref()), (&FaultKind::MethodDisabled, Some("other-product")));
}

#[tokio::test]
async fn a_guard_whose_answer_was_lost_is_unknown_and_not_repeated() {
    let (server, client) =
        keyed(|seen| matches!(seen.op.as_str(), "DisableMethods" | "EnableMethods").then_some(Reply::Hangup)).await;
    let error = client.disable_methods(&vim::vm_ref(), &["RelocateVM_Task"], "r", "s").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::UnknownOutcome, "{error}");
    let error = client.enable_methods(&vim::vm_ref(), &["RelocateVM_Task"], "s").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::UnknownOutcome, "{error}");
    assert_eq!((server.count("DisableMethods"), server.count("EnableMethods")), (1, 1));
}

#[tokio::test]
async fn a_server_without_the_manager_is_unsupported() {
    let (server, client) = keyed(|seen| {
        let Reply::Xml(status, body) = happy(seen) else { return None };
        let cut = body.replace(">AuthorizationManager</authorizationManager>", "></authorizationManager>");
        let cut = cut.replace("<authorizationManager type=\"AuthorizationManager\"></authorizationManager>", "");
        (seen.op == "RetrieveServiceContent").then_some(Reply::Xml(status, cut))
    })
    .await;
    let error = client.disable_methods(&vim::vm_ref(), &["RelocateVM_Task"], "r", "s").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(server.count("DisableMethods"), 0);
}
