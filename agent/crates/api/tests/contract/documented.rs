//! Every element says what a client has to know of it. What is looked for is what can be looked for: that there is a comment, that numbers
//! have a unit, that requests say what leaving a field out means, that an rpc tells its role, its errors, its repetition and its deadline, and that
//! every reason code that is named exists.
use crate::{
    elements::{Element, Kind, elements, ours},
    read,
};

/// What an rpc has to say, each at the start of a line.
const PARAGRAPHS: [&str; 4] = ["Role:", "Errors:", "Idempotent:", "Deadline:"];
/// Of a number: one of these in its name or comment.
const UNITS: [&str; 7] = ["bytes", "seconds", "_us", "mib", "number", "virtualdevice.key", "seed"];
/// Of a request's field: one of these in its comment.
const LEFT_OUT: [&str; 6] = ["required", "0:", "empty:", "false:", "unset:", "unspecified:"];

/// What is missing, one line each.
fn faults(elements: &[Element], codes: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for element in elements {
        let mut fault = |what: &str| faults.push(format!("{}: {what}", element.name));
        if element.comment.is_empty() {
            fault("no comment");
            continue;
        }
        match element.kind {
            Kind::Rpc => PARAGRAPHS
                .iter()
                .filter(|wanted| !element.comment.lines().any(|line| line.starts_with(**wanted)))
                .for_each(|wanted| fault(&format!("no line that begins with {wanted:?}"))),
            Kind::Field if is_number(&element.of) && !UNITS.iter().any(|unit| told(element).contains(unit)) => {
                fault("a number without a unit");
            }
            _ => {}
        }
        let of_request = element.kind == Kind::Field && element.name.contains("Request.");
        if of_request && !LEFT_OUT.iter().any(|word| element.comment.to_lowercase().contains(word)) {
            fault("does not say what it means to leave it out");
        }
        let words = element.comment.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let numbered = |word: &&str| word.starts_with("HA-") && word.ends_with(|c: char| c.is_ascii_digit());
        for code in words.filter(numbered) {
            if !codes.contains(&format!("| [{code}](")) {
                fault(&format!("{code} is no reason"));
            }
        }
    }
    faults
}

fn told(element: &Element) -> String {
    format!("{} {}", element.name, element.comment).to_lowercase()
}

fn is_number(of: &str) -> bool {
    let of = of.trim_start_matches("repeated ").trim_start_matches("optional ");
    ["uint32", "uint64", "int32", "int64", "double", "float"].iter().any(|kind| of.starts_with(kind))
}

#[test]
fn every_element_is_documented() {
    let found = faults(&elements(&ours()), &read("docs/reasons.md"));
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

#[test]
fn what_is_not_documented_is_seen() {
    let field = Element {
        kind: Kind::Field,
        name: "hotadd.v1.GetJobRequest.wait_seconds".into(),
        line: String::new(),
        comment: "How long to wait. 0: not at all. See HA-JOB-001.".into(),
        number: 1,
        of: "uint32".into(),
    };
    let rpc = Element {
        kind: Kind::Rpc,
        name: "hotadd.v1.JobService.GetJob".into(),
        comment: "Tells.\nRole: reader.\nErrors: none.\nIdempotent: yes.\nDeadline: any.".into(),
        of: String::new(),
        ..field.clone()
    };
    let codes = "| [HA-JOB-001](reasons/HA-JOB-001.md) |";
    let one = |element: &Element| faults(std::slice::from_ref(element), codes).join("; ");
    assert_eq!((one(&field), one(&rpc)), (String::new(), String::new()));
    let changed = |of: &Element, from: &str, to: &str| Element { comment: of.comment.replace(from, to), ..of.clone() };
    assert!(one(&Element { comment: String::new(), ..field.clone() }).ends_with("no comment"));
    assert!(one(&changed(&field, "0:", "Zero is")).contains("leave it out"));
    assert!(one(&changed(&field, "HA-JOB-001", "HA-JOB-999")).contains("HA-JOB-999 is no reason"));
    assert!(one(&Element { name: "hotadd.v1.GetJobRequest.wait".into(), ..field }).contains("without a unit"));
    for paragraph in PARAGRAPHS {
        assert!(one(&changed(&rpc, paragraph, "-")).contains(paragraph));
    }
}
