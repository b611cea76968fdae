//! Guestinfo as a script that keeps it in a file.
#![allow(clippy::unwrap_used, reason = "tests")]
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const SECRET: &str = r#"<Environment><PropertySection><Property key="hotadd.vcenter_password" value="it's $(x) &quot;`"/></PropertySection></Environment>"#;

/// A tool that takes and gives one variable; `deaf`: says yes and changes nothing.
pub(crate) fn tool(folder: &Path, content: &str, deaf: bool) -> Source {
    let (tool, file) = (folder.join("rpctool"), folder.join("variable"));
    fs::write(&file, content).unwrap();
    let set = if deaf { ":" } else { "printf '%s' \"${1#info-set guestinfo.ovfEnv }\" >\"$f\"" };
    let script = format!(
        "#!/bin/sh\nf='{}'\ncase $1 in\n'info-get guestinfo.ovfEnv') [ -s \"$f\" ] || exit 1; cat \"$f\";;\n\
         'info-set guestinfo.ovfEnv '*) {set};;\n*) exit 2;;\nesac\n",
        file.display()
    );
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    Source::Guestinfo(tool)
}

#[test]
fn what_is_blanked_is_gone_and_what_is_not_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let source = tool(folder.path(), SECRET, false);
    let bytes = source.read().unwrap().unwrap();
    assert_eq!(bytes, SECRET.as_bytes());
    assert!(source.blank(&bytes).unwrap());
    let now = fs::read_to_string(folder.path().join("variable")).unwrap();
    assert!(now.contains("value=\"\"") && !now.contains("$(x)"), "{now}");
    assert!(source.blank(now.as_bytes()).unwrap());
    let source = tool(folder.path(), SECRET, true);
    assert!(!source.blank(SECRET.as_bytes()).unwrap());
}

#[test]
fn what_can_not_be_read_is_blanked_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let source = tool(folder.path(), "<Environment><Property hunter2", false);
    let bytes = source.read().unwrap().unwrap();
    assert!(source.blank(&bytes).unwrap());
    assert_eq!(fs::read_to_string(folder.path().join("variable")).unwrap(), EMPTIED);
}

#[test]
fn nothing_given_is_no_error_and_no_tool_is_one() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(tool(folder.path(), "", false).read().unwrap(), None);
    assert!(Source::Guestinfo(folder.path().join("absent")).read().is_err());
}

#[test]
fn a_tool_that_does_not_answer_is_an_error_and_one_that_says_too_much_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let script = |text: &str| {
        let path = folder.path().join("tool");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Source::Guestinfo(path)
    };
    // As timeout(1) ends when it had to kill it.
    assert!(script("exit 124").read().is_err());
    let bytes = script("yes").read().unwrap().unwrap();
    assert_eq!(environment::Environment::parse(&bytes), Err(environment::Refused::Large));
}

#[test]
fn a_tool_that_answers_late_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let (path, asked) = (folder.path().join("tool"), folder.path().join("asked"));
    // As timeout(1) ends when it had to kill it, until it was asked as often as is tried.
    let text = format!(
        "#!/bin/sh\nprintf x >>'{0}'\n[ $(wc -c <'{0}') -ge {TRIES} ] || exit 124\necho given\n",
        asked.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Source::Guestinfo(path).ask().unwrap().as_deref(), Some(&b"given\n"[..]));
}

#[test]
fn more_than_guestinfo_can_hold_is_cut_and_so_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("raw");
    fs::write(&file, " ".repeat(MAX_BYTES) + "<Environment/>").unwrap();
    let bytes = Source::choose(&file, Path::new("/absent")).read().unwrap().unwrap();
    assert_eq!(environment::Environment::parse(&bytes), Err(environment::Refused::Large));
}
