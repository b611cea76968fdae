//! Waits until attached disks are proven in the guest, or says for each why not.
//!
//! ```text
//! waiting ──event, or tick──▶ enumerate ──▶ proven
//!    ▲                          │   └─────▶ mismatch that time can't heal ──▶ refused
//!    └── not there, or not yet ready; rescan once after `rescan` ──┘          deadline ──▶ missing
//! ```
//! The enumeration is the truth; events only wake it. So a disk that was attached while the agent was away (coldplug)
//! and one whose event was lost are found the same way.
use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    ControllerMap, DeviceFacts, Expectation, Mismatch, Platform, ProvenDisk,
    proof::{place, prove, sits_at},
};
use crate::{
    error::{Error, Result},
    reason,
};

/// Look again at least this often, in case an event was lost.
const TICK: Duration = Duration::from_millis(500);
/// How long a device that udev has finished may stay writable: the rule's program runs just before the announcement.
const READ_ONLY_GRACE: Duration = Duration::from_secs(5);

/// Shared by all sessions; holds the one subscription to device events.
#[derive(Debug, Clone)]
pub struct Finder {
    platform: Arc<dyn Platform>,
    wake: watch::Receiver<u64>,
}

/// What was found for one expectation.
pub type Found = Result<ProvenDisk>;

impl Finder {
    /// Subscribes to device events.
    ///
    /// # Errors
    /// When the platform can't watch devices.
    pub fn new(platform: Arc<dyn Platform>) -> Result<Self> {
        let events = platform
            .subscribe()
            .map_err(|e| Error::new(&reason::INTERNAL, "device events can't be watched").with_source(e))?;
        let (bell, wake) = watch::channel(0);
        thread::Builder::new()
            .name("device-bell".into())
            .spawn(move || ring(&events, &bell))
            .map_err(|e| Error::new(&reason::INTERNAL, "no thread").with_source(e))?;
        Ok(Self { platform, wake })
    }

    /// Waits for all, at most `patience`; after `rescan` without them their controllers are scanned. Answers in the
    /// order of `wanted`.
    pub async fn find(
        &self,
        wanted: &[Expectation],
        map: &ControllerMap,
        patience: Duration,
        rescan: Duration,
    ) -> Vec<Found> {
        let start = Instant::now();
        let mut wake = self.wake.clone();
        let mut search: Vec<Search> = wanted.iter().map(|e| Search::new(e.clone())).collect();
        let mut next_scan = start + rescan;
        loop {
            wake.mark_unchanged();
            match self.enumerate().await {
                Ok(devices) => search.iter_mut().for_each(|s| s.look(map, &devices, start.elapsed())),
                Err(error) => tracing::warn!(%error, "devices could not be enumerated; trying again"),
            }
            let now = Instant::now();
            if search.iter().all(Search::is_settled) || now >= start + patience {
                return search.into_iter().map(|s| s.verdict(map, patience)).collect();
            }
            if now >= next_scan {
                self.rescan(&search, map).await;
                next_scan = now + rescan.max(TICK);
            }
            let until = (now + TICK).min(start + patience).min(next_scan);
            if matches!(timeout_at(until, wake.changed()).await, Ok(Err(_))) {
                // No bell any more: the tick alone drives the search.
                tokio::time::sleep_until(until).await;
            }
        }
    }

    async fn enumerate(&self) -> Result<Vec<DeviceFacts>> {
        let platform = Arc::clone(&self.platform);
        let devices = tokio::task::spawn_blocking(move || platform.devices()).await?;
        devices.map_err(|e| Error::new(&reason::INTERNAL, "enumeration of devices").with_source(e))
    }

    async fn rescan(&self, search: &[Search], map: &ControllerMap) {
        let targets: Vec<_> = search
            .iter()
            .filter(|s| !s.is_settled() && s.seen.is_none())
            .filter_map(|s| Some((place(&s.wanted, map).ok()?.clone(), s.wanted.slot.unit)))
            .collect();
        let platform = Arc::clone(&self.platform);
        let scan = move || {
            for (controller, unit) in targets {
                tracing::info!(%controller, unit, "no event for an attached disk; scanning its target");
                if let Err(error) = platform.rescan(&controller, unit) {
                    tracing::warn!(%controller, unit, %error, "scan refused");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(scan).await {
            tracing::error!(%error, "scan panicked");
        }
    }
}

fn ring(events: &mpsc::Receiver<super::DeviceEvent>, bell: &watch::Sender<u64>) {
    for event in events {
        tracing::trace!(?event, "device event");
        bell.send_modify(|count| *count += 1);
        if bell.is_closed() {
            return;
        }
    }
}

/// The state of one expectation.
struct Search {
    wanted: Expectation,
    /// The last mismatch of the device in its place.
    seen: Option<Mismatch>,
    settled: Option<Result<ProvenDisk, Mismatch>>,
}

impl Search {
    fn new(wanted: Expectation) -> Self {
        Self { wanted, seen: None, settled: None }
    }

    fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    fn look(&mut self, map: &ControllerMap, devices: &[DeviceFacts], waited: Duration) {
        if self.is_settled() {
            return;
        }
        let address = match place(&self.wanted, map) {
            Ok(address) => address,
            Err(mismatch) => return self.settled = Some(Err(mismatch)),
        };
        let Some(device) = devices.iter().find(|d| sits_at(d, address, self.wanted.slot.unit)) else { return };
        if !device.initialized {
            return;
        }
        match prove(&self.wanted, map, device) {
            Ok(disk) => self.settled = Some(Ok(disk)),
            Err(Mismatch::Writable) if waited < READ_ONLY_GRACE => self.seen = Some(Mismatch::Writable),
            Err(mismatch) => self.settled = Some(Err(mismatch)),
        }
    }

    fn verdict(self, map: &ControllerMap, patience: Duration) -> Found {
        let slot = self.wanted.slot;
        match self.settled.or(self.seen.map(Err)) {
            Some(Ok(disk)) => Ok(disk),
            Some(Err(Mismatch::Writable)) => Err(Error::new(&reason::DSC_WRITABLE, slot.to_string())),
            Some(Err(mismatch)) => Err(Error::new(&reason::DSC_IDENTITY, format!("{slot}: {mismatch}"))),
            None => {
                let place =
                    place(&self.wanted, map).map_or_else(|m| m.to_string(), |p| format!("{p} 0:{}:0", slot.unit));
                let detail = format!("{slot} ({place}), waited {} s", patience.as_secs());
                Err(Error::new(&reason::DSC_MISSING, detail))
            }
        }
    }
}
