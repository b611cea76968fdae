//! The one change that doctor makes: disks that are provably hotadd-agent's are taken off a proxy, files kept. For hotaddctl alone.
//!
//! ```text
//! findings with a proof ─▶ read everything anew ─▶ proven still? at rest? ─▶ plan ── without --yes: shown, nothing is done
//!                                                     └ no: refused, with the reason        └─ --yes: act ─▶ read back
//! ```
//! Rules that hold everywhere here: doubt is never acted on; what is not known counts as "not at rest"; the only change that exists
//! is [`hotadd_vsphere::RemoveDisk`], which can't name a file operation; one reconfigure a proxy, only at the version that was read.
mod act;
mod rest;

use std::{collections::BTreeMap, time::Duration};

use clap::Args as ClapArgs;
use serde_json::{Value, json};

pub use rest::Agent;

use crate::{
    args::Limits,
    connect::{Trouble, Vcenter},
    facts::{Estate, Object},
    finding::{Finding, Proof},
    gather,
    rules::{self, attached},
    show::clean,
};

/// What hotaddctl adds to the options of the look.
#[derive(Debug, Clone, ClapArgs)]
pub struct FixArgs {
    /// Plan to take disks that are provably hotadd-agent's off their proxies, files kept; shows the plan, changes nothing
    #[arg(long)]
    pub fix: bool,
    /// Carry the plan out
    #[arg(long, requires = "fix")]
    pub yes: bool,
    /// The agent of each proxy that runs is stopped, as you know; without it no disk of a proxy that runs is taken off
    #[arg(long, requires = "fix")]
    pub agent_stopped: bool,
    /// Nothing is changed while a snapshot or a change of the proxy is younger than so many minutes: a job may have begun
    #[arg(long, value_name = "M", default_value_t = 10, requires = "fix")]
    pub quiet_minutes: u32,
}

/// A disk to take off a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub proxy: Object,
    pub place: String,
    pub proof: Proof,
}

/// A proxy, or one disk of it, that stays as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub object: Object,
    pub why: String,
}

/// What is to be done and what not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub removals: Vec<Removal>,
    pub refusals: Vec<Refusal>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    pub removed: Vec<Removal>,
    pub refusals: Vec<Refusal>,
    /// A change whose outcome is not proven; nothing more was tried after it.
    pub trouble: Option<Trouble>,
}

/// Reads everything anew and plans. `agent`: what is known of the agents of proxies that run.
///
/// # Errors
/// When vCenter can't be read.
pub async fn plan(vcenter: &Vcenter, args: &FixArgs, limits: &Limits, agent: &Agent) -> Result<Plan, Trouble> {
    let estate = gather::estate(vcenter).await?;
    let report = rules::judge(&estate, limits);
    let mut by_proxy: BTreeMap<String, Vec<&Finding>> = BTreeMap::new();
    for finding in report.findings.iter().filter(|finding| finding.ours.is_some()) {
        by_proxy.entry(finding.object.moref.clone()).or_default().push(finding);
    }
    let mut plan = Plan::default();
    for findings in by_proxy.into_values() {
        let Some(first) = findings.first() else { continue };
        match rest::at_rest(&estate, &findings, args, agent).await {
            Ok(()) => plan.removals.extend(findings.iter().filter_map(|finding| removal(&estate, finding))),
            Err(why) => plan.refusals.push(Refusal { object: first.object.clone(), why }),
        }
    }
    Ok(plan)
}

fn removal(estate: &Estate, finding: &Finding) -> Option<Removal> {
    let proof = finding.ours.clone()?;
    let vm = estate.vms.iter().find(|vm| vm.object == finding.object)?;
    let disk = vm.known_disks().find(|disk| disk.key == proof.disk_key)?;
    Some(Removal { proxy: vm.object.clone(), place: attached::place(vm, disk), proof })
}

/// Carries a plan out, one proxy after the other, each planned anew right before.
///
/// # Errors
/// When vCenter can't be read before anything was asked of it.
pub async fn carry_out(
    vcenter: &Vcenter,
    plan: &Plan,
    args: &FixArgs,
    limits: &Limits,
    agent: &Agent,
) -> Result<Done, Trouble> {
    let mut done = Done { refusals: plan.refusals.clone(), ..Done::default() };
    let mut proxies: Vec<&Object> = plan.removals.iter().map(|removal| &removal.proxy).collect();
    proxies.dedup();
    for proxy in proxies {
        let wanted: Vec<&Removal> = plan.removals.iter().filter(|removal| removal.proxy == *proxy).collect();
        let now = self::plan(vcenter, args, limits, agent).await?;
        let still: Vec<Removal> = now.removals.iter().filter(|removal| wanted.contains(removal)).cloned().collect();
        if still.len() != wanted.len() {
            let why = now.refusals.iter().find(|refusal| refusal.object == *proxy).map(|refusal| refusal.why.clone());
            let why = why.unwrap_or_else(|| "its disks are not those of a moment ago: somebody else is at work".into());
            done.refusals.push(Refusal { object: proxy.clone(), why });
            continue;
        }
        match act::remove(vcenter, proxy, &still).await {
            Ok(()) => done.removed.extend(still),
            Err(act::Stopped::Before(why)) => done.refusals.push(Refusal { object: proxy.clone(), why }),
            Err(act::Stopped::Unproven(trouble)) => {
                done.trouble = Some(trouble);
                break;
            }
        }
    }
    Ok(done)
}

/// Longest wait for one reconfigure.
pub(crate) const RECONFIGURE: Duration = Duration::from_secs(600);

impl Removal {
    fn line(&self) -> String {
        let Proof { file, snapshot, duty, .. } = &self.proof;
        clean(&format!(
            "{} ({}): remove {file} at {}, files kept; proven by {snapshot}, duty {duty}",
            self.proxy.name, self.proxy.moref, self.place
        ))
    }

    fn json(&self) -> Value {
        json!({"object": {"name": self.proxy.name, "moref": self.proxy.moref}, "place": self.place, "proof": self.proof})
    }
}

impl Refusal {
    fn line(&self) -> String {
        clean(&format!("{} ({}): left as it is: {}", self.object.name, self.object.moref, self.why))
    }

    fn json(&self) -> Value {
        json!({"object": {"name": self.object.name, "moref": self.object.moref}, "why": self.why})
    }
}

fn text(head: &str, removals: &[Removal], refusals: &[Refusal]) -> String {
    let lines = removals.iter().map(Removal::line).chain(refusals.iter().map(Refusal::line));
    let lines: String = lines.map(|line| format!("    {line}\n")).collect();
    if lines.is_empty() { format!("{head}: nothing is provably hotadd-agent's\n") } else { format!("{head}:\n{lines}") }
}

fn list(removals: &[Removal]) -> Vec<Value> {
    removals.iter().map(Removal::json).collect()
}

impl Plan {
    #[must_use]
    pub fn text(&self) -> String {
        text("plan (nothing is changed without --yes)", &self.removals, &self.refusals)
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let refused: Vec<Value> = self.refusals.iter().map(Refusal::json).collect();
        json!({"planned": list(&self.removals), "refused": refused})
    }
}

impl Done {
    #[must_use]
    pub fn text(&self) -> String {
        if self.trouble.is_some() && self.removed.is_empty() && self.refusals.is_empty() {
            return "done: nothing that is proven\n".into();
        }
        text("done", &self.removed, &self.refusals)
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let refused: Vec<Value> = self.refusals.iter().map(Refusal::json).collect();
        json!({"removed": list(&self.removed), "refused": refused})
    }
}
