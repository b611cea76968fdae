//! What a request is told whose disks the plan refuses: the reason of the rule itself wherever there is only one, so that its code, its
//! next step and its page reach who asked. Which disks are refused, and why, is decided in [`super`].
use super::{Decision, Route};
use crate::{error::Error, reason::ReasonCode};

/// Why, as one error; `None`: nothing is refused. `several`: the code where the disks have different reasons; its text names each.
#[must_use]
pub fn refusal(decisions: &[Decision], several: &'static ReasonCode) -> Option<Error> {
    let refused = decisions.iter().filter(|decision| decision.route == Route::Refused);
    let all: Vec<(&str, &Error)> =
        refused.flat_map(|d| d.refusals.iter().map(|why| (d.disk.label.as_str(), why))).collect();
    one(&all).or_else(|| {
        let named: Vec<String> = all.iter().map(|(label, why)| format!("{label}: {why}")).collect();
        (!named.is_empty()).then(|| Error::new(several, named.join("; ")))
    })
}

/// The reason that all of them have.
fn one(all: &[(&str, &Error)]) -> Option<Error> {
    let (_, first) = all.first()?;
    if all.iter().any(|(_, why)| why.reason() != first.reason()) {
        return None;
    }
    // What is missing on the agent itself is missing for each disk in the same words.
    let mut facts: Vec<String> = Vec::new();
    for (_, why) in all {
        let fact = why.facts();
        if !facts.contains(&fact) {
            facts.push(fact);
        }
    }
    Some(if facts.len() == 1 { first.copy() } else { Error::new(first.reason(), facts.join("; ")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::{self, JOB_PARTIAL, PLAN_REDO_SPACE, VDK_LIBRARY};

    fn told(all: &[(&str, &Error)]) -> Option<String> {
        one(all).map(|error| error.to_string())
    }

    #[test]
    fn a_reason_that_all_share_is_told_as_it_is() {
        let (one, two) =
            (Error::new(&PLAN_REDO_SPACE, "Hard disk 1: 1 MiB"), Error::new(&PLAN_REDO_SPACE, "Hard disk 2: 2 MiB"));
        assert_eq!(told(&[("Hard disk 1", &one)]), Some(one.to_string()));
        let both = told(&[("Hard disk 1", &one), ("Hard disk 2", &two)]).unwrap();
        assert!(
            both.starts_with("HA-PLAN-023 ") && both.ends_with(": Hard disk 1: 1 MiB; Hard disk 2: 2 MiB"),
            "{both}"
        );
        let missing = Error::new(&VDK_LIBRARY, "no library");
        assert_eq!(told(&[("Hard disk 1", &missing), ("Hard disk 2", &missing)]), Some(missing.to_string()));
    }

    #[test]
    fn different_reasons_are_no_one_reason() {
        let (one, two) = (Error::new(&PLAN_REDO_SPACE, "a"), Error::new(&reason::PLAN_NO_SLOT, "b"));
        assert_eq!(told(&[("Hard disk 1", &one), ("Hard disk 2", &two)]), None);
        assert_eq!(told(&[]), None);
        assert!(refusal(&[], &JOB_PARTIAL).is_none());
    }
}
