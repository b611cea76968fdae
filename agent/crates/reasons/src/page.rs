//! A page: a head that repeats the registry, and three sections that only the page has.
//!
//! ```text
//! # HA-XXX-001
//!
//! - Meaning: …            registry
//! - Next step: …          registry
//! - Told by: …            registry
//! - Who can fix it: …     one of WHO
//!
//! ## Evidence
//! ## Cause
//! ## Fix
//! ```

/// Who can fix it.
pub const WHO: [&str; 7] = [
    "vSphere administrator",
    "proxy administrator",
    "storage administrator",
    "network administrator",
    "controller's operator",
    "controller's developer",
    "hotadd-proxy's developers",
];

const SECTIONS: [&str; 3] = ["Evidence", "Cause", "Fix"];

/// One page, as Markdown that a terminal shows well enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub code: &'static str,
    pub text: &'static str,
}

/// The lines at its top; empty where one is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub meaning: &'static str,
    pub next_step: &'static str,
    pub told_by: &'static str,
    pub who: &'static str,
}

impl Page {
    #[must_use]
    pub fn head(&self) -> Head {
        let head = self.text.split("\n## ").next().unwrap_or_default();
        let line = |name: &str| {
            let mut lines =
                head.lines().filter_map(|line| line.strip_prefix("- ")?.strip_prefix(name)?.strip_prefix(": "));
            lines.next().unwrap_or_default().trim()
        };
        Head {
            meaning: line("Meaning"),
            next_step: line("Next step"),
            told_by: line("Told by"),
            who: line("Who can fix it"),
        }
    }

    /// What stands below a heading; empty without it.
    #[must_use]
    pub fn section(&self, name: &str) -> &'static str {
        let mut sections =
            self.text.split("\n## ").skip(1).filter_map(|section| section.strip_prefix(name)?.strip_prefix('\n'));
        sections.next().unwrap_or_default().trim()
    }

    /// In the documentation.
    #[must_use]
    pub fn path(&self) -> String {
        format!("docs/reasons/{}.md", self.code)
    }

    /// What is missing in it or stands where it may not.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.text.lines().next() != Some(&format!("# {}", self.code)) {
            faults.push("its title is not its code".to_owned());
        }
        let headings: Vec<&str> = self.text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        if headings != SECTIONS {
            faults.push(format!("its sections are {headings:?}, not {SECTIONS:?}"));
        }
        let empty = SECTIONS.iter().filter(|name| self.section(name).is_empty());
        faults.extend(empty.map(|name| format!("{name} is empty")));
        let who = self.head().who;
        if !WHO.contains(&who) {
            faults.push(format!("{who:?} can fix it, which is none of {WHO:?}"));
        }
        faults.into_iter().map(|fault| format!("{}: {fault}", self.path())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HA-X-001\n\n- Meaning: it broke\n- Next step: mend it\n- Told by: a test\n- Who can fix it: \
                        proxy administrator\n\n## Evidence\n\nthe log\n\n## Cause\n\nage\n\n## Fix\n\nglue\n";

    fn faults(text: String) -> Vec<String> {
        Page { code: "HA-X-001", text: text.leak() }.faults()
    }

    #[test]
    fn a_page_is_read() {
        let page = Page { code: "HA-X-001", text: GOOD };
        let head = page.head();
        assert_eq!((head.meaning, head.next_step), ("it broke", "mend it"));
        assert_eq!((head.told_by, head.who), ("a test", "proxy administrator"));
        assert_eq!((page.section("Evidence"), page.section("Fix"), page.section("Glue")), ("the log", "glue", ""));
        assert_eq!(page.faults(), Vec::<String>::new());
    }

    #[test]
    fn each_fault_of_a_page_is_found() {
        for (from, to, told) in [
            ("# HA-X-001", "# HA-X-002", "title"),
            ("## Cause\n\nage\n\n", "", "sections"),
            ("## Cause", "## Causes", "sections"),
            ("## Fix\n", "## Fix\n\n## Fix\n", "sections"),
            ("age\n", "\n", "Cause is empty"),
            ("glue\n", "", "Fix is empty"),
            ("the log", " ", "Evidence is empty"),
            ("proxy administrator", "somebody", "somebody"),
            ("- Who can fix it", "- Who", "none of"),
        ] {
            let found = faults(GOOD.replacen(from, to, 1));
            assert!(found.iter().any(|fault| fault.contains(told)), "{from:?} to {to:?}: {found:?}");
        }
    }
}
