//! Sessions that are cloned from a ticket: their own cookie, their one end, and where the ticket must not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, Cloned, DeviceChanges, ErrorKind, FaultKind};
use secrecy::{ExposeSecret as _, SecretString};

const TICKET: &str = "cst-VCT-canary&<>-7";

/// The root folder's name, by which a clone is kept alive.
const ROOT: &str = "<returnval><objects><obj type=\"Folder\">group-d1</obj><propSet><name>name</name><val \
    xsi:type=\"xsd:string\">Datacenters</val></propSet></objects></returnval>";

/// The same, asked without a session.
const NO_SESSION: &str = "<returnval><objects><obj type=\"Folder\">group-d1</obj><missingSet><path>name</path><fault><fault \
    xsi:type=\"NotAuthenticated\"><object type=\"Folder\">group-d1</object><privilegeId>System.View</privilegeId></fault>\
    <localizedMessage>The session is not authenticated.</localizedMessage></fault></missingSet></objects></returnval>";

fn ticket() -> SecretString {
    TICKET.to_owned().into()
}

/// The login is `sess-0`, the clone `sess-1`; every call of one whose flag is set is NotAuthenticated.
async fn cloned() -> (Server, Client, Cloned, Arc<AtomicBool>) {
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let server = Server::start(move |seen: &Seen| match seen.op.as_str() {
        "Login" => vim::login_as(0, "key-of-the-account"),
        "CloneSession" => renamed(vim::login_as(1, "key-of-the-clone"), "Login", "CloneSession"),
        "AcquireCloneTicket" => {
            vim::answer("AcquireCloneTicket", "<returnval>cst-VCT-canary&amp;&lt;&gt;-7</returnval>")
        }
        _ if ended.load(Ordering::SeqCst) && seen.cookie.contains("sess-1") => vim::not_authenticated(),
        "RetrievePropertiesEx" if seen.body.contains("type=\"Folder\"") => vim::answer("RetrievePropertiesEx", ROOT),
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let cloned = client.clone_session(&ticket()).await.unwrap();
    (server, client, cloned, over)
}

fn renamed(reply: Reply, from: &str, to: &str) -> Reply {
    match reply {
        Reply::XmlWith(status, headers, body) => {
            Reply::XmlWith(status, headers, body.replace(&format!("{from}Response"), &format!("{to}Response")))
        }
        other => other,
    }
}

#[tokio::test]
async fn a_clone_has_its_own_cookie_and_key_and_the_account_keeps_its() {
    let (server, client, Cloned { client: clone, user }, _) = cloned().await;
    let sent = server.last("CloneSession");
    assert!(sent.cookie.is_empty(), "by a connection that is nobody's: {:?}", sent.cookie);
    assert!(sent.body.contains("<cloneTicket>cst-VCT-canary&amp;&lt;&gt;-7</cloneTicket>"), "{}", sent.body);
    assert_eq!((user.as_str(), clone.session_key().as_deref()), ("backup", Some("key-of-the-clone")));
    assert_eq!(client.session_key().as_deref(), Some("key-of-the-account"));
    clone.find_vms_by_uuid("x", false).await.unwrap();
    assert!(server.last("FindAllByUuid").cookie.contains("sess-1"));
    client.find_vms_by_uuid("x", false).await.unwrap();
    assert!(server.last("FindAllByUuid").cookie.contains("sess-0"));
    assert_eq!(client.clone_ticket().await.unwrap().expose_secret(), TICKET);
    let debug = format!("{clone:?} {client:?}");
    assert!(!debug.contains("key-of") && !debug.contains("canary"), "{debug}");
}

#[tokio::test]
async fn a_clone_that_has_ended_never_logs_in_again() {
    let (server, client, Cloned { client: clone, .. }, over) = cloned().await;
    let told = clone.over();
    over.store(true, Ordering::SeqCst);
    let spec = vim::change(DeviceChanges::Add(vec![vim::add_disk(0)]));
    let error = clone.reconfigure(&hotadd_vsphere::MoRef::new("VirtualMachine", "vm-1"), &spec).await.unwrap_err();
    assert_eq!(error.fault().map(|fault| &fault.kind), Some(&FaultKind::NotAuthenticated));
    assert!(*told.borrow(), "its end is told");
    assert!(clone.keep_alive().await.is_err() && clone.proven_password().await.is_err());
    assert_eq!((server.count("Login"), server.count("ReconfigVM_Task")), (1, 1), "asked once, and by nobody else");
    assert!(!*client.over().borrow(), "the account's own session never ends for good");
    client.keep_alive().await.unwrap();
}

#[tokio::test]
async fn a_clone_is_asked_what_only_a_live_session_answers() {
    let (_server, _client, Cloned { client: clone, .. }, over) = cloned().await;
    clone.keep_alive().await.unwrap();
    over.store(true, Ordering::SeqCst);
    assert!(clone.keep_alive().await.is_err() && *clone.over().borrow());
}

/// As vCenter answers a read of properties without a session: with no value, and why.
#[tokio::test]
async fn an_end_that_is_told_by_a_missing_value_is_seen() {
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let server = Server::start(move |seen: &Seen| match seen.op.as_str() {
        "Login" => vim::login_as(if ended.load(Ordering::SeqCst) { 2 } else { 0 }, "key-of-the-account"),
        "CloneSession" => renamed(vim::login_as(1, "key-of-the-clone"), "Login", "CloneSession"),
        "RetrievePropertiesEx" if seen.body.contains("type=\"Folder\"") => {
            let gone = ended.load(Ordering::SeqCst) && !seen.cookie.contains("sess-2");
            vim::answer("RetrievePropertiesEx", if gone { NO_SESSION } else { ROOT })
        }
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let Cloned { client: clone, .. } = client.clone_session(&ticket()).await.unwrap();
    clone.keep_alive().await.unwrap();
    assert!(!*clone.over().borrow());
    over.store(true, Ordering::SeqCst);
    let error = clone.keep_alive().await.unwrap_err();
    assert_eq!(error.fault().map(|fault| &fault.kind), Some(&FaultKind::NotAuthenticated), "{error}");
    assert!(*clone.over().borrow());
    let folder = hotadd_vsphere::MoRef::new("Folder", "group-d1");
    client.datacenter_of(&folder).await.unwrap();
    assert_eq!(server.count("Login"), 2, "the account logs in again and asks once more");
}

/// Somebody was answered: the session lives, whatever is said of one path.
#[tokio::test]
async fn one_path_without_an_answer_ends_no_session() {
    let both = ROOT.replace(
        "</objects>",
        "<missingSet><path>parent</path><fault><fault xsi:type=\"NotAuthenticated\"/>\
        </fault></missingSet></objects>",
    );
    let server = Server::start(move |seen: &Seen| match seen.op.as_str() {
        "CloneSession" => renamed(vim::login_as(1, "key-of-the-clone"), "Login", "CloneSession"),
        "RetrievePropertiesEx" if seen.body.contains("type=\"Folder\"") => vim::answer("RetrievePropertiesEx", &both),
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let Cloned { client: clone, .. } = client.clone_session(&ticket()).await.unwrap();
    clone.keep_alive().await.unwrap();
    client.datacenter_of(&hotadd_vsphere::MoRef::new("Folder", "group-d1")).await.unwrap();
    assert!(!*clone.over().borrow());
    assert_eq!(server.count("Login"), 1);
}

/// A wait that goes on by the next login has none to go on by.
#[tokio::test]
async fn a_wait_for_a_task_ends_with_the_clone() {
    let (_server, _client, Cloned { client: clone, .. }, over) = cloned().await;
    over.store(true, Ordering::SeqCst);
    let task = hotadd_vsphere::MoRef::new("Task", "task-9");
    let error = clone.wait_task(&task, std::time::Duration::from_secs(600), None).await.unwrap_err();
    assert_eq!(error.fault().map(|fault| &fault.kind), Some(&FaultKind::NotAuthenticated), "not the deadline: {error}");
}

#[tokio::test]
async fn logging_out_ends_it_for_good() {
    let (server, client, Cloned { client: clone, .. }, over) = cloned().await;
    clone.logout().await.unwrap();
    over.store(true, Ordering::SeqCst);
    assert!(server.last("Logout").cookie.contains("sess-1"));
    assert!(!*clone.over().borrow(), "who ends it knows");
    assert!(clone.keep_alive().await.is_err() && *clone.over().borrow(), "who asks by it again is told");
    client.keep_alive().await.unwrap();
    assert_eq!(server.count("Login"), 1);
}

/// Who reads that nobody acts would think that the account does.
#[tokio::test]
async fn a_session_of_nobody_or_without_a_key_is_refused_and_ended() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |seen: &Seen| match seen.op.as_str() {
        "CloneSession" => match asked.fetch_add(1, Ordering::SeqCst) {
            0 => vim::answer("CloneSession", "<returnval><key>key-of-the-clone</key></returnval>"),
            _ => vim::answer("CloneSession", "<returnval><userName>backup</userName></returnval>"),
        },
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    for ended in 1..=2 {
        let error = client.clone_session(&ticket()).await.unwrap_err();
        assert_eq!((error.kind(), server.count("Logout")), (&ErrorKind::Protocol, ended));
    }
}

#[tokio::test]
async fn a_refusal_holds_neither_the_ticket_nor_the_servers_words() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |seen: &Seen| match seen.op.as_str() {
        "CloneSession" => match asked.fetch_add(1, Ordering::SeqCst) {
            0 => vim::fault("InvalidLogin", "", TICKET.replace(['&', '<', '>'], "").as_str()),
            1 => vim::fault("SystemError", "<reason>cst-VCT-canary</reason>", "cst-VCT-canary"),
            2 => vim::answer("CloneSession", "<returnval><userName>cst-VCT-canary</userName></returnval>"),
            _ => Reply::XmlWith(200, String::new(), "<cst-VCT-canary".into()),
        },
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    for kind in [ErrorKind::Unauthorized, ErrorKind::Unauthorized, ErrorKind::Protocol, ErrorKind::UnknownOutcome] {
        let error = client.clone_session(&ticket()).await.unwrap_err();
        assert_eq!(*error.kind(), kind);
        let told = format!("{error} {error:?}");
        assert!(!told.contains("canary"), "{told}");
    }
    assert_eq!((server.count("CloneSession"), server.count("Login")), (4, 1), "a ticket is never sent again");
}
