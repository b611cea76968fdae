//! Logins that vCenter refuses while something is attached: the account is not knocked at often enough to be locked, the
//! operator is told, and everything is detached once the password is right.
use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    Event, EventKind, JobState, ListDutiesRequest, WatchEventsRequest, proxy_service_client::ProxyServiceClient,
};
use hotadd_harness::{
    Scene, Spec,
    scene::{PASSWORD, TARGET, secret},
};
use serde_json::json;
use tonic::Streaming;

use crate::support::{
    MIB, Running, Seen, backup, calls, control, dense, disks, eventually, fault, images_equal_sources, nothing_is_left,
    nothing_stays, request, scene,
};

async fn watch(scene: &Scene) -> Result<Streaming<Event>> {
    let mut client = ProxyServiceClient::new(scene.channel().await?);
    Ok(client.watch_events(WatchEventsRequest::default()).await?.into_inner())
}

async fn login_event(events: &mut Streaming<Event>) -> Result<Event> {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(60), events.message()).await??.context("it ended")?;
        if event.kind() == EventKind::Login {
            return Ok(event);
        }
    }
}

fn settling(scene: &Scene) -> Result<usize> {
    let log = fs::read_to_string(scene.dir.join("agent.log"))?;
    Ok(log
        .lines()
        .filter(|line| line.contains("not settled yet") && line.contains("refuses the agent's login"))
        .count())
}

/// Disks are held, the password is rotated, all sessions end, and the controller goes away: the worst moment.
async fn cut_off(change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene, Streaming<Event>)> {
    let (dir, scene) = scene(&[dense(128 * MIB, 1)], change)?;
    let events = watch(&scene).await?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    ensure!(scene.left_attached().await?.len() == 1);
    control(&scene, json!({"cmd": "requests", "clear": true})).await?;
    control(&scene, json!({"cmd": "set_password", "password": "rotated"})).await?;
    scene.control().await?.end_sessions().await?;
    drop(job);
    Ok((dir, scene, events))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_is_tried_once_and_the_new_one_at_once() -> Result<()> {
    let (dir, scene, mut events) = cut_off(|_| {}).await?;
    let told = login_event(&mut events).await?;
    ensure!(told.reason.as_ref().is_some_and(|reason| reason.code == "HA-VC-012"), "{told:?}");
    // The settler goes on asking, and nothing of that reaches vCenter.
    eventually("the settler has tried often", async || Ok(settling(&scene)? >= 6)).await?;
    assert_eq!(calls(&scene, "Login").await?.len(), 1);
    let duties = disks(&scene).await?.list_duties(ListDutiesRequest {}).await?.into_inner().duties;
    assert!(duties.iter().any(|duty| duty.last_error.contains("refuses the agent's login")), "{duties:#?}");
    assert_eq!(scene.left_attached().await?.len(), 1, "nothing could be detached");

    let fresh = scene.pki.file("vc-password.new");
    secret(&fresh, "rotated\n")?;
    fs::rename(fresh, scene.pki.file("vc-password"))?;
    nothing_stays(&scene).await?;
    assert_eq!(calls(&scene, "Login").await?.len(), 2);
    let told = login_event(&mut events).await?;
    ensure!(told.reason.is_none(), "taken again: {told:?}");
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

/// Nobody touches the file: the old password is good again, and the next try after the pause finds that out.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_right_again_settles_after_the_pause() -> Result<()> {
    let (_dir, scene, mut events) = cut_off(|spec| {
        spec.set("deadlines", "login_seconds", 3);
        spec.set("deadlines", "login_last_seconds", 3);
    })
    .await?;
    login_event(&mut events).await?;
    eventually("a second try", async || Ok(calls(&scene, "Login").await?.len() >= 2)).await?;
    let (tries, logins) = (settling(&scene)?, calls(&scene, "Login").await?.len());
    ensure!(tries >= logins, "{tries} passes, {logins} logins");
    control(&scene, json!({"cmd": "set_password", "password": PASSWORD})).await?;
    nothing_stays(&scene).await
}

/// A vCenter that does not answer has refused nothing: it is asked again as soon as somebody needs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_an_answer_does_not_hold_the_next() -> Result<()> {
    let (dir, scene) = scene(&[dense(4 * MIB, 1)], |_| {})?;
    fault(&scene, "Login", json!({"kind": "drop_reply", "count": 3})).await?;
    scene.control().await?.end_sessions().await?;
    eventually("a job goes through", async || {
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        Ok(delivered.result()?.state() == JobState::Ok)
    })
    .await?;
    nothing_is_left(&scene).await
}
