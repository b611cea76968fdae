//! Whether pages and a registry are equal. Each registry has a test that asks this; together they cover every page.
use std::fmt;

use crate::page::Page;

/// A code, as its registry has it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub code: &'static str,
    pub meaning: &'static str,
    pub next_step: &'static str,
    /// The program that says it, and how.
    pub told_by: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, meaning, next_step, told_by } = self;
        write!(f, "# {code}\n\n- Meaning: {meaning}\n- Next step: {next_step}\n- Told by: {told_by}\n")
    }
}

/// Codes without a page, pages without a code, heads that tell another story. `mine`: whether a page's code belongs to
/// this registry.
#[must_use]
pub fn faults(entries: &[Entry], pages: &[Page], mine: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for entry in entries {
        match pages.iter().find(|page| page.code == entry.code) {
            None => faults.push(format!("{} has no page; its head is\n{entry}", entry.code)),
            Some(page) if !page.text.starts_with(&entry.to_string()) => {
                faults.push(format!("{} does not begin with\n{entry}", page.path()));
            }
            Some(_) => {}
        }
    }
    let unknown = pages.iter().filter(|page| mine(page.code) && !entries.iter().any(|entry| entry.code == page.code));
    faults.extend(unknown.map(|page| format!("{}: no code has this page", page.path())));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(code: &'static str, text: &'static str) -> Page {
        Page { code, text }
    }

    #[test]
    fn each_difference_is_found() {
        let entry = Entry { code: "HA-X-001", meaning: "it broke", next_step: "mend it", told_by: "a test".into() };
        let text =
            "# HA-X-001\n\n- Meaning: it broke\n- Next step: mend it\n- Told by: a test\n- Who can fix it: you\n";
        let good = page("HA-X-001", text);
        let told = |pages: &[Page]| faults(std::slice::from_ref(&entry), pages, |code| code.starts_with("HA-X-"));
        assert_eq!(told(&[good, page("HA-Y-001", "of another registry")]), Vec::<String>::new());
        assert!(told(&[])[0].contains("has no page"));
        for (from, to) in [("broke", "burst"), ("mend", "leave"), ("a test", "a guess"), ("# HA-X-001", "# HA-X-009")] {
            let other = told(&[page("HA-X-001", text.replacen(from, to, 1).leak())]);
            assert!(other[0].contains("does not begin with"), "{other:?}");
        }
        assert_eq!(told(&[good, page("HA-X-002", "")]), ["docs/reasons/HA-X-002.md: no code has this page"]);
    }
}
