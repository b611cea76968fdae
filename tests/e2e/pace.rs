//! How fast disks are read: limits that are set while a job runs.
use anyhow::{Result, ensure};
use hotadd_api::v1::{
    JobState, Pace, SetLimitsRequest, proxy_service_client::ProxyServiceClient, set_limits_request::What,
};
use hotadd_harness::scene::TARGET;

use crate::support::{
    MIB, Running, Seen, around_calls, backup, dense, images_equal_sources, nothing_is_left, refused, request, scene,
};

/// Less than a block in the time of any test.
const CRAWL: Pace = Pace { bytes_per_second: 65_536, reads_per_second: 0, latency_us: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_slows_a_job_that_runs_until_it_is_lifted() -> Result<()> {
    let (dir, scene) = scene(&[dense(64 * MIB, 1)], |spec| spec.set("deadlines", "watch_seconds", 0.1))?;
    let mut proxy = ProxyServiceClient::new(scene.channel().await?);
    let set = |what, pace| SetLimitsRequest { what: Some(what), pace: Some(pace), ttl_seconds: 3600 };
    let limits = proxy.set_limits(set(What::Disk(true), CRAWL)).await?.into_inner().limits;
    assert_eq!((limits[0].what.as_str(), limits[0].pace), ("disk", Some(CRAWL)));
    ensure!((3599..=3600).contains(&limits[0].seconds_left), "{limits:?}");
    let mut run = Running::start(&scene, request(TARGET), dir.path()).await?;
    run.until(Seen::Frame).await?;
    let crawling = tokio::spawn(run.finish());
    around_calls(&scene, 20).await?;
    ensure!(!crawling.is_finished(), "64 MiB at 64 KiB in a second");
    let unset = SetLimitsRequest { what: Some(What::Disk(true)), pace: None, ttl_seconds: 0 };
    assert_eq!(proxy.set_limits(unset).await?.into_inner().limits, []);
    let delivered = crawling.await??;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    let little = Pace { bytes_per_second: 1, ..Pace::default() };
    refused(proxy.set_limits(set(What::Agent(true), little)).await, "HA-SES-006")?;
    let late = Pace { latency_us: 5, ..Pace::default() };
    refused(proxy.set_limits(set(What::Agent(true), late)).await, "HA-SES-006")?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latency_ceiling_of_a_datastore_costs_depth_and_no_bytes() -> Result<()> {
    let (dir, scene) = scene(&[dense(32 * MIB, 1)], |spec| {
        spec.agent_toml.push_str("[pace.datastores.ds1]\nlatency_ms = 0.1\nreads_per_second = 2000\n");
    })?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    let told = ProxyServiceClient::new(scene.channel().await?).set_limits(SetLimitsRequest::default()).await?;
    assert_eq!(told.into_inner().limits[0].what, "datastores.ds1");
    nothing_is_left(&scene).await
}
