//! Takes the names of a site out of what vCenter says. Paths are rebuilt from known parts, single words pass a list of letters, and free text loses
//! everything that is a known name or looks like one. In doubt it goes. The same name becomes the same placeholder.
mod text;

use std::{cmp::Reverse, collections::BTreeSet};

use hotadd_vsphere::BackingPath;

/// Extensions and parts of file names that are VMware's.
const EXTENSIONS: &[&str] = &[
    "vmdk",
    "vmx",
    "vmxf",
    "vmsd",
    "vmsn",
    "vmem",
    "vswp",
    "vmss",
    "nvram",
    "log",
    "hlog",
    "vmtx",
    "lck",
    "scoreboard",
];
const PARTS: &[&str] = &["flat", "delta", "sesparse", "ctk", "rdm", "rdmp", "digest", "aux"];
/// Shorter than this is no name that could be told from English.
const SHORTEST: usize = 2;

/// Names that were met, and what stands for them.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    stores: Vec<String>,
    folders: Vec<String>,
    stems: Vec<String>,
    /// Names that no text may hold, lower case, the longest first. A large site has tens of thousands.
    names: BTreeSet<(Reverse<usize>, String)>,
}

fn alias(list: &mut Vec<String>, kind: &str, name: &str) -> String {
    let at = list.iter().position(|known| known == name).unwrap_or_else(|| {
        list.push(name.to_owned());
        list.len() - 1
    });
    format!("{kind}-{}", at + 1)
}

impl Redactor {
    /// A name that no text may hold.
    pub(crate) fn hide(&mut self, name: &str) {
        let name = name.trim().to_lowercase();
        // vmware.log lies beside every VM.
        if name.chars().count() >= SHORTEST && name != "vmware" {
            self.names.insert((Reverse(name.len()), name));
        }
    }

    /// The file name of a VM without its extension: what follows it in other names is VMware's.
    pub(crate) fn stem(&mut self, vmx: &str) {
        if let Some(stem) = BackingPath::new(vmx).file().and_then(|file| file.rsplit_once('.')).map(|(stem, _)| stem) {
            alias(&mut self.stems, "name", stem);
            self.hide(stem);
        }
    }

    pub(crate) fn store(&mut self, name: &str) -> String {
        self.hide(name);
        alias(&mut self.stores, "ds", name)
    }

    /// `[ds-1] folder-1/name-1-000001.vmdk`.
    pub(crate) fn path(&mut self, path: &str) -> String {
        let path = BackingPath::new(path);
        let (Some(store), Some(folder), Some(file)) = (path.datastore(), path.folder(), path.file()) else {
            return "path".to_owned();
        };
        let store = self.store(store);
        let folder = if folder.is_empty() { String::new() } else { self.folder(folder) + "/" };
        let file = if file.is_empty() { String::new() } else { self.file(file) };
        format!("[{store}] {folder}{file}")
    }

    fn folder(&mut self, name: &str) -> String {
        name.split('/').for_each(|part| self.hide(part));
        alias(&mut self.folders, "folder", name)
    }

    fn file(&mut self, name: &str) -> String {
        let (mut stem, mut tail) = (name, String::new());
        while !self.stems.iter().any(|known| known == stem) {
            let Some((rest, part)) = last_part(stem) else { break };
            tail.insert_str(0, &part);
            stem = rest;
        }
        self.hide(stem);
        alias(&mut self.stems, "name", stem) + &tail
    }

    /// Free text.
    pub(crate) fn text(&self, text: &str) -> String {
        text::redacted(text, self.names.iter().map(|(_, name)| name.as_str()))
    }
}

/// The last part of a file name that is VMware's, and how it is shown.
fn last_part(name: &str) -> Option<(&str, String)> {
    for extension in EXTENSIONS {
        if let Some(rest) = name.strip_suffix(extension).and_then(|rest| rest.strip_suffix('.')) {
            return Some((rest, format!(".{extension}")));
        }
    }
    if let Some((rest, random)) = name.rsplit_once("-REDO_") {
        return random.chars().all(|c| c.is_ascii_alphanumeric()).then(|| (rest, format!("-REDO_{}", form(random))));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((rest, part)) = name.rsplit_once('-') {
        let snapshot = part.strip_prefix("Snapshot").is_some_and(digits);
        if PARTS.contains(&part) || snapshot || (part.len() == 6 && digits(part)) {
            return Some((rest, format!("-{part}")));
        }
    }
    let (rest, number) = name.rsplit_once('_')?;
    (number.len() <= 2 && digits(number)).then(|| (rest, format!("_{number}")))
}

/// A word of VMware's (a type, a state, a version), or `other`.
pub(crate) fn word(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(fits) { text.to_owned() } else { "other".to_owned() }
}

/// The type of an event. Ids of other makers' events may tell who they are.
pub(crate) fn event(text: &str) -> String {
    let vmware = ["vim.", "esx.", "vprob.", "com.vmware."].iter().any(|start| text.starts_with(start));
    if !text.contains('.') || vmware { word(text) } else { "other".to_owned() }
}

/// How a number or an id is written, without telling it.
pub(crate) fn form(id: &str) -> String {
    id.chars()
        .take(96)
        .map(|c| {
            if c.is_alphanumeric() {
                'x'
            } else if c.is_ascii_punctuation() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

/// As [`form`]; the first digits of every disk's UUID are VMware's, and so is their case.
pub(crate) fn uuid(id: &str) -> String {
    let maker = id.get(..7).filter(|start| start.eq_ignore_ascii_case("6000C29")).unwrap_or_default();
    format!("{maker}{}", form(&id[maker.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_what_is_vmwares_and_nothing_else() {
        let mut r = Redactor::default();
        r.stem("[Gold 7] Canary_12/canary_12.vmx");
        for (path, shown) in [
            ("[Gold 7] Canary_12/canary_12.vmx", "[ds-1] folder-1/name-1.vmx"),
            ("[Gold 7] Canary_12/canary_12.vmdk", "[ds-1] folder-1/name-1.vmdk"),
            ("[Gold 7] Canary_12/canary_12_1-000003-sesparse.vmdk", "[ds-1] folder-1/name-1_1-000003-sesparse.vmdk"),
            ("[Silver] Canary_12/canary_12-flat.vmdk", "[ds-2] folder-1/name-1-flat.vmdk"),
            ("[Gold 7] Canary_12/canary_12.vmdk-REDO_a1b2c3", "[ds-1] folder-1/name-1.vmdk-REDO_xxxxxx"),
            ("[Gold 7] Canary_12/canary_12-REDO_0007d0.vmdk", "[ds-1] folder-1/name-1-REDO_xxxxxx.vmdk"),
            ("[Gold 7] a/b/payroll-2026.secret", "[ds-1] folder-2/name-2"),
            ("[Gold 7] payroll-000123.vmdk", "[ds-1] name-3-000123.vmdk"),
            ("[Gold 7] Canary_12/", "[ds-1] folder-1/"),
            ("/vmfs/volumes/x/y.vmdk", "path"),
        ] {
            assert_eq!(r.path(path), shown, "{path}");
        }
    }

    #[test]
    fn forms_and_words_tell_nothing() {
        assert_eq!(uuid("6000C29a-b1c2-d3e4-f5a6-0123456789ab"), "6000C29x-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
        assert_eq!(uuid("600a0b80-ff"), "xxxxxxxx-xx");
        assert_eq!(form("52 dc 3a/12"), "xx xx xx/xx");
        assert_eq!(uuid("é"), "x");
        assert_eq!((word("vmx-19"), word("a b"), word("")), ("vmx-19".into(), "other".into(), "other".into()));
        assert_eq!(
            (event("VmReconfiguredEvent"), event("com.acme.done")),
            ("VmReconfiguredEvent".into(), "other".into())
        );
    }
}
