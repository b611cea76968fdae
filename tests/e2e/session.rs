//! Sessions: open, read ranges, keep alive, close; leases; who may have what at the same time.
use anyhow::{Context as _, Result};
use hotadd_api::v1::{
    Cleanup, CloseDisksRequest, DiskResult, KeepAliveRequest, OpenDisksRequest, OpenDisksResponse, Range,
    ReadDiskRequest, open_disks_request::From, read_disk_response::Item,
};
use hotadd_harness::{
    Content, Scene,
    scene::{FIRST_KEY, PROXY, TARGET, vm},
};
use serde_json::json;
use vcenter_sim::inventory::DiskSpec;

use crate::stream::block;
use crate::support::{
    MIB, backup, calls, codes, control, dense, disks, eventually, nothing_is_left, nothing_stays, only_these_are_left,
    open_request, refused, request, scene, session,
};

pub async fn open(scene: &Scene, request: OpenDisksRequest) -> Result<OpenDisksResponse, tonic::Status> {
    let mut client = disks(scene).await.map_err(|e| tonic::Status::unknown(e.to_string()))?;
    Ok(client.open_disks(request).await?.into_inner())
}

pub async fn close(scene: &Scene, session: &str) -> Result<Cleanup> {
    let answer = disks(scene).await?.close_disks(CloseDisksRequest { session_id: session.into() }).await?;
    Ok(answer.into_inner().cleanup())
}

pub fn read_request(session: &str, key: i32, ranges: &[(u64, u64)]) -> ReadDiskRequest {
    let ranges = ranges.iter().map(|(offset, length)| Range { offset: *offset, length: *length }).collect();
    ReadDiskRequest { session_id: session.into(), device_key: key, ranges, ..ReadDiskRequest::default() }
}

/// What a read gave: pieces by offset, and how it ended.
pub async fn read(scene: &Scene, request: ReadDiskRequest) -> Result<(Vec<(u64, Vec<u8>)>, DiskResult)> {
    let mut stream = disks(scene).await?.read_disk(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(message) = stream.message().await? {
        match message.item.context("empty")? {
            Item::Frame(frame) => {
                pieces.push((frame.offset, block(&frame)?));
            }
            Item::Done(done) => return Ok((pieces, done)),
        }
    }
    anyhow::bail!("the stream ended without a result")
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_read_as_asked_and_odd_ranges_are_refused() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(9 * MIB + 512, 1), dense(4 * MIB, 2)], |_| {})?;
    let opened = open(&scene, open_request(TARGET)).await?;
    assert!(opened.disks.iter().all(|d| d.opened) && opened.disks.len() == 2, "{opened:#?}");
    assert!(opened.snapshot.as_ref().is_some_and(|s| s.ours));
    let id = &opened.session_id;
    let source = std::fs::read(scene.source(0))?;
    let asked = [(512, 1024), (MIB, 2 * MIB + 512), (9 * MIB, 512)];
    let (pieces, done) = read(&scene, read_request(id, FIRST_KEY, &asked)).await?;
    assert!(done.ok, "{done:#?}");
    let mut got = vec![0_u8; source.len()];
    let mut wanted = got.clone();
    for (offset, data) in &pieces {
        got[usize::try_from(*offset)?..][..data.len()].copy_from_slice(data);
    }
    for (offset, length) in asked {
        let (at, length) = (usize::try_from(offset)?, usize::try_from(length)?);
        wanted[at..at + length].copy_from_slice(&source[at..at + length]);
    }
    assert!(got == wanted, "the ranges differ");
    let total: u64 = asked.iter().map(|r| r.1).sum();
    assert_eq!(pieces.iter().map(|p| p.1.len() as u64).sum::<u64>(), total, "more or less than was asked");
    // The whole other disk, at the same time as odd ranges of the first.
    let (pieces, done) = read(&scene, read_request(id, FIRST_KEY + 1, &[])).await?;
    assert!(done.ok);
    assert!(pieces.concat_data() == std::fs::read(scene.source(1))?);
    let odd: [&[(u64, u64)]; 6] = [
        &[(100, 512)],
        &[(512, 100)],
        &[(9 * MIB, 1024)],
        &[(MIB, MIB), (0, 512)],
        &[(0, MIB), (512, MIB)],
        &[(64 * MIB, 512)],
    ];
    for ranges in odd {
        let (pieces, done) = read(&scene, read_request(id, FIRST_KEY, ranges)).await?;
        assert!(!done.ok && pieces.is_empty(), "{ranges:?} were read: {done:?}");
        assert_eq!(done.reasons[0].code, "HA-RD-006", "{ranges:?}: {done:?}");
    }
    let overflow = read_request(id, FIRST_KEY, &[(u64::MAX - 511, 1024)]);
    refused(disks(&scene).await?.read_disk(overflow).await, "HA-RD-006")?;
    refused(disks(&scene).await?.read_disk(read_request(id, 4711, &[])).await, "HA-VM-005")?;
    let block = ReadDiskRequest { block_bytes: 100_000, ..read_request(id, FIRST_KEY, &[]) };
    refused(disks(&scene).await?.read_disk(block).await, "HA-SES-006")?;
    assert_eq!(close(&scene, id).await?, Cleanup::Done);
    nothing_is_left(&scene).await
}

trait Concat {
    fn concat_data(&self) -> Vec<u8>;
}

impl Concat for Vec<(u64, Vec<u8>)> {
    fn concat_data(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, data)| data.iter().copied()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_session_stays_closed_and_says_so() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    let opened = open(&scene, OpenDisksRequest { lease_seconds: 100, ..open_request(TARGET) }).await?;
    assert_eq!(opened.lease_seconds, 100);
    let id = opened.session_id;
    let alive = KeepAliveRequest { session_id: id.clone() };
    assert_eq!(disks(&scene).await?.keep_alive(alive.clone()).await?.into_inner().lease_seconds, 100);
    assert_eq!(session(&scene, &id).await?.state, "open");
    assert_eq!(close(&scene, &id).await?, Cleanup::Done);
    nothing_is_left(&scene).await?;
    let closed = session(&scene, &id).await?;
    assert_eq!((closed.state.as_str(), closed.closed_reason.as_str()), ("closed", "closed by the controller"));
    assert_eq!(close(&scene, &id).await?, Cleanup::Done);
    refused(disks(&scene).await?.keep_alive(alive).await, "HA-SES-009")?;
    refused(disks(&scene).await?.read_disk(read_request(&id, FIRST_KEY, &[])).await, "HA-SES-009")?;
    let nobody = KeepAliveRequest { session_id: "no session".into() };
    refused(disks(&scene).await?.keep_alive(nobody).await, "HA-SES-001")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_opens_one_session() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    let wanted = open_request(TARGET);
    let (a, b) = tokio::join!(open(&scene, wanted.clone()), open(&scene, wanted.clone()));
    let (a, b) = (a?, b?);
    assert_eq!(a, b);
    assert_eq!(open(&scene, wanted.clone()).await?, a);
    assert_eq!(calls(&scene, "CreateSnapshot").await?.len(), 1);
    let other = OpenDisksRequest { device_keys: vec![FIRST_KEY], ..wanted };
    refused(open(&scene, other).await, "HA-SES-003")?;
    // Another request for the same VM waits for its turn, without harm to the first.
    refused(open(&scene, open_request(TARGET)).await, "HA-SES-005")?;
    assert!(read(&scene, read_request(&a.session_id, FIRST_KEY, &[])).await?.1.ok);
    assert_eq!(close(&scene, &a.session_id).await?, Cleanup::Done);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_read_ends_that_read_only() -> Result<()> {
    let (_dir, scene) = scene(&[dense(64 * MIB, 1)], |_| {})?;
    let id = open(&scene, open_request(TARGET)).await?.session_id;
    let mut stream = disks(&scene).await?.read_disk(read_request(&id, FIRST_KEY, &[])).await?.into_inner();
    stream.message().await?;
    drop(stream);
    let (pieces, done) = read(&scene, read_request(&id, FIRST_KEY, &[])).await?;
    assert!(done.ok && pieces.concat_data() == std::fs::read(scene.source(0))?);
    assert_eq!(session(&scene, &id).await?.state, "open");
    assert_eq!(close(&scene, &id).await?, Cleanup::Done);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_a_read_that_runs() -> Result<()> {
    let (_dir, scene) = scene(&[dense(128 * MIB, 1)], |_| {})?;
    let id = open(&scene, open_request(TARGET)).await?.session_id;
    let mut stream = disks(&scene).await?.read_disk(read_request(&id, FIRST_KEY, &[])).await?.into_inner();
    stream.message().await?;
    assert_eq!(close(&scene, &id).await?, Cleanup::Done);
    nothing_is_left(&scene).await?;
    let mut done = None;
    while let Some(message) = stream.message().await? {
        if let Some(Item::Done(result)) = message.item {
            done = Some(result);
        }
    }
    let done = done.context("the read was not told its end")?;
    assert!(!done.ok && done.reasons[0].code == "HA-RD-007", "{done:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_detaches_and_tells_why() -> Result<()> {
    let (_dir, scene) = scene(&[dense(64 * MIB, 1)], |_| {})?;
    let id = open(&scene, OpenDisksRequest { lease_seconds: 1, ..open_request(TARGET) }).await?.session_id;
    // A reader that is attached to the session but silent does not keep it.
    let mut stream = disks(&scene).await?.read_disk(read_request(&id, FIRST_KEY, &[])).await?.into_inner();
    stream.message().await?;
    eventually("the session is closed", async || Ok(session(&scene, &id).await?.state == "closed")).await?;
    nothing_is_left(&scene).await?;
    assert_eq!(session(&scene, &id).await?.closed_reason, "the session's lease ended");
    drop(stream);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_the_caller_is_used_and_never_removed() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(4 * MIB, 1)], |spec| spec.target().snapshots = 1)?;
    let theirs = scene.snapshots().await?;
    let from = |moref: &str| OpenDisksRequest { from: Some(From::SnapshotMoref(moref.into())), ..open_request(TARGET) };
    let opened = open(&scene, from(&theirs[0])).await?;
    assert!(opened.snapshot.as_ref().is_some_and(|s| !s.ours && s.moref == theirs[0]));
    let (pieces, done) = read(&scene, read_request(&opened.session_id, FIRST_KEY, &[])).await?;
    assert!(done.ok && pieces.concat_data() == std::fs::read(scene.source(0))?);
    assert_eq!(close(&scene, &opened.session_id).await?, Cleanup::Done);
    only_these_are_left(&scene, &[], &theirs).await?;
    // Nor after a kill.
    open(&scene, from(&theirs[0])).await?;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    only_these_are_left(&scene, &[], &theirs).await?;
    refused(open(&scene, from("snapshot-4711")).await, "HA-SNP-004")?;
    assert!(calls(&scene, "CreateSnapshot").await?.is_empty() && calls(&scene, "RemoveSnapshot").await?.is_empty());
    only_these_are_left(&scene, &[], &theirs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_disks_with_one_uuid_are_never_attached_at_once() -> Result<()> {
    let uuid = "6000C29a-1234-5678-9abc-def012345678";
    let (dir, scene) = scene(&[Content::new(4 * MIB, 1)], |spec| {
        spec.target().disks[0].uuid = Some(uuid.into());
        let clone = DiskSpec { uuid: Some(uuid.into()), capacity: Some(4 * MIB), ..DiskSpec::default() };
        spec.inventory.vms.push(vm("clone01", vec![clone]));
    })?;
    let first = open(&scene, open_request(TARGET)).await?;
    let reason = refused(open(&scene, open_request("clone01")).await, "HA-PLAN-006")?;
    assert_eq!(reason.cleanup(), Cleanup::Done);
    let job = backup(&scene, request("clone01"), dir.path()).await?;
    assert_eq!(codes(job.result()?), ["HA-PLAN-006"]);
    assert!(scene.control().await?.snapshots("clone01").await?.is_empty(), "its snapshot was left");
    assert_eq!(scene.left_attached().await?.len(), 1);
    assert_eq!(close(&scene, &first.session_id).await?, Cleanup::Done);
    nothing_is_left(&scene).await?;
    // One after the other is no problem.
    let second = open(&scene, open_request("clone01")).await?;
    assert_eq!(close(&scene, &second.session_id).await?, Cleanup::Done);
    assert!(scene.control().await?.snapshots("clone01").await?.is_empty());
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_of_open_goes_away_and_the_lease_still_detaches() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(2 * MIB, 1)], |_| {})?;
    crate::support::control(&scene, serde_json::json!({"cmd": "set_task_ms", "ms": 400})).await?;
    let wanted = OpenDisksRequest { lease_seconds: 1, ..open_request(TARGET) };
    let call = open(&scene, wanted);
    let attached =
        eventually("the attach is asked for", async || Ok(!calls(&scene, "ReconfigVM_Task").await?.is_empty()));
    tokio::select! {
        _ = call => anyhow::bail!("opened before it was asked for"),
        asked = attached => asked?,
    }
    eventually("it lands although nobody waits", async || Ok(!scene.left_attached().await?.is_empty())).await?;
    nothing_stays(&scene).await?;
    assert!(scene.control().await?.attached(PROXY).await?.iter().all(|d| d.mode == "independent_persistent"));
    Ok(())
}

/// Nobody looks while it is read: the look after the read has to see that its snapshot is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_snapshot_went_away_is_not_ok() -> Result<()> {
    let (_dir, scene) = scene(&[dense(2 * MIB, 1)], |spec| spec.set("deadlines", "watch_seconds", 3600))?;
    let request = OpenDisksRequest { vm: TARGET.into(), ..OpenDisksRequest::default() };
    let opened = disks(&scene).await?.open_disks(request).await?.into_inner();
    let order =
        ReadDiskRequest { session_id: opened.session_id.clone(), device_key: FIRST_KEY, ..ReadDiskRequest::default() };
    assert!(read(&scene, order.clone()).await?.1.ok);
    let ours = scene.snapshots().await?.pop().context("no snapshot")?;
    let gone = json!({"cmd": "operator", "call": "RemoveSnapshot", "vm": TARGET, "snapshot": ours});
    control(&scene, gone).await?;
    let (_, done) = read(&scene, order).await?;
    assert!(!done.ok && done.reasons[0].code == "HA-CHN-001", "{done:#?}");
    disks(&scene).await?.close_disks(CloseDisksRequest { session_id: opened.session_id }).await?;
    nothing_stays(&scene).await
}
