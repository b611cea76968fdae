//! The export lease of a snapshot over hotadd-vsphere: asked for, held, its disks as streams, and its end.
//!
//! Source: vSphere API 8.0, VirtualMachineSnapshot.ExportSnapshot, HttpNfcLease. While one lives, power-on, destruction and
//! migration of its VM are blocked.
use std::{fmt, time::Duration};

use bytes::Bytes;
use hotadd_vsphere as vim;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    ExportOutcome, TargetDisk, batch,
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
    pub async fn percent(&self, percent: u8) {
        if let Some(lease) = self.lease.lock().await.as_ref() {
            lease.set_percent(percent);
        }
    }

    /// Tells vCenter that everything was read.
    ///
    /// # Errors
    /// [`reason::EXP_LOST`]: it had ended before, and what was read may be incomplete.
    pub async fn complete(&self) -> Result<()> {
        match self.lease.lock().await.take() {
            Some(lease) => lease.complete().await.map_err(lost),
            None => Ok(()),
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
        match self.client.export_snapshot(&snapshot_ref(snapshot)).await {
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
        let (reference, never) = (lease_ref(lease), CancellationToken::new());
        let held = vim::ExportLease::hold(&self.client, &reference, self.deadlines.snapshot, Some(&never)).await;
        let held = held.map_err(|e| Error::new(&reason::EXP_LEASE, "").with_source(e))?;
        let devices = self.client.snapshot_devices(&snapshot_ref(snapshot)).await.map_err(error)?;
        Ok(Exported { lease: Mutex::new(Some(held)), devices })
    }

    /// `Ok`: it blocks nothing any more.
    pub(super) async fn abort_export(&self, lease: &Moref) -> Result<()> {
        let reference = lease_ref(lease);
        if self.client.lease_state(&reference).await.map_err(error)?.is_over() {
            return Ok(());
        }
        self.client.abort_lease(&reference).await.map_err(error)?;
        if self.client.lease_state(&reference).await.map_err(error)?.is_over() {
            return Ok(());
        }
        Err(Error::new(&reason::EXP_LEASE, format!("{lease} is still alive")))
    }
}

fn lease_ref(lease: &Moref) -> vim::MoRef {
    vim::MoRef::new("HttpNfcLease", lease.as_str())
}
