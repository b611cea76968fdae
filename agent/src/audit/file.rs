//! The file of the audit log: a thread appends lines, so that a disk that hangs holds up nobody who detaches. What can't be written is
//! told, and tried anew with the next line.
use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};

use crate::reason;

/// Lines that wait for the disk. A job has some twenty.
const WAITING: usize = 4096;
/// How long the end of the agent, or its start, waits for the disk.
const FLUSH: Duration = Duration::from_secs(5);

enum Order {
    Write(String),
    Reopen,
    Flush(SyncSender<()>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct AuditFile {
    orders: SyncSender<Order>,
    state: Arc<Failure>,
}

/// Why lines are not written now.
#[derive(Debug, Default)]
struct Failure(Mutex<Option<String>>);

impl Failure {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told when it begins, changes and ends, not with each line.
    fn set(&self, path: &Path, why: Option<String>) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == why {
            return;
        }
        let file = path.display();
        match &why {
            Some(why) => tracing::error!(reason = reason::AUD_FILE.code, %file, why, "{}", reason::AUD_FILE.summary),
            None => tracing::info!(%file, "the audit log is written"),
        }
        *now = why;
    }
}

impl AuditFile {
    pub(super) fn start(path: &Path) -> Self {
        let (orders, received) = sync_channel(WAITING);
        let state: Arc<Failure> = Arc::default();
        let mut writer = Writer { path: path.to_owned(), file: None, state: Arc::clone(&state) };
        let run = move || writer.run(&received);
        if let Err(error) = std::thread::Builder::new().name("audit".into()).spawn(run) {
            state.set(path, Some(format!("no thread: {error}")));
        }
        Self { orders, state }
    }

    pub(super) fn failed(&self) -> Option<String> {
        self.state.get()
    }

    pub(super) fn write(&self, line: String) {
        if self.orders.try_send(Order::Write(line)).is_err() {
            tracing::error!(reason = reason::AUD_FILE.code, "a line of the audit log is lost: the disk takes none");
        }
    }

    pub(super) fn reopen(&self) {
        self.orders.try_send(Order::Reopen).ok();
    }

    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            wait.recv_timeout(FLUSH).ok();
        }
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    state: Arc<Failure>,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>) {
        self.note(|this| this.opened().map(drop));
        for order in orders {
            match order {
                Order::Write(line) => self.note(|this| this.opened()?.write_all(format!("{line}\n").as_bytes())),
                Order::Reopen => {
                    self.file = None;
                    self.note(|this| this.opened().map(drop));
                }
                Order::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn note(&mut self, step: impl FnOnce(&mut Self) -> io::Result<()>) {
        let why = step(self).err().map(|error| {
            // A file that was opened on a disk that is full or gone is not kept.
            self.file = None;
            error.to_string()
        });
        self.state.set(&self.path, why);
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(open(&self.path)?)),
        }
    }
}

/// Appended to, by whoever may read the agent's secrets; never through a link, never to something that is no file.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if facts.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!("others may write it (mode {:o})", facts.mode() & 0o7777)));
    }
    Ok(file)
}
