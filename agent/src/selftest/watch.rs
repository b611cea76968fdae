//! Who opens, reads or writes the nodes of a disk, told by the kernel (fanotify(7); needs CAP_SYS_ADMIN). Each opener is held until it was
//! looked at, so that a program which lives for a millisecond has a name, too; all are let through. A watcher that dies lets them through as well.
//!
//! Marks are on nodes: what another file system's node or an open descriptor does is not seen.
use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    fcntl::AT_FDCWD,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        fanotify::{EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response},
        stat::fstat,
    },
};
use serde::Serialize;

/// How often the thread looks whether it shall end.
const END_POLL_MS: u16 = 50;

/// What one process did to one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Opener {
    pub pid: i32,
    /// Name of the process.
    pub name: String,
    /// Its program; empty where that can't be told.
    pub program: PathBuf,
    /// Kernel name of the node.
    pub device: String,
    pub opens: u32,
    pub reads: u32,
    pub writes: u32,
}

/// Watches until it is asked.
#[derive(Debug)]
pub struct Watcher {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Opener>>,
}

impl Watcher {
    /// Watches the nodes of these names below /dev from now on.
    ///
    /// # Errors
    /// Of fanotify, or of a node that is not there.
    pub fn start(names: &[String]) -> io::Result<Self> {
        let group = Fanotify::init(
            InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK,
            EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE | EventFFlags::O_NONBLOCK,
        )?;
        let mut nodes = BTreeMap::new();
        for name in names {
            let path = Path::new("/dev").join(name);
            nodes.insert(fs::metadata(&path)?.rdev(), name.clone());
            let mask = MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_ACCESS | MaskFlags::FAN_MODIFY;
            group.mark(MarkFlags::FAN_MARK_ADD, mask, AT_FDCWD, Some(&path))?;
        }
        let end = Arc::new(AtomicBool::new(false));
        let (seen, asked) = (Log { nodes, openers: BTreeMap::new() }, Arc::clone(&end));
        let thread = thread::Builder::new().name("watch".into()).spawn(move || serve(&group, seen, &asked))?;
        Ok(Self { end, thread })
    }

    /// Everything up to now.
    #[must_use]
    pub fn finish(self) -> Vec<Opener> {
        self.end.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|_| vec![Opener { name: "(the watcher died)".into(), ..Opener::default() }])
    }
}

/// What was seen, by process and node.
struct Log {
    nodes: BTreeMap<u64, String>,
    openers: BTreeMap<(i32, String), Opener>,
}

impl Log {
    fn note(&mut self, event: &FanotifyEvent) {
        let number = event.fd().and_then(|fd| fstat(fd).ok()).map(|stat| stat.st_rdev);
        let device = number.and_then(|number| self.nodes.get(&number)).map_or("?", String::as_str).to_owned();
        let pid = event.pid();
        let opener = self.openers.entry((pid, device.clone())).or_insert_with(|| named(pid, device));
        let mask = event.mask();
        opener.opens += u32::from(mask.intersects(MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_OPEN));
        opener.reads += u32::from(mask.contains(MaskFlags::FAN_ACCESS));
        opener.writes += u32::from(mask.contains(MaskFlags::FAN_MODIFY));
    }

    /// An event of which only its failure is known: somebody opened a node that was just going away.
    fn lost(&mut self, error: Errno) {
        let unknown =
            || Opener { name: format!("(an event was lost: {error})"), device: "?".into(), ..Opener::default() };
        self.openers.entry((0, error.to_string())).or_insert_with(unknown).opens += 1;
    }
}

fn named(pid: i32, device: String) -> Opener {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    let program = fs::read_link(process.join("exe")).unwrap_or_default();
    Opener { pid, name, program, device, ..Opener::default() }
}

/// Answers first to last; ends when it is asked and nothing is queued.
fn serve(group: &Fanotify, mut log: Log, end: &AtomicBool) -> Vec<Opener> {
    loop {
        // Before the look at the queue: what was queued until then is still taken.
        let ending = end.load(Ordering::Acquire);
        match group.read_events() {
            Ok(events) => {
                for event in events {
                    log.note(&event);
                    answer(group, &event);
                }
            }
            Err(Errno::EAGAIN) if ending => return log.openers.into_values().collect(),
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(group.as_fd(), PollFlags::POLLIN)];
                // Interrupted or not, it looks again.
                poll(&mut fds, PollTimeout::from(END_POLL_MS)).ok();
            }
            Err(Errno::EINTR) => {}
            Err(error) => log.lost(error),
        }
    }
}

fn answer(group: &Fanotify, event: &FanotifyEvent) {
    let asks = event.mask().contains(MaskFlags::FAN_OPEN_PERM);
    if let Some(fd) = event.fd().filter(|_| asks) {
        // An asker that is gone needs no answer.
        group.write_response(FanotifyResponse::new(fd, Response::FAN_ALLOW)).ok();
    }
}
