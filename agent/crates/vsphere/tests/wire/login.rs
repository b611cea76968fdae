//! Logins that are refused: how often the account is knocked at, and what callers are told meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{PASSWORD, Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, Config, ErrorKind};
use secrecy::SecretString;

/// A vCenter whose password and sessions can be changed: `good` is the password, `live` whether sessions hold.
struct Vcenter {
    server: Server,
    good: Arc<Mutex<String>>,
    live: Arc<AtomicBool>,
}

impl Vcenter {
    async fn start() -> Vcenter {
        let good = Arc::new(Mutex::new("&lt;&amp;&gt;".to_owned()));
        let live = Arc::new(AtomicBool::new(true));
        let (now, holds) = (good.clone(), live.clone());
        let server = Server::start(move |seen: &Seen| match seen.op.as_str() {
            "Login" if !seen.body.contains(&*now.lock().unwrap()) => {
                vim::fault("InvalidLogin", "", "Cannot complete login due to an incorrect user name or password.")
            }
            "Login" => {
                holds.store(true, Ordering::SeqCst);
                happy(seen)
            }
            "FindAllByUuid" if !holds.load(Ordering::SeqCst) => vim::not_authenticated(),
            _ => happy(seen),
        })
        .await;
        Vcenter { server, good, live }
    }

    /// The password is rotated and every session ends.
    fn rotate(&self, to: &str) {
        to.clone_into(&mut self.good.lock().unwrap());
        self.live.store(false, Ordering::SeqCst);
    }
}

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

/// With a file that a test can write to.
fn watched(config: Config) -> (Config, Arc<Mutex<String>>) {
    let file = Arc::new(Mutex::new(PASSWORD.to_owned()));
    let source = file.clone();
    let read = move || Some(SecretString::from(source.lock().unwrap().clone()));
    (Config { password_source: Some(Arc::new(read)), ..config }, file)
}

async fn find(client: &Client) -> Result<(), hotadd_vsphere::Error> {
    client.find_vms_by_uuid("x", false).await.map(drop)
}

#[tokio::test]
async fn a_refused_login_is_tried_once_and_remembered_for_everybody() {
    let vcenter = Vcenter::start().await;
    let (config, _file) = watched(vcenter.server.config());
    let client = Client::connect(config).await.unwrap();
    vcenter.rotate("another");
    let calls = (0..16).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { find(&client).await })
    });
    let mut kinds = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        kinds.push(call.await.unwrap().unwrap_err().kind().clone());
    }
    assert_eq!(vcenter.server.count("Login"), 2, "one at connect, one for all: {kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == ErrorKind::Unauthorized).count(), 1, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == ErrorKind::LoginHeld).count(), 15, "{kinds:?}");

    let before = vcenter.server.ops().len();
    for _ in 0..20 {
        let error = find(&client).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::LoginHeld);
        assert!(error.to_string().contains("incorrect user name or password"), "{error}");
        assert!(error.to_string().contains("next try is in"), "{error}");
    }
    assert_eq!(vcenter.server.ops().len(), before, "nothing at all goes over the wire");
    let told = client.login_refused().borrow().clone().unwrap();
    assert_eq!(told.pause, Duration::from_secs(90));
}

#[tokio::test]
async fn a_changed_password_is_tried_at_once_but_not_more_than_three_in_a_row() {
    let vcenter = Vcenter::start().await;
    let (config, file) = watched(vcenter.server.config());
    let client = Client::connect(config).await.unwrap();
    vcenter.rotate("the right one");
    find(&client).await.unwrap_err();
    "wrong too".clone_into(&mut file.lock().unwrap());
    assert_eq!(*find(&client).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    "the right one".clone_into(&mut file.lock().unwrap());
    find(&client).await.unwrap();
    assert_eq!(vcenter.server.count("Login"), 4);
    assert!(client.login_refused().borrow().is_none());

    vcenter.rotate("never");
    for n in 0..10 {
        format!("guess {n}").clone_into(&mut file.lock().unwrap());
        find(&client).await.unwrap_err();
    }
    assert_eq!(vcenter.server.count("Login"), 4 + 3);
}

/// The same password is right again: after its pause, without a restart or a change.
#[tokio::test]
async fn after_the_pause_one_caller_tries_again() {
    let vcenter = Vcenter::start().await;
    let mut config = vcenter.server.config();
    config.login_pause = Duration::from_millis(100);
    let client = Client::connect(config).await.unwrap();
    vcenter.rotate("another");
    find(&client).await.unwrap_err();
    "&lt;&amp;&gt;".clone_into(&mut vcenter.good.lock().unwrap());
    while let Err(error) = find(&client).await {
        assert_eq!(*error.kind(), ErrorKind::LoginHeld, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(vcenter.server.count("Login"), 3);
}

#[tokio::test]
async fn a_login_without_an_answer_is_no_refusal() {
    let lost = Arc::new(Mutex::new(0));
    let (count, live) = (lost.clone(), Arc::new(AtomicBool::new(true)));
    let holds = live.clone();
    let server = Server::start(move |seen| match seen.op.as_str() {
        "Login" if !holds.load(Ordering::SeqCst) && *count.lock().unwrap() < 6 => {
            *count.lock().unwrap() += 1;
            Reply::Hangup
        }
        "Login" => {
            holds.store(true, Ordering::SeqCst);
            happy(seen)
        }
        "FindAllByUuid" if !holds.load(Ordering::SeqCst) => vim::not_authenticated(),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    live.store(false, Ordering::SeqCst);
    for _ in 0..6 {
        assert_eq!(*find(&client).await.unwrap_err().kind(), ErrorKind::Unreachable);
    }
    find(&client).await.unwrap();
    assert_eq!((*lost.lock().unwrap(), server.count("Login")), (6, 8));
}
