//! One snapshot disk through the user's VDDK: a child (nbdkit with its vddk plug-in) that serves the disk read-only on a
//! Unix socket of its own. No code of VMware runs in the agent, whose task is to detach; nothing here reads the disk, an
//! NBD client does.
//!
//! ```text
//! start ─▶ check ─▶ place (folder 0700: socket, VDDK's config file) ─▶ spawn ─▶ greets on the socket ─▶ Serving ◀────┐
//!            │                                                         │ died │ too late                     │ died    │ greets
//!            ▼                                                         ▼                                     ▼         │
//!         refused with its reason ◀────────────────────────────────────┘            Ended ◀─ no more tries ─ Restarting ┘
//! stop, drop: SIGTERM ─▶ deadline ─▶ SIGKILL; the folder is removed
//! ```
//! VDDK itself logs in and opens the disk for each NBD connection, not at the start: a wrong password or thumbprint is met
//! by the NBD client, and [`Running::open_refused`] tells why.
//!
//! The password goes through a pipe whose number is on the command line (nbdkit-vddk-plugin(1), `password=-FD`), anew for
//! each start. It is in no argument, environment, file or log.
mod budget;
mod child;
mod command;
mod lines;
mod nursery;
mod place;
mod running;
mod served;
mod thumbprint;

use std::path::Path;

use secrecy::SecretString;
use tokio::time::timeout;

pub use self::{
    budget::{HostBudget, HostLimits, HostVersion, Need, Permit},
    lines::HostLeaving,
    place::sweep,
    running::{Life, Running},
    served::{CONNECTIONS, Served, Serving, Vddk, Which},
    thumbprint::thumbprint_of,
};
pub use crate::config::VddkSettings;
use crate::{
    attach::Reader,
    error::{Error, Result},
    id::{BackingPath, Moref},
    reason,
};

/// The disk, and where and as whom VDDK finds it. Everything but the password.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// The VM that owns the snapshot, `vm-…`.
    pub vm: Moref,
    /// `snapshot-…`.
    pub snapshot: Moref,
    /// The disk's file as the snapshot's device list names it.
    pub file: BackingPath,
    /// Name or address of the vCenter, without scheme and port.
    pub server: String,
    /// Where vCenter listens, if not on 443.
    pub port: Option<u16>,
    pub user: String,
    /// [`thumbprint_of`] vCenter's certificate.
    pub thumbprint: String,
    /// Names the session in the log.
    pub session: String,
}

/// Starts nbdkit for one disk and waits until it greets. `runtime_dir` is where its folder goes: short, on a tmpfs.
///
/// # Errors
/// HA-VDK-001 … 005 and 008, 009. `reader` is dropped when it has ended.
pub async fn start(
    settings: &VddkSettings,
    spec: DiskSpec,
    password: &SecretString,
    runtime_dir: &Path,
    reader: Option<Reader>,
) -> Result<Running> {
    let (settings, of, secret) = (settings.clone(), spec.clone(), password.clone());
    let patience = settings.start_deadline;
    // A library folder on a file system that hangs must not take a thread of the runtime with it.
    let checked = tokio::task::spawn_blocking(move || {
        command::check(&settings, &of, &secret)?;
        Ok::<_, Error>(command::resolved(settings))
    });
    let late = |_| Error::new(&reason::VDK_SLOW, "the library's folder does not answer");
    let settings = timeout(patience, checked).await.map_err(late)???;
    running::start(settings, spec, password.clone(), runtime_dir, reader).await
}
