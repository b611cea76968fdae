//! The arguments of `explain-error`, which both programs have.
use crate::{Page, all, find};

/// `explain-error CODE` or `explain-error --list`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The code of an error, e.g. HA-ATT-002
    #[arg(value_parser = find, required_unless_present = "list")]
    pub code: Option<Page>,
    /// Every code with its meaning
    #[arg(long, conflicts_with = "code")]
    pub list: bool,
}

impl Args {
    /// The pages that were asked for.
    #[must_use]
    pub fn pages(&self) -> Vec<Page> {
        self.code.map_or_else(|| all().collect(), |page| vec![page])
    }

    /// What to print.
    #[must_use]
    pub fn text(&self) -> String {
        match self.code {
            Some(page) => page.text.to_owned(),
            None => all().map(|page| format!("{}  {}\n", page.code, page.head().meaning)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn text(word: &str) -> String {
        Cli::try_parse_from(["explain-error", word]).unwrap().args.text()
    }

    #[test]
    fn a_code_gives_its_page_and_the_list_every_code() {
        assert!(text("ha-dut-001").starts_with("# HA-DUT-001\n"));
        let list = text("--list");
        assert_eq!(list.lines().count(), all().count());
        assert!(list.contains("HA-CTL-002  wrong usage\n"), "{list}");
    }

    #[test]
    fn an_unknown_code_or_none_is_wrong_usage() {
        for (words, told) in
            [(&["", "HA-DUT-01"][..], "HA-DUT-001"), (&[""], "CODE"), (&["", "HA-DUT-001", "--list"], "--list")]
        {
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
