//! nbdkit on a Unix socket with one file: a server that a request may name for a disk.
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hotadd_api::v1::NbdServer;

use crate::process::wait_for;

/// Longest start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Ends with its owner.
#[derive(Debug)]
pub struct FileServer {
    child: Child,
    socket: PathBuf,
}

impl FileServer {
    /// `more`: options before the plug-in.
    pub fn start(dir: &Path, name: &str, file: &Path, more: &[&str]) -> Result<Self> {
        let socket = dir.join(format!("{name}.sock"));
        let child = Command::new("nbdkit")
            .args(["--foreground", "--readonly", "--exit-with-parent", "--unix"])
            .arg(&socket)
            .args(more)
            .arg("file")
            .arg(file)
            .stdin(Stdio::null())
            .spawn()
            .context("nbdkit")?;
        let server = Self { child, socket };
        wait_for("nbdkit listens", START, || Ok(server.socket.exists().then_some(())))?;
        Ok(server)
    }

    pub fn named(&self, device_key: i32) -> NbdServer {
        NbdServer { device_key, uri: format!("nbd+unix:///?socket={}", self.socket.display()) }
    }

    /// What agent.toml has to say to allow servers below `dir`.
    pub fn allowed(dir: &Path) -> String {
        format!("[nbd]\nallow = ['nbd+unix:///?socket={}']\n", dir.display())
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
