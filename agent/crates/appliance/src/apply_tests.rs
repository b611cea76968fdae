//! First boots in a folder, with programs that stand for the agent and for chpasswd.
#![allow(clippy::unwrap_used, reason = "tests")]
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;
use crate::{certificate, config, reach::NETWORK, source::tests::tool};

pub(crate) struct Boot {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) host: Host,
}

pub(crate) fn script(path: &Path, text: &str) -> PathBuf {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// A property list with all that is needed, and more.
pub(crate) fn properties(more: &str) -> String {
    let ca = certificate::create("ca", None).unwrap().certificate.replace('\n', " ");
    let own = [
        ("vcenter_address", "vc.example"),
        ("vcenter_user", "u"),
        ("vcenter_password", "hunter2-vc"),
        ("grpc_client_ca", &ca),
        ("vcenter_ca", &ca),
    ];
    let own: String =
        own.iter().map(|(key, value)| format!("<Property key=\"hotadd.{key}\" value=\"{value}\"/>")).collect();
    format!("<Environment><PropertySection>{own}{more}</PropertySection></Environment>")
}

impl Boot {
    pub(crate) fn new(environment: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let host = Host {
            root: path.join("root"),
            source: tool(path, environment, false),
            machine: Some("VMware-42 1c".to_owned()),
            agent: script(
                &path.join("agent"),
                "[ \"$1 $2\" = 'check-config --config' ] && grep -q '^\\[vcenter\\]' \"$3\"",
            ),
            chpasswd: script(
                &path.join("chpasswd"),
                &format!("(echo \"$*\"; cat) >>'{}'", path.join("passwords").display()),
            ),
        };
        let boot = Self { folder, host };
        install(&boot.host.root.join(OWN_DISKS), b"", 0o644).unwrap();
        boot
    }

    pub(crate) fn given(&mut self, environment: &str) {
        self.host.source = tool(self.folder.path(), environment, false);
    }

    pub(crate) fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.host.root.join(name)).ok()
    }

    pub(crate) fn guestinfo(&self) -> String {
        fs::read_to_string(self.folder.path().join("variable")).unwrap()
    }

    pub(crate) fn configured(&self) -> Configured {
        self.host.configured().0
    }

    pub(crate) fn passwords(&self) -> String {
        fs::read_to_string(self.folder.path().join("passwords")).unwrap_or_default()
    }

    pub(crate) fn codes(&self) -> Vec<String> {
        self.host.apply().faults.into_iter().map(|fault| fault.code).collect()
    }
}

#[test]
fn a_whole_environment_makes_a_configured_appliance() {
    let boot = Boot::new(&properties(
        "<Property key=\"hotadd.hostname\" value=\"px\"/><Property key=\"hotadd.console_password\" value=\"hunter2-root\"/>",
    ));
    let state = boot.host.apply();
    assert_eq!((boot.configured(), &*state.faults), (Configured::Properties(1), &[][..]));
    assert_eq!(config::port(&boot.host.configured().1), Some(7443));
    assert_eq!(boot.file("etc/hostname").as_deref(), Some("px\n"));
    assert_eq!(boot.file("etc/hotadd/files-1/vcenter-password").as_deref(), Some("hunter2-vc"));
    for (name, mode) in
        [("files-1", 0o700), ("files-1/vcenter-password", 0o600), ("files-1/server.key", 0o600), ("agent.toml", 0o644)]
    {
        let found = fs::metadata(boot.host.root.join("etc/hotadd").join(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    let toml = boot.file("etc/hotadd/agent.toml").unwrap();
    assert!(toml.contains("password_file = \"/etc/hotadd/files-1/vcenter-password\""), "{toml}");
    assert!(!boot.host.root.join("etc/hotadd/new").exists());
    assert_eq!(boot.passwords(), "\nroot:hunter2-root\n");
    // Taken once: nobody in the guest sees them any more, and they are nowhere else.
    assert!(!boot.guestinfo().contains("hunter2"));
    assert!(!boot.file(STATE).unwrap().contains("hunter2"));
    assert_eq!(boot.host.fingerprint().unwrap().len(), 95);
}

#[test]
fn a_later_boot_changes_nothing_but_blanks_again() {
    let mut boot = Boot::new(&properties(""));
    assert_eq!(boot.codes(), [""; 0]);
    let (toml, fingerprint) = (boot.file("etc/hotadd/agent.toml"), boot.host.fingerprint());
    // The blanked environment of a reboot, and the one with passwords that a power-on brings.
    assert_eq!(boot.codes(), [""; 0]);
    boot.given(&properties("<Property key=\"hotadd.hostname\" value=\"other\"/>"));
    assert_eq!(boot.codes(), [""; 0]);
    assert!(!boot.guestinfo().contains("hunter2"));
    // None at all, and one that can't be read.
    boot.given("");
    assert_eq!(boot.codes(), [""; 0]);
    boot.given("<broken");
    assert_eq!(boot.codes(), [reasons::UNREADABLE.id]);
    assert_eq!((boot.file("etc/hotadd/agent.toml"), boot.host.fingerprint()), (toml, fingerprint));
    assert_eq!(boot.file("etc/hostname").as_deref(), Some("hotadd-proxy\n"));
}

#[test]
fn another_generation_is_applied_and_a_faulty_one_is_not() {
    let mut boot = Boot::new(&properties(""));
    assert_eq!(boot.codes(), [""; 0]);
    let fingerprint = boot.host.fingerprint();
    let next = |more: &str| properties(&format!("<Property key=\"hotadd.generation\" value=\"2\"/>{more}"));
    boot.given(&next(
        "<Property key=\"hotadd.grpc_port\" value=\"no\"/><Property key=\"hotadd.hostname\" value=\"b\"/>",
    ));
    let state = boot.host.apply();
    assert_eq!((boot.configured(), state.faults.len()), (Configured::Properties(1), 1));
    assert_eq!(boot.file("etc/hostname").as_deref(), Some("hotadd-proxy\n"));
    boot.given(&next("<Property key=\"hotadd.hostname\" value=\"b\"/>"));
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(boot.configured(), Configured::Properties(2));
    assert_eq!(boot.file("etc/hostname").as_deref(), Some("b\n"));
    assert_eq!(boot.host.fingerprint(), fingerprint);
}

#[test]
fn what_is_wrong_leaves_a_reachable_appliance_without_an_agent() {
    for (environment, code) in [
        ("", reasons::NO_ENVIRONMENT),
        ("<Environment>", reasons::UNREADABLE),
        ("<!DOCTYPE a [<!ENTITY b \"c\">]><Environment/>", reasons::UNREADABLE),
        ("<Environment/>", reasons::MISSING),
        (&*properties("<Property key=\"hotadd.network_address\" value=\"1.2.3.4\"/>"), reasons::INVALID),
    ] {
        let boot = Boot::new(environment);
        let state = boot.host.apply();
        assert!(
            boot.configured() == Configured::No && state.faults.iter().all(|fault| fault.code == code.id),
            "{:?}",
            state.faults
        );
        assert!(!state.faults.is_empty());
        assert_eq!(boot.file("etc/hotadd/agent.toml"), None);
        assert!(boot.file(NETWORK).unwrap().contains("DHCP=yes"));
        assert!(boot.host.fingerprint().is_none());
        assert_eq!(boot.host.root.join(ASK).exists(), code == reasons::NO_ENVIRONMENT);
        assert!(!boot.guestinfo().contains("hunter2"), "{}", boot.guestinfo());
    }
}

#[test]
fn what_the_agent_refuses_is_not_put_in_place() {
    let mut boot = Boot::new(&properties(""));
    boot.host.agent = script(&boot.folder.path().join("agent"), "echo 'HA-CFG-001 no'; exit 78");
    let state = boot.host.apply();
    assert_eq!((boot.configured(), &*state.faults[0].code), (Configured::No, reasons::REFUSED.id));
    assert!(state.faults[0].message.contains("HA-CFG-001 no"));
    assert_eq!(fs::read_dir(boot.host.root.join("etc/hotadd")).unwrap().count(), 0);
    // The next boot tries again, with a certificate of the name that it has by then.
    let before = boot.host.fingerprint();
    boot.host.agent = script(&boot.folder.path().join("agent"), "exit 0");
    boot.given(&properties("<Property key=\"hotadd.hostname\" value=\"another\"/>"));
    assert_eq!(boot.codes(), [""; 0]);
    assert!(boot.host.fingerprint().is_some() && boot.host.fingerprint() != before);
}

#[test]
fn a_generation_that_the_agent_refuses_changes_nothing() {
    let mut boot = Boot::new(&properties(""));
    assert_eq!(boot.codes(), [""; 0]);
    let seen = |boot: &Boot| (boot.file("etc/hostname"), boot.file("etc/hosts"), boot.file(NETWORK), boot.passwords());
    let before = seen(&boot);
    let next = properties(
        "<Property key=\"hotadd.generation\" value=\"2\"/><Property key=\"hotadd.hostname\" value=\"b\"/>\
         <Property key=\"hotadd.network_address\" value=\"192.0.2.10/24\"/>\
         <Property key=\"hotadd.console_password\" value=\"hunter2-root\"/>",
    );
    boot.given(&next);
    let agent = std::mem::replace(&mut boot.host.agent, script(&boot.folder.path().join("no"), "echo no; exit 78"));
    let state = boot.host.apply();
    assert_eq!((&*state.faults[0].code, &*state.hostname), (reasons::REFUSED.id, "hotadd-proxy"));
    assert_eq!(seen(&boot), before);
    // Once the agent takes it, all of it changes.
    boot.host.agent = agent;
    boot.given(&next);
    let state = boot.host.apply();
    assert_eq!((&*state.faults, &*state.hostname), (&[][..], "b"));
    assert_eq!(boot.file("etc/hostname").as_deref(), Some("b\n"));
    assert!(boot.file(NETWORK).unwrap().contains("192.0.2.10/24") && boot.passwords().ends_with("hunter2-root\n"));
}

#[test]
fn guestinfo_that_does_not_answer_is_not_guestinfo_without_properties() {
    let network = "<Property key=\"hotadd.network_address\" value=\"192.0.2.10/24\"/>\
                   <Property key=\"hotadd.console_password\" value=\"hunter2-root\"/>";
    let mut boot = Boot::new(&properties(""));
    let dumb = Source::Guestinfo(script(&boot.folder.path().join("dumb"), "exit 124"));
    // The first boot: nobody at the console is asked instead, and the network is up.
    let answering = std::mem::replace(&mut boot.host.source, dumb.clone());
    assert_eq!(boot.codes(), [reasons::UNREADABLE.id, reasons::NOT_BLANKED.id]);
    assert!(!boot.host.path(ASK).exists() && boot.file(NETWORK).unwrap().contains("DHCP=yes"));
    // A later one: what was asked for stays.
    boot.host.source = answering;
    boot.given(&properties(&format!("{network}<Property key=\"hotadd.grpc_port\" value=\"no\"/>")));
    assert_eq!(boot.codes(), [reasons::INVALID.id]);
    boot.host.source = dumb.clone();
    assert_eq!(boot.codes(), [reasons::UNREADABLE.id, reasons::NOT_BLANKED.id]);
    assert!(boot.file(NETWORK).unwrap().contains("192.0.2.10/24") && boot.passwords().ends_with("hunter2-root\n"));
    // A configured one: its password may be there for everybody.
    boot.given(&properties(network));
    assert_eq!(boot.codes(), [""; 0]);
    boot.host.source = dumb;
    assert_eq!(boot.codes(), [reasons::NOT_BLANKED.id]);
}

#[test]
fn a_reboot_inside_the_guest_does_not_lock_an_unconfigured_appliance() {
    let console = |value: &str| {
        properties(&format!(
            "<Property key=\"hotadd.grpc_port\" value=\"no\"/><Property key=\"hotadd.console_password\" value=\"{value}\"/>"
        ))
    };
    let set = "\nroot:hunter2-root\n";
    let mut boot = Boot::new(&console("hunter2-root"));
    assert_eq!((boot.codes(), &*boot.passwords()), (vec![reasons::INVALID.id.to_owned()], set));
    // What was blanked is what a reboot inside the guest finds.
    assert!(boot.guestinfo().contains("key=\"hotadd.console_password\" value=\"\""), "{}", boot.guestinfo());
    assert_eq!(boot.codes(), [reasons::MISSING.id, reasons::INVALID.id]);
    assert_eq!(boot.passwords(), set);
    // A power-on, which brings vCenter's password, brings an empty one to withdraw it.
    boot.given(&console(""));
    assert_eq!(boot.codes(), [reasons::INVALID.id]);
    assert_eq!(boot.passwords(), format!("{set}--encrypted\nroot:!\n"));
    // Nobody gave one to this appliance: it is locked.
    let boot = Boot::new(&boot.guestinfo());
    assert_eq!(boot.codes(), [reasons::MISSING.id, reasons::INVALID.id]);
    assert_eq!(boot.passwords(), "--encrypted\nroot:!\n");
}

#[test]
fn passwords_that_stay_visible_are_told() {
    let mut boot = Boot::new(&properties(""));
    boot.host.source = tool(boot.folder.path(), &properties(""), true);
    let state = boot.host.apply();
    assert_eq!((boot.configured(), &*state.faults[0].code), (Configured::Properties(1), reasons::NOT_BLANKED.id));
}

#[test]
fn passwords_are_blanked_also_when_nothing_can_be_kept() {
    let boot = Boot::new(&properties(""));
    // A file where the folder of the state should be.
    install(&boot.host.root.join("var/lib/hotadd-appliance"), b"", 0o644).unwrap();
    let state = boot.host.apply();
    assert_eq!(state.faults.iter().map(|fault| &*fault.code).collect::<Vec<_>>(), [reasons::WRITE.id]);
    assert!(!boot.guestinfo().contains("hunter2"));
    // What it came to is known all the same.
    assert_eq!(boot.configured(), Configured::Properties(1));
    fs::remove_file(boot.host.root.join("var/lib/hotadd-appliance")).unwrap();
    assert_eq!(boot.codes(), [""; 0]);
}

#[test]
fn an_empty_console_password_withdraws_the_old_one() {
    let with = "<Property key=\"hotadd.console_password\" value=\"hunter2-root\"/>";
    let mut boot = Boot::new(&properties(with));
    assert_eq!(boot.codes(), [""; 0]);
    boot.given(&properties("<Property key=\"hotadd.generation\" value=\"2\"/>"));
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(boot.passwords(), "\nroot:hunter2-root\n--encrypted\nroot:!\n");
}

#[test]
fn what_a_person_configured_is_not_changed() {
    let boot = Boot::new(&properties("<Property key=\"hotadd.generation\" value=\"2\"/>"));
    install(&boot.host.root.join("etc/hotadd/agent.toml"), b"listen = '[::]:99'\n", 0o644).unwrap();
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(boot.configured(), Configured::ByHand);
    assert_eq!(boot.file("etc/hotadd/agent.toml").as_deref(), Some("listen = '[::]:99'\n"));
    assert!(!boot.guestinfo().contains("hunter2"));
}

#[test]
fn a_system_disk_that_udev_does_not_know_is_told() {
    let boot = Boot::new(&properties(""));
    fs::remove_file(boot.host.root.join(OWN_DISKS)).unwrap();
    assert_eq!(boot.codes(), [reasons::OWN_DISKS.id]);
    assert_eq!(boot.configured(), Configured::Properties(1));
}

#[test]
fn what_a_trial_left_behind_is_removed_at_the_next_boot() {
    let boot = Boot::new(&properties(""));
    install(&boot.host.root.join("etc/hotadd/new/server.key"), b"key", 0o600).unwrap();
    install(&boot.host.root.join("etc/hotadd/agent.toml"), b"listen = '[::]:99'\n", 0o644).unwrap();
    assert_eq!(boot.codes(), [""; 0]);
    assert!(!boot.host.root.join("etc/hotadd/new").exists());
}
