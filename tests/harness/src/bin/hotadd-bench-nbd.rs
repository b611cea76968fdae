//! The NBD client against nbdcopy, in interleaved rounds on one nbdkit (plugin pattern, filter delay, 5 ms a read).
//! Prints one JSON object a line; asserts nothing. Started by `ci/bench nbd`.
//!
//! `ratio`: our median rate divided by nbdcopy's; nbdcopy's time holds the start of its process. `spread`: (slowest −
//! fastest) / median of our rounds. `cpu_s`, `peer_cpu_s`: median user and system seconds of the client alone.
//! The last line compares 8 connections with one on a server that takes one request at a time on each (`nbdkit -t 1`):
//! nbdkit otherwise works on 16 requests of a connection at once, and one connection is enough to keep a CPU busy.
//! nbdcopy is left out there: it gives each connection at least 128 MiB of the disk.
#![forbid(unsafe_code)]

use std::{
    ops::ControlFlow,
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hotadd_blockio::{
    Arena, FullSpeed, ReadRequest, Source as _,
    nbd::{NbdEngine, Options},
    reader,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde_json::json;

#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each side.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// MiB read in each round.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
}

/// How a disk is asked.
#[derive(Debug, Clone, Copy)]
struct Shape {
    connections: u32,
    /// Requests in flight on each connection.
    requests: u32,
    request_bytes: u32,
}

/// One measured round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    rate: f64,
    cpu: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    for connections in [1, 8] {
        let shape = Shape { connections, requests: 16, request_bytes: 256 << 10 };
        compare("NBD client", shape, &args)?;
    }
    let (one, eight) = (serial(1, &args)?, serial(8, &args)?);
    println!(
        "{}",
        json!({"name": "8 connections / 1, one request at a time on each", "ratio": round(eight / one),
        "mb_per_s": round(eight / 1e6), "one_mb_per_s": round(one / 1e6), "rounds": args.rounds})
    );
    Ok(())
}

/// The median rate on a server that takes one request at a time on each connection.
fn serial(connections: u32, args: &Args) -> Result<f64> {
    let mib = (args.mib / 16).max(16);
    let server = Server::start(&["-t", "1"], mib)?;
    let shape = Shape { connections, requests: 4, request_bytes: 256 << 10 };
    let rounds = (0..args.rounds).map(|_| measured(mib << 20, || read_it(&server, shape, mib << 20)));
    Ok(median(rounds.map(|sample| sample.map(|sample| sample.rate)).collect::<Result<_>>()?))
}

fn compare(name: &str, shape: Shape, args: &Args) -> Result<()> {
    let bytes = args.mib << 20;
    let server = Server::start(&[], args.mib)?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        ours.push(measured(bytes, || read_it(&server, shape, bytes))?);
        peer.push(measured(bytes, || nbdcopy(&server, shape))?);
    }
    let rates = |samples: &[Sample]| samples.iter().map(|s| s.rate).collect::<Vec<_>>();
    let cpu = |samples: &[Sample]| median(samples.iter().map(|s| s.cpu).collect());
    let (mine, theirs) = (median(rates(&ours)), median(rates(&peer)));
    let fastest = rates(&ours).into_iter().fold(0.0, f64::max);
    let slowest = rates(&ours).into_iter().fold(f64::INFINITY, f64::min);
    println!(
        "{}",
        json!({
            "name": name, "peer": "nbdcopy", "connections": shape.connections, "requests": shape.requests,
            "request_bytes": shape.request_bytes, "ratio": round(mine / theirs), "spread": round((fastest - slowest) / mine),
            "rounds": ours.len(), "bytes": bytes, "mb_per_s": round(mine / 1e6), "peer_mb_per_s": round(theirs / 1e6),
            "cpu_s": round(cpu(&ours)), "peer_cpu_s": round(cpu(&peer)),
        })
    );
    Ok(())
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time of this process and of the children that it has waited for; nbdkit is waited for only at its end.
fn cpu() -> Result<Duration> {
    let of = |who| -> Result<i64> {
        let usage = getrusage(who)?;
        Ok(usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
    };
    Ok(Duration::from_micros(u64::try_from(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)?))
}

#[allow(clippy::cast_precision_loss, reason = "rates of far fewer than 2^52 bytes")]
fn measured(bytes: u64, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let (before, began) = (cpu()?, Instant::now());
    work()?;
    let elapsed = began.elapsed();
    Ok(Sample { rate: bytes as f64 / elapsed.as_secs_f64(), cpu: cpu()?.saturating_sub(before).as_secs_f64() })
}

fn read_it(server: &Server, shape: Shape, bytes: u64) -> Result<()> {
    let options = Options { connections: shape.connections, ..Options::default() };
    let depth = shape.connections * shape.requests;
    let mut engine = NbdEngine::open(&server.uri.parse()?, &options, depth)?;
    ensure!(engine.connections() == shape.connections as usize, "{} connections", engine.connections());
    let source = Arc::clone(engine.source());
    // As the agent's reads have it.
    let arena = Arena::new(depth * 2, shape.request_bytes as usize)?;
    let whole = [0..source.size()];
    let never = AtomicBool::new(false);
    let request = ReadRequest::new(&whole, shape.request_bytes, &never);
    let stats =
        reader::read(&source, &mut engine, &arena, &request, &mut FullSpeed, &mut |_| ControlFlow::Continue(()))?;
    ensure!(stats.bytes == bytes, "read {} of {bytes}", stats.bytes);
    Ok(())
}

fn nbdcopy(server: &Server, shape: Shape) -> Result<()> {
    let status = Command::new("nbdcopy")
        // Without as many threads it opens fewer connections than it is told.
        .args([format!("--connections={0}", shape.connections), format!("--threads={0}", shape.connections)])
        .arg(format!("--requests={}", shape.requests))
        .arg(format!("--request-size={}", shape.request_bytes))
        .args([&server.uri, "null:"])
        .status()
        .context("nbdcopy (package libnbd-bin)")?;
    ensure!(status.success(), "nbdcopy ended with {status}");
    Ok(())
}

/// nbdkit on a Unix socket; ends with its guard.
struct Server {
    child: Child,
    uri: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(more: &[&str], mib: u64) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("nbd.sock");
        let child = Command::new("nbdkit")
            .args(["-f", "--exit-with-parent", "--filter=delay", "-U"])
            .arg(&socket)
            .args(more)
            .args(["pattern", &format!("size={mib}M"), "rdelay=5ms"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nbdkit")?;
        let server = Self { child, uri: format!("nbd+unix:///?socket={}", socket.display()), _dir: dir };
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            ensure!(start.elapsed() < Duration::from_secs(20), "nbdkit did not start");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with this process at the latest.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
