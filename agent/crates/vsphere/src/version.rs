//! API versions and their negotiation by `vimServiceVersions.xml`.

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::xml::Node;

const OP: &str = "vimServiceVersions.xml";

/// Versions of `urn:vim25` that this client was written against, newest first. Fields newer than 6.5 are never sent,
/// so the version only decides how much the server tells.
const KNOWN: &[&str] = &[
    "9.1.0.0", "9.0.0.0", "8.0.3.1", "8.0.3.0", "8.0.2.0", "8.0.1.0", "8.0.0.2", "8.0.0.1", "8.0.0.0", "7.0.3.2",
    "7.0.3.1", "7.0.3.0", "7.0.2.1", "7.0.2.0", "7.0.1.1", "7.0.1.0", "7.0.0.2", "7.0.0.0", "6.9.1", "6.8.7", "6.7.3",
    "6.7.2", "6.7.1", "6.7", "6.5",
];

/// A version of the vim25 API, for example `8.0.2.0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApiVersion {
    text: String,
    parts: Vec<u32>,
}

impl ApiVersion {
    /// Reads a dotted number; development names such as `m5CA1EF4D` are none.
    pub fn parse(text: &str) -> Option<ApiVersion> {
        let parts: Option<Vec<u32>> = text.trim().split('.').take(8).map(|p| p.parse().ok()).collect();
        Some(ApiVersion { text: text.trim().to_owned(), parts: parts? })
    }

    /// The text as it goes into `SOAPAction`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn order(&self) -> Vec<u32> {
        let mut parts = self.parts.clone();
        while parts.last() == Some(&0) {
            parts.pop();
        }
        parts
    }

    fn not_above(&self, other: &ApiVersion) -> bool {
        self.order() <= other.order()
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Picks the version to speak: the highest that both list; else the highest of ours that is not above the server's own
/// (so a newer unknown server runs at our newest); else refuses.
pub(crate) fn negotiate(namespaces: &Node) -> Result<ApiVersion, Error> {
    let vim = namespaces
        .all("namespace")
        .find(|n| n.str("name").is_some_and(|name| name.trim() == "urn:vim25"))
        .ok_or_else(|| Error::protocol(OP, "the server does not list urn:vim25"))?;
    let own = vim.str("version").unwrap_or_default();
    let prior: Vec<&str> =
        vim.child("priorVersions").map(|p| p.all("version").map(|v| v.text.trim()).collect()).unwrap_or_default();
    let listed = |v: &str| own.trim() == v || prior.contains(&v);
    let known = || KNOWN.iter().filter_map(|v| ApiVersion::parse(v));
    if let Some(shared) = known().find(|v| listed(v.as_str())) {
        return Ok(shared);
    }
    let server = std::iter::once(own).chain(prior.iter().copied()).find_map(ApiVersion::parse);
    let fallback = server.as_ref().and_then(|server| known().find(|v| v.not_above(server)));
    fallback.ok_or_else(|| {
        let shown: String = own.chars().take(40).collect();
        Error::new(ErrorKind::Unsupported, OP, format!("the server speaks '{shown}', this client needs 6.5 or later"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    fn pick(own: &str, prior: &[&str]) -> Result<String, Error> {
        let prior: String = prior.iter().map(|v| format!("<version>{v}</version>")).collect();
        let text = format!(
            "<namespaces version=\"1.0\"><namespace><name>urn:vsan</name><version>9.9</version></namespace>\
             <namespace><name>urn:vim25</name><version>{own}</version><priorVersions>{prior}</priorVersions></namespace>\
             </namespaces>"
        );
        negotiate(&parse(&text).unwrap()).map(|v| v.to_string())
    }

    #[test]
    fn highest_that_both_list() {
        assert_eq!(pick("8.0.2.0", &["8.0.1.0", "7.0.3.0", "6.5"]).unwrap(), "8.0.2.0");
        assert_eq!(pick("6.7.3", &["6.7", "6.5", "6.0"]).unwrap(), "6.7.3");
        assert_eq!(pick("6.5", &["6.0", "5.5"]).unwrap(), "6.5");
    }

    #[test]
    fn newer_unknown_server_runs_at_our_newest_shared_or_own() {
        assert_eq!(pick("10.0.0.0", &["9.1.0.0", "8.0.2.0"]).unwrap(), "9.1.0.0");
        assert_eq!(pick("10.0.0.0", &[]).unwrap(), KNOWN[0]);
        assert_eq!(pick("m5CA1EF4D", &["9.5.0.0"]).unwrap(), KNOWN[0]);
    }

    #[test]
    fn unlisted_version_between_ours_takes_the_next_lower() {
        assert_eq!(pick("8.0.2.7", &[]).unwrap(), "8.0.2.0");
        assert_eq!(pick("7.0", &[]).unwrap(), "7.0.0.0");
    }

    #[test]
    fn older_than_6_5_is_refused_by_name() {
        let error = pick("6.0", &["5.5"]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("6.0"), "{error}");
        assert_eq!(*pick("", &[]).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn known_versions_are_sorted_newest_first() {
        let parsed: Vec<_> = KNOWN.iter().map(|v| ApiVersion::parse(v).unwrap().order()).collect();
        assert!(parsed.windows(2).all(|w| w[0] > w[1]), "{parsed:?}");
    }
}
