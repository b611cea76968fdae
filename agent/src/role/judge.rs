//! What is missing and what is too much on one object. Pure.
use std::fmt;

use hotadd_privileges::{DANGEROUS, Dangerous, Feature, NEEDED, Part, Privilege, Scope};
use serde::Serialize;

use crate::hypervisor::granted::Granted;

/// What was found on one object.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    kind: Scope,
    name: String,
    object: String,
    missing: Vec<&'static Privilege>,
    /// Missing too, but only what is not asked for needs it.
    optional: Vec<&'static Privilege>,
    dangerous: Vec<&'static Dangerous>,
}

impl Verdict {
    pub(super) fn passed(&self) -> bool {
        self.missing.is_empty() && self.dangerous.is_empty()
    }
}

/// `features`: what has to work beside what every job needs; `part`: what of it is this account's.
pub(super) fn judge(found: &Granted, features: &[Feature], part: Option<Part>) -> Verdict {
    let has = |id: &str| found.privileges.contains(id);
    let ours = |p: &Privilege| part.is_none_or(|part| p.parts.contains(&part));
    let lacking = NEEDED.iter().filter(|p| p.scope == found.scope && ours(p) && !has(p.id));
    let must = |p: &&Privilege| {
        let asked = p.features.iter().any(|feature| feature.is_core() || features.contains(feature));
        // Who may disable and not enable leaves methods disabled.
        asked || (p.id == "Global.EnableMethods" && has("Global.DisableMethods"))
    };
    let (missing, optional) = lacking.partition(must);
    let dangerous = DANGEROUS.iter().filter(|bad| bad.scopes.contains(&found.scope) && has(bad.id)).collect();
    Verdict {
        kind: found.scope,
        name: found.name.clone(),
        object: found.moref.to_string(),
        missing,
        optional,
        dangerous,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = self.passed() && self.optional.is_empty();
        writeln!(f, "{} ({}){}", self.name, self.object, if nothing { ": ok" } else { "" })?;
        let mut lacks = |word: &str, privileges: &[&Privilege]| {
            privileges.iter().try_for_each(|privilege| {
                let features: Vec<String> = privilege.features.iter().map(|feature| feature.name()).collect();
                writeln!(f, "  {word:<9} {} for {}; without: {}", privilege.id, features.join(", "), privilege.without)
            })
        };
        lacks("missing", &self.missing)?;
        lacks("optional", &self.optional)?;
        self.dangerous.iter().try_for_each(|bad| writeln!(f, "  {:<9} {}: {}", "dangerous", bad.id, bad.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Moref;

    fn found(scope: Scope, privileges: &[&str]) -> Granted {
        let privileges = privileges.iter().map(|id| (*id).to_owned()).collect();
        Granted { scope, name: "x".into(), moref: Moref::new("vm-1"), privileges }
    }

    #[test]
    fn only_what_is_needed_on_that_kind_of_object_is_missed() {
        let verdict = judge(&found(Scope::Proxy, &["VirtualMachine.Config.AddExistingDisk"]), &[], None);
        let ids: Vec<_> = verdict.missing.iter().map(|p| p.id).collect();
        assert_eq!(ids, ["VirtualMachine.Config.RemoveDisk"]);
        assert!(verdict.optional.iter().any(|p| p.id == "VirtualMachine.Config.AddRemoveDevice"), "{verdict}");
        assert!(
            !verdict.passed() && verdict.to_string().contains("missing   VirtualMachine.Config.RemoveDisk for detach")
        );
    }

    #[test]
    fn a_feature_that_is_asked_for_is_not_optional() {
        let verdict = judge(&found(Scope::Proxy, &[]), &[Feature::AddController], None);
        assert!(verdict.missing.iter().any(|p| p.id == "VirtualMachine.Config.AddRemoveDevice"), "{verdict}");
    }

    #[test]
    fn half_of_the_guards_is_worse_than_none() {
        assert!(judge(&found(Scope::Vcenter, &["System.View"]), &[], None).passed());
        let verdict = judge(&found(Scope::Vcenter, &["System.View", "Global.DisableMethods"]), &[], None);
        assert_eq!(verdict.missing.iter().map(|p| p.id).collect::<Vec<_>>(), ["Global.EnableMethods"]);
        assert!(
            judge(&found(Scope::Vcenter, &["System.View", "Global.DisableMethods", "Global.EnableMethods"]), &[], None)
                .passed()
        );
    }

    #[test]
    fn of_a_part_only_what_it_holds_is_missed() {
        let missing =
            |part| judge(&found(Scope::Proxy, &[]), &[], part).missing.iter().map(|p| p.id).collect::<Vec<_>>();
        let (attach, detach) = ("VirtualMachine.Config.AddExistingDisk", "VirtualMachine.Config.RemoveDisk");
        assert_eq!(missing(None), [attach, detach]);
        assert_eq!((missing(Some(Part::Stored)), missing(Some(Part::Job))), (vec![detach], vec![attach]));
    }

    #[test]
    fn what_is_dangerous_there_is_told() {
        let everything: Vec<&str> = NEEDED.iter().map(|p| p.id).chain(["Datastore.FileManagement"]).collect();
        let verdict = judge(&found(Scope::Datastore, &everything), &[], None);
        assert!(!verdict.passed() && verdict.to_string().contains("dangerous Datastore.FileManagement: "), "{verdict}");
        assert!(judge(&found(Scope::Target, &everything), &[], None).passed(), "not there");
    }
}
