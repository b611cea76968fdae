//! The tables `[[client]]`: which certificates have which role. What a rule matches is in [`crate::access`].
use hotadd_api::roles::Role;
use serde::Deserialize;

use crate::access::{Rule, Rules};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClient {
    san: Option<String>,
    san_wildcard: Option<String>,
    role: String,
}

/// Checks all; faults are added to `faults`, one line each.
pub(super) fn check(raw: &[RawClient], faults: &mut Vec<String>) -> Rules {
    let rule = |client: &RawClient| {
        let role: Role = client.role.parse().map_err(|why| format!("role: {why}"))?;
        match (&client.san, &client.san_wildcard) {
            (Some(san), None) => Rule::exactly(san, role).map_err(|why| format!("san: {why}")),
            (None, Some(san)) => Rule::wildcard(san, role).map_err(|why| format!("san_wildcard: {why}")),
            _ => Err("give exactly one of san and san_wildcard".to_owned()),
        }
    };
    let mut rules = Vec::new();
    for (number, client) in (1..).zip(raw) {
        match rule(client) {
            Ok(rule) => rules.push(rule),
            Err(why) => faults.push(format!("client {number}: {why}")),
        }
    }
    Rules::new(rules)
}
