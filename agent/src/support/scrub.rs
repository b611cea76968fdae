//! The second net: knows the secrets of this host, and finds them in any text in the usual forms. What it finds is withheld as a whole, since a
//! text that held a secret once is not understood well enough to be mended.
use std::{collections::BTreeSet, ffi::OsString, fs::File, io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

/// Shorter ones would be found everywhere.
const SHORTEST: usize = 4;
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
#[derive(Default)]
pub(super) struct Scrubber {
    forms: BTreeSet<String>,
}

impl Scrubber {
    /// Adds a secret in all its forms.
    pub(super) fn secret(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.len() < SHORTEST {
            return;
        }
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let json = serde_json::to_string(secret).unwrap_or_default();
        let debug = format!("{secret:?}");
        let forms = [
            secret.to_owned(),
            hex.to_uppercase(),
            hex,
            json.trim_matches('"').to_owned(),
            debug.trim_matches('"').to_owned(),
            percent(secret, "-._~"),
            percent(secret, "-._*").replace("%20", "+"),
            percent(secret, ""),
            xml(secret, false),
            xml(secret, true),
        ];
        self.forms.extend(forms);
        for shift in 0..3 {
            let form = base64_inner(secret, shift);
            self.forms.insert(form.replace('+', "-").replace('/', "_"));
            self.forms.insert(form);
        }
        self.forms.retain(|form| form.len() >= SHORTEST);
    }

    /// Adds each line of a file: a password, or the lines of a key. What can't be read can't be told either.
    pub(super) fn file(&mut self, path: &Path) {
        let mut text = Vec::new();
        if File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text)).is_err() {
            return;
        }
        let text = String::from_utf8_lossy(&text);
        text.lines().filter(|line| !line.starts_with("-----")).for_each(|line| self.secret(line));
    }

    /// Adds what variables hold whose names speak of secrets.
    pub(super) fn environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        for (name, value) in variables {
            if names_a_secret(&name.to_string_lossy()) {
                self.secret(&value.to_string_lossy());
            }
        }
    }

    /// What kind of secret is in it, if any.
    pub(super) fn finds(&self, text: &str) -> Option<&'static str> {
        if self.forms.iter().any(|form| text.contains(form.as_str())) {
            return Some("a secret of this host");
        }
        let lower = text.to_lowercase();
        MARKS.iter().any(|mark| lower.contains(mark)).then_some("what looks like a key or a login")
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
pub(super) fn names_a_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "secret", "token", "key", "credential", "auth", "cookie"].iter().any(|word| name.contains(word))
}

fn percent(text: &str, plain: &str) -> String {
    let one = |byte: u8| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || plain.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// `quotes`: as in an attribute.
fn xml(text: &str, quotes: bool) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if quotes { text.replace('"', "&quot;").replace('\'', "&apos;") } else { text }
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

    const SECRET: &str = "p\"ss wörd<&>%";

    fn scrubber() -> Scrubber {
        let mut scrubber = Scrubber::default();
        scrubber.secret(SECRET);
        scrubber
    }

    #[test]
    fn every_form_is_found_and_nothing_else() {
        let scrubber = scrubber();
        for before in ["", "a", "ab", "user:", "user@vsphere.local:"] {
            let text = STANDARD_NO_PAD.encode(format!("{before}{SECRET}and more"));
            assert!(scrubber.finds(&text).is_some(), "{before}: {text}");
        }
        for form in [
            "p\"ss wörd<&>%",
            "p\\\"ss wörd<&>%",
            "p%22ss%20w%C3%B6rd%3C%26%3E%25",
            "p%22ss+w%C3%B6rd%3C%26%3E%25",
            "p\"ss wörd&lt;&amp;&gt;%",
            "p&quot;ss wörd&lt;&amp;&gt;%",
            "70227373",
        ] {
            let whole = form != "70227373";
            assert_eq!(scrubber.finds(&format!("x {form} y")).is_some(), whole, "{form}");
        }
        let hex: String = SECRET.bytes().map(|b| format!("{b:02X}")).collect();
        assert!(scrubber.finds(&hex).is_some() && scrubber.finds(&hex.to_lowercase()).is_some());
        assert_eq!(scrubber.finds("a password with blanks"), None);
    }

    #[test]
    fn what_announces_a_secret_is_found_too() {
        let scrubber = Scrubber::default();
        for text in
            ["-----BEGIN EC PRIVATE KEY-----", "AUTHORIZATION: Basic x", "Set-Cookie: a=b", "vmware_soap_session"]
        {
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
    fn variables_are_chosen_by_name() {
        let mut scrubber = Scrubber::default();
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        scrubber.environment([pair("MY_TOKEN", "canary-1"), pair("HOME", "/root")].into_iter());
        assert!(scrubber.finds("canary-1").is_some() && scrubber.finds("/root").is_none());
    }
}
