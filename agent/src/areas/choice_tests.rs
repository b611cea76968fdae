//! Every reason that forces more to be read, by itself, and what is read then.
use super::*;
use crate::hypervisor::BackingKind;
use crate::id::BackingPath;

const ID: &str = "52 de 1b-0a/7";

fn disk() -> TargetDisk {
    TargetDisk {
        device_key: 2000,
        label: "Hard disk 1".into(),
        place: "scsi0:0".into(),
        backing: BackingPath::new("[ds1] web/web.vmdk"),
        backing_kind: BackingKind::FlatV2,
        datastore: None,
        datastore_name: "ds1".into(),
        capacity_bytes: 1 << 30,
        uuid: Some("6000c29aaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap()),
        change_id: ID.into(),
        independent: false,
        shared: false,
    }
}

fn base() -> Base {
    let uuid = disk().uuid.unwrap().to_string();
    Base { change_id: "52 de 1b-0a/5".into(), uuid, capacity_bytes: 1 << 30, known: Vec::new() }
}

fn facts(disk: &TargetDisk) -> Facts<'_> {
    static ON: Fact<bool> = Fact::Known(true);
    Facts { disk, exported: false, enabled: &ON, untracked_before: None, below: &[], build: None, untrusted: None }
}

/// Scope, changeId that is asked from, reason.
fn told(step: Step) -> (Scope, String, &'static str) {
    let code = |why: Option<Error>| why.map_or("", |why| why.reason().code);
    match step {
        Step::Whole(why) => (Scope::Whole, String::new(), code(why)),
        Step::Map { scope, change_id, wider } => (scope, change_id, code(wider)),
    }
}

fn whole(reason: &ReasonCode) -> (Scope, String, &'static str) {
    (Scope::Whole, String::new(), reason.code)
}

fn allocated(reason: &ReasonCode) -> (Scope, String, &'static str) {
    (Scope::Allocated, "*".into(), reason.code)
}

#[test]
fn what_was_asked_is_read_when_nothing_speaks_against_it() {
    let disk = disk();
    let facts = facts(&disk);
    assert_eq!(told(first(Scope::Whole, Some(&base()), &facts)), (Scope::Whole, String::new(), ""));
    assert_eq!(told(first(Scope::Allocated, Some(&base()), &facts)), (Scope::Allocated, "*".into(), ""));
    assert_eq!(told(first(Scope::Changed, Some(&base()), &facts)), (Scope::Changed, "52 de 1b-0a/5".into(), ""));
    let unknown = Base { uuid: String::new(), ..base() };
    assert_eq!(
        told(first(Scope::Changed, Some(&unknown), &facts)).0,
        Scope::Changed,
        "what was not known does not differ"
    );
}

#[test]
fn what_speaks_against_every_map() {
    let good = disk();
    let (off, unknown) = (Fact::Known(false), Fact::Unknown("NoPermission".into()));
    let untracked = TargetDisk { change_id: String::new(), ..disk() };
    let cases = [
        (Facts { exported: true, ..facts(&good) }, &reason::CBT_EXPORT),
        (Facts { enabled: &off, ..facts(&good) }, &reason::CBT_OFF),
        (Facts { enabled: &unknown, ..facts(&good) }, &reason::CBT_OFF),
        (facts(&untracked), &reason::CBT_OFF),
        (Facts { untracked_before: Some("snapshot-1"), ..facts(&good) }, &reason::CBT_SNAPSHOTS),
        (Facts { build: Build::parse("6.0.0", "3029758"), ..facts(&good) }, &reason::CBT_KNOWN_BAD),
        (Facts { untrusted: Some("since Monday"), ..facts(&good) }, &reason::CBT_UNTRUSTED),
    ];
    for (facts, reason) in cases {
        for scope in [Scope::Allocated, Scope::Changed] {
            assert_eq!(told(first(scope, Some(&base()), &facts)), whole(reason), "{facts:?}");
        }
        assert_eq!(told(first(Scope::Whole, None, &facts)).2, "", "nothing else was wanted: {facts:?}");
    }
}

#[test]
fn known_bad_releases_end_where_they_were_healed() {
    let (small, large) = (disk(), TargetDisk { capacity_bytes: 128 << 30, ..disk() });
    let bad = |disk, version, build| {
        let facts = Facts { build: Build::parse(version, build), ..facts(disk) };
        told(first(Scope::Allocated, None, &facts)).2 == reason::CBT_KNOWN_BAD.code
    };
    assert!(bad(&large, "5.5.0", "9999999") && !bad(&small, "5.5.0", "9999999"));
    assert!(bad(&small, "6.0.0", "3247719") && !bad(&small, "6.0.0", "3247720"));
    assert!(!bad(&large, "6.5.0", "1") && !bad(&large, "8.0.2", "22380479"));
}

#[test]
fn what_speaks_against_a_base() {
    let disk = disk();
    let differs = |change: fn(&mut Base)| {
        let mut base = base();
        change(&mut base);
        told(first(Scope::Changed, Some(&base), &facts(&disk)))
    };
    assert_eq!(told(first(Scope::Changed, None, &facts(&disk))), allocated(&reason::CBT_NO_BASE));
    assert_eq!(differs(|base| base.capacity_bytes += 512), whole(&reason::CBT_CAPACITY));
    assert_eq!(differs(|base| base.uuid.replace_range(0..1, "7")), allocated(&reason::CBT_DISK));
    assert_eq!(differs(|base| base.change_id.clear()), allocated(&reason::CBT_BASE_EMPTY));
    for other in ["52 de 1b-0b/5", "5", "/5", "52 de 1b-0a/", "52 de 1b-0a/x", "52 de 1b-0a/-1", "*"] {
        let base = Base { change_id: other.into(), ..base() };
        assert_eq!(told(first(Scope::Changed, Some(&base), &facts(&disk))), allocated(&reason::CBT_RESET), "{other}");
    }
    for back in ["52 de 1b-0a/7", "52 de 1b-0a/8", "52 de 1b-0a/18446744073709551615"] {
        let base = Base { change_id: back.into(), ..base() };
        assert_eq!(told(first(Scope::Changed, Some(&base), &facts(&disk))), allocated(&reason::CBT_REVERTED), "{back}");
    }
}

/// The sequence goes on from the snapshot that was reverted to, and passes the base's again.
#[test]
fn a_revert_to_an_older_snapshot_can_not_be_excluded_while_it_stands() {
    let disk = disk();
    let below = |id: &str| vec![("nightly".to_owned(), id.to_owned())];
    for (id, due) in [
        ("52 de 1b-0a/4", allocated(&reason::CBT_REVERTED)),
        ("of another form", allocated(&reason::CBT_REVERTED)),
        ("52 de 1b-0a/5", (Scope::Changed, "52 de 1b-0a/5".into(), "")),
        ("52 de 1b-0a/6", (Scope::Changed, "52 de 1b-0a/5".into(), "")),
    ] {
        let below = below(id);
        let facts = Facts { below: &below, ..facts(&disk) };
        assert_eq!(told(first(Scope::Changed, Some(&base()), &facts)), due, "{id}");
    }
}

#[test]
fn a_disk_that_can_not_be_marked_is_read_whole() {
    let no_uuid = TargetDisk { uuid: None, ..disk() };
    let other_form = TargetDisk { change_id: "7".into(), ..disk() };
    for disk in [no_uuid, other_form] {
        assert_eq!(told(first(Scope::Allocated, None, &facts(&disk))), whole(&reason::CBT_OFF));
    }
}

#[test]
fn a_map_that_fails_makes_more_be_read() {
    let fault = || Error::new(&reason::CBT_FAULT, "FileFault").with_fault("FileFault");
    let late = || Error::new(&reason::CBT_FAULT, "no answer");
    let impossible = || Error::new(&reason::CBT_IMPOSSIBLE, "no progress");
    assert_eq!(told(after(Scope::Changed, fault(), None)), allocated(&reason::CBT_FAULT));
    assert_eq!(told(after(Scope::Changed, late(), None)), whole(&reason::CBT_FAULT));
    assert_eq!(told(after(Scope::Changed, impossible(), None)), whole(&reason::CBT_IMPOSSIBLE));
    assert_eq!(told(after(Scope::Allocated, fault(), None)), whole(&reason::CBT_FAULT));
    let before = Error::new(&reason::CBT_NO_BASE, "none was given");
    let Step::Whole(Some(why)) = after(Scope::Allocated, fault(), Some(&before)) else { panic!("not whole") };
    assert!(why.message().contains("none was given") && why.message().contains("FileFault"), "{why}");
}
