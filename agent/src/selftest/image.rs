//! What lies on the trap disk: four partitions, each with the least of a header that the tools of its kind take for real. Pure bytes;
//! libblkid judges them in the tests here, LVM, mdadm and udev in the lab. Layouts: LVM2 lib/format_text/layout.h and lib/label/label.h, Linux
//! include/uapi/linux/raid/md_p.h and fs/ext4/ext4.h, util-linux swap header (mkswap(8)).
//!
//! ```text
//! MBR │ 1 LVM2: group hotadd_trap with one volume │ 2 RAID member, a mirror of one │ 3 ext4 │ 4 swap; labels hotadd-trap
//! ```

/// What a tool would show that has read it.
pub const NAME: &str = "hotadd_trap";
/// Labels of the file system and the swap area.
pub const LABEL: &str = "hotadd-trap";
/// As mdadm prints it.
pub const ARRAY: &str = "686f7461:64642d74:7261702d:61727279";

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Of each partition.
const LENGTH: u64 = 8 * MIB;
/// Partition types, in order.
const TYPES: [u8; 4] = [0x8e, 0xfd, 0x83, 0x82];
/// MiB that the disk needs.
pub const SIZE_MIB: u64 = 1 + 4 * LENGTH / MIB + 1;
/// Where LVM's metadata area begins in its partition.
const AREA: u64 = 4096;
/// Where LVM's and md's data begin in their partitions.
const DATA: u64 = MIB;

/// Bytes with their places on the disk; all else is zero.
#[must_use]
pub fn pieces() -> Vec<(u64, Vec<u8>)> {
    let mut pieces = vec![(0, partitions())];
    for (number, parts) in
        [lvm(), vec![(4096, raid())], vec![(1024, ext4())], vec![(1024, swap())]].into_iter().enumerate()
    {
        pieces.extend(parts.into_iter().map(|(at, bytes)| (start(number) + at, bytes)));
    }
    pieces
}

fn start(number: usize) -> u64 {
    MIB + number as u64 * LENGTH
}

/// A header of so many zeros that is filled field by field.
struct Header(Vec<u8>);

impl Header {
    fn new(length: usize) -> Self {
        Self(vec![0; length])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u16(&mut self, at: usize, value: u16) -> &mut Self {
        self.put(at, &value.to_le_bytes())
    }

    fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put(at, &value.to_le_bytes())
    }

    fn u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.put(at, &value.to_le_bytes())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "sectors of a disk of some MiB")]
fn partitions() -> Vec<u8> {
    let mut table = Header::new(512);
    for (number, kind) in TYPES.into_iter().enumerate() {
        let at = 446 + 16 * number;
        table.put(at + 4, &[kind]).u32(at + 8, (start(number) / SECTOR) as u32).u32(at + 12, (LENGTH / SECTOR) as u32);
    }
    table.u16(510, 0xaa55);
    table.0
}

/// Six groups as LVM writes identifiers into text.
fn lvm_id(kind: char) -> [String; 2] {
    let bare: String = std::iter::repeat_n(kind, 32).collect();
    let cuts = [0, 6, 10, 14, 18, 22, 26, 32];
    let dashed = cuts.windows(2).map(|cut| &bare[cut[0]..cut[1]]).collect::<Vec<_>>().join("-");
    [bare, dashed]
}

fn lvm() -> Vec<(u64, Vec<u8>)> {
    let mut label = Header::new(512);
    label.put(0, b"LABELONE").u64(8, 1).u32(20, 32).put(24, b"LVM2 001");
    label.put(32, lvm_id('P')[0].as_bytes()).u64(64, LENGTH);
    // One data area to the end, one metadata area; each list ends with zeros.
    label.u64(72, DATA).u64(104, AREA).u64(112, DATA - AREA);
    let sum = lvm_crc(&label.0[20..]);
    label.u32(16, sum);
    let text = lvm_text();
    let mut area = Header::new(512);
    area.put(4, b" LVM2 x[5A%r0N*>").u32(20, 1).u64(24, AREA).u64(32, DATA - AREA);
    area.u64(40, SECTOR).u64(48, text.len() as u64).u32(56, lvm_crc(&text));
    let sum = lvm_crc(&area.0[4..]);
    area.u32(0, sum);
    vec![(SECTOR, label.0), (AREA, area.0), (AREA + SECTOR, text)]
}

fn lvm_text() -> Vec<u8> {
    let [[_, group], [_, disk], [_, volume]] = ['G', 'P', 'V'].map(lvm_id);
    let (sectors, extents) = (LENGTH / SECTOR, (LENGTH - DATA) / MIB);
    format!(
        "{NAME} {{\nid = \"{group}\"\nseqno = 1\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nflags = []\n\
         extent_size = 2048\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\
         physical_volumes {{\npv0 {{\nid = \"{disk}\"\ndevice = \"/dev/trap\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\n\
         dev_size = {sectors}\npe_start = 2048\npe_count = {extents}\n}}\n}}\n\
         logical_volumes {{\ntrap {{\nid = \"{volume}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\nsegment_count = 1\n\
         segment1 {{\nstart_extent = 0\nextent_count = {extents}\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv0\", 0\n]\n}}\n}}\n}}\n}}\n\
         contents = \"Text Format Volume Group\"\nversion = 1\ndescription = \"\"\ncreation_host = \"trap\"\ncreation_time = 1\n\n\0"
    )
    .into_bytes()
}

/// CRC-32 with LVM's own start value and no last step (lib/misc/crc.c, INITIAL_CRC).
fn lvm_crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn raid() -> Vec<u8> {
    let (all, data) = (LENGTH / SECTOR, DATA / SECTOR);
    let mut block = Header::new(258);
    block.u32(0, 0xa92b_4efc).u32(4, 1).put(16, b"hotadd-trap-arry").put(32, b"trap:hotadd_trap");
    // A clean mirror of one disk: it can be started at once.
    block.u64(64, 1).u32(72, 1).u64(80, all - data).u32(92, 1);
    block.u64(128, data).u64(136, all - data).u64(144, 8).put(168, b"hotadd-trap-disk");
    block.u64(192, 1).u64(200, 1).u64(208, u64::MAX).u32(220, 1);
    let words = block.0.chunks(4).map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let sum: u64 = words.sum();
    #[allow(clippy::cast_possible_truncation, reason = "folded to 32 bits, as md does")]
    block.u32(216, ((sum & 0xffff_ffff) + (sum >> 32)) as u32);
    block.0
}

fn ext4() -> Vec<u8> {
    let mut block = Header::new(1024);
    // 8192 blocks of 1 KiB in one group; extents make it ext4.
    block.u32(0, 512).u32(4, 8192).u32(12, 7000).u32(16, 500).u32(20, 1).u32(32, 8192).u32(36, 8192).u32(40, 512);
    block.u16(56, 0xef53).u16(58, 1).u16(60, 1).u32(76, 1).u32(84, 11).u16(88, 256).u32(96, 0x42);
    block.put(104, b"hotadd-trap-ext4").put(120, LABEL.as_bytes());
    block.0
}

#[allow(clippy::cast_possible_truncation, reason = "pages of some MiB")]
fn swap() -> Vec<u8> {
    let mut block = Header::new(4096 - 1024);
    block.u32(0, 1).u32(4, (LENGTH / 4096) as u32 - 1).put(12, b"hotadd-trap-swap").put(28, LABEL.as_bytes());
    block.put(4086 - 1024, b"SWAPSPACE2");
    block.0
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _, process::Command};

    use super::*;

    /// libblkid checks the sums of LVM and md.
    #[test]
    fn blkid_takes_each_header_for_real() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let disk = File::create(&path).unwrap();
        disk.set_len(SIZE_MIB * MIB).unwrap();
        for (at, bytes) in pieces() {
            disk.write_all_at(&bytes, at).unwrap();
        }
        for (number, kind) in ["LVM2_member", "linux_raid_member", "ext4", "swap"].into_iter().enumerate() {
            let window = format!("-O{}", start(number));
            let done = Command::new("blkid")
                .args(["-p", "-o", "value", "-s", "TYPE", &window, &format!("-S{LENGTH}")])
                .arg(&path)
                .output();
            assert_eq!(String::from_utf8(done.unwrap().stdout).unwrap().trim(), kind);
        }
        let table = Command::new("blkid").args(["-p", "-o", "value", "-s", "PTTYPE"]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8(table.stdout).unwrap().trim(), "dos");
    }
}
