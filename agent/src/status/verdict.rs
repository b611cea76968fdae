//! Whether somebody has to do something, in words. Pure.
use std::time::Duration;

use serde::Serialize;

/// From when a disk that stays attached is somebody's business, and anything else: as in docs/metrics/alerts.yml.
const DISK: Duration = Duration::from_secs(900);
const OTHER: Duration = Duration::from_secs(3600);
/// From when an agent that does not serve is.
const CLOSED: Duration = Duration::from_secs(900);

/// The greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// It heals by itself, or somebody wanted it so.
    Wait,
    Act,
}

/// One sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub text: String,
    /// Where the documents go on; empty: nowhere.
    pub page: &'static str,
}

/// What is judged.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) refused: Option<String>,
    pub(super) login_refused: bool,
    /// Since when vCenter has not answered.
    pub(super) unheard: Option<Duration>,
    /// Disks on the proxy that the journal does not name.
    pub(super) strangers: usize,
    /// Snapshots that are kept for a job that resumes.
    pub(super) kept: usize,
    /// Whether the journal names anything.
    pub(super) owes: bool,
    pub(super) serving: bool,
    pub(super) draining: bool,
    pub(super) up: Duration,
    pub(super) running: usize,
    pub(super) late: usize,
    pub(super) settling: Vec<Settling>,
}

/// A duty that nothing uses any more.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) kind: &'static str,
    pub(super) age: Duration,
    /// The settler says that waiting does not heal it.
    pub(super) doubtful: bool,
}

/// What there is to say, the worst first; never empty.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let finding = |level, text: String, page| Finding { level, text, page };
    let mut all = Vec::new();
    if let Some(why) = &facts.refused {
        all.push(finding(
            Level::Act,
            format!("The agent refuses to serve: {why}."),
            "runbook: The agent does not start",
        ));
    }
    if facts.login_refused {
        let text = "vCenter refuses the agent's login: nothing can be attached or detached until it takes it again.";
        all.push(finding(Level::Act, text.into(), "runbook: The password is rotated"));
    }
    if let Some(age) = facts.unheard {
        let level = if age >= DISK { Level::Act } else { Level::Wait };
        let text = format!("vCenter has not answered for {}: nothing can be attached or detached.", words(age));
        all.push(finding(level, text, "runbook: vCenter is lost or restarts"));
    }
    if facts.strangers > 0 {
        let what = count(facts.strangers, "disk is", "disks are");
        let text = format!("{what} on the proxy that the journal does not name: see {STRANGER}.");
        all.push(finding(Level::Act, text, STRANGER));
    }
    all.extend(["attach", "snapshot", "export", "guard"].iter().filter_map(|kind| settling(kind, &facts.settling)));
    if !facts.serving && facts.refused.is_none() {
        let level = if facts.up >= CLOSED { Level::Act } else { Level::Wait };
        let text = "What an earlier run left is being given back; no work is taken until then.";
        all.push(finding(level, text.into(), "runbook: The agent does not start"));
    }
    if facts.draining {
        all.push(finding(Level::Wait, "Draining: what runs goes on, no new work is taken.".into(), ""));
    }
    if facts.late > 0 {
        let text = format!(
            "{}: looked for until that is certain.",
            count(facts.late, "request to vCenter without an answer", "requests to vCenter without an answer")
        );
        all.push(finding(Level::Wait, text, ""));
    }
    if facts.kept > 0 {
        let text = format!("{} for a job that resumes.", count(facts.kept, "snapshot is kept", "snapshots are kept"));
        all.push(finding(Level::Wait, text, ""));
    }
    if all.is_empty() {
        let runs = count(facts.running, "job or session runs", "jobs and sessions run");
        // What runs has what the journal names.
        let text = match facts.owes && facts.running == 0 {
            true => "Nothing to do: what has just ended is being given back.".to_owned(),
            false => format!("Nothing to do: {runs}, nothing is left behind."),
        };
        all.push(finding(Level::Ok, text, ""));
    }
    all.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    all
}

fn settling(kind: &str, all: &[Settling]) -> Option<Finding> {
    let of_kind: Vec<&Settling> = all.iter().filter(|one| one.kind == kind).collect();
    let oldest = of_kind.iter().map(|one| one.age).max()?;
    let doubtful = of_kind.iter().filter(|one| one.doubtful).count();
    let (one, many, patience, page) = match kind {
        "attach" => ("disk waits to be detached", "disks wait to be detached", DISK, "runbook: A disk stays attached"),
        "snapshot" => ("snapshot waits to be removed", "snapshots wait to be removed", OTHER, SNAPSHOT),
        "export" => ("export lease waits to be ended", "export leases wait to be ended", OTHER, SNAPSHOT),
        _ => ("VM waits for its disabled methods", "VMs wait for their disabled methods", OTHER, SNAPSHOT),
    };
    let level = if doubtful > 0 || oldest >= patience { Level::Act } else { Level::Wait };
    let what = count(of_kind.len(), one, many);
    let end = match level {
        Level::Act if doubtful > 0 => format!("; {doubtful} of them can't be healed by waiting: see {page}."),
        Level::Act => format!(": see {page}."),
        Level::Wait | Level::Ok => ": the agent is at it.".to_owned(),
    };
    Some(Finding { level, text: format!("{what}, oldest {}{end}", words(oldest)), page })
}

const STRANGER: &str = "runbook: A foreign disk is on the proxy";
const SNAPSHOT: &str = "runbook: A snapshot or a disabled method stays";

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `14 min`.
fn words(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(settling: Vec<Settling>) -> Facts {
        Facts { serving: true, settling, ..Facts::default() }
    }

    fn old(kind: &'static str, minutes: u64) -> Settling {
        Settling { kind, age: Duration::from_secs(minutes * 60), doubtful: false }
    }

    #[test]
    fn an_agent_that_owes_nothing_says_that_nothing_is_to_be_done() {
        let told = judge(&Facts { running: 1, ..serving(vec![]) });
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].level, told[0].text.as_str()),
            (Level::Ok, "Nothing to do: 1 job or session runs, nothing is left behind.")
        );
    }

    #[test]
    fn a_disk_that_stays_is_a_persons_business_after_as_long_as_the_alert_waits() {
        let told = judge(&serving(vec![old("attach", 3), old("attach", 14)]));
        assert_eq!(
            (told[0].level, told[0].text.as_str()),
            (Level::Wait, "2 disks wait to be detached, oldest 14 min: the agent is at it.")
        );
        let told = judge(&serving(vec![old("attach", 3), old("attach", 15)]));
        assert_eq!(
            (told[0].level, told[0].text.as_str()),
            (Level::Act, "2 disks wait to be detached, oldest 15 min: see runbook: A disk stays attached.")
        );
        let rules = include_str!("../../../docs/metrics/alerts.yml");
        for (expression, age) in [(r#"{kind="attach"} > "#, DISK), (r#"{kind!="attach"} > "#, OTHER)] {
            let alert = format!("hotadd_duty_settling_oldest_seconds{expression}{}\n", age.as_secs());
            assert!(rules.contains(&alert), "no {alert}");
        }
    }

    #[test]
    fn what_waiting_does_not_heal_is_a_persons_business_at_once_and_comes_first() {
        let doubtful = Settling { kind: "attach", age: Duration::ZERO, doubtful: true };
        let told = judge(&Facts { draining: true, late: 2, ..serving(vec![old("guard", 1), doubtful]) });
        let levels: Vec<_> = told.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Act, Level::Wait, Level::Wait, Level::Wait]);
        assert!(told[0].text.contains("1 disk waits") && told[0].text.contains("can't be healed"), "{told:?}");
    }

    #[test]
    fn it_is_never_well_while_vcenter_is_silent_or_a_disk_is_nobodys() {
        let silent = |age| judge(&Facts { unheard: Some(age), ..serving(vec![]) });
        assert_eq!((silent(Duration::ZERO)[0].level, silent(DISK)[0].level), (Level::Wait, Level::Act));
        assert!(silent(DISK)[0].text.starts_with("vCenter has not answered for 15 min"), "{:?}", silent(DISK));
        let told = judge(&Facts { strangers: 2, running: 1, ..serving(vec![]) });
        assert_eq!((told.len(), told[0].level), (1, Level::Act));
        assert!(told[0].text.starts_with("2 disks are on the proxy"), "{told:?}");
        let told = judge(&Facts { kept: 1, owes: true, ..serving(vec![]) });
        assert_eq!(
            (told.len(), told[0].level, told[0].text.as_str()),
            (1, Level::Wait, "1 snapshot is kept for a job that resumes.")
        );
        let told = judge(&Facts { owes: true, ..serving(vec![]) });
        assert!(!told[0].text.contains("left behind"), "{told:?}");
    }

    #[test]
    fn an_agent_that_does_not_serve_says_why() {
        let told = judge(&Facts { refused: Some("HA-QUA-001 lvm2".into()), ..Facts::default() });
        assert_eq!((told.len(), told[0].level), (1, Level::Act));
        assert!(told[0].text.contains("HA-QUA-001 lvm2"), "{told:?}");
        let starting = |up| judge(&Facts { up, ..Facts::default() })[0].level;
        assert_eq!((starting(Duration::ZERO), starting(CLOSED)), (Level::Wait, Level::Act));
        assert_eq!(judge(&Facts { login_refused: true, ..serving(vec![]) })[0].level, Level::Act);
    }

    #[test]
    fn pages_are_sections_of_the_runbook() {
        let runbook = include_str!("../../../docs/runbook.md");
        let all = ["attach", "snapshot", "export", "guard"].map(|kind| old(kind, 100)).into();
        let facts = Facts {
            refused: Some(String::new()),
            login_refused: true,
            unheard: Some(DISK),
            strangers: 1,
            serving: false,
            ..serving(all)
        };
        for finding in judge(&facts) {
            let title = finding.page.strip_prefix("runbook: ").unwrap();
            assert!(runbook.contains(&format!("\n## {title}\n")), "no section {title}");
        }
    }
}
