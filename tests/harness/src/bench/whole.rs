//! From the agent to a client that keeps nothing, beside what else could carry the same bytes.
use std::{path::Path, time::Duration};

use anyhow::Result;

use super::{
    Report, Size, ceiling,
    disk::Linked,
    jobs::discarding,
    measure::{About, compare},
    servers::{Server, certificates},
    slow,
    ways::{DEPTH, Pages, dd, fio},
};
use crate::{
    Content,
    slow::{LoopDevice, SlowDevice},
};

pub(super) fn run(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let bytes = size.bytes;
    let linked = Linked::start(dir, Content { bytes, seed: 7, every: 1 }, false)?;
    let about = About { part: "whole", bytes, rounds: size.rounds, ..About::default() };
    {
        let fast = LoopDevice::of(&linked.file)?;
        let pki = certificates(dir, &linked.scene.pki)?;
        let secure = Server::nbdkit(dir, &fast.node, Some(&pki))?;
        let plain = Server::nbdkit(dir, &fast.node, None)?;
        let peers = vec![
            discarding("fast: agent, mutual TLS, hotaddctl", &linked.scene, bytes),
            ceiling::contender(&fast.node, &linked.scene.pki, bytes).at_least(0.85),
            secure.copied("nbdkit file, nbdcopy, mutual TLS", bytes).at_least(1.0),
            plain.copied("nbdkit file, nbdcopy, in the clear", bytes),
        ];
        compare(report, &about, peers)?;
    }
    let device = SlowDevice::of(&dir.join("slow"), &linked.file, Duration::from_millis(5))?;
    linked.becomes(device.file())?;
    let node = device.node();
    let (qemu, nbdkit) = (Server::qemu(dir, node)?, Server::nbdkit(dir, node, None)?);
    let peers = vec![
        discarding("5 ms: agent, mutual TLS, hotaddctl", &linked.scene, bytes),
        fio("io_uring", DEPTH, Pages::Small, node, bytes).at_least(0.85),
        dd(node, bytes).at_least(4.0),
        qemu.copied("qemu-nbd, nbdcopy", bytes).at_least(2.0),
        nbdkit.copied("nbdkit file, nbdcopy", bytes).at_least(1.6),
        slow::most(node, bytes),
    ];
    compare(report, &About { last_is_bound: true, note: slow::BOUND, ..about }, peers)?;
    // Before the mount that its disk lies on.
    drop(linked);
    Ok(())
}
