//! `docs/api-reference.md`: the protos' comments as one page, for readers without the repository at hand.
use std::fmt::Write as _;

use crate::{
    elements::{Element, Kind, elements, ours},
    read, write,
};

const PAGE: &str = "docs/api-reference.md";
const HEAD: &str = "# Reference of hotadd.v1\n\nMade from the comments in `agent/crates/api/proto/hotadd/v1/*.proto` by the tests of `hotadd-api`; \
change those. How the calls play together: [api.md](api.md). Reason codes: [reasons.md](reasons.md).\n";

fn page(elements: &[Element]) -> String {
    let mut out = HEAD.to_owned();
    for (at, element) in elements.iter().enumerate() {
        let name = short(&element.name);
        let text = &element.comment;
        match element.kind {
            Kind::File => write!(out, "\n## {name}\n\n{}\n", paragraphs(text)),
            Kind::Service | Kind::Message => write!(out, "\n### {name}\n\n{}\n", paragraphs(text)),
            Kind::Rpc => {
                write!(out, "\n#### {name}\n\n`{}`\n\n{}\n", element.of.replace("hotadd.v1.", ""), paragraphs(text))
            }
            Kind::Oneof => write!(out, "\nOne of `{}`: {}\n", last(&element.name), cell(text)),
            Kind::Enum => {
                write!(out, "\n### {name}\n\n{}\n\n| value | number | meaning |\n|---|---|---|\n", paragraphs(text))
            }
            Kind::Value => writeln!(out, "| `{}` | {} | {} |", last(&element.name), element.number, cell(text)),
            Kind::Field => {
                if at == 0 || elements[at - 1].kind != Kind::Field {
                    out.push_str("\n| field | number | type | meaning |\n|---|---|---|---|\n");
                }
                let of = element.of.replace("hotadd.v1.", "");
                writeln!(out, "| `{}` | {} | {of} | {} |", last(&element.name), element.number, cell(text))
            }
        }
        .unwrap();
    }
    out
}

fn short(name: &str) -> &str {
    name.strip_prefix("hotadd.v1.").unwrap_or(name)
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Lines of the source are joined; one that begins a paragraph of its own stays one, and so does a list.
fn paragraphs(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let own = line.is_empty()
            || line.starts_with("- ")
            || ["Role:", "Errors:", "Idempotent:", "Deadline:"].iter().any(|p| line.starts_with(p));
        match (out.is_empty(), own) {
            (true, _) => {}
            (false, true) => out.push_str(if line.starts_with("- ") { "\n" } else { "\n\n" }),
            (false, false) => out.push(' '),
        }
        out.push_str(line.trim());
    }
    out.replace("\n\n\n", "\n\n").replace("\n\n ", "\n\n")
}

fn cell(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn the_page_is_what_the_protos_say() {
    let made = page(&elements(&ours()));
    write(PAGE, &["1", "released"], &made);
    assert!(
        read(PAGE) == made,
        "{PAGE} is not what the protos say: HOTADD_WRITE=1 cargo nextest run --cargo-profile ci -p hotadd-api --test contract"
    );
}

#[test]
fn a_changed_comment_changes_the_page() {
    let mut all = elements(&ours());
    let before = page(&all);
    all.iter_mut().filter(|element| element.kind == Kind::Field).take(1).for_each(|element| element.comment.push('!'));
    assert_ne!(page(&all), before);
    for element in all.iter().filter(|element| element.kind != Kind::File) {
        assert!(before.contains(last(&element.name)), "{} is not on the page", element.name);
    }
}
