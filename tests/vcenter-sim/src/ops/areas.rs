//! QueryChangedDiskAreas: true maps of what a VM wrote, in pages, and lies on cue. Which snapshot begins or ends tracking.
//!
//! UNVERIFIED, as no text says so: FileFault of a disk that is not tracked and of a changeId of another tracking.

use std::fs::File;

use nix::unistd::{Whence, lseek};
use serde_json::{Value, json};

use crate::collector::moref;
use crate::fault::{Fault, Res};
use crate::soap::Reply;
use crate::state::{Kind, State};
use crate::store::Extents;
use crate::tracking::{GRANULE, Track, blocks};
use crate::value::{MoRef, Obj};
use crate::xml::Node;

/// How the maps are told from now on.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    /// Areas of one page.
    page: usize,
    lie: Option<Lie>,
}

impl Default for Telling {
    fn default() -> Telling {
        Telling { page: 2000, lie: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    /// A page of length 0.
    Stuck,
    /// An area beyond the capacity.
    Beyond,
    /// Areas that overlap, in no order.
    Overlap,
    /// An area of negative length.
    Negative,
    /// A page of another place than was asked for.
    Elsewhere,
    /// These bytes are left out, whatever was written.
    Miss(u64, u64),
}

/// `{"cmd":"areas","page":N,"lie":…,"offset":N,"length":N}`; what is left out goes back to its default.
pub(crate) fn control(s: &mut State, v: &Value) -> Result<(), String> {
    let number = |key: &str| v[key].as_u64().ok_or_else(|| format!("{key} missing"));
    let lie = match v["lie"].as_str() {
        None => None,
        Some("stuck") => Some(Lie::Stuck),
        Some("beyond") => Some(Lie::Beyond),
        Some("overlap") => Some(Lie::Overlap),
        Some("negative") => Some(Lie::Negative),
        Some("elsewhere") => Some(Lie::Elsewhere),
        Some("miss") => Some(Lie::Miss(number("offset")?, number("length")?)),
        Some(other) => return Err(format!("unknown lie '{other}'")),
    };
    let page = v["page"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(Telling::default().page);
    s.telling = Telling { page: page.max(1), lie };
    Ok(())
}

/// Tracking of a disk starts anew: another UUID, no history.
pub(crate) fn reset(s: &mut State, vm: &str, disk: &str) -> Result<Value, String> {
    let id = s.find_vm(vm).ok_or("no such vm")?;
    let path = s.vm(&id).map_err(|f| f.text)?.find_disk(disk).ok_or("no such disk")?.1.path.clone();
    let track = Track::begin(&format!("{path} {}", s.next()));
    let file = s.store.files.get_mut(&path).ok_or("no such file")?;
    file.track = Some(track);
    Ok(json!({}))
}

/// A stun: disks begin or cease to be tracked, as the VM's setting says (vSphere API 8.0, changeTrackingEnabled).
pub(crate) fn stun(s: &mut State, vm: &str) -> Res<()> {
    let v = s.vm(vm)?;
    let tracked = v.change_tracking;
    let tops: Vec<String> = v.disks().filter(|(_, d)| d.snapshotted()).map(|(_, d)| d.path.clone()).collect();
    for top in tops {
        let seed = format!("{top} {}", s.next());
        if let Some(file) = s.store.files.get_mut(&top) {
            match (&file.track, tracked) {
                (None, true) => file.track = Some(Track::begin(&seed)),
                (Some(_), false) => file.track = None,
                _ => {}
            }
        }
    }
    Ok(())
}

pub(crate) fn query(s: &State, vm: &MoRef, body: &Node) -> Res<Reply> {
    let snapshot = body.kid("snapshot").and_then(moref).ok_or_else(|| Fault::argument("snapshot"))?;
    let (of, snapshot) = s.snapshot(&snapshot.id)?;
    let key: i32 = body.int("deviceKey").unwrap_or(-1);
    let disk = snapshot.devices.iter().find(|d| d.key == key).and_then(|d| match &d.kind {
        Kind::Disk(disk) if of.id == vm.id => Some(disk),
        _ => None,
    });
    let path = &disk.ok_or_else(|| Fault::argument("deviceKey"))?.path;
    let file = s.store.files.get(path).ok_or_else(|| Fault::argument("deviceKey"))?;
    let start: u64 = body.int("startOffset").ok_or_else(|| Fault::argument("startOffset"))?;
    if start >= file.capacity {
        return Err(Fault::argument("startOffset"));
    }
    let fault =
        |why: &str| Fault::new("FileFault", format!("Error caused by file {path}: {why}")).with("file", path.as_str());
    let track = file.track.as_ref().ok_or_else(|| fault("change tracking is not enabled"))?;
    let found = match body.str("changeId").unwrap_or("").trim() {
        "*" => allocated(s, path).map_err(|e| fault(&e.to_string()))?,
        id => track.since(id).map_err(fault)?,
    };
    let mut areas: Vec<(u64, u64)> = blocks(&found, file.capacity).iter().collect();
    if let Some(Lie::Miss(at, length)) = s.telling.lie {
        areas = areas.into_iter().flat_map(|area| without(area, (at, at + length))).collect();
    }
    Ok(Reply::of("DiskChangeInfo", page(&s.telling, &areas, start, file.capacity)))
}

/// What is left of an area without the blocks that these bytes touch.
fn without((start, end): (u64, u64), (from, to): (u64, u64)) -> Vec<(u64, u64)> {
    let (from, to) = (from - from % GRANULE, to.next_multiple_of(GRANULE));
    let parts = [(start, end.min(from)), (start.max(to), end)];
    parts.into_iter().filter(|(start, end)| start < end).collect()
}

/// What the chain below a file holds: data of its base, and what was written to each delta.
fn allocated(s: &State, path: &str) -> std::io::Result<Extents> {
    let mut all = Extents::default();
    for file in s.store.chain(path).iter().filter_map(|p| s.store.files.get(p)) {
        if file.parent.is_some() {
            file.extents.iter().for_each(|(start, end)| all.insert(start, end));
            continue;
        }
        let data = File::open(&file.host)?;
        let mut at = 0i64;
        while let Ok(start) = lseek(&data, at, Whence::SeekData) {
            at = lseek(&data, start, Whence::SeekHole).map_err(std::io::Error::from)?;
            all.insert(start.unsigned_abs(), at.unsigned_abs());
        }
    }
    Ok(all)
}

fn page(telling: &Telling, areas: &[(u64, u64)], start: u64, capacity: u64) -> Obj {
    let left: Vec<(u64, u64)> =
        areas.iter().filter(|(_, end)| *end > start).map(|(from, end)| ((*from).max(start), *end)).collect();
    let told = &left[..left.len().min(telling.page)];
    let end = if told.len() < left.len() { told.last().map_or(capacity, |area| area.1) } else { capacity };
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut told: Vec<(i64, i64)> = told.iter().map(|(from, to)| (signed(*from), signed(to - from))).collect();
    let (mut begin, mut length) = (signed(start), signed(end - start));
    match telling.lie {
        Some(Lie::Stuck) => length = 0,
        Some(Lie::Elsewhere) => begin += signed(GRANULE),
        Some(Lie::Beyond) => told.push((signed(capacity + (1 << 30)), signed(GRANULE))),
        Some(Lie::Overlap) => told.extend([(0, signed(2 * GRANULE)), (signed(GRANULE), signed(GRANULE))]),
        Some(Lie::Negative) => told.push((signed(GRANULE), -signed(GRANULE))),
        Some(Lie::Miss(..)) | None => {}
    }
    let extent =
        |(start, length): &(i64, i64)| Obj::new("DiskChangeExtent").with("start", *start).with("length", *length);
    let told: Vec<Obj> = told.iter().map(extent).collect();
    Obj::new("DiskChangeInfo")
        .with("startOffset", begin)
        .with("length", length)
        .with("changedArea", (!told.is_empty()).then_some(told))
}
