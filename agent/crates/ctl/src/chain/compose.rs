//! The bytes of one disk over its layers. Every block is hashed before a byte of it is given out. Images are only read.
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use hotadd_api::manifest::Digest;

use super::{
    ChainDisk,
    effective::{Segment, Source},
};
use crate::{error::Failure, exit::Exit, reasons};

/// Reads one disk.
#[derive(Debug)]
pub struct Composer {
    capacity: u64,
    segments: Vec<Segment>,
    images: Vec<Image>,
}

/// The image of one layer and its block that was proven last.
#[derive(Debug)]
struct Image {
    path: PathBuf,
    file: File,
    capacity: u64,
    block_bytes: u32,
    at: Option<u64>,
    block: Vec<u8>,
}

impl Composer {
    /// # Errors
    /// Exit 8 when an image is not there or not of the disk's size.
    pub fn open(disk: &ChainDisk<'_>) -> Result<Self, Failure> {
        let images = disk.layers.iter().map(|(layer, record)| {
            let (path, capacity) = (layer.image(record), record.capacity_bytes);
            let file = open_image(&path, capacity).map_err(|error| damaged(&path, &error))?;
            Ok(Image { path, file, capacity, block_bytes: record.block_bytes, at: None, block: Vec::new() })
        });
        let images = images.collect::<Result<_, Failure>>()?;
        Ok(Self { capacity: disk.top().capacity_bytes, segments: disk.effective(), images })
    }

    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// End of the zeros that begin at `offset`; `offset` itself if there is data.
    #[must_use]
    pub fn zeros_until(&self, offset: u64) -> u64 {
        let mut end = offset;
        for segment in &self.segments[self.index(offset)..] {
            match segment.source {
                Source::Zero { .. } => end = segment.offset + segment.length,
                Source::Data { .. } => break,
            }
        }
        end
    }

    /// Fills `buffer` with the disk's bytes from `offset`.
    ///
    /// # Errors
    /// Exit 8 when a block does not match its hash.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let mut done = 0;
        let first = self.index(offset);
        for segment in &self.segments[first..] {
            let at = offset + done as u64;
            let left = segment.offset + segment.length - at;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len() - done);
            let part = &mut buffer[done..done + length];
            match segment.source {
                Source::Zero { .. } => part.fill(0),
                Source::Data { layer, block, hash } => {
                    let image = &mut self.images[layer];
                    let proven = image.proven(block, hash)?;
                    let from = usize::try_from(at - block).unwrap_or(usize::MAX);
                    part.copy_from_slice(&proven[from..from + length]);
                }
            }
            done += length;
            if done == buffer.len() {
                return Ok(());
            }
        }
        Err(Failure::internal(format!("{} bytes at {offset} of a disk of {} bytes", buffer.len(), self.capacity)))
    }

    fn index(&self, offset: u64) -> usize {
        self.segments.partition_point(|segment| segment.offset + segment.length <= offset)
    }
}

impl Image {
    fn proven(&mut self, block: u64, hash: Digest) -> Result<&[u8], Failure> {
        if self.at != Some(block) {
            self.at = None;
            let length = u64::from(self.block_bytes).min(self.capacity - block);
            self.block.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            self.file.read_exact_at(&mut self.block, block).map_err(|error| damaged(&self.path, &error))?;
            if Digest::of(&self.block) != hash {
                return Err(damaged(&self.path, &format!("the block at byte {block} has another hash")));
            }
            self.at = Some(block);
        }
        Ok(&self.block)
    }
}

/// Opens an image that has the size that it must have.
///
/// # Errors
/// Not there, not a file, or of another size.
pub fn open_image(path: &Path, capacity: u64) -> io::Result<File> {
    // Asked before opening: opening a pipe would wait for its writer.
    let facts = std::fs::metadata(path)?;
    if !facts.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if facts.len() != capacity {
        return Err(io::Error::other(format!("size is {} bytes instead of {capacity}", facts.len())));
    }
    File::open(path)
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::VerifyFailed, reasons::MISMATCH, format!("{}: {why}", path.display()))
}
