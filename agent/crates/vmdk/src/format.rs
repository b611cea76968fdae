//! The fixed parts of the format: header, descriptor, markers. Bytes in, bytes out; nothing is written here.

/// Bytes of a sector, the format's unit.
pub(crate) const SECTOR: usize = 512;
/// Bytes of a grain: the unit that is compressed or left out.
pub const GRAIN: usize = 64 << 10;
/// Entries of a grain table: fixed by the format.
pub(crate) const ENTRIES: usize = 512;
/// Sectors before the first grain: header and descriptor.
const OVERHEAD: usize = 128;
const DESCRIPTOR_SECTORS: u64 = 20;
/// `gdOffset` of the header when the directory comes behind the grains.
pub(crate) const AT_END: u64 = u64::MAX;
/// Line ends can be tested; grains are compressed; markers are there.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
const DEFLATE: u16 = 1;

/// Markers other than grains.
pub(crate) const MARK_END: u32 = 0;
pub(crate) const MARK_TABLE: u32 = 1;
pub(crate) const MARK_DIRECTORY: u32 = 2;
pub(crate) const MARK_FOOTER: u32 = 3;

/// What a disk says of itself.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    pub capacity_bytes: u64,
    /// Its own file name, as the descriptor repeats it.
    pub file_name: &'a str,
    /// Content id: any number but `ffffffff` and `fffffffe`, another for another content.
    pub content_id: u32,
}

impl Head<'_> {
    pub(crate) fn sectors(&self) -> u64 {
        self.capacity_bytes / SECTOR as u64
    }

    /// Everything before the first grain.
    pub(crate) fn front(&self) -> Vec<u8> {
        let mut bytes = header(self.sectors(), AT_END);
        bytes.extend(self.descriptor().into_bytes());
        bytes.resize(OVERHEAD * SECTOR, 0);
        bytes
    }

    fn descriptor(&self) -> String {
        let (sectors, cid) = (self.sectors(), self.content_id);
        let name: String = self.file_name.chars().filter(|c| !c.is_control() && *c != '"').take(200).collect();
        // Geometry as vSphere gives SCSI disks above 1 GiB; cylinders are a hint of old and stop at 16 bits.
        let (heads, per_track) = if sectors < 2 << 20 { (64, 32) } else { (255, 63) };
        let cylinders = (sectors / (heads * per_track)).min(u64::from(u16::MAX));
        format!(
            "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
             # Extent description\nRDONLY {sectors} SPARSE \"{name}\"\n\n# The Disk Data Base\n#DDB\n\n\
             ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"{per_track}\"\n\
             ddb.virtualHWVersion = \"10\"\n"
        )
    }
}

/// One sector: SparseExtentHeader, also as footer, where the directory's place is known. Sectors.
pub(crate) fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTOR);
    bytes.extend(b"KDMV");
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(FLAGS.to_le_bytes());
    for value in [capacity, (GRAIN / SECTOR) as u64, 1, DESCRIPTOR_SECTORS] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(512u32.to_le_bytes());
    // No second directory; the directory; the overhead.
    for value in [0, directory, OVERHEAD as u64] {
        bytes.extend(value.to_le_bytes());
    }
    // Closed cleanly; line ends that a text transfer would change.
    bytes.extend(b"\0\n \r\n");
    bytes.extend(DEFLATE.to_le_bytes());
    bytes.resize(SECTOR, 0);
    bytes
}

/// The sector before a table, the directory, the footer or the end.
pub(crate) fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.resize(SECTOR, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_fits_and_a_name_can_not_leave_its_quotes() {
        let name = format!("a\"\nparentCID=00000000\n{}", "é".repeat(300));
        let head = Head { capacity_bytes: u64::MAX / 512 * 512, file_name: &name, content_id: 7 };
        let text = head.descriptor();
        assert!(text.len() <= usize::try_from(DESCRIPTOR_SECTORS).unwrap() * SECTOR);
        assert_eq!(
            text.lines().filter(|line| line.starts_with("parentCID=")).collect::<Vec<_>>(),
            ["parentCID=ffffffff"]
        );
        assert_eq!(head.front().len(), OVERHEAD * SECTOR);
    }
}
