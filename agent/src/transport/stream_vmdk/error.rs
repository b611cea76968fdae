//! What is wrong with a stream. Kinds are stable; texts are for people.

/// Why a stream was refused. After any of these the decoder takes no more input, and nothing it gave out counts as read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The first bytes are no VMDK header.
    #[error("not a VMDK stream")]
    NotVmdk,
    /// Only version 3 has compressed grains with markers as vSphere sends them.
    #[error("VMDK version {0}, only 3 is a stream")]
    Version(u32),
    /// A header field that no such stream has.
    #[error("header: {0}")]
    Header(&'static str),
    /// The disk in the stream is not as large as the disk that was asked for. Bytes.
    #[error("the stream's disk has {found} bytes, not {expected}")]
    Capacity {
        /// As vCenter says.
        expected: u64,
        /// As the header says.
        found: u64,
    },
    /// The descriptor names a parent: grains that are not in the stream would not be zeros.
    #[error("the stream is a delta, its parent has the rest")]
    HasParent,
    /// A marker of unknown type, of impossible size or at the wrong place.
    #[error("marker: {0}")]
    Marker(&'static str),
    /// A grain that starts between grains or past the end. Sector.
    #[error("a grain at sector {0}, where none can be")]
    Misplaced(u64),
    /// A grain that comes twice or goes back. Sector.
    #[error("a grain at sector {0}, which is behind what was read")]
    NotAscending(u64),
    /// A grain whose content is damaged, or larger or smaller than a grain. Sector.
    #[error("grain at sector {lba}: {why}")]
    Grain {
        /// Where it belongs on the disk.
        lba: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// Grain tables and directory do not tell of the grains that came: some were lost or moved.
    #[error("tables: {0}")]
    Tables(&'static str),
    /// The footer is not the header's.
    #[error("footer: {0}")]
    Footer(&'static str),
    /// The stream ended before its end-of-stream marker.
    #[error("the stream ended early, at byte {0}")]
    Truncated(u64),
    /// Something follows the end-of-stream marker.
    #[error("bytes after the end of the stream")]
    Trailing,
    /// An earlier error ended this decoder.
    #[error("the stream was refused before")]
    Refused,
}

impl StreamError {
    /// Stable name for metrics and tests.
    pub fn kind(&self) -> &'static str {
        match self {
            StreamError::NotVmdk => "not_vmdk",
            StreamError::Version(_) => "version",
            StreamError::Header(_) => "header",
            StreamError::Capacity { .. } => "capacity",
            StreamError::HasParent => "has_parent",
            StreamError::Marker(_) => "marker",
            StreamError::Misplaced(_) => "misplaced",
            StreamError::NotAscending(_) => "not_ascending",
            StreamError::Grain { .. } => "grain",
            StreamError::Tables(_) => "tables",
            StreamError::Footer(_) => "footer",
            StreamError::Truncated(_) => "truncated",
            StreamError::Trailing => "trailing",
            StreamError::Refused => "refused",
        }
    }
}
