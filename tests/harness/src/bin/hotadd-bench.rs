//! Figures that anyone can repeat: our engines against fio and dd on a fast loop device and on one with latency, and the
//! whole way from agent to image, in interleaved rounds. Prints one JSON object a line; asserts nothing. Started by ci/bench.
//!
//! `ratio`: our median rate divided by the peer's. `spread`: (fastest − slowest) / median of our rounds; over 0.3 a ratio says
//! little. `slow N ms`: each read takes that much longer, any number of them at once ([`hotadd_harness::slow`]).
//! `cpu_s_per_gb`: user and system seconds of all processes of that side, per 10⁹ bytes.
#![forbid(unsafe_code)]

use std::{
    ops::ControlFlow,
    path::Path,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hotadd_blockio::{Arena, Device, EngineKind, FullSpeed, ReadRequest, engine, reader};
use hotadd_harness::{
    Content, Run, Scene, Spec,
    ctl::images,
    scene::TARGET,
    slow::{LoopDevice, SlowDevice},
};
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
    /// Only these.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Engines on a loop device.
    Fast,
    /// Engines on a device with latency.
    Slow,
    /// From the agent to an image.
    Whole,
}

/// One way of reading a device.
#[derive(Debug, Clone, Copy)]
enum Way {
    Engine(EngineKind, u32),
    /// Name of its ioengine, and depth.
    Fio(&'static str, u32),
    /// One blocking read after the other, as most open tools read.
    Dd,
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Engine(kind, depth) => format!("{kind}, depth {depth}"),
            Self::Fio(engine, depth) => format!("fio {engine}, depth {depth}"),
            Self::Dd => "dd, direct, 1 MiB".to_owned(),
        }
    }

    fn read(self, node: &Path, bytes: u64) -> Result<Sample> {
        measured(bytes, || match self {
            Self::Engine(kind, depth) => read_with(kind, depth, node, bytes),
            Self::Fio(engine, depth) => run_fio(engine, depth, node, bytes),
            Self::Dd => run_dd(node),
        })
    }
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
    let (file, bytes) = (scene.source(0), content.bytes);
    let wants = |part| args.only.is_none_or(|only| only == part);
    if wants(Part::Fast) {
        let disk = LoopDevice::of(&file)?;
        for (kind, fio) in
            [(EngineKind::IoUring, "io_uring"), (EngineKind::LinuxAio, "libaio"), (EngineKind::Preadv, "io_uring")]
        {
            compare("fast", &disk.node, Way::Engine(kind, DEPTH), Way::Fio(fio, DEPTH), args.rounds, bytes)?;
        }
    }
    if wants(Part::Slow) {
        for (ms, peers) in [(5, &[Way::Fio("io_uring", 32), Way::Dd][..]), (20, &[Way::Dd][..])] {
            let name = format!("slow {ms} ms");
            let disk = SlowDevice::of(&dir.path().join(&name), &file, Duration::from_millis(ms))?;
            for peer in peers {
                compare(&name, disk.node(), Way::Engine(EngineKind::IoUring, 32), *peer, args.rounds, bytes)?;
            }
            compare(
                &name,
                disk.node(),
                Way::Engine(EngineKind::LinuxAio, 32),
                Way::Fio("libaio", 32),
                args.rounds,
                bytes,
            )?;
        }
    }
    if wants(Part::Whole) {
        let disk = LoopDevice::of(&file)?;
        let peer = Way::Fio("io_uring", DEPTH);
        let (mut ours, mut fio) = (Vec::new(), Vec::new());
        for round in 0..args.rounds {
            ours.push(backup(&scene, &dir.path().join(format!("out-{round}")), bytes)?);
            fio.push(peer.read(&disk.node, bytes)?);
        }
        report("agent-sim, mutual TLS, hotaddctl, image on disk", &peer.name(), &ours, &fio, bytes);
    }
    Ok(())
}

fn compare(device: &str, node: &Path, way: Way, peer: Way, rounds: usize, bytes: u64) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(way.read(node, bytes)?);
        theirs.push(peer.read(node, bytes)?);
    }
    report(&format!("{device}: {}", way.name()), &peer.name(), &ours, &theirs, bytes);
    Ok(())
}

fn report(name: &str, peer_name: &str, ours: &[Sample], theirs: &[Sample], bytes: u64) {
    let rate = |samples: &[Sample]| samples.iter().map(|s| s.bytes_per_second).collect::<Vec<_>>();
    let cpu = |samples: &[Sample]| samples.iter().map(|s| s.cpu_seconds_per_gb).collect::<Vec<_>>();
    let (mine, peer) = (median(rate(ours)), median(rate(theirs)));
    let fastest = rate(ours).into_iter().fold(0.0, f64::max);
    let slowest = rate(ours).into_iter().fold(f64::INFINITY, f64::min);
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    println!(
        "{}",
        json!({
            "name": name, "peer": peer_name, "ratio": round(mine / peer),
            "spread": round((fastest - slowest) / mine), "rounds": ours.len(), "bytes": bytes,
            "mb_per_s": round(mine / 1e6), "peer_mb_per_s": round(peer / 1e6),
            "cpu_s_per_gb": round(median(cpu(ours))), "peer_cpu_s_per_gb": round(median(cpu(theirs))),
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

fn read_with(kind: EngineKind, depth: u32, node: &Path, bytes: u64) -> Result<(Duration, Option<Duration>)> {
    let device = Arc::new(Device::open(node)?);
    let arena = Arena::new(depth * 2, BLOCK as usize)?;
    let mut engine = engine::make(kind, &device, &arena, depth)?;
    let whole = [0..device.size()];
    let never = AtomicBool::new(false);
    let request = ReadRequest::new(&whole, BLOCK, &never);
    let stats =
        reader::read(&device, engine.as_mut(), &arena, &request, &mut FullSpeed, &mut |_| ControlFlow::Continue(()))?;
    ensure!(stats.bytes == bytes, "read {} of {bytes}", stats.bytes);
    Ok((stats.elapsed, None))
}

fn run_fio(engine: &str, depth: u32, node: &Path, bytes: u64) -> Result<(Duration, Option<Duration>)> {
    let mut command = Command::new("fio");
    command.arg(format!("--filename={}", node.display()));
    command.args([format!("--ioengine={engine}"), format!("--iodepth={depth}")]);
    let run = Run::of(command.args([
        "--name=read",
        "--rw=read",
        "--bs=1M",
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

fn run_dd(node: &Path) -> Result<(Duration, Option<Duration>)> {
    let begun = Instant::now();
    let input = format!("if={}", node.display());
    let run = Run::of(Command::new("dd").args([&input, "of=/dev/null", "bs=1M", "iflag=direct"]))?;
    ensure!(run.code == 0, "dd: {}", run.stderr);
    Ok((begun.elapsed(), None))
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
