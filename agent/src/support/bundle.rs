//! The archive: parts that were capped and passed the scrubber, as a gzip'd ustar. Nothing of it touches a disk before it is scrubbed.
use std::io::{self, Write as _};

use flate2::{Compression, write::GzEncoder};
use hotadd_ova::entry_header;

use super::{Got, new_file::NewFile, scrub::Scrubber};

/// Most bytes of one part; of longer ones the end is kept, which is the newest of a log or journal.
pub(super) const MOST: usize = 4 << 20;
const BLOCK: usize = 512;
/// Of the members: who unpacks it as root in a shared folder shows them to nobody.
const MODE: u32 = 0o600;

/// See the module.
pub(super) struct Bundle {
    scrubber: Scrubber,
    parts: Vec<(&'static str, String)>,
    missing: Vec<(&'static str, String)>,
}

impl Bundle {
    pub(super) fn new(scrubber: Scrubber) -> Self {
        Self { scrubber, parts: Vec::new(), missing: Vec::new() }
    }

    pub(super) fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// Takes a part, or notes why there is none.
    pub(super) fn add(&mut self, name: &'static str, got: Got) {
        match got.map(capped) {
            Ok(text) => match self.scrubber.finds(&text) {
                None => self.parts.push((name, text)),
                Some(what) => self.miss(name, &format!("withheld, since it held {what}")),
            },
            Err(why) => self.miss(name, &why),
        }
    }

    /// Notes what can't be had, in one line.
    pub(super) fn miss(&mut self, name: &'static str, why: &str) {
        let hidden = "can't be had, and the cause holds a secret".to_owned();
        let line = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
        let why = if self.scrubber.finds(why).is_some() { hidden } else { why.trim().chars().map(line).collect() };
        self.missing.push((name, why));
    }

    /// What is in it and what is not, in one line.
    pub(super) fn told(&self) -> String {
        let names = |all: &[(&'static str, String)]| all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let missing = match &self.missing[..] {
            [] => "nothing is missing".to_owned(),
            missing => format!("not to be had: {} (MISSING.txt says why)", names(missing)),
        };
        format!("{} parts: {}; {missing}", self.parts.len(), names(&self.parts))
    }

    /// # Errors
    /// Of the file; then it is gone.
    pub(super) fn write(self, out: NewFile) -> io::Result<()> {
        let mut gzip = GzEncoder::new(out.file(), Compression::default());
        let missing: String = self.missing.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
        let last = (!missing.is_empty()).then_some(("MISSING.txt", missing));
        for (name, text) in self.parts.iter().chain(&last) {
            gzip.write_all(&entry_header(&format!("hotadd-support/{name}"), text.len() as u64, MODE))?;
            gzip.write_all(text.as_bytes())?;
            gzip.write_all(&vec![0; text.len().next_multiple_of(BLOCK) - text.len()])?;
        }
        gzip.write_all(&[0; 2 * BLOCK])?;
        gzip.finish()?;
        out.finish()
    }
}

fn capped(text: String) -> String {
    if text.len() <= MOST {
        return text;
    }
    let from = text.ceil_char_boundary(text.len() - MOST);
    let kept = text.get(from..).unwrap_or_default();
    let kept = kept.split_once('\n').map_or(kept, |(_, whole)| whole);
    format!("cut: the last {} of {} bytes\n{kept}", kept.len(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_part_keeps_its_end_and_says_so() {
        let text = "ä line\n".repeat(MOST / 4) + "the end\n";
        let cut = capped(text.clone());
        assert!(cut.len() < MOST + 100 && cut.ends_with("the end\n"));
        assert!(cut.starts_with("cut: the last ") && cut.contains(&text.len().to_string()));
        assert_eq!(capped("short".into()), "short");
    }

    #[test]
    fn a_part_or_a_cause_with_a_secret_is_withheld_and_named() {
        let mut scrubber = Scrubber::default();
        scrubber.secret("canary");
        let mut bundle = Bundle::new(scrubber);
        bundle.add("good", Ok("good\n".into()));
        bundle.add("bad", Ok("a canary\n".into()));
        bundle.add("worse", Err("no canary".into()));
        bundle.add("gone", Err("no\nfile\n".into()));
        assert_eq!(bundle.parts, [("good", "good\n".to_owned())]);
        assert_eq!(bundle.told(), "1 parts: good; not to be had: bad, worse, gone (MISSING.txt says why)");
        assert!(!bundle.missing.iter().any(|(_, why)| why.contains("canary") || why.contains('\n')));
    }
}
