//! What vCenter recorded of the proxy and its host: events, which stay when the task behind them is gone or can't be read.
//! Facts only; what they mean is judged in [`crate::session::recorded`].
//!
//! Source: vSphere API 8.0, EventManager.QueryEvents and the events' own pages.
use hotadd_vsphere as vim;
use jiff::Timestamp;

use super::{
    Happened, Happening,
    convert::{error, moref, vm_ref},
    vsphere::Vsphere,
};
use crate::{error::Result, id::Moref};

/// Events of a host that leaves service. A cancelled entering leaves none that takes it back.
const HOST: [&str; 6] = [
    "EnteringMaintenanceModeEvent",
    "EnteredMaintenanceModeEvent",
    "EnteringStandbyModeEvent",
    "DrsEnteringStandbyModeEvent",
    "HostConnectionLostEvent",
    "HostDisconnectedEvent",
];
/// Events of a VM that is moved to another host.
const MOVES: [&str; 3] = ["VmBeingHotMigratedEvent", "VmMigratedEvent", "DrsVmMigratedEvent"];

impl Vsphere {
    pub(super) async fn server_clock(&self) -> Result<Timestamp> {
        self.client.server_time().await.map_err(error)
    }

    /// See [`super::Hypervisor::happenings`].
    pub(super) async fn recorded(&self, proxy: &Moref, host: Option<&Moref>, since: Timestamp) -> Vec<Happening> {
        let mut all = self.recorded_of(&vm_ref(proxy), since, &MOVES, Happened::Move).await;
        if let Some(host) = host {
            let host = vim::MoRef::new("HostSystem", host.as_str());
            all.extend(self.recorded_of(&host, since, &HOST, Happened::HostLeaves).await);
        }
        all
    }

    async fn recorded_of(&self, of: &vim::MoRef, since: Timestamp, types: &[&str], what: Happened) -> Vec<Happening> {
        match self.client.events(of, since, types).await {
            Ok(events) => {
                // A server may take "self" of a host for its VMs' events as well.
                let about = |event: &vim::EventInfo| event.entity.as_ref() == Some(of);
                let happening = |event: vim::EventInfo| Happening { what, event: event.type_name, at: event.created };
                events.into_iter().filter(about).map(happening).collect()
            }
            Err(error) => {
                tracing::debug!(object = %moref(of), %error, "events can't be read");
                Vec::new()
            }
        }
    }
}
