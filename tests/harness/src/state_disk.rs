//! The disk of the agent's state behind a write-back cache that a power cut takes away: nbdkit with its cache filter. What
//! the guest flushed is in the file, what it only wrote is in the server's memory and temporary file.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{Process, Run, process::wait_for};

const START: Duration = Duration::from_secs(20);
const SIZE: &str = "64M";

/// See the module.
#[derive(Debug)]
pub struct StateDisk {
    dir: PathBuf,
    server: Option<Process>,
}

impl StateDisk {
    /// An empty ext4, served.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut disk = Self { dir: dir.to_owned(), server: None };
        let made = Run::of(
            Command::new("mke2fs").args(["-q", "-t", "ext4", "-m", "0", "-J", "size=4"]).arg(disk.file()).arg(SIZE),
        )?;
        ensure!(made.code == 0, "mke2fs: {}", made.stderr);
        disk.serve()?;
        Ok(disk)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("state.raw")
    }

    /// Where the server listens; the path is short, as a socket's has to be.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("state.sock")
    }

    /// Starts the server on what the file holds.
    pub fn serve(&mut self) -> Result<()> {
        let socket = self.socket();
        fs::remove_file(&socket).ok();
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--filter=cache", "--unix"]).arg(&socket);
        command.arg("file").arg(self.file()).env("TMPDIR", &self.dir);
        let mut server = Process::start("nbdkit", &mut command, &self.dir.join("nbdkit.log"))?;
        wait_for("nbdkit", START, || {
            server.must_live()?;
            Ok(socket.exists().then_some(()))
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// The server dies, and with it all that was not flushed.
    pub fn lose_cache(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill()?;
        }
        Ok(())
    }
}
