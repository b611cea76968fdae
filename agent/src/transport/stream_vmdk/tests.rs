//! The decoder against a writer of its own, against qemu-img's, and against damage.

use std::io::Write;

use proptest::prelude::*;

use super::*;

const GRAIN: usize = 65_536;

/// A writer of streams, with every field open to a test.
struct Writer {
    out: Vec<u8>,
    capacity: u64,
    tables: Vec<u32>,
}

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut h = b"KDMV".to_vec();
    h.extend(3u32.to_le_bytes());
    h.extend(0x3_0001u32.to_le_bytes());
    for v in [capacity, 128, 1, 20] {
        h.extend(v.to_le_bytes());
    }
    h.extend(512u32.to_le_bytes());
    for v in [0, directory, 128] {
        h.extend(v.to_le_bytes());
    }
    h.extend(b"\0\n \r\n\x01\0");
    h.resize(512, 0);
    h
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(data).unwrap();
    z.finish().unwrap()
}

impl Writer {
    fn new(capacity: u64, descriptor: &str) -> Writer {
        let mut out = header(capacity, u64::MAX);
        out.extend(descriptor.as_bytes());
        out.resize(128 * 512, 0);
        Writer { out, capacity, tables: Vec::new() }
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(512), 0);
    }

    fn sector(&self) -> u32 {
        u32::try_from(self.out.len() / 512).unwrap()
    }

    fn record(&mut self, lba: u64, compressed: &[u8]) -> u32 {
        let at = self.sector();
        self.out.extend(lba.to_le_bytes());
        self.out.extend(u32::try_from(compressed.len()).unwrap().to_le_bytes());
        self.out.extend(compressed);
        self.pad();
        at
    }

    fn grain(&mut self, lba: u64, data: &[u8]) -> u32 {
        self.record(lba, &deflate(data))
    }

    fn marker(&mut self, sectors: u64, kind: u32) {
        self.out.extend(sectors.to_le_bytes());
        self.out.extend(0u32.to_le_bytes());
        self.out.extend(kind.to_le_bytes());
        self.pad();
    }

    fn words(&mut self, words: &[u32]) -> u32 {
        let at = self.sector();
        words.iter().for_each(|w| self.out.extend(w.to_le_bytes()));
        self.pad();
        at
    }

    fn table(&mut self, entries: &[u32]) {
        let mut all = entries.to_vec();
        all.resize(512, 0);
        self.marker(4, 1);
        let at = self.words(&all);
        self.tables.push(at);
    }

    fn finish(mut self) -> Vec<u8> {
        let tables = std::mem::take(&mut self.tables);
        self.marker((tables.len() as u64 * 4).div_ceil(512), 2);
        let directory = self.words(&tables);
        self.marker(1, 3);
        let footer = header(self.capacity, u64::from(directory));
        self.out.extend(footer);
        self.marker(0, 0);
        self.out
    }
}

const DESCRIPTOR: &str =
    "# Disk DescriptorFile\nversion=1\nCID=1234abcd\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n";

/// A whole disk as a stream.
fn encode(disk: &[u8]) -> Vec<u8> {
    let mut w = Writer::new((disk.len() as u64).div_ceil(512), DESCRIPTOR);
    for (t, part) in disk.chunks(GRAIN * 512).enumerate() {
        let mut entries = Vec::new();
        for (g, grain) in part.chunks(GRAIN).enumerate() {
            let zero = grain.iter().all(|b| *b == 0);
            entries.push(if zero { 0 } else { w.grain(((t * 512 + g) * 128) as u64, grain) });
        }
        if entries.iter().any(|e| *e != 0) {
            w.table(&entries);
        } else {
            w.tables.push(0);
        }
    }
    w.finish()
}

/// Decodes in pieces of `step` bytes; the disk as it comes, held to cover it once and in order.
fn decode(stream: &[u8], capacity: usize, step: usize) -> Result<Vec<u8>, StreamError> {
    let mut decoder = Decoder::new(capacity as u64);
    let mut disk = Vec::new();
    for mut part in stream.chunks(step.max(1)) {
        while let Some(piece) = decoder.next(&mut part)? {
            match piece {
                Piece::Data { offset, bytes } => {
                    assert_eq!(offset, disk.len() as u64);
                    disk.extend_from_slice(&bytes);
                }
                Piece::Zero { offset, length } => {
                    assert_eq!(offset, disk.len() as u64);
                    assert!(length > 0);
                    disk.resize(disk.len() + usize::try_from(length).unwrap(), 0);
                }
            }
            assert!(disk.len() <= capacity, "more than the disk");
        }
    }
    let summary = decoder.finish()?;
    assert_eq!((disk.len(), summary.capacity, summary.stream), (capacity, capacity as u64, stream.len() as u64));
    Ok(disk)
}

fn kind(stream: &[u8], capacity: usize) -> &'static str {
    decode(stream, capacity, 4096).map_or_else(|e| e.kind(), |_| "ok")
}

/// Content from a seed: runs of zeros, repeated bytes and noise.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut disk = vec![0u8; len];
    for grain in disk.chunks_mut(GRAIN) {
        match next() % 4 {
            0 | 1 => {}
            2 => grain.fill(next().to_le_bytes()[0]),
            _ => grain.iter_mut().for_each(|b| *b = next().to_le_bytes()[3]),
        }
    }
    disk
}

/// Sectors of the grains in a stream of [`encode`].
fn records(stream: &[u8]) -> Vec<usize> {
    let mut at = 128 * 512;
    let mut found = Vec::new();
    while at + 16 <= stream.len() {
        let (value, size) = (header::u64_at(stream, at), header::u32_at(stream, at + 8) as usize);
        if size > 0 {
            found.push(at);
            at += (12 + size).next_multiple_of(512);
        } else {
            at += 512 + usize::try_from(value).unwrap() * 512;
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_was_encoded_is_decoded(seed: u64, sectors in 1usize..2000, step in 1usize..200_000) {
        let disk = content(seed, sectors * 512);
        prop_assert!(decode(&encode(&disk), disk.len(), step).unwrap() == disk);
    }

    #[test]
    fn noise_never_panics_and_is_never_ok(bytes in proptest::collection::vec(any::<u8>(), 0..4096), headed: bool) {
        let mut stream = if headed { Writer::new(2048, DESCRIPTOR).out } else { Vec::new() };
        stream.extend(bytes);
        prop_assert!(decode(&stream, 2048 * 512, 777).is_err());
    }
}

#[test]
fn many_tables_and_empty_ones() {
    // Three tables, the second without a grain.
    let mut disk = vec![0; GRAIN * 512 * 2 + GRAIN * 3 + 512];
    disk[5] = 7;
    let last = disk.len() - 1;
    disk[last] = 9;
    assert!(decode(&encode(&disk), disk.len(), 1 << 20).unwrap() == disk);
    // A disk of nothing but zeros has no grain at all.
    let zeros = vec![0; GRAIN * 512 + 512];
    assert!(decode(&encode(&zeros), zeros.len(), 1 << 20).unwrap() == zeros);
}

/// Every byte of a flipped stream: the disk is refused, or it is the right one.
#[test]
fn a_flipped_bit_never_gives_wrong_bytes() {
    let disk = content(5, GRAIN * 6);
    let stream = encode(&disk);
    let (mut refused, mut seed) = (0, 11u64);
    for n in 0..1500u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n | 1);
        let mut bad = stream.clone();
        // Half of them where the structure is: header, markers, tables, footer.
        let structure = stream.len() - 6 * 512 - 2048;
        let at = match n % 4 {
            0 => usize::try_from(seed >> 33).unwrap() % 512,
            1 => structure + usize::try_from(seed >> 33).unwrap() % (stream.len() - structure),
            _ => usize::try_from(seed >> 33).unwrap() % stream.len(),
        };
        bad[at] ^= 1 << (seed >> 20 & 7);
        match decode(&bad, disk.len(), 1 << 20) {
            Ok(got) => assert!(got == disk, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn a_cut_stream_is_never_ok() {
    let disk = content(3, GRAIN * 4);
    let stream = encode(&disk);
    for cut in (0..stream.len()).step_by(509).chain(stream.len() - 600..stream.len()) {
        assert_eq!(kind(&stream[..cut], disk.len()), "truncated", "{cut}");
    }
}

#[test]
fn a_lost_moved_or_repeated_grain_is_told() {
    let disk = vec![0xab; GRAIN * 4];
    let stream = encode(&disk);
    let at = records(&stream);
    assert_eq!(at.len(), 4);
    let (second, third) = (at[1]..at[2], at[2]..at[3]);
    let mut lost = stream.clone();
    lost.drain(second.clone());
    assert_eq!(kind(&lost, disk.len()), "tables");
    let mut swapped = stream[..second.start].to_vec();
    swapped.extend(&stream[third.clone()]);
    swapped.extend(&stream[second.clone()]);
    swapped.extend(&stream[third.end..]);
    assert_eq!(kind(&swapped, disk.len()), "not_ascending");
    let mut twice = stream[..third.start].to_vec();
    twice.extend(&stream[second]);
    twice.extend(&stream[third.start..]);
    assert_eq!(kind(&twice, disk.len()), "not_ascending");
    // Zeroed from a grain on: the first zero sector looks like the end.
    let mut zeroed = stream.clone();
    zeroed[third.start..].fill(0);
    assert_eq!(kind(&zeroed, disk.len()), "marker");
}

#[test]
fn grains_that_no_honest_stream_has() {
    let one = |f: &dyn Fn(&mut Writer) -> u32| {
        let mut w = Writer::new(1024, DESCRIPTOR);
        let entry = f(&mut w);
        w.table(&[entry]);
        kind(&w.finish(), 1024 * 512)
    };
    let full = vec![1u8; GRAIN];
    assert_eq!(one(&|w| w.grain(0, &full)), "ok");
    assert_eq!(one(&|w| w.grain(1, &full)), "misplaced");
    assert_eq!(one(&|w| w.grain(1024, &full)), "misplaced");
    assert_eq!(one(&|w| w.grain(u64::MAX - 127, &full)), "misplaced");
    assert_eq!(one(&|w| w.grain(0, &full[1..])), "grain");
    assert_eq!(one(&|w| w.grain(0, &vec![0u8; GRAIN + 1])), "grain");
    assert_eq!(one(&|w| w.grain(0, &vec![0u8; 4 << 20])), "grain", "a bomb");
    assert_eq!(one(&|w| w.record(0, &deflate(&full)[..40])), "grain", "cut");
    assert_eq!(one(&|w| w.record(0, &[deflate(&full), vec![0]].concat())), "grain", "bytes behind");
    assert_eq!(one(&|w| w.record(0, &vec![0x78; 80_000])), "marker");
    assert_eq!(one(&|w| w.grain(0, &full) + 1), "tables");
    assert_eq!(one(&|_| 0), "ok");
    assert_eq!(one(&|_| 130), "tables");
}

#[test]
fn markers_at_the_wrong_place() {
    let grown = |f: &dyn Fn(&mut Writer)| {
        let mut w = Writer::new(1024, DESCRIPTOR);
        f(&mut w);
        kind(&w.finish(), 1024 * 512)
    };
    assert_eq!(grown(&|w| w.tables.push(0)), "ok");
    assert_eq!(grown(&|w| w.marker(0, 0)), "marker", "the end before the footer");
    assert_eq!(grown(&|w| w.marker(1, 7)), "marker");
    assert_eq!(grown(&|w| w.marker(3, 1)), "marker");
    assert_eq!(grown(&|w| w.marker(u64::MAX, 2)), "marker");
    let bare = |w: &mut Writer| {
        w.grain(0, &[1; GRAIN]);
        w.tables.push(0);
    };
    assert_eq!(grown(&bare), "tables", "grains without their table");
    assert_eq!(grown(&|w| w.tables.push(4711)), "tables");
    let whole = encode(&[0; 1024 * 512]);
    let footer = whole.len() - 1024;
    let mut no_footer = whole.clone();
    no_footer.drain(footer - 512..footer + 512);
    assert_eq!(kind(&no_footer, 1024 * 512), "marker");
    let mut other = whole.clone();
    other[footer + 20] = 64;
    assert_eq!(kind(&other, 1024 * 512), "footer");
    let mut elsewhere = whole.clone();
    elsewhere[footer + 56] ^= 1;
    assert_eq!(kind(&elsewhere, 1024 * 512), "footer");
    assert_eq!(kind(&[whole.clone(), vec![0; 512]].concat(), 1024 * 512), "ok", "padding");
    assert_eq!(kind(&[whole.clone(), vec![0; 70_000]].concat(), 1024 * 512), "trailing");
    assert_eq!(kind(&[whole, vec![1]].concat(), 1024 * 512), "trailing");
}

#[test]
fn headers_that_are_refused() {
    let whole = encode(&[0; 1024 * 512]);
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = whole.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        kind(&bad, 1024 * 512)
    };
    assert_eq!(with(0, b"COWD"), "not_vmdk");
    assert_eq!(with(4, &[1]), "version");
    assert_eq!(with(10, &[1]), "header", "no markers");
    assert_eq!(with(12, &[0, 8]), "capacity");
    assert_eq!(with(12, &[0xff; 8]), "capacity");
    assert_eq!(with(20, &[100]), "header", "grain size");
    assert_eq!(with(20, &[0, 0, 0, 0, 0, 0, 0, 0x80]), "header", "grain size");
    assert_eq!(with(28, &[0xff; 16]), "header", "descriptor");
    assert_eq!(with(44, &[1]), "header", "entries");
    assert_eq!(with(64, &[0xff; 8]), "header", "overhead");
    assert_eq!(with(74, b"\n"), "header", "line ends");
    assert_eq!(with(77, &[0]), "header", "compression");
    let delta = DESCRIPTOR.replace("parentCID=ffffffff", "parentCID = 1234abcd");
    assert_eq!(kind(&Writer::new(1024, &delta).finish(), 1024 * 512), "has_parent");
    // A disk that ends within a grain may be rounded up to one, and no further.
    assert_eq!(kind(&whole, 1024 * 512 - 512), "ok");
    assert_eq!(kind(&whole, 1024 * 512 - GRAIN), "capacity");
}

#[test]
fn an_error_is_final() {
    let mut decoder = Decoder::new(512);
    let noise = [1u8; 512];
    assert_eq!(decoder.next(&mut noise.as_slice()).unwrap_err(), StreamError::NotVmdk);
    assert_eq!(decoder.next(&mut noise.as_slice()).unwrap_err(), StreamError::Refused);
    assert_eq!(decoder.finish().unwrap_err(), StreamError::Refused);
}

/// The foreign encoder: tables in front, no footer, a ragged end.
#[test]
fn what_qemu_img_encodes_is_decoded() {
    if std::process::Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("skipped: qemu-img is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, vmdk) = (dir.path().join("raw"), dir.path().join("vmdk"));
    for (seed, grains) in [(1, 1), (2, 7), (3, 40), (4, 1100)] {
        let mut disk = content(seed, grains * GRAIN);
        disk[0] = 1;
        std::fs::write(&raw, &disk).unwrap();
        let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
        assert!(std::process::Command::new("qemu-img").args(args).arg(&raw).arg(&vmdk).status().unwrap().success());
        let mut stream = std::fs::read(&vmdk).unwrap();
        // It writes no end-of-stream marker; zeros that happen to pad the last grain read as one.
        if decode(&stream, disk.len(), 100_000) == Err(StreamError::Truncated(stream.len() as u64)) {
            stream.resize(stream.len() + 512, 0);
        }
        assert!(decode(&stream, disk.len(), 100_000).unwrap() == disk, "seed {seed}");
        assert!(decode(&stream[..stream.len() / 2], disk.len(), 100_000).is_err());
    }
}
