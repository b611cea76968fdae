//! Figures that are kept: docs/performance.json, the table of docs/performance.md made of it, and the comparison of a new run with them.
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_bench::{Goal, Machine, Record, Side, Verdict};
use serde::{Deserialize, Serialize};

/// A ratio may be so much worse than the kept one.
const SLACK: f64 = 0.10;
const BEGIN: &str = "<!-- figures: written by `ci/bench --store` -->";
const END: &str = "<!-- end of figures -->";

/// docs/performance.json.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    pub machine: Machine,
    pub records: Vec<Record>,
}

fn json(docs: &Path) -> PathBuf {
    docs.join("performance.json")
}

impl Kept {
    pub fn load(docs: &Path) -> Result<Self> {
        let path = json(docs);
        let text = fs::read(&path).with_context(|| format!("{}: run `ci/bench --store` first", path.display()))?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes the file and the table of the document.
    pub fn store(&self, docs: &Path) -> Result<()> {
        let document = docs.join("performance.md");
        let text = fs::read_to_string(&document).with_context(|| document.display().to_string())?;
        let text = with_figures(&text, &self.markdown()).with_context(|| document.display().to_string())?;
        fs::write(json(docs), serde_json::to_string_pretty(self)? + "\n")?;
        Ok(fs::write(document, text)?)
    }

    /// What is worse now than it was, or was not measured; `parts`: those that ran.
    #[must_use]
    pub fn worse(&self, now: &[Record], parts: &[&str]) -> Vec<String> {
        let mut worse = Vec::new();
        for old in self.records.iter().filter(|old| parts.contains(&old.part.as_str())) {
            let what = format!("{}: {} / {} ({})", old.part, old.name, old.peer.name, old.unit);
            match now.iter().find(|new| new.is(old)) {
                None => worse.push(format!("{what}: was not measured")),
                Some(new) if goal(old).worse(new.ratio, old.ratio, SLACK) => worse.push(format!(
                    "{what}: {} now, {} kept; spread {} / {}",
                    new.ratio, old.ratio, new.ours.spread, new.peer.spread
                )),
                Some(_) => {}
            }
        }
        worse
    }

    fn markdown(&self) -> String {
        let m = &self.machine;
        let versions: Vec<&str> = m.versions.values().map(String::as_str).collect();
        let mut out = format!(
            "{}: {}, {} cores, {} GiB, Linux {}; {}.\n\n| part | ours | peer | ours | theirs | ratio | goal | verdict | spread | CPU s/GB |\n|---|---|---|---|---|---|---|---|---|---|\n",
            m.date,
            m.cpu,
            m.cores,
            m.memory_bytes >> 30,
            m.kernel,
            versions.join("; ")
        );
        for r in &self.records {
            let cpu = |side: &Side| side.cpu_s_per_gb.map_or("–".to_owned(), |cpu| cpu.to_string());
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} {unit} | {} {unit} | {} | {} | {} | {} / {} | {} / {} |",
                r.part,
                r.name,
                r.peer.name,
                r.ours.value,
                r.peer.value,
                r.ratio,
                r.goal.map(|goal| goal.to_string()).unwrap_or_default(),
                r.verdict.map_or("", Verdict::name),
                r.ours.spread,
                r.peer.spread,
                cpu(&r.ours),
                cpu(&r.peer),
                unit = r.unit,
            );
        }
        for (name, value) in bounds(&self.records) {
            let _ = writeln!(out, "\n{name}: {value} MB/s.");
        }
        out
    }
}

/// Without a goal more is better: a rate.
fn goal(record: &Record) -> Goal {
    record.goal.unwrap_or(Goal::AtLeast(1.0))
}

fn bounds(records: &[Record]) -> Vec<(String, f64)> {
    let mut all: Vec<(String, f64)> = Vec::new();
    for record in records {
        if let Some((name, value)) = &record.bound {
            let name = format!("{}, {}: {name}", record.part, record.name);
            if !all.iter().any(|(known, _)| *known == name) {
                all.push((name, *value));
            }
        }
    }
    all
}

/// The document with new figures between its marks.
fn with_figures(text: &str, figures: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no line {END}"))?;
    ensure!(!after.contains(BEGIN), "two sections of figures");
    Ok(format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ratio: f64, goal: Goal) -> Record {
        let sides = (Side::of("a", "", &[ratio]), Side::of("b", "run b", &[1.0]));
        Record::new("fast", "MB/s", sides, Some(goal), 1)
    }

    fn kept(records: Vec<Record>) -> Kept {
        Kept { machine: Machine::default(), records }
    }

    #[test]
    fn more_than_a_tenth_worse_is_told_in_either_direction_and_so_is_what_was_left_out() {
        let now = [record(0.85, Goal::AtLeast(0.5))];
        assert_eq!(kept(vec![record(1.0, Goal::AtLeast(0.5))]).worse(&now, &["fast"]).len(), 1);
        assert!(kept(vec![record(0.9, Goal::AtLeast(0.5))]).worse(&now, &["fast"]).is_empty());
        assert!(kept(vec![record(1.0, Goal::AtMost(0.5))]).worse(&now, &["fast"]).is_empty(), "less is better");
        assert_eq!(kept(vec![record(0.7, Goal::AtMost(0.5))]).worse(&now, &["fast"]).len(), 1);
        let missing = kept(vec![record(1.0, Goal::AtLeast(0.5))]);
        assert!(missing.worse(&[], &["fast"])[0].contains("not measured"));
        assert!(missing.worse(&[], &["slow"]).is_empty(), "a part that did not run");
    }

    #[test]
    fn storing_replaces_the_section_and_nothing_else() {
        let docs = tempfile::tempdir().unwrap();
        let document = docs.path().join("performance.md");
        assert!(kept(Vec::new()).store(docs.path()).is_err(), "no document");
        fs::write(&document, format!("head\n{BEGIN}\nold\n{END}\ntail\n")).unwrap();
        for ratio in [1.0, 2.0] {
            let kept = kept(vec![record(ratio, Goal::AtLeast(0.5))]);
            kept.store(docs.path()).unwrap();
            assert_eq!(Kept::load(docs.path()).unwrap().records, kept.records);
            let text = fs::read_to_string(&document).unwrap();
            assert!(text.starts_with("head\n") && text.ends_with("\ntail\n") && !text.contains("old"), "{text}");
            assert_eq!(text.matches("| fast | a | b |").count(), 1);
        }
        assert!(with_figures("no marks", "x").is_err());
    }
}
