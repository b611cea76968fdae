//! The udev rules as files: those that udev takes are those of this program. A file in a folder that sorts before hides one of the
//! same name, and an empty one or a link to /dev/null switches it off (udev(7)).
use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Finding;
use crate::reason;

/// Where udev looks, strongest first. `/lib` where it is not `/usr/lib`.
const FOLDERS: [&str; 5] =
    ["etc/udev/rules.d", "run/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d"];
/// Who names the proxy's own disks; each proxy has its own.
const OWN: &str = "00-hotadd-own-disks.rules";
/// Name and text of each file as it is shipped.
const SHIPPED: [(&str, &str); 2] = [
    ("00-hotadd-quarantine.rules", include_str!("../../../systemd/00-hotadd-quarantine.rules")),
    ("60-hotadd-readonly.rules", include_str!("../../../systemd/60-hotadd-readonly.rules")),
];

/// What is wrong with the rules below `root`.
#[must_use]
pub fn judge(root: &Path) -> Vec<Finding> {
    SHIPPED.iter().filter_map(|(name, text)| fault(root, name, text)).collect()
}

/// Whether a file says which disks are the proxy's own.
#[must_use]
pub fn own_disks_named(root: &Path) -> bool {
    in_force(root, OWN).and_then(|path| fs::read_to_string(path).ok()).is_some_and(|text| {
        code(&text).iter().any(|line| line.replace(' ', "").contains("ENV{HOTADD_OWN_DISKS}=\"known\""))
    })
}

fn fault(root: &Path, name: &str, shipped: &str) -> Option<Finding> {
    let wrong = |what: String| Some(Finding::new(&reason::QUA_RULES, what));
    let Some(path) = in_force(root, name) else { return wrong(format!("{name} is not installed")) };
    match fs::read_to_string(&path) {
        Err(error) => wrong(format!("{}: {error}", path.display())),
        Ok(text) if code(&text).is_empty() => wrong(format!("{} switches the rules off", path.display())),
        Ok(text) if code(&text) != code(shipped) => wrong(format!("{} is not the file of this agent", path.display())),
        Ok(_) => None,
    }
}

fn in_force(root: &Path, name: &str) -> Option<PathBuf> {
    // A link that leads nowhere hides the others, too.
    FOLDERS.iter().map(|folder| root.join(folder).join(name)).find(|path| path.symlink_metadata().is_ok())
}

/// What udev reads: no comments, no empty lines.
fn code(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn installed() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in SHIPPED {
            put(root.path(), &format!("usr/lib/udev/rules.d/{name}"), text);
        }
        root
    }

    fn said(root: &Path) -> String {
        judge(root).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_shipped_rules_are_in_force_also_with_other_comments() {
        let root = installed();
        assert_eq!(judge(root.path()), []);
        let (name, text) = SHIPPED[1];
        put(root.path(), &format!("etc/udev/rules.d/{name}"), &format!("# a site's own\n\n{text}"));
        assert_eq!(judge(root.path()), []);
    }

    #[test]
    fn missing_masked_and_other_rules_are_found() {
        let root = installed();
        let (name, text) = SHIPPED[0];
        let above = format!("etc/udev/rules.d/{name}");
        put(root.path(), &above, &text.replace("SYSTEMD_READY", "SYSTEMD_IS_READY"));
        assert!(said(root.path()).contains("is not the file of this agent"), "{}", said(root.path()));
        put(root.path(), &above, "# nothing\n");
        assert!(said(root.path()).contains("switches the rules off"), "{}", said(root.path()));
        fs::remove_file(root.path().join(&above)).unwrap();
        std::os::unix::fs::symlink("/dev/null", root.path().join(&above)).unwrap();
        assert!(said(root.path()).contains("switches the rules off"), "{}", said(root.path()));
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(said(nothing.path()).matches("HA-QUA-002").count(), 2, "{}", said(nothing.path()));
    }

    #[test]
    fn own_disks_are_named_by_the_strongest_file_only() {
        let root = tempfile::tempdir().unwrap();
        assert!(!own_disks_named(root.path()));
        put(root.path(), &format!("run/udev/rules.d/{OWN}"), "ENV{HOTADD_OWN_DISKS} = \"known\"\n");
        assert!(own_disks_named(root.path()));
        put(root.path(), &format!("etc/udev/rules.d/{OWN}"), "# ENV{HOTADD_OWN_DISKS}=\"known\"\n");
        assert!(!own_disks_named(root.path()));
    }
}
