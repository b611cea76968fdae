//! The catalogue of reasons: one page for each code of the agent, the appliance and hotaddctl, embedded from docs/reasons, so
//! that both programs explain any code without a network. What a code means and what to do next is said by the registries
//! (`hotadd_agent::reason`, `hotadd_appliance::reasons`, `hotaddctl::reasons`, `hotadd_doctor::codes`, `hotadd_survey::codes`); a page
//! repeats that in its head and adds evidence, causes and the fix. [`check`] keeps the two equal. The form of a registry lives here
//! ([`registry!`]), no registry does.
#![forbid(unsafe_code)]

pub mod check;
mod command;
mod nearest;
mod page;
mod registry;

pub use command::Args;
pub use nearest::Unknown;
pub use page::{Page, WHO};
pub use registry::Code;

static PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// Every page, in order of its code.
pub fn all() -> impl Iterator<Item = Page> {
    PAGES.iter().map(|&(code, text)| Page { code, text })
}

/// The page of a code, in whatever case it is written.
///
/// # Errors
/// There is no such code; the nearest ones are told.
pub fn find(code: &str) -> Result<Page, Unknown> {
    let code = code.trim();
    all().find(|page| page.code.eq_ignore_ascii_case(code)).ok_or_else(|| Unknown::new(code))
}

/// Where the page of a code lies in the documentation; `None` for a code that this release does not know.
#[must_use]
pub fn help(code: &str) -> Option<String> {
    all().find(|page| page.code == code).map(|page| page.path())
}

/// docs/reasons.md.
#[must_use]
pub fn index() -> String {
    let row = |page: Page| {
        let (code, head) = (page.code, page.head());
        format!(
            "| [{code}](reasons/{code}.md) | {} | {} | {} | {} |\n",
            head.told_by, head.meaning, head.next_step, head.who
        )
    };
    format!(
        "# Reasons\n\nPrinted by `hotadd-agent reasons`; codes are stable. Each has a page with evidence, causes and the fix, which \
         `hotadd-agent explain-error CODE` and `hotaddctl explain-error CODE` show as well.\n\n\
         | code | told by | meaning | next step | who can fix it |\n|---|---|---|---|---|\n{}",
        all().map(row).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn docs() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs")
    }

    #[test]
    fn the_index_is_made_of_the_pages() {
        let document = std::fs::read_to_string(docs().join("reasons.md")).unwrap();
        assert!(document == index(), "run `hotadd-agent reasons > docs/reasons.md`");
    }

    #[test]
    fn every_page_is_whole() {
        assert!(PAGES.len() > 1);
        let faults: Vec<String> = all().flat_map(|page| page.faults()).collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    #[test]
    fn links_of_pages_lead_somewhere() {
        let mut links = 0;
        for page in all() {
            for link in page.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = link.split('#').next().unwrap_or(link);
                assert!(docs().join("reasons").join(file).is_file(), "{}: {link}", page.code);
                links += 1;
            }
        }
        assert!(links > 0);
    }

    #[test]
    fn a_code_is_found_in_any_case_and_has_a_place_only_if_it_is_known() {
        assert_eq!(find(" ha-att-002 ").unwrap().code, "HA-ATT-002");
        assert_eq!(help("HA-ATT-002").as_deref(), Some("docs/reasons/HA-ATT-002.md"));
        assert_eq!(help("HA-ATT-002/../../secret"), None);
    }
}
