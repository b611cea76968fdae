//! The arguments of `role print`, and what it prints.
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{DANGEROUS, Feature, Part, Privilege, govc, part_of, powercli, text, wanted};

/// `role print [--feature NAME,…] [--part NAME] [--format NAME]`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only what every job needs, and what these need; without it what all features need
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    pub feature: Vec<Feature>,
    /// Only what every job needs
    #[arg(long, conflicts_with = "feature")]
    pub core: bool,
    /// Only what one of the two accounts holds, where jobs bring clone tickets; without it what one account needs that does all
    #[arg(long, value_enum, value_name = "NAME")]
    pub part: Option<Part>,
    /// How
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
}

/// How a role is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// A shell script of govc commands
    Govc,
    /// A PowerCLI script
    Powercli,
    /// The tables of docs/vsphere-role.md, always with all features and both parts
    Markdown,
}

impl Args {
    /// The features that were asked for; `None`: all.
    #[must_use]
    pub fn features(&self) -> Option<&[Feature]> {
        (self.core || !self.feature.is_empty()).then_some(&self.feature)
    }

    /// The privileges that were asked for.
    #[must_use]
    pub fn privileges(&self) -> Vec<&'static Privilege> {
        part_of(wanted(self.features()), self.part)
    }

    /// What to print.
    #[must_use]
    pub fn text(&self) -> String {
        let privileges = self.privileges();
        match self.format {
            Format::Table => text::table(&privileges, self.part),
            Format::Govc => govc::script(&privileges, self.part),
            Format::Powercli => powercli::script(&privileges, self.part),
            Format::Markdown => text::markdown(),
        }
    }

    /// The same as one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({"event": "role", "needed": self.privileges(), "dangerous": DANGEROUS})
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{NEEDED, Scope};

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn text(words: &[&str]) -> String {
        Cli::try_parse_from([&["print"], words].concat()).unwrap().args.text()
    }

    #[test]
    fn every_format_names_every_privilege_once_and_where() {
        for format in ["table", "govc", "powercli"] {
            let told = text(&["--format", format]);
            for privilege in NEEDED.iter().filter(|p| format == "table" || !p.is_in_every_role()) {
                let words = told.split(|c: char| !c.is_alphanumeric() && c != '.');
                assert_eq!(
                    words.filter(|word| *word == privilege.id).count(),
                    1,
                    "{} in {format}: {told}",
                    privilege.id
                );
            }
            assert!(Scope::ALL.iter().all(|scope| told.contains(scope.place())), "{told}");
        }
    }

    #[test]
    fn nothing_dangerous_is_ever_in_a_script() {
        for format in ["govc", "powercli"] {
            let told = text(&["--format", format]);
            assert_eq!(DANGEROUS.iter().find(|bad| told.contains(bad.id)).map(|bad| bad.id), None);
        }
    }

    #[test]
    fn the_parts_are_roles_of_their_own_and_neither_can_do_the_other() {
        for format in ["table", "govc", "powercli"] {
            let stored = text(&["--format", format, "--part", "stored"]);
            let job = text(&["--format", format, "--part", "job"]);
            assert!(stored.contains("hotadd-stored-proxy") && job.contains("hotadd-job-proxy"), "{stored}{job}");
            assert!(stored.contains("Config.RemoveDisk") && !stored.contains("Config.AddExistingDisk"), "{stored}");
            assert!(job.contains("State.CreateSnapshot") && !job.contains("State.RemoveSnapshot"), "{job}");
            assert!(!stored.contains("Datastore.AllocateSpace"), "an empty role: {stored}");
        }
        let core = text(&["--format", "govc", "--core", "--part", "job"]);
        assert!(core.contains("hotadd-job-target") && !core.contains("Global."), "{core}");
    }

    #[test]
    fn a_choice_leaves_out_the_rest() {
        let told = text(&["--format", "govc", "--feature", "export,guards"]);
        assert!(told.contains("VApp.Export") && told.contains("Global.EnableMethods"), "{told}");
        assert!(!told.contains("Cryptographer") && !told.contains("TerminateSession"), "{told}");
        let core = text(&["--format", "govc", "--core"]);
        assert!(!core.contains("hotadd-vcenter"), "an empty role: {core}");
        assert!(core.contains("-role ReadOnly -propagate=false /\n"), "nothing is found without: {core}");
    }
}
