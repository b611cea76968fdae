//! The export lease of a snapshot over hotadd-vsphere: asked for, held, its disks as streams, and its end.
//!
//! Source: vSphere API 8.0, VirtualMachineSnapshot.ExportSnapshot, HttpNfcLease. While one lives, power-on, destruction and
//! migration of its VM are blocked.
use std::{fmt, time::Duration};

use bytes::Bytes;
use hotadd_vsphere as vim;
use tokio::sync::Mutex;

use super::{
    ExportOutcome, LeaseEnd, TargetDisk, batch,
    convert::{error, fault_error, moref, snapshot_ref},
    vsphere::Vsphere,
};
use crate::{
    error::{Error, Result},
    id::Moref,
    reason,
};

/// A lease that is ready and kept alive. Dropped, it is aborted as well as a drop can; its duty sees to it.
pub struct Exported {
    lease: Mutex<Option<vim::ExportLease>>,
    devices: Vec<vim::Device>,
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exported").finish_non_exhaustive()
    }
}

/// One disk's stream, compressed as vSphere sends it.
#[derive(Debug)]
pub struct ExportStream(vim::LeaseStream);

impl ExportStream {
    /// The next bytes; `None` at the end of what was announced.
    ///
    /// # Errors
    /// [`reason::EXP_LOST`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.0.chunk().await.map_err(lost)
    }
}

impl Exported {
    /// Opens a disk, which is found by controller and unit, never by order. `stall`: longest time without a byte.
    ///
    /// # Errors
    /// [`reason::EXP_LOST`]; [`reason::EXP_LEASE`] when the lease has no such disk.
    pub async fn open(&self, disk: &TargetDisk, stall: Duration) -> Result<ExportStream> {
        let lease = self.lease.lock().await;
        let over = || Error::new(&reason::EXP_LOST, "the lease has ended");
        let lease = lease.as_ref().ok_or_else(over)?;
        let wrong = |e: vim::Error| Error::new(&reason::EXP_LEASE, disk.label.clone()).with_source(e);
        let known = self.devices.iter().filter_map(vim::Device::as_disk).find(|d| d.key == disk.device_key);
        let known = known.ok_or_else(|| Error::new(&reason::EXP_LEASE, disk.label.clone()))?;
        let file = lease.info().file_of(&self.devices, known).map_err(wrong)?;
        Ok(ExportStream(lease.download(file, stall).await.map_err(lost)?))
    }

    /// What vCenter shows to people.
    pub fn percent(&self, percent: u8) {
        // One that is being opened shows it the next time.
        if let Ok(lease) = self.lease.try_lock()
            && let Some(lease) = lease.as_ref()
        {
            lease.set_percent(percent);
        }
    }

    /// Tells vCenter that everything was read; `false`: it was let go before.
    ///
    /// # Errors
    /// [`reason::EXP_LOST`]: it had ended before, and what was read may be incomplete.
    pub async fn complete(&self) -> Result<bool> {
        match self.lease.lock().await.take() {
            Some(lease) => lease.complete().await.map(|()| true).map_err(lost),
            None => Ok(false),
        }
    }

    /// Lets go of it, so that nothing keeps it alive any more.
    pub async fn let_go(&self) {
        drop(self.lease.lock().await.take());
    }
}

fn lost(e: vim::Error) -> Error {
    Error::new(&reason::EXP_LOST, "").with_source(e)
}

impl Vsphere {
    /// Journalled by the caller before.
    pub(super) async fn ask_export(&self, snapshot: &Moref) -> ExportOutcome {
        match self.acting.export_snapshot(&snapshot_ref(snapshot)).await {
            Ok(lease) => ExportOutcome::Made(moref(&lease)),
            Err(e) => match e.fault() {
                Some(fault) if batch::proves_refusal(fault) => {
                    ExportOutcome::Refused(fault_error(fault, &reason::EXP_LEASE))
                }
                Some(fault) => ExportOutcome::Unknown(fault_error(fault, &reason::EXP_LEASE)),
                None => ExportOutcome::Unknown(error(e)),
            },
        }
    }

    pub(super) async fn hold_export(&self, lease: &Moref, snapshot: &Moref) -> Result<Exported> {
        let patience = self.deadlines.export_stall;
        let held = vim::ExportLease::hold(&self.acting, &lease_ref(lease), patience, None).await;
        let held = held.map_err(|e| Error::new(&reason::EXP_LEASE, "").with_source(e))?;
        let devices = self.client.snapshot_devices(&snapshot_ref(snapshot)).await.map_err(error)?;
        Ok(Exported { lease: Mutex::new(Some(held)), devices })
    }

    /// Aborts it, unless it has ended.
    pub(super) async fn abort_export(&self, lease: &Moref) -> Result<LeaseEnd> {
        let reference = lease_ref(lease);
        if let Some(end) = self.export_end(&reference).await? {
            return Ok(end);
        }
        self.client.abort_lease(&reference).await.map_err(error)?;
        let alive = || Error::new(&reason::EXP_LEASE, format!("{lease} is still alive"));
        self.export_end(&reference).await?.ok_or_else(alive)
    }

    async fn export_end(&self, lease: &vim::MoRef) -> Result<Option<LeaseEnd>> {
        Ok(match self.client.lease_state(lease).await.map_err(error)? {
            vim::LeaseState::Gone => Some(LeaseEnd::Unknown),
            state if state.is_over() => Some(LeaseEnd::Over),
            _ => None,
        })
    }
}

fn lease_ref(lease: &Moref) -> vim::MoRef {
    vim::MoRef::new("HttpNfcLease", lease.as_str())
}
