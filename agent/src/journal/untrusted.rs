//! Change tracking that was found wrong: which disk, and which tracking of it. What vSphere tracks anew has another UUID and is
//! believed again. History only; the oldest goes when there are too many.
use serde::{Deserialize, Serialize};

use crate::id::DiskUuid;

/// Disks that are remembered.
pub const KEEP_UNTRUSTED: usize = 1024;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untrusted {
    pub disk: DiskUuid,
    /// The UUID of its changeId.
    pub tracking: String,
    pub at: String,
    /// Name of the VM, for people.
    #[serde(default)]
    pub vm: String,
    /// What was seen.
    #[serde(default)]
    pub why: String,
}

impl Untrusted {
    #[must_use]
    pub fn is_of(&self, disk: DiskUuid, tracking: &str) -> bool {
        self.disk == disk && self.tracking == tracking
    }
}
