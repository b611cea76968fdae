//! A disk that can be read now, whatever brings its bytes.
use std::{sync::Arc, time::Duration};

use hotadd_api::v1;

use super::{ExportDisk, Remote};
use crate::{attach::Attached, hypervisor::TargetDisk};

/// See the module. Whoever reads holds it: a disk that is attached is given back with its last holder.
#[derive(Debug, Clone)]
pub enum Disk {
    Attached(Arc<Attached>),
    Remote(Arc<Remote>),
    Exported(Arc<ExportDisk>),
}

impl Disk {
    #[must_use]
    pub fn facts(&self) -> &TargetDisk {
        match self {
            Self::Attached(attached) => attached.disk(),
            Self::Remote(remote) => remote.disk(),
            Self::Exported(exported) => &exported.disk,
        }
    }

    #[must_use]
    pub fn transport(&self) -> v1::Transport {
        match self {
            Self::Attached(_) => v1::Transport::Hotadd,
            Self::Remote(_) => v1::Transport::Nbd,
            Self::Exported(_) => v1::Transport::Export,
        }
    }

    #[must_use]
    pub fn is_attached(&self) -> bool {
        matches!(self, Self::Attached(_))
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Remote(remote) => remote.name(),
            Self::Attached(_) | Self::Exported(_) => self.facts().label.clone(),
        }
    }

    /// Time of the attach task and of finding its device; zero for what is not attached.
    pub(super) fn attach_times(&self) -> (Duration, Duration) {
        match self {
            Self::Attached(attached) => (attached.attach_time(), attached.discover_time()),
            Self::Remote(_) | Self::Exported(_) => (Duration::ZERO, Duration::ZERO),
        }
    }
}
