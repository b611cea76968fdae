//! Random damage to whole answers: from the bytes of the body to the facts, an answer or an error, never a panic.

use proptest::prelude::*;

use crate::http::Answer;
use crate::property::Properties;
use crate::{datastore, host, soap, vm};

const OP: &str = "RetrievePropertiesEx";
const FIXTURES: [&str; 3] = [
    include_str!("../tests/fixtures/vm.xml"),
    include_str!("../tests/fixtures/datastore.xml"),
    include_str!("../tests/fixtures/host.xml"),
];

fn envelope(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><{OP}Response xmlns=\"urn:vim25\">{inner}\
         </{OP}Response></soapenv:Body></soapenv:Envelope>"
    )
}

/// Reads an answer as every kind of object; true when at least one reading succeeds.
fn read(body: String) -> bool {
    let answer = Answer { status: reqwest::StatusCode::OK, headers: Default::default(), body };
    let Ok(response) = soap::response(OP, &answer) else { return false };
    let Ok(page) = soap::returnval(OP, response) else { return false };
    let mut understood = false;
    for object in page.children {
        for kind in 0..3 {
            let Ok(properties) = Properties::parse(object.clone()) else { continue };
            understood |= match kind {
                0 => vm::vm_info(properties).is_ok(),
                1 => datastore::datastore_info(properties).is_ok(),
                _ => host::host_info(properties).is_ok(),
            };
        }
    }
    understood
}

#[test]
fn whole_fixtures_are_understood() {
    for fixture in FIXTURES {
        assert!(read(envelope(fixture)));
    }
}

/// The nearest character boundary at or below `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(
        which in 0usize..3,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, "[<>/&;#\"'=a-z0-9:\\-\\]!\\[ é]{0,10}"), 1..5),
    ) {
        let mut text = envelope(FIXTURES[which]);
        for (at, cut, put) in cuts {
            let from = floor(&text, at.index(text.len()));
            let to = floor(&text, from + cut).max(from);
            text.replace_range(from..to, &put);
        }
        read(text);
    }

    /// A cut-off answer is never taken for a whole one.
    #[test]
    fn a_truncated_answer_is_refused(which in 0usize..3, at in any::<prop::sample::Index>()) {
        let text = envelope(FIXTURES[which]);
        let end = floor(&text, at.index(text.len()));
        prop_assert!(!read(text[..end].to_owned()));
    }
}
