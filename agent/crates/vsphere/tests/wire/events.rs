//! Events of an object, and the tasks of a host's cluster: what was recorded, and what can be told of whom.

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, Entering, ErrorKind, EventInfo, FaultKind, MoRef};
use jiff::Timestamp;

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

fn host() -> MoRef {
    MoRef::new("HostSystem", "host-9")
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A server that answers QueryEvents so.
async fn answering(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Server, Client) {
    let server = Server::start(move |seen| if seen.op == "QueryEvents" { reply() } else { happy(seen) }).await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn events_are_told_by_type_time_and_object() {
    let (_server, client) = answering(|| vim::answer("QueryEvents", vim::EVENTS)).await;
    let types = ["EnteringMaintenanceModeEvent", "VmMigratedEvent"];
    let since = client.server_time().await.unwrap();
    assert_eq!(since, at("2026-01-01T00:00:00Z"));
    let event = |name: &str, created: &str, entity| EventInfo {
        type_name: name.to_owned(),
        created: at(created),
        entity: Some(entity),
    };
    let expected = [
        event("EnteringMaintenanceModeEvent", "2026-01-01T00:00:00Z", host()),
        event("VmMigratedEvent", "2026-01-01T00:00:05.25Z", vim::vm_ref()),
    ];
    let found = client.events(&host(), since, &types).await.unwrap();
    assert_eq!(found, expected, "neither what was before, nor what was not asked for");
    assert!(client.events(&host(), at("2026-01-01T00:00:06Z"), &types).await.unwrap().is_empty());
}

#[tokio::test]
async fn without_types_all_are_told_and_an_eventex_by_its_id() {
    let (_server, client) = answering(|| {
        let more = "<returnval xsi:type=\"EventEx\"><key>9</key><createdTime>2026-01-01T00:00:07Z</createdTime><userName>u\
            </userName><eventTypeId>esx.problem.x</eventTypeId></returnval>";
        vim::answer("QueryEvents", &format!("{}{more}", vim::EVENTS))
    })
    .await;
    let found = client.all_events(&host(), at("2026-01-01T00:00:05Z")).await.unwrap();
    let types: Vec<&str> = found.iter().map(|event| event.type_name.as_str()).collect();
    assert_eq!(types, ["VmMigratedEvent", "HostConnectedEvent", "esx.problem.x"]);
}

#[tokio::test]
async fn no_event_is_an_empty_list_and_many_are_bounded() {
    let (_server, client) = answering(|| vim::answer("QueryEvents", "")).await;
    assert!(client.events(&host(), Timestamp::UNIX_EPOCH, &["HostConnectionLostEvent"]).await.unwrap().is_empty());
    let (_server, client) = answering(|| {
        let one = "<returnval xsi:type=\"HostConnectionLostEvent\"><key>1</key><createdTime>2026-01-01T00:00:00Z\
            </createdTime></returnval>";
        vim::answer("QueryEvents", &one.repeat(5000))
    })
    .await;
    let found = client.events(&host(), Timestamp::UNIX_EPOCH, &["HostConnectionLostEvent"]).await.unwrap();
    assert_eq!((found.len(), found[0].entity.clone()), (100, None));
}

#[tokio::test]
async fn who_may_not_read_events_is_told_so() {
    let fault = || {
        let privilege = "<object type=\"HostSystem\">host-9</object><privilegeId>System.Read</privilegeId>";
        vim::fault("NoPermission", privilege, "Permission to perform this operation was denied.")
    };
    let (_server, client) = answering(fault).await;
    let error = client.events(&host(), Timestamp::UNIX_EPOCH, &["HostConnectionLostEvent"]).await.unwrap_err();
    assert!(matches!(error.fault().unwrap().kind, FaultKind::NoPermission { .. }), "{error}");
    let (_server, client) =
        answering(|| vim::answer("QueryEvents", "<returnval xsi:type=\"VmMigratedEvent\"><key>1</key></returnval>"))
            .await;
    let error = client.events(&host(), Timestamp::UNIX_EPOCH, &["VmMigratedEvent"]).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol, "an event without a time");
}

#[tokio::test]
async fn a_server_without_an_event_manager_is_not_asked() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "RetrieveServiceContent" => {
            let content = vim::content("8.0.2.0");
            let (before, after) = content.split_once("<eventManager").unwrap();
            vim::answer(&seen.op, &format!("{before}{}", after.split_once("</eventManager>").unwrap().1))
        }
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let error = client.events(&host(), Timestamp::UNIX_EPOCH, &["VmMigratedEvent"]).await.unwrap_err();
    assert_eq!((*error.kind() == ErrorKind::Unsupported, server.count("QueryEvents")), (true, 0), "{error}");
}

/// A calm host in a cluster that has these tasks: state, description, entity (its element, or nothing), entity's name.
async fn clustered(tasks: &'static [(&str, &str, &str, &str)]) -> (Server, Client) {
    let text = |t: &str| format!("<val xsi:type=\"xsd:string\">{t}</val>");
    let set = |name: &str, val: &str| format!("<propSet><name>{name}</name>{val}</propSet>");
    let page = |objects: &str| vim::answer("RetrievePropertiesEx", &format!("<returnval>{objects}</returnval>"));
    let server = Server::start(move |seen| {
        if seen.op != "RetrievePropertiesEx" {
            return happy(seen);
        }
        if seen.body.contains("<obj type=\"HostSystem\">") {
            let parent = "<val type=\"ClusterComputeResource\" xsi:type=\"ManagedObjectReference\">domain-c7</val>";
            let sets = [
                set("name", &text("esx%2f1")),
                set("parent", parent),
                set("runtime.inMaintenanceMode", "<val xsi:type=\"xsd:boolean\">false</val>"),
            ];
            return page(&format!("<objects><obj type=\"HostSystem\">host-9</obj>{}</objects>", sets.concat()));
        }
        assert!(seen.body.contains("<obj type=\"ClusterComputeResource\">domain-c7</obj>"), "{}", seen.body);
        let task = |(n, (state, what, entity, name)): (usize, &(&str, &str, &str, &str))| {
            let mut sets = vec![set("info.descriptionId", &text(what)), set("info.state", &text(state))];
            sets.extend((!entity.is_empty()).then(|| set("info.entity", entity)));
            sets.extend((!name.is_empty()).then(|| set("info.entityName", &text(name))));
            format!("<objects><obj type=\"Task\">task-{n}</obj>{}</objects>", sets.concat())
        };
        match tasks.is_empty() {
            true => vim::fault("NoPermission", "<privilegeId>System.Read</privilegeId>", "denied"),
            false => page(&tasks.iter().enumerate().map(task).collect::<String>()),
        }
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

const OURS: &str = "<val type=\"HostSystem\" xsi:type=\"ManagedObjectReference\">host-9</val>";
const ANOTHER: &str = "<val type=\"HostSystem\" xsi:type=\"ManagedObjectReference\">host-8</val>";
const CLUSTER: &str = "<val type=\"ClusterComputeResource\" xsi:type=\"ManagedObjectReference\">domain-c7</val>";
const ENTERS: &str = "ClusterComputeResource.enterMaintenanceMode";

#[tokio::test]
async fn a_task_of_the_cluster_counts_for_the_host_that_it_names() {
    let task =
        |n: u32| Some(Entering { task: MoRef::new("Task", format!("task-{n}")), description_id: ENTERS.to_owned() });
    type Tasks = &'static [(&'static str, &'static str, &'static str, &'static str)];
    let told: [(Tasks, _, _); 9] = [
        (&[("running", ENTERS, OURS, "")], task(0), None),
        (&[("queued", ENTERS, "", "esx%2f1")], task(0), None),
        (&[("running", ENTERS, CLUSTER, "esx%2f1")], None, task(0)),
        (&[("running", ENTERS, "", "")], None, task(0)),
        (&[("running", ENTERS, "", "esx2")], None, task(0)),
        (&[("running", ENTERS, ANOTHER, "esx%2f1")], None, None),
        (&[("success", ENTERS, OURS, ""), ("error", ENTERS, CLUSTER, "")], None, None),
        (&[("running", "ClusterComputeResource.reconfigure", OURS, "")], None, None),
        (
            &[("running", ENTERS, ANOTHER, ""), ("running", ENTERS, CLUSTER, ""), ("running", ENTERS, OURS, "")],
            task(2),
            task(1),
        ),
    ];
    for (tasks, ours, untold) in told {
        let (_server, client) = clustered(tasks).await;
        let state = client.host_state(&host()).await.unwrap();
        assert_eq!((state.entering, state.cluster_entering), (ours, untold), "{tasks:?}");
    }
}

#[tokio::test]
async fn a_cluster_that_may_not_be_read_takes_nothing_from_the_host() {
    let (_server, client) = clustered(&[]).await;
    let state = client.host_state(&host()).await.unwrap();
    assert_eq!((state.name.as_str(), state.entering, state.cluster_entering), ("esx/1", None, None));
}
