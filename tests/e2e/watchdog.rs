//! systemd's watchdog: fed from READY on, while the settler takes steps, and only by the process that is watched.
use anyhow::Result;
use hotadd_api::v1::CloseDisksRequest;
use hotadd_harness::{Content, Scene, process::Notify, scene::TARGET};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{MIB, control, disks, eventually, nothing_is_left, open_request, scene};

/// A ping every tenth of a second.
const LIMIT: (&str, &str) = ("WATCHDOG_USEC", "200000");

fn pings(messages: &[String]) -> usize {
    messages.iter().filter(|message| message.contains("WATCHDOG=1")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fed_while_vcenter_is_waited_for_and_then_it_goes_on() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(2 * MIB, 1)], |spec| spec.set("deadlines", "call_seconds", 1))?;
    scene.agent()?.stop()?;
    let notify = Notify::bind(&scene.dir.join("notify"))?;
    // It takes connections and answers nothing.
    scene.vcenter.process.signal(Signal::SIGSTOP)?;
    let mut agent = scene.spawn_agent_with(Some(&notify), &[LIMIT])?;
    let mut seen = Vec::new();
    let waits = async || {
        seen.extend(notify.messages()?);
        Ok(seen.iter().any(|message| message.contains("STATUS=waiting for vCenter")))
    };
    let waited = eventually("it waits for vCenter", waits).await;
    scene.vcenter.process.signal(Signal::SIGCONT)?;
    waited?;
    assert_eq!(pings(&seen), 0, "a ping before READY arms the watchdog: {seen:?}");
    let fed = async || {
        seen.extend(notify.messages()?);
        Ok(pings(&seen) >= 5)
    };
    eventually("five pings", fed).await?;
    let first = |what: &str| seen.iter().position(|message| message.contains(what));
    assert!(first("READY=1") < first("WATCHDOG=1"), "{seen:?}");
    // A ping that crosses SIGTERM arms the watchdog again: it is fed to the end.
    agent.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settler_that_takes_no_step_is_not_fed_for() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(2 * MIB, 1)], |spec| spec.set("deadlines", "stall_seconds", 1))?;
    scene.agent()?.stop()?;
    let notify = scene.start_agent_with(&[LIMIT])?;
    let mut client = disks(&scene).await?;
    let session_id = client.open_disks(open_request(TARGET)).await?.into_inner().session_id;
    assert_eq!(silences(&mut scene)?, 0);
    // The one request that detaches takes longer than a step may.
    control(&scene, json!({"cmd": "set_task_ms", "ms": 4000})).await?;
    client.close_disks(CloseDisksRequest { session_id }).await?;
    assert!(silences(&mut scene)? > 0, "a step of four seconds was fed for");
    control(&scene, json!({"cmd": "set_task_ms", "ms": 0})).await?;
    notify.messages()?;
    eventually("pings again", async || Ok(pings(&notify.messages()?) > 0)).await?;
    nothing_is_left(&scene).await
}

fn silences(scene: &mut Scene) -> Result<usize> {
    Ok(scene.agent()?.log_text().matches("the settler takes no step").count())
}

/// WATCHDOG_PID says whom systemd watches; a child inherits the rest.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_watched_does_not_feed() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    for environment in [&[LIMIT, ("WATCHDOG_PID", "1")][..], &[]] {
        scene.agent()?.stop()?;
        let notify = scene.start_agent_with(environment)?;
        // Whoever feeds begins at once, and goes on to its end.
        scene.agent()?.stop()?;
        let seen = notify.messages()?;
        assert!(seen.iter().any(|message| message.contains("STOPPING=1")), "{seen:?}");
        assert_eq!(pings(&seen), 0, "{seen:?}");
        scene.take_agent()?;
        scene.start_agent()?;
    }
    Ok(())
}
