//! The table `[plan]`: which transports are chosen when more than one could do. Checked like the rest of the file.
use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

/// What kind of place the site is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    #[default]
    Onprem,
    /// VMC, AVS, GCVE: no access to hosts, no port 902, methods may not be disabled.
    Cloud,
}

/// What to do with a disk for which there is no unit on the proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoSlot {
    /// Wait for one, see `slot_wait_seconds`.
    #[default]
    Queue,
    /// The next transport.
    Nbd,
}

/// Disks of a SATA or NVMe controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SataNvme {
    /// HotAdd, with a remark.
    #[default]
    Allow,
    /// The next transport.
    Nbd,
}

/// Limits that are known from VDDK only, whose way of attaching is another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TryVddk {
    /// They bind.
    #[default]
    Never,
    /// HotAdd is tried once per site, build and rule.
    Once,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub profile: Profile,
    pub no_slot: NoSlot,
    pub slot_wait: Duration,
    pub sata_nvme: SataNvme,
    pub try_vddk: TryVddk,
    pub cost_model: bool,
    /// Links of a disk's chain, its base included, above which no further snapshot is made. 28: where tools of the field
    /// stop; ESXi is said to take 32.
    pub max_chain: usize,
    /// Free space below which a datastore is not trusted to take a redo log.
    pub redo_min_free_bytes: u64,
    /// VMs (name, moref or instance UUID) whose First Class Disks may be held by a snapshot.
    pub fcd_allowed: BTreeSet<String>,
}

impl Default for Policy {
    fn default() -> Self {
        RawPlan::default().policy()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPlan {
    profile: Profile,
    no_slot: NoSlot,
    slot_wait_seconds: f64,
    sata_nvme: SataNvme,
    #[serde(rename = "try")]
    try_vddk: TryVddk,
    cost_model: bool,
    max_chain: usize,
    redo_min_free_mib: u64,
    fcd_allowed: BTreeSet<String>,
}

impl Default for RawPlan {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            no_slot: NoSlot::default(),
            slot_wait_seconds: 0.0,
            sata_nvme: SataNvme::default(),
            try_vddk: TryVddk::default(),
            cost_model: false,
            max_chain: 28,
            redo_min_free_mib: 64,
            fcd_allowed: BTreeSet::new(),
        }
    }
}

impl RawPlan {
    pub(super) fn check(self, faults: &mut Vec<String>) -> Policy {
        if !(0.0..=86_400.0).contains(&self.slot_wait_seconds) {
            faults.push(format!("plan.slot_wait_seconds: {} is not between 0 and 86400", self.slot_wait_seconds));
            return Policy::default();
        }
        if !(1..=31).contains(&self.max_chain) {
            faults.push(format!("plan.max_chain: {} is not between 1 and 31", self.max_chain));
        }
        if self.redo_min_free_mib > 1 << 30 {
            faults.push(format!("plan.redo_min_free_mib: {} is more than 1 PiB", self.redo_min_free_mib));
            return Policy::default();
        }
        self.policy()
    }

    fn policy(self) -> Policy {
        Policy {
            profile: self.profile,
            no_slot: self.no_slot,
            slot_wait: Duration::from_secs_f64(self.slot_wait_seconds),
            sata_nvme: self.sata_nvme,
            try_vddk: self.try_vddk,
            cost_model: self.cost_model,
            max_chain: self.max_chain,
            redo_min_free_bytes: self.redo_min_free_mib << 20,
            fcd_allowed: self.fcd_allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Policy, Vec<String>> {
        let raw: RawPlan = toml::from_str(text).map_err(|e| vec![e.message().to_owned()])?;
        let mut faults = Vec::new();
        let policy = raw.check(&mut faults);
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    #[test]
    fn defaults_and_words() {
        assert_eq!(check("").unwrap(), Policy::default());
        let all = check(
            "profile = 'cloud'\nno_slot = 'nbd'\nslot_wait_seconds = 1.5\nsata_nvme = 'nbd'\ntry = 'once'\ncost_model = true\n\
             max_chain = 3\nredo_min_free_mib = 1\nfcd_allowed = ['k8s01']",
        )
        .unwrap();
        assert_eq!((all.profile, all.no_slot, all.sata_nvme), (Profile::Cloud, NoSlot::Nbd, SataNvme::Nbd));
        assert_eq!((all.try_vddk, all.cost_model, all.max_chain), (TryVddk::Once, true, 3));
        assert_eq!((all.redo_min_free_bytes, all.slot_wait), (1 << 20, Duration::from_millis(1500)));
    }

    #[test]
    fn wrong_values_name_their_key() {
        for (text, key) in [
            ("max_chain = 0", "plan.max_chain"),
            ("max_chain = 32", "plan.max_chain"),
            ("slot_wait_seconds = -1.0", "plan.slot_wait_seconds"),
            ("redo_min_free_mib = 99999999999", "plan.redo_min_free_mib"),
            ("try = 'always'", "always"),
            ("profile = 'moon'", "moon"),
            ("colour = 1", "colour"),
        ] {
            let faults = check(text).unwrap_err();
            assert!(faults.iter().any(|f| f.contains(key)), "{text}: {faults:?}");
        }
    }
}
