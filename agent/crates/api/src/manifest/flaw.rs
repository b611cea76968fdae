//! Why a manifest can't be believed, without a look at its images.

/// The first flaw that was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("format {0:?} is not known here, or does not go with what the manifest holds")]
    Format(String),
    #[error("disk {disk} or its file {file:?} is named twice")]
    Twice { disk: i32, file: String },
    #[error("the base {0:?} is not a path relative to the manifest")]
    BasePath(String),
    #[error("disk {disk} builds on a base and the manifest names none")]
    NoBase { disk: i32 },
    #[error("disk {disk} stands alone and leaves byte {offset} to a base")]
    Alone { disk: i32, offset: u64 },
    #[error("disk {disk}: block size {block} is not a power of two between 64 KiB and 4 MiB")]
    BlockSize { disk: i32, block: u32 },
    #[error("disk {disk}: byte {offset} is covered twice or out of order")]
    Overlap { disk: i32, offset: u64 },
    #[error("disk {disk}: byte {offset} is not covered")]
    Gap { disk: i32, offset: u64 },
    #[error("disk {disk}: the data block at {offset} does not begin on a block")]
    Grid { disk: i32, offset: u64 },
    #[error("disk {disk}: root hash differs from its blocks")]
    Root { disk: i32 },
    #[error("disk {disk}: file name {file:?} leaves the folder of the manifest")]
    File { disk: i32, file: String },
}
