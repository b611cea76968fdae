//! Facts of the vim25 interface: property names, their order, optionality and first API version (vim25.txt).
//! Here lives the table and the check of requests against it; not the meaning of any type.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::fault::Fault;
use crate::xml::Node;

/// An API version as four numbers; `6.7` equals `6.7.0.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ver(pub [u16; 4]);

impl Ver {
    pub(crate) fn parse(text: &str) -> Option<Ver> {
        let mut out = [0u16; 4];
        for (i, part) in text.split('.').enumerate() {
            *out.get_mut(i)? = part.parse().ok()?;
        }
        Some(Ver(out))
    }
}

#[derive(Debug)]
pub(crate) struct Prop {
    pub name: &'static str,
    /// `string`, `ref:Datastore`, `VirtualDevice[]`, …
    pub ty: &'static str,
    pub required: bool,
    pub since: Ver,
}

#[derive(Debug)]
pub(crate) struct Type {
    pub base: Option<&'static str>,
    /// Own properties only; see [`Schema::props`] for the inherited ones too.
    own: Vec<Prop>,
}

#[derive(Debug)]
pub(crate) struct Method {
    pub owner: &'static str,
    pub since: Ver,
    pub params: Vec<Prop>,
}

#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub versions: Vec<&'static str>,
    data: HashMap<&'static str, Type>,
    managed: HashMap<&'static str, Type>,
    methods: HashMap<&'static str, Vec<Method>>,
    enums: HashMap<&'static str, Vec<&'static str>>,
}

pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("vim25.txt")));

enum At {
    None,
    Data(&'static str),
    Managed(&'static str),
    Method(&'static str),
}

impl Schema {
    fn parse(text: &'static str) -> Schema {
        let mut s = Schema::default();
        let (mut at, mut owner) = (At::None, "");
        for line in text.lines() {
            let w: Vec<&'static str> = line.split_whitespace().collect();
            match w.as_slice() {
                ["#", ..] => {}
                ["V", ids @ ..] => s.versions = ids.to_vec(),
                ["E", name, values @ ..] => {
                    s.enums.insert(name, values.to_vec());
                }
                [kind @ ("D" | "O"), name, base, _] => {
                    let t = Type { base: (*base != "-").then_some(*base), own: Vec::new() };
                    if *kind == "D" {
                        s.data.insert(name, t);
                        at = At::Data(name);
                    } else {
                        s.managed.insert(name, t);
                        owner = name;
                        at = At::Managed(name);
                    }
                }
                ["M", name, _, since] => {
                    s.methods.entry(name).or_default().push(Method {
                        owner,
                        since: Ver::parse(since).unwrap_or_default(),
                        params: Vec::new(),
                    });
                    at = At::Method(name);
                }
                [name, ty, need, since] => {
                    let p = Prop { name, ty, required: *need == "r", since: Ver::parse(since).unwrap_or_default() };
                    let list = match at {
                        At::Data(n) => s.data.get_mut(n).map(|t| &mut t.own),
                        At::Managed(n) => s.managed.get_mut(n).map(|t| &mut t.own),
                        At::Method(n) => s.methods.get_mut(n).and_then(|m| m.last_mut()).map(|m| &mut m.params),
                        At::None => None,
                    };
                    if let Some(list) = list {
                        list.push(p);
                    }
                }
                _ => {}
            }
        }
        s
    }

    fn any(&self, name: &str) -> Option<&Type> {
        self.data.get(name).or_else(|| self.managed.get(name))
    }

    pub(crate) fn is_data(&self, name: &str) -> bool {
        self.data.contains_key(name)
    }

    /// The table's own spelling of a data type's name.
    pub(crate) fn data_name(&self, name: &str) -> Option<&'static str> {
        self.data.get_key_value(name).map(|(k, _)| *k)
    }

    pub(crate) fn first_value(&self, name: &str) -> Option<&'static str> {
        self.enums.get(name)?.first().copied()
    }

    pub(crate) fn is_managed(&self, name: &str) -> bool {
        self.managed.contains_key(name)
    }

    pub(crate) fn is_enum(&self, name: &str) -> bool {
        self.enums.contains_key(name)
    }

    /// All properties in xsd:sequence order, those of the base class first.
    pub(crate) fn props(&self, name: &str) -> Vec<&Prop> {
        let mut chain = Vec::new();
        let mut at = self.any(name);
        while let Some(t) = at {
            chain.push(t);
            at = t.base.and_then(|b| self.any(b));
        }
        chain.into_iter().rev().flat_map(|t| t.own.iter()).collect()
    }

    pub(crate) fn prop(&self, ty: &str, name: &str) -> Option<&Prop> {
        self.props(ty).into_iter().find(|p| p.name == name)
    }

    pub(crate) fn is_a(&self, ty: &str, base: &str) -> bool {
        let mut at = Some(ty);
        while let Some(t) = at {
            if t == base {
                return true;
            }
            at = self.any(t).and_then(|t| t.base);
        }
        base == "ManagedObject" && self.is_managed(ty)
    }

    /// Names of all methods.
    #[cfg(test)]
    pub(crate) fn methods(&self) -> impl Iterator<Item = &'static str> {
        self.methods.keys().copied()
    }

    pub(crate) fn method(&self, owner: &str, name: &str) -> Option<&Method> {
        self.methods.get(name)?.iter().find(|m| self.is_a(owner, m.owner))
    }

    /// Checks a request's parameters: names, order, required ones, versions, scalar forms.
    pub(crate) fn check_call(&self, m: &Method, body: &Node, ver: Ver) -> Result<(), Fault> {
        let kids: Vec<&Node> = body.kids.iter().filter(|k| k.name != "_this").collect();
        let params: Vec<&Prop> = m.params.iter().collect();
        self.check_sequence(&body.name, &kids, &params, ver)
    }

    fn check_sequence(&self, place: &str, kids: &[&Node], props: &[&Prop], ver: Ver) -> Result<(), Fault> {
        let (mut at, mut seen) = (0usize, vec![0usize; props.len()]);
        for kid in kids {
            let found = props.iter().position(|p| p.name == kid.name && p.since <= ver);
            let Some(i) = found else {
                return Err(Fault::bad_request(format!("unexpected element '{}' in {place}", kid.name)));
            };
            if i < at {
                return Err(Fault::bad_request(format!("element '{}' out of order in {place}", kid.name)));
            }
            at = i;
            seen[i] += 1;
            let array = props[i].ty.strip_suffix("[]");
            if seen[i] > 1 && array.is_none() {
                return Err(Fault::bad_request(format!("element '{}' repeated in {place}", kid.name)));
            }
            self.check_value(kid, array.unwrap_or(props[i].ty), ver)?;
        }
        for (p, n) in props.iter().zip(&seen) {
            if p.required && *n == 0 && p.since <= ver && !p.ty.ends_with("[]") {
                return Err(Fault::bad_request(format!("required element '{}' missing in {place}", p.name)));
            }
        }
        Ok(())
    }

    fn check_value(&self, node: &Node, declared: &str, ver: Ver) -> Result<(), Fault> {
        let text = node.text.trim();
        let bad = || Fault::bad_request(format!("'{text}' is no {declared} in element '{}'", node.name));
        let leaf = |ok: bool| if ok && node.kids.is_empty() { Ok(()) } else { Err(bad()) };
        if let Some(target) = declared.strip_prefix("ref:") {
            let ty = node.attr("type").ok_or_else(bad)?;
            let known = self.is_a(ty, target) || !self.is_managed(target) || !self.is_managed(ty);
            return leaf(known && !text.is_empty());
        }
        match declared {
            "int" | "short" | "byte" => return leaf(text.parse::<i32>().is_ok()),
            "long" => return leaf(text.parse::<i64>().is_ok()),
            "boolean" => return leaf(matches!(text, "true" | "false" | "1" | "0")),
            "string" | "dateTime" | "PropertyPath" | "TypeName" | "MethodName" | "base64Binary" | "anyURI" => {
                return leaf(true);
            }
            "anyType" => {
                return match node.xsi_type() {
                    Some(_) => Ok(()),
                    None => Err(Fault::bad_request(format!("anyType '{}' has no xsi:type", node.name))),
                };
            }
            _ => {}
        }
        if let Some(values) = self.enums.get(declared) {
            return leaf(values.contains(&text));
        }
        let actual = node.xsi_type().unwrap_or(declared);
        if !self.is_data(actual) {
            return Err(Fault::bad_request(format!("type '{actual}' of '{}' is unknown here", node.name)));
        }
        if self.is_data(declared) && !self.is_a(actual, declared) {
            return Err(Fault::bad_request(format!("type '{actual}' of '{}' is no {declared}", node.name)));
        }
        let kids: Vec<&Node> = node.kids.iter().collect();
        self.check_sequence(actual, &kids, &self.props(actual), ver)
    }
}
