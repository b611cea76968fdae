//! Names that a certificate proves, and the rules that give them roles. Pure: certificates are read in [`super::peer`].
use std::{fmt, net::IpAddr, str::FromStr};

use hotadd_api::roles::Role;

/// What a name is. A common name counts only for a rule that asks for it: CAs check it less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Dns,
    Uri,
    Email,
    Ip,
    Cn,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Dns, Self::Uri, Self::Email, Self::Ip, Self::Cn];

    fn prefix(self) -> &'static str {
        match self {
            Self::Dns => "DNS:",
            Self::Uri => "URI:",
            Self::Email => "email:",
            Self::Ip => "IP:",
            Self::Cn => "CN:",
        }
    }
}

/// A name of a certificate, e.g. `DNS:backup01.example.com`.
#[derive(Clone, PartialEq, Eq)]
pub struct Name {
    kind: Kind,
    value: String,
}

impl Name {
    /// Upper and lower case are one in host names, and in the domain of an address.
    #[must_use]
    pub fn new(kind: Kind, value: &str) -> Self {
        let value = match kind {
            Kind::Dns => value.to_ascii_lowercase(),
            Kind::Email => match value.rsplit_once('@') {
                Some((local, domain)) => format!("{local}@{}", domain.to_ascii_lowercase()),
                None => value.to_owned(),
            },
            Kind::Uri | Kind::Ip | Kind::Cn => value.to_owned(),
        };
        Self { kind, value }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Safe in a log: control characters, marks that turn text round, and the backslash itself are escaped, so that two names never look alike.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.prefix())?;
        for c in self.value.chars() {
            if c.is_control() || c == '\\' || !(c.is_ascii() || c.is_alphanumeric()) {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As the configuration writes it.
impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Kind::ALL.into_iter().find_map(|kind| Some((kind, text.strip_prefix(kind.prefix())?)));
        let (kind, value) =
            known.ok_or_else(|| format!("{text:?} does not begin with DNS:, URI:, email:, IP: or CN:"))?;
        if value.is_empty() || value.chars().any(|c| c.is_control() || c.is_whitespace() && kind != Kind::Cn) {
            return Err(format!("{text:?} has no value, or one with blanks"));
        }
        if kind == Kind::Ip {
            let address: IpAddr = value.parse().map_err(|_| format!("{text:?} is no address"))?;
            return Ok(Self::new(kind, &address.to_string()));
        }
        Ok(Self::new(kind, value))
    }
}

/// Which names a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exactly(Name),
    /// What stands between the two is one label or segment.
    Between {
        kind: Kind,
        before: String,
        after: String,
    },
}

/// Ends a label of a host name, a segment of a URI, a part of an address. The `*` of a certificate's own wildcard matches nothing.
const SEPARATORS: [char; 4] = ['.', '/', '@', '*'];

impl Pattern {
    fn exactly(text: &str) -> Result<Self, String> {
        if text.contains('*') {
            return Err(format!("{text:?}: a * stands for itself here; san_wildcard is for patterns"));
        }
        text.parse().map(Self::Exactly)
    }

    fn wildcard(text: &str) -> Result<Self, String> {
        let Name { kind, value } = text.parse()?;
        let wrong = |why: &str| Err(format!("{text:?}: {why}"));
        let Some((before, after)) = value.split_once('*').filter(|(_, after)| !after.contains('*')) else {
            return wrong("needs exactly one *");
        };
        let whole = (before.is_empty() || before.ends_with(['.', '/', '@']))
            && (after.is_empty() || after.starts_with(['.', '/', '@']));
        if matches!(kind, Kind::Ip | Kind::Cn) || !whole {
            return wrong("the * stands for a whole label or segment of a DNS, URI or email name");
        }
        if kind == Kind::Dns && after.matches('.').count() < 2 {
            return wrong("at least two labels have to follow the *");
        }
        // The scheme and host, or the domain, are never anybody's.
        if kind == Kind::Uri && !before.contains("://") || kind == Kind::Email && !after.starts_with('@') {
            return wrong("the * may not stand for the scheme of a URI or the domain of an address");
        }
        Ok(Self::Between { kind, before: before.to_owned(), after: after.to_owned() })
    }

    fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Exactly(wanted) => wanted == name,
            Self::Between { kind, before, after } => {
                let middle =
                    name.value.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                *kind == name.kind && middle.is_some_and(|label| !label.is_empty() && !label.contains(SEPARATORS))
            }
        }
    }
}

/// Gives a role to certificates that have a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    of: Pattern,
    role: Role,
}

impl Rule {
    /// Exactly this name.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn exactly(san: &str, role: Role) -> Result<Self, String> {
        Pattern::exactly(san).map(|of| Self { of, role })
    }

    /// Names in which one label or segment may be anything.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn wildcard(san: &str, role: Role) -> Result<Self, String> {
        Pattern::wildcard(san).map(|of| Self { of, role })
    }
}

/// All rules. None: every certificate of the CA is an admin's, as before there were rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    #[must_use]
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest role that any of these names has, and that name.
    #[must_use]
    pub fn judge<'a>(&self, names: &'a [Name]) -> Option<(&'a Name, Role)> {
        let given =
            |name: &'a Name| self.0.iter().filter(|rule| rule.of.matches(name)).map(move |rule| (name, rule.role));
        // Of several with the same role the first of the certificate: `max_by_key` would give the last.
        names.iter().flat_map(given).rev().max_by_key(|(_, role)| *role)
    }
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
