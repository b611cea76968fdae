//! systemd's watchdog: fed by the process that is watched, and by no other.
use anyhow::Result;
use hotadd_harness::{Content, process::Notify};

use crate::support::{MIB, eventually, scene};

/// A ping every tenth of a second.
const LIMIT: (&str, &str) = ("WATCHDOG_USEC", "200000");

fn pings(messages: &[String]) -> usize {
    messages.iter().filter(|message| message.contains("WATCHDOG=1")).count()
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

/// A ping arms the watchdog also of a service that starts, and a vCenter that is away for hours is no reason to kill the agent.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fed_before_ready() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(2 * MIB, 1)], |spec| spec.set("deadlines", "reconnect_seconds", 0.5))?;
    scene.take_agent()?.stop()?;
    let notify = Notify::bind(&scene.dir.join("notify"))?;
    // Nobody listens on this port.
    scene.vcenter.url = "https://127.0.0.1:1/sdk".into();
    scene.write_config("")?;
    let mut agent = scene.spawn_agent_with(Some(&notify), &[LIMIT])?;
    let mut seen = Vec::new();
    let waits = async || {
        seen.extend(notify.messages()?);
        Ok(seen.iter().filter(|message| message.contains("STATUS=waiting for vCenter")).count() >= 3)
    };
    eventually("it waits for vCenter", waits).await?;
    assert_eq!(pings(&seen), 0, "{seen:?}");
    agent.kill()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_watched_feeds_as_long_as_it_runs() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    scene.agent()?.stop()?;
    let notify = scene.start_agent_with(&[LIMIT])?;
    // Each look begins where the one before ended.
    for _ in 0..2 {
        let mut seen = 0;
        let fed = async || {
            seen += pings(&notify.messages()?);
            Ok(seen >= 3)
        };
        eventually("three pings", fed).await?;
    }
    scene.agent()?.stop()?;
    Ok(())
}
