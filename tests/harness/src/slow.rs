//! A block device with latency and parallelism, as a datastore behind a network has them: nbdkit's delay filter, made a file
//! by nbdfuse, made a read-only loop device with direct I/O. For benchmarks; needs /dev/fuse and root.
//!
//! It has a bound of its own: each of nbdfuse's connections carries one request at a time, so with eight of them eight reads are on
//! their way, of at most 1 MiB (with 16 or 32 connections about ten are: libfuse's loop has so many threads, and FUSE's `max_background` is
//! 12). Nothing can read it more than about eight times as fast as a loop of blocking reads. Who asks in 4 KiB pages has requests of 512
//! KiB, because a loop device takes 128 segments.
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{ctl::Run, process::wait_for};

/// Longest start on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Connections of nbdfuse, and threads of nbdkit: reads that are on their way at once.
const CONNECTIONS: &str = "8";
const THREADS: &str = "64";

/// A loop device over a file, freed in Drop.
#[derive(Debug)]
pub struct LoopDevice {
    pub node: PathBuf,
}

impl LoopDevice {
    /// Read-only, past the page cache.
    pub fn of(file: &Path) -> Result<Self> {
        Self::with(file, &["--read-only", "--direct-io=on"])
    }

    /// One that the kernel would let be written.
    pub fn writable(file: &Path) -> Result<Self> {
        Self::with(file, &[])
    }

    fn with(file: &Path, options: &[&str]) -> Result<Self> {
        let mut command = Command::new("losetup");
        let run = Run::of(command.args(["--find", "--show"]).args(options).arg(file))?;
        ensure!(run.code == 0, "losetup: {}", run.stderr);
        Ok(Self { node: PathBuf::from(run.stdout.trim()) })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = Command::new("losetup").arg("--detach").arg(&self.node).status() {
            eprintln!("{} was not freed: {error}", self.node.display());
        }
    }
}

/// See the module. Its parts end in this order.
#[derive(Debug)]
pub struct SlowDevice {
    device: LoopDevice,
    mount: Mount,
    _server: Ended,
}

/// A child that ends with its value.
#[derive(Debug)]
pub(crate) struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[derive(Debug)]
struct Mount {
    at: PathBuf,
    disk: PathBuf,
    _server: Ended,
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = Command::new("umount").arg("--lazy").arg(&self.at).status() {
            eprintln!("{} is still mounted: {error}", self.at.display());
        }
    }
}

impl SlowDevice {
    /// Every read of `file` takes `delay` longer; any number of them at once.
    pub fn of(dir: &Path, file: &Path, delay: Duration) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (socket, at) = (dir.join("slow.sock"), dir.join("mount"));
        let log = File::create(dir.join("slow.log"))?;
        let server = Command::new("nbdkit")
            .args([
                "--foreground",
                "--readonly",
                "--exit-with-parent",
                "--filter=delay",
                "--threads",
                THREADS,
                "--unix",
            ])
            .arg(&socket)
            .arg("file")
            .arg(file)
            .arg(format!("rdelay={}ms", delay.as_millis()))
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .spawn()
            .context("nbdkit")?;
        let server = Ended(server);
        wait_for("nbdkit listens", START, || Ok(socket.exists().then_some(())))?;
        std::fs::create_dir_all(&at)?;
        let disk = at.join("disk");
        let fuse = Command::new("nbdfuse")
            .args(["--readonly", "-C", CONNECTIONS])
            .arg(&disk)
            .arg("--unix")
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .context("nbdfuse (package libnbd-bin)")?;
        let mount = Mount { at, disk: disk.clone(), _server: Ended(fuse) };
        wait_for("nbdfuse serves", START, || Ok(disk.exists().then_some(())))?;
        Ok(Self { device: LoopDevice::of(&disk)?, mount, _server: server })
    }

    /// The file that the device shows.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.mount.disk
    }

    #[must_use]
    pub fn node(&self) -> &Path {
        &self.device.node
    }
}
