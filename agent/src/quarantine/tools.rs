//! Tools that assemble what they find on disks, when somebody runs them by hand or a service of theirs does: where one is installed, its
//! configuration has to keep it off foreign disks. Their files are read, the tools are not run; what they really do is for the trap.
use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Finding;
use crate::reason;

/// What is wrong with the tools below `root`.
#[must_use]
pub fn judge(root: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut expect = |tool: &str, good: bool, what: &str| {
        if installed(root, tool) && !good {
            found.push(Finding::new(&reason::QUA_TOOLS, format!("{tool} is installed, and {what}")));
        }
    };
    expect("lvm", lvm(root), "no global_filter in /etc/lvm/lvmlocal.conf or lvm.conf keeps it off foreign disks");
    expect(
        "multipathd",
        multipath(root),
        "no blacklist in /etc/multipath.conf or /etc/multipath/conf.d excludes VMware's disks",
    );
    expect("mdadm", mdadm(root), "no line \"AUTO -all\" in mdadm.conf or mdadm.conf.d keeps it from assembling");
    found
}

fn installed(root: &Path, tool: &str) -> bool {
    ["usr/sbin", "sbin", "usr/bin"].iter().any(|folder| root.join(folder).join(tool).exists())
}

/// lvm.conf(5): the stronger file that has a filter decides, and its last pattern has to reject the rest. A devices file stands for a filter
/// where it is used: LVM then opens only what it lists (lvmdevices(8)).
fn lvm(root: &Path) -> bool {
    let files = ["etc/lvm/lvmlocal.conf", "etc/lvm/lvm.conf"].map(|path| lines(&root.join(path)));
    let unused = files.iter().flatten().any(|line| line.replace(' ', "") == "use_devicesfile=0");
    let listed = !unused && root.join("etc/lvm/devices/system.devices").exists();
    listed || files.iter().find_map(|lines| last_pattern(lines)).is_some_and(|last| rejects_all(&last))
}

/// Of `global_filter`, which may go over several lines.
fn last_pattern(lines: &[String]) -> Option<String> {
    let from = lines.iter().position(|line| line.starts_with("global_filter"))?;
    let text = lines[from..].join("\n");
    // A bracket inside quotes is a pattern's own.
    text.split('"')
        .skip(1)
        .step_by(2)
        .zip(text.split('"').skip(2).step_by(2))
        .find_map(|(pattern, after)| after.contains(']').then(|| pattern.to_owned()))
}

/// `r|.*|`, with any mark around the expression.
fn rejects_all(pattern: &str) -> bool {
    let mut rest = pattern.chars();
    let (kind, mark) = (rest.next(), rest.next());
    kind == Some('r') && mark.is_some() && rest.next_back() == mark && [".*", ""].contains(&rest.as_str())
}

/// multipath.conf(5): a section `blacklist` that excludes all nodes, or VMware's disks.
fn multipath(root: &Path) -> bool {
    let mut files = vec![root.join("etc/multipath.conf")];
    files.extend(folder(&root.join("etc/multipath/conf.d")));
    files.iter().any(|file| blacklists(&lines(file)))
}

fn blacklists(lines: &[String]) -> bool {
    let mut depth = 0;
    let mut inside = false;
    for line in lines {
        if depth == 0 {
            inside = line.split(['{', ' ', '\t']).next() == Some("blacklist");
        }
        let all = line.starts_with("devnode") && [r#"".*""#, r#""*""#].iter().any(|all| line.contains(all));
        if inside && depth > 0 && (all || line.starts_with("vendor") && line.contains("VMware")) {
            return true;
        }
        depth += line.matches('{').count();
        depth = depth.saturating_sub(line.matches('}').count());
    }
    false
}

/// mdadm.conf(5).
fn mdadm(root: &Path) -> bool {
    let mut files = vec![root.join("etc/mdadm.conf"), root.join("etc/mdadm/mdadm.conf")];
    files.extend(folder(&root.join("etc/mdadm.conf.d")));
    files.extend(folder(&root.join("etc/mdadm/mdadm.conf.d")));
    let off = |line: &String| line.split_whitespace().eq(["AUTO", "-all"]);
    files.iter().any(|file| lines(file).iter().any(off))
}

/// Files of a drop-in folder that are read.
fn folder(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect()
}

/// Lines that say something; no file says nothing.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '!']))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LVM: &str = include_str!("../../../systemd/quarantine/lvmlocal.conf.example");
    const MULTIPATH: &str = include_str!("../../../systemd/quarantine/multipath.conf");
    const MDADM: &str = include_str!("../../../systemd/quarantine/mdadm.conf.example");

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn tools() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for tool in ["lvm", "multipathd", "mdadm"] {
            put(root.path(), &format!("usr/sbin/{tool}"), "");
        }
        root
    }

    #[test]
    fn what_is_not_installed_needs_nothing() {
        assert_eq!(judge(tempfile::tempdir().unwrap().path()), []);
    }

    #[test]
    fn each_tool_is_told_until_its_shipped_file_is_there() {
        let root = tools();
        assert_eq!(judge(root.path()).len(), 3);
        put(root.path(), "etc/lvm/lvmlocal.conf", LVM);
        put(root.path(), "etc/multipath/conf.d/hotadd.conf", MULTIPATH);
        put(root.path(), "etc/mdadm.conf.d/hotadd.conf", MDADM);
        assert_eq!(judge(root.path()), []);
    }

    #[test]
    fn comments_exceptions_and_filters_that_accept_all_do_not_count() {
        let root = tools();
        put(
            root.path(),
            "etc/lvm/lvm.conf",
            "devices {\n# global_filter = [ \"r|.*|\" ]\nglobal_filter = [ \"a|.*|\" ]\n}\n",
        );
        put(
            root.path(),
            "etc/multipath.conf",
            "blacklist {\n}\nblacklist_exceptions {\n device {\n vendor \"VMware\"\n }\n}\n",
        );
        put(root.path(), "etc/mdadm/mdadm.conf", "#AUTO -all\nAUTO +imsm -all\n");
        assert_eq!(judge(root.path()).len(), 3);
        put(root.path(), "etc/multipath.conf", "blacklist {\n\tdevnode \".*\"\n}\n");
        assert_eq!(judge(root.path()).len(), 2);
    }

    #[test]
    fn the_filter_that_decides_has_to_reject_the_rest() {
        let good = |local: &str, main: &str, listed: bool| {
            let root = tempfile::tempdir().unwrap();
            put(root.path(), "etc/lvm/lvmlocal.conf", local);
            put(root.path(), "etc/lvm/lvm.conf", main);
            if listed {
                put(root.path(), "etc/lvm/devices/system.devices", "");
            }
            lvm(root.path())
        };
        let filter = |list: &str| format!("devices {{\n\tglobal_filter = [ {list} ]\n}}\n");
        let (all, none) = (filter(r#""a|.*|""#), filter(r#""a|^/dev/sda[0-9]$|", "r/.*/""#));
        assert!(good(&none, "", false) && good("", &none, false) && good(&none, &all, false));
        assert!(!good("", "", false) && !good(&all, &none, false));
        assert!(!good(&filter(r#""r|/dev/cdrom|", "a|.*|""#), "", false));
        assert!(!good(&filter(r#""r|/dev/cdrom|""#), "", false));
        assert!(good(&filter("\"a|^/dev/sda$|\",\n\"r|.*|\""), "", false));
        assert!(good("", "", true) && !good("", "devices {\nuse_devicesfile = 0\n}\n", true));
    }
}
