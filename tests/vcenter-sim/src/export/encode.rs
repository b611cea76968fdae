//! A writer of streamOptimized VMDK: what an ESXi host sends for a disk. Source: Virtual Disk Format 5.0.
//! Header, descriptor, grains each followed by their table, directory, footer, end-of-stream.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::Cues;
use crate::store::Extents;

const SECTOR: usize = 512;
const GRAIN_SECTORS: u64 = 128;
const GRAIN: u64 = GRAIN_SECTORS * 512;
const ENTRIES: usize = 512;
const OVERHEAD: usize = 128;
const AT_END: u64 = u64::MAX;

/// A chain of disk files, top first.
pub(super) struct Chain {
    base: File,
    deltas: Vec<(File, Extents)>,
    capacity: u64,
}

impl Chain {
    pub(super) fn open(layers: &[(PathBuf, Option<Extents>)], capacity: u64) -> io::Result<Chain> {
        let empty = || io::Error::new(io::ErrorKind::NotFound, "empty chain");
        let (base, above) = layers.split_last().ok_or_else(empty)?;
        let deltas = above.iter().rev().map(|(p, e)| Ok((File::open(p)?, e.clone().unwrap_or_default())));
        Ok(Chain { base: File::open(&base.0)?, deltas: deltas.collect::<io::Result<_>>()?, capacity })
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.base.read_exact_at(buf, offset)?;
        let end = offset + buf.len() as u64;
        for (file, extents) in &self.deltas {
            for (from, to) in extents.iter().filter(|(from, to)| *from < end && *to > offset) {
                let (from, to) = (from.max(offset), to.min(end));
                file.read_exact_at(&mut buf[at(from - offset)..at(to - offset)], from)?;
            }
        }
        Ok(())
    }
}

fn at(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Where the stream goes; an error ends it.
pub(super) struct Out<'a> {
    pub(super) position: u64,
    pub(super) send: &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>,
}

impl Out<'_> {
    fn sector(&self) -> u32 {
        u32::try_from(self.position / SECTOR as u64).unwrap_or(u32::MAX)
    }

    /// Sends bytes, filled up to a sector.
    fn put(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        self.position += bytes.len() as u64;
        (self.send)(bytes)
    }

    fn words(&mut self, words: &[u32]) -> io::Result<u32> {
        let place = self.sector();
        self.put(words.iter().flat_map(|w| w.to_le_bytes()).collect())?;
        Ok(place)
    }

    fn marker(&mut self, sectors: u64, kind: u32) -> io::Result<()> {
        let mut m = sectors.to_le_bytes().to_vec();
        m.extend(0u32.to_le_bytes());
        m.extend(kind.to_le_bytes());
        self.put(m)
    }
}

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut h = Vec::with_capacity(SECTOR);
    h.extend(b"KDMV");
    h.extend(3u32.to_le_bytes());
    h.extend(0x3_0001u32.to_le_bytes());
    for v in [capacity, GRAIN_SECTORS, 1, 20] {
        h.extend(v.to_le_bytes());
    }
    h.extend(512u32.to_le_bytes());
    for v in [0, directory, OVERHEAD as u64] {
        h.extend(v.to_le_bytes());
    }
    h.extend(b"\0\n \r\n\x01\0");
    h
}

fn deflate(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut z = ZlibEncoder::new(Vec::new(), Compression::fast());
    z.write_all(data)?;
    z.finish()
}

/// Sends the whole disk.
pub(super) fn disk(chain: &Chain, name: &str, cues: &Cues, out: &mut Out<'_>) -> io::Result<()> {
    let capacity = chain.capacity.div_ceil(SECTOR as u64);
    let mut front = header(capacity, AT_END);
    front.resize(SECTOR, 0);
    front.extend(
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=7dfd8d43\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
             # Extent description\nRDONLY {capacity} SPARSE \"{name}\"\n\n# The Disk Data Base\n#DDB\n\n\
             ddb.adapterType = \"lsilogic\"\n"
        )
        .into_bytes(),
    );
    front.resize(OVERHEAD * SECTOR, 0);
    out.put(front)?;
    let (mut directory, mut count, mut offset) = (Vec::new(), 0, 0);
    while offset < chain.capacity {
        let mut entries = vec![0u32; ENTRIES];
        for entry in &mut entries {
            if offset >= chain.capacity {
                break;
            }
            let mut grain = vec![0u8; at(GRAIN.min(chain.capacity - offset))];
            chain.read(offset, &mut grain)?;
            if grain.iter().any(|b| *b != 0) {
                *entry = out.sector();
                one(offset / 512, &grain, count, cues, out)?;
                count += 1;
            }
            offset += GRAIN;
        }
        if entries.iter().all(|e| *e == 0) {
            directory.push(0);
            continue;
        }
        out.marker((ENTRIES * 4 / SECTOR) as u64, 1)?;
        directory.push(out.words(&entries)?);
    }
    out.marker((directory.len() * 4).div_ceil(SECTOR) as u64, 2)?;
    let place = out.words(&directory)?;
    out.marker(1, 3)?;
    out.put(header(capacity, place.into()))?;
    out.marker(0, 0)
}

fn one(lba: u64, grain: &[u8], number: u64, cues: &Cues, out: &mut Out<'_>) -> io::Result<()> {
    if cues.lose_grain == Some(number) {
        return Ok(());
    }
    let mut z = deflate(grain)?;
    if cues.corrupt_grain == Some(number)
        && let Some(middle) = z.len().checked_div(2)
    {
        z[middle] ^= 0x10;
    }
    let mut record = lba.to_le_bytes().to_vec();
    record.extend(u32::try_from(z.len()).unwrap_or(0).to_le_bytes());
    record.extend(z);
    out.put(record)
}
