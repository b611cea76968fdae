//! Our engines beside fio and dd on a device with latency.
use std::{path::Path, time::Duration};

use anyhow::Result;
use hotadd_blockio::EngineKind;

use super::{
    Report, Size, disk,
    measure::{About, Contender, compare},
    ways::{Pages, dd, fio, ours},
};
use crate::{Content, slow::SlowDevice};

const DEPTH: u32 = 32;

pub(super) fn run(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let bytes = size.bytes;
    let file = disk::dense(dir, Content { bytes, seed: 7, every: 1 })?;
    for (ms, fio_goal, dd_goal) in [(5, 0.95, 5.0), (20, 0.95, 12.0)] {
        let device = SlowDevice::of(&dir.join(format!("{ms} ms")), &file, Duration::from_millis(ms))?;
        let node = device.node();
        let note = format!("Each read takes {ms} ms longer. {BOUND}");
        let about = About { part: "slow", bytes, rounds: size.rounds, note: &note, last_is_bound: true };
        let named =
            |contender: Contender<'static>| Contender { name: format!("{ms} ms: {}", contender.name), ..contender };
        let mine = ours(EngineKind::IoUring, DEPTH, node, bytes);
        let mine = Contender { name: format!("{ms} ms: {}", mine.name), ..mine };
        let peers = vec![
            mine,
            named(fio("io_uring", DEPTH, Pages::Small, node, bytes)).at_least(fio_goal),
            named(fio("io_uring", DEPTH, Pages::Huge, node, bytes)).at_least(fio_goal),
            named(dd(node, bytes)).at_least(dd_goal),
            most(node, bytes),
        ];
        compare(report, &about, peers)?;
        let aio = ours(EngineKind::LinuxAio, DEPTH, node, bytes);
        let aio = Contender { name: format!("{ms} ms: {}", aio.name), ..aio };
        let peers =
            vec![aio, named(fio("libaio", DEPTH, Pages::Huge, node, bytes)).at_least(fio_goal), most(node, bytes)];
        compare(report, &about, peers)?;
    }
    Ok(())
}

/// See [`crate::slow`].
pub(super) const BOUND: &str = "The device itself works on at most ten requests at once (the worker threads of libfuse under nbdfuse); \
    a request of small pages holds 512 KiB of it, one of huge pages 1 MiB.";

/// More in flight than the device takes, in the largest requests.
pub(super) fn most(node: &Path, bytes: u64) -> Contender<'static> {
    let most = fio("io_uring", 64, Pages::Huge, node, bytes);
    Contender { name: format!("the device's own bound ({})", most.name), ..most }
}
