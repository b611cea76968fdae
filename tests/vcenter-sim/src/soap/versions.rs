//! API versions: what the server offers, what a SOAPAction asks for.

use crate::schema::{SCHEMA, Ver};
use crate::state::State;

/// Oldest version that the simulator answers in.
const OLDEST: Ver = Ver([5, 5, 0, 0]);

/// Offered versions, newest first.
pub(crate) fn offered(s: &State) -> Vec<String> {
    let mut list: Vec<&str> =
        SCHEMA.versions.iter().copied().filter(|v| Ver::parse(v).is_some_and(|v| v < s.api && v >= OLDEST)).collect();
    list.sort_by_key(|v| std::cmp::Reverse(Ver::parse(v)));
    let mut out = vec![s.api_text.clone()];
    out.extend(list.into_iter().map(str::to_owned));
    out
}

pub(crate) fn document(s: &State) -> String {
    let all = offered(s);
    let prior: String = all.iter().skip(1).map(|v| format!("   <version>{v}</version>\n")).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<namespaces version=\"1.0\">\n <namespace>\n  <name>urn:vim25</name>\n  \
         <version>{}</version>\n  <priorVersions>\n{prior}  </priorVersions>\n </namespace>\n <namespace>\n  <name>urn:vim2</name>\n  \
         <version>2.0</version>\n </namespace>\n</namespaces>\n",
        all[0]
    )
}

/// `"urn:vim25/8.0.2.0"` → that version; without one, the oldest. Err for a version that the server does not know.
pub(crate) fn of_action(s: &State, action: &str) -> Result<Ver, String> {
    let action = action.trim().trim_matches('"');
    let Some((_, text)) = action.split_once('/') else { return Ok(OLDEST) };
    let known = offered(s).iter().any(|v| v == text || Ver::parse(v).is_some() && Ver::parse(v) == Ver::parse(text));
    match Ver::parse(text) {
        Some(v) if known => Ok(v),
        _ => Err(format!("Unsupported version URI \"{action}\"\n\nwhile parsing SOAP header")),
    }
}
