//! A night: many VMs of two disks through one proxy, by one controller that sends them as the agent takes them; beside it fewer VMs one after
//! the other. Prints one JSON object a line; asserts nothing. Started by ci/bench night.
//!
//! vCenter's tasks take what they take in the field (snapshot 5 s, attach and detach 8 s) times `--scale`. What is not a task (calls, fsync,
//! reads) is not scaled, so `vms_per_hour`, which is told at full length, charges it 1/scale times: it is a lower bound.
//! `reconfigures_s`: reconfigure tasks that vCenter was asked for, end to end; `reads_s`: transfers of all disks, end to end; both at scale.
//! `ratio`: `wall_s` divided by the greater of the two: what no order of work could undercut.
#![forbid(unsafe_code)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hotadd_api::{
    MAX_MESSAGE_BYTES,
    v1::{BackupVmRequest, JobState, job_event::Item, job_service_client::JobServiceClient},
};
use hotadd_harness::{
    Scene, Spec,
    scene::{datastore_spec, vm},
};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::transport::Channel;
use vcenter_sim::inventory::DiskSpec;

const SNAPSHOT: Duration = Duration::from_secs(5);
/// Attach or detach.
const RECONFIGURE: Duration = Duration::from_secs(8);

#[derive(Debug, Parser)]
struct Args {
    #[arg(long, default_value_t = 250)]
    vms: usize,
    /// Of the tasks' durations.
    #[arg(long, default_value_t = 0.02)]
    scale: f64,
    /// VMs of the one-by-one way.
    #[arg(long, default_value_t = 10)]
    naive: usize,
    /// Jobs that the controller has under way.
    #[arg(long, default_value_t = 48)]
    streams: usize,
    /// On which the VMs are. With the default of limits.snapshots_per_datastore six keep 24 VMs under way: 48 of the proxy's 56 units.
    #[arg(long, default_value_t = 6)]
    datastores: usize,
    /// MiB of each disk.
    #[arg(long, default_value_t = 1)]
    mib: u64,
}

/// One way through some of the VMs.
struct Way {
    name: &'static str,
    vms: std::ops::Range<usize>,
    streams: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        args.scale > 0.0 && args.datastores > 0 && args.streams > 0,
        "scale, datastores and streams are above zero"
    );
    let dir = tempfile::tempdir()?;
    let mut spec = Spec::new(dir.path(), &[], 4);
    spec.log = "warn".into();
    spec.agent_toml.clear();
    // A second slot may be taken between the look and the attach of another job: the default would refuse at once.
    spec.agent_toml.push_str("[plan]\nslot_wait_seconds = 3600\n");
    let stores: Vec<String> = (0..args.datastores).map(|n| format!("night{n}")).collect();
    spec.inventory.datastores.extend(stores.iter().map(|name| datastore_spec(name, dir.path().join(name))));
    let disk = |unit| DiskSpec { capacity: Some(args.mib << 20), unit: Some(unit), ..DiskSpec::default() };
    for n in 0..args.vms + args.naive {
        let mut one = vm(&name(n), vec![disk(0), disk(1)]);
        one.datastore = stores.get(n % stores.len()).cloned();
        spec.inventory.vms.push(one);
    }
    let mut scene = Scene::start(dir.path(), spec)?;
    let mut control = scene.control().await?;
    let tasks =
        [("CreateSnapshot_Task", SNAPSHOT), ("ReconfigVM_Task", RECONFIGURE), ("RemoveSnapshot_Task", SNAPSHOT)];
    for (method, length) in tasks {
        let ms = length.mul_f64(args.scale).as_millis();
        control.fault(method, json!({"kind": "delay_ms", "ms": ms, "count": 1_000_000})).await?;
    }
    let night = Way { name: "night", vms: 0..args.vms, streams: args.streams };
    let naive = Way { name: "one by one", vms: args.vms..args.vms + args.naive, streams: 1 };
    for way in [naive, night] {
        run(&mut scene, &args, way).await?;
    }
    Ok(())
}

fn name(n: usize) -> String {
    format!("vm{n:04}")
}

async fn run(scene: &mut Scene, args: &Args, way: Way) -> Result<()> {
    let before = reconfigures(scene).await?;
    let (channel, turns, mut runs) = (scene.channel().await?, Arc::new(Semaphore::new(way.streams)), JoinSet::new());
    let (count, start) = (way.vms.len(), Instant::now());
    for n in way.vms {
        let (channel, turns) = (channel.clone(), Arc::clone(&turns));
        runs.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            backup(channel, name(n)).await
        });
    }
    let mut reads = Duration::ZERO;
    for read in runs.join_all().await {
        reads += read?;
    }
    let wall = start.elapsed();
    let tasks = u32::try_from(reconfigures(scene).await? - before)?;
    let serial = RECONFIGURE.mul_f64(args.scale) * tasks;
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let vms_per_hour = f64::from(u32::try_from(count)?) * 3600.0 * args.scale / wall.as_secs_f64();
    println!(
        "{}",
        json!({
            "name": way.name, "vms": count, "disks": count * 2, "streams": way.streams, "datastores": args.datastores,
            "scale": args.scale, "wall_s": round(wall.as_secs_f64()), "reads_s": round(reads.as_secs_f64()),
            "reconfigures": tasks, "reconfigures_s": round(serial.as_secs_f64()),
            "ratio": round(wall.as_secs_f64() / reads.max(serial).as_secs_f64()),
            "vms_per_hour": round(vms_per_hour), "agent_peak_rss_mib": peak(scene)? >> 20,
        })
    );
    Ok(())
}

/// To the end of its stream; how long its disks' transfers took together.
async fn backup(channel: Channel, vm: String) -> Result<Duration> {
    let mut client = JobServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut stream = client.backup_vm(BackupVmRequest { vm, ..BackupVmRequest::default() }).await?.into_inner();
    let (mut reads, mut result) = (Duration::ZERO, None);
    while let Some(event) = stream.message().await? {
        match event.item {
            Some(Item::DiskRead(disk)) => {
                let timings = disk.timings.context("a disk without timings")?;
                reads += Duration::from_micros(timings.transfer_us);
            }
            Some(Item::Result(last)) => result = Some(last),
            _ => {}
        }
    }
    let result = result.context("a stream without a result")?;
    ensure!(result.state() == JobState::Ok, "{result:#?}");
    Ok(reads)
}

/// Reconfigure tasks that vCenter was asked for so far.
async fn reconfigures(scene: &Scene) -> Result<u64> {
    let counters = scene.control().await?.counters().await?;
    Ok(counters["calls"]["ReconfigVM_Task"].as_u64().unwrap_or(0))
}

/// Highest resident set of the agent so far (proc(5), VmHWM).
fn peak(scene: &mut Scene) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.agent_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
