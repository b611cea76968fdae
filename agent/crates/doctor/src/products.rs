//! Names that backup products give their temporary snapshots. A name is a hint, never a proof: nothing is changed because of one.
//!
//! Sources: Veeam KB 1790; `__GX_BACKUP__` Commvault's public Python SDK and test automation; `BareosTmpSnap_jobId` Bareos' vmware
//! plugin; `vjailbreak-hotadd-snap` platform9/vjailbreak v2v-helper; `migratekit` vexxhost/migratekit; `Consolidate Helper` VMware
//! KB 1015180. UNVERIFIED, from users' reports only: NetBackup, NAKIVO, vProtect, Rubrik, Cohesity, Acronis, Unitrends, Azure Migrate.

enum Way {
    Exact,
    Begins,
    /// Anywhere, whatever the case.
    Holds,
}
use Way::{Begins, Exact, Holds};

const TABLE: &[(Way, &str, &str)] = &[
    (Exact, "VEEAM BACKUP TEMPORARY SNAPSHOT", "Veeam Backup & Replication"),
    (Begins, "hotadd-survey-", "hotaddctl survey"),
    (Begins, "__GX_", "Commvault"),
    (Begins, "BareosTmpSnap", "Bareos"),
    (Exact, "vjailbreak-hotadd-snap", "vJailbreak"),
    (Exact, "migratekit", "migratekit"),
    (Begins, "Consolidate Helper", "vSphere's own consolidation"),
    (Begins, "NBU_SNAPSHOT", "NetBackup"),
    (Holds, "nakivo", "NAKIVO Backup & Replication"),
    (Holds, "vprotect", "vProtect"),
    (Begins, "Rubrik", "Rubrik"),
    (Begins, "Cohesity", "Cohesity"),
    (Begins, "Acronis", "Acronis"),
    (Begins, "Unitrends", "Unitrends"),
    (Begins, "MicrosoftAzureMigrate", "Azure Migrate"),
];

/// The product that names its snapshots so.
pub(crate) fn of(name: &str) -> Option<&'static str> {
    let fits = |way: &Way, text: &str| match way {
        Exact => name == text,
        Begins => name.starts_with(text),
        Holds => name.to_ascii_lowercase().contains(text),
    };
    TABLE.iter().find(|(way, text, _)| fits(way, text)).map(|(_, _, product)| *product)
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn products_are_known_and_peoples_snapshots_are_not() {
        assert_eq!(of("VEEAM BACKUP TEMPORARY SNAPSHOT"), Some("Veeam Backup & Replication"));
        assert_eq!(of("__GX_BACKUP__"), Some("Commvault"));
        assert_eq!(of("BareosTmpSnap_jobId_12"), Some("Bareos"));
        assert_eq!(of("hotadd-survey-1764316800-42"), Some("hotaddctl survey"));
        assert_eq!(of("My NAKIVO job"), Some("NAKIVO Backup & Replication"));
        for own in ["before update", "", "veeam test", "hotadd-agent x"] {
            assert_eq!(of(own), None, "{own}");
        }
    }
}
