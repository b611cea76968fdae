//! What one client may have at the same time and per second, what is never refused all the same, and that others do not notice.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::{
    MAX_REQUEST_BYTES,
    roles::{GIVES_BACK, RPCS},
    status,
    v1::{
        CloseDisksRequest, GetCapacityRequest, GetInfoRequest, KeepAliveRequest, OpenDisksRequest, WatchEventsRequest,
        disk_service_client::DiskServiceClient, proxy_service_client::ProxyServiceClient,
    },
};
use hotadd_harness::{Scene, scene::TARGET};
use prost::Message as _;
use tonic::{Code, Status, transport::Channel};

use crate::{
    relay::Relay,
    roles::{ask, channel, ruled, ruled_with},
    support::{MIB, Running, Seen, dense, eventually, nothing_is_left, nothing_stays, open_request, refused, request},
};

const OVER: &str = "HA-LIM-001";

fn limited(limits: &str) -> Result<(tempfile::TempDir, Scene)> {
    ruled_with(&[dense(16 * MIB, 1)], |spec| spec.agent_toml.push_str(&format!("[limits.client]\n{limits}\n")))
}

type Proxy = ProxyServiceClient<Channel>;

async fn proxy(scene: &Scene, identity: &str) -> Result<Proxy> {
    Ok(Proxy::new(channel(scene, identity).await?))
}

/// A call that counts and does little.
async fn look(proxy: &mut Proxy) -> Result<(), Status> {
    proxy.get_info(GetInfoRequest {}).await.map(drop)
}

fn is_over(answer: &Result<(), Status>) -> bool {
    let reason = answer.as_ref().err().and_then(status::from_status);
    reason.is_some_and(|reason| reason.code == OVER)
}

/// Calls until it is refused, which comes: calls are quicker than the limit of the scene.
async fn until_refused(proxy: &mut Proxy) -> Result<Status> {
    for _ in 0..10_000 {
        if let Err(status) = look(proxy).await {
            return Ok(status);
        }
    }
    anyhow::bail!("10000 calls, and none was refused")
}

async fn watch(proxy: &mut Proxy) -> Result<impl Sized + use<>> {
    let mut stream = proxy.watch_events(WatchEventsRequest::default()).await?.into_inner();
    ensure!(stream.message().await?.is_some(), "WATCHING comes first");
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_is_told_when_to_come_back() -> Result<()> {
    let (_dir, mut scene) = limited("calls_per_second = 0.5\nburst = 4")?;
    let (mut own, mut other) = (proxy(&scene, "operator").await?, proxy(&scene, "other").await?);
    let status = until_refused(&mut own).await?;
    assert_eq!(status.code(), Code::ResourceExhausted);
    // From RetryInfo, which a message without any would make 0.
    let wait = refused(Err::<(), _>(status.clone()), OVER)?.retry_after_seconds;
    assert!((1..=2).contains(&wait), "{status:?}");
    assert!(status.message().contains("DNS:operator.example.com: calls_per_second = 0.5"), "{status:?}");
    look(&mut other).await.context("another client of the same rule's role")?;
    // The same client over another connection, with another certificate of the name.
    let again = look(&mut proxy(&scene, "renewed").await?).await;
    ensure!(is_over(&again), "{again:?}");
    // Nothing but what was told helps.
    tokio::time::sleep(Duration::from_secs(wait.into())).await;
    look(&mut own).await.context("after the time that was told")?;
    // A flood is a few lines in the log, and none in the audit.
    for _ in 0..100 {
        look(&mut own).await.ok();
    }
    let log = scene.agent()?.log_text();
    let lines = log.lines().filter(|line| line.contains(OVER)).collect::<Vec<_>>();
    ensure!((1..=20).contains(&lines.len()), "{} lines", lines.len());
    ensure!(
        lines.iter().all(|line| line.contains("DNS:operator.example.com") && !line.contains("audit")),
        "{lines:#?}"
    );
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_count_until_they_end() -> Result<()> {
    let (dir, scene) = limited("calls = 2")?;
    let (mut own, mut other) = (proxy(&scene, "operator").await?, proxy(&scene, "other").await?);
    let first = watch(&mut own).await?;
    let mut elsewhere = proxy(&scene, "renewed").await?;
    let second = watch(&mut elsewhere).await?;
    let told = refused(look(&mut own).await, OVER)?;
    assert!(told.retry_after_seconds > 0 && told.message.contains("calls = 2"), "{told:?}");
    look(&mut other).await.context("another client")?;
    drop(first);
    eventually("the end of a stream makes room", async || Ok(!is_over(&look(&mut own).await))).await?;
    let third = watch(&mut own).await?;
    ensure!(is_over(&look(&mut own).await));
    // Its connection is gone, and nobody said so of the stream.
    drop((second, elsewhere));
    eventually("a client that is gone makes room", async || Ok(!is_over(&look(&mut own).await))).await?;
    // One that the agent ends. At its last message the place is free: the next job follows at once.
    for n in 0..3 {
        let out = dir.path().join(n.to_string());
        std::fs::create_dir(&out)?;
        let done = Running::over(channel(&scene, "operator").await?, request(TARGET), &out).await?.finish().await?;
        ensure!(done.result()?.reasons.is_empty(), "{:?}", done.result()?);
    }
    drop(third);
    nothing_stays(&scene).await
}

/// Nothing is sent on a watcher's stream: only pings tell that nobody is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_cable_was_cut_holds_no_place() -> Result<()> {
    let (_dir, scene) = ruled_with(&[dense(MIB, 1)], |spec| {
        spec.set("deadlines", "ping_seconds", 1.0);
        spec.set("deadlines", "ping_timeout_seconds", 1.0);
        spec.agent_toml.push_str("[limits.client]\ncalls = 1\n");
    })?;
    let relay = Relay::start(&scene).await?;
    let mut far = Proxy::new(relay.channel(&scene).await?);
    let _stream = watch(&mut far).await?;
    let mut near = proxy(&scene, "client").await?;
    refused(look(&mut near).await, OVER)?;
    relay.cut();
    eventually("its place is free", async || Ok(!is_over(&look(&mut near).await))).await?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_back_is_never_refused() -> Result<()> {
    let (_dir, scene) = limited("calls = 1")?;
    // An admin, so that nothing is refused for its role.
    let mut own = proxy(&scene, "client").await?;
    let stream = watch(&mut own).await?;
    let channel = channel(&scene, "client").await?;
    for (path, _) in RPCS {
        let answer = ask(&channel, path).await;
        assert_eq!(is_over(&answer), !GIVES_BACK.contains(path), "{path}: {answer:?}");
    }
    drop(stream);
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_all_limits_closes_its_session_and_ends_its_job() -> Result<()> {
    let (dir, scene) = limited("calls = 2\ncalls_per_second = 0.1\nburst = 5")?;
    let mut own = proxy(&scene, "operator").await?;
    let mut disks = DiskServiceClient::new(channel(&scene, "operator").await?);
    let session_id = disks.open_disks(open_request(TARGET)).await?.into_inner().session_id;
    // The bucket is empty, and no place is left.
    look(&mut own).await?;
    look(&mut own).await?;
    let streams = (watch(&mut own).await?, watch(&mut own).await?);
    refused(look(&mut own).await, OVER)?;
    disks.keep_alive(KeepAliveRequest { session_id: session_id.clone() }).await?;
    disks.close_disks(CloseDisksRequest { session_id }).await?;
    ensure!(scene.left_attached().await?.is_empty() && scene.snapshots().await?.is_empty());
    drop(streams);
    // A job has no call that ends it: its stream does.
    let mut run = Running::over(channel(&scene, "other").await?, request(TARGET), dir.path()).await?;
    run.until(Seen::Frame).await?;
    until_refused(&mut proxy(&scene, "other").await?).await?;
    ensure!(!scene.left_attached().await?.is_empty(), "the job is over too early for this test");
    drop(run);
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_a_reader_is_bounded_and_an_operator_works_beside_it() -> Result<()> {
    const RATE: u32 = 5;
    const BURST: u64 = 10;
    let (_dir, scene) = limited(&format!("calls = 4\ncalls_per_second = {RATE}\nburst = {BURST}"))?;
    let (granted, refusals, stop) =
        (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let begun = Instant::now();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut reader = proxy(&scene, "reader").await?;
        let (granted, refusals, stop) = (Arc::clone(&granted), Arc::clone(&refusals), Arc::clone(&stop));
        flood.spawn(async move {
            while !stop.load(Relaxed) {
                let answer = reader.get_capacity(GetCapacityRequest {}).await.map(drop);
                let count = if is_over(&answer) { &refusals } else { &granted };
                count.fetch_add(1, Relaxed);
            }
        });
    }
    eventually("the flood is refused", async || Ok(refusals.load(Relaxed) > 100)).await?;
    let mut own = DiskServiceClient::new(channel(&scene, "operator").await?);
    let session_id = own.open_disks(open_request(TARGET)).await?.into_inner().session_id;
    own.close_disks(CloseDisksRequest { session_id }).await?;
    look(&mut proxy(&scene, "operator").await?).await?;
    stop.store(true, Relaxed);
    while let Some(ended) = flood.join_next().await {
        ended?;
    }
    // From before the first to after the last: so many, and never more, can have gone to vCenter.
    let most = BURST + (begun.elapsed() * RATE).as_secs() + 1;
    let granted = granted.load(Relaxed);
    ensure!((1..=most).contains(&granted), "{granted} of at most {most}");
    nothing_stays(&scene).await
}

/// Over a connection of its own, which it keeps.
async fn enters(scene: &Scene, identity: &str) -> Result<Proxy> {
    let mut own = proxy(scene, identity).await?;
    look(&mut own).await?;
    Ok(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_by_client() -> Result<()> {
    let (_dir, mut scene) = limited("connections = 2")?;
    let (mut first, second) = (enters(&scene, "operator").await?, enters(&scene, "renewed").await?);
    ensure!(enters(&scene, "operator").await.is_err(), "a third");
    let _others = (enters(&scene, "other").await?, enters(&scene, "reader").await?);
    look(&mut first).await.context("those that are there")?;
    let log = scene.agent()?.log_text();
    ensure!(log.lines().any(|line| line.contains(OVER) && line.contains("DNS:operator.example.com")), "{log}");
    drop(second);
    eventually("one that ended makes room", async || Ok(enters(&scene, "operator").await.is_ok())).await?;
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_ends_alone() -> Result<()> {
    let (dir, scene) = ruled(&[dense(16 * MIB, 1)])?;
    let connection = channel(&scene, "operator").await?;
    let mut run = Running::over(connection.clone(), request(TARGET), dir.path()).await?;
    run.until(Seen::Frame).await?;
    let mut disks = DiskServiceClient::new(connection);
    let sized = |bytes: usize| {
        let mut request = OpenDisksRequest { vm: "x".repeat(bytes), ..OpenDisksRequest::default() };
        request.vm.truncate(bytes - (request.encoded_len() - bytes));
        assert_eq!(request.encoded_len(), bytes);
        request
    };
    // The largest is read: it is refused for what it says.
    refused(disks.open_disks(sized(MAX_REQUEST_BYTES)).await, "HA-SES-006")?;
    let status = disks.open_disks(sized(MAX_REQUEST_BYTES + 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    // The same of a call that bypasses the services' own decoder.
    let mut large = request(TARGET);
    large.vm = "x".repeat(MAX_REQUEST_BYTES);
    let status = Running::over(channel(&scene, "operator").await?, large, dir.path()).await.err().context("taken")?;
    let status = status.downcast::<Status>()?;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    // Other streams of that connection, and other clients, go on.
    look(&mut proxy(&scene, "other").await?).await?;
    let done = run.finish().await?;
    ensure!(done.result()?.reasons.is_empty(), "{:?}", done.result()?);
    nothing_stays(&scene).await
}
