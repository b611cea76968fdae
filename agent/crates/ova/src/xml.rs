//! Lines of XML. Pure; whatever is not ours is escaped here and nowhere else.
use std::fmt::Write as _;

/// One line at a depth of the tree.
pub(crate) fn line(text: &mut String, depth: usize, content: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{:indent$}{content}", "", indent = depth * 2);
}

/// As text or attribute. What XML 1.0 can't hold becomes a blank.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Text of several lines, whose ends stay.
pub(crate) fn escaped_lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}
