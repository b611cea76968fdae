//! Programs of the system that the self-test runs: udev's control, storage tools, modprobe. Paths and identifiers only are passed.
use std::{io, path::Path, process::Command};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

/// Where storage tools lie; a root shell without them in its PATH has them all the same.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Full path of a program, `None` where it is not installed.
pub(super) fn find(program: &str) -> Option<String> {
    FOLDERS.iter().map(|folder| format!("{folder}/{program}")).find(|path| Path::new(path).exists())
}

/// Runs it; what it printed, whatever its status is.
pub(super) fn output(program: &str, args: &[&str]) -> io::Result<(bool, String)> {
    let path =
        find(program).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed")))?;
    let done = Command::new(path).args(args).env("LC_ALL", "C").output()?;
    let text = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok((done.status.success(), text))
}

/// Runs it; a status other than 0 is an error.
pub(super) fn run(program: &str, args: &[&str]) -> io::Result<()> {
    match output(program, args)? {
        (true, _) => Ok(()),
        (false, text) => {
            Err(io::Error::other(format!("{program} {}: {}", args.join(" "), text.trim().replace('\n', "; "))))
        }
    }
}

/// Waits until udev has handled all events, and the programs that it started have ended.
pub(super) fn settle() -> io::Result<()> {
    run("udevadm", &["settle", "--timeout=120"])
}

/// udev takes events and handles none while this lives. Signals that would end this process meanwhile wait: udev would stay stopped.
#[derive(Debug)]
pub(super) struct Held {
    signals: SigSet,
}

impl Held {
    pub(super) fn new() -> io::Result<Self> {
        settle()?;
        let ending = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]);
        let mut signals = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ending), Some(&mut signals))?;
        let held = Self { signals };
        run("udevadm", &["control", "--stop-exec-queue"])?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = run("udevadm", &["control", "--start-exec-queue"]) {
            eprintln!("udev's queue is still stopped: {error}; run `udevadm control --start-exec-queue`");
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.signals), None).ok();
    }
}
