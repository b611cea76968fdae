//! Our engines beside fio on a fast loop device.
use std::path::Path;

use anyhow::Result;
use hotadd_blockio::EngineKind;

use super::{
    Report, Size, disk,
    measure::{About, compare},
    ways::{DEPTH, Pages, fio, ours},
};
use crate::{Content, slow::LoopDevice};

pub(super) fn run(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let bytes = size.bytes;
    let file = disk::dense(dir, Content { bytes, seed: 7, every: 1 })?;
    let loop_device = LoopDevice::of(&file)?;
    let node = loop_device.node.as_path();
    let about = About { part: "fast", bytes, rounds: size.rounds, ..About::default() };
    let peer = |engine, pages| fio(engine, DEPTH, pages, node, bytes);
    let peers = vec![
        ours(EngineKind::IoUring, DEPTH, node, bytes),
        peer("io_uring", Pages::Small).at_least(0.98).cpu_at_most(1.1),
        peer("io_uring", Pages::Huge).at_least(0.98).cpu_at_most(1.1),
    ];
    compare(report, &about, peers)?;
    let peers = vec![
        ours(EngineKind::LinuxAio, DEPTH, node, bytes),
        peer("libaio", Pages::Small).at_least(0.95),
        peer("libaio", Pages::Huge).at_least(0.95),
    ];
    compare(report, &about, peers)?;
    // The engine of kernels without both; no wish of it.
    compare(report, &about, vec![ours(EngineKind::Preadv, DEPTH, node, bytes), peer("io_uring", Pages::Huge)])
}
