//! Ways of reading a device as a whole: our engines, fio, dd.
use std::{
    ops::ControlFlow,
    path::Path,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_blockio::{Arena, Device, EngineKind, FullSpeed, ReadRequest, engine, reader};
use serde_json::Value;

use super::measure::{Contender, Sample, cpu, timed, typed};
use crate::Run;

pub(super) const BLOCK: u32 = 1 << 20;
/// The agent's default.
pub(super) const DEPTH: u32 = 16;

/// Pages of fio's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    /// fio's default: 4 KiB pages, wherever they lie. A request of 1 MiB may not fit the device's list of segments (128 of a loop
    /// device, of a virtio disk, of PVSCSI), is split, and the rate depends on how the kernel found the memory.
    Small,
    /// What our arena has: huge pages where the kernel has some. fio can only ask for reserved ones (`--iomem=mmaphuge`), so the C
    /// library's malloc is told to ask (tunable of glibc 2.35 and newer). The first is how fio is used, this one is the fair peer of an engine.
    Huge,
}

pub(super) fn ours<'a>(kind: EngineKind, depth: u32, node: &'a Path, bytes: u64) -> Contender<'a> {
    Contender::new(&format!("{kind}, depth {depth}"), "", move || {
        let before = cpu()?;
        let elapsed = read(kind, depth, node, bytes, &mut |_| ControlFlow::Continue(()))?;
        Ok(Sample::new(bytes, elapsed, cpu()?.saturating_sub(before)))
    })
}

/// The whole device, with memory as the agent's reads have it.
pub(super) fn read(
    kind: EngineKind,
    depth: u32,
    node: &Path,
    bytes: u64,
    sink: &mut dyn FnMut(hotadd_blockio::Block) -> ControlFlow<()>,
) -> Result<Duration> {
    let device = Arc::new(Device::open(node)?);
    let arena = Arena::new(depth * 2, BLOCK as usize)?;
    let mut engine = engine::make(kind, &device, &arena, depth)?;
    let (whole, never) = ([0..device.size()], AtomicBool::new(false));
    let request = ReadRequest::new(&whole, BLOCK, &never);
    let stats = reader::read(&device, engine.as_mut(), &arena, &request, &mut FullSpeed, sink)?;
    ensure!(stats.bytes == bytes, "read {} of {bytes}", stats.bytes);
    Ok(stats.elapsed)
}

pub(super) fn fio(engine: &'static str, depth: u32, pages: Pages, node: &Path, bytes: u64) -> Contender<'static> {
    let node = node.to_owned();
    let command = move || {
        // env(1), so that the command tells how it is run.
        let mut command = Command::new("env");
        command.args((pages == Pages::Huge).then_some("GLIBC_TUNABLES=glibc.malloc.hugetlb=1"));
        command.args([
            "fio",
            "--name=read",
            "--rw=read",
            "--bs=1M",
            "--direct=1",
            "--readonly",
            "--output-format=json",
        ]);
        command.args([
            format!("--ioengine={engine}"),
            format!("--iodepth={depth}"),
            format!("--filename={}", node.display()),
        ]);
        command
    };
    let huge = if pages == Pages::Huge { ", huge pages" } else { "" };
    Contender::new(&format!("fio {engine}, depth {depth}{huge}"), &typed(&command()), move || {
        let run = Run::of(&mut command())?;
        let json = run.stdout.find('{').and_then(|at| serde_json::from_str::<Value>(&run.stdout[at..]).ok());
        let job = json.with_context(|| run.stderr.clone())?["jobs"][0].clone();
        ensure!(job["read"]["io_bytes"].as_u64() == Some(bytes), "fio read {}", job["read"]["io_bytes"]);
        // Its own clock and CPU time: the start of its process is no part of the read.
        let elapsed = Duration::from_millis(job["read"]["runtime"].as_u64().context("fio's runtime")?);
        let percent = |name: &str| job[name].as_f64().unwrap_or(f64::NAN);
        Ok(Sample::new(bytes, elapsed, elapsed.mul_f64((percent("usr_cpu") + percent("sys_cpu")) / 100.0)))
    })
}

/// One blocking read after the other, as most open tools read.
pub(super) fn dd(node: &Path, bytes: u64) -> Contender<'static> {
    let input = format!("if={}", node.display());
    let command = move || {
        let mut command = Command::new("dd");
        command.args([&input, "of=/dev/null", "bs=1M", "iflag=direct"]);
        command
    };
    Contender::new("dd, direct, 1 MiB", &typed(&command()), move || timed(&mut command(), None, bytes))
}
