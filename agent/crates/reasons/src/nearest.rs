//! Which codes somebody may have meant who wrote one that does not exist.
use crate::all;

/// How many are told.
const TOLD: usize = 3;

/// No code of this release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such code; the nearest are {}", .nearest.join(", "))]
pub struct Unknown {
    pub nearest: Vec<&'static str>,
}

impl Unknown {
    pub(crate) fn new(code: &str) -> Self {
        let code = code.to_ascii_uppercase();
        let mut known: Vec<&str> = all().map(|page| page.code).collect();
        // Stable: of equally near ones the first.
        known.sort_by_key(|known| edits(&code, known));
        known.truncate(TOLD);
        Self { nearest: known }
    }
}

/// Levenshtein distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut corner = line;
        row[0] = line + 1;
        for (at, b) in to.iter().enumerate() {
            let replaced = corner + usize::from(a != *b);
            corner = row[at + 1];
            row[at + 1] = replaced.min(corner + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in
            [("", "abc", 3), ("abc", "abc", 0), ("abc", "axc", 1), ("abc", "bcd", 2), ("kitten", "sitting", 3)]
        {
            assert_eq!((edits(from, to), edits(to, from)), (count, count), "{from} {to}");
        }
    }

    #[test]
    fn the_nearest_are_of_the_same_area() {
        for wrong in ["ha-att-02", "HA-ATT-02", "ATT-002", "HA-ATT-0002"] {
            assert_eq!(Unknown::new(wrong).nearest[0], "HA-ATT-002", "{wrong}");
        }
        let told = Unknown::new("HA-DUT-009").to_string();
        assert!(told.contains("HA-DUT-001, HA-DUT-002"), "{told}");
    }
}
