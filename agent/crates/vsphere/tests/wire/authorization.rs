//! What the account may do: asked with the key of the session in use, believed only when all was answered.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, ErrorKind, FaultKind};

const ASKED: [&str; 2] = ["VApp.Export", "System.Read"];

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

async fn answering(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Server, Client) {
    let server =
        Server::start(move |seen| if seen.op == "HasPrivilegeOnEntities" { reply() } else { happy(seen) }).await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn the_own_session_is_asked_about() {
    let (server, client) = answering(|| vim::answer("HasPrivilegeOnEntities", vim::GRANTED)).await;
    let granted = client.granted(&vim::vm_ref(), &ASKED).await.unwrap();
    assert_eq!(granted.into_iter().collect::<Vec<_>>(), ["System.Read"]);
    let seen = server.seen.lock().unwrap();
    let body = &seen.iter().find(|seen| seen.op == "HasPrivilegeOnEntities").unwrap().body;
    let words = "<entity type=\"VirtualMachine\">vm-42</entity><sessionId>52a8dea7</sessionId>\
                 <privId>VApp.Export</privId><privId>System.Read</privId>";
    assert!(body.contains(words), "{body}");
    assert_eq!(client.root_folder().value, "group-d1");
}

#[tokio::test]
async fn silence_about_a_privilege_is_no_answer() {
    for answer in
        [vim::GRANTED.replace("VApp.Export", "VApp.Import"), vim::GRANTED.replace("vm-42", "vm-43"), String::new()]
    {
        let (_server, client) = answering(move || vim::answer("HasPrivilegeOnEntities", &answer)).await;
        let error = client.granted(&vim::vm_ref(), &ASKED).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Protocol, "{error}");
    }
}

#[tokio::test]
async fn what_the_old_session_may_not_is_not_said_of_the_new_one() {
    let calls = AtomicUsize::new(0);
    let logins = AtomicUsize::new(0);
    let server = Server::start(move |seen| match seen.op.as_str() {
        "Login" => {
            let n = logins.fetch_add(1, Ordering::Relaxed);
            vim::login_as(n, &format!("key-{n}"))
        }
        // Ended when it is asked; the same request is then sent again by the session that came after.
        "HasPrivilegeOnEntities" => match calls.fetch_add(1, Ordering::Relaxed) {
            0 => vim::not_authenticated(),
            1 => vim::answer(&seen.op, &vim::GRANTED.replace("true", "false")),
            _ => vim::answer(&seen.op, vim::GRANTED),
        },
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    assert_eq!(client.granted(&vim::vm_ref(), &ASKED).await.unwrap().len(), 1);
    assert_eq!(server.count("HasPrivilegeOnEntities"), 3);
}

#[tokio::test]
async fn an_object_that_may_not_be_read_is_told() {
    let denied = "<object type=\"VirtualMachine\">vm-42</object><privilegeId>System.Read</privilegeId>";
    let (_server, client) = answering(move || vim::fault("NoPermission", denied, "denied")).await;
    let error = client.granted(&vim::vm_ref(), &ASKED).await.unwrap_err();
    assert!(matches!(error.fault().unwrap().kind, FaultKind::NoPermission { .. }), "{error}");
}
