//! The tables for people: plain columns, and the rows of the document.
use std::fmt::Write as _;

use crate::{DANGEROUS, Part, Privilege, Scope, table::Role};

/// Role by role, then what must not be given.
pub(crate) fn table(privileges: &[&'static Privilege], part: Option<Part>) -> String {
    let mut out = String::new();
    for role in Role::all(privileges, part) {
        let name = role.name.unwrap_or("Read-only, a role of vSphere");
        let _ = writeln!(out, "On {}: {name}", role.scope.place());
        for privilege in role.rows {
            let features: Vec<String> = privilege.features.iter().map(|feature| feature.name()).collect();
            let _ = writeln!(out, "  {:<46} {:<16} {}", privilege.id, features.join(","), privilege.name);
            let _ = writeln!(out, "  {:<46} without: {}", "", privilege.without);
        }
        out.push('\n');
    }
    out.push_str("Never give:\n");
    for dangerous in DANGEROUS {
        let _ = writeln!(out, "  {:<46} {}", dangerous.id, dangerous.why);
    }
    out
}

/// One row of docs/vsphere-role.md.
pub(crate) fn markdown_row(privilege: &Privilege) -> String {
    let features: Vec<String> = privilege.features.iter().map(|feature| format!("`{}`", feature.name())).collect();
    let part = match privilege.parts {
        [Part::Stored] => "stored",
        [Part::Job] => "job",
        _ => "both",
    };
    format!("| {} | `{}` | {} | {part} | {} |", privilege.name, privilege.id, features.join(", "), privilege.without)
}

/// The tables of docs/vsphere-role.md.
pub(crate) fn markdown() -> String {
    let mut out = String::new();
    for scope in Scope::ALL {
        let _ = writeln!(out, "**On {}**", scope.place());
        out.push_str("\n| privilege | id | feature | part | without it |\n|---|---|---|---|---|\n");
        for privilege in crate::NEEDED.iter().filter(|p| p.scope == scope) {
            let _ = writeln!(out, "{}", markdown_row(privilege));
        }
        out.push('\n');
    }
    out.push_str("**Never**\n\n| privilege | id | what it lets somebody do |\n|---|---|---|\n");
    for dangerous in DANGEROUS {
        let _ = writeln!(out, "| {} | `{}` | {} |", dangerous.name, dangerous.id, dangerous.why);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOTADD_WRITE=1` writes the tables anew.
    #[test]
    fn the_document_holds_these_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/vsphere-role.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- tables: hotaddctl role print --format markdown -->\n", "<!-- end of tables -->");
        let (head, rest) = page.split_once(begin).expect("where the tables begin");
        let (told, tail) = rest.split_once(end).expect("where the tables end");
        let tables = format!("\n{}\n", markdown());
        if std::env::var_os("HOTADD_WRITE").is_some() {
            std::fs::write(path, format!("{head}{begin}{tables}{end}{tail}")).unwrap();
            return;
        }
        assert_eq!(told, tables, "docs/vsphere-role.md: write it anew with HOTADD_WRITE=1");
    }
}
