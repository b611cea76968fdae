//! What the boots came to. Whether the appliance is configured is told by agent.toml alone, which is put in place last and as a whole; what
//! else a boot has to know or to show is kept beside it.
//!
//! ```text
//! UNCONFIGURED ──apply without fault──▶ CONFIGURED(generation) ──another generation, without fault──▶ CONFIGURED(that one)
//!   ▲    │ tried again at each boot         │        └── with faults: stays as it was, the faults are shown
//!   └────┘                                  │ the machine is another one: this is a copy
//!   ▲                                       ▼
//!   └───── files of the service gone, the generation is spent
//! ```
use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{reasons::Fault, settings::Settings};

/// Begins the file that the first boot makes; the generation follows.
const MADE: &str = "# Made by hotadd-firstboot, generation ";
/// Begins the file that `setup` makes.
pub const SET_UP: &str = "# Made by hotadd-agent setup.\n";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Identity of the virtual machine for which all this was made.
    #[serde(default)]
    pub machine: Option<String>,
    /// Generations of the properties that belong to the appliance of which this one is a copy. A release before knew one.
    #[serde(default, deserialize_with = "one_or_more", serialize_with = "one_if_it_is")]
    pub spent: Vec<u16>,
    /// Generation of the properties that this machine was given last, whatever came of them.
    #[serde(default)]
    pub seen: Option<u16>,
    /// Whether root has a password that properties of this machine, or a person at its console, gave.
    #[serde(default)]
    pub console: bool,
    /// This is a copy, and what it has of the original is being removed: kept until that is done.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// Of the last boot.
    #[serde(default)]
    pub faults: Vec<Fault>,
    #[serde(default)]
    pub hostname: String,
}

/// What the files told that are removed first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Whether there was a configuration.
    pub configured: bool,
    /// Name under which the journal is put aside.
    pub journal: String,
}

/// So that a release before reads its own state again.
fn one_if_it_is<S: serde::Serializer>(all: &[u16], to: S) -> Result<S::Ok, S::Error> {
    match all {
        [] => to.serialize_none(),
        [one] => to.serialize_u16(*one),
        more => more.serialize(to),
    }
}

fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        More(Vec<u16>),
        One(Option<u16>),
    }
    Ok(match Told::deserialize(from)? {
        Told::More(all) => all,
        Told::One(one) => one.into_iter().collect(),
    })
}

impl State {
    /// A state that is not there or can't be read is none.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// The machine is what these say.
    pub(crate) fn reached(&mut self, settings: &Settings) {
        self.hostname.clone_from(&settings.hostname);
        self.console = settings.console.is_some();
    }

    /// # Errors
    /// A write that failed.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        crate::files::install(path, &text, 0o600)
    }
}

/// Whether there is a configuration, and whose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Configured {
    #[default]
    No,
    /// Made of the properties of this generation.
    Properties(u16),
    /// By a person: properties change nothing.
    ByHand,
}

impl Configured {
    /// Of the text of agent.toml, if it is there.
    #[must_use]
    pub fn of(toml: Option<&str>) -> Self {
        let Some(toml) = toml else { return Self::No };
        let generation = toml.lines().next().and_then(|line| line.strip_prefix(MADE)?.strip_suffix('.')?.parse().ok());
        generation.map_or(Self::ByHand, Self::Properties)
    }

    /// First line of a file made of properties.
    #[must_use]
    pub fn mark(generation: u16) -> String {
        format!("{MADE}{generation}.\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_a_release_before_knows_one_spent_generation_or_none() {
        let spent = |text: &str| serde_json::from_str::<State>(text).unwrap().spent;
        assert_eq!(spent(r#"{"spent":3}"#), [3]);
        assert_eq!(spent(r#"{"spent":null}"#), [0; 0]);
        assert_eq!(spent("{}"), [0; 0]);
        assert_eq!(spent(r#"{"spent":[1,2]}"#), [1, 2]);
        for (all, told) in [(vec![], "null"), (vec![3], "3"), (vec![1, 2], "[1,2]")] {
            let text = serde_json::to_string(&State { spent: all.clone(), ..State::default() }).unwrap();
            assert!(text.contains(&format!(r#""spent":{told},"#)), "{text}");
            assert_eq!(spent(&text), all);
        }
    }

    #[test]
    fn the_first_line_tells_who_made_it() {
        let made = format!("{}listen = 'x'\n", Configured::mark(7));
        assert_eq!(Configured::of(Some(&made)), Configured::Properties(7));
        for text in ["", "listen = 'x'\n", "# Made by hotadd-firstboot, generation x.\n", &format!("\n{made}")] {
            assert_eq!(Configured::of(Some(text)), Configured::ByHand, "{text}");
        }
        assert_eq!(Configured::of(None), Configured::No);
    }
}
