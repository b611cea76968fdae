//! A report as text for people and as JSON for programs. Names come from the server: control characters go, and what is to be
//! copied into a shell is quoted.
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    connect::Trouble,
    finding::{Finding, Report, Severity},
};

/// Version of the JSON form.
const SCHEMA: &str = "hotadd-doctor/1";

/// Replaces control characters: a line stays one line, and nobody on the wire moves our cursor.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// For a shell, whatever the text holds.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", clean(text).replace('\'', r"'\''"))
}

impl Finding {
    /// Several lines.
    #[must_use]
    pub fn text(&self) -> String {
        let place = if self.object.moref.is_empty() { String::new() } else { format!(" ({})", self.object.moref) };
        let head = format!(
            "{} {} {}: {}{place}",
            self.severity.word().to_uppercase(),
            self.code.id,
            self.code.meaning,
            self.object.name
        );
        let mut text = clean(&head);
        let mut line = |what: &str, value: &str| {
            // Writing to a String does not fail.
            let _ = write!(text, "\n    {what}: {}", clean(value));
        };
        self.evidence.iter().for_each(|fact| line(&fact.fact, &fact.value));
        line("risk", &self.risk);
        self.fix.iter().for_each(|step| line("fix", step));
        text + "\n"
    }

    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "code": self.code.id, "severity": self.severity, "meaning": self.code.meaning,
            "object": {"name": self.object.name, "moref": self.object.moref},
            "evidence": self.evidence, "risk": self.risk, "fix": self.fix, "ours": self.ours,
            "help": format!("docs/reasons/{}.md", self.code.id),
        })
    }
}

impl Report {
    #[must_use]
    pub fn text(&self) -> String {
        let mut text: String = self.findings.iter().map(|finding| finding.text() + "\n").collect();
        if !self.not_looked_at.is_empty() {
            text.push_str("NOT LOOKED AT (neither clean nor a finding):\n");
            for blind in &self.not_looked_at {
                let place = format!("{} {}", blind.object.name, blind.object.moref);
                let _ = writeln!(text, "    {}: {}: {}", clean(place.trim()), clean(&blind.what), clean(&blind.why));
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "{} VMs of {}: {} critical, {} warnings, {} info, {} not looked at",
            self.vms,
            clean(&self.server.name),
            self.count(Severity::Critical),
            self.count(Severity::Warning),
            self.count(Severity::Info),
            self.not_looked_at.len()
        );
        text
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let blind = |b: &crate::facts::Blind| json!({"what": b.what, "object": {"name": b.object.name, "moref": b.object.moref}, "why": b.why});
        json!({
            "schema": SCHEMA, "version": env!("CARGO_PKG_VERSION"), "at": self.at,
            "vcenter": {"name": self.server.name, "instance_uuid": self.server.instance_uuid},
            "looked_at": {"vms": self.vms},
            "summary": {
                "critical": self.count(Severity::Critical), "warning": self.count(Severity::Warning),
                "info": self.count(Severity::Info), "not_looked_at": self.not_looked_at.len(),
            },
            "findings": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "not_looked_at": self.not_looked_at.iter().map(blind).collect::<Vec<_>>(),
            "error": null, "exit": self.exit() as u8,
        })
    }
}

impl Trouble {
    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        let help = format!("docs/reasons/{}.md", self.code.id);
        clean(&format!("error: {} {}; next: {}; help: {help}", self.code.id, self.message, self.code.next))
    }

    /// A report of a look that failed.
    #[must_use]
    pub fn json(&self, exit: u8) -> Value {
        json!({
            "schema": SCHEMA, "version": env!("CARGO_PKG_VERSION"),
            "findings": [], "not_looked_at": [],
            "error": {"code": self.code.id, "message": self.message, "next_step": self.code.next}, "exit": exit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codes, facts::Object};

    #[test]
    fn hostile_names_neither_move_the_cursor_nor_leave_their_quotes() {
        assert_eq!(quoted("a'; rm -rf / #"), r"'a'\''; rm -rf / #'");
        let object = Object { name: "x\x1b[2J\ny".into(), moref: "vm-1".into() };
        let finding = Finding::new(codes::CHAIN, Severity::Warning, &object, "r\r").fact("f", "v\n").step("s\x07");
        let text = finding.text();
        assert!(!text.contains('\x1b') && !text.contains('\r') && !text.contains('\x07'), "{text:?}");
        assert_eq!(text.lines().count(), 4, "{text:?}");
    }
}
