//! Tests of the manifest's checks.
use super::*;

fn disk() -> DiskRecord {
    let hash = Digest::of(b"x");
    let mut disk = DiskRecord {
        file: "disk-2000.raw".into(),
        device_key: 2000,
        label: "Hard disk 1".into(),
        backing: "[ds] a/a.vmdk".into(),
        capacity_bytes: (5 << 20) + 512,
        block_bytes: 1 << 20,
        transport: "hotadd".into(),
        engine: "preadv".into(),
        data: vec![(0, hash), (5 << 20, hash)],
        zero: vec![(1 << 20, 4 << 20)],
        ..DiskRecord::default()
    };
    disk.root = disk.compute_root();
    disk
}

/// Of the disk's four zero MiB two are left to the base.
fn changed() -> DiskRecord {
    let (zero, base) = (vec![(1 << 20, 1 << 20), (4 << 20, 1 << 20)], vec![(2 << 20, 2 << 20)]);
    let mut disk = DiskRecord { scope: Scope::Changed, zero, base, ..disk() };
    disk.root = disk.compute_root();
    disk
}

fn manifest(format: &str, base: Option<&str>, disks: Vec<DiskRecord>) -> Manifest {
    let base = base.map(|file| BaseRecord { file: file.into(), id: Digest::of(b"m"), job_id: "j".into() });
    Manifest {
        format: format.into(),
        created: "2026-01-01T00:00:00Z".into(),
        agent_version: "0".into(),
        client_version: "0".into(),
        job_id: "k".into(),
        vm_moref: "vm-1".into(),
        vm_name: "web01".into(),
        snapshot: SnapshotRecord { moref: "snapshot-1".into(), consistency: "crash".into(), fault: None },
        base,
        synthesized_from: None,
        vm_config: None,
        disks,
    }
}

#[test]
fn exact_coverage_passes() {
    assert_eq!(disk().check(), Ok(()));
    assert_eq!(changed().check(), Ok(()));
}

#[test]
fn a_gap_an_overlap_and_a_changed_hash_are_found() {
    let mut gap = disk();
    gap.zero = vec![(1 << 20, 3 << 20)];
    assert_eq!(gap.check(), Err(Flaw::Gap { disk: 2000, offset: 4 << 20 }));
    let mut twice = disk();
    twice.zero.push((2 << 20, 1 << 20));
    assert!(matches!(twice.check(), Err(Flaw::Overlap { .. })));
    let mut end = disk();
    end.data.pop();
    assert_eq!(end.check(), Err(Flaw::Gap { disk: 2000, offset: 5 << 20 }));
    let mut changed = disk();
    changed.data[0].1 = Digest::of(b"y");
    assert_eq!(changed.check(), Err(Flaw::Root { disk: 2000 }));
}

#[test]
fn areas_of_the_base_are_part_of_the_coverage_and_of_the_root() {
    let mut gap = changed();
    gap.base.clear();
    assert_eq!(gap.check(), Err(Flaw::Gap { disk: 2000, offset: 2 << 20 }));
    let mut twice = changed();
    twice.base.push((4 << 20, 1 << 20));
    assert!(matches!(twice.check(), Err(Flaw::Overlap { offset, .. }) if offset == 4 << 20));
    // A zero run that is called the base's, or the other way round, is another disk.
    let mut swapped = changed();
    (swapped.zero, swapped.base) = (swapped.base, swapped.zero);
    assert_eq!(swapped.check(), Err(Flaw::Root { disk: 2000 }));
    for scope in [Scope::Whole, Scope::Allocated] {
        assert_eq!(DiskRecord { scope, ..changed() }.check(), Err(Flaw::Alone { disk: 2000, offset: 2 << 20 }));
    }
}

#[test]
fn data_keeps_to_the_grid() {
    let mut off = disk();
    off.data[1].0 = (5 << 20) - 512;
    off.zero = vec![(1 << 20, (4 << 20) - 512)];
    assert_eq!(off.check(), Err(Flaw::Grid { disk: 2000, offset: (5 << 20) - 512 }));
}

#[test]
fn hostile_fields_are_refused() {
    for file in ["", "../x", "a/b", "..", "."] {
        let bad = DiskRecord { file: file.into(), ..disk() };
        assert!(matches!(bad.check(), Err(Flaw::File { .. })), "{file}");
    }
    let block = DiskRecord { block_bytes: 3 << 20, ..disk() };
    assert!(matches!(block.check(), Err(Flaw::BlockSize { .. })));
    let beyond = DiskRecord { zero: vec![(1 << 20, u64::MAX)], ..disk() };
    assert!(beyond.check().is_err());
}

#[test]
fn a_base_is_named_where_a_disk_needs_one_and_only_by_a_relative_path() {
    assert_eq!(manifest(FORMAT, Some("../full/manifest.json"), vec![changed()]).check(), Ok(()));
    assert_eq!(manifest(FORMAT, None, vec![changed()]).check(), Err(Flaw::NoBase { disk: 2000 }));
    for path in ["", "/etc/passwd", "a\0b"] {
        let bad = manifest(FORMAT, Some(path), vec![changed()]);
        assert_eq!(bad.check(), Err(Flaw::BasePath(path.into())));
    }
}

#[test]
fn no_disk_and_no_file_is_named_twice() {
    let twin = |key, file: &str| DiskRecord { device_key: key, file: file.into(), ..disk() };
    for second in [twin(2000, "other.raw"), twin(2001, "disk-2000.raw")] {
        let bad = manifest(FORMAT, None, vec![disk(), second]);
        assert!(matches!(bad.check(), Err(Flaw::Twice { .. })));
    }
    assert_eq!(manifest(FORMAT, None, vec![disk(), twin(2001, "disk-2001.raw")]).check(), Ok(()));
}

#[test]
fn the_first_format_is_still_read_and_knows_no_bases() {
    let hash = Digest::of(b"x").to_string();
    let mut old = serde_json::json!({"format": FORMAT_1, "created": "", "agent_version": "0", "job_id": "j",
        "vm_moref": "vm-1", "vm_name": "a", "snapshot": {"moref": "s", "consistency": "crash", "fault": null},
        "disks": [{"file": "a.raw", "device_key": 2000, "label": "", "backing": "", "uuid": "", "change_id": "",
            "capacity_bytes": (5 << 20) + 512, "block_bytes": 1 << 20, "transport": "hotadd", "engine": "preadv",
            "data": [[0, hash], [5 << 20, hash]], "zero": [[1 << 20, 4 << 20]], "root": disk().root}]});
    let read: Manifest = serde_json::from_value(old.clone()).unwrap();
    assert_eq!(read.check(), Ok(()));
    old["disks"][0]["scope"] = "allocated".into();
    let read: Manifest = serde_json::from_value(old).unwrap();
    assert_eq!(read.check(), Err(Flaw::Format(FORMAT_1.into())));
    assert!(matches!(manifest("hotadd-manifest/3", None, vec![disk()]).check(), Err(Flaw::Format(_))));
}
