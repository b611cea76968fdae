//! What to read of a disk: allocated and changed areas against a VM that writes, maps that fail or lie, tracking that is found
//! wrong, and turning it on.
use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, DiskBase, DiskOpened, DiskRanges, EventKind, JobState, KnownBlock, Phase, Range, ReadMap, Scope,
    WatchEventsRequest, job_event::Item, proxy_service_client::ProxyServiceClient,
};
use hotadd_harness::{
    Content, Scene,
    content::same,
    scene::{FIRST_KEY, TARGET},
};
use serde_json::{Value, json};

use crate::support::{
    Delivered, MIB, backup, calls, codes, control, disks, fault, jobs, nothing_is_left, refused, request, scene,
    vsphere,
};

const SIZE: u64 = 8 * MIB;
const BLOCK: u64 = 64 << 10;
/// One block of four holds data.
const EVERY: u64 = 4;

/// A tracked VM with one disk.
fn tracked() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content { every: EVERY, ..Content::new(SIZE, 1) }], |spec| spec.target().change_tracking = true)
}

fn asking(scope: Scope) -> BackupVmRequest {
    BackupVmRequest { scope: scope.into(), block_bytes: 64 << 10, sample_seed: 7, ..request(TARGET) }
}

fn changed(base: DiskBase) -> BackupVmRequest {
    BackupVmRequest { bases: vec![base], ..asking(Scope::Changed) }
}

/// Runs a job that has to be OK; nothing is left of it.
async fn ok(scene: &Scene, dir: &Path, wanted: BackupVmRequest) -> Result<Delivered> {
    let delivered = backup(scene, wanted, dir).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    nothing_is_left(scene).await?;
    Ok(delivered)
}

fn opened(delivered: &Delivered) -> Result<&DiskOpened> {
    delivered.opened.first().context("no disk was opened")
}

fn map(delivered: &Delivered) -> Result<&ReadMap> {
    opened(delivered)?.map.as_ref().context("no map")
}

/// Scope that it came to, and why.
fn came_to(delivered: &Delivered) -> Result<(Scope, String)> {
    let map = map(delivered)?;
    let code = map.wider.as_ref().map(|why| why.code.clone()).unwrap_or_default();
    // Also a remark of the disk's result, which outlives the stream.
    let remarks: Vec<&str> = delivered.read[0].reasons.iter().map(|reason| reason.code.as_str()).collect();
    ensure!(remarks == [code.as_str()] || (code.is_empty() && remarks.is_empty()), "{remarks:?} and {code}");
    ensure!(map.scope() != Scope::Whole || map.areas.is_empty(), "areas of a whole disk");
    Ok((map.scope(), code))
}

fn whole(code: &str) -> (Scope, String) {
    (Scope::Whole, code.into())
}

fn allocated(code: &str) -> (Scope, String) {
    (Scope::Allocated, code.into())
}

/// Numbers of the blocks that were read.
fn blocks(delivered: &Delivered) -> Result<Vec<u64>> {
    let areas = &map(delivered)?.areas;
    Ok(areas.iter().flat_map(|area| area.offset / BLOCK..(area.offset + area.length).div_ceil(BLOCK)).collect())
}

/// The base that this job is for the next one.
fn base(delivered: &Delivered) -> Result<DiskBase> {
    let disk = opened(delivered)?.disk.as_ref().context("no disk")?;
    Ok(DiskBase {
        device_key: disk.device_key,
        change_id: disk.change_id.clone(),
        uuid: disk.uuid.clone(),
        capacity_bytes: disk.capacity_bytes,
        known: Vec::new(),
    })
}

/// One small write of the guest.
async fn write(scene: &Scene, block: u64, pattern: u8) -> Result<()> {
    let write = json!({"cmd": "vm_write", "vm": TARGET, "disk": "0:0", "offset": block * BLOCK + 700, "pattern": pattern, "length": 512});
    control(scene, write).await.map(drop)
}

/// The image of a full backup, kept aside.
async fn full(scene: &Scene, dir: &Path) -> Result<(Delivered, std::path::PathBuf)> {
    let delivered = ok(scene, dir, asking(Scope::Whole)).await?;
    assert_eq!(came_to(&delivered)?, whole(""));
    let kept = dir.join("full.raw");
    std::fs::rename(&delivered.images[&FIRST_KEY], &kept)?;
    same(&kept, &scene.source(0))?;
    Ok((delivered, kept))
}

/// Puts what came over the base and compares with the disk as it was at the snapshot.
fn over(base: &Path, delivered: &Delivered, now: &Path) -> Result<()> {
    let (image, into) = (File::open(&delivered.images[&FIRST_KEY])?, File::options().write(true).open(base)?);
    for area in &map(delivered)?.areas {
        let mut data = vec![0; usize::try_from(area.length)?];
        image.read_exact_at(&mut data, area.offset)?;
        into.write_all_at(&data, area.offset)?;
    }
    same(base, now)
}

/// Whatever was asked, image of a whole or allocated read equals the disk.
fn equals_source(scene: &Scene, delivered: &Delivered) -> Result<()> {
    same(&delivered.images[&FIRST_KEY], &scene.source(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_read_brings_exactly_the_changed_blocks() -> Result<()> {
    let (dir, scene) = tracked()?;
    let (first, image) = full(&scene, dir.path()).await?;
    for (block, pattern) in [(2, 9), (3, 9), (4, 0), (100, 8)] {
        write(&scene, block, pattern).await?;
    }
    let now = dir.path().join("now.raw");
    std::fs::copy(scene.source(0), &now)?;
    // What is written after the snapshot is not of this backup.
    let mut run = crate::support::Running::start(&scene, changed(base(&first)?), dir.path()).await?;
    run.until(crate::support::Seen::Snapshot).await?;
    write(&scene, 50, 7).await?;
    let second = run.finish().await?;
    ensure!(second.result()?.state() == JobState::Ok, "{:#?}", second.result);
    assert_eq!(came_to(&second)?, (Scope::Changed, String::new()));
    assert_eq!(blocks(&second)?, [2, 3, 4, 100]);
    let map = map(&second)?;
    assert_eq!((map.areas.len(), map.mapped_bytes, map.sampled_blocks), (2, 4 * BLOCK, 0));
    assert_eq!((second.read[0].bytes_read, opened(&second)?.bytes_required), (4 * BLOCK, 4 * BLOCK));
    over(&image, &second, &now)?;
    // The next one has the late write alone; one after it nothing at all, and is OK.
    let third = ok(&scene, dir.path(), changed(base(&second)?)).await?;
    assert_eq!((came_to(&third)?, blocks(&third)?), ((Scope::Changed, String::new()), vec![50]));
    over(&image, &third, &scene.source(0))?;
    let fourth = ok(&scene, dir.path(), changed(base(&third)?)).await?;
    assert_eq!((blocks(&fourth)?, opened(&fourth)?.bytes_required), (vec![], 0));
    assert!(fourth.read[0].ok && fourth.read[0].bytes_read == 0 && fourth.read[0].parts.is_empty(), "{fourth:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allocated_read_equals_a_full_one_in_pages_too() -> Result<()> {
    let (dir, scene) = tracked()?;
    control(&scene, json!({"cmd": "areas", "page": 3})).await?;
    write(&scene, 101, 5).await?;
    let delivered = ok(&scene, dir.path(), asking(Scope::Allocated)).await?;
    assert_eq!(came_to(&delivered)?, allocated(""));
    equals_source(&scene, &delivered)?;
    let expected: Vec<u64> = (0..128).filter(|n| n % EVERY == 0 || *n == 101).collect();
    assert_eq!(blocks(&delivered)?, expected);
    assert_eq!(map(&delivered)?.sampled_blocks, 64, "of 95");
    assert_eq!(calls(&scene, "QueryChangedDiskAreas").await?.len(), 11);
    // In blocks of 1 MiB it is the whole disk, in one area.
    let large = ok(&scene, dir.path(), BackupVmRequest { block_bytes: 1 << 20, ..asking(Scope::Allocated) }).await?;
    assert_eq!(map(&large)?.areas, [Range { offset: 0, length: SIZE }]);
    equals_source(&scene, &large)
}

/// Fields of a lie or fault, what a changed read comes to, and an allocated one.
type Wrong = (Value, (Scope, String), (Scope, String));

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_fails_or_lies_makes_more_be_read() -> Result<()> {
    let (dir, scene) = tracked()?;
    let (first, image) = full(&scene, dir.path()).await?;
    write(&scene, 2, 9).await?;
    let lie = |kind: &str| json!({"cmd": "areas", "lie": kind});
    let fault = |kind: &str, name: &str, count: u32| json!({"cmd": "fault", "method": "QueryChangedDiskAreas", "kind": kind, "fault": name, "count": count});
    let cases: Vec<Wrong> = vec![
        (lie("stuck"), whole("HA-CBT-008"), whole("HA-CBT-008")),
        (lie("beyond"), whole("HA-CBT-008"), whole("HA-CBT-008")),
        (lie("overlap"), whole("HA-CBT-008"), whole("HA-CBT-008")),
        (lie("negative"), whole("HA-CBT-008"), whole("HA-CBT-008")),
        (lie("elsewhere"), whole("HA-CBT-008"), whole("HA-CBT-008")),
        (fault("fault", "FileFault", 1), allocated("HA-CBT-007"), whole("HA-CBT-007")),
        (fault("fault", "FileFault", 9), whole("HA-CBT-007"), whole("HA-CBT-007")),
        (fault("fault", "InvalidArgument", 9), whole("HA-CBT-007"), whole("HA-CBT-007")),
        (fault("fault", "NoPermission", 9), whole("HA-CBT-007"), whole("HA-CBT-007")),
        (fault("hang", "FileFault", 1), whole("HA-CBT-007"), whole("HA-CBT-007")),
        (fault("bad_xml", "FileFault", 9), whole("HA-CBT-007"), whole("HA-CBT-007")),
    ];
    for (wrong, of_changed, of_allocated) in cases {
        for (wanted, expected) in [(changed(base(&first)?), of_changed), (asking(Scope::Allocated), of_allocated)] {
            control(&scene, wrong.clone()).await?;
            let delivered = ok(&scene, dir.path(), wanted).await?;
            assert_eq!(came_to(&delivered)?, expected, "{wrong}");
            equals_source(&scene, &delivered)?;
            for heal in ["areas", "clear_faults"] {
                control(&scene, json!({"cmd": heal})).await?;
            }
        }
    }
    // Nothing of that stays.
    let delivered = ok(&scene, dir.path(), changed(base(&first)?)).await?;
    assert_eq!((came_to(&delivered)?, blocks(&delivered)?), ((Scope::Changed, String::new()), vec![2]));
    over(&image, &delivered, &scene.source(0))
}

/// Blocks of an image as a controller knows them.
fn known(image: &Path, blocks: impl IntoIterator<Item = u64>) -> Result<Vec<KnownBlock>> {
    let image = File::open(image)?;
    let mut data = vec![0; usize::try_from(2 * BLOCK)?];
    let one = |n: u64| {
        image.read_exact_at(&mut data, n * 2 * BLOCK)?;
        let blake3 = blake3::hash(&data).as_bytes().to_vec();
        Ok(KnownBlock { offset: n * 2 * BLOCK, length: u32::try_from(2 * BLOCK)?, blake3 })
    };
    blocks.into_iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_without_a_written_block_is_found_and_not_believed_again() -> Result<()> {
    let (dir, mut scene) = tracked()?;
    write(&scene, 1, 9).await?;
    let mut events =
        ProxyServiceClient::new(scene.channel().await?).watch_events(WatchEventsRequest::default()).await?.into_inner();
    // Half of the disk is left out; the sample has 64 of the 112 blocks that are not read, of which 17 hold data.
    control(&scene, json!({"cmd": "areas", "lie": "miss", "offset": 0, "length": 64 * BLOCK})).await?;
    let delivered = ok(&scene, dir.path(), asking(Scope::Allocated)).await?;
    assert_eq!(came_to(&delivered)?, whole("HA-CBT-013"));
    assert_eq!(map(&delivered)?.sampled_blocks, 64);
    equals_source(&scene, &delivered)?;
    let alarm = loop {
        let event = events.message().await?.context("no event")?;
        ensure!(event.kind() != EventKind::JobEnded, "the job ended without an alarm");
        if event.kind() == EventKind::DutyAlarm {
            break event;
        }
    };
    let disk = opened(&delivered)?.disk.clone().context("no disk")?;
    assert_eq!((alarm.id, alarm.vm.as_str()), (disk.uuid, TARGET));
    assert_eq!(alarm.reason.context("no reason")?.code, "HA-CBT-013");
    // Also not by the next agent, with maps that are right again.
    control(&scene, json!({"cmd": "areas"})).await?;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    for wanted in [asking(Scope::Allocated), changed(base(&delivered)?)] {
        let next = ok(&scene, dir.path(), wanted).await?;
        assert_eq!(came_to(&next)?, whole("HA-CBT-011"));
        equals_source(&scene, &next)?;
    }
    // What is tracked anew is believed.
    control(&scene, json!({"cmd": "reset_tracking", "vm": TARGET})).await?;
    let healed = ok(&scene, dir.path(), asking(Scope::Allocated)).await?;
    assert_eq!(came_to(&healed)?, allocated(""));
    equals_source(&scene, &healed)
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_the_caller_knows_find_a_change_that_was_not_tracked() -> Result<()> {
    let (dir, scene) = tracked()?;
    let (first, image) = full(&scene, dir.path()).await?;
    write(&scene, 2, 9).await?;
    write(&scene, 41, 9).await?;
    let knowing = DiskBase { known: known(&image, [0, 1, 20, 30, 63])?, ..base(&first)? };
    // Those in changed areas say nothing: of the five, the ones at blocks 2 and 41.
    let good = ok(&scene, dir.path(), changed(knowing.clone())).await?;
    assert_eq!((came_to(&good)?, map(&good)?.sampled_blocks), ((Scope::Changed, String::new()), 3));
    over(&image, &good, &scene.source(0))?;
    control(&scene, json!({"cmd": "areas", "lie": "miss", "offset": 41 * BLOCK, "length": 1})).await?;
    let wrong = ok(&scene, dir.path(), changed(knowing)).await?;
    assert_eq!(came_to(&wrong)?, whole("HA-CBT-013"));
    equals_source(&scene, &wrong)?;
    let next = ok(&scene, dir.path(), changed(base(&good)?)).await?;
    assert_eq!(came_to(&next)?, whole("HA-CBT-011"));
    equals_source(&scene, &next)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_base_makes_more_be_read() -> Result<()> {
    let (dir, scene) = tracked()?;
    let (first, _) = full(&scene, dir.path()).await?;
    write(&scene, 2, 9).await?;
    let good = base(&first)?;
    let cases = [
        (None, allocated("HA-CBT-012")),
        (Some(DiskBase { change_id: String::new(), ..good.clone() }), allocated("HA-CBT-006")),
        (Some(DiskBase { capacity_bytes: SIZE / 2, ..good.clone() }), whole("HA-CBT-003")),
        (Some(DiskBase { uuid: "0".repeat(32), ..good.clone() }), allocated("HA-CBT-004")),
        (Some(DiskBase { change_id: "52 aa/1".into(), ..good.clone() }), allocated("HA-CBT-002")),
        (Some(DiskBase { device_key: 2777, ..good.clone() }), allocated("HA-CBT-012")),
    ];
    for (base, expected) in cases {
        let wanted = BackupVmRequest { bases: base.clone().into_iter().collect(), ..asking(Scope::Changed) };
        let delivered = ok(&scene, dir.path(), wanted).await?;
        assert_eq!(came_to(&delivered)?, expected, "{base:?}");
        equals_source(&scene, &delivered)?;
    }
    control(&scene, json!({"cmd": "reset_tracking", "vm": TARGET})).await?;
    let reset = ok(&scene, dir.path(), changed(good)).await?;
    assert_eq!(came_to(&reset)?, allocated("HA-CBT-002"));
    equals_source(&scene, &reset)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reverted_vm_and_one_without_tracking_are_told() -> Result<()> {
    let (dir, scene) = tracked()?;
    let operator = |call: &str| json!({"cmd": "operator", "call": call, "vm": TARGET, "name": "of an operator"});
    control(&scene, operator("CreateSnapshot")).await?;
    write(&scene, 2, 9).await?;
    let first = backup(&scene, asking(Scope::Whole), dir.path()).await?;
    assert_eq!(codes(first.result()?), Vec::<&str>::new());
    // Under an older snapshot that was tracked as well.
    let under = backup(&scene, asking(Scope::Allocated), dir.path()).await?;
    assert_eq!((under.result()?.state(), came_to(&under)?), (JobState::Ok, allocated("")));
    control(&scene, operator("RevertToCurrentSnapshot")).await?;
    let reverted = backup(&scene, changed(base(&first)?), dir.path()).await?;
    assert_eq!((reverted.result()?.state(), came_to(&reverted)?), (JobState::Ok, allocated("HA-CBT-009")));
    // Since then the sequence is above the base's again: the base that was asked before is no better than it was.
    let again = backup(&scene, changed(base(&first)?), dir.path()).await?;
    assert_eq!((again.result()?.state(), came_to(&again)?), (JobState::Ok, allocated("HA-CBT-009")));
    // Begun anew under that snapshot.
    control(&scene, json!({"cmd": "reset_tracking", "vm": TARGET})).await?;
    let anew = backup(&scene, asking(Scope::Allocated), dir.path()).await?;
    assert_eq!((anew.result()?.state(), came_to(&anew)?), (JobState::Ok, whole("HA-CBT-005")));
    control(&scene, operator("RemoveAllSnapshots")).await?;
    equals_source(&scene, &anew)?;
    // Somebody switches it off between two backups: read anew each time.
    let client = vsphere(&scene).await?;
    let vm = client.find_vms_by_name(TARGET).await?.pop().context("no target")?;
    let on = client.tracking(&vm).await?.enabled;
    assert_eq!(on, Some(true));
    control(&scene, json!({"cmd": "set_tracking", "vm": TARGET, "on": false})).await?;
    for wanted in [asking(Scope::Allocated), changed(base(&reverted)?)] {
        let delivered = ok(&scene, dir.path(), wanted).await?;
        assert_eq!(came_to(&delivered)?, whole("HA-CBT-001"));
        equals_source(&scene, &delivered)?;
    }
    assert_eq!(
        calls(&scene, "QueryChangedDiskAreas").await?.len(),
        3,
        "nothing is asked of a disk that is not tracked"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tracking_is_turned_on_when_asked_and_never_under_snapshots() -> Result<()> {
    let (dir, scene) = scene(&[Content { every: EVERY, ..Content::new(SIZE, 1) }], |_| {})?;
    // Not asked for, not done.
    let plain = ok(&scene, dir.path(), asking(Scope::Allocated)).await?;
    assert_eq!(came_to(&plain)?, whole("HA-CBT-001"));
    let turning_on = || BackupVmRequest { enable_change_tracking: true, ..asking(Scope::Allocated) };
    let operator = |call: &str| json!({"cmd": "operator", "call": call, "vm": TARGET, "name": "before"});
    control(&scene, operator("CreateSnapshot")).await?;
    let told = backup(&scene, turning_on(), dir.path()).await?;
    assert_eq!(codes(told.result()?), ["HA-CBT-016"]);
    let says = |body: &String| body.contains("changeTrackingEnabled>");
    assert!(!calls(&scene, "ReconfigVM_Task").await?.iter().any(says), "turned on all the same");
    // Turned on by somebody else under a snapshot: no map is believed.
    control(&scene, json!({"cmd": "set_tracking", "vm": TARGET, "on": true})).await?;
    let late = backup(&scene, asking(Scope::Allocated), dir.path()).await?;
    assert_eq!((late.result()?.state(), came_to(&late)?), (JobState::Ok, whole("HA-CBT-005")));
    control(&scene, json!({"cmd": "set_tracking", "vm": TARGET, "on": false})).await?;
    control(&scene, operator("RemoveAllSnapshots")).await?;
    let why = map(&late)?.wider.as_ref().map(|why| why.message.as_str()).unwrap_or_default();
    ensure!(why.contains("before"), "which snapshot it is: {why}");

    let note = noted(&scene, turning_on()).await?;
    assert!(note.contains("turned on"), "{note:?}");
    let bodies: Vec<String> = calls(&scene, "ReconfigVM_Task").await?.into_iter().filter(says).collect();
    assert_eq!(bodies.len(), 1, "once");
    assert!(
        bodies[0].contains(">true</changeTrackingEnabled>") && !bodies[0].contains("deviceChange"),
        "{}",
        bodies[0]
    );
    // The job's own snapshot activated it; the next job builds on it, and turns nothing on.
    assert_eq!(noted(&scene, turning_on()).await?, "");
    let first = ok(&scene, dir.path(), turning_on()).await?;
    assert_eq!(came_to(&first)?, allocated(""));
    equals_source(&scene, &first)?;
    write(&scene, 9, 9).await?;
    let second = ok(&scene, dir.path(), changed(base(&first)?)).await?;
    assert_eq!((came_to(&second)?, blocks(&second)?), ((Scope::Changed, String::new()), vec![9]));
    assert_eq!(calls(&scene, "ReconfigVM_Task").await?.iter().filter(|body| says(body)).count(), 1);
    // A lost reply is read back.
    control(&scene, json!({"cmd": "set_tracking", "vm": TARGET, "on": false})).await?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "drop_reply"})).await?;
    let lost = ok(&scene, dir.path(), turning_on()).await?;
    assert_eq!(came_to(&lost)?.0, Scope::Allocated);
    Ok(())
}

/// The note of a job's preflight.
async fn noted(scene: &Scene, wanted: BackupVmRequest) -> Result<String> {
    let mut stream = jobs(scene).await?.backup_vm(wanted).await?.into_inner();
    let mut note = None;
    while let Some(event) = stream.message().await? {
        if let Some(Item::Phase(phase)) = event.item
            && phase.finished
            && phase.phase() == Phase::Preflight
        {
            note = Some(phase.note);
        }
    }
    nothing_is_left(scene).await?;
    note.context("no preflight")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_contradict_themselves_begin_nothing() -> Result<()> {
    let (_dir, scene) = tracked()?;
    let ranges =
        vec![DiskRanges { device_key: FIRST_KEY, ranges: vec![Range { offset: 0, length: MIB }], known: vec![] }];
    let twice = DiskBase { device_key: FIRST_KEY, ..DiskBase::default() };
    for wanted in [
        BackupVmRequest { ranges, bases: vec![twice.clone()], ..asking(Scope::Changed) },
        BackupVmRequest { bases: vec![twice.clone(), twice], ..asking(Scope::Changed) },
        BackupVmRequest { scope: 99, ..request(TARGET) },
    ] {
        refused(jobs(&scene).await?.backup_vm(wanted).await, "HA-SES-006")?;
    }
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty());
    let sessions =
        disks(&scene).await?.list_sessions(hotadd_api::v1::ListSessionsRequest {}).await?.into_inner().sessions;
    assert!(sessions.is_empty(), "{sessions:?}");
    nothing_is_left(&scene).await
}
