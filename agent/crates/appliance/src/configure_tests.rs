//! Configurations in a folder: what takes the place of what, and what a write that fails leaves.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::apply::tests::{Boot, properties};

/// A configured appliance that is given another generation, with another CA of clients.
fn second() -> (Boot, String) {
    let mut boot = Boot::new(&properties(""));
    assert_eq!(boot.codes(), [""; 0]);
    boot.given(&next());
    let before = contents(&boot);
    (boot, before)
}

fn next() -> String {
    properties("<Property key=\"hotadd.generation\" value=\"2\"/>")
}

/// agent.toml and every file that it names.
fn contents(boot: &Boot) -> String {
    let toml = boot.file("etc/hotadd/agent.toml").unwrap();
    let paths = toml.split('"').filter(|text| text.starts_with("/etc/"));
    let files: Vec<_> = paths.map(|path| boot.file(&path[1..]).unwrap_or_else(|| panic!("{path}"))).collect();
    toml.clone() + &files.concat()
}

/// The files of a configuration as releases before laid them: beside agent.toml.
fn flatten(boot: &Boot) {
    let etc = boot.host.path(ETC);
    for name in config::FILES {
        fs::rename(etc.join("files-1").join(name), etc.join(name)).unwrap();
    }
    fs::remove_dir(etc.join("files-1")).unwrap();
    let toml = boot.file("etc/hotadd/agent.toml").unwrap().replace("/files-1/", "/");
    fs::write(etc.join(AGENT), toml).unwrap();
}

fn names(boot: &Boot) -> Vec<String> {
    let all = fs::read_dir(boot.host.path(ETC)).unwrap();
    let mut names: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_rename_of_agent_toml_is_the_only_switch() {
    let (mut boot, before) = second();
    // What agent.toml is written to first can't be written: a folder has that name.
    let part = boot.host.etc("agent.toml.part");
    fs::create_dir(&part).unwrap();
    assert_eq!(boot.codes(), [crate::reasons::WRITE.id]);
    fs::remove_dir(&part).unwrap();
    assert_eq!(contents(&boot), before);
    assert_eq!(names(&boot), ["agent.toml", "files-1"]);
    // The next power-on takes it, and the old files go.
    boot.given(&next());
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(boot.configured(), Configured::Properties(2));
    assert_ne!(contents(&boot), before);
    assert_eq!(names(&boot), ["agent.toml", "files-2"]);
}

#[test]
fn a_power_cut_before_the_switch_leaves_the_old_configuration_and_the_next_boot_tidies() {
    let (mut boot, before) = second();
    install(&boot.host.etc("files-2/server.key"), b"key", 0o600).unwrap();
    assert_eq!(contents(&boot), before);
    boot.given("");
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!((contents(&boot), names(&boot)), (before, vec!["agent.toml".to_owned(), "files-1".to_owned()]));
}

#[test]
fn files_of_a_release_before_move_with_the_next_configuration() {
    let (boot, _) = second();
    flatten(&boot);
    let fingerprint = boot.host.fingerprint();
    // A file of a person.
    fs::write(boot.host.etc("notes"), "mine").unwrap();
    assert!(fingerprint.is_some());
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(boot.configured(), Configured::Properties(2));
    assert_eq!(boot.host.fingerprint(), fingerprint);
    assert_eq!(names(&boot), ["agent.toml", "files-1", "notes"]);
}

#[test]
fn a_power_cut_behind_the_switch_leaves_old_files_to_the_next_boot() {
    let (boot, _) = second();
    flatten(&boot);
    let flat: Vec<_> = config::FILES.iter().map(|name| (name, fs::read(boot.host.etc(name)).unwrap())).collect();
    assert_eq!(boot.codes(), [""; 0]);
    flat.iter().for_each(|(name, content)| fs::write(boot.host.etc(name), content).unwrap());
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(names(&boot), ["agent.toml", "files-1"]);
}

/// Something renews them where agent.toml found them.
#[test]
fn a_pair_of_the_sites_beside_agent_toml_stays() {
    let (boot, _) = second();
    for name in [config::CERTIFICATE, config::KEY] {
        fs::copy(boot.host.etc("files-1").join(name), boot.host.etc(name)).unwrap();
        let toml = boot.file("etc/hotadd/agent.toml").unwrap();
        fs::write(boot.host.etc(AGENT), toml.replace(&format!("/files-1/{name}"), &format!("/{name}"))).unwrap();
    }
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(boot.configured(), Configured::Properties(2));
    assert!(boot.host.etc(config::CERTIFICATE).exists() && boot.host.etc(config::KEY).exists());
}

/// An agent that began with them reads them again by their names.
#[test]
fn a_dialogue_leaves_the_files_of_the_configurations_before() {
    let boot = Boot::new("");
    let environment = crate::environment::Environment::parse(properties("").as_bytes()).unwrap();
    let settings = crate::settings::read(&environment);
    for _ in 0..3 {
        assert_eq!(boot.host.set_up(&settings, settings.service.as_ref().unwrap(), false).unwrap(), None);
    }
    let all = ["agent.toml", "agent.toml.old", "files-1", "files-2", "files-3"];
    assert_eq!(names(&boot), all);
    boot.host.tidy().unwrap();
    assert_eq!(names(&boot), ["agent.toml", "agent.toml.old", "files-2", "files-3"], "what the one before names stays");
}

#[test]
fn files_of_a_person_stay() {
    let boot = Boot::new("");
    for name in [config::CERTIFICATE, config::KEY, config::PASSWORD, "files-7/mine"] {
        install(&boot.host.etc(name), b"mine", 0o600).unwrap();
    }
    let toml = "[tls]\ncertificate_file = '/etc/hotadd/server.pem'\nkey_file = '/etc/hotadd/server.key'\n";
    fs::write(boot.host.etc(AGENT), toml).unwrap();
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(names(&boot), ["agent.toml", "files-7", "server.key", "server.pem", "vcenter-password"]);
    // A dialogue takes their pair over, and leaves them where they are.
    let environment = crate::environment::Environment::parse(properties("").as_bytes()).unwrap();
    let settings = crate::settings::read(&environment);
    let done = boot.host.set_up(&settings, settings.service.as_ref().unwrap(), false).unwrap();
    assert_eq!((done, boot.file("etc/hotadd/files-1/server.key").as_deref()), (None, Some("mine")));
    assert_eq!(boot.file("etc/hotadd/agent.toml.old").as_deref(), Some(toml));
    for name in [config::CERTIFICATE, config::KEY, config::PASSWORD] {
        assert_eq!(fs::read(boot.host.etc(name)).unwrap(), b"mine");
    }
}
