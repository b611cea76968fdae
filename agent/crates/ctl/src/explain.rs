//! `explain`: how each disk of a VM would be read, and why, as a table or JSON lines. Asks, never changes anything.
use hotadd_api::v1::{DiskExplanation, ExplainRequest, RuleSpoken, Transport, Verdict};
use serde_json::{Value, json};

use crate::{
    backup::report,
    cli::{AgentArgs, ExplainArgs},
    connect::Agent,
    error::Failure,
    exit::Exit,
    output::{Output, bytes, table},
};

pub(crate) async fn run(args: &ExplainArgs, agent: &AgentArgs, out: &Output) -> Result<Exit, Failure> {
    let (agent, _) = Agent::connect(agent).await?;
    let request = ExplainRequest {
        vm: args.vm.clone(),
        snapshot_moref: args.snapshot.clone().unwrap_or_default(),
        device_keys: args.disks.clone(),
        transport: if args.san { Transport::San } else { Transport::Unspecified }.into(),
        bytes: args.bytes,
        nbd_servers: args.nbd.clone(),
    };
    let answer = agent.call(agent.proxy().explain(request)).await?;
    for disk in &answer.disks {
        out.event(|| disk_json(&answer.vm_name, &answer.vm_moref, &answer.profile, disk));
    }
    let rows: Vec<_> = answer.disks.iter().map(row).collect();
    let head = ["key", "disk", "controller", "datastore", "size", "transport", "expected"];
    out.section(&format!("{} ({})", answer.vm_name, answer.vm_moref), &head, &rows);
    for disk in &answer.disks {
        tell(disk, out);
    }
    Ok(Exit::Ok)
}

fn tell(disk: &DiskExplanation, out: &Output) {
    let label = disk.disk.as_ref().map(|facts| facts.label.clone()).unwrap_or_default();
    let rows: Vec<Vec<String>> = disk.rules.iter().map(rule_row).collect();
    if !rows.is_empty() {
        let head = ["rule", "says", "origin", "because"];
        out.answer(&format!("\n{}:\n{}", crate::output::clean(&label), table(&head, &rows)));
    }
    for line in remarks(disk) {
        out.answer(&crate::output::clean(&line));
    }
}

/// What stands below the rules: what is not known is never taken as fine, and must not look so.
fn remarks(disk: &DiskExplanation) -> Vec<String> {
    let unknown = disk.unknown_facts.iter().map(|fact| format!("not known: {fact}"));
    let needed = disk.needed_for_hotadd.iter().map(|step| format!("for HotAdd: {step}"));
    unknown.chain(needed).collect()
}

fn rule_row(rule: &RuleSpoken) -> Vec<String> {
    let reason = rule.reason.clone().unwrap_or_default();
    vec![reason.code, verdict_name(rule.verdict()).to_owned(), rule.origin.clone(), reason.message]
}

fn row(disk: &DiskExplanation) -> Vec<String> {
    let facts = disk.disk.clone().unwrap_or_default();
    vec![
        facts.device_key.to_string(),
        facts.label,
        facts.controller,
        facts.datastore,
        bytes(facts.capacity_bytes),
        way(disk),
        disk.expected_seconds.map_or_else(|| "unknown".to_owned(), |seconds| format!("{seconds:.0} s")),
    ]
}

fn way(disk: &DiskExplanation) -> String {
    match disk.transport() {
        Transport::Unspecified if disk.rules.iter().any(|r| r.binding && r.verdict() == Verdict::Refuse) => "refused",
        Transport::Unspecified => "none",
        transport => report::transport_name(transport),
    }
    .to_owned()
}

fn disk_json(name: &str, moref: &str, profile: &str, disk: &DiskExplanation) -> Value {
    let facts = disk.disk.clone().unwrap_or_default();
    let rules: Vec<Value> = disk.rules.iter().map(rule_json).collect();
    json!({"event": "explain", "vm": name, "vm_moref": moref, "profile": profile, "device_key": facts.device_key,
    "label": facts.label, "backing": facts.backing, "controller": facts.controller, "datastore": facts.datastore,
    "capacity_bytes": facts.capacity_bytes, "transport": way(disk), "rules": rules,
    "unknown_facts": disk.unknown_facts, "needed_for_hotadd": disk.needed_for_hotadd, "bytes": disk.bytes,
    "expected_seconds": disk.expected_seconds, "preferred": match disk.preferred() {
        Transport::Unspecified => Value::Null,
        transport => json!(report::transport_name(transport)),
    }})
}

fn rule_json(rule: &RuleSpoken) -> Value {
    let reason = rule.reason.clone().unwrap_or_default();
    json!({"rule": reason.code, "verdict": verdict_name(rule.verdict()), "binding": rule.binding,
        "message": reason.message, "next_step": reason.next_step, "origin": rule.origin, "source": rule.source,
        "facts": rule.facts, "help": rule.help})
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "unspecified",
        Verdict::Warn => "warn",
        Verdict::NoHotadd => "no_hotadd",
        Verdict::Refuse => "refuse",
        Verdict::Hold => "hold",
        Verdict::Unknown => "unknown",
        Verdict::Prefer => "prefer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_told_before_what_is_needed() {
        let disk = DiskExplanation {
            unknown_facts: vec!["disk.store: not read".into()],
            needed_for_hotadd: vec!["a PVSCSI controller".into()],
            ..DiskExplanation::default()
        };
        assert_eq!(remarks(&disk), ["not known: disk.store: not read", "for HotAdd: a PVSCSI controller"]);
        assert!(remarks(&DiskExplanation::default()).is_empty());
    }
}
