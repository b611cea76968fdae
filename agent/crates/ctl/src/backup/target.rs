//! Where a backup goes: into a folder, or nowhere when it is only read and checked. Knows names and whole files, no blocks.
use std::path::PathBuf;

use hotadd_api::manifest::Manifest;
use hotadd_blockio::sink::WriterKind;

use super::{image::Image, staging::Staging};
use crate::{cli::BackupArgs, error::Failure, sign::SigningKey};

#[derive(Debug)]
pub(super) enum Target {
    Folder(Staging, Option<WriterKind>),
    /// `--discard`.
    Nowhere,
}

impl Target {
    /// # Errors
    /// As [`Staging::open`].
    pub(super) fn open(args: &BackupArgs) -> Result<Self, Failure> {
        args.out.as_deref().map_or(Ok(Self::Nowhere), |folder| {
            let staging = Staging::open(folder, args.force)?;
            Ok(Self::Folder(staging, args.writer.map(WriterKind::from)))
        })
    }

    /// The image of a disk.
    ///
    /// # Errors
    /// Exit 7.
    pub(super) fn create(&mut self, name: &str, capacity: u64) -> Result<Image, Failure> {
        match self {
            Self::Folder(staging, writer) => staging.create(name, capacity).map(|file| Image::File(file, *writer)),
            Self::Nowhere => Ok(Image::Nowhere),
        }
    }

    /// Forgets an image that will not be part of the backup.
    pub(super) fn discard(&mut self, name: &str) {
        match self {
            Self::Folder(staging, _) => staging.discard(name),
            Self::Nowhere => {}
        }
    }

    /// Makes it a backup and tells where its manifest is; `None`: nothing was to be kept.
    ///
    /// # Errors
    /// Exit 7.
    pub(super) fn commit(self, manifest: &Manifest, key: Option<&SigningKey>) -> Result<Option<PathBuf>, Failure> {
        match self {
            Self::Folder(staging, _) => staging.commit(manifest, key).map(Some),
            Self::Nowhere => Ok(None),
        }
    }
}
