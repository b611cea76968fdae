//! Figures that anyone can repeat: our engines against fio on the same loop device, and the whole way from agent to
//! image, in interleaved rounds. Prints one JSON object a line; asserts nothing. Started by ci/bench.
//!
//! `ratio`: our median rate divided by fio's. `spread`: (slowest − fastest) / median of our rounds.
//! `cpu_s_per_gb`: user and system seconds of all processes of that side, per 10⁹ bytes.
#![forbid(unsafe_code)]

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hotadd_blockio::{Arena, Device, EngineKind, FullSpeed, ReadRequest, engine, reader};
use hotadd_harness::{Content, Run, Scene, Spec, ctl::images, scene::TARGET};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde_json::{Value, json};

const BLOCK: u32 = 1 << 20;
const DEPTH: u32 = 16;

#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each side.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// MiB read in each round.
    #[arg(long, default_value_t = 512)]
    mib: u64,
}

/// One measured round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    bytes_per_second: f64,
    cpu_seconds_per_gb: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let dir = tempfile::tempdir()?;
    let content = Content { bytes: args.mib << 20, seed: 7, every: 1 };
    let mut spec = Spec::new(dir.path(), &[content], 1);
    spec.agent_toml.clear();
    let scene = Scene::start(dir.path(), spec)?;
    let disk = LoopDevice::of(&scene.source(0))?;
    let bytes = content.bytes;

    for kind in EngineKind::PREFERENCE {
        let (mut ours, mut fio) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            ours.push(measured(bytes, || read_with(kind, &disk.node, bytes))?);
            fio.push(measured(bytes, || run_fio(&disk.node, bytes))?);
        }
        report(&format!("engine {kind}"), &ours, &fio, bytes);
    }
    let (mut ours, mut fio) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        ours.push(backup(&scene, &dir.path().join(format!("out-{round}")), bytes)?);
        fio.push(measured(bytes, || run_fio(&disk.node, bytes))?);
    }
    report("agent-sim, mutual TLS, hotaddctl, image on disk", &ours, &fio, bytes);
    Ok(())
}

fn report(name: &str, ours: &[Sample], fio: &[Sample], bytes: u64) {
    let rate = |samples: &[Sample]| samples.iter().map(|s| s.bytes_per_second).collect::<Vec<_>>();
    let cpu = |samples: &[Sample]| samples.iter().map(|s| s.cpu_seconds_per_gb).collect::<Vec<_>>();
    let (mine, peer) = (median(rate(ours)), median(rate(fio)));
    let fastest = rate(ours).into_iter().fold(0.0, f64::max);
    let slowest = rate(ours).into_iter().fold(f64::INFINITY, f64::min);
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    println!(
        "{}",
        json!({
            "name": name, "peer": "fio io_uring 1 MiB depth 16", "ratio": round(mine / peer),
            "spread": round((fastest - slowest) / mine), "rounds": ours.len(), "bytes": bytes,
            "mb_per_s": round(mine / 1e6), "peer_mb_per_s": round(peer / 1e6),
            "cpu_s_per_gb": round(median(cpu(ours))), "peer_cpu_s_per_gb": round(median(cpu(fio))),
        })
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time of this process and of the children that it has waited for.
fn cpu() -> Result<Duration> {
    let of = |who| -> Result<i64> {
        let usage = getrusage(who)?;
        Ok(usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
    };
    Ok(Duration::from_micros(u64::try_from(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)?))
}

/// `work` returns its own time, and its own CPU time where a process start would be counted otherwise.
fn measured(bytes: u64, work: impl FnOnce() -> Result<(Duration, Option<Duration>)>) -> Result<Sample> {
    let before = cpu()?;
    let (elapsed, own_cpu) = work()?;
    Ok(sample(bytes, elapsed, own_cpu.unwrap_or(cpu()?.saturating_sub(before))))
}

#[allow(clippy::cast_precision_loss, reason = "rates of far fewer than 2^52 bytes")]
fn sample(bytes: u64, elapsed: Duration, cpu: Duration) -> Sample {
    let gigabytes = bytes as f64 / 1e9;
    Sample { bytes_per_second: bytes as f64 / elapsed.as_secs_f64(), cpu_seconds_per_gb: cpu.as_secs_f64() / gigabytes }
}

fn read_with(kind: EngineKind, node: &Path, bytes: u64) -> Result<(Duration, Option<Duration>)> {
    let device = Arc::new(Device::open(node)?);
    let arena = Arena::new(DEPTH * 2, BLOCK as usize)?;
    let mut engine = engine::make(kind, &device, &arena, DEPTH)?;
    let whole = [0..device.size()];
    let request = ReadRequest { ranges: &whole, block: BLOCK, cancel: &AtomicBool::new(false) };
    let stats =
        reader::read(&device, engine.as_mut(), &arena, &request, &mut FullSpeed, &mut |_| ControlFlow::Continue(()))?;
    ensure!(stats.bytes == bytes, "read {} of {bytes}", stats.bytes);
    Ok((stats.elapsed, None))
}

fn run_fio(node: &Path, bytes: u64) -> Result<(Duration, Option<Duration>)> {
    let run = Run::of(Command::new("fio").arg(format!("--filename={}", node.display())).args([
        "--name=read",
        "--rw=read",
        "--bs=1M",
        "--iodepth=16",
        "--ioengine=io_uring",
        "--direct=1",
        "--readonly",
        "--output-format=json",
    ]))?;
    let json = run.stdout.find('{').and_then(|at| serde_json::from_str::<Value>(&run.stdout[at..]).ok());
    let job = json.context("fio's answer")?["jobs"][0].clone();
    ensure!(job["read"]["io_bytes"].as_u64() == Some(bytes), "fio read {}", job["read"]["io_bytes"]);
    let elapsed = Duration::from_millis(job["read"]["runtime"].as_u64().context("fio's runtime")?);
    let percent = |name: &str| job[name].as_f64().unwrap_or(f64::NAN);
    Ok((elapsed, Some(elapsed.mul_f64((percent("usr_cpu") + percent("sys_cpu")) / 100.0))))
}

/// The whole way; its time is the transfer alone, its CPU that of agent and hotaddctl.
fn backup(scene: &Scene, out: &Path, bytes: u64) -> Result<Sample> {
    let agent = agent_cpu(scene)?;
    let before = cpu()?;
    let run = scene.ctl(&["--json", "backup", "--vm", TARGET, "--out", &out.display().to_string()])?;
    ensure!(run.code == 0, "{}", run.stderr);
    let spent = cpu()?.saturating_sub(before) + agent_cpu(scene)?.saturating_sub(agent);
    ensure!(images(out)?.len() == 1);
    let disk = run.events().into_iter().find(|event| event["event"] == "disk").context("the disk's result")?;
    let transfer = disk["result"]["transfer_us"].as_u64().context("transfer time")?;
    std::fs::remove_dir_all(out)?;
    Ok(sample(bytes, Duration::from_micros(transfer), spent))
}

/// User and system time of the running agent (proc(5), /proc/pid/stat fields 14 and 15).
fn agent_cpu(scene: &Scene) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", scene.agent_pid()?))?;
    let fields: Vec<u64> = stat
        .rsplit(") ")
        .next()
        .into_iter()
        .flat_map(|rest| rest.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()))
        .collect();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(Duration::from_millis(fields.iter().sum::<u64>() * 1000 / u64::try_from(per_second)?))
}

/// A read-only loop device with direct I/O over a file; freed in Drop.
struct LoopDevice {
    node: PathBuf,
}

impl LoopDevice {
    fn of(file: &Path) -> Result<Self> {
        let run =
            Run::of(Command::new("losetup").args(["--find", "--show", "--read-only", "--direct-io=on"]).arg(file))?;
        ensure!(run.code == 0, "losetup: {}", run.stderr);
        Ok(Self { node: PathBuf::from(run.stdout.trim()) })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = Command::new("losetup").arg("--detach").arg(&self.node).status() {
            eprintln!("{} was not freed: {error}", self.node.display());
        }
    }
}
