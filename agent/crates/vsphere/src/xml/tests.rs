//! The parser against bad input, and the writer against the parser.

use proptest::prelude::*;

use super::tree::ParseError;
use super::*;
use crate::moref::MoRef;

#[test]
fn plain_type_and_xsi_type_are_kept_apart() {
    let root = parse(
        "<a xmlns:xsi='x'><v type='Datastore' xsi:type='vim25:ManagedObjectReference'>ds-1</v><w i:type='B'/></a>",
    );
    let root = root.unwrap();
    let v = root.child("v").unwrap();
    assert_eq!((v.ref_type.as_deref(), v.xsi_type.as_deref()), (Some("Datastore"), Some("ManagedObjectReference")));
    assert_eq!(v.moref().unwrap(), MoRef::new("Datastore", "ds-1"));
    assert_eq!(root.child("w").unwrap().type_name(), "B");
}

#[test]
fn text_is_kept_exactly_in_leaves_and_dropped_between_elements() {
    let root = parse("<a>\n <b>  two  &amp;&#x20;&lt;x&gt; <![CDATA[<&]]> </b>\n</a>").unwrap();
    assert_eq!(root.child("b").unwrap().text, "  two  & <x> <& ");
    assert_eq!(root.text, "");
}

#[test]
fn document_types_and_entities_are_refused() {
    let bomb = "<!DOCTYPE a [<!ENTITY l 'lol'><!ENTITY m '&l;&l;&l;'>]><a>&m;</a>";
    for bad in [bomb, "<a>&unknown;</a>", "<a>&#xD800;</a>", "<a>&#99999999;</a>", "<a b='&nope;'/>"] {
        let result = parse(bad);
        // An attribute that nobody reads may hold anything.
        if bad != "<a b='&nope;'/>" {
            assert!(matches!(result, Err(ParseError::Malformed(_))), "{bad}: {result:?}");
        }
    }
    assert!(parse("<a type='&nope;'/>").is_err());
}

#[test]
fn malformed_documents_are_errors() {
    for bad in [
        "",
        "   ",
        "text",
        "<a>",
        "<a></b>",
        "</a>",
        "<a/><b/>",
        "<a/>text",
        "<a",
        "<a b></a>x",
        "<a>&</a>",
        "<a b='1' b='2'/>",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn depth_and_count_are_bounded() {
    let deep = "<a>".repeat(300);
    assert!(matches!(parse(&deep), Err(ParseError::TooDeep)));
    let wide = format!("<a>{}</a>", "<b/>".repeat(400_001));
    assert!(matches!(parse(&wide), Err(ParseError::TooMany)));
    let fits = format!("{}{}", "<a>".repeat(256), "</a>".repeat(256));
    assert!(parse(&fits).is_ok());
}

#[test]
fn an_echo_reads_back_equal() {
    let text = include_str!("../../tests/fixtures/devices.xml");
    let root = parse(text).unwrap();
    let mut w = Writer::new();
    w.echo("val", &root);
    assert_eq!(parse(&w.finish()).unwrap(), root);
    let mut w = Writer::new();
    w.echo("value", &parse("<value xsi:type='xsd:string'>x</value>").unwrap());
    assert_eq!(w.finish(), "<value xsi:type=\"xsd:string\">x</value>");
}

#[test]
fn times_with_and_without_zone() {
    let at = |text: &str| parse(&format!("<t>{text}</t>")).unwrap().time().map(|t| t.to_string());
    assert_eq!(at("2026-01-02T03:04:05.678901Z").unwrap(), "2026-01-02T03:04:05.678901Z");
    assert_eq!(at("2026-01-02T03:04:05+02:00").unwrap(), "2026-01-02T01:04:05Z");
    assert_eq!(at("2026-01-02T03:04:05").unwrap(), "2026-01-02T03:04:05Z");
    assert!(at("yesterday").is_err());
}

proptest! {
    /// Whatever a caller puts into a request, the document stays well-formed; what XML can carry arrives unchanged.
    #[test]
    fn any_text_survives_writing(text in any::<String>()) {
        let mut w = Writer::new();
        w.text("t", &text);
        let read = parse(&w.finish()).unwrap().text;
        let bad = |c: char| (c < ' ' && !matches!(c, '\n' | '\t' | '\r')) || c == '\u{fffe}' || c == '\u{ffff}';
        let expected: String = text.chars().map(|c| if bad(c) { '\u{fffd}' } else { c }).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn any_input_is_answered(text in any::<String>(), markup in "[<>/&;!\\[\\]?='\"a-c -]{0,60}") {
        let _ = parse(&text);
        let _ = parse(&markup);
    }
}
