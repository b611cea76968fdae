//! What a controller of many proxies asks: GetCapacity and Drain.
use anyhow::{Context as _, Result};
use hotadd_api::v1::{
    Cleanup, DatastoreCapacity, DrainRequest, DrainResponse, EventKind, GetCapacityRequest, GetCapacityResponse,
    GetInfoRequest, JobState, OpenDisksRequest, ReserveRequest, ReserveResponse, WatchEventsRequest,
    proxy_service_client::ProxyServiceClient,
};
use hotadd_harness::{Scene, scene::TARGET};
use tonic::transport::Channel;

use crate::session::close;
use crate::support::{
    MIB, backup, by_id, dense, disks, ended, eventually, jobs, nothing_is_left, open_request, reading, refused,
    request, scene,
};

async fn proxy(scene: &Scene) -> Result<ProxyServiceClient<Channel>> {
    Ok(ProxyServiceClient::new(scene.channel().await?))
}

async fn capacity(scene: &Scene) -> Result<GetCapacityResponse> {
    Ok(proxy(scene).await?.get_capacity(GetCapacityRequest {}).await?.into_inner())
}

async fn drain(scene: &Scene, drain: Option<bool>) -> Result<DrainResponse> {
    Ok(proxy(scene).await?.drain(DrainRequest { drain }).await?.into_inner())
}

fn only(of: &GetCapacityResponse) -> Result<DatastoreCapacity> {
    assert_eq!(of.datastores.len(), 1, "{of:#?}");
    of.datastores.first().cloned().context("no datastore")
}

#[tokio::test(flavor = "multi_thread")]
async fn capacity_tells_room_datastores_work_and_measured_times() -> Result<()> {
    let (dir, scene) = scene(&[dense(32 * MIB, 1), dense(32 * MIB, 2)], |spec| {
        spec.set("limits", "add_controllers", false);
        spec.set("limits", "snapshots_per_datastore", 3);
    })?;
    let before = capacity(&scene).await?;
    // Two controllers of 15, an anchor on each.
    assert_eq!((before.free_slots, before.running_jobs, before.open_sessions), (28, 0, 0), "{before:#?}");
    assert_eq!((before.attach_seconds, before.detach_seconds), (None, None), "never measured");
    assert_eq!((before.snapshots_per_datastore, before.reads, before.buffer_bytes), (3, 16, 1 << 30));
    assert!(before.cores > 0 && before.memory_bytes > MIB && !before.host_moref.is_empty(), "{before:#?}");
    let store = only(&before)?;
    assert!(store.name == "ds1" && !store.moref.is_empty() && store.free_bytes > 0, "{store:?}");
    assert_eq!((store.attached, store.snapshots, store.waiting), (0, 0, 0));
    let run = reading(&scene, &dir, request(TARGET)).await?;
    let during = capacity(&scene).await?;
    assert_eq!((during.free_slots, during.running_jobs), (26, 1), "{during:#?}");
    let store = only(&during)?;
    assert_eq!((store.attached, store.snapshots, store.waiting), (2, 1, 0));
    run.finish().await?;
    let after = capacity(&scene).await?;
    assert_eq!((after.free_slots, after.running_jobs, only(&after)?.attached), (28, 0, 0));
    assert!(after.attach_seconds > Some(0.0) && after.detach_seconds > Some(0.0), "{after:#?}");
    nothing_is_left(&scene).await
}

async fn reserve(scene: &Scene, id: &str, slots: u32, ttl_seconds: u32) -> Result<ReserveResponse, tonic::Status> {
    let mut client = proxy(scene).await.map_err(|e| tonic::Status::unknown(e.to_string()))?;
    Ok(client.reserve(ReserveRequest { reservation_id: id.into(), slots, ttl_seconds }).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_slots_are_for_whoever_names_them() -> Result<()> {
    let (_dir, scene) = scene(&[dense(8 * MIB, 1), dense(8 * MIB, 2)], |spec| {
        spec.set("limits", "add_controllers", false);
    })?;
    refused(reserve(&scene, "", 1, 60).await, "HA-SES-006")?;
    refused(reserve(&scene, "a", 1, 3601).await, "HA-SES-006")?;
    refused(reserve(&scene, "a", 29, 60).await, "HA-ATT-001")?;
    let answer = reserve(&scene, "a", 28, 60).await?;
    assert_eq!((answer.slots, answer.free_slots, answer.seconds_left), (28, 0, 60));
    let now = capacity(&scene).await?;
    assert_eq!((now.free_slots, now.reserved_slots), (0, 28));
    refused(disks(&scene).await?.open_disks(open_request(TARGET)).await, "HA-ATT-001")?;
    let named = OpenDisksRequest { reservation_id: "a".into(), ..open_request(TARGET) };
    let opened = disks(&scene).await?.open_disks(named).await?.into_inner();
    assert!(opened.disks.len() == 2 && opened.disks.iter().all(|disk| disk.opened), "{opened:#?}");
    let now = capacity(&scene).await?;
    assert_eq!((now.free_slots, now.reserved_slots), (0, 26), "two are used up");
    assert_eq!(close(&scene, &opened.session_id).await?, Cleanup::Done);
    let free = reserve(&scene, "a", 0, 0).await?;
    assert_eq!((free.slots, free.free_slots, free.seconds_left), (0, 28, 0));
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_drained_ends_its_work_and_takes_no_other() -> Result<()> {
    let (dir, scene) = scene(&[dense(32 * MIB, 1)], |_| {})?;
    let calm = drain(&scene, None).await?;
    assert_eq!(calm, DrainResponse::default(), "it takes work, and nothing runs");
    let mut events = proxy(&scene).await?.watch_events(WatchEventsRequest::default()).await?.into_inner();
    let first = request(TARGET);
    let run = reading(&scene, &dir, first.clone()).await?;
    let busy = drain(&scene, Some(true)).await?;
    assert!(busy.draining && !busy.idle && busy.running_jobs == 1 && busy.open_duties > 0, "{busy:?}");
    let why = refused(jobs(&scene).await?.backup_vm(request(TARGET)).await, "HA-SES-010")?;
    assert!(why.retry_after_seconds > 0, "{why:?}");
    refused(disks(&scene).await?.open_disks(open_request(TARGET)).await, "HA-SES-010")?;
    // The same request is the same job, not a new one.
    refused(jobs(&scene).await?.backup_vm(first).await, "HA-JOB-002")?;
    let result = run.finish().await?.result()?.clone();
    assert_eq!(result.state(), JobState::Ok, "what runs goes on: {result:#?}");
    eventually("it is idle", async || Ok(drain(&scene, None).await?.idle)).await?;
    assert!(proxy(&scene).await?.get_info(GetInfoRequest {}).await?.into_inner().draining);
    assert!(!drain(&scene, Some(false)).await?.draining);
    let job = backup(&scene, request(TARGET), dir.path()).await?.job_id;
    assert_eq!(ended(&scene, by_id(&job)).await?.state(), JobState::Ok);
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = events.message().await?.context("the stream ended")?;
        if event.kind() == EventKind::Drain {
            told.push(event.reason.map(|reason| reason.code));
        }
    }
    assert_eq!(told, [Some("HA-SES-010".to_owned()), None]);
    nothing_is_left(&scene).await
}
