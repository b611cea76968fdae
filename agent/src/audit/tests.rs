//! Tests of [`super`]: what is written, where it is not, and what is refused then.
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use super::*;

fn audit(path: &Path, required: bool) -> Audit {
    Audit::new(&AuditPolicy { file: Some(path.to_owned()), required })
}

fn lines(audit: &Audit, path: &Path) -> Vec<serde_json::Value> {
    audit.flush();
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn entry(what: &'static str) -> Entry {
    Entry { what, ..Entry::default() }
}

#[test]
fn an_entry_is_one_line_whatever_names_are_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let audit = audit(&path, true);
    let vm = "web\"01\n{\"who\":\"admin\"}\u{1b}[2J".to_owned();
    audit.tell(&Who::agent(), Entry { vm: vm.clone(), tasks: vec!["task-1".into()], ..entry("attach") }.ended(&Ok(())));
    let lost = Error::new(&reason::VC_UNKNOWN_OUTCOME, "");
    audit.tell(&Who::agent(), entry("detach").failed(&lost));
    let all = lines(&audit, &path);
    assert_eq!(all.len(), 2);
    assert_eq!((&all[0]["vm"], &all[0]["outcome"], &all[0]["tasks"][0]), (&vm.into(), &"ok".into(), &"task-1".into()));
    assert_eq!((&all[1]["outcome"], &all[1]["reason"]), (&"unknown".into(), &"HA-VC-006".into()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(printable("a\nb\u{1b}"), "a\\u{a}b\\u{1b}");
}

#[test]
fn a_file_that_was_moved_away_is_another_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
    let audit = audit(&path, false);
    audit.tell(&Who::agent(), entry("attach"));
    audit.flush();
    fs::rename(&path, &moved).unwrap();
    audit.tell(&Who::agent(), entry("detach"));
    assert_eq!(lines(&audit, &moved).len(), 2, "until it is told");
    audit.reopen();
    audit.tell(&Who::agent(), entry("drain"));
    assert_eq!((lines(&audit, &path).len(), lines(&audit, &moved).len()), (1, 2));
}

#[test]
fn what_is_no_file_of_ours_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link, open) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("open"));
    fs::write(&real, "").unwrap();
    symlink(&real, &link).unwrap();
    fs::write(&open, "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    for path in [link.as_path(), open.as_path(), dir.path(), Path::new("/dev/null"), &dir.path().join("no/such")] {
        let error = audit(path, true).can_begin().unwrap_err();
        assert_eq!(*error.reason(), reason::AUD_FILE, "{}", path.display());
        let lax = audit(path, false);
        lax.tell(&Who::agent(), entry("attach"));
        lax.flush();
        assert!(lax.can_begin().is_ok(), "it is told, and no more");
    }
    assert_eq!(
        (fs::read_to_string(&real).unwrap(), fs::read_to_string(&open).unwrap()),
        (String::new(), String::new())
    );
}

#[test]
fn nothing_is_begun_while_a_required_file_can_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, away) = (dir.path().join("log"), dir.path().join("away"));
    fs::create_dir(&folder).unwrap();
    let path = folder.join("audit.log");
    let audit = audit(&path, true);
    fs::rename(&folder, &away).unwrap();
    audit.reopen();
    audit.flush();
    assert_eq!(*audit.can_begin().unwrap_err().reason(), reason::AUD_FILE);
    fs::rename(&away, &folder).unwrap();
    audit.tell(&Who::agent(), entry("detach"));
    audit.flush();
    assert!(audit.can_begin().is_ok(), "the next line has found it");
}

#[tokio::test]
async fn tasks_are_of_the_step_that_waited_for_them() {
    let step = async |name: &'static str| {
        note_task(name);
        tokio::task::yield_now().await;
        note_task(name);
        name
    };
    note_task("nobody asks");
    let (one, two) = tokio::join!(tasks_of(step("task-1")), tasks_of(step("task-2")));
    for ((given, tasks), name) in [(one, "task-1"), (two, "task-2")] {
        assert_eq!((given, Entry::default().by(&tasks).tasks), (name, vec![name.to_owned(); 2]));
        assert!(tasks[0].began <= tasks[1].began);
    }
}
