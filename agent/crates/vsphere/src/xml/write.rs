//! A small XML writer for requests. Elements come out in the order of the calls, which is the order of the schema.

use std::fmt::Display;

use super::tree::Node;
use crate::moref::MoRef;

/// Appends elements to a string; an absent option writes nothing at all.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: String,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer { out: String::with_capacity(1024) }
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }

    /// Writes an element with children.
    pub(crate) fn nest(&mut self, name: &str, body: impl FnOnce(&mut Writer)) {
        self.start(name, None, None);
        body(self);
        self.end(name);
    }

    /// Writes an element with children and its `xsi:type`.
    pub(crate) fn typed(&mut self, name: &str, xsi_type: &str, body: impl FnOnce(&mut Writer)) {
        self.start(name, None, Some(xsi_type));
        body(self);
        self.end(name);
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.start(name, None, None);
        escape(value, &mut self.out);
        self.end(name);
    }

    pub(crate) fn value(&mut self, name: &str, value: impl Display) {
        self.text(name, &value.to_string());
    }

    pub(crate) fn moref(&mut self, name: &str, moref: &MoRef) {
        self.start(name, Some(&moref.type_name), None);
        escape(&moref.value, &mut self.out);
        self.end(name);
    }

    /// Writes an element as it was read, under the name `name`.
    pub(crate) fn echo(&mut self, name: &str, node: &Node) {
        self.start(name, node.ref_type.as_deref(), node.xsi_type.as_deref().map(xsd_name).as_deref());
        escape(&node.text, &mut self.out);
        for child in &node.children {
            self.echo(&child.name, child);
        }
        self.end(name);
    }

    fn start(&mut self, name: &str, ref_type: Option<&str>, xsi_type: Option<&str>) {
        self.out.push('<');
        self.out.push_str(name);
        for (key, value) in [("type", ref_type), ("xsi:type", xsi_type)] {
            if let Some(value) = value {
                self.out.push(' ');
                self.out.push_str(key);
                self.out.push_str("=\"");
                escape(value, &mut self.out);
                self.out.push('"');
            }
        }
        self.out.push('>');
    }

    fn end(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }
}

/// The parser drops the prefix of a type name; schema primitives need theirs back (they are the lower-case ones).
fn xsd_name(bare: &str) -> String {
    match bare.chars().next() {
        Some(c) if c.is_ascii_lowercase() => format!("xsd:{bare}"),
        _ => bare.to_owned(),
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\r' => out.push_str("&#13;"),
            '\n' | '\t' => out.push(c),
            // Not expressible in XML 1.0 at all: replace, so that the document stays well-formed.
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}
