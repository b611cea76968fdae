//! The second net: knows the secrets of this host, and finds them in any text, escaped or encoded in the usual ways. What it finds is withheld
//! as a whole, since a text that held a secret once is not understood well enough to be mended.
use std::{collections::BTreeSet, ffi::OsString, path::Path, sync::OnceLock};

use aho_corasick::AhoCorasick;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use super::{bound, unescape::views};

/// Shorter ones would be found everywhere.
const SHORTEST: usize = 4;
/// Of a variable, which only its name makes a secret: `true` and `root` are none.
const SHORTEST_OF_VARIABLE: usize = 8;
/// Of the lines of a key: its short last one tells nothing, and would be found by chance.
const SHORTEST_OF_KEY: usize = 16;
/// Most bytes of a file with a secret.
const MOST: u64 = 1 << 20;
/// What announces a secret whose value is not known, in lower case.
const MARKS: [&str; 7] = [
    "private key-----",
    "authorization:",
    "cookie:",
    "vmware_soap_session",
    "vmware-api-session-id",
    "vmware_cgi_ticket",
    "<password",
];

/// See the module. Never printed.
#[derive(Clone, Default)]
pub(super) struct Scrubber {
    plain: BTreeSet<String>,
    /// In hexadecimal and Base64.
    coded: BTreeSet<String>,
    /// Both, each as one search: a journal may name thousands of sessions.
    search: OnceLock<Option<(AhoCorasick, AhoCorasick)>>,
}

impl Scrubber {
    /// Adds a secret. `false`: it is too short to be searched for.
    pub(super) fn secret(&mut self, secret: &str) -> bool {
        let secret = secret.trim();
        if secret.len() < SHORTEST {
            return false;
        }
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.coded.extend([hex.to_uppercase(), hex]);
        for shift in 0..3 {
            let form = base64_inner(secret, shift);
            self.coded.insert(form.replace('+', "-").replace('/', "_"));
            self.coded.insert(form);
        }
        self.plain.insert(secret.to_owned());
        self.search = OnceLock::new();
        true
    }

    /// Adds each line of a file: a password, or the lines of a key.
    ///
    /// # Errors
    /// Why nothing can be searched for it.
    pub(super) fn file(&mut self, path: &Path) -> Result<(), String> {
        let text = bound::text(path, MOST).map_err(|e| e.to_string())?;
        let key = text.contains("-----BEGIN ");
        let lines = text.lines().filter(|line| !key || line.len() >= SHORTEST_OF_KEY && !line.starts_with("-----"));
        let known = lines.map(|line| self.secret(line)).filter(|known| *known).count();
        if known == 0 { Err("empty, or too short to be searched for".to_owned()) } else { Ok(()) }
    }

    /// Adds what variables hold whose names speak of secrets.
    pub(super) fn environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        for (name, value) in variables {
            if names_a_secret(&name.to_string_lossy()) && value.len() >= SHORTEST_OF_VARIABLE {
                self.secret(&value.to_string_lossy());
            }
        }
    }

    /// What kind of secret is in it, if any.
    pub(super) fn finds(&self, text: &str) -> Option<&'static str> {
        views(text).iter().find_map(|view| self.finds_in(view))
    }

    fn finds_in(&self, view: &str) -> Option<&'static str> {
        // Long codes are broken into lines.
        let joined: String = view.split_ascii_whitespace().collect();
        if self.knows(view, &joined) {
            return Some("a secret of this host");
        }
        let lower = view.to_lowercase();
        MARKS.iter().any(|mark| lower.contains(mark)).then_some("what looks like a key or a login")
    }

    fn knows(&self, view: &str, joined: &str) -> bool {
        let make = || Some((AhoCorasick::new(&self.plain).ok()?, AhoCorasick::new(&self.coded).ok()?));
        match self.search.get_or_init(make) {
            Some((plain, coded)) => plain.is_match(view) || coded.is_match(joined),
            // Too many for one search.
            None => {
                self.plain.iter().any(|secret| view.contains(secret.as_str()))
                    || self.coded.iter().any(|form| joined.contains(form.as_str()))
            }
        }
    }

    /// The text without the lines that hold a secret: one bad line costs no whole log. The lines of a private key go with its head.
    pub(super) fn lines(&self, text: &str) -> String {
        let mut kept = String::with_capacity(text.len());
        let mut key = false;
        for line in text.lines() {
            let marked = line.contains("PRIVATE KEY-----");
            let within = key || marked;
            key = if marked { line.contains("BEGIN") && !line.contains("END") } else { key };
            let shown = if within || self.finds(line).is_some() { "(line withheld: it held a secret)" } else { line };
            kept.push_str(shown);
            kept.push('\n');
        }
        kept
    }
}

/// Whether a name says that its value is nobody's business.
fn names_a_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "secret", "token", "key", "credential", "auth", "cookie"].iter().any(|word| name.contains(word))
}

/// The characters of Base64 that depend on the secret alone when `shift` bytes stand before it.
fn base64_inner(secret: &str, shift: usize) -> String {
    let mut bytes = vec![0; shift];
    bytes.extend(secret.as_bytes());
    // Six bits a character: the first whole one after the shift, the last whole one of the secret.
    let (first, last) = ((shift * 8).div_ceil(6), bytes.len() * 8 / 6);
    STANDARD_NO_PAD.encode(&bytes).get(first..last).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "p\"ss 'wörd<&>%";

    fn scrubber() -> Scrubber {
        let mut scrubber = Scrubber::default();
        assert!(scrubber.secret(SECRET) && !scrubber.secret("abc"));
        scrubber
    }

    #[test]
    fn every_form_is_found_and_nothing_else() {
        let scrubber = scrubber();
        for before in ["", "a", "ab", "user:", "user@vsphere.local:"] {
            let text = STANDARD_NO_PAD.encode(format!("{before}{SECRET}and more"));
            assert!(scrubber.finds(&text).is_some(), "{before}: {text}");
            let (head, tail) = text.split_at(text.len() / 2);
            assert!(scrubber.finds(&format!("{head}\n {tail}")).is_some(), "{before}: wrapped");
        }
        for form in [
            SECRET,
            "p\\\"ss 'wörd<&>%",
            "p\\\"ss \\'wörd<&>%",
            "p%22ss%20%27w%c3%b6rd%3c%26%3e%25",
            "p%22ss+%27w%C3%B6rd%3C%26%3E%25",
            "p\"ss 'wörd&lt;&amp;&gt;%",
        ] {
            assert!(scrubber.finds(&format!("x {form} y")).is_some(), "{form}");
        }
        let hex: String = SECRET.bytes().map(|b| format!("{b:02X}")).collect();
        assert!(scrubber.finds(&hex).is_some() && scrubber.finds(&hex.to_lowercase()).is_some());
        assert_eq!(scrubber.finds("a password with blanks, 70227373, p\"ss"), None);
    }

    #[test]
    fn what_announces_a_secret_is_found_too() {
        let scrubber = Scrubber::default();
        for text in [
            "-----BEGIN EC PRIVATE KEY-----",
            "AUTHORIZATION: Basic x",
            "authorization%3A Basic",
            "Set-Cookie: a=b",
            "vmware_soap_session",
        ] {
            assert!(scrubber.finds(text).is_some(), "{text}");
        }
        assert_eq!(scrubber.finds("AuthorizationManager; -----BEGIN CERTIFICATE-----"), None);
    }

    #[test]
    fn a_log_loses_the_lines_of_a_secret_only() {
        let log = format!("one\nx {SECRET}\n-----BEGIN PRIVATE KEY-----\nAAAA\nBBBB\n-----END PRIVATE KEY-----\ntwo");
        let kept = scrubber().lines(&log);
        assert_eq!(kept.lines().filter(|line| line.starts_with("(line withheld")).count(), 5, "{kept}");
        assert!(kept.starts_with("one\n") && kept.ends_with("\ntwo\n"));
        assert_eq!(scrubber().finds(&kept), None);
    }

    #[test]
    fn a_file_that_gives_nothing_to_search_for_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let mut scrubber = Scrubber::default();
        assert!(scrubber.file(&path).unwrap_err().contains("No such file"));
        std::fs::write(&path, "abc\n").unwrap();
        assert!(scrubber.file(&path).unwrap_err().contains("too short"));
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqG\nxyz=\n-----END PRIVATE KEY-----\n")
            .unwrap();
        scrubber.file(&path).unwrap();
        assert!(scrubber.finds("a MIGHAgEAMBMGByqGz").is_some() && scrubber.finds("xyz=").is_none());
    }

    #[test]
    fn variables_are_chosen_by_name() {
        let mut scrubber = Scrubber::default();
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        scrubber
            .environment([pair("MY_TOKEN", "canary-1"), pair("HOME", "/root"), pair("USE_KEY", "true")].into_iter());
        assert!(scrubber.finds("canary-1").is_some() && scrubber.finds("/root, true").is_none());
    }
}
