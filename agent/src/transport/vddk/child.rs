//! One nbdkit process: started with its password in a pipe, greeted, waited for, ended. What is done when it dies is in
//! [`super::running`].
use std::{
    fs::File,
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    fcntl::OFlag,
    sys::signal::{Signal, killpg},
    unistd::{Pid, pipe2},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::Child,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

use super::{DiskSpec, VddkSettings, command, lines::Log, nursery, place::Place};
use crate::{
    error::{Error, Result},
    reason::{self, ReasonCode},
};

/// Between two tries to connect while it starts.
const KNOCK: Duration = Duration::from_millis(25);
/// For what is at its end by itself: the last lines of a dead child, the end of a killed one.
const REST: Duration = Duration::from_secs(5);
/// nbdkit closes the disk right after the connection; once it has begun, it is not torn apart.
const CLOSING: Duration = Duration::from_millis(250);
/// NBD: magic, magic of options, then two bytes of flags (doc/proto.md, newstyle negotiation).
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT";
/// Our flags (fixed newstyle), then NBD_OPT_ABORT without data.
const GOODBYE: &[u8] = b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0";

/// What every start of one disk's nbdkit needs.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) settings: VddkSettings,
    pub(super) spec: DiskSpec,
    pub(super) password: SecretString,
    pub(super) log: Arc<Log>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Nbdkit {
    child: Child,
    pub(super) pid: u32,
    lines: JoinHandle<()>,
}

impl Recipe {
    /// Starts it and waits until it greets. A start that is given up kills its child.
    pub(super) async fn start(&self, place: &Place) -> Result<Nbdkit> {
        self.log.forget();
        let mark = self.log.errors();
        let failed = |error: io::Error| Error::new(&reason::VDK_START, "").with_source(error);
        place.clear_socket().map_err(failed)?;
        let mut command = command::program(&self.settings);
        command
            .args(command::arguments(&self.settings, &self.spec, &place.socket(), &place.config()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let parent_fd = pipe_of(&self.password).map_err(failed)?;
        command
            .fd_mappings(vec![FdMapping { parent_fd, child_fd: command::PASSWORD_FD }])
            .map_err(|error| failed(io::Error::other(error)))?;
        let program = self.settings.nbdkit_program.display().to_string();
        // A program on a file system that hangs hangs too.
        let late = || Error::new(&reason::VDK_SLOW, format!("{program} could not be started in time"));
        let spawned = timeout(self.settings.start_deadline, nursery::spawn(command)).await.map_err(|_| late())?;
        let mut child = spawned.map_err(|error| {
            let missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
            let reason = if missing { &reason::VDK_NBDKIT } else { &reason::VDK_START };
            Error::new(reason, program.clone()).with_source(error)
        })?;
        let (pid, stderr) = (child.id().unwrap_or(0), child.stderr.take());
        let log = Arc::clone(&self.log);
        let lines = tokio::spawn(async move {
            if let Some(stderr) = stderr {
                log.follow(stderr).await;
            }
        });
        let mut nbdkit = Nbdkit { child, pid, lines };
        let socket = place.socket();
        tokio::select! {
            status = nbdkit.child.wait() => {
                nbdkit.last_words().await;
                Err(self.failed(&reason::VDK_START, mark, &ended(status)))
            }
            greeted = timeout(self.settings.start_deadline, greeting(&socket)) => match greeted {
                Ok(()) => Ok(nbdkit),
                Err(_) => {
                    nbdkit.end(&socket, Duration::ZERO).await;
                    let waited = format!("not within {} s", self.settings.start_deadline.as_secs_f64());
                    Err(self.failed(&reason::VDK_SLOW, mark, &waited))
                }
            },
        }
    }

    /// With what nbdkit said after `mark`, which may tell a better reason.
    pub(super) fn failed(&self, reason: &'static ReasonCode, mark: u64, what: &str) -> Error {
        let last = self.log.last(mark).unwrap_or_else(|| "nbdkit said nothing".into());
        let reason = match () {
            () if last.contains("cannot open plugin") => &reason::VDK_PLUGIN,
            // Its own file, or one that it needs.
            () if last.contains("libvixDiskLib") || last.contains("shared object file") => &reason::VDK_LIBRARY,
            () => reason,
        };
        Error::new(reason, format!("{what}; {last}"))
    }
}

impl Nbdkit {
    /// Waits for its end and tells it.
    pub(super) async fn death(&mut self) -> String {
        let status = self.child.wait().await;
        self.last_words().await;
        ended(status)
    }

    /// SIGTERM, and SIGKILL after `patience`: VDDK's threads may hang in a connection.
    ///
    /// Not while a client is connected, as long as that is in time: told to end, nbdkit no longer closes disks and sessions of
    /// VDDK (its server/connections.c, free_connection), and vCenter would keep them until they time out.
    pub(super) async fn end(mut self, socket: &Path, patience: Duration) {
        if !patience.is_zero() {
            let left = async {
                while is_connected(socket).await {
                    sleep(KNOCK).await;
                }
                sleep(CLOSING).await;
            };
            if timeout(patience, left).await.is_err() {
                tracing::warn!(pid = self.pid, "nbdkit still serves somebody; ended all the same");
            }
        }
        self.signal(Signal::SIGTERM);
        if timeout(patience, self.child.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            if timeout(REST, self.child.wait()).await.is_err() {
                tracing::error!(pid = self.pid, "nbdkit was killed and does not end");
            }
        }
        self.last_words().await;
    }

    async fn last_words(&mut self) {
        if timeout(REST, &mut self.lines).await.is_err() {
            self.lines.abort();
        }
    }

    /// To its process group, as long as it was not waited for: then the number is somebody else's.
    fn signal(&self, signal: Signal) {
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        if let Err(error) = killpg(Pid::from_raw(pid), signal) {
            tracing::warn!(pid, %error, "nbdkit can't be signalled");
        }
    }
}

/// Whether a client's connection to this socket is open on nbdkit's side (proc(5), /proc/net/unix: state 03 is connected).
async fn is_connected(socket: &Path) -> bool {
    let table = tokio::fs::read("/proc/net/unix").await.unwrap_or_default();
    let (table, socket) = (String::from_utf8_lossy(&table), socket.to_string_lossy());
    table.lines().any(|line| line.ends_with(&*socket) && line.split_ascii_whitespace().nth(5) == Some("03"))
}

/// Given up in the middle of something: everything that it started ends with it.
impl Drop for Nbdkit {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.lines.abort();
    }
}

/// A pipe that holds the password, closed for writing: the child reads it to its end.
fn pipe_of(password: &SecretString) -> io::Result<OwnedFd> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Bounded far below what a pipe takes, see command::check.
    File::from(write).write_all(password.expose_secret().as_bytes())?;
    Ok(read)
}

fn ended(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| format!("nbdkit ended ({status})"))
}

/// Waits until somebody on `socket` greets. nbdkit listens before VDDK is initialised, and greets after.
async fn greeting(socket: &Path) {
    let mut knock = interval(KNOCK);
    loop {
        knock.tick().await;
        if let Ok(true) = greets(socket).await {
            return;
        }
    }
}

async fn greets(socket: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await?;
    // Left as the protocol wants it, or nbdkit would log an error.
    stream.write_all(GOODBYE).await?;
    let mut rest = [0; 64];
    while stream.read(&mut rest).await? > 0 {}
    Ok(greeting.starts_with(GREETING))
}
