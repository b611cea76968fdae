//! The rules: pure functions from facts to findings, one file a subject. No rule asks anything, and none takes a fact that was not
//! given for a good one: what is missing is in [`Estate::blind`] already.
pub mod attached;
mod chains;
mod leftovers;
mod proof;
mod proxies;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

use crate::{
    args::Limits,
    facts::{Estate, Snapshot},
    finding::Report,
};

/// Everything together, the worst first.
#[must_use]
pub fn judge(estate: &Estate, limits: &Limits) -> Report {
    let held = attached::all(estate);
    let mut findings = attached::findings(estate, &held, limits);
    findings.extend(leftovers::snapshots(estate, &held, limits));
    findings.extend(leftovers::methods(estate, &held, limits));
    findings.extend(leftovers::consolidation(estate, &held));
    findings.extend(leftovers::redo(estate));
    findings.extend(chains::findings(estate, limits));
    findings.extend(proxies::duplicates(estate, &held));
    findings.extend(proxies::controllers(estate, &held));
    findings.extend(proxies::versions(estate));
    let order = |finding: &crate::finding::Finding| (finding.severity, finding.code.id, finding.object.clone());
    findings.sort_by_key(order);
    let mut not_looked_at = estate.blind.clone();
    not_looked_at.sort();
    not_looked_at.dedup();
    Report { server: estate.server.clone(), at: estate.now, vms: estate.vms.len(), findings, not_looked_at }
}

/// Whole minutes since then; `None` when it is not told or lies ahead.
fn age_minutes(estate: &Estate, then: Option<Timestamp>) -> Option<u64> {
    let seconds = estate.now.as_second().checked_sub(then?.as_second())?;
    u64::try_from(seconds).ok().map(|seconds| seconds / 60)
}

/// Whether it is old enough to be taken as left behind. Of unknown age is old: nobody accounts for it.
fn stale(estate: &Estate, then: Option<Timestamp>, limits: &Limits) -> bool {
    age_minutes(estate, then).is_none_or(|minutes| minutes >= u64::from(limits.stale_hours) * 60)
}

fn age_text(estate: &Estate, then: Option<Timestamp>) -> String {
    match age_minutes(estate, then) {
        None => "unknown".into(),
        Some(minutes) if minutes < 120 => format!("{minutes} min"),
        Some(minutes) if minutes < 48 * 60 => format!("{} h", minutes / 60),
        Some(minutes) => format!("{} days", minutes / (24 * 60)),
    }
}

/// Whose a snapshot is, if it is one of a backup.
fn maker(snapshot: &Snapshot) -> Option<String> {
    match &snapshot.marker {
        Some(marker) => Some(format!("hotadd-agent of the proxy with instance UUID {}", marker.proxy)),
        None => crate::products::of(&snapshot.name).map(str::to_owned),
    }
}

/// Bytes for people.
fn bytes(count: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| count >> shift > 0) {
        Some((shift, unit)) => format!("{}.{} {unit}", count >> shift, ((count >> (shift - 10)) % 1024) * 10 / 1024),
        None => format!("{count} B"),
    }
}
