//! One disk on its way into an archive: grains in, compressed, hashed.
use hotadd_vmdk::{Head, Writer};

use crate::{
    Error,
    archive::{Archive, Entry},
    descriptor::DiskFile,
};

/// Takes a disk's bytes in ascending order, whole grains; what is left out reads as zeros.
pub struct DiskWriter<'a> {
    vmdk: Writer<Entry<'a>>,
    file: &'a mut DiskFile,
    path: String,
}

impl std::fmt::Debug for DiskWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskWriter").field("file", &self.file.name).finish_non_exhaustive()
    }
}

impl<'a> DiskWriter<'a> {
    pub(crate) fn begin(archive: &'a mut Archive, file: &'a mut DiskFile, content_id: u32) -> Result<Self, Error> {
        let path = archive.path().display().to_string();
        let head = Head { capacity_bytes: file.capacity, file_name: &file.name, content_id };
        let vmdk = Writer::new(archive.entry(&file.name), &head).map_err(|error| failed(&path, error))?;
        Ok(Self { vmdk, file, path })
    }

    /// # Errors
    /// Bytes that are not whole grains in order, or a write that failed.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.vmdk.write(offset, bytes).map_err(|error| failed(&self.path, error))
    }

    /// # Errors
    /// A write that failed.
    pub fn end(self) -> Result<(), Error> {
        let Self { vmdk, file, path } = self;
        let (written, entry) = vmdk.finish().map_err(|error| failed(&path, error))?;
        file.populated = written.populated;
        (file.size, file.sha256) = entry.end()?;
        Ok(())
    }
}

fn failed(path: &str, error: hotadd_vmdk::Error) -> Error {
    match error {
        hotadd_vmdk::Error::Io(error) => Error::Io { path: path.to_owned(), error },
        error => Error::Refused(error.to_string()),
    }
}
