//! Incremental backups of the built program against an agent that behaves, and against agents that do not: what is asked,
//! which maps are believed, and what the chain comes to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::common::*;
use hotadd_api::{
    manifest::{self, Manifest},
    v1::{job_event::Item, *},
};
use tempfile::{TempDir, tempdir};

const FIRST: &str = "52 aa/1";
const SECOND: &str = "52 aa/2";
const KEYS: [i32; 2] = [2000, 2001];

/// The script with this changeId on every disk.
fn with_change_id(mut script: Script, id: &str) -> Script {
    for step in script.steps.iter_mut().chain(&mut script.again) {
        let Step::Say(event) = step else { continue };
        let facts: Vec<&mut DiskFacts> = match event.item.as_mut().unwrap() {
            Item::Preflight(preflight) => preflight.disks.iter_mut().filter_map(|plan| plan.disk.as_mut()).collect(),
            Item::Opened(opened) => opened.disk.iter_mut().collect(),
            Item::DiskRead(disk) => disk.disk.iter_mut().collect(),
            Item::Result(job) => job.disks.iter_mut().filter_map(|disk| disk.disk.as_mut()).collect(),
            _ => Vec::new(),
        };
        facts.into_iter().for_each(|facts| facts.change_id = id.into());
    }
    script
}

fn map(scope: Scope, blocks: &[u64]) -> ReadMap {
    let areas = blocks.iter().map(|block| Range { offset: block * B, length: B.min(CAPACITY - block * B) }).collect();
    ReadMap { scope: scope.into(), areas, mapped_bytes: 1, sampled_blocks: 3, ..ReadMap::default() }
}

fn open(key: i32, transport: Transport, bytes_required: u64, map: Option<ReadMap>) -> Step {
    let (disk, engine) = (Some(facts(key)), "preadv".to_owned());
    say(Item::Opened(DiskOpened { disk, engine, bytes_required, transport: transport.into(), map }))
}

fn opened_with(key: i32, map: ReadMap) -> Step {
    let whole = map.scope() == Scope::Whole;
    let due = if whole { CAPACITY } else { map.areas.iter().map(|area| area.length).sum() };
    open(key, Transport::Hotadd, due, Some(map))
}

/// Block `index` as it is after the change.
fn fresh(key: i32, index: u64) -> Frame {
    let data = vec![0xc0 + u8::try_from(index).unwrap(); frame(key, index).length as usize];
    let blake3 = blake3::hash(&data).as_bytes().to_vec().into();
    Frame {
        device_key: key,
        offset: index * B,
        length: u32::try_from(data.len()).unwrap(),
        zero: false,
        data: data.into(),
        blake3,
        ..Frame::default()
    }
}

/// A job in which block 2 (a zero block) and 4 (the short one) of both disks changed.
fn changed() -> Script {
    let mut script = Script { steps: prologue(&KEYS), ..Script::good() };
    for key in KEYS {
        script.steps.push(opened_with(key, map(Scope::Changed, &[2, 4])));
        script.steps.extend([2, 4].map(|index| say(Item::Frame(fresh(key, index)))));
        script.steps.push(say(Item::DiskRead(disk_ok(key))));
    }
    script.steps.push(Script::good().steps.pop().unwrap());
    with_change_id(script, SECOND)
}

/// `changed` with other steps instead of the opening of disk 2000.
fn opening(steps: Vec<Step>) -> Script {
    let mut script = changed();
    let at = script.position(|item| matches!(item, Item::Opened(_)));
    script.steps.splice(at..=at, steps);
    with_change_id(script, SECOND)
}

/// A folder with a full backup in `full`.
fn full() -> TempDir {
    let folder = tempdir().unwrap();
    let agent = Agent::start(with_change_id(Script::good(), FIRST));
    assert_eq!(agent.backup(&folder.path().join("full"), &[]).code, 0);
    folder
}

fn base(folder: &Path) -> String {
    folder.join("full/manifest.json").to_str().unwrap().to_owned()
}

fn incremental(agent: &Agent, folder: &Path, more: &[&str]) -> Ended {
    let base = base(folder);
    let args = [&["--incremental", "--base", &base], more].concat();
    agent.backup(&folder.join("inc"), &args)
}

fn read(folder: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

fn after(key: i32) -> Vec<u8> {
    let mut disk = image(key);
    for frame in [fresh(key, 2), fresh(key, 4)] {
        let at = usize::try_from(frame.offset).unwrap();
        disk[at..at + frame.data.len()].copy_from_slice(&frame.data);
    }
    disk
}

/// An incremental with this script must fail, and leave nothing but the base as it was.
#[track_caller]
fn fails(script: Script, code: i32, id: &str) {
    let (folder, agent) = (full(), Agent::start(script));
    let before = fs::read(base(folder.path())).unwrap();
    incremental(&agent, folder.path(), &[]).failed(code, id, "done");
    assert_eq!(names(&folder.path().join("inc")), [""; 0]);
    assert_eq!(fs::read(base(folder.path())).unwrap(), before);
}

#[test]
fn an_incremental_asks_for_changes_and_holds_only_them() {
    let (folder, agent) = (full(), Agent::start(changed()));
    let ended = incremental(&agent, folder.path(), &["--seed", "7", "--enable-change-tracking"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let request = agent.state.requests.lock().unwrap()[0].clone();
    assert_eq!((request.scope(), request.sample_seed, request.enable_change_tracking), (Scope::Changed, 7, true));
    assert_eq!(request.bases.iter().map(|base| base.device_key).collect::<Vec<_>>(), KEYS);
    let asked = &request.bases[0];
    assert_eq!((asked.change_id.as_str(), asked.uuid.as_str(), asked.capacity_bytes), (FIRST, "6000c29", CAPACITY));
    // All five blocks of so small a disk are known, the zero ones too.
    let known: Vec<_> = asked.known.iter().map(|known| (known.offset, known.blake3.clone())).collect();
    let truth = (0..5).map(|index| (index * B, frame(2000, index).blake3.to_vec()));
    assert_eq!(known, truth.collect::<Vec<_>>());

    let manifest = read(&folder.path().join("inc"));
    assert_eq!(manifest.check(), Ok(()));
    let named = manifest.base.unwrap();
    assert_eq!(named.file, "../full/manifest.json");
    assert_eq!(named.id.as_bytes(), blake3::hash(&fs::read(base(folder.path())).unwrap()).as_bytes());
    let disk = &manifest.disks[0];
    assert_eq!(disk.file, format!("{NAME}-disk-2000.changed.raw"));
    assert_eq!((disk.scope, disk.base_change_id.as_str()), (manifest::Scope::Changed, FIRST));
    assert_eq!((disk.change_id.as_str(), disk.sampled_blocks), (SECOND, 3));
    assert_eq!(disk.base, [(0, 2 * B), (3 * B, B)]);
    let image = fs::read(folder.path().join("inc").join(&disk.file)).unwrap();
    assert!(image[..usize::try_from(2 * B).unwrap()].iter().all(|byte| *byte == 0));
}

#[test]
fn the_chain_verifies_and_comes_to_the_disk_as_it_is() {
    let (folder, agent) = (full(), Agent::start(changed()));
    assert_eq!(incremental(&agent, folder.path(), &[]).code, 0);
    let manifest = folder.path().join("inc/manifest.json");
    let verified = Ended::of(agent.ctl(&["verify", "--chain"]).arg(&manifest));
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(verified.stdout.contains("over 2 backups"), "{verified:?}");
    let out = folder.path().join("synthetic");
    let made = Ended::of(agent.ctl(&["synthesize"]).arg(&manifest).arg("--out").arg(&out));
    assert_eq!(made.code, 0, "{made:?}");
    for key in KEYS {
        assert!(fs::read(out.join(format!("{NAME}-disk-{key}.raw"))).unwrap() == after(key));
    }
    assert_eq!(Ended::of(agent.ctl(&["verify"]).arg(out.join("manifest.json"))).code, 0);
    let image = folder.path().join(format!("full/{NAME}-disk-2001.raw"));
    let mut bytes = fs::read(&image).unwrap();
    bytes[5] ^= 1;
    fs::write(&image, bytes).unwrap();
    Ended::of(agent.ctl(&["verify", "--chain"]).arg(&manifest)).failed(8, "HA-CTL-019", "done");
    fs::remove_file(base(folder.path())).unwrap();
    Ended::of(agent.ctl(&["verify", "--chain"]).arg(&manifest)).failed(8, "HA-CTL-023", "done");
}

#[test]
fn a_disk_that_came_wider_stands_alone_and_says_why() {
    let wider = Some(reason("HA-CBT-003", Cleanup::Done));
    let whole = ReadMap { wider, ..map(Scope::Whole, &[]) };
    let mut script = opening(vec![opened_with(2000, whole)]);
    let at = script.position(|item| matches!(item, Item::Frame(_)));
    script.steps.splice(at..at + 2, (0..5).map(|index| say(Item::Frame(frame(2000, index)))));
    let (folder, agent) = (full(), Agent::start(with_change_id(script, SECOND)));
    let ended = incremental(&agent, folder.path(), &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("more is read than was asked for: HA-CBT-003"), "{ended:?}");
    let manifest = read(&folder.path().join("inc"));
    let scopes: Vec<_> = manifest.disks.iter().map(|disk| (disk.scope, disk.wider.as_deref())).collect();
    let why = Some("HA-CBT-003: HA-CBT-003 happened");
    assert_eq!(scopes, [(manifest::Scope::Whole, why), (manifest::Scope::Changed, None)]);
    assert!(manifest.base.is_some());
}

#[test]
fn an_agent_that_knows_no_scope_gives_a_full_backup() {
    let (folder, agent) = (full(), Agent::start(with_change_id(Script::good(), SECOND)));
    assert_eq!(incremental(&agent, folder.path(), &[]).code, 0);
    let manifest = read(&folder.path().join("inc"));
    assert!(manifest.base.is_none() && manifest.disks.iter().all(|disk| disk.scope == manifest::Scope::Whole));
}

#[test]
fn what_was_never_allocated_is_zero() {
    let mut script = Script { steps: prologue(&[2000]), ..Script::good() };
    script.steps.push(opened_with(2000, map(Scope::Allocated, &[0, 3, 4])));
    script.steps.extend([0, 3, 4].map(|index| say(Item::Frame(frame(2000, index)))));
    script.steps.push(say(Item::DiskRead(disk_ok(2000))));
    script.steps.push(say(Item::Result(job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000)]))));
    let (folder, agent) = (tempdir().unwrap(), Agent::start(script.clone()));
    assert_eq!(agent.backup(folder.path(), &["--allocated"]).code, 0);
    assert_eq!(agent.state.requests.lock().unwrap()[0].scope(), Scope::Allocated);
    let disk = read(folder.path()).disks.remove(0);
    assert_eq!((disk.scope, disk.zero), (manifest::Scope::Allocated, vec![(B, 2 * B)]));
    assert!(fs::read(folder.path().join(&disk.file)).unwrap() == image(2000));
    // Who asked for everything takes nothing less.
    let (folder, agent) = (tempdir().unwrap(), Agent::start(script));
    agent.backup(folder.path(), &[]).failed(5, "HA-CTL-011", "done");
}

#[test]
fn hostile_maps_end_the_job() {
    let mut overlapping = map(Scope::Changed, &[2, 3]);
    overlapping.areas[0].length = 2 * B;
    let mut backwards = map(Scope::Changed, &[2, 4]);
    backwards.areas.reverse();
    let mut unaligned = map(Scope::Changed, &[2]);
    unaligned.areas[0].offset += 512;
    let mut beyond = map(Scope::Changed, &[4]);
    beyond.areas[0].length = B;
    let many = ReadMap { areas: vec![Range { offset: 0, length: B }; 65_537], ..map(Scope::Changed, &[]) };
    let whole = map(Scope::Whole, &[1]);
    let nothing = map(Scope::Unspecified, &[]);
    for map in [overlapping, backwards, unaligned, beyond, many, whole, nothing] {
        fails(opening(vec![opened_with(2000, map)]), 5, "HA-CTL-011");
    }
    // It announces more than its map names.
    let short = open(2000, Transport::Hotadd, CAPACITY, Some(map(Scope::Changed, &[2, 4])));
    fails(opening(vec![short]), 5, "HA-CTL-011");
}

#[test]
fn a_disk_is_not_read_as_changed_since_another() {
    type Change = fn(&mut DiskFacts);
    let changes: [Change; 2] = [|facts| facts.uuid = "6000c30".into(), |facts| facts.device_key = 2002];
    for change in changes {
        let mut script = changed();
        let at = script.position(|item| matches!(item, Item::Opened(_)));
        if let Step::Say(event) = &mut script.steps[at]
            && let Some(Item::Opened(opened)) = &mut event.item
        {
            change(opened.disk.as_mut().unwrap());
        }
        fails(script, 5, "HA-CTL-011");
    }
}

#[test]
fn a_map_does_not_change_between_two_openings() {
    let again = |blocks: &[u64]| {
        let mut script = changed();
        let at = script.position(|item| matches!(item, Item::Frame(_)));
        let rest = open(2000, Transport::Nbd, 512, Some(map(Scope::Changed, blocks)));
        script.steps.insert(at + 1, rest);
        with_change_id(script, SECOND)
    };
    let (folder, agent) = (full(), Agent::start(again(&[2, 4])));
    assert_eq!(incremental(&agent, folder.path(), &[]).code, 0);
    fails(again(&[4]), 5, "HA-CTL-011");
    fails(again(&[2, 3]), 5, "HA-CTL-011");
}

#[test]
fn only_what_the_map_names_may_come_and_all_of_it_must() {
    let frames = |frames: Vec<Frame>| {
        let mut script = changed();
        let at = script.position(|item| matches!(item, Item::Frame(_)));
        script.steps.splice(at..at + 2, frames.into_iter().map(|frame| say(Item::Frame(frame))));
        script
    };
    let (second, fourth) = (fresh(2000, 2), fresh(2000, 4));
    fails(frames(vec![second.clone(), fresh(2000, 3), fourth.clone()]), 5, "HA-CTL-013");
    fails(frames(vec![second.clone()]), 5, "HA-CTL-013");
    fails(frames(vec![fourth.clone()]), 5, "HA-CTL-013");
    fails(frames(vec![second.clone(), second, fourth]), 5, "HA-CTL-013");
}

#[test]
fn a_base_that_does_not_hold_is_refused_before_the_agent_is_asked() {
    let (folder, agent) = (full(), Agent::start(changed()));
    // Never into the folder of what it builds on, whatever is forced.
    let base = base(folder.path());
    let args = ["--incremental", "--base", &base, "--force"];
    agent.backup(&folder.path().join("full"), &args).failed(2, "HA-CTL-004", "done");
    let other = folder.path().join("second");
    assert_eq!(incremental(&agent, folder.path(), &[]).code, 0);
    let before = agent.state.requests.lock().unwrap().len();
    fs::write(&base, "{}").unwrap();
    let on_top = folder.path().join("inc/manifest.json");
    let args = ["--incremental", "--base", on_top.to_str().unwrap()];
    agent.backup(&other, &args).failed(2, "HA-CTL-024", "done");
    agent.backup(&other, &["--incremental", "--base", "/no/such/manifest"]).failed(2, "HA-CTL-018", "done");
    assert_eq!(agent.state.requests.lock().unwrap().len(), before);
}

#[test]
fn another_vm_than_that_of_the_base_is_refused() {
    let mut script = changed();
    let at = script.position(|item| matches!(item, Item::Preflight(_)));
    if let Step::Say(event) = &mut script.steps[at]
        && let Some(Item::Preflight(preflight)) = &mut event.item
    {
        preflight.vm_moref = "vm-43".into();
    }
    fails(script, 2, "HA-CTL-026");
}

#[test]
fn a_broken_incremental_is_resumed_by_the_ranges_that_are_left() {
    let kept =
        JobResult { resume_until: "2099-01-01T00:00:00Z".into(), ..job(JobState::Failed, Cleanup::Owed, vec![]) };
    // The stream breaks after block 2 of the first disk; the second was opened and nothing of it came.
    let mut script = Script { steps: prologue(&KEYS), job: Some(kept), running: 0, ..Script::good() };
    script.steps.extend(KEYS.map(|key| opened_with(key, map(Scope::Changed, &[2, 4]))));
    script.steps.push(say(Item::Frame(fresh(2000, 2))));
    script.steps.push(Step::Cut(tonic::Status::unknown("connection reset")));
    script.again = prologue(&KEYS);
    script.again.extend([open(2000, Transport::Hotadd, 512, None), open(2001, Transport::Hotadd, B + 512, None)]);
    script.again.extend([(2000, 4), (2001, 2), (2001, 4)].map(|(key, index)| say(Item::Frame(fresh(key, index)))));
    script.again.extend(KEYS.map(|key| say(Item::DiskRead(disk_ok(key)))));
    script.again.push(Script::good().steps.pop().unwrap());
    let (folder, agent) = (full(), Agent::start(with_change_id(script, SECOND)));
    let ended = incremental(&agent, folder.path(), &["--resume-for", "30"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let rest = agent.state.requests.lock().unwrap()[1].clone();
    assert_eq!((rest.scope(), rest.bases.len(), rest.resume_job.as_str()), (Scope::Unspecified, 0, "job-1"));
    let ranges = |key| {
        let of = rest.ranges.iter().find(|ranges| ranges.device_key == key).unwrap();
        of.ranges.iter().map(|range| (range.offset, range.length)).collect::<Vec<_>>()
    };
    assert_eq!(ranges(2000), [(4 * B, 512)]);
    assert_eq!(ranges(2001), [(2 * B, B), (4 * B, 512)]);
    let manifest = folder.path().join("inc/manifest.json");
    assert_eq!(Ended::of(agent.ctl(&["verify", "--chain"]).arg(&manifest)).code, 0);
}

/// A key that only we may read, in raw form.
fn seed(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("seed");
    fs::write(&path, [7; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_backup_is_signed_when_it_is_asked_for() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, agent) = (tempdir().unwrap(), Agent::start(Script::good()));
    let (key, out) = (seed(folder.path()), folder.path().join("full"));
    let sign = ["--sign", key.to_str().unwrap()];
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    agent.backup(&out, &sign).failed(2, "HA-CTL-027", "done");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(agent.backup(&out, &sign).code, 0);
    let (manifest, public) = (out.join("manifest.json"), folder.path().join("pub"));
    let verify = || Ended::of(agent.ctl(&["verify"]).arg(&manifest).arg("--public-key").arg(&public));
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    fs::write(&public, ring::signature::KeyPair::public_key(&pair)).unwrap();
    assert_eq!(verify().code, 0);
    let mut text = fs::read_to_string(&manifest).unwrap();
    text.push('\n');
    fs::write(&manifest, text).unwrap();
    verify().failed(8, "HA-CTL-028", "done");
}
