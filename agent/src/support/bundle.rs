//! The archive: parts that passed the scrubber, capped, as a gzip'd ustar that only its owner may read. Nothing of it touches a disk before it is
//! scrubbed, and no file is ever overwritten.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use hotadd_ova::entry_header;

use super::{Got, scrub::Scrubber};

/// Most bytes of one part; of longer ones the end is kept, which is the newest of a log or journal.
const MOST: usize = 4 << 20;
const BLOCK: usize = 512;

/// See the module.
pub(super) struct Bundle {
    scrubber: Scrubber,
    parts: Vec<(&'static str, String)>,
    missing: String,
}

impl Bundle {
    pub(super) fn new(scrubber: Scrubber) -> Self {
        Self { scrubber, parts: Vec::new(), missing: String::new() }
    }

    pub(super) fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// Takes a part, or notes why there is none.
    pub(super) fn add(&mut self, name: &'static str, got: Got) {
        let why = match got {
            Ok(text) => match self.scrubber.finds(&text) {
                None => return self.parts.push((name, capped(text))),
                Some(what) => {
                    self.parts.push((name, format!("withheld: this part held {what}\n")));
                    format!("withheld, since it held {what}")
                }
            },
            Err(why) if self.scrubber.finds(&why).is_none() => why,
            Err(_) => "can't be had, and the cause holds a secret".to_owned(),
        };
        self.missing.push_str(&format!("{name}: {}\n", why.trim().replace('\n', "; ")));
    }

    /// # Errors
    /// Of the file; then it is gone.
    pub(super) fn write(self, file: File, path: &Path) -> io::Result<()> {
        let written = self.put(file).and_then(|file| {
            file.sync_all()?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        });
        if written.is_err() {
            // Half a bundle is none; the first error is the one to tell.
            drop(fs::remove_file(path));
        }
        written
    }

    fn put(mut self, file: File) -> io::Result<File> {
        if !self.missing.is_empty() {
            self.parts.push(("MISSING.txt", self.missing));
        }
        let mut out = GzEncoder::new(file, Compression::default());
        for (name, text) in &self.parts {
            out.write_all(&entry_header(&format!("hotadd-support/{name}"), text.len() as u64))?;
            out.write_all(text.as_bytes())?;
            out.write_all(&vec![0; text.len().next_multiple_of(BLOCK) - text.len()])?;
        }
        out.write_all(&[0; 2 * BLOCK])?;
        out.finish()
    }
}

/// A new file, for its owner only. A link of that name is refused as well.
///
/// # Errors
/// When the name is taken, or can't be made.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn capped(text: String) -> String {
    if text.len() <= MOST {
        return text;
    }
    let from = text.ceil_char_boundary(text.len() - MOST);
    let kept = text.get(from..).unwrap_or_default();
    let kept = kept.split_once('\n').map_or(kept, |(_, whole)| whole);
    format!("cut: the last {} of {} bytes\n{kept}", kept.len(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_part_keeps_its_end_and_says_so() {
        let text = "ä line\n".repeat(MOST / 4) + "the end\n";
        let cut = capped(text.clone());
        assert!(cut.len() < MOST + 100 && cut.ends_with("the end\n"));
        assert!(cut.starts_with("cut: the last ") && cut.contains(&text.len().to_string()));
        assert_eq!(capped("short".into()), "short");
    }

    #[test]
    fn no_file_is_overwritten_nor_open_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("link"));
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        assert!(create(&link).is_err());
    }
}
