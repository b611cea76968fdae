//! Copies in a folder, power cuts included.
#![allow(clippy::unwrap_used, reason = "tests")]
use std::path::Path;

use super::*;
use crate::apply::tests::{Boot, properties};

/// Identity of the copy.
const COPY: &str = "VMware-42 1d";
const ORIGINAL: &str = "<Property key=\"hotadd.hostname\" value=\"original\"/>\
    <Property key=\"hotadd.network_address\" value=\"192.0.2.10/24\"/>\
    <Property key=\"hotadd.console_password\" value=\"hunter2-root\"/>";

impl Boot {
    /// A configured appliance with duties, that is now another machine with the same properties.
    fn copied() -> Self {
        let mut boot = Self::new(&properties(ORIGINAL));
        assert_eq!(boot.codes(), [""; 0]);
        install(&boot.host.root.join("var/lib/hotadd/journal"), b"duties", 0o600).unwrap();
        boot.host.machine = Some(COPY.to_owned());
        boot.given(&properties(ORIGINAL));
        boot
    }

    fn is_left(&self) {
        assert_eq!(self.codes(), [reasons::COPY.id]);
        assert_eq!(self.configured(), Configured::No);
        assert_eq!(fs::read_dir(self.host.path(ETC)).unwrap().count(), 0);
        assert!(self.host.root.join("var/lib/hotadd/damaged").exists());
        assert_eq!(self.file("etc/hostname").as_deref(), Some("hotadd-proxy\n"));
        let state = State::load(&self.host.path(STATE));
        assert_eq!((state.spent, state.leaving, state.machine.as_deref()), (vec![1], None, Some(COPY)));
        assert!(!state.console);
        assert!(self.host.is_its_own());
    }
}

/// A boot that ends before its last step, and whose memory is lost: what is on the disk is what a power cut leaves. `undo`: an earlier cut.
fn cut(boot: &Boot, undo: impl Fn(&Path)) {
    let root = &boot.host.root;
    let obstacle = root.join(MACHINE_ID);
    fs::create_dir_all(&obstacle).unwrap();
    let mut memory = State::load(&boot.host.path(STATE));
    boot.host.leave_the_original(&mut memory).unwrap_err();
    fs::remove_dir(&obstacle).unwrap();
    undo(root);
    assert!(!boot.host.is_its_own());
}

#[test]
fn a_copy_whose_clearing_is_cut_never_becomes_the_original() {
    let (journal, aside) = ("var/lib/hotadd", "var/lib/hotadd-appliance/journal-of-VMware421c");
    let no_mark = |root: &Path| fs::remove_file(root.join("var/lib/hotadd/damaged")).unwrap();
    let not_aside = |root: &Path| {
        fs::remove_dir_all(root.join(journal)).unwrap();
        fs::rename(root.join(aside), root.join(journal)).unwrap();
    };
    let key_there = |root: &Path| {
        not_aside(root);
        install(&root.join("etc/hotadd/server.key"), b"key", 0o600).unwrap();
    };
    let points: [&dyn Fn(&Path); 4] = [&|_| (), &no_mark, &not_aside, &key_there];
    for undo in points {
        let boot = Boot::copied();
        cut(&boot, undo);
        boot.is_left();
        assert_eq!(boot.file(&format!("{aside}/journal")).as_deref(), Some("duties"));
        assert_eq!(boot.passwords().lines().last(), Some("root:!"));
        // Nor does another boot of it.
        boot.is_left();
    }
}

#[test]
fn a_copy_that_can_not_be_cleared_has_not_the_originals_address() {
    let boot = Boot::copied();
    fs::create_dir_all(boot.host.root.join(MACHINE_ID)).unwrap();
    let network = boot.file(NETWORK).unwrap();
    assert!(network.contains("192.0.2.10/24"));
    assert_eq!(boot.codes(), [reasons::WRITE.id]);
    assert!(!boot.host.is_its_own() && boot.file(NETWORK).unwrap().contains("DHCP=yes"));
    assert_eq!(boot.file("etc/hostname").as_deref(), Some("hotadd-proxy\n"));
    assert_eq!(boot.passwords().lines().last(), Some("root:!"));
}

#[test]
fn every_journal_that_is_left_is_put_aside() {
    let mut boot = Boot::copied();
    let aside = |name: &str| format!("var/lib/hotadd-appliance/{name}/journal");
    install(&boot.host.path(&aside("journal-of-VMware421c")), b"of another time", 0o600).unwrap();
    boot.is_left();
    assert_eq!(boot.file(&aside("journal-of-VMware421c")).as_deref(), Some("of another time"));
    assert_eq!(boot.file(&aside("journal-of-VMware421c-2")).as_deref(), Some("duties"));
    assert_eq!(boot.file("var/lib/hotadd/journal"), None);
    // A later one, cut: it is put aside once.
    boot.given(&properties("<Property key=\"hotadd.generation\" value=\"2\"/>"));
    assert_eq!(boot.codes(), [""; 0]);
    install(&boot.host.root.join("var/lib/hotadd/journal"), b"later", 0o600).unwrap();
    boot.host.machine = Some("VMware-42 1c".to_owned());
    cut(&boot, |_| ());
    boot.codes();
    assert_eq!(boot.file(&aside("journal-of-VMware421d")).as_deref(), Some("later"));
    assert!(!boot.host.root.join("var/lib/hotadd-appliance/journal-of-VMware421d-2").exists());
}

#[test]
fn a_clearing_that_was_begun_is_ended_by_the_original_too() {
    let mut boot = Boot::copied();
    cut(&boot, |root| fs::remove_file(root.join("var/lib/hotadd/damaged")).unwrap());
    boot.host.machine = State::load(&boot.host.path(STATE)).machine;
    assert!(!boot.host.is_its_own());
    assert_eq!(boot.codes(), [reasons::COPY.id]);
    // Its journal is aside: the agent has to look for what was in it.
    assert!(boot.host.is_its_own() && boot.host.root.join("var/lib/hotadd/damaged").exists());
}

#[test]
fn a_copy_keeps_nothing_of_the_original() {
    let mut boot = Boot::new(&properties("<Property key=\"hotadd.hostname\" value=\"original\"/>"));
    assert_eq!(boot.codes(), [""; 0]);
    let fingerprint = boot.host.fingerprint();
    install(&boot.host.root.join("var/lib/hotadd/journal"), b"duties", 0o600).unwrap();
    // What a power cut and an older configuration left is secret, too.
    install(&boot.host.root.join("etc/hotadd/new/server.key"), b"key", 0o600).unwrap();
    install(&boot.host.root.join("etc/hotadd/agent.toml.old"), b"old", 0o600).unwrap();
    let same = boot.host.machine.replace("VMware-42 1d".to_owned());
    // The same properties: those of the original, whose address and name they hold.
    boot.given(&properties("<Property key=\"hotadd.hostname\" value=\"original\"/>"));
    for _ in 0..2 {
        assert_eq!(boot.codes(), [reasons::COPY.id]);
        assert_eq!((boot.configured(), boot.host.fingerprint()), (Configured::No, None));
        assert_eq!(fs::read_dir(boot.host.root.join("etc/hotadd")).unwrap().count(), 0);
        // Should it be the original, the agent looks for disks that its new journal does not name.
        assert!(boot.host.root.join("var/lib/hotadd/damaged").exists());
        assert_eq!(boot.file("etc/hostname").as_deref(), Some("hotadd-proxy\n"));
        assert_eq!(boot.file("var/lib/hotadd/journal"), None);
        assert_eq!(boot.file("var/lib/hotadd-appliance/journal-of-VMware421c/journal").as_deref(), Some("duties"));
    }
    // Properties of its own.
    boot.given(&properties("<Property key=\"hotadd.generation\" value=\"2\"/>"));
    assert_eq!(boot.codes(), [""; 0]);
    assert!(boot.host.fingerprint().is_some_and(|own| Some(own) != fingerprint));
    // The machine that it is now is no copy.
    assert_eq!(boot.codes(), [""; 0]);
    assert_ne!(boot.host.machine, same);
}

#[test]
fn a_copy_that_can_not_be_cleared_does_not_serve() {
    let mut boot = Boot::new(&properties(""));
    assert_eq!((boot.codes(), boot.host.is_its_own()), (vec![], true));
    install(&boot.host.root.join("etc/machine-id"), b"original", 0o644).unwrap();
    boot.host.machine = Some("VMware-42 1d".to_owned());
    // Whose place can't be cleared: what was to be a file is a folder.
    let agent = boot.host.root.join("etc/hotadd/agent.toml");
    fs::remove_file(&agent).unwrap();
    fs::create_dir(&agent).unwrap();
    assert!(boot.codes().contains(&reasons::WRITE.id.to_owned()));
    assert!(!boot.host.is_its_own());
    assert_eq!(boot.file("etc/machine-id").as_deref(), Some("original"));
    fs::remove_dir(&agent).unwrap();
    boot.given("");
    boot.codes();
    assert!(boot.host.is_its_own());
    assert_eq!(boot.file("etc/machine-id").as_deref(), Some(""));
}

#[test]
fn a_copy_whose_guestinfo_does_not_answer_has_not_the_originals_address() {
    let mut boot = Boot::copied();
    boot.host.source = crate::source::Source::Guestinfo(boot.folder.path().join("absent"));
    assert!(boot.codes().contains(&reasons::COPY.id.to_owned()));
    assert!(boot.file(NETWORK).unwrap().contains("DHCP=yes"));
}

#[test]
fn a_template_that_was_never_configured_makes_appliances() {
    let mut boot = Boot::new("");
    assert_eq!(boot.codes(), [reasons::NO_ENVIRONMENT.id]);
    boot.host.machine = Some("VMware-42 1d".to_owned());
    boot.given(&properties(""));
    assert_eq!(boot.codes(), [""; 0]);
    assert_eq!(boot.configured(), Configured::Properties(1));
}

#[test]
fn a_copy_of_one_configured_by_hand_does_not_take_the_originals_properties() {
    let given = properties("<Property key=\"hotadd.hostname\" value=\"original\"/>");
    let mut boot = Boot::new(&given);
    install(&boot.host.root.join("etc/hotadd/agent.toml"), b"listen = '[::]:99'\n", 0o644).unwrap();
    assert_eq!(boot.codes(), [""; 0]);
    boot.host.machine = Some("VMware-42 1d".to_owned());
    boot.given(&given);
    assert_eq!(boot.codes(), [reasons::COPY.id]);
    assert_eq!(boot.configured(), Configured::No);
}

#[test]
fn a_copy_does_not_take_properties_that_led_the_original_to_nothing() {
    let faulty = |generation: u16| {
        properties(&format!(
            "{ORIGINAL}<Property key=\"hotadd.grpc_port\" value=\"no\"/>\
             <Property key=\"hotadd.generation\" value=\"{generation}\"/>"
        ))
    };
    // Configured by a person after a boot without success, and copied before the next one.
    let mut by_hand = Boot::new(&faulty(1));
    assert_eq!(by_hand.codes(), [reasons::INVALID.id]);
    install(&by_hand.host.etc(AGENT), b"listen = '[::]:99'\n", 0o644).unwrap();
    // Configured by properties, and given others that it did not take.
    let mut later = Boot::new(&properties(""));
    assert_eq!(later.codes(), [""; 0]);
    later.given(&faulty(2));
    assert_eq!(later.codes(), [reasons::INVALID.id]);
    for (boot, generation) in [(&mut by_hand, 1), (&mut later, 2)] {
        boot.host.machine = Some(COPY.to_owned());
        boot.given(&faulty(generation));
        assert_eq!(boot.codes(), [reasons::COPY.id]);
        assert!(boot.file(NETWORK).unwrap().contains("DHCP=yes"));
    }
    // Those that it was made by are the original's as well, whatever it was given since.
    later.given(&properties(ORIGINAL));
    assert_eq!(later.codes(), [reasons::COPY.id]);
    assert!(later.file(NETWORK).unwrap().contains("DHCP=yes"));
}

/// Both programs have to mean the same file.
#[test]
fn the_mark_of_a_forgetful_journal_is_the_agents() {
    let agent = include_str!("../../../src/journal/file.rs");
    assert!(agent.contains(&format!("const MARKER: &str = \"{FORGOTTEN}\";")));
}
