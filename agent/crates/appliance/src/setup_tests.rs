//! Dialogues in a folder, with a script as the person and one as the agent.
#![allow(clippy::unwrap_used, reason = "tests")]
use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;
use crate::{certificate, source::Source, state::Configured};

struct Person {
    answers: std::vec::IntoIter<String>,
    seen: String,
    /// What was asked without showing it.
    hidden: Vec<String>,
}

impl Terminal for Person {
    fn say(&mut self, text: &str) -> io::Result<()> {
        self.seen.push_str(text);
        Ok(())
    }

    fn line(&mut self, secret: bool) -> io::Result<Option<String>> {
        let answer = self.answers.next();
        if secret {
            self.hidden.extend(answer.clone());
        }
        Ok(answer)
    }
}

fn host(folder: &Path, agent: &str) -> Host {
    let script = |name: &str, text: &str| -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    Host {
        root: folder.join("root"),
        source: Source::File(PathBuf::new()),
        machine: None,
        agent: script("agent", agent),
        chpasswd: script("chpasswd", &format!("cat >>'{}'", folder.join("passwords").display())),
    }
}

fn talk(host: &Host, appliance: bool, answers: &[&str]) -> (io::Result<()>, Person) {
    let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
    let mut person = Person { answers: answers.into_iter(), seen: String::new(), hidden: Vec::new() };
    let done = run(&mut person, host, "px", appliance);
    (done, person)
}

/// A CA as it is pasted, and in a file.
fn authority(folder: &Path) -> (String, String) {
    let pem = certificate::create("ca", None).unwrap().certificate;
    let path = folder.join("ca.pem");
    fs::write(&path, &pem).unwrap();
    (pem, path.display().to_string())
}

#[test]
fn answers_make_a_configuration_and_no_secret_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path(), "exit 0");
    let (pem, file) = authority(folder.path());
    // A wrong answer is asked again at once; the CA of clients is pasted.
    let mut answers = vec!["", "vc.example", &*file, "", "u@vsphere.local", "hunter2", "99999", "7443"];
    answers.extend(pem.lines());
    answers.extend(["", "", "", "", "", "", "y"]);
    let (done, person) = talk(&host, false, &answers);
    done.unwrap();
    assert!(person.seen.contains("hotadd.grpc_port: too large"), "{}", person.seen);
    assert_eq!(person.hidden, ["hunter2"]);
    assert!(!person.seen.contains("hunter2"));
    let toml = fs::read_to_string(host.root.join("etc/hotadd/agent.toml")).unwrap();
    assert!(toml.contains("https://vc.example") && toml.contains("[::]:7443"), "{toml}");
    assert_eq!(host.configured().0, Configured::ByHand);
    assert_eq!(fs::read_to_string(host.root.join("etc/hotadd/files-1/vcenter-password")).unwrap(), "hunter2");
    // Not an appliance: its network and root are somebody else's.
    assert!(!host.root.join("etc/systemd").exists() && !folder.path().join("passwords").exists());
}

#[test]
fn an_appliance_is_made_reachable_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path(), "exit 0");
    let (_, file) = authority(folder.path());
    let answers = [
        "px1",
        "192.0.2.10/24",
        "192.0.2.1",
        "",
        "",
        "",
        "vc.example",
        &file,
        "",
        "u",
        "p",
        "",
        &file,
        "",
        "",
        "",
        "",
        "",
        "console",
        "y",
    ];
    talk(&host, true, &answers).0.unwrap();
    let network = fs::read_to_string(host.root.join("etc/systemd/network/10-hotadd.network")).unwrap();
    assert!(network.contains("Address=192.0.2.10/24\n") && network.contains("Gateway=192.0.2.1\n"));
    assert_eq!(fs::read_to_string(host.root.join("etc/hostname")).unwrap(), "px1\n");
    assert_eq!(fs::read_to_string(folder.path().join("passwords")).unwrap(), "root:console\n");
}

#[test]
fn what_is_missing_or_refused_is_asked_again_and_an_end_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path(), "echo 'HA-CFG-001 no'; exit 78");
    let (_, file) = authority(folder.path());
    let empty = [""; 13];
    let (done, person) = talk(&host, false, &empty);
    assert_eq!(done.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(person.seen.contains("HA-APP-003 hotadd.vcenter_password"), "{}", person.seen);
    let answers = ["", "vc.example", &file, "", "u", "p", "", &file, "", "", "", "", "", "y"];
    let (done, person) = talk(&host, false, &answers);
    assert_eq!(done.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(person.seen.contains("The agent refuses it: HA-CFG-001 no"), "{}", person.seen);
    let (done, _) = talk(&host, false, &[&answers[..13], &["n"]].concat());
    assert_eq!(done.unwrap_err().kind(), io::ErrorKind::Interrupted);
    assert_eq!(fs::read_dir(host.root.join("etc/hotadd")).unwrap().count(), 0);
}

#[test]
fn an_old_configuration_is_kept_and_its_certificate_stays() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path(), "exit 0");
    let (_, file) = authority(folder.path());
    let etc = host.root.join("etc/hotadd");
    fs::create_dir_all(&etc).unwrap();
    // The package's file says nothing: nobody is asked about it.
    fs::write(etc.join("agent.toml"), "# comments\n").unwrap();
    let answers = ["", "vc.example", &file, "", "u", "p", "", &file, "", "", "", "", "", "y"];
    talk(&host, false, &answers).0.unwrap();
    let (first, fingerprint) = (fs::read_to_string(etc.join("agent.toml")).unwrap(), host.fingerprint());
    assert!(!etc.join("agent.toml.old").exists());
    talk(&host, false, &[&["y"], &answers[..]].concat()).0.unwrap();
    assert_eq!(fs::read_to_string(etc.join("agent.toml.old")).unwrap(), first);
    assert!(fingerprint.is_some() && host.fingerprint() == fingerprint);
    // Whoever renames it back, and an agent that runs with it, find its files; those of the one before it go once no agent runs.
    assert!(etc.join("files-1/vcenter-password").exists());
    talk(&host, false, &[&["y"], &answers[..]].concat()).0.unwrap();
    assert!(etc.join("files-1").exists() && host.fingerprint() == fingerprint);
    host.tidy().unwrap();
    assert!(!etc.join("files-1").exists());
    let old = fs::read_to_string(etc.join("agent.toml.old")).unwrap();
    assert!(old.contains("/files-2/") && etc.join("files-2/server.key").exists(), "{old}");
}

#[test]
fn an_appliance_that_cant_be_made_reachable_is_not_configured() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path(), "exit 0");
    host.chpasswd = folder.path().join("none");
    let (_, file) = authority(folder.path());
    let answers =
        ["px1", "", "", "", "", "", "vc.example", &file, "", "u", "p", "", &file, "", "", "", "", "", "console", "y"];
    let (done, _) = talk(&host, true, &answers);
    assert!(done.unwrap_err().to_string().contains("the password of root"));
    assert_eq!(fs::read_dir(host.root.join("etc/hotadd")).unwrap().count(), 0);
}
