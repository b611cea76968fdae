//! The audit log of whole jobs: who, what, by which task, and what happens when it can't be written.
use std::fs;

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Content, Scene, scene::TARGET};
use serde_json::Value;

use crate::{
    roles::channel,
    support::{MIB, Running, disks, eventually, jobs, nothing_is_left, open_request, refused, request, scene},
};

fn audited(required: bool) -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(2 * MIB, 1), Content::new(MIB, 2)], |spec| {
        let source = spec.target().disks[0].source.clone().unwrap();
        let dir = source.parent().unwrap().to_owned();
        let file = dir.join("audit").join("audit.log");
        fs::create_dir_all(dir.join("audit")).ok();
        spec.agent_toml.push_str(&format!("[audit]\nfile = '{}'\nrequired = {required}\n", file.display()));
    })
}

fn entries(scene: &Scene) -> Result<Vec<Value>> {
    let text = fs::read_to_string(scene.dir.join("audit/audit.log"))?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// What was told of this step, in order.
fn of<'a>(all: &'a [Value], what: &str) -> Vec<&'a Value> {
    all.iter().filter(|entry| entry["what"] == what).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_step_by_step_with_its_tasks() -> Result<()> {
    let (dir, mut scene) = audited(true)?;
    let channel = channel(&scene, "client").await?;
    let done = Running::over(channel, request(TARGET), dir.path()).await?.finish().await?;
    ensure!(done.result()?.reasons.is_empty());
    eventually("the last step is told", async || Ok(!of(&entries(&scene)?, "remove snapshot").is_empty())).await?;
    let all = entries(&scene)?;
    for (what, count) in [("BackupVm", 1), ("create snapshot", 1), ("attach", 2), ("detach", 2), ("remove snapshot", 1)]
    {
        let told = of(&all, what);
        assert_eq!(told.len(), count, "{what}: {all:#?}");
        for entry in told {
            assert_eq!((&entry["outcome"], &entry["who"]), (&"ok".into(), &"DNS:controller".into()), "{entry}");
            let print = entry["fingerprint"].as_str().context("no fingerprint")?;
            assert_eq!(print.len(), 64, "{entry}");
            if what != "BackupVm" {
                let tasks = entry["tasks"].as_array().context("no tasks")?;
                ensure!(tasks.iter().all(|task| task.as_str().is_some_and(|id| id.starts_with("task-"))), "{entry}");
                ensure!(!tasks.is_empty() && entry["moref"].as_str().is_some_and(|m| m.starts_with("vm-")), "{entry}");
            }
        }
    }
    ensure!(!of(&all, "disable methods").is_empty() && !of(&all, "enable methods").is_empty(), "{all:#?}");
    let log = scene.agent()?.log_text();
    ensure!(log.lines().any(|line| line.contains("audit") && line.contains("remove snapshot ok")), "{log}");
    ensure!(!fs::read_to_string(scene.dir.join("audit/audit.log"))?.contains("password"));
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_without_a_log_that_is_required_and_everything_is_given_back() -> Result<()> {
    let (_dir, mut scene) = audited(true)?;
    let mut client = disks(&scene).await?;
    let session_id = client.open_disks(open_request(TARGET)).await?.into_inner().session_id;
    let (there, away) = (scene.dir.join("audit"), scene.dir.join("away"));
    fs::rename(&there, &away)?;
    scene.agent()?.signal(nix::sys::signal::Signal::SIGHUP)?;
    let agent = scene.agent()?;
    eventually("it is told", async || Ok(agent.log_text().contains("HA-AUD-001"))).await?;
    refused(jobs(&scene).await?.backup_vm(request(TARGET)).await.map(|_| ()), "HA-AUD-001")?;
    client.close_disks(hotadd_api::v1::CloseDisksRequest { session_id }).await?;
    nothing_is_left(&scene).await?;
    fs::rename(&away, &there)?;
    scene.agent()?.signal(nix::sys::signal::Signal::SIGHUP)?;
    eventually("work is taken again", async || Ok(jobs(&scene).await?.backup_vm(request(TARGET)).await.is_ok()))
        .await?;
    crate::support::nothing_stays(&scene).await
}
