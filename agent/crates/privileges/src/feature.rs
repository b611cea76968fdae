//! What privileges are needed for. A name here is what `--feature` takes and what a missing privilege is explained with.
use clap::ValueEnum;
use serde::Serialize;

/// Something that the agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// Finding VMs, hosts and datastores, and planning
    Inventory,
    /// Taking the snapshot that is read
    Snapshot,
    /// Removing it
    RemoveSnapshot,
    /// Attaching its disks to the proxy
    Attach,
    /// Detaching them
    Detach,
    /// Adding a controller when every unit of the proxy is taken
    AddController,
    /// vSphere's maps of allocated and changed areas
    ChangedBlocks,
    /// Turning changed block tracking on for jobs that ask for it
    EnableTracking,
    /// The export lease, for disks that can't be attached
    Export,
    /// Disabling methods of target and proxy while disks are attached
    Guards,
    /// Ending the vCenter session of an unconfirmed request of an agent that died
    Fence,
    /// Encrypted VMs; the proxy must be encrypted itself
    Encrypted,
}

impl Feature {
    /// All there are.
    #[must_use]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// No job works without.
    #[must_use]
    pub fn is_core(self) -> bool {
        matches!(self, Self::Inventory | Self::Snapshot | Self::RemoveSnapshot | Self::Attach | Self::Detach)
    }

    /// As `--feature` spells it.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is.
    #[must_use]
    pub fn meaning(self) -> String {
        let help = self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }
}
