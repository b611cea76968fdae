//! Files of a backup before it is one: temporary names, one commit, no trace after a failure. Knows names and folders,
//! nothing of blocks.
//!
//! ```text
//! open ─▶ create (NAME.part …) ─▶ commit: old manifest and signature away → images renamed → folder synced
//!   │                                     → manifest.json.sig, manifest.json.part synced → renamed → folder synced
//!   └──────── drop before the end of commit: every file of ours is removed
//! ```
//! The manifest comes last: a folder without it holds no backup.
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use hotadd_api::manifest::{Manifest, Scope};

use crate::{
    error::Failure,
    exit::Exit,
    reasons,
    sign::{self, SigningKey},
};

/// Name of the manifest in the folder of a backup.
pub const MANIFEST: &str = "manifest.json";
const PART: &str = "part";

/// The target folder while a backup is made; holds a lock on it.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    /// Held open for the lock and to sync the folder's entries.
    handle: File,
    /// Final names of the images that exist under their temporary name.
    images: Vec<String>,
    /// Paths that have to go unless the commit comes to its end.
    ours: Vec<PathBuf>,
}

impl Staging {
    /// Checks the folder, creates it when missing, locks it, and proves that it can be written.
    ///
    /// # Errors
    /// Exit 2: not a folder, not writable, in use, or already a backup and not `force`.
    pub fn open(folder: &Path, force: bool) -> Result<Self, Failure> {
        let bad = |what: &str, error: &dyn std::fmt::Display| unusable(folder, &format!("{what}: {error}"));
        fs::create_dir_all(folder).map_err(|error| bad("can't be created", &error))?;
        let handle = File::open(folder).map_err(|error| bad("can't be opened", &error))?;
        // File systems that can't lock a folder still take a backup.
        if let Err(TryLockError::WouldBlock) = handle.try_lock() {
            return Err(unusable(folder, "another hotaddctl is writing there"));
        }
        if !force && let Some(name) = occupied(folder).map_err(|error| bad("can't be listed", &error))? {
            let what = format!("{} already holds {name}", folder.display());
            return Err(Failure::new(Exit::Usage, reasons::OCCUPIED, what));
        }
        let probe = folder.join(format!("{MANIFEST}.{PART}"));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(|error| bad("is not writable", &error))?;
        Ok(Self { folder: folder.to_owned(), handle, images: Vec::new(), ours: Vec::new() })
    }

    /// A new sparse file of `capacity` bytes that will be called `name`.
    ///
    /// # Errors
    /// Exit 7.
    pub fn create(&mut self, name: &str, capacity: u64) -> Result<File, Failure> {
        let path = self.part(name);
        let what = || format!("can't create {} with {capacity} bytes", path.display());
        let file = File::create(&path).map_err(|error| Failure::write(&what(), &error))?;
        self.ours.push(path.clone());
        self.images.push(name.to_owned());
        file.set_len(capacity).map_err(|error| Failure::write(&what(), &error))?;
        Ok(file)
    }

    /// Forgets an image that will not be part of the backup.
    pub fn discard(&mut self, name: &str) {
        let path = self.part(name);
        self.images.retain(|image| image != name);
        self.ours.retain(|ours| *ours != path);
        // A file that can't be removed keeps a name that nobody takes for an image.
        let _ = fs::remove_file(path);
    }

    /// Makes it a backup. The images must be complete and synced.
    ///
    /// # Errors
    /// Exit 7; nothing of ours is left then.
    pub fn commit(mut self, manifest: &Manifest, key: Option<&SigningKey>) -> Result<PathBuf, Failure> {
        let path = self.folder.join(MANIFEST);
        self.publish(manifest, key, &path).map_err(|error| Failure::write(&format!("{}", path.display()), &error))?;
        self.ours.clear();
        Ok(path)
    }

    fn publish(&mut self, manifest: &Manifest, key: Option<&SigningKey>, path: &Path) -> io::Result<()> {
        let (part, signature) = (self.part(MANIFEST), sign::beside(path));
        self.ours.push(part.clone());
        let bytes = encode(manifest)?;
        write_synced(&part, &bytes)?;
        // With --force: at no moment may the old manifest lie beside new images.
        for old in [path, &signature] {
            gone(old)?;
        }
        self.handle.sync_all()?;
        for name in std::mem::take(&mut self.images) {
            let image = self.folder.join(&name);
            fs::rename(self.part(&name), &image)?;
            self.ours.push(image);
        }
        if let Some(key) = key {
            self.ours.push(signature.clone());
            write_synced(&signature, &key.sign(&bytes))?;
        }
        self.handle.sync_all()?;
        fs::rename(&part, path)?;
        self.ours.push(path.to_owned());
        self.handle.sync_all()
    }

    fn part(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{PART}"))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for path in self.ours.drain(..) {
            // Already renamed or removed is as good; nothing else can be done here.
            let _ = fs::remove_file(path);
        }
    }
}

fn unusable(folder: &Path, what: &str) -> Failure {
    Failure::new(Exit::Usage, reasons::FOLDER, format!("{} {what}", folder.display()))
}

/// A file that belongs to a backup, if there is one.
fn occupied(folder: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == MANIFEST || Path::new(&name).extension().is_some_and(|ext| ext == "raw") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn encode(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(manifest)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// File name of one disk's image. One that holds changes only is called so: it is not the disk.
#[must_use]
pub fn image_name(vm: &str, key: i32, scope: Scope) -> String {
    let changed = if scope == Scope::Changed { ".changed" } else { "" };
    format!("{}-disk-{key}{changed}.raw", file_name(vm))
}

/// A VM's name as a file's. What is not plain ASCII becomes `_`: VM names may hold slashes, blanks and newlines.
#[must_use]
pub fn file_name(vm: &str) -> String {
    /// Leaves room for key and suffixes in the 255 bytes of a name.
    const LONGEST: usize = 120;
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let mut name: String = vm.chars().take(LONGEST).map(plain).collect();
    // No hidden file, no option, no "..".
    if name.is_empty() || name.starts_with(['.', '-']) {
        name.insert(0, '_');
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use hotadd_api::manifest::{FORMAT, SnapshotRecord};

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT.into(),
            created: String::new(),
            agent_version: String::new(),
            client_version: String::new(),
            job_id: "new".into(),
            vm_moref: String::new(),
            vm_name: String::new(),
            snapshot: SnapshotRecord { moref: String::new(), consistency: "crash".into(), fault: None },
            base: None,
            synthesized_from: None,
            vm_config: None,
            disks: Vec::new(),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_of_images_stay_in_the_folder() {
        for (vm, name) in [
            ("web01", "web01-disk-2000.raw"),
            ("../../etc/passwd", "_.._.._etc_passwd-disk-2000.raw"),
            ("a b\nc\0d/é%2f", "a_b_c_d___2f-disk-2000.raw"),
            ("", "_-disk-2000.raw"),
            ("-rf", "_-rf-disk-2000.raw"),
            (".hidden", "_.hidden-disk-2000.raw"),
        ] {
            assert_eq!(image_name(vm, 2000, Scope::Whole), name);
        }
        assert!(image_name(&"x".repeat(5000), i32::MIN, Scope::Changed).len() < 200);
    }

    #[test]
    fn nothing_is_left_without_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let mut staging = Staging::open(folder.path(), false).unwrap();
        let file = staging.create("a.raw", 1 << 30).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 30);
        assert_eq!(names(folder.path()), ["a.raw.part"]);
        drop(staging);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_commit_shows_images_and_manifest_and_only_those_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut staging = Staging::open(folder.path(), false).unwrap();
        staging.create("a.raw", 512).unwrap();
        staging.create("b.raw", 512).unwrap();
        staging.discard("b.raw");
        staging.commit(&manifest(), None).unwrap();
        assert_eq!(names(folder.path()), ["a.raw", MANIFEST]);
    }

    #[test]
    fn a_commit_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut staging = Staging::open(folder.path(), false).unwrap();
        staging.create("a.raw", 512).unwrap();
        staging.create("b.raw", 512).unwrap();
        fs::remove_file(folder.path().join("b.raw.part")).unwrap();
        assert_eq!(staging.commit(&manifest(), None).unwrap_err().exit, Exit::WriteFailed);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_backup_is_only_replaced_by_force_and_only_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MANIFEST), "old").unwrap();
        assert_eq!(Staging::open(folder.path(), false).unwrap_err().code, reasons::OCCUPIED.id);
        drop(Staging::open(folder.path(), true).unwrap());
        assert_eq!(fs::read_to_string(folder.path().join(MANIFEST)).unwrap(), "old");
        Staging::open(folder.path(), true).unwrap().commit(&manifest(), None).unwrap();
        assert!(fs::read_to_string(folder.path().join(MANIFEST)).unwrap().contains("\"new\""));
    }

    #[test]
    fn an_old_signature_goes_with_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("seed"), [7; 32]).unwrap();
        fs::set_permissions(folder.path().join("seed"), fs::Permissions::from_mode(0o600)).unwrap();
        let key = SigningKey::load(&folder.path().join("seed")).unwrap();
        let target = folder.path().join("out");
        Staging::open(&target, false).unwrap().commit(&manifest(), Some(&key)).unwrap();
        assert_eq!(names(&target), [MANIFEST, "manifest.json.sig"]);
        Staging::open(&target, true).unwrap().commit(&manifest(), None).unwrap();
        assert_eq!(names(&target), [MANIFEST]);
    }

    #[test]
    fn one_folder_takes_one_backup_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Staging::open(folder.path(), false).unwrap();
        assert_eq!(Staging::open(folder.path(), false).unwrap_err().code, reasons::FOLDER.id);
    }

    #[test]
    fn folders_that_can_not_be_used_are_bad_input() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(Staging::open(&file.join("x"), false).unwrap_err().exit, Exit::Usage);
        assert_eq!(Staging::open(&file, false).unwrap_err().exit, Exit::Usage);
        let locked = folder.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
        // Root may write anywhere; /proc takes no file from anybody.
        assert_eq!(Staging::open(Path::new("/proc"), true).unwrap_err().exit, Exit::Usage);
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(Staging::open(&locked, false).unwrap_err().exit, Exit::Usage);
        }
    }
}
