//! The archive of an OVA: POSIX ustar (DSP0243 1.1, 5.3), written front to back but for slots that are filled later.
//! Entries above 8 GiB have their size in the binary form that GNU tar introduced. Knows nothing of what it holds.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process,
};

use ring::digest::{Context, SHA256};

use crate::Error;

const BLOCK: usize = 512;
/// An archive is a multiple of 20 blocks.
const RECORD: u64 = 20 * 512;
/// Largest size in eleven octal digits.
const OCTAL_MAX: u64 = 0o777_7777_7777;
/// Unfinished files of the same process id that are stepped over.
const PARTS: u32 = 100;

/// A file that becomes an archive under its own name once it is whole.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    part: PathBuf,
    file: File,
    at: u64,
    whole: bool,
}

/// Room for an entry whose content comes later.
#[derive(Debug)]
pub struct Slot {
    at: u64,
    length: usize,
}

/// An entry that is being written.
pub struct Entry<'a> {
    archive: &'a mut Archive,
    name: String,
    header: u64,
    hash: Context,
}

impl Archive {
    /// Begins an archive beside its name.
    ///
    /// # Errors
    /// When the name is taken or can't be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::Refused(format!("{}: exists", path.display())));
        }
        let (part, file) = part(path).map_err(|error| Error::Refused(format!("{}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), part, file, at: 0, whole: false })
    }

    /// Its name once it is whole.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps room.
    ///
    /// # Errors
    /// A write that failed.
    pub fn reserve(&mut self, name: &str, length: usize) -> Result<Slot, Error> {
        let header = header(name, length as u64);
        self.put(&header).map_err(|error| self.failed(error))?;
        let slot = Slot { at: self.at, length };
        self.at += length.next_multiple_of(BLOCK) as u64;
        Ok(slot)
    }

    /// The content must be as long as was said.
    ///
    /// # Errors
    /// Content of another length, or a write that failed.
    pub fn fill(&self, slot: &Slot, content: &[u8]) -> Result<(), Error> {
        if content.len() != slot.length {
            let what = format!("{} bytes for a slot of {} in the archive", content.len(), slot.length);
            return Err(Error::Internal(what));
        }
        self.file.write_all_at(content, slot.at).map_err(|error| self.failed(error))
    }

    /// Begins an entry of any length.
    pub fn entry(&mut self, name: &str) -> Entry<'_> {
        let header = self.at;
        self.at += BLOCK as u64;
        Entry { archive: self, name: name.to_owned(), header, hash: Context::new(&SHA256) }
    }

    /// Ends the archive and gives it its name. Bytes of it all.
    ///
    /// # Errors
    /// A write that failed, or somebody took the name meanwhile.
    pub fn finish(mut self) -> Result<u64, Error> {
        let size = (self.at + 2 * BLOCK as u64).next_multiple_of(RECORD);
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let end = || {
            self.file.set_len(size)?;
            self.file.sync_all()?;
            // A link first: who made a file of this name meanwhile keeps it. Some file systems know no links.
            match fs::hard_link(&self.part, &self.path) {
                Ok(()) => fs::remove_file(&self.part)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if self.path.symlink_metadata().is_ok() => return Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(&self.part, &self.path)?,
            }
            File::open(folder)?.sync_all()
        };
        end().map_err(|error| self.failed(error))?;
        self.whole = true;
        Ok(size)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::Io { path: self.path.display().to_string(), error }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if !self.whole {
            // Already gone is as good; nothing else can be done here.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// A new file beside `path`, of this run alone: another one that writes the same archive has its own, and a link there is not followed.
fn part(path: &Path) -> io::Result<(PathBuf, File)> {
    for number in 1..=PARTS {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}-{number}.part", process::id()));
        let part = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&part) {
            Ok(file) => return Ok((part, file)),
            // Of a process that had this id and was killed, or of one in another container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many unfinished archives (.part) beside it; remove them"))
}

impl std::fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Entry<'_> {
    /// Size and SHA-256 of the content.
    ///
    /// # Errors
    /// A write that failed.
    pub fn end(self) -> Result<(u64, String), Error> {
        let size = self.archive.at - self.header - BLOCK as u64;
        let header = header(&self.name, size);
        self.archive.file.write_all_at(&header, self.header).map_err(|error| self.archive.failed(error))?;
        self.archive.at = self.archive.at.next_multiple_of(BLOCK as u64);
        Ok((size, hex(self.hash.finish().as_ref())))
    }
}

impl Write for Entry<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.archive.put(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn header(name: &str, size: u64) -> [u8; BLOCK] {
    entry_header(name, size, 0o644)
}

/// The block before an entry of an archive. `name`: ASCII, at most 100 bytes; `mode`: the permissions.
#[must_use]
pub fn entry_header(name: &str, size: u64, mode: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, format!("{:07o}\0", mode & 0o777).as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size <= OCTAL_MAX {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    // The Epoch: the same backup makes the same archive.
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_sizes_that_eight_octal_gigabytes_do_not_hold() {
        if Command::new("tar").arg("--version").output().is_err() {
            eprintln!("skipped: tar is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::create(&folder.path().join("a.tar")).unwrap();
        // Both are holes: nothing of it is written.
        archive.reserve("small", (8 << 30) - 1).unwrap();
        archive.reserve("large", 9 << 30).unwrap();
        archive.finish().unwrap();
        let output = Command::new("tar").args(["-tvf", "a.tar"]).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let listed = String::from_utf8(output.stdout).unwrap();
        let sizes: Vec<_> = listed.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
        assert_eq!(sizes, [((8u64 << 30) - 1).to_string(), (9u64 << 30).to_string()]);
    }

    fn names(folder: &Path) -> Vec<String> {
        let all = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn two_writers_of_one_archive_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let (mut first, mut second) = (Archive::create(&path).unwrap(), Archive::create(&path).unwrap());
        let slots = (first.reserve("a", 600).unwrap(), second.reserve("b", 600).unwrap());
        first.fill(&slots.0, &[1; 600]).unwrap();
        second.fill(&slots.1, &[2; 600]).unwrap();
        // Whoever is first has it, whole; the other is told, and leaves nothing.
        let size = first.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, size);
        assert!(bytes.windows(600).any(|window| window == [1; 600]) && !bytes.contains(&2));
        assert!(
            matches!(second.finish(), Err(Error::Io { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists)
        );
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (bytes, vec!["a.tar".to_owned()]));
    }

    #[test]
    fn a_link_in_the_place_of_the_part_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.tar"), folder.path().join("other"));
        fs::write(&other, "mine").unwrap();
        // Every name that it may choose first.
        for name in ["a.tar.part".to_owned(), format!("a.tar.{}-1.part", process::id())] {
            std::os::unix::fs::symlink(&other, folder.path().join(name)).unwrap();
        }
        Archive::create(&path).unwrap().finish().unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
        assert!(path.symlink_metadata().unwrap().is_file());
    }
}
