//! Login, re-login, and what is sent twice and what never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{PASSWORD, Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, Config, DeviceChanges, ErrorKind, FaultKind, Trust};
use secrecy::SecretString;

const PRIOR: &[&str] = &["8.0.1.0", "7.0.3.0", "6.7", "6.5"];

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", PRIOR)
}

fn add_one() -> hotadd_vsphere::Reconfigure {
    vim::change(DeviceChanges::Add(vec![vim::add_disk(0)]))
}

#[tokio::test]
async fn connect_negotiates_logs_in_and_tells_about() {
    let server = Server::start(happy).await;
    let client = Client::connect(server.config()).await.unwrap();
    assert_eq!(server.ops(), ["", "RetrieveServiceContent", "Login"]);
    assert_eq!(server.last("").path, "/sdk/vimServiceVersions.xml");
    assert_eq!(server.last("Login").action, "\"urn:vim25/8.0.2.0\"");
    let about = client.about();
    assert_eq!(
        (about.version.as_str(), about.build.as_str(), about.api_version.as_str()),
        ("8.0.2", "22385739", "8.0.2.0")
    );
    assert_eq!(about.negotiated.as_str(), "8.0.2.0");
    assert_eq!(about.instance_uuid.as_deref(), Some("aaaaaaaa-0000-4000-8000-000000000001"));
    client.keep_alive().await.unwrap();
    assert!(
        server.last("CurrentTime").cookie.starts_with("vmware_soap_session=\"sess-"),
        "the cookie goes back as it came"
    );
    client.logout().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_the_given_authority_is_trusted() {
    let server = Server::start(happy).await;
    let mut config = server.config();
    config.trust = Trust::Ca(server.cert_pem.clone().into_bytes());
    Client::connect(config).await.unwrap();
}

#[tokio::test]
async fn every_negotiated_version_is_named_in_the_action() {
    for (own, prior, expected) in
        [("6.5", &["6.0"][..], "6.5"), ("12.0.0.0", &[], "9.1.0.0"), ("7.0.3.0", &["7.0.2.0"], "7.0.3.0")]
    {
        let server = Server::start(move |seen| vim::happy(seen, own, prior)).await;
        let client = Client::connect(server.config()).await.unwrap();
        assert_eq!(client.about().negotiated.as_str(), expected);
        assert_eq!(server.last("Login").action, format!("\"urn:vim25/{expected}\""));
    }
}

#[tokio::test]
async fn a_server_older_than_6_5_is_unsupported() {
    let server = Server::start(|seen| vim::happy(seen, "6.0", &["5.5"])).await;
    let error = Client::connect(server.config()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_wrong_password_is_unauthorized_and_never_shown() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "Login" => vim::fault("InvalidLogin", "", "Cannot complete login due to an incorrect user name or password."),
        _ => happy(seen),
    })
    .await;
    let config = server.config();
    let shown = format!("{config:?}");
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("incorrect user name or password"), "{error}");
    for text in [shown, format!("{error:?}"), error.to_string()] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(server.last("Login").body.contains("<password>s3cret &lt;&amp;&gt; &quot;pass&quot;</password>"));
    assert_eq!(server.count("Login"), 1);
}

/// A server whose session ends once, at the first call of `op`.
async fn ends_once(op: &'static str) -> Server {
    let ended = AtomicBool::new(false);
    Server::start(move |seen| {
        if seen.op == op && !ended.swap(true, Ordering::SeqCst) { vim::not_authenticated() } else { happy(seen) }
    })
    .await
}

#[tokio::test]
async fn a_read_survives_an_ended_session() {
    let server = ends_once("FindAllByUuid").await;
    let client = Client::connect(server.config()).await.unwrap();
    let first = server.last("Login").cookie;
    assert_eq!(client.find_vms_by_uuid("x", false).await.unwrap(), [vim::vm_ref()]);
    assert_eq!((server.count("Login"), server.count("FindAllByUuid")), (2, 2));
    assert_eq!((first.as_str(), server.last("Login").cookie.as_str()), ("", ""), "a login carries no old cookie");
}

#[tokio::test]
async fn a_mutation_that_was_not_executed_is_sent_again_after_login() {
    let server = ends_once("ReconfigVM_Task").await;
    let client = Client::connect(server.config()).await.unwrap();
    assert_eq!(client.reconfigure(&vim::vm_ref(), &add_one()).await.unwrap(), vim::task_ref());
    assert_eq!((server.count("Login"), server.count("ReconfigVM_Task")), (2, 2));
}

#[tokio::test]
async fn a_session_that_never_holds_is_an_error_after_one_login() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "FindAllByUuid" => vim::not_authenticated(),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let error = client.find_vms_by_uuid("x", false).await.unwrap_err();
    assert_eq!(error.fault().unwrap().kind, FaultKind::NotAuthenticated);
    assert_eq!((server.count("Login"), server.count("FindAllByUuid")), (2, 2));
}

#[tokio::test]
async fn many_callers_of_an_ended_session_make_one_login() {
    let live = Arc::new(AtomicUsize::new(1));
    let at = live.clone();
    let logins = AtomicUsize::new(0);
    // Only the cookie of the second login is good for a search.
    let server = Server::start(move |seen| match seen.op.as_str() {
        "Login" => vim::login(logins.fetch_add(1, Ordering::SeqCst)),
        "FindAllByUuid" if !seen.cookie.contains(&format!("sess-{}", at.load(Ordering::SeqCst))) => {
            vim::not_authenticated()
        }
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let calls = (0..16).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.find_vms_by_uuid("x", false).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(server.count("Login"), 2, "one at connect, one for all");
}

#[tokio::test]
async fn a_lost_answer_to_a_mutation_is_unknown_and_never_repeated() {
    let torn = || Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n<soapenv:Envelope>".to_vec());
    let bad_gateway = || Reply::Xml(502, "<html>bad gateway</html>".to_owned());
    let nonsense = || Reply::Xml(200, "<html>hello".to_owned());
    let empty = || vim::answer("ReconfigVM_Task", "");
    let wrong = || vim::answer("ReconfigVM_Task", "<returnval>no reference</returnval>");
    let other = || vim::answer("Something", "");
    type Make = Box<dyn Fn() -> Reply + Send + Sync>;
    let cases: [(&str, Make); 7] = [
        ("hangup", Box::new(|| Reply::Hangup)),
        ("torn", Box::new(torn)),
        ("bad gateway", Box::new(bad_gateway)),
        ("nonsense", Box::new(nonsense)),
        ("empty", Box::new(empty)),
        ("wrong", Box::new(wrong)),
        ("other", Box::new(other)),
    ];
    for (name, reply) in cases {
        let server = Server::start(move |seen| if seen.op == "ReconfigVM_Task" { reply() } else { happy(seen) }).await;
        let client = Client::connect(server.config()).await.unwrap();
        let error = client.reconfigure(&vim::vm_ref(), &add_one()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::UnknownOutcome, "{name}: {error}");
        assert_eq!(server.count("ReconfigVM_Task"), 1, "{name}");
    }
}

#[tokio::test]
async fn no_answer_in_time_to_a_mutation_is_unknown() {
    let server = Server::start(|seen| if seen.op == "ReconfigVM_Task" { Reply::Silence } else { happy(seen) }).await;
    let mut config = server.config();
    config.request_timeout = Duration::from_secs(3);
    let client = Client::connect(config).await.unwrap();
    let error = client.reconfigure(&vim::vm_ref(), &add_one()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::UnknownOutcome);
}

#[tokio::test]
async fn a_mutation_that_can_not_have_been_sent_is_unreachable() {
    let server = Server::start(happy).await;
    let mut config = server.config();
    config.connect_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await.unwrap();
    client.logout().await.unwrap();
    drop(server);
    // The pooled connection may still take the first request with it to the grave; a fresh one is refused.
    let mut last = client.reconfigure(&vim::vm_ref(), &add_one()).await.unwrap_err();
    if *last.kind() == ErrorKind::UnknownOutcome {
        last = client.reconfigure(&vim::vm_ref(), &add_one()).await.unwrap_err();
    }
    assert_eq!(*last.kind(), ErrorKind::Unreachable, "{last}");
}

#[tokio::test]
async fn a_read_on_a_dropped_connection_goes_again_once() {
    let dropped = AtomicBool::new(false);
    let server = Server::start(move |seen| {
        let first = seen.op == "FindAllByUuid" && !dropped.swap(true, Ordering::SeqCst);
        if first { Reply::Hangup } else { happy(seen) }
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    assert_eq!(client.find_vms_by_uuid("x", false).await.unwrap().len(), 1);
    assert_eq!(server.count("FindAllByUuid"), 2);
}

#[tokio::test]
async fn a_fault_of_a_mutation_is_that_fault() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "ReconfigVM_Task" => vim::fault("TaskInProgress", "<task type=\"Task\">task-3</task>", "busy"),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let error = client.reconfigure(&vim::vm_ref(), &add_one()).await.unwrap_err();
    assert!(matches!(error.fault().unwrap().kind, FaultKind::TaskInProgress { task: Some(_) }), "{error}");
}

#[tokio::test]
async fn urls_that_could_leak_or_go_in_the_clear_are_refused() {
    for url in ["http://vc", "vc", "https://", "https://user:pw@vc/sdk", "https://user@vc", "ftp://vc"] {
        let password = SecretString::from(PASSWORD);
        let config = Config::new(url, "u", password, Trust::Pin([0; 32]));
        assert!(!format!("{config:?}").contains(":pw@"));
        let error = Client::connect(config).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unsupported, "{url}: {error}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
}

#[test]
fn the_client_can_be_shared() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Client>();
}
