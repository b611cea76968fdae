//! WatchEvents, and what hotaddctl shows an operator of it.
use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, Cleanup, Event, EventKind, ListDutiesRequest, WatchEventsRequest,
    proxy_service_client::ProxyServiceClient,
};
use hotadd_harness::{Process, Run, Scene, binary, scene::TARGET};
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Streaming;

use crate::support::{
    MIB, Running, Seen, backup, control, dense, disks, eventually, fault, nothing_is_left, nothing_stays, request,
    scene,
};

async fn watch(scene: &Scene) -> Result<Streaming<Event>> {
    let mut client = ProxyServiceClient::new(scene.channel().await?);
    let mut events = client.watch_events(WatchEventsRequest::default()).await?.into_inner();
    let first = next(&mut events).await?;
    ensure!(first.kind() == EventKind::Watching, "{first:?}");
    Ok(events)
}

async fn next(events: &mut Streaming<Event>) -> Result<Event> {
    let event = tokio::time::timeout(Duration::from_secs(60), events.message()).await??;
    event.context("the stream ended")
}

async fn until(events: &mut Streaming<Event>, kind: EventKind) -> Result<Vec<Event>> {
    let mut seen = vec![next(events).await?];
    while seen.last().is_some_and(|event| event.kind() != kind) {
        seen.push(next(events).await?);
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_duties_and_jobs_come_and_go() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(32 * MIB, 1)], |spec| spec.agent_top = "guards = 'off'".into())?;
    let mut events = watch(&scene).await?;
    let job = backup(&scene, request(TARGET), dir.path()).await?.job_id;
    let seen = until(&mut events, EventKind::JobEnded).await?;
    let kinds: Vec<_> = seen.iter().map(Event::kind).collect();
    use EventKind::{DutyHeld, DutyOpened, DutyRetired, JobBegan, JobEnded};
    let expected = [JobBegan, DutyOpened, DutyHeld, DutyOpened, DutyHeld, DutyRetired, DutyRetired, JobEnded];
    assert_eq!(kinds, expected, "{seen:#?}");
    let last = seen.last().context("none")?;
    assert!(last.id == job && last.reason.is_none() && last.vm == TARGET, "{last:?}");
    assert!(
        seen[1].vm == TARGET && !seen[1].id.is_empty() && [seen[2].id.as_str(), &seen[6].id] == [&seen[1].id; 2],
        "{seen:#?}"
    );
    // One that breaks tells why.
    let mut run = Running::start(&scene, request(TARGET), dir.path()).await?;
    run.until(Seen::Frame).await?;
    drop(run);
    let seen = until(&mut events, EventKind::JobEnded).await?;
    let reason = seen.last().and_then(|event| event.reason.clone()).context("no reason")?;
    assert_eq!(reason.code, "HA-JOB-003");
    nothing_stays(&scene).await?;
    // A watcher does not hold the agent when it is told to stop.
    let status = scene.take_agent()?.stop()?;
    assert!(status.success(), "{status}");
    while let Ok(Some(_)) = events.message().await {}
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn duties_have_an_exit_code_and_watch_prints_lines() -> Result<()> {
    let (dir, scene) = scene(&[dense(32 * MIB, 1)], |spec| spec.agent_top = "guards = 'off'".into())?;
    let none = scene.ctl(&["duties"])?;
    assert!(none.code == 0 && none.stdout.contains("duties: none"), "{none:#?}");
    let mut command = Run::command(&scene.url, &scene.pki, "client")?;
    let log = dir.path().join("watch.log");
    let mut watching = Process::start("hotaddctl", command.args(["watch", "--json"]), &log)?;
    eventually("it watches", async || Ok(watching.log_text().contains("watching"))).await?;
    let wanted = BackupVmRequest { resume_window_seconds: 600, ..request(TARGET) };
    let mut run = Running::start(&scene, wanted, dir.path()).await?;
    run.until(Seen::Frame).await?;
    let held = scene.ctl(&["duties", "--json"])?;
    assert!(held.code == 9 && held.stdout.lines().count() == 2, "{held:#?}");
    drop(run);
    eventually("the end is told", async || Ok(watching.log_text().contains("job_ended"))).await?;
    let kept = scene.ctl(&["duties"])?;
    assert!(kept.code == 9 && kept.stdout.contains("kept until"), "{kept:#?}");
    watching.signal(Signal::SIGINT)?;
    let status = watching.wait(Duration::from_secs(30))?;
    assert_eq!(status.code(), Some(130), "{}", watching.log_text());
    for line in watching.log_text().lines().filter(|line| line.starts_with('{')) {
        let event: serde_json::Value = serde_json::from_str(line)?;
        assert!(event["event"].is_string(), "{line}");
    }
    Ok(())
}

/// What happened while nobody watched comes first, once and in order; another run is told as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_break_and_tells_a_restart() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(32 * MIB, 1)], |spec| spec.agent_top = "guards = 'off'".into())?;
    let mut client = ProxyServiceClient::new(scene.channel().await?);
    let mut events = client.watch_events(WatchEventsRequest::default()).await?.into_inner();
    let run = next(&mut events).await?.run;
    backup(&scene, request(TARGET), dir.path()).await?;
    let seen = until(&mut events, EventKind::JobEnded).await?;
    let numbers = |seen: &[Event]| seen.iter().map(|event| event.sequence).collect::<Vec<_>>();
    let first = numbers(&seen);
    assert!(first.windows(2).all(|pair| pair[1] == pair[0] + 1), "{first:?}");
    drop(events);
    backup(&scene, request(TARGET), dir.path()).await?;
    let after = first.last().copied().context("none")?;
    let mut events = client.watch_events(WatchEventsRequest { run: run.clone(), after }).await?.into_inner();
    let start = next(&mut events).await?;
    assert_eq!((start.kind(), start.sequence, &start.run), (EventKind::Watching, after, &run));
    let missed = until(&mut events, EventKind::JobEnded).await?;
    let expected: Vec<u64> = (after + 1..).take(seen.len()).collect();
    assert_eq!((numbers(&missed), missed[0].kind()), (expected, EventKind::JobBegan));
    scene.take_agent()?.stop()?;
    scene.start_agent()?;
    let mut client = ProxyServiceClient::new(scene.channel().await?);
    let mut events = client.watch_events(WatchEventsRequest { run: run.clone(), after }).await?.into_inner();
    let (start, told) = (next(&mut events).await?, next(&mut events).await?);
    assert!(start.run != run && told.kind() == EventKind::Missed && told.missed == 0, "{start:?} {told:?}");
    nothing_is_left(&scene).await
}

/// vCenter never answers the detach: after some tries that is an alarm, for whoever watches and in the journal, where it is
/// found after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_detach_that_hangs_is_an_alarm_in_journal_and_stream() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(32 * MIB, 1)], |spec| {
        spec.agent_top = "guards = 'off'".into();
        for (key, value) in [("call_seconds", 1.0), ("retry_last_seconds", 0.2), ("cleanup_seconds", 1.0)] {
            spec.set("deadlines", key, value);
        }
    })?;
    let mut events = watch(&scene).await?;
    let mut run = Running::start(&scene, request(TARGET), dir.path()).await?;
    run.until(Seen::Frame).await?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "hang", "count": 1000})).await?;
    let delivered = run.finish().await?;
    assert_eq!(delivered.result()?.cleanup(), Cleanup::Owed, "{:#?}", delivered.result);
    let seen = until(&mut events, EventKind::DutyAlarm).await?;
    let alarm = seen.last().context("none")?;
    let reason = alarm.reason.clone().context("an alarm without a reason")?;
    assert!(alarm.vm == TARGET && reason.code == "HA-DUT-001", "{alarm:?}");
    assert_eq!(reason.cleanup(), Cleanup::Owed, "{reason:?}");
    let duties = disks(&scene).await?.list_duties(ListDutiesRequest {}).await?.into_inner().duties;
    assert!(duties.iter().any(|duty| duty.duty_id == alarm.id), "{} is none of {duties:#?}", alarm.id);
    assert_eq!(scene.left_attached().await?.len(), 1, "nothing was tested");
    // A process that is killed right now still knows.
    scene.take_agent()?.kill()?;
    let mut show = Command::new(binary("agent-sim")?);
    show.args(["journal", "show", "--state-dir"]).arg(scene.dir.join("state"));
    let output = show.env("AGENT_SIM_CONTROL", &scene.vcenter.control).output()?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let alarms = lines.lines().filter(|line| line.contains("\"record\":\"alarm\""));
    assert!(alarms.clone().any(|line| line.contains(&alarm.id)), "{lines}");
    control(&scene, json!({"cmd": "clear_faults"})).await?;
    scene.start_agent()?;
    nothing_stays(&scene).await
}
