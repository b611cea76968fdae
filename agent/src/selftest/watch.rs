//! Who opens, reads or writes the nodes of a disk, told by the kernel (fanotify(7); needs CAP_SYS_ADMIN and Linux 5.1).
//!
//! One group a node, since fanotify tells of special files only without opening them (FAN_REPORT_FID), and then the group has to say which
//! it was. One more group hears of every program that is started: a process that lived for a millisecond has a name, too.
//!
//! Marks are on nodes: what a node on another file system or an open descriptor does is not seen. Equal events may come as one.
use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
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
    sys::fanotify::{EventFFlags, Fanotify, FanotifyEvent, InitFlags, MarkFlags, MaskFlags},
};
use serde::Serialize;

/// How often the thread looks whether it shall end.
const END_POLL_MS: u16 = 50;
/// FAN_REPORT_FID of linux/fanotify.h, which nix does not name.
const REPORT_FID: u32 = 0x200;
/// File systems that programs are started from.
const PROGRAMS: [&str; 2] = ["/", "/usr"];

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
    pub read: bool,
    pub wrote: bool,
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
        let programs = group(InitFlags::empty())?;
        let whole = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        PROGRAMS.iter().try_for_each(|path| programs.mark(whole, MaskFlags::FAN_OPEN_EXEC, AT_FDCWD, Some(*path)))?;
        let nodes = names.iter().map(|name| {
            let node = group(InitFlags::from_bits_retain(REPORT_FID))?;
            let mask = MaskFlags::FAN_OPEN | MaskFlags::FAN_ACCESS | MaskFlags::FAN_MODIFY;
            node.mark(MarkFlags::FAN_MARK_ADD, mask, AT_FDCWD, Some(&Path::new("/dev").join(name)))?;
            Ok((name.clone(), node))
        });
        let log =
            Log { programs, nodes: nodes.collect::<io::Result<_>>()?, started: BTreeMap::new(), seen: BTreeMap::new() };
        let end = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&end);
        let thread = thread::Builder::new().name("watch".into()).spawn(move || log.serve(&asked))?;
        Ok(Self { end, thread })
    }

    /// Everything up to now.
    #[must_use]
    pub fn finish(self) -> Vec<Opener> {
        self.end.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|_| vec![Opener { name: "(the watcher died)".into(), ..Opener::default() }])
    }
}

fn group(more: InitFlags) -> io::Result<Fanotify> {
    let flags =
        InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | InitFlags::FAN_UNLIMITED_QUEUE;
    Ok(Fanotify::init(flags | more, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE)?)
}

/// What was seen.
struct Log {
    programs: Fanotify,
    nodes: Vec<(String, Fanotify)>,
    /// The last program that a process started.
    started: BTreeMap<i32, PathBuf>,
    /// By process and node.
    seen: BTreeMap<(i32, String), Opener>,
}

impl Log {
    /// Ends when it is asked and nothing is queued.
    fn serve(mut self, end: &AtomicBool) -> Vec<Opener> {
        loop {
            // Before the look at the queues: what was queued until then is still taken.
            let ending = end.load(Ordering::Acquire);
            self.take();
            if ending {
                return self.named();
            }
            let groups = self.nodes.iter().map(|(_, group)| group).chain([&self.programs]);
            let mut fds: Vec<_> = groups.map(|group| PollFd::new(group.as_fd(), PollFlags::POLLIN)).collect();
            // Interrupted or not, it looks again.
            poll(&mut fds, PollTimeout::from(END_POLL_MS)).ok();
        }
    }

    fn take(&mut self) {
        let Self { programs, nodes, started, seen } = self;
        for (device, group) in nodes {
            drain(group, |event| match event {
                Ok(event) => note(seen, device, event),
                Err(error) => drop(seen.entry((0, device.clone())).or_insert_with(|| lost(device, error))),
            });
        }
        // After the nodes, for a program is started before it opens one. One that vanished before it could be looked at is told without a name.
        drain(programs, |event| {
            if let Some((pid, program)) = event.ok().and_then(|event| Some((event.pid(), program(event)?))) {
                started.insert(pid, program);
            }
        });
    }

    /// Who had ended too early to be looked at is named by the program that it started.
    fn named(self) -> Vec<Opener> {
        let Self { started, mut seen, .. } = self;
        for opener in seen.values_mut().filter(|opener| opener.program.as_os_str().is_empty()) {
            opener.program = started.get(&opener.pid).cloned().unwrap_or_default();
            if let (true, Some(name)) = (opener.name.is_empty(), opener.program.file_name()) {
                opener.name = name.to_string_lossy().into_owned();
            }
        }
        seen.into_values().collect()
    }
}

fn drain(group: &Fanotify, mut each: impl FnMut(Result<&FanotifyEvent, Errno>)) {
    loop {
        match group.read_events() {
            Ok(events) => events.iter().for_each(|event| each(Ok(event))),
            Err(Errno::EAGAIN) => return,
            Err(Errno::EINTR) => {}
            Err(error) => return each(Err(error)),
        }
    }
}

fn note(seen: &mut BTreeMap<(i32, String), Opener>, device: &str, event: &FanotifyEvent) {
    let pid = event.pid();
    let opener = seen.entry((pid, device.to_owned())).or_insert_with(|| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
        let program = fs::read_link(process.join("exe")).unwrap_or_default();
        Opener { pid, name, program, device: device.to_owned(), ..Opener::default() }
    });
    opener.read |= event.mask().contains(MaskFlags::FAN_ACCESS);
    opener.wrote |= event.mask().contains(MaskFlags::FAN_MODIFY);
}

fn lost(device: &str, error: Errno) -> Opener {
    Opener { name: format!("(events were lost: {error})"), device: device.to_owned(), ..Opener::default() }
}

/// Path of a program that is being started. Its dynamic linker is announced like a program.
fn program(event: &FanotifyEvent) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{}", event.fd()?.as_raw_fd())).ok()?;
    let linker = path.file_name()?.to_string_lossy().starts_with("ld-");
    (!linker).then_some(path)
}
