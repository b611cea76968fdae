//! What attaching and settling share: the proxy VM from both sides, the journal, and the gate that lets only one
//! writer at a time reconfigure the proxy.
use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::own_disks;
use crate::{
    config::{Deadlines, Limits},
    discover::{ControllerMap, DeviceFacts, Finder, Platform},
    error::{Error, Result},
    hypervisor::{Hypervisor, ProxyFacts},
    id::{DiskUuid, Moref, Slot},
    journal::{Journal, Record},
    reason,
};

/// See the module.
#[derive(Debug)]
pub struct ProxyVm {
    pub moref: Moref,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub platform: Arc<dyn Platform>,
    pub journal: Journal,
    pub finder: Finder,
    pub limits: Limits,
    pub deadlines: Deadlines,
    /// UUIDs of own disks outside the proxy's home folder.
    pub listed_own: BTreeSet<DiskUuid>,
    /// Held over: read the device list, write the intent, reconfigure, read back.
    pub(super) gate: Mutex<()>,
}

/// Both sides at one moment.
pub(super) struct View {
    pub(super) proxy: ProxyFacts,
    pub(super) devices: Vec<DeviceFacts>,
    pub(super) map: ControllerMap,
}

impl ProxyVm {
    #[allow(clippy::too_many_arguments, reason = "the wiring names each part once")]
    #[must_use]
    pub fn new(
        moref: Moref,
        hypervisor: Arc<dyn Hypervisor>,
        platform: Arc<dyn Platform>,
        journal: Journal,
        finder: Finder,
        limits: Limits,
        deadlines: Deadlines,
        listed_own: BTreeSet<DiskUuid>,
    ) -> Self {
        Self { moref, hypervisor, platform, journal, finder, limits, deadlines, listed_own, gate: Mutex::new(()) }
    }

    /// Makes records durable before it returns.
    ///
    /// # Errors
    /// [`reason::DUTY_JOURNAL`].
    pub async fn record(&self, records: Vec<Record>) -> Result<()> {
        let journal = self.journal.clone();
        let written = tokio::task::spawn_blocking(move || journal.append(&records)).await?;
        written.map_err(|e| Error::new(&reason::DUTY_JOURNAL, "").with_source(e))
    }

    /// The proxy as vCenter tells it now.
    ///
    /// # Errors
    /// Of the hypervisor.
    pub async fn facts(&self) -> Result<ProxyFacts> {
        self.hypervisor.proxy(&self.moref).await
    }

    /// The map from vCenter's controllers to PCI functions, for the given facts.
    ///
    /// # Errors
    /// When the guest's devices can't be read.
    pub async fn controller_map(&self, proxy: &ProxyFacts) -> Result<ControllerMap> {
        Ok(self.look(proxy).await?.1)
    }

    /// Slots that open attach duties name.
    #[must_use]
    pub fn named_slots(&self) -> BTreeSet<Slot> {
        self.journal.state().duties().filter_map(|duty| duty.attach().map(|attach| attach.slot)).collect()
    }

    pub(super) async fn view(&self) -> Result<View> {
        let proxy = self.facts().await?;
        let (devices, map) = self.look(&proxy).await?;
        Ok(View { proxy, devices, map })
    }

    async fn look(&self, proxy: &ProxyFacts) -> Result<(Vec<DeviceFacts>, ControllerMap)> {
        let platform = Arc::clone(&self.platform);
        let read = move || Ok::<_, std::io::Error>((platform.slots()?, platform.devices()?));
        let (slots, devices) = tokio::task::spawn_blocking(read)
            .await?
            .map_err(|e| Error::new(&reason::INTERNAL, "the guest's devices can't be read").with_source(e))?;
        let own = own_disks(proxy, &self.listed_own);
        let map = ControllerMap::build(&proxy.controllers, &own, &slots, &devices);
        Ok((devices, map))
    }
}

/// RFC 3339, seconds.
#[must_use]
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}
