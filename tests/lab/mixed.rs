//! One VM, three kinds of datastore: what can't be hot-added comes by NBD with mutual TLS, from servers on another machine.
use anyhow::Result;
use hotadd_harness::{Exports, Run, guest::HOST, scene::FIRST_KEY};
use serde_json::Value;

use crate::support::{MIB, backup, contents, images_equal_sources, lab, nothing_is_left};

#[tokio::test(flavor = "multi_thread")]
async fn one_disk_by_hotadd_and_two_by_nbd_in_one_command() -> Result<()> {
    let servers_dir = tempfile::tempdir()?;
    let mut servers = Exports::bind(servers_dir.path())?;
    let mut changed = Ok(());
    let change = |spec: &mut hotadd_harness::Spec| {
        let dir = spec.inventory.datastores[0].dir.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        changed = spec.three_kinds(&dir).and_then(|()| spec.nbd_servers(&servers));
    };
    let Some((dir, lab)) = lab(&contents(3, 8 * MIB), change, &[])? else { return Ok(()) };
    changed?;
    let keys = [FIRST_KEY + 1, FIRST_KEY + 2];
    servers.serve(&lab.vcenter.control, &lab.pki, &keys)?;
    let ways: Vec<String> =
        keys.iter().map(|key| Ok(format!("--nbd={key}={}/{key}", servers.uri(HOST)?))).collect::<Result<_>>()?;
    let ways: Vec<&str> = ways.iter().map(String::as_str).collect();
    let out = dir.path().join("out");
    let run = backup(&lab, &out, &ways)?;
    assert_eq!(run.code, 0, "{}\n{}\n{}", run.stderr, run.stdout, lab.journal()?);
    assert_eq!(images_equal_sources(&lab, &out)?, 3);
    assert_eq!(told(&run, FIRST_KEY), ("hotadd".into(), vec![]));
    assert_eq!(told(&run, FIRST_KEY + 1), ("nbd".into(), vec!["HA-PLAN-009".into()]));
    assert_eq!(told(&run, FIRST_KEY + 2), ("nbd".into(), vec!["HA-PLAN-010".into()]));
    nothing_is_left(&lab).await
}

/// Transport and reasons of a disk, as the job's end tells them.
fn told(run: &Run, key: i32) -> (String, Vec<String>) {
    let events = run.events();
    let disks = events.iter().flat_map(|event| event["disks"].as_array().into_iter().flatten());
    let Some(disk) = disks.rev().find(|disk| disk["disk"]["device_key"] == key) else {
        return ("not told".into(), Vec::new());
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let codes = disk["reasons"].as_array().into_iter().flatten().map(|reason| text(&reason["code"]));
    (text(&disk["transport"]), codes.collect())
}
