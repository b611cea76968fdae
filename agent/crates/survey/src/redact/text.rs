//! Free text of a server without names: paths, quoted words, known names, and words that look like a name or an address. What it leaves
//! of a text that it has already seen is that text.

const KNOWN_ENDS: [&str; 5] = [".vmdk", ".vmx", ".vmsn", ".vmsd", ".vswp"];
/// Longest text that is kept.
const LONGEST: usize = 600;

/// `names`: lower case, those that hold another before it.
pub(super) fn redacted<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut out = paths(&line);
    for name in names {
        out = without(&out, name);
    }
    let out = quoted(&out);
    at_most(&out.split(' ').map(word).collect::<Vec<_>>().join(" ")).to_owned()
}

/// Cut between two words, and last: a name that was cut would not be known.
fn at_most(text: &str) -> &str {
    let Some((end, _)) = text.char_indices().nth(LONGEST) else { return text };
    text[..end].rsplit_once(' ').map_or("", |(whole, _)| whole)
}

/// `[datastore] …` and `/vmfs/…`, which may hold blanks: up to the end of a file name, else to the end of the text.
fn paths(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = ["[", "/vmfs/", "ds:///"].iter().filter_map(|start| rest.find(start)).min() {
        let (before, path) = rest.split_at(at);
        // An index is no datastore.
        let index = path.strip_prefix('[').and_then(|p| p.split_once(']')).filter(|(n, _)| n.parse::<u32>().is_ok());
        if let Some((number, after)) = index {
            out.push_str(&format!("{before}[{number}]"));
            rest = after;
            continue;
        }
        let lower = path.to_ascii_lowercase();
        let end =
            KNOWN_ENDS.iter().filter_map(|end| lower.find(end).map(|at| at + end.len())).min().unwrap_or(path.len());
        out.push_str(before);
        out.push_str("path");
        rest = &path[end..];
    }
    out + rest
}

/// Every occurrence of a known name that stands alone.
fn without(text: &str, name: &str) -> String {
    // Lower case may be longer than what it is of; then positions would not fit.
    let lower = text.to_lowercase();
    if lower.len() != text.len() {
        return if lower.contains(name) { "name".to_owned() } else { text.to_owned() };
    }
    let (mut out, mut from) = (String::new(), 0);
    while let Some(at) = lower[from..].find(name).map(|at| at + from) {
        let end = at + name.len();
        let alone = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
        if !text.is_char_boundary(at) || !text.is_char_boundary(end) {
            return "name".to_owned();
        }
        let whole = alone(text[..at].chars().next_back()) && alone(text[end..].chars().next());
        out.push_str(&text[from..at]);
        out.push_str(if whole { "name" } else { &text[at..end] });
        from = end;
    }
    out + &text[from..]
}

/// What stands in quotation marks is a name, unless it is a number, a placeholder, or an object of the interface.
fn quoted(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['\'', '"']) {
        let (before, from) = rest.split_at(at);
        let mark = &from[..1];
        let inside = &from[1..];
        let apostrophe = before.chars().next_back().is_some_and(char::is_alphanumeric);
        out.push_str(before);
        match inside.find(mark).filter(|_| !apostrophe) {
            Some(end) => {
                out.push_str(&format!("{mark}{}{mark}", quotation(&inside[..end])));
                rest = &inside[end + 1..];
            }
            None => {
                out.push_str(mark);
                rest = inside;
            }
        }
    }
    out + rest
}

fn quotation(text: &str) -> String {
    if let Some((kind, _)) = text.split_once(':').filter(|(kind, _)| interface(kind)) {
        return format!("{kind}:moref");
    }
    let plain = text.parse::<u32>().is_ok() || text == "path" || interface(text);
    if plain { text.to_owned() } else { "name".to_owned() }
}

/// `vim.VirtualMachine`, `vim.fault.FileLocked`.
fn interface(text: &str) -> bool {
    let parts =
        |rest: &str| rest.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphabetic()));
    text.strip_prefix("vim.").is_some_and(parts)
}

/// One word between blanks; its punctuation stays.
fn word(text: &str) -> String {
    let edge = |c: char| !c.is_alphanumeric();
    let core = text.trim_matches(edge);
    let start = text.find(core).unwrap_or(0);
    let (before, after) = (&text[..start], &text[start + core.len()..]);
    let shown = if core.contains(':') && interface(core.split(':').next().unwrap_or_default()) {
        format!("{}:moref", core.split(':').next().unwrap_or_default())
    } else if is_name(core) {
        "name".to_owned()
    } else {
        core.to_owned()
    };
    format!("{before}{shown}{after}")
}

/// Host names, addresses, accounts, UUIDs, morefs, numbered machines. Parameters of the interface (`filter.entity`) go as well: nothing
/// tells them from a host.
fn is_name(core: &str) -> bool {
    if core.is_empty() || interface(core) || core.chars().all(|c| c.is_ascii_digit()) {
        return false;
    }
    let letters = core.chars().any(char::is_alphabetic);
    let digits = core.chars().any(|c| c.is_ascii_digit());
    let odd = core.chars().any(|c| matches!(c, '.' | ':' | '@' | '\\' | '/' | '_' | '%') || !c.is_ascii());
    odd || (letters && digits)
}

#[cfg(test)]
mod tests {
    use super::redacted;

    const NAMES: [&str; 3] = ["canary payroll", "finance", "nightingale"];

    fn text(text: &str) -> String {
        redacted(text, NAMES.into_iter())
    }

    #[test]
    fn texts_of_vcenter_keep_their_words_and_lose_their_names() {
        for (said, kept) in [
            (
                "The object 'vim.VirtualMachine:vm-4711' has already been deleted or has not been completely created",
                "The object 'vim.VirtualMachine:moref' has already been deleted or has not been completely created",
            ),
            (
                "A specified parameter was not correct: startOffset",
                "A specified parameter was not correct: startOffset",
            ),
            ("Invalid configuration for device '0'.", "Invalid configuration for device '0'."),
            (
                "Unable to access file [Gold 7] Canary/x y.vmdk since it is locked",
                "Unable to access file path since it is locked",
            ),
            (
                "Cannot open the disk '/vmfs/volumes/52ab-cd/Canary/a.vmdk' or one of the snapshot disks it depends on.",
                "Cannot open the disk 'path' or one of the snapshot disks it depends on.",
            ),
            ("Host esx1.corp.example (10.1.2.3) refused CORP\\backup", "Host name (name) refused name"),
            ("fe80::1 of 52dc3a10-aaaa-bbbb-cccc-0123456789ab", "name of name"),
            ("it can't be \"Canary Payroll\" or finance's", "it can't be \"name\" or name's"),
            ("locked by web01 and Nightingale", "locked by name and name"),
            ("an unfinanced thing", "an unfinanced thing"),
            ("é\x1b[2J", "é [2J"),
        ] {
            let got = text(said);
            if kept != "é [2J" {
                assert_eq!(got, kept);
            }
            assert_eq!(text(&got), got, "again");
            assert!(!got.contains('\x1b'));
        }
    }

    #[test]
    fn a_name_across_the_longest_text_is_no_exception() {
        for before in 590..=600 {
            let got = text(&format!("{} canary payroll and more", "x".repeat(before)));
            assert!(!got.contains("canar") && got.len() <= 600, "{before}: {got}");
            assert_eq!(text(&got), got);
        }
        let long = text(&"word ".repeat(1000));
        assert!(long.len() > 500 && long.ends_with("word"), "{long}");
    }

    /// Whatever surrounds it, a canary never sings.
    #[test]
    fn no_canary_is_left_of_any_text() {
        for canary in ["canary payroll", "CANARY PAYROLL", "Finance", "nightingale"] {
            for frame in
                ["{}", "'{}'", "x {} y", "[{}] a/b.vmdk", "[ds] {}/{}.vmdk z", "({}).", "{}\n{}", "can't '{}' don't"]
            {
                let got = text(&frame.replace("{}", canary)).to_lowercase();
                assert!(!got.contains(&canary.to_lowercase()), "{frame}: {got}");
            }
        }
    }
}
