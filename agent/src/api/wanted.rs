//! What a BackupVm request wants of its disks: scope and bases, checked before anything is begun.
use std::collections::{BTreeMap, btree_map::Entry};

use hotadd_api::{MAX_BLOCK_BYTES, v1};

use super::text;
use crate::{
    areas::{Base, KnownBlock, Scope, Wanted},
    error::{Error, Result},
    reason,
};

/// Disks that a VM can have: four SCSI controllers of 64, four SATA of 30, four NVMe of 64, two IDE of 2 (vSphere 8
/// configuration maximums).
const MAX_DISKS: usize = 4 * 64 + 4 * 30 + 4 * 64 + 2 * 2;
/// Known blocks of one base.
const MAX_KNOWN: usize = 16_384;
const SECTOR: u64 = 512;

/// # Errors
/// [`reason::SES_REQUEST`], naming the field.
pub(super) fn wanted(request: &v1::BackupVmRequest) -> Result<Wanted> {
    let scope = match v1::Scope::try_from(request.scope) {
        Ok(v1::Scope::Unspecified | v1::Scope::Whole) => Scope::Whole,
        Ok(v1::Scope::Allocated) => Scope::Allocated,
        Ok(v1::Scope::Changed) => Scope::Changed,
        Err(_) => return Err(refused(format!("scope: {} is not known", request.scope))),
    };
    let seed = if request.sample_seed == 0 { drawn_seed() } else { request.sample_seed };
    Ok(Wanted { scope, bases: bases(request)?, enable: request.enable_change_tracking, seed })
}

fn bases(request: &v1::BackupVmRequest) -> Result<BTreeMap<i32, Base>> {
    if request.bases.len() > MAX_DISKS {
        return Err(refused(format!("bases: {}, a VM has at most {MAX_DISKS} disks", request.bases.len())));
    }
    let mut bases = BTreeMap::new();
    for base in &request.bases {
        let key = base.device_key;
        match bases.entry(key) {
            Entry::Occupied(_) => return Err(refused(format!("bases: disk {key} is named twice"))),
            Entry::Vacant(place) => drop(place.insert(of(base).map_err(|e| e.about(format!("disk {key}")))?)),
        }
        if request.ranges.iter().any(|ranges| ranges.device_key == key) {
            return Err(refused(format!("bases and ranges: both name disk {key}")));
        }
    }
    Ok(bases)
}

fn of(base: &v1::DiskBase) -> Result<Base> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let uuid = &base.uuid;
    if !uuid.is_empty() && (uuid.len() != 32 || !uuid.bytes().all(hex)) {
        return Err(refused("bases.uuid: neither empty nor 32 lower-case hex digits".into()));
    }
    if base.known.len() > MAX_KNOWN {
        return Err(refused(format!("bases.known: {} blocks, at most {MAX_KNOWN}", base.known.len())));
    }
    let one = |block| known("bases.known", block, base.capacity_bytes);
    let known = base.known.iter().map(one).collect::<Result<_>>()?;
    let change_id = text("bases.change_id", &base.change_id, false)?;
    Ok(Base { change_id, uuid: uuid.clone(), capacity_bytes: base.capacity_bytes, known })
}

/// Blocks that a disk has to show before its ranges are read, by device key.
pub(super) fn shown(request: &v1::BackupVmRequest, block_bytes: u32) -> Result<BTreeMap<i32, Vec<KnownBlock>>> {
    let of = |disk: &v1::DiskRanges| -> Result<(i32, Vec<KnownBlock>)> {
        let blocks: Vec<KnownBlock> =
            disk.known.iter().map(|block| known("ranges.known", block, u64::MAX)).collect::<Result<_>>()?;
        let unit = u64::from(block_bytes);
        let whole =
            |block: &KnownBlock| block.range.start.is_multiple_of(unit) && block.range.end - block.range.start <= unit;
        if blocks.len() > 2 || !blocks.iter().all(whole) || !blocks.is_sorted_by(|a, b| a.range.end <= b.range.start) {
            return Err(refused("ranges.known: at most 2 blocks of block_bytes, ascending".into()));
        }
        Ok((disk.device_key, blocks))
    };
    request.ranges.iter().map(of).collect()
}

fn known(field: &str, block: &v1::KnownBlock, capacity: u64) -> Result<KnownBlock> {
    let (start, length) = (block.offset, u64::from(block.length));
    let wrong = |what: &str| refused(format!("{field}: {start}+{length} {what}"));
    if !start.is_multiple_of(SECTOR) || !length.is_multiple_of(SECTOR) {
        return Err(wrong("is not in multiples of 512"));
    }
    if length == 0 || length > u64::from(MAX_BLOCK_BYTES) {
        return Err(wrong("is empty or longer than 4 MiB"));
    }
    let end = start.checked_add(length).filter(|end| *end <= capacity);
    let end = end.ok_or_else(|| wrong(&format!("is beyond the disk's {capacity} bytes")))?;
    let blake3 = block.blake3[..].try_into().map_err(|_| wrong("has no BLAKE3 of 32 bytes"))?;
    Ok(KnownBlock { range: start..end, blake3 })
}

fn refused(detail: String) -> Error {
    Error::new(&reason::SES_REQUEST, detail)
}

/// Never 0, which asks for one.
fn drawn_seed() -> u64 {
    let bytes: [u8; 16] = uuid::Uuid::new_v4().into_bytes();
    let (low, _) = bytes.split_at(8);
    low.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> v1::DiskBase {
        let known = v1::KnownBlock { offset: 512, length: 4 << 20, blake3: vec![7; 32] };
        v1::DiskBase {
            device_key: 2000,
            change_id: "52 de/1".into(),
            uuid: "6000c29aaaaaaaaaaaaaaaaaaaaaaaaa".into(),
            capacity_bytes: 8 << 20,
            known: vec![known],
        }
    }

    fn changed(bases: Vec<v1::DiskBase>) -> v1::BackupVmRequest {
        v1::BackupVmRequest { scope: v1::Scope::Changed.into(), bases, ..v1::BackupVmRequest::default() }
    }

    fn why(request: &v1::BackupVmRequest) -> String {
        let error = wanted(request).unwrap_err();
        assert_eq!(*error.reason(), reason::SES_REQUEST);
        error.message()
    }

    #[test]
    fn a_request_is_taken_as_it_is_meant() {
        let taken = wanted(&v1::BackupVmRequest { sample_seed: 9, ..changed(vec![base()]) }).unwrap();
        assert_eq!((taken.scope, taken.seed, taken.enable), (Scope::Changed, 9, false));
        let known = &taken.bases[&2000].known[0];
        assert_eq!((known.range.clone(), known.blake3), (512..(4 << 20) + 512, [7; 32]));
        let plain = wanted(&v1::BackupVmRequest::default()).unwrap();
        assert_eq!((plain.scope, plain.bases.len()), (Scope::Whole, 0));
        assert_ne!(plain.seed, 0);
        assert_ne!(plain.seed, wanted(&v1::BackupVmRequest::default()).unwrap().seed, "drawn");
        let unknown = v1::DiskBase { uuid: String::new(), change_id: String::new(), ..base() };
        assert!(wanted(&changed(vec![unknown])).is_ok());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let ranges = vec![v1::DiskRanges { device_key: 2000, ..v1::DiskRanges::default() }];
        let both = v1::BackupVmRequest { ranges: ranges.clone(), ..changed(vec![]) };
        assert!(wanted(&both).is_ok(), "scope is of the other disks");
        let both = v1::BackupVmRequest { ranges, bases: vec![base()], ..v1::BackupVmRequest::default() };
        assert!(why(&both).contains("bases and ranges"));
        assert!(why(&v1::BackupVmRequest { scope: 77, ..v1::BackupVmRequest::default() }).contains("scope: 77"));
        assert!(why(&changed(vec![base(), base()])).contains("twice"));
        let many =
            (0..=MAX_DISKS).map(|n| v1::DiskBase { device_key: i32::try_from(n).unwrap(), ..v1::DiskBase::default() });
        assert!(why(&changed(many.collect())).contains("at most"));
    }

    #[test]
    fn what_a_base_says_is_checked() {
        type Change = fn(&mut v1::DiskBase);
        let cases: [(Change, &str); 10] = [
            (|base| base.uuid.truncate(31), "hex digits"),
            (|base| base.uuid = base.uuid.to_uppercase(), "hex digits"),
            (|base| base.change_id = "x".repeat(2000), "change_id"),
            (|base| base.known = vec![base.known[0].clone(); MAX_KNOWN + 1], "at most 16384"),
            (|base| base.known[0].offset = 100, "multiples of 512"),
            (|base| base.known[0].length = 513, "multiples of 512"),
            (|base| base.known[0].length = 0, "empty"),
            (|base| base.known[0].length += 512, "longer than 4 MiB"),
            (|base| base.known[0].offset = u64::MAX - 511, "beyond"),
            (|base| base.known[0].blake3 = vec![0; 31], "BLAKE3"),
        ];
        for (change, expected) in cases {
            let mut base = base();
            change(&mut base);
            let told = why(&changed(vec![base]));
            assert!(told.contains(expected) && told.contains("disk 2000"), "{expected}: {told}");
        }
    }
}
