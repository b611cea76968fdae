//! The built program against an agent that behaves, and against agents that do not: exit code, error line, clean-up
//! state, and never a file that looks like a backup after a failure.

use std::{fs, path::Path, process::Command, sync::atomic::Ordering};

use crate::common::*;
use hotadd_api::v1::{job_event::Item, *};
use tempfile::tempdir;
use tonic::Code;

/// Backs up with a script that must fail, and checks that nothing is left of it.
#[track_caller]
fn fails(script: Script, more: &[&str], code: i32, id: &str, cleanup: &str) {
    let (agent, folder) = (Agent::start(script), tempdir().unwrap());
    let ended = agent.backup(folder.path(), more);
    ended.failed(code, id, cleanup);
    assert_eq!(names(folder.path()), [""; 0]);
}

fn whole(folder: &Path, key: i32) {
    let image = fs::read(folder.join(format!("{NAME}-disk-{key}.raw"))).unwrap();
    assert!(image == image_of(key), "the image of {key} differs");
}

fn image_of(key: i32) -> Vec<u8> {
    crate::common::image(key)
}

#[test]
fn a_backup_equals_its_source_and_verifies() {
    let (agent, folder) = (Agent::start(Script::good()), tempdir().unwrap());
    let out = folder.path().join("new/folder");
    let ended = agent.backup(&out, &["--request-id", "req", "--consistency", "prefer_app", "--quiesce-timeout", "9"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let raw = [2000, 2001].map(|key| format!("{NAME}-disk-{key}.raw"));
    assert_eq!(names(&out), ["manifest.json", &raw[0], &raw[1]]);
    whole(&out, 2000);
    whole(&out, 2001);
    let request = agent.state.requests.lock().unwrap()[0].clone();
    assert_eq!((request.request_id.as_str(), request.block_bytes, request.vm.as_str()), ("req", BLOCK, "web01"));
    let snapshot = request.snapshot.unwrap();
    assert_eq!((snapshot.consistency(), snapshot.timeout_seconds), (Consistency::PreferApp, 9));
    for word in ["io_uring: EPERM", "Hard disk 1", "scsi0:1", "consistency reached: crash", "manifest.json", "4.00 s"] {
        assert!(ended.stdout.contains(word) || ended.stderr.contains(word), "{word}: {ended:?}");
    }
    assert!(!agent.state.left.load(Ordering::SeqCst), "the client must not run away from a finished stream");
    let manifest = out.join("manifest.json");
    let verified = Ended::of(agent.ctl(&["verify"]).arg(&manifest));
    assert_eq!(verified.code, 0, "{verified:?}");
    let mut image = fs::read(out.join(&raw[1])).unwrap();
    image[70_000] = 1;
    fs::write(out.join(&raw[1]), image).unwrap();
    Ended::of(agent.ctl(&["verify"]).arg(&manifest)).failed(8, "HA-CTL-019", "done");
}

#[test]
fn json_lines_tell_every_step() {
    let (agent, folder) = (Agent::start(Script::good()), tempdir().unwrap());
    let ended = agent.backup(folder.path(), &["--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    let events: Vec<serde_json::Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    for name in ["job_id", "preflight", "phase", "opened", "disk", "job", "result"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let result = events.last().unwrap();
    assert_eq!((result["event"].as_str(), result["cleanup"].as_str()), (Some("result"), Some("done")));
    let again = agent.backup(folder.path(), &["--json"]);
    let error: serde_json::Value = serde_json::from_str(again.stdout.trim()).unwrap();
    assert_eq!((again.code, error["event"].as_str(), error["exit"].as_u64()), (2, Some("error"), Some(2)));
}

#[test]
fn an_old_backup_stays_unless_it_is_replaced_by_a_proven_one() {
    let folder = tempdir().unwrap();
    let good = Agent::start(Script::good());
    assert_eq!(good.backup(folder.path(), &[]).code, 0);
    good.backup(folder.path(), &[]).failed(2, "HA-CTL-005", "done");
    let manifest = fs::read(folder.path().join("manifest.json")).unwrap();
    let bad = Agent::start(Script::with_frames(3, Vec::new()));
    bad.backup(folder.path(), &["--force"]).failed(5, "HA-CTL-013", "done");
    assert_eq!(fs::read(folder.path().join("manifest.json")).unwrap(), manifest);
    whole(folder.path(), 2000);
    assert_eq!(good.backup(folder.path(), &["--force"]).code, 0);
}

#[test]
fn a_wrong_hash_fails_the_job() {
    let mut bad = frame(2000, 3);
    bad.blake3 = vec![1; 32].into();
    fails(Script::with_frames(3, vec![bad]), &[], 5, "HA-CTL-012", "done");
    let mut zero = frame(2000, 2);
    zero.blake3 = vec![1; 32].into();
    fails(Script::with_frames(2, vec![zero]), &[], 5, "HA-CTL-012", "done");
}

#[test]
fn missing_repeated_and_outlying_frames_fail_the_job() {
    fails(Script::with_frames(3, Vec::new()), &[], 5, "HA-CTL-013", "done");
    fails(Script::with_frames(4, Vec::new()), &[], 5, "HA-CTL-013", "done");
    fails(Script::with_frames(3, vec![frame(2000, 3), frame(2000, 3)]), &[], 5, "HA-CTL-013", "done");
    let outside = Frame { offset: 8 * B, ..frame(2000, 3) };
    fails(Script::with_frames(3, vec![frame(2000, 3), outside]), &[], 5, "HA-CTL-013", "done");
}

#[test]
fn frames_that_contradict_themselves_fail_the_job() {
    let zero = Frame { data: vec![0; BLOCK as usize].into(), ..frame(2000, 1) };
    fails(Script::with_frames(1, vec![zero]), &[], 5, "HA-CTL-011", "done");
    let short = Frame { data: vec![0; 7].into(), ..frame(2000, 3) };
    fails(Script::with_frames(3, vec![short]), &[], 5, "HA-CTL-011", "done");
    let stranger = Frame { device_key: 9, ..frame(2000, 3) };
    fails(Script::with_frames(3, vec![stranger]), &[], 5, "HA-CTL-011", "done");
}

#[test]
fn a_huge_frame_is_refused_before_it_costs_memory() {
    let huge = Frame { data: vec![1; 64 << 20].into(), ..frame(2000, 3) };
    fails(Script::with_frames(3, vec![huge]), &[], 5, "HA-CTL-011", "done");
}

#[test]
fn a_stream_that_is_cut_is_settled_by_asking() {
    fails(Script::ending(vec![]), &[], 5, "HA-CTL-010", "done");
    let cut = Step::Cut(tonic::Status::unknown("connection reset"));
    fails(Script::ending(vec![cut.clone()]), &[], 5, "HA-CTL-010", "done");
    let owed = Script { job: Some(job(JobState::Failed, Cleanup::Owed, vec![])), ..Script::ending(vec![cut.clone()]) };
    fails(owed, &[], 6, "HA-CTL-010", "owed");
    // An agent that was started anew knows no job: without any duty nothing can be owed.
    let forgotten = Script { job: None, ..Script::ending(vec![cut.clone()]) };
    fails(forgotten.clone(), &[], 5, "HA-CTL-010", "done");
    fails(Script { duties: 1, ..forgotten }, &[], 6, "HA-CTL-010", "unknown");
}

#[test]
fn a_job_that_lost_only_its_last_message_is_a_backup() {
    let ok = job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000), disk_ok(2001)]);
    let script = Script { job: Some(ok.clone()), ..Script::ending(vec![]) };
    let (agent, folder) = (Agent::start(script), tempdir().unwrap());
    assert_eq!(agent.backup(folder.path(), &[]).code, 0);
    whole(folder.path(), 2001);
    let mut cut = Script { job: Some(ok), ..Script::good() };
    let at = cut.position(|item| matches!(item, Item::DiskRead(_)));
    cut.steps.truncate(at);
    fails(cut, &[], 5, "HA-CTL-010", "done");
}

#[test]
fn the_agents_reasons_decide_between_refused_failed_and_owed() {
    let refused = |cleanup| Script { refuse: Some(typed(Code::NotFound, "HA-VIM-007", cleanup)), ..Script::default() };
    fails(refused(Cleanup::Done), &[], 4, "HA-VIM-007", "done");
    fails(refused(Cleanup::Owed), &[], 6, "HA-VIM-007", "owed");
    let mut early = Script { steps: prologue(&[2000]), ..Script::default() };
    early.steps.push(say(Item::Result(job(JobState::Failed, Cleanup::Done, vec![]))));
    fails(early, &[], 4, "HA-JOB-003", "done");
    let late = |cleanup| Script::ending(vec![say(Item::Result(job(JobState::Failed, cleanup, vec![])))]);
    fails(late(Cleanup::Done), &[], 5, "HA-JOB-003", "done");
    fails(late(Cleanup::Owed), &[], 6, "HA-JOB-003", "owed");
    let typed_late = Script::ending(vec![Step::Cut(typed(Code::Aborted, "HA-JOB-004", Cleanup::Done))]);
    fails(typed_late, &[], 5, "HA-JOB-004", "done");
}

#[test]
fn a_success_that_is_none_is_not_believed() {
    let half = job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000)]);
    fails(Script::ending(vec![say(Item::Result(half))]), &[], 5, "HA-CTL-020", "done");
    let ok = job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000), disk_ok(2001)]);
    let crash = Script::ending(vec![say(Item::Result(ok.clone()))]);
    fails(crash, &["--consistency", "required_app"], 5, "HA-CTL-014", "done");
    let owed = JobResult { cleanup: Cleanup::Owed.into(), ..ok };
    fails(Script::ending(vec![say(Item::Result(owed))]), &[], 6, "HA-CTL-011", "owed");
    let replay =
        Script { steps: vec![say(Item::JobId("job-1".into())), Script::good().steps.pop().unwrap()], ..Script::good() };
    fails(replay, &[], 5, "HA-CTL-020", "done");
}

/// One that does not see the ticket would do all with its own account, and say OK.
#[test]
fn a_ticket_is_sent_only_to_an_agent_that_uses_it() {
    let (place, folder) = (tempdir().unwrap(), tempdir().unwrap());
    let file = place.path().join("ticket");
    fs::write(&file, "cst-of-a-test\n").unwrap();
    let with_ticket = ["--clone-ticket-file", file.to_str().unwrap()];
    let old = Agent::start(Script::good());
    old.backup(folder.path(), &with_ticket).failed(4, "HA-CTL-030", "done");
    assert!(old.state.requests.lock().unwrap().is_empty(), "it was sent");
    assert_eq!(names(folder.path()), [""; 0]);
    // It announces them, and does not tell whose rights the job had.
    let silent = Script { tickets: true, ..Script::good() };
    fails(silent, &with_ticket, 5, "HA-CTL-011", "done");
    let ok = job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000), disk_ok(2001)]);
    let told = JobResult { acting_user: "jobs@vsphere.local".into(), ..ok };
    let new = Agent::start(Script { tickets: true, ..Script::ending(vec![say(Item::Result(told))]) });
    assert_eq!(new.backup(folder.path(), &with_ticket).code, 0);
    let sent = new.state.requests.lock().unwrap()[0].vcenter_clone_ticket.clone();
    assert_eq!(sent.unwrap().value, "cst-of-a-test");
}

#[test]
fn a_partial_backup_has_its_own_exit_code() {
    let mut script = Script::good();
    script.steps.retain(|step| match step {
        Step::Say(event) => !matches!(&event.item, Some(Item::Frame(f)) if f.device_key == 2001 && f.offset >= 2 * B),
        _ => true,
    });
    let at = script.position(|item| matches!(item, Item::DiskRead(d) if d.disk.as_ref().unwrap().device_key == 2001));
    script.steps[at] = say(Item::DiskRead(disk_failed(2001)));
    script.steps.pop();
    let result = job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000), disk_failed(2001)]);
    script.steps.push(say(Item::Result(result)));
    fails(script.clone(), &[], 5, "HA-CTL-020", "done");
    let (agent, folder) = (Agent::start(script), tempdir().unwrap());
    let ended = agent.backup(folder.path(), &["--allow-partial"]);
    assert_eq!(ended.code, 10, "{ended:?}");
    assert!(ended.stderr.contains("HA-ATT-009"), "{ended:?}");
    assert_eq!(names(folder.path()), ["manifest.json".to_owned(), format!("{NAME}-disk-2000.raw")]);
}

#[test]
fn no_room_for_the_images_ends_the_job() {
    let (agent, folder) = (Agent::start(Script::good()), tempdir().unwrap());
    for writer in ["pwritev", "io_uring"] {
        let ctl = agent.ctl(&["backup", "--vm", "web01", "--block-size", "65536", "--writer", writer, "--out"]);
        // A limit on file sizes is the full file system that needs no mount.
        let mut limited = Command::new("bash");
        let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
        limited.args(["-c", script]).arg(ctl.get_program()).args(ctl.get_args());
        Ended::of(limited.arg(folder.path())).failed(7, "HA-CTL-015", "done");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

/// The rest of a disk may come by another transport; one that is opened again for anything else is no backup.
#[test]
fn a_disk_goes_on_by_another_transport_and_the_manifest_tells_which_range_came_how() {
    let again = |rest: u64| {
        let mut script = Script::good();
        let at = script.position(|item| matches!(item, Item::Frame(f) if f.device_key == 2000 && f.offset == 2 * B));
        script.steps.insert(at, opened_by(2000, Transport::Nbd, "nbd", rest));
        script
    };
    let (agent, folder) = (Agent::start(again(CAPACITY - 2 * B)), tempdir().unwrap());
    let ended = agent.backup(folder.path(), &["--nbd", "2000=nbd://files/one", "--transport", "hotadd"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    whole(folder.path(), 2000);
    let request = agent.state.requests.lock().unwrap()[0].clone();
    let named = NbdServer { device_key: 2000, uri: "nbd://files/one".into() };
    assert_eq!((request.nbd_servers, request.transport), (vec![named], i32::from(Transport::Hotadd)));
    let text = fs::read_to_string(folder.path().join("manifest.json")).unwrap();
    let manifest: hotadd_api::manifest::Manifest = serde_json::from_str(&text).unwrap();
    let parts: Vec<_> =
        manifest.disks[0].parts.iter().map(|part| (part.offset, part.length, part.transport.as_str())).collect();
    assert_eq!(parts, [(0, 2 * B, "hotadd"), (2 * B, CAPACITY - 2 * B, "nbd")]);
    for rest in [CAPACITY, CAPACITY - 3 * B, 0] {
        fails(again(rest), &[], 5, "HA-CTL-011", "done");
    }
}

#[test]
fn both_writers_make_the_same_image() {
    let agent = Agent::start(Script::good());
    for writer in ["pwritev", "io_uring"] {
        let folder = tempdir().unwrap();
        let ended = agent.backup(folder.path(), &["--writer", writer]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(!ended.stderr.contains("can't be had"), "{ended:?}");
        whole(folder.path(), 2000);
        whole(folder.path(), 2001);
    }
}

/// Reads and checks as a backup does, and keeps nothing.
#[test]
fn what_is_discarded_is_checked_like_a_backup_and_leaves_no_file() {
    let (agent, here) = (Agent::start(Script::good()), tempdir().unwrap());
    let discard = |agent: &Agent, more: &[&str]| {
        let mut command = agent.ctl(&["backup", "--vm", "web01", "--block-size", "65536", "--discard"]);
        Ended::of(command.args(more).current_dir(here.path()))
    };
    let ended = discard(&agent, &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("nothing was kept") && ended.stdout.contains(" MB/s"), "{ended:?}");
    let ended = discard(&agent, &["--json"]);
    let result: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&result["manifest"], &result["images"]), (&serde_json::Value::Null, &serde_json::json!([])));
    assert_eq!(result["read"]["bytes"].as_u64(), Some(2 * CAPACITY));
    assert_eq!(result["read"]["data_bytes"].as_u64(), Some(2 * (CAPACITY - 2 * B)));
    assert!(result["read"]["mb_per_second"].as_f64().unwrap() > 0.0, "{result}");
    let mut bad = frame(2000, 3);
    bad.blake3 = vec![1; 32].into();
    discard(&Agent::start(Script::with_frames(3, vec![bad])), &[]).failed(5, "HA-CTL-012", "done");
    discard(&Agent::start(Script::with_frames(4, Vec::new())), &[]).failed(5, "HA-CTL-013", "done");
    let half = job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000)]);
    discard(&Agent::start(Script::ending(vec![say(Item::Result(half))])), &[]).failed(5, "HA-CTL-020", "done");
    assert_eq!(names(here.path()), [""; 0]);
}

/// The good script with the frames of disk 2000 compressed where that makes them smaller, as asked.
fn packed(method: Compression) -> Script {
    let mut script = Script::good();
    for step in &mut script.steps {
        let Step::Say(event) = step else { continue };
        let Some(Item::Frame(frame)) = &mut event.item else { continue };
        let mut out = Vec::new();
        if frame.device_key == 2000 && hotadd_api::compress::compress(method, &frame.data, &mut out) {
            (frame.data, frame.compression) = (out.into(), method.into());
        }
    }
    script
}

#[test]
fn compressed_frames_make_the_same_image_if_they_were_asked_for() {
    for (name, method, other) in
        [("zstd", Compression::Zstd, Compression::Lz4), ("lz4", Compression::Lz4, Compression::Zstd)]
    {
        let (agent, folder) = (Agent::start(packed(method)), tempdir().unwrap());
        let ended = agent.backup(folder.path(), &["--compress", name]);
        assert_eq!(ended.code, 0, "{ended:?}");
        whole(folder.path(), 2000);
        whole(folder.path(), 2001);
        assert_eq!(agent.state.requests.lock().unwrap()[0].compression(), method);
        fails(packed(other), &["--compress", name], 5, "HA-CTL-011", "done");
        fails(packed(method), &[], 5, "HA-CTL-011", "done");
    }
    let strange = Frame { compression: 9, ..frame(2000, 3) };
    fails(Script::with_frames(3, vec![strange]), &["--compress", "zstd"], 5, "HA-CTL-011", "done");
    let damaged = Frame { data: vec![7; 100].into(), compression: Compression::Zstd.into(), ..frame(2000, 3) };
    fails(Script::with_frames(3, vec![damaged]), &["--compress", "zstd"], 5, "HA-CTL-011", "done");
}

#[test]
fn where_the_time_went_is_told_while_it_runs_and_at_the_end() {
    let stages = |source_us| Some(Stages { source_us, agent_us: 100, outlet_us: 0, paced_us: 50 });
    let mut script = Script::good();
    let going = DiskProgress { device_key: 2000, bytes_read: B, depth: 16, stages: stages(100), ..Default::default() };
    let stranger = DiskProgress { device_key: 9, ..going };
    let at = script.position(|item| matches!(item, Item::Frame(f) if f.device_key == 2000 && f.offset == 2 * B));
    script.steps.splice(at..at, [going, stranger].map(|going| say(Item::Progress(going))));
    let at = script.position(|item| matches!(item, Item::DiskRead(_)));
    script.steps[at] = say(Item::DiskRead(DiskResult { stages: stages(850), ..disk_ok(2000) }));
    let (agent, folder) = (Agent::start(script), tempdir().unwrap());
    let ended = agent.backup(folder.path(), &["--json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let events: Vec<serde_json::Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let live = of("stages");
    assert_eq!(live.len(), 1, "a disk that is not open has none: {live:?}");
    assert_eq!((live[0]["stages"]["source_us"].as_u64(), live[0]["depth"].as_u64()), (Some(100), Some(16)));
    let disks = of("disk");
    let told = serde_json::json!({"source_us": 850, "agent_us": 100, "network_us": 0, "target_us": 0, "paced_us": 50});
    assert_eq!((&disks[0]["stages"], &disks[1]["stages"]), (&told, &serde_json::Value::Null));
    let ended = agent.backup(folder.path(), &["--force"]);
    let line = "Hard disk 1 (2000): bottleneck: source 85 %, agent 10 %, network 0 %, target 0 %, paced 5 %";
    assert!(ended.stdout.contains(line) && ended.stderr.contains(line), "{ended:?}");
}
