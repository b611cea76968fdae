//! Waiting for tasks: every way a wait can end, and everything it survives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, ErrorKind, FaultKind, MoRef, TaskInfo, TaskResult, TaskState};
use tokio_util::sync::CancellationToken;

/// A test that hangs is a failure; nothing here takes as long.
const LONG: Duration = Duration::from_secs(120);

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

/// A server that answers the n-th call of an operation by `script`, where that has an answer.
async fn scripted(script: impl Fn(&str, usize) -> Option<Reply> + Send + Sync + 'static) -> (Server, Client) {
    let calls: std::sync::Mutex<std::collections::HashMap<String, usize>> = Default::default();
    let server = Server::start(move |seen| {
        let n = {
            let mut calls = calls.lock().unwrap();
            let n = calls.entry(seen.op.clone()).or_default();
            *n += 1;
            *n
        };
        script(&seen.op, n).unwrap_or_else(|| happy(seen))
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

async fn wait(client: &Client) -> Result<TaskInfo, hotadd_vsphere::Error> {
    client.wait_task(&vim::task_ref(), LONG, None).await
}

#[tokio::test]
async fn waits_through_idle_running_and_truncated_updates() {
    let (server, client) = scripted(|op, n| match (op, n) {
        ("WaitForUpdatesEx", 1) => Some(vim::update("1", Some("queued"), false)),
        ("WaitForUpdatesEx", 2) => Some(vim::answer(op, "")),
        ("WaitForUpdatesEx", 3) => Some(vim::update("2", None, true)),
        ("WaitForUpdatesEx", 4) => Some(vim::update("3", Some("running"), true)),
        ("WaitForUpdatesEx", 5) => Some(vim::update("4", Some("success"), false)),
        ("RetrievePropertiesEx", _) => Some(vim::task_info(
            "success",
            "<result type=\"VirtualMachineSnapshot\" xsi:type=\"ManagedObjectReference\">snapshot-77</result><progress>100</progress>",
        )),
        _ => None,
    })
    .await;
    let info = wait(&client).await.unwrap();
    assert_eq!(info.state, TaskState::Success);
    assert_eq!(info.result, Some(TaskResult::MoRef(MoRef::new("VirtualMachineSnapshot", "snapshot-77"))));
    assert_eq!((info.entity, info.progress), (Some(vim::vm_ref()), Some(100)));
    assert_eq!(info.complete_time.unwrap().to_string(), "2026-01-01T00:00:01Z");
    let waits: Vec<Seen> = server.seen.lock().unwrap().iter().filter(|s| s.op == "WaitForUpdatesEx").cloned().collect();
    let versions: Vec<_> = waits
        .iter()
        .map(|w| w.body.split("<version>").nth(1).map(|t| t.split('<').next().unwrap().to_owned()).unwrap_or_default())
        .collect();
    assert_eq!(versions, ["", "1", "1", "2", "3"]);
    assert!(waits.iter().all(|w| w.body.contains("session[1]pc")), "the waiter's own collector");
    assert_eq!(server.count("DestroyPropertyCollector"), 1);
}

#[tokio::test]
async fn a_failed_task_is_an_answer_with_its_fault() {
    let (_server, client) = scripted(|op, _| match op {
        "WaitForUpdatesEx" => Some(vim::update("1", Some("error"), false)),
        "RetrievePropertiesEx" => Some(vim::task_info(
            "error",
            "<error><fault xsi:type=\"InvalidDeviceSpec\"><faultMessage><key>msg.hardware</key><message>Unit in use</message>\
             </faultMessage><property>virtualDeviceSpec.device</property><deviceIndex>2</deviceIndex></fault>\
             <localizedMessage>Invalid configuration for device '2'.</localizedMessage></error>",
        )),
        _ => None,
    })
    .await;
    let info = wait(&client).await.unwrap();
    let fault = info.error.unwrap();
    assert_eq!(
        (info.state, &fault.kind, fault.device_index),
        (TaskState::Error, &FaultKind::InvalidDeviceSpec, Some(2))
    );
    assert_eq!(fault.message, "Invalid configuration for device '2'.");
    assert_eq!(fault.fault_messages, ["Unit in use"]);
}

#[tokio::test]
async fn an_ended_session_and_a_lost_collector_are_survived() {
    let gone = "<obj type=\"PropertyCollector\">session[1]pc</obj>";
    let (server, client) = scripted(move |op, n| match (op, n) {
        ("WaitForUpdatesEx", 1) => Some(vim::update("1", Some("running"), false)),
        ("WaitForUpdatesEx", 2) => Some(vim::not_authenticated()),
        ("WaitForUpdatesEx", 3) => Some(vim::fault("ManagedObjectNotFound", gone, "gone")),
        ("WaitForUpdatesEx", 4) => Some(vim::fault("InvalidCollectorVersion", "", "stale")),
        ("WaitForUpdatesEx", 5 | 6) => Some(Reply::Hangup),
        _ => None,
    })
    .await;
    assert_eq!(wait(&client).await.unwrap().state, TaskState::Success);
    assert_eq!(server.count("Login"), 2);
    assert_eq!(server.count("CreateFilter"), 4);
}

#[tokio::test]
async fn a_task_that_the_server_forgot_is_gone() {
    let fault = || Some(vim::fault("ManagedObjectNotFound", "<obj type=\"Task\">task-9</obj>", "gone"));
    for at in ["CreateFilter", "WaitForUpdatesEx", "RetrievePropertiesEx", "CancelTask"] {
        let (_server, client) = scripted(move |op, _| if op == at { fault() } else { None }).await;
        let error = match at {
            "CancelTask" => client.cancel_task(&vim::task_ref()).await.unwrap_err(),
            _ => wait(&client).await.unwrap_err(),
        };
        assert_eq!(*error.kind(), ErrorKind::TaskGone, "{at}: {error}");
    }
    let leave = "<returnval><version>2</version><filterSet><filter type=\"PropertyFilter\">f</filter><objectSet><kind>leave\
                 </kind><obj type=\"Task\">task-9</obj></objectSet></filterSet></returnval>";
    let (_server, client) = scripted(move |op, _| (op == "WaitForUpdatesEx").then(|| vim::answer(op, leave))).await;
    assert_eq!(*wait(&client).await.unwrap_err().kind(), ErrorKind::TaskGone);
}

/// The poll whose answer is lost is given up, and the task is asked by itself: the wait's own deadline is not reached.
#[tokio::test]
async fn a_lost_answer_of_a_poll_does_not_cost_the_deadline() {
    let reads = AtomicUsize::new(0);
    let server = Server::start(move |seen| match seen.op.as_str() {
        "WaitForUpdatesEx" => Reply::Silence,
        // Still running when it is first asked.
        "RetrievePropertiesEx" if reads.fetch_add(1, Ordering::SeqCst) == 0 => vim::task_info("running", ""),
        _ => happy(seen),
    })
    .await;
    let mut config = server.config();
    config.poll = Duration::from_secs(1);
    let client = Client::connect(config).await.unwrap();
    let info = client.wait_task(&vim::task_ref(), Duration::from_secs(24 * 3600), None).await.unwrap();
    assert_eq!(info.state, TaskState::Success);
    assert_eq!((server.count("WaitForUpdatesEx"), server.count("RetrievePropertiesEx")), (2, 2));
    assert!(server.last("WaitForUpdatesEx").body.contains("<maxWaitSeconds>1<"));
}

#[tokio::test]
async fn the_deadline_ends_the_wait_and_the_collector_is_swept_later() {
    let (server, client) = scripted(|op, n| (op == "WaitForUpdatesEx" && n == 1).then_some(Reply::Silence)).await;
    let error = client.wait_task(&vim::task_ref(), Duration::from_secs(2), None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("task-9"), "{error}");
    assert_eq!(server.count("DestroyPropertyCollector"), 0);
    client.keep_alive().await.unwrap();
    assert_eq!(server.count("DestroyPropertyCollector"), 1);
}

#[tokio::test]
async fn a_clean_up_without_answer_does_not_cost_the_result() {
    let (server, client) = scripted(|op, _| (op == "DestroyPropertyCollector").then_some(Reply::Silence)).await;
    assert_eq!(wait(&client).await.unwrap().state, TaskState::Success);
    assert_eq!(server.count("DestroyPropertyCollector"), 1);
}

#[tokio::test]
async fn a_deadline_on_a_broken_connection_names_the_cause() {
    let (_server, client) = scripted(|op, _| (op == "WaitForUpdatesEx").then_some(Reply::Hangup)).await;
    let error = client.wait_task(&vim::task_ref(), Duration::from_secs(2), None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Deadline);
    let cause = std::error::Error::source(&error).expect("the last failure").to_string();
    assert!(cause.contains("WaitForUpdatesEx"), "{cause}");
}

#[tokio::test]
async fn a_cancelled_wait_leaves_the_task_alone() {
    let token = CancellationToken::new();
    let trigger = token.clone();
    let (server, client) = scripted(move |op, _| {
        (op == "WaitForUpdatesEx").then(|| {
            trigger.cancel();
            Reply::Silence
        })
    })
    .await;
    let error = client.wait_task(&vim::task_ref(), LONG, Some(&token)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Cancelled);
    assert_eq!(server.count("CancelTask"), 0);
}

#[tokio::test]
async fn other_faults_end_the_wait() {
    let inner = "<object type=\"Task\">task-9</object><privilegeId>System.Read</privilegeId>";
    let (_server, client) =
        scripted(move |op, _| (op == "CreateFilter").then(|| vim::fault("NoPermission", inner, "denied"))).await;
    let error = wait(&client).await.unwrap_err();
    assert!(error.to_string().contains("System.Read"), "{error}");
}

#[tokio::test]
async fn an_update_that_goes_nowhere_is_a_protocol_error() {
    let (_server, client) =
        scripted(|op, _| (op == "WaitForUpdatesEx").then(|| vim::answer(op, "<returnval></returnval>"))).await;
    assert_eq!(*wait(&client).await.unwrap_err().kind(), ErrorKind::Protocol);
    let (_server, client) = scripted(|op, _| (op == "WaitForUpdatesEx").then(|| vim::update("1", None, true))).await;
    assert_eq!(*wait(&client).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn many_waiters_have_a_collector_each() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let server = Server::start(move |seen| match seen.op.as_str() {
        "CreatePropertyCollector" => {
            let n = count.fetch_add(1, Ordering::SeqCst);
            vim::moref_value(&seen.op, "PropertyCollector", &format!("pc-{n}"))
        }
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let waits: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { wait(&client).await.unwrap() })
        })
        .collect();
    for done in waits {
        done.await.unwrap();
    }
    assert_eq!(made.load(Ordering::SeqCst), 8);
    let seen = server.seen.lock().unwrap();
    for n in 0..8 {
        let polls = seen.iter().filter(|s| s.op == "WaitForUpdatesEx" && s.body.contains(&format!(">pc-{n}<"))).count();
        assert_eq!(polls, 1, "collector {n}");
    }
}

#[tokio::test]
async fn states_and_results_of_a_task() {
    for (text, state) in [
        ("queued", TaskState::Queued),
        ("running", TaskState::Running),
        ("success", TaskState::Success),
        ("error", TaskState::Error),
    ] {
        let (_server, client) = scripted(move |op, _| {
            (op == "RetrievePropertiesEx").then(|| vim::task_info(text, "<result xsi:type=\"xsd:int\">5</result>"))
        })
        .await;
        let info = client.task(&vim::task_ref()).await.unwrap();
        assert_eq!(info.state, state);
        let five = TaskResult::Other { type_name: "int".to_owned(), text: "5".to_owned() };
        assert_eq!((info.result, info.description_id.as_str()), (Some(five), "VirtualMachine.reconfigure"));
    }
    let (_server, client) =
        scripted(|op, _| (op == "RetrievePropertiesEx").then(|| vim::task_info("dreaming", ""))).await;
    assert_eq!(*client.task(&vim::task_ref()).await.unwrap_err().kind(), ErrorKind::Protocol);
}
