//! XML in: a small generic tree of a request. XML out: escaping. No vSphere meaning here.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

const MAX_DEPTH: usize = 64;

/// One element: local name, attributes as written, children, own text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub name: String,
    pub attrs: Vec<(String, String)>,
    pub kids: Vec<Node>,
    pub text: String,
}

impl Node {
    pub(crate) fn parse(text: &str) -> Result<Node, String> {
        let mut reader = Reader::from_str(text);
        let mut stack = vec![Node::default()];
        loop {
            match reader.read_event().map_err(|e| e.to_string())? {
                Event::Start(s) => {
                    if stack.len() > MAX_DEPTH {
                        return Err("too deep".into());
                    }
                    stack.push(Node::open(&s)?);
                }
                Event::Empty(s) => {
                    let node = Node::open(&s)?;
                    top(&mut stack)?.kids.push(node);
                }
                Event::End(_) => {
                    let node = stack.pop().ok_or("unbalanced")?;
                    top(&mut stack)?.kids.push(node);
                }
                Event::Text(t) => {
                    top(&mut stack)?.text.push_str(&t);
                }
                Event::CData(t) => {
                    top(&mut stack)?.text.push_str(&t);
                }
                Event::GeneralRef(r) => {
                    let c = match r.resolve_char_ref().map_err(|e| e.to_string())? {
                        Some(c) => c.to_string(),
                        None => quick_xml::escape::resolve_predefined_entity(&r).ok_or("unknown entity")?.to_string(),
                    };
                    top(&mut stack)?.text.push_str(&c);
                }
                Event::DocType(_) => return Err("DTD refused".into()),
                Event::Eof => break,
                _ => {}
            }
        }
        let mut root = stack.pop().ok_or("empty")?;
        if !stack.is_empty() || root.kids.len() != 1 {
            return Err("not one well-formed document".into());
        }
        root.kids.pop().ok_or_else(|| "empty".into())
    }

    fn open(s: &BytesStart<'_>) -> Result<Node, String> {
        let name = s.local_name().as_ref().to_owned();
        let mut attrs = Vec::new();
        for a in s.attributes() {
            let a = a.map_err(|e| e.to_string())?;
            let key = a.key.as_ref().to_owned();
            let val = quick_xml::escape::unescape(&a.value).map_err(|e| e.to_string())?.into_owned();
            attrs.push((key, val));
        }
        Ok(Node { name, attrs, ..Node::default() })
    }

    pub(crate) fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The local part of `xsi:type`, whatever prefix the client chose.
    pub(crate) fn xsi_type(&self) -> Option<&str> {
        let (_, v) = self.attrs.iter().find(|(k, _)| k.ends_with(":type"))?;
        Some(v.rsplit(':').next().unwrap_or(v))
    }

    pub(crate) fn kid(&self, name: &str) -> Option<&Node> {
        self.kids.iter().find(|k| k.name == name)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.kids.iter().filter(move |k| k.name == name)
    }

    /// Text of a child; an absent child is None, an empty one is "".
    pub(crate) fn str(&self, name: &str) -> Option<&str> {
        self.kid(name).map(|k| k.text.as_str())
    }

    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.str(name).map(|t| matches!(t.trim(), "true" | "1"))
    }

    pub(crate) fn int<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.str(name).and_then(|t| t.trim().parse().ok())
    }
}

fn top(stack: &mut [Node]) -> Result<&mut Node, String> {
    stack.last_mut().ok_or_else(|| "unbalanced".into())
}

pub(crate) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
}
