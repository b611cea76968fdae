//! Every rpc has one role, and its comment says the same as the table that the agent asks.
use hotadd_api::roles::{RPCS, Role};

use crate::elements::{Element, Kind, elements, ours};

/// What differs between the two, one line each.
fn faults(elements: &[Element], table: &[(&str, Role)]) -> Vec<String> {
    let mut faults = Vec::new();
    let rpcs: Vec<&Element> = elements.iter().filter(|element| element.kind == Kind::Rpc).collect();
    let path = |element: &Element| {
        let (service, name) = element.name.rsplit_once('.').unwrap();
        format!("/{service}/{name}")
    };
    for rpc in &rpcs {
        let told = rpc.comment.lines().find_map(|line| line.strip_prefix("Role: "));
        let told = told.and_then(|line| line.split(|c: char| !c.is_ascii_lowercase()).next()?.parse::<Role>().ok());
        let of_it: Vec<Role> = table.iter().filter(|(listed, _)| *listed == path(rpc)).map(|(_, role)| *role).collect();
        match (told, of_it.as_slice()) {
            (Some(told), [listed]) if told == *listed => {}
            (told, listed) => faults.push(format!("{}: its comment says {told:?}, the table {listed:?}", rpc.name)),
        }
    }
    let gone = table.iter().filter(|(listed, _)| !rpcs.iter().any(|rpc| path(rpc) == *listed));
    faults.extend(gone.map(|(listed, _)| format!("{listed}: no such rpc")));
    faults
}

#[test]
fn every_rpc_has_the_role_that_its_comment_tells() {
    let found = faults(&elements(&ours()), RPCS);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_rpc_without_a_role_is_seen() {
    let all = elements(&ours());
    let (_, rest) = RPCS.split_first().unwrap();
    assert_eq!(faults(&all, rest).len(), 1, "not in the table");
    let higher: Vec<_> = RPCS.iter().map(|(path, _)| (*path, Role::Admin)).collect();
    assert!(faults(&all, &higher).len() > 10, "another role in the table");
    let more = [RPCS, &[("/hotadd.v1.ProxyService/Gone", Role::Reader)]].concat();
    assert_eq!(faults(&all, &more), ["/hotadd.v1.ProxyService/Gone: no such rpc"]);
    let untold: Vec<Element> =
        all.iter().map(|e| Element { comment: e.comment.replace("Role: ", ""), ..e.clone() }).collect();
    assert_eq!(faults(&untold, RPCS).len(), RPCS.len());
}
