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
/// Wanted beside fio.
const FIO: f64 = 0.95;

pub(super) fn run(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let bytes = size.bytes;
    let file = disk::dense(dir, Content { bytes, seed: 7, every: 1 })?;
    for (ms, dd_goal) in [(5, 5.0), (20, 12.0)] {
        let device = SlowDevice::of(&dir.join(format!("{ms} ms")), &file, Duration::from_millis(ms.into()))?;
        let node = device.node();
        let note = format!("Each read takes {ms} ms longer. {BOUND}");
        let about = About { part: "slow", bytes, rounds: size.rounds, note: &note, last_is_bound: true };
        let peers = vec![
            named(ms, ours(EngineKind::IoUring, DEPTH, node, bytes)),
            named(ms, fio("io_uring", DEPTH, Pages::Small, node, bytes)).at_least(FIO),
            named(ms, fio("io_uring", DEPTH, Pages::Huge, node, bytes)).at_least(FIO),
            named(ms, dd(node, bytes)).at_least(dd_goal),
            most(node, bytes),
        ];
        compare(report, &about, peers)?;
        let peers = vec![
            named(ms, ours(EngineKind::LinuxAio, DEPTH, node, bytes)),
            named(ms, fio("libaio", DEPTH, Pages::Huge, node, bytes)).at_least(FIO),
            most(node, bytes),
        ];
        compare(report, &about, peers)?;
    }
    Ok(())
}

fn named(ms: u32, contender: Contender<'_>) -> Contender<'_> {
    Contender { name: format!("{ms} ms: {}", contender.name), ..contender }
}

/// See [`crate::slow`].
pub(super) const BOUND: &str = "The device itself works on eight requests at once, one for each of nbdfuse's connections; a request of small \
    pages holds 512 KiB, one of huge pages 1 MiB.";

/// More in flight than the device takes, in the largest requests.
pub(super) fn most(node: &Path, bytes: u64) -> Contender<'static> {
    let most = fio("io_uring", 64, Pages::Huge, node, bytes);
    Contender { name: format!("the device's own bound ({})", most.name), ..most }
}
