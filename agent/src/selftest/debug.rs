//! The trap disk that the kernel makes: module scsi_debug, a disk in memory that passes through the kernel's SCSI layer and udev like any
//! other. The only place of the program that opens a disk for writing, and it opens none that is not this module's.
//!
//! ```text
//! absent ─modprobe, udev held─▶ blank ─write─▶ filled ─host off─▶ hidden ─host on, udev held─▶ shown with its contents ─drop─▶ absent
//! ```
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::fcntl::OFlag;

use super::{
    command::{self, Held},
    image,
};

const MODULE: &str = "/sys/module/scsi_debug";
/// Hosts of the module lie below; a host added or removed by writing 1 or -1 (Documentation of scsi_debug, "add_host").
const DRIVER: &str = "/sys/bus/pseudo/drivers/scsi_debug";
/// How long the kernel may take to show or forget a disk in memory.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Nodes: the disk and its partitions.
const NODES: usize = 5;

/// The module, loaded by us; dropping it unloads it.
#[derive(Debug)]
pub(super) struct Debug {
    /// A host is there.
    shown: bool,
}

impl Debug {
    /// Loads the module and fills its memory; no disk is there afterwards, and udev has handled none.
    pub(super) fn fill() -> io::Result<Self> {
        if Path::new(MODULE).exists() {
            return Err(io::Error::other("scsi_debug is loaded already, by somebody else"));
        }
        // udev would load it for the first disk, and udev will be held.
        command::run("modprobe", &["sd_mod"])?;
        // Dropped after `held`: its end waits for udev.
        let mut debug = Self { shown: false };
        let held = Held::new()?;
        let size = format!("dev_size_mb={}", image::SIZE_MIB);
        // As vSphere's disks call themselves, for rules that look at it; a kernel that can't leaves it out.
        let names = ["inq_vendor=VMware", "inq_product=\"Virtual disk\""];
        command::run("modprobe", &["scsi_debug", "add_host=1", "num_tgts=1", "max_luns=1", &size, names[0], names[1]])?;
        debug.shown = true;
        let disk = wait("the trap disk", || Ok(find()?.filter(|disk| disk.node().exists())))?;
        disk.write(&image::pieces())?;
        debug.hide()?;
        drop(held);
        command::settle()?;
        Ok(debug)
    }

    /// Adds the disk; returns when all its nodes are there. udev has to be held by the caller who wants to see what it does.
    pub(super) fn show(&mut self) -> io::Result<Disk> {
        host("1")?;
        self.shown = true;
        wait("the trap disk's partitions", || {
            let disk = find()?;
            Ok(disk.filter(|disk| {
                disk.names().is_ok_and(|n| n.len() == NODES && n.iter().all(|n| Path::new("/dev").join(n).exists()))
            }))
        })
    }

    fn hide(&mut self) -> io::Result<()> {
        host("-1")?;
        wait("the end of the trap disk", || Ok(find()?.is_none().then_some(())))?;
        self.shown = false;
        Ok(())
    }
}

impl Drop for Debug {
    fn drop(&mut self) {
        if !Path::new(MODULE).exists() {
            return;
        }
        if let Ok(Some(disk)) = find() {
            disk.release();
        }
        let gone = if self.shown { self.hide().and_then(|()| command::settle()) } else { Ok(()) };
        let unloaded = gone.and_then(|()| command::run("modprobe", &["-r", "scsi_debug"]));
        if let Err(error) = unloaded {
            eprintln!(
                "scsi_debug stays loaded: {error}; see `lsblk`, release what holds the disk, then `modprobe -r scsi_debug`"
            );
        }
    }
}

fn host(change: &str) -> io::Result<()> {
    fs::write(Path::new(DRIVER).join("add_host"), change)
}

fn wait<T>(what: &str, mut there: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = there()? {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{what} did not come within {} s", PATIENCE.as_secs()),
            ));
        }
        sleep(POLL);
    }
}

/// The module's disk, told by its place below the driver.
fn find() -> io::Result<Option<Disk>> {
    let Ok(blocks) = fs::read_dir("/sys/block") else { return Ok(None) };
    for entry in blocks {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(disk) = Disk::of(&name)?.filter(Disk::is_debug) {
            return Ok(Some(disk));
        }
    }
    Ok(None)
}

/// A whole SCSI disk of this system.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) name: String,
    path: PathBuf,
}

impl Disk {
    /// `None`: no SCSI disk, or gone.
    pub(super) fn of(name: &str) -> io::Result<Option<Self>> {
        if !name.starts_with("sd") {
            return Ok(None);
        }
        match fs::canonicalize(Path::new("/sys/block").join(name)) {
            Ok(path) => Ok(Some(Self { name: name.to_owned(), path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_debug(&self) -> bool {
        // …/pseudo_0/adapter0/host3/target3:0:0/3:0:0:0/block/sdb, and the adapter is the driver's.
        let adapter = self.path.ancestors().nth(5);
        adapter
            .and_then(|path| fs::canonicalize(path.join("driver")).ok())
            .is_some_and(|driver| driver == Path::new(DRIVER))
    }

    fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Kernel names of the disk and its partitions, the disk first.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = vec![self.name.clone()];
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if self.path.join(&name).join("partition").exists() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Makes the kernel send an event of the disk and each partition again (Documentation/ABI/testing/sysfs-uevent).
    pub(super) fn event(&self, action: &str) -> io::Result<()> {
        let parts = self.names()?;
        fs::write(self.path.join("uevent"), action)?;
        parts[1..].iter().try_for_each(|part| fs::write(self.path.join(part).join("uevent"), action))
    }

    fn write(&self, pieces: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let file = open_debug(self)?;
        pieces.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))?;
        file.sync_all()
    }

    /// Ends what was made of the trap by a system that does not leave disks alone, or it could not be unloaded.
    fn release(&self) {
        let held = |name: &String| {
            fs::read_dir(self.path.join(name).join("holders")).is_ok_and(|mut holders| holders.next().is_some())
        };
        if !self.names().is_ok_and(|names| names.iter().any(held)) {
            return;
        }
        command::output("vgchange", &["-an", image::NAME]).ok();
        for name in self.names().unwrap_or_default() {
            for holder in fs::read_dir(self.path.join(name).join("holders")).into_iter().flatten().flatten() {
                command::output("mdadm", &["--stop", &format!("/dev/{}", holder.file_name().to_string_lossy())]).ok();
            }
        }
    }
}

/// The open node must be the very device that was proven to be the module's: letters are re-used.
fn open_debug(disk: &Disk) -> io::Result<File> {
    let other = || io::Error::other(format!("{} is not the trap disk any more", disk.name));
    if !disk.is_debug() {
        return Err(other());
    }
    let file =
        OpenOptions::new().write(true).custom_flags((OFlag::O_EXCL | OFlag::O_CLOEXEC).bits()).open(disk.node())?;
    let number = file.metadata()?.rdev();
    let opened = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    if fs::read_to_string(disk.path.join("dev"))?.trim() == opened && disk.is_debug() { Ok(file) } else { Err(other()) }
}
