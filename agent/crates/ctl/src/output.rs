//! Where words go: people's lines to stderr, results to stdout, JSON lines to stdout when asked. Text that came over
//! the wire is cleaned before a terminal sees it. No logic of a command lives here.
use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _, stderr, stdout},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::error::Failure;

/// The output of one run; clones share it.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    quiet: bool,
    bars: Option<MultiProgress>,
}

impl Output {
    #[must_use]
    pub fn new(json: bool, quiet: bool) -> Self {
        let terminal = stderr().is_terminal() && !json && !quiet;
        let bars = terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)));
        Self { json, quiet, bars }
    }

    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// True when neither bars nor JSON tell the progress, so that plain lines should.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.json && !self.quiet && self.bars.is_none()
    }

    /// A line for people while something runs.
    pub fn line(&self, text: &str) {
        if !self.json && !self.quiet {
            self.to_stderr(&clean(text));
        }
    }

    /// A remark that does not fail the command.
    pub fn warning(&self, text: &str) {
        self.event(|| json!({"event": "warning", "message": text}));
        self.line(&format!("warning: {text}"));
    }

    /// A result for people; `--quiet` silences it.
    pub fn result(&self, text: &str) {
        if !self.quiet {
            self.answer(text);
        }
    }

    /// What the command was asked to show; `--quiet` does not silence it.
    pub fn answer(&self, text: &str) {
        if !self.json {
            self.always(text);
        }
    }

    /// A named table, or that there is nothing to show in it.
    pub fn section(&self, name: &str, head: &[&str], rows: &[Vec<String>]) {
        if rows.is_empty() {
            self.answer(&format!("{name}: none"));
        } else {
            self.answer(&format!("{name}:\n{}", table(head, rows)));
        }
    }

    /// Text on stdout whatever the mode.
    pub fn always(&self, text: &str) {
        let print = || {
            // A closed pipe is the reader's decision, not an error of ours.
            let _ = writeln!(stdout().lock(), "{}", text.trim_end());
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// One JSON object on its own line.
    pub fn event(&self, value: impl FnOnce() -> Value) {
        if self.json {
            let mut out = stdout().lock();
            let _ = writeln!(out, "{}", value()).and_then(|()| out.flush());
        }
    }

    /// The one line of a failure; silenced by nothing.
    pub fn failure(&self, failure: &Failure) {
        self.event(|| failure.json());
        self.to_stderr(&failure.line());
    }

    /// A bar for `total` bytes; draws nothing when there is no terminal.
    #[must_use]
    pub fn bar(&self, label: &str, total: u64) -> ProgressBar {
        let Some(bars) = &self.bars else { return ProgressBar::hidden() };
        let bar = bars.add(ProgressBar::new(total));
        let template = "{prefix:20!} [{bar:16}] {percent:>3}% {binary_bytes}/{binary_total_bytes} \
                        {binary_bytes_per_sec} ETA {eta} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(clean(label));
        bar
    }

    fn to_stderr(&self, line: &str) {
        let print = || {
            let _ = writeln!(stderr().lock(), "{line}");
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }
}

/// Replaces control characters: a line stays one line, and nobody on the wire moves our cursor.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Left-aligned columns, two blanks apart. The last column is not padded.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let cell_width = |column: usize| rows.iter().filter_map(move |row| row.get(column)).map(|c| c.chars().count());
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, name)| cell_width(column).max().unwrap_or(0).max(name.chars().count()))
        .collect();
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String does not fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people, binary units.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits for a reader")]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS[unit];
    if value < 10.0 { format!("{value:.2} {name}") } else { format!("{value:.1} {name}") }
}

/// Microseconds for people.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits for a reader")]
pub fn micros(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        1..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(20 << 30), "20.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!((micros(0), micros(12_300), micros(2_500_000)), ("-".into(), "12.3 ms".into(), "2.50 s".into()));
    }

    #[test]
    fn a_table_lines_up_and_keeps_control_characters_out() {
        let rows = vec![vec!["Hard disk 1\n".into(), "x".into()], vec!["é".into(), "\x1b[2J".into()]];
        let text = table(&["disk", "state"], &rows);
        assert_eq!(text, "disk          state\nHard disk 1   x\né              [2J\n");
    }
}
