//! The file under the journal: frames, fsync, torn tails, damage, compaction.
//!
//! ```text
//! file  = magic "HAJ1" · frame*
//! frame = length u32le · crc32c u32le (over version and payload) · version u8 (1) · payload (JSON, `length` bytes)
//! ```
//! A tail that ends inside a frame, or whose last frame fails its check, is what a crash during an append leaves: it is
//! cut and said. A frame that fails its check with more frames behind it is damage: the file is kept aside, what can be
//! read is kept, and the agent must compare with vCenter before it serves. A failed write or fsync poisons the handle: the
//! next append makes a new file of what is known to be durable, or fails too.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::{IllegalEdge, Record, State};

const MAGIC: &[u8; 4] = b"HAJ1";
const VERSION: u8 = 1;
const HEADER: usize = 9;
/// Larger than any record; a length above it is damage, not a reason to allocate.
const MAX_PAYLOAD: usize = 1 << 20;
/// The file is rewritten when it has grown past this, and past twice what it was rewritten to.
const COMPACT_ABOVE: u64 = 4 << 20;

/// Why the journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} holds records that this version does not know ({what}): it was written by a newer agent")]
    Newer { path: PathBuf, what: String },
    #[error("another agent holds {path}")]
    Locked { path: PathBuf },
    #[error("{path} is not a journal of this program")]
    Foreign { path: PathBuf },
    #[error(transparent)]
    Illegal(#[from] IllegalEdge),
    #[error("a record can't be encoded")]
    Encode(#[from] serde_json::Error),
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes cut from a torn tail.
    pub torn_bytes: u64,
    /// Where a damaged file was kept, and what was wrong with it.
    pub damage: Option<(PathBuf, String)>,
    /// Damage, of now or of an earlier start, that was not yet compared with vCenter; see [`reconciled`].
    pub unreconciled: bool,
}

/// Present from the moment damage is found until vCenter was asked about it, over any number of starts.
const MARKER: &str = "damaged";

/// Notes that what a damaged journal may have forgotten was looked for in vCenter.
///
/// # Errors
/// When the marker can't be removed durably.
pub fn reconciled(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(MARKER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(dir),
    }
}

#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    pub(super) file: File,
    length: u64,
    /// Length right after the last compaction.
    compacted: u64,
    poisoned: bool,
    _lock: Flock<File>,
}

impl JournalFile {
    pub(super) fn open(dir: &Path) -> Result<(Self, State, Opened), JournalError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(at(dir))?;
        let lock = lock(&dir.join("lock"))?;
        let path = dir.join("journal");
        let mut file = open_file(&path, false).map_err(at(&path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at(&path))?;
        let scan = Scan::run(&bytes, &path)?;

        let mut opened = Opened { torn_bytes: scan.torn, ..Opened::default() };
        let mut this = Self { path: path.clone(), file, length: scan.good, compacted: 0, poisoned: false, _lock: lock };
        if let Some(what) = scan.damage {
            let aside = dir.join(format!("journal.damaged-{}", jiff::Timestamp::now().as_second()));
            fs::copy(&path, &aside).and_then(|_| File::open(&aside)?.sync_all()).map_err(at(&aside))?;
            // Before the damage is cleaned away: a crash right after must not make it forgotten.
            let marker = dir.join(MARKER);
            open_file(&marker, false).and_then(|file| file.sync_all()).map_err(at(&marker))?;
            sync_dir(dir).map_err(at(dir))?;
            this.rewrite(&scan.records)?;
            opened.damage = Some((aside, what));
        } else if bytes.len() < MAGIC.len() {
            this.rewrite(&[])?;
        } else if scan.torn > 0 {
            this.file.set_len(scan.good).and_then(|()| this.file.sync_all()).map_err(at(&path))?;
        }
        sync_dir(dir).map_err(at(dir))?;
        opened.unreconciled = dir.join(MARKER).exists();
        Ok((this, scan.state, opened))
    }

    /// `state`: what was durable before. After a write that failed nobody knows what the old file holds, so a new one is
    /// made of it first; as long as that fails, nothing is written.
    pub(super) fn append(&mut self, records: &[Record], state: &State) -> Result<(), JournalError> {
        if self.poisoned {
            self.rewrite(&state.records())?;
            self.poisoned = false;
            tracing::info!("the journal can be written again");
        }
        let bytes = encode(records)?;
        let result = self
            .file
            .seek(SeekFrom::Start(self.length))
            .and_then(|_| self.file.write_all(&bytes))
            .and_then(|()| self.file.sync_data());
        match result {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.poisoned = true;
                // What was refused must not be read as owed by whoever looks at the file, nor by the next start.
                drop(self.file.set_len(self.length));
                Err(JournalError::Io { path: self.path.clone(), source })
            }
        }
    }

    /// Starts the file anew, with the open duties and the remembered history only, when it is large.
    pub(super) fn compact_if_large(&mut self, state: &State) -> Result<(), JournalError> {
        if self.length <= COMPACT_ABOVE.max(self.compacted * 2) {
            return Ok(());
        }
        self.rewrite(&state.records())?;
        self.compacted = self.length;
        Ok(())
    }

    /// New file, fsync, rename, fsync of the directory.
    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let next = self.path.with_extension("new");
        let mut bytes = MAGIC.to_vec();
        bytes.extend(encode(records)?);
        let write = || -> io::Result<File> {
            let mut file = open_file(&next, true)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&next, &self.path)?;
            self.path.parent().map_or(Ok(()), sync_dir)?;
            Ok(file)
        };
        match write() {
            Ok(file) => {
                self.file = file;
                self.length = bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.poisoned = true;
                // Half a file would keep what little space there is; if it stays, the next try overwrites it.
                drop(fs::remove_file(&next));
                Err(JournalError::Io { path: next, source })
            }
        }
    }
}

/// Held as long as the value lives; the kernel frees it when the process dies.
///
/// # Errors
/// [`JournalError::Locked`] when another process has it.
pub fn lock(path: &Path) -> Result<Flock<File>, JournalError> {
    let file = open_file(path, false).map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| JournalError::Locked { path: path.to_owned() })
}

fn open_file(path: &Path, truncate: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(truncate).mode(0o600).open(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn encode(records: &[Record]) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    for record in records {
        let payload = serde_json::to_vec(record)?;
        let mut checked = vec![VERSION];
        checked.extend(&payload);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(crc32c::crc32c(&checked).to_le_bytes());
        bytes.extend(checked);
    }
    Ok(bytes)
}

/// The records of a journal's bytes without opening it for writing: for `hotadd-agent journal show`.
///
/// # Errors
/// When the bytes are not a journal.
pub fn read_records(path: &Path) -> Result<(Vec<Record>, Opened), JournalError> {
    let bytes = fs::read(path).map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
    let scan = Scan::run(&bytes, path)?;
    let damage = scan.damage.map(|what| (path.to_owned(), what));
    Ok((scan.records, Opened { torn_bytes: scan.torn, unreconciled: damage.is_some(), damage }))
}

/// What the journal in `dir` amounts to, without opening it for writing: for `hotadd-agent journal open`. No journal is nothing owed.
///
/// # Errors
/// When there is a file that can't be read, or that is not a journal.
pub fn read_state(dir: &Path) -> Result<(State, Opened), JournalError> {
    let path = dir.join("journal");
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(|source| JournalError::Io { path: path.clone(), source })?,
    };
    let scan = Scan::run(&bytes, &path)?;
    let damage = scan.damage.map(|what| (path, what));
    let unreconciled = damage.is_some() || dir.join(MARKER).exists();
    Ok((scan.state, Opened { torn_bytes: scan.torn, unreconciled, damage }))
}

/// The result of reading a whole file.
struct Scan {
    records: Vec<Record>,
    state: State,
    /// Length of the good prefix.
    good: u64,
    torn: u64,
    damage: Option<String>,
}

impl Scan {
    fn run(bytes: &[u8], path: &Path) -> Result<Self, JournalError> {
        let mut scan =
            Self { records: Vec::new(), state: State::default(), good: MAGIC.len() as u64, torn: 0, damage: None };
        let start = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if !MAGIC.starts_with(start) {
            return Err(JournalError::Foreign { path: path.to_owned() });
        }
        if bytes.len() < MAGIC.len() {
            scan.torn = bytes.len() as u64;
            return Ok(scan);
        }
        let newer = |what| JournalError::Newer { path: path.to_owned(), what };
        let mut at = MAGIC.len();
        while at < bytes.len() {
            match frame(bytes, at) {
                Ok((record, next)) => {
                    if let Err(edge) = scan.state.apply(&record) {
                        scan.damage.get_or_insert_with(|| format!("at byte {at}: {edge}"));
                    } else {
                        scan.records.push(record);
                    }
                    at = next;
                    scan.good = at as u64;
                }
                Err(Bad::Newer(what)) => return Err(newer(what)),
                Err(Bad::Broken(what)) => {
                    scan.broken(bytes, at, what).map_err(newer)?;
                    break;
                }
            }
        }
        Ok(scan)
    }

    /// Decides between a torn tail and damage: a torn append is the last thing in the file. If any whole frame is found
    /// behind the bad place, something after it was once durable, so records are missing in the middle.
    fn broken(&mut self, bytes: &[u8], at: usize, what: &'static str) -> Result<(), String> {
        let whole = |probe: &usize| !matches!(frame(bytes, *probe), Err(Bad::Broken(_)));
        let Some(mut probe) = (at + 1..bytes.len()).find(whole) else {
            self.torn = (bytes.len() - at) as u64;
            return Ok(());
        };
        self.damage = Some(format!("at byte {at}: {what}; records after it kept"));
        while probe < bytes.len() {
            match frame(bytes, probe) {
                Ok((record, next)) => {
                    // A record whose beginning was lost does not fit; vCenter will be asked anyway.
                    if self.state.apply(&record).is_ok() {
                        self.records.push(record);
                    }
                    probe = next;
                }
                Err(Bad::Newer(what)) => return Err(what),
                Err(Bad::Broken(_)) => break,
            }
        }
        Ok(())
    }
}

/// Why there is no record at a place.
enum Bad {
    /// What a crash or damage leaves.
    Broken(&'static str),
    /// Whole and checked, but not of this version: it may hold a duty, so it is never cut.
    Newer(String),
}

fn frame(bytes: &[u8], at: usize) -> Result<(Record, usize), Bad> {
    let header = bytes.get(at..at + HEADER).ok_or(Bad::Broken("incomplete header"))?;
    let word = |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
    let length = word(0) as usize;
    if length > MAX_PAYLOAD {
        return Err(Bad::Broken("impossible length"));
    }
    let end = at + HEADER + length;
    let checked = bytes.get(at + HEADER - 1..end).ok_or(Bad::Broken("incomplete payload"))?;
    if crc32c::crc32c(checked) != word(4) {
        return Err(Bad::Broken("checksum"));
    }
    if header[8] != VERSION {
        return Err(Bad::Newer(format!("version {} at byte {at}", header[8])));
    }
    let record = serde_json::from_slice(&checked[1..]).map_err(|e| Bad::Newer(format!("at byte {at}: {e}")))?;
    Ok((record, end))
}
