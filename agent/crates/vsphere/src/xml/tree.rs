//! A bounded element tree and typed extraction from it.
//!
//! Input is hostile until proven otherwise: depth and node count are limited, a document type is refused, only the five
//! predefined entities and character references are resolved. Namespace prefixes are dropped, as vim25 needs none of
//! them but for `xsi:type`, which is kept apart from the plain `type` of a managed object reference.

use std::str::FromStr;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use crate::moref::MoRef;

/// Deepest nesting accepted. A disk chain of 32 links stays below 60.
const MAX_DEPTH: usize = 256;
/// Most elements accepted in one answer (a node costs about 150 bytes). 64 disks with full chains need 50 000.
const MAX_NODES: usize = 400_000;

/// One element.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: Box<str>,
    /// `type` without prefix: the type of a managed object reference.
    pub(crate) ref_type: Option<Box<str>>,
    /// `xsi:type`, prefix of the value dropped.
    pub(crate) xsi_type: Option<Box<str>>,
    /// Text of a leaf; empty when there are children.
    pub(crate) text: String,
    pub(crate) children: Vec<Node>,
}

/// Why a document was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("malformed XML: {0}")]
    Malformed(String),
    #[error("XML nests deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("XML holds more than {MAX_NODES} elements")]
    TooMany,
}

/// The document is XML, but not of the expected shape. The text says where.
#[derive(Debug, PartialEq)]
pub(crate) struct Shape(pub(crate) String);

fn malformed(e: impl std::fmt::Display) -> ParseError {
    ParseError::Malformed(e.to_string())
}

/// Reads a whole document and returns its root element.
pub(crate) fn parse(text: &str) -> Result<Node, ParseError> {
    let mut reader = Reader::from_str(text);
    let mut stack: Vec<Node> = Vec::new();
    let mut root: Option<Node> = None;
    let mut count = 0usize;
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Start(start) => {
                count += 1;
                if stack.len() >= MAX_DEPTH {
                    return Err(ParseError::TooDeep);
                }
                if count > MAX_NODES {
                    return Err(ParseError::TooMany);
                }
                stack.push(open(&start)?);
            }
            Event::Empty(start) => {
                count += 1;
                if count > MAX_NODES {
                    return Err(ParseError::TooMany);
                }
                close(open(&start)?, &mut stack, &mut root)?;
            }
            Event::End(_) => {
                let node = stack.pop().ok_or_else(|| malformed("end tag without start"))?;
                close(node, &mut stack, &mut root)?;
            }
            Event::Text(t) => append(&mut stack, &t.xml10_content())?,
            Event::CData(t) => append(&mut stack, &t.xml10_content())?,
            Event::GeneralRef(r) => {
                let mut buf = [0u8; 4];
                let s = match r.resolve_char_ref().map_err(malformed)? {
                    Some(c) => &*c.encode_utf8(&mut buf),
                    None => predefined(&r.xml10_content())?,
                };
                append(&mut stack, s)?;
            }
            Event::DocType(_) => return Err(malformed("a document type is not accepted")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if !stack.is_empty() {
        return Err(malformed("document ends inside an element"));
    }
    root.ok_or_else(|| malformed("no element"))
}

fn predefined(name: &str) -> Result<&'static str, ParseError> {
    Ok(match name {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => return Err(malformed("unknown entity")),
    })
}

fn open(start: &BytesStart<'_>) -> Result<Node, ParseError> {
    let mut node = Node { name: start.local_name().into_inner().into(), ..Node::default() };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(malformed)?;
        let (local, prefix) = attribute.key.decompose();
        if local.into_inner() != "type" || prefix.is_some_and(|p| p.into_inner() == "xmlns") {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?;
        if prefix.is_some() {
            let bare = value.rsplit_once(':').map_or(&*value, |(_, v)| v);
            node.xsi_type = Some(bare.into());
        } else {
            node.ref_type = Some((*value).into());
        }
    }
    Ok(node)
}

fn close(mut node: Node, stack: &mut [Node], root: &mut Option<Node>) -> Result<(), ParseError> {
    if !node.children.is_empty() {
        node.text = String::new();
    }
    node.children.shrink_to_fit();
    match stack.last_mut() {
        Some(parent) => parent.children.push(node),
        None if root.is_none() => *root = Some(node),
        None => return Err(malformed("more than one root element")),
    }
    Ok(())
}

fn append(stack: &mut [Node], text: &str) -> Result<(), ParseError> {
    match stack.last_mut() {
        Some(node) => node.text.push_str(text),
        None if text.trim().is_empty() || text == "\u{feff}" => {}
        None => return Err(malformed("text outside the root element")),
    }
    Ok(())
}

impl Node {
    pub(crate) fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|c| &*c.name == name)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> + 'a {
        self.children.iter().filter(move |c| &*c.name == name)
    }

    /// The element's type as sent, or "" when the server left it out.
    pub(crate) fn type_name(&self) -> &str {
        self.xsi_type.as_deref().or(self.ref_type.as_deref()).unwrap_or("")
    }

    /// Text of a child; an empty element counts as absent, as vCenter writes some unset strings that way.
    pub(crate) fn str(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.as_str()).filter(|t| !t.is_empty())
    }

    pub(crate) fn string(&self, name: &str) -> Option<String> {
        self.str(name).map(str::to_owned)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&Node, Shape> {
        self.child(name).ok_or_else(|| Shape(format!("{} has no {name}", self.label())))
    }

    pub(crate) fn opt<T: FromStr>(&self, name: &str) -> Result<Option<T>, Shape> {
        self.child(name).map(Node::scalar).transpose()
    }

    pub(crate) fn need<T: FromStr>(&self, name: &str) -> Result<T, Shape> {
        self.required(name)?.scalar()
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Shape> {
        self.child(name).map(Node::boolean).transpose()
    }

    pub(crate) fn opt_ref(&self, name: &str) -> Result<Option<MoRef>, Shape> {
        self.child(name).map(Node::moref).transpose()
    }

    /// This element as a number.
    pub(crate) fn scalar<T: FromStr>(&self) -> Result<T, Shape> {
        self.text.trim().parse().map_err(|_| {
            Shape(format!("{}: '{}' is not a {}", self.label(), self.excerpt(), std::any::type_name::<T>()))
        })
    }

    /// This element as xsd:boolean.
    pub(crate) fn boolean(&self) -> Result<bool, Shape> {
        match self.text.trim() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Shape(format!("{}: '{}' is not a boolean", self.label(), self.excerpt()))),
        }
    }

    /// This element as a managed object reference.
    pub(crate) fn moref(&self) -> Result<MoRef, Shape> {
        match &self.ref_type {
            Some(t) if !t.is_empty() && !self.text.is_empty() => Ok(MoRef::new(&**t, self.text.as_str())),
            _ => Err(Shape(format!("{} is not a managed object reference", self.label()))),
        }
    }

    /// This element as a list of references (`ArrayOfManagedObjectReference`).
    pub(crate) fn morefs(&self) -> Result<Vec<MoRef>, Shape> {
        self.children.iter().map(Node::moref).collect()
    }

    /// This element as xsd:dateTime; a time without zone is taken as UTC.
    pub(crate) fn time(&self) -> Result<jiff::Timestamp, Shape> {
        let text = self.text.trim();
        text.parse::<jiff::Timestamp>()
            .ok()
            .or_else(|| {
                let civil = text.parse::<jiff::civil::DateTime>().ok()?;
                civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
            })
            .ok_or_else(|| Shape(format!("{}: '{}' is not a time", self.label(), self.excerpt())))
    }

    pub(crate) fn opt_time(&self, name: &str) -> Result<Option<jiff::Timestamp>, Shape> {
        self.child(name).map(Node::time).transpose()
    }

    fn label(&self) -> String {
        match &self.xsi_type {
            Some(t) => format!("{} ({t})", self.name),
            None => self.name.to_string(),
        }
    }

    /// Start of the text, for messages: a hostile answer must not fill the log.
    fn excerpt(&self) -> String {
        self.text.chars().take(40).collect()
    }
}
