//! The OVF environment (DSP0243 1.1, 11): the properties of this virtual machine out of XML that somebody else wrote, and the same XML with
//! its secrets blanked. Pure. Hostile until proven otherwise: size, depth and counts are bounded, a document type is refused, only the five
//! predefined entities and character references are resolved.
use std::{borrow::Cow, collections::BTreeMap};

use quick_xml::{
    XmlVersion,
    events::{BytesStart, Event},
    reader::Reader,
    writer::Writer,
};

use crate::properties::secret;

/// guestinfo holds no more than that (VMX limit of one variable).
pub const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 16;
const MAX_PROPERTIES: usize = 512;
/// What the environment of a VM that was given nothing says (measured by others on a bare ESXi).
const NOTHING: &str = "null";

/// Key with class → value, which may be empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why an environment was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is empty")]
    Empty,
    #[error("it is larger than {MAX_BYTES} bytes")]
    Large,
    #[error("it is not UTF-8")]
    NotText,
    #[error("it is not XML: {0}")]
    Malformed(&'static str),
    #[error("it holds a document type, which may define entities")]
    DocType,
    #[error("it nests deeper than {MAX_DEPTH}")]
    Deep,
    #[error("it holds more than {MAX_PROPERTIES} properties")]
    Many,
    #[error("its root is not an OVF environment")]
    Root,
    #[error("it tells {0} twice, differently")]
    Twice(String),
}

/// What is wrong, without a word of the document: it may be a password in a wrong place.
fn malformed(error: quick_xml::Error) -> Refused {
    use quick_xml::Error as E;
    Refused::Malformed(match error {
        E::Syntax(_) => "something is not closed",
        E::IllFormed(_) => "its tags don't match",
        E::InvalidAttr(_) => "an attribute is none",
        E::Escape(_) => "it has an entity that is not XML's own, or a character that is none",
        _ => "it can't be read",
    })
}

impl Environment {
    /// # Errors
    /// What makes it unusable as a whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let mut properties = BTreeMap::new();
        walk(text(bytes)?, |event, own| {
            if !own {
                return Ok(());
            }
            let (Event::Start(start) | Event::Empty(start)) = event else { return Ok(()) };
            let (key, value) = property(start)?;
            let Some(key) = key else { return Ok(()) };
            match properties.insert(key.clone(), value.clone()) {
                Some(old) if old != value => Err(Refused::Twice(key)),
                _ if properties.len() > MAX_PROPERTIES => Err(Refused::Many),
                _ => Ok(()),
            }
        })?;
        Ok(Self(properties))
    }

    /// Of answers to keys of our class.
    #[must_use]
    pub fn of(answers: &BTreeMap<&'static str, String>) -> Self {
        let full = |(key, value): (&&str, &String)| (format!("{}.{key}", crate::properties::CLASS), value.clone());
        Self(answers.iter().map(full).collect())
    }

    fn raw(&self, key: &str) -> Option<&str> {
        self.0.get(&format!("{}.{key}", crate::properties::CLASS)).map(String::as_str)
    }

    /// The value of a key of our class, if it has one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.raw(key).filter(|value| says_something(value))
    }

    /// Whether a key of our class is there without a value: it was given none, or was blanked.
    #[must_use]
    pub fn is_blank(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|value| !says_something(value))
    }

    /// Keys of our class that have a value, without it.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let full = self.0.iter().filter(|(_, value)| says_something(value));
        full.filter_map(|(key, _)| key.strip_prefix(crate::properties::CLASS)?.strip_prefix('.'))
    }
}

fn says_something(value: &str) -> bool {
    !value.trim().is_empty() && value != NOTHING
}

/// The same document with every secret of ours empty; `None` if there is none.
///
/// # Errors
/// What makes the document unusable as a whole.
pub fn redacted(bytes: &[u8]) -> Result<Option<String>, Refused> {
    let mut writer = Writer::new(Vec::new());
    let mut blanked = false;
    walk(text(bytes)?, |event, _| {
        let clean = match event {
            Event::Start(start) => blank(start)?.map(Event::Start),
            Event::Empty(start) => blank(start)?.map(Event::Empty),
            // Nothing that we know puts anything there, and nobody needs it.
            Event::Comment(_) => return Ok(()),
            _ => None,
        };
        blanked |= clean.is_some();
        writer.write_event(clean.unwrap_or_else(|| event.clone())).map_err(|error| malformed(error.into()))
    })?;
    let text = String::from_utf8(writer.into_inner()).map_err(|_| Refused::NotText)?;
    Ok(blanked.then_some(text))
}

fn text(bytes: &[u8]) -> Result<&str, Refused> {
    if bytes.len() > MAX_BYTES {
        return Err(Refused::Large);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Refused::NotText)?;
    // Some ways of reading it add a zero or a line end.
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace() || c == '\u{feff}');
    if text.is_empty() { Err(Refused::Empty) } else { Ok(text) }
}

/// Every event; whether it opens a property of this VM itself: those of others in the same vApp are in `Entity` elements.
fn walk<'a>(text: &'a str, mut see: impl FnMut(&Event<'a>, bool) -> Result<(), Refused>) -> Result<(), Refused> {
    let mut reader = Reader::from_str(text);
    let mut path: Vec<Box<str>> = Vec::new();
    let mut roots = 0;
    loop {
        let event = reader.read_event().map_err(malformed)?;
        let mut own = false;
        match &event {
            Event::Start(start) | Event::Empty(start) => {
                let name = start.local_name().into_inner();
                if path.is_empty() {
                    roots += 1;
                    if roots > 1 || name != "Environment" {
                        return Err(Refused::Root);
                    }
                }
                own = name == "Property" && path.len() == 2 && &*path[1] == "PropertySection";
                if path.len() >= MAX_DEPTH {
                    return Err(Refused::Deep);
                }
                if matches!(event, Event::Start(_)) {
                    path.push(name.into());
                }
            }
            Event::End(_) => {
                path.pop().ok_or(Refused::Malformed("an end tag has no start"))?;
            }
            Event::DocType(_) => return Err(Refused::DocType),
            Event::Eof => break,
            _ => {}
        }
        see(&event, own)?;
    }
    match (path.is_empty(), roots) {
        (true, 1) => Ok(()),
        (true, _) => Err(Refused::Root),
        (false, _) => Err(Refused::Malformed("it ends inside an element")),
    }
}

/// Key and value of a property element.
fn property(start: &BytesStart<'_>) -> Result<(Option<String>, String), Refused> {
    let (mut key, mut value) = (None, String::new());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| malformed(error.into()))?;
        let text = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?;
        match attribute.key.local_name().into_inner() {
            "key" => key = Some(text.into_owned()),
            "value" => value = text.into_owned(),
            _ => {}
        }
    }
    Ok((key, value))
}

/// The element with an empty value, if its key is a secret and it has one. Wherever it is: a copy for another VM is as secret.
fn blank<'a>(start: &BytesStart<'a>) -> Result<Option<BytesStart<'a>>, Refused> {
    let (key, value) = property(start)?;
    if value.is_empty() || !key.is_some_and(|key| secret(&key)) {
        return Ok(None);
    }
    let mut clean = BytesStart::new(start.name().into_inner().to_owned());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| malformed(error.into()))?;
        let name = attribute.key.into_inner();
        let raw: Cow<'_, str> = if attribute.key.local_name().into_inner() == "value" {
            Cow::Borrowed("")
        } else {
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?
        };
        clean.push_attribute((name, &*raw));
    }
    Ok(Some(clean))
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
