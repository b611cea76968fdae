//! One archive from its first to its last byte: room for the texts, then the disks, then the texts.
//!
//! ```text
//! begin ──▶ (disk … end)* ──▶ finish          dropped on the way: nothing is left
//! ```
use ring::digest;

use crate::{
    Error,
    archive::{self, Archive, Slot},
    descriptor::{DiskFile, Machine, descriptor},
    disk::DiskWriter,
    sign::Signer,
    xml,
};

/// Hex digits of SHA-256.
const DIGITS: usize = 64;

/// An archive whose disks are being written.
#[derive(Debug)]
pub struct Package<'a> {
    name: &'a str,
    machine: &'a Machine<'a>,
    signer: Option<&'a Signer>,
    archive: Archive,
    descriptor: Slot,
    descriptor_length: usize,
    manifest: Slot,
    certificate: Option<Slot>,
    files: Vec<DiskFile>,
    written: usize,
}

/// Name of the n-th disk, from 0.
#[must_use]
pub fn disk_name(name: &str, index: usize) -> String {
    format!("{name}-disk{}.vmdk", index + 1)
}

impl<'a> Package<'a> {
    /// `name`: of every file in it, ASCII, at most 80 bytes. `disks`: label and capacity of each.
    ///
    /// # Errors
    /// When the archive can't be made there, or these disks can't be described.
    pub fn begin(
        mut archive: Archive,
        name: &'a str,
        machine: &'a Machine<'a>,
        disks: &[(String, u64)],
        signer: Option<&'a Signer>,
    ) -> Result<Self, Error> {
        if disks.len() != machine.places.len() {
            return Err(Error::Internal(format!("{} disks and {} places", disks.len(), machine.places.len())));
        }
        let file = |(index, (label, capacity)): (usize, &(String, u64))| DiskFile {
            name: disk_name(name, index),
            label: label.clone(),
            capacity: *capacity,
            // The longest numbers: room is kept for them.
            size: u64::MAX,
            populated: u64::MAX,
            sha256: "0".repeat(DIGITS),
        };
        let files: Vec<_> = disks.iter().enumerate().map(file).collect();
        let descriptor_length = descriptor(machine, &files).len();
        let descriptor = archive.reserve(&format!("{name}.ovf"), descriptor_length)?;
        let manifest = archive.reserve(&format!("{name}.mf"), hashes(name, &"0".repeat(DIGITS), &files).len())?;
        let certificate = signer
            .map(|signer| archive.reserve(&format!("{name}.cert"), signer.length(&format!("{name}.mf"))))
            .transpose()?;
        Ok(Self {
            name,
            machine,
            signer,
            archive,
            descriptor,
            descriptor_length,
            manifest,
            certificate,
            files,
            written: 0,
        })
    }

    /// The next disk. `content_id`: another for another content.
    ///
    /// # Errors
    /// When it is no disk, or there was none to come.
    pub fn disk(&mut self, content_id: u32) -> Result<DiskWriter<'_>, Error> {
        let index = self.written;
        self.written += 1;
        let file = self.files.get_mut(index).ok_or_else(|| Error::Internal(format!("disk {index} was not told")))?;
        DiskWriter::begin(&mut self.archive, file, content_id)
    }

    /// Bytes of the archive, and what became of its disks.
    ///
    /// # Errors
    /// When disks are missing or the archive can't be written.
    pub fn finish(mut self) -> Result<(u64, Vec<DiskFile>), Error> {
        if self.written != self.files.len() {
            return Err(Error::Internal(format!("{} of {} disks were written", self.written, self.files.len())));
        }
        let mut text = descriptor(self.machine, &self.files);
        // Line ends may follow the root element (XML 1.0, Misc).
        text.push_str(&"\n".repeat(self.descriptor_length.saturating_sub(text.len())));
        self.archive.fill(&self.descriptor, text.as_bytes())?;
        let manifest = hashes(self.name, &sha256(text.as_bytes()), &self.files);
        self.archive.fill(&self.manifest, manifest.as_bytes())?;
        if let (Some(signer), Some(slot)) = (self.signer, &self.certificate) {
            let signed = signer.sign(&format!("{}.mf", self.name), manifest.as_bytes())?;
            self.archive.fill(slot, signed.as_bytes())?;
        }
        Ok((self.archive.finish()?, std::mem::take(&mut self.files)))
    }
}

fn sha256(bytes: &[u8]) -> String {
    archive::hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// `NAME.mf`. No blank before the bracket: vSphere refuses one.
fn hashes(name: &str, descriptor: &str, files: &[DiskFile]) -> String {
    let mut text = format!("SHA256({name}.ovf)= {descriptor}\n");
    for file in files {
        xml::line(&mut text, 0, &format!("SHA256({})= {}", file.name, file.sha256));
    }
    text
}
