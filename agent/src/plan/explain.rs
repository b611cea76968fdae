//! Explain: every decision with all that led to it, as the API shows it. Pure.
use hotadd_api::v1;

use super::{
    Decision, Route, Transport, facts_to_api,
    rates::Rates,
    route_to_api,
    rule::{Effect, Verdict},
};
use crate::{
    config::{Policy, Profile},
    hypervisor::PlanFacts,
};

/// The whole answer.
#[must_use]
pub fn to_api(facts: &PlanFacts, decisions: &[Decision], policy: &Policy, rates: &Rates) -> v1::ExplainResponse {
    v1::ExplainResponse {
        vm_moref: facts.target.moref.to_string(),
        vm_name: facts.target.name.clone(),
        profile: match policy.profile {
            Profile::Onprem => "onprem",
            Profile::Cloud => "cloud",
        }
        .to_owned(),
        disks: decisions.iter().map(|decision| disk(decision, rates)).collect(),
    }
}

fn disk(decision: &Decision, rates: &Rates) -> v1::DiskExplanation {
    let bytes = decision.bytes;
    let spoken = || decision.spoken.iter();
    v1::DiskExplanation {
        disk: Some(facts_to_api(&decision.disk)),
        transport: route_to_api(decision.route).into(),
        rules: spoken().map(|spoken| rule(spoken, &decision.disk.label)).collect(),
        unknown_facts: spoken()
            .filter_map(|s| match &s.verdict {
                Verdict::Unknown(what) => Some(what.clone()),
                _ => None,
            })
            .collect(),
        // A disk that waits for something has a step to take as well.
        needed_for_hotadd: spoken()
            .filter(|s| s.effect != Effect::None || matches!(s.verdict, Verdict::Hold(_)))
            .map(|s| format!("{}: {}", s.rule.id(), s.rule.reason.next_step))
            .collect(),
        bytes,
        expected_seconds: match decision.route {
            Route::HotAdd => rates.hotadd_seconds(bytes),
            Route::Nbd => rates.nbd_seconds(bytes),
            // Whole disks only.
            Route::Export => rates.export_seconds(decision.disk.capacity_bytes),
            Route::Refused => None,
        },
        preferred: decision.preferred().map_or(v1::Transport::Unspecified, transport).into(),
    }
}

fn transport(transport: Transport) -> v1::Transport {
    match transport {
        Transport::HotAdd => v1::Transport::Hotadd,
        Transport::Nbd => v1::Transport::Nbd,
        Transport::Export => v1::Transport::Export,
        Transport::San => v1::Transport::San,
    }
}

fn rule(spoken: &super::Spoken, label: &str) -> v1::RuleSpoken {
    let verdict = match spoken.verdict {
        Verdict::Silent => v1::Verdict::Unspecified,
        Verdict::Warn(_) => v1::Verdict::Warn,
        Verdict::NoHotAdd(_) => v1::Verdict::NoHotadd,
        Verdict::Refuse(_) => v1::Verdict::Refuse,
        Verdict::Hold(_) => v1::Verdict::Hold,
        Verdict::Unknown(_) => v1::Verdict::Unknown,
        Verdict::Prefer(..) => v1::Verdict::Prefer,
    };
    v1::RuleSpoken {
        reason: Some(spoken.to_error(label).to_reason()),
        verdict: verdict.into(),
        binding: spoken.effect != Effect::None,
        origin: spoken.rule.origin.name().to_owned(),
        source: spoken.rule.source.to_owned(),
        facts: spoken.rule.facts.iter().map(|fact| (*fact).to_owned()).collect(),
        help: hotadd_reasons::help(spoken.rule.id()).unwrap_or_default(),
    }
}
